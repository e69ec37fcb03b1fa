// Products of many rows, in tiles: what one is, and what its kernels share.
//
// A block of 256 threads computes 128 x 64 outputs: two panels of 64 rows of weights, and 64 rows of
// activations. The panels are neighbours in one matrix, or the same rows of gate and up, so that one thread
// has the two numbers that a gated output is made of. The weights of a step of 64 columns are decoded once
// into shared memory and meet 64 rows there.
//
// Roofline: a step reads 64 x 128 weights (4.6 KiB of Q4_0) for 524288 multiplications and additions, 110 a
// byte, where an RTX 4070 has 230 of int8 (460 with tensor cores) for a byte of its memory: with several
// tiles of rows the second level cache answers for the rest, and the products are bound by instructions. So
// the next step is fetched into registers before this one is computed, decoding costs few instructions a
// weight, and a sum of 32 products becomes a float without a conversion (gpu_tile_bias).
//
// A grouped product of experts is the same with a job for the third dimension of the grid: a job has its own
// weights and its own rows, which are gathered, and scattered, through lists.
#ifndef LODE_GPU_MATMUL_TILE_H
#define LODE_GPU_MATMUL_TILE_H

#include "backends/gpu/kernels.h"
#include "backends/gpu/tile_codes.h"

#define GPU_TILE_THREADS 256
// For GPU_BLOCK: the threads, and that a multiprocessor shall have registers for two blocks.
// One where a dot product is many instructions, which have their own use for registers.
#if defined __gfx900__ || defined __gfx902__ || defined __gfx1010__
#define GPU_TILE_BLOCK GPU_TILE_THREADS
#else
#define GPU_TILE_BLOCK GPU_TILE_THREADS, 2
#endif
#define GPU_TILE_PANEL 64          // rows of weights
#define GPU_TILE_WEIGHTS 128       // of both panels
#define GPU_TILE_ROWS 64           // of activations
#define GPU_TILE_PARTS 2           // of 32 columns, of a step
#define GPU_TILE_STRIDE 20         // words between rows of codes: 16, and no bank is met twice
#define GPU_TILE_WEIGHT_SCALES 144 // floats between the scales of parts: likewise
#define GPU_TILE_ROW_SCALES 80

enum gpu_tile_result {
    GPU_TILE_STORE,     // out = both panels, side by side
    GPU_TILE_GEGLU,     // out = gelu_tanh(first panel) * second panel
    GPU_TILE_GEGLU_OUT, // out = gelu_tanh(out) * both panels: where gate and up have different types
};

// Which matrix of an expert: the order of struct gpu_expert.
enum gpu_tile_member { GPU_TILE_GATE, GPU_TILE_UP, GPU_TILE_DOWN };

struct gpu_tile_work {
    enum gpu_tile_result result;
    // Of the panels: matrices of one type and shape, the same one unless the result is GPU_TILE_GEGLU.
    const void *weights[2];
    enum gpu_tile_member members[2]; // with experts, instead of weights
    size_t row_bytes;
    uint32_t rows, cols;
    // Input and output. Quantised weights take `quantized`, others x.
    struct gpu_activations quantized;
    const float *x;
    size_t x_stride;
    float *out;
    size_t out_stride;
    // Row c of the product takes row tokens[c] (NULL: c / k) of the input and gives row slots[c] (NULL: c).
    const int32_t *tokens, *slots;
    uint32_t k;
    // Job j has rows begin[j] .. begin[j + 1] - 1, `most` at most, and experts[j]. NULL: one job, of `most`.
    const struct gpu_expert *experts;
    const uint32_t *begin;
    uint32_t n_jobs, most;
};

// Launches it with the kernel of the type and the device.
void gpu_tiles(const struct gpu_queue *queue, enum lode_type type, const struct gpu_tile_work *work);

// Of one kind of kernel each: matmul_dot4.cc, matmul_mma.cc, matmul_float.cc.
void gpu_tiles_dot4(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work);
void gpu_tiles_mma(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work);
void gpu_tiles_float(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work);

// Rows of the output that a tile has.
static inline uint32_t gpu_tile_rows(const struct gpu_tile_work *work)
{
    return work->result == GPU_TILE_GEGLU ? GPU_TILE_PANEL : GPU_TILE_WEIGHTS;
}

// Tiles of rows are next to each other in time, so that the weights are read from memory once.
static inline dim3 gpu_tile_grid(const struct gpu_tile_work *work)
{
    return dim3((work->most + GPU_TILE_ROWS - 1) / GPU_TILE_ROWS,
                (work->rows + gpu_tile_rows(work) - 1) / gpu_tile_rows(work), work->n_jobs);
}

// ---- of the kernels

// Which tile a block has: of the job's rows first .. first + n - 1 (n of 64 at most; 0: nothing to do), and
// the outputs from `row` on.
struct gpu_tile {
    const uint8_t *weights, *second_weights; // the panels' first rows
    uint32_t first, n, row, second_row;      // where in the output the second panel is
};

static_assert(sizeof(struct gpu_expert) == 3 * sizeof(void *), "gate, up and down");

GPU_FN const uint8_t *gpu_tile_panel(const struct gpu_tile_work &work, uint32_t job, const void *weights,
                                     enum gpu_tile_member member, uint32_t row)
{
    if (work.experts)
        weights = reinterpret_cast<const void *const *>(work.experts + job)[member];
    return static_cast<const uint8_t *>(weights) + (row < work.rows ? row : work.rows - 1) * work.row_bytes;
}

GPU_FN struct gpu_tile gpu_tile_here(const struct gpu_tile_work &work)
{
    struct gpu_tile tile;
    const uint32_t job = blockIdx.z, begin = work.begin ? work.begin[job] : 0;
    const uint32_t n = work.begin ? work.begin[job + 1] - begin : work.most;
    const uint32_t skipped = blockIdx.x * GPU_TILE_ROWS;
    tile.first = begin + skipped;
    tile.n = skipped >= n ? 0 : n - skipped < GPU_TILE_ROWS ? n - skipped : GPU_TILE_ROWS;
    const bool gated = work.result == GPU_TILE_GEGLU;
    tile.row = blockIdx.y * (gated ? GPU_TILE_PANEL : GPU_TILE_WEIGHTS);
    tile.second_row = tile.row + (gated ? 0 : GPU_TILE_PANEL);
    tile.weights = gpu_tile_panel(work, job, work.weights[0], work.members[0], tile.row);
    tile.second_weights = gpu_tile_panel(work, job, work.weights[1], work.members[1], tile.second_row);
    return tile;
}

// Where row r of a panel starts, from the panel's first: beyond the matrix its last row, whose products are
// not stored. A panel's rows are less than 4 GiB.
GPU_FN uint32_t gpu_tile_row_offset(const struct gpu_tile_work &work, const struct gpu_tile &tile,
                                    uint32_t panel, uint32_t r)
{
    const uint32_t first = panel ? tile.second_row : tile.row;
    const uint32_t last = first < work.rows ? work.rows - 1 - first : 0;
    return (r < last ? r : last) * static_cast<uint32_t>(work.row_bytes);
}

// The row of the input that row i of the tile takes; beyond n the last one.
GPU_FN uint32_t gpu_tile_input_row(const struct gpu_tile_work &work, const struct gpu_tile &tile, uint32_t i)
{
    const uint32_t c = tile.first + (i < tile.n ? i : tile.n - 1);
    return work.tokens ? static_cast<uint32_t>(work.tokens[c]) : c / work.k;
}

// x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
GPU_FN float gpu_tile_gelu_tanh(float x)
{
    const float slope = x * x * -0.07135481627f - 1.59576912161f;
    return x / (1.0f + expf(x * slope));
}

// Gives row i of the tile its outputs number `row` of both panels.
GPU_FN void gpu_tile_store(const struct gpu_tile_work &work, const struct gpu_tile &tile, uint32_t i,
                           uint32_t row, float first, float second)
{
    const uint32_t c = tile.first + i;
    float *out = work.out + (work.slots ? static_cast<uint32_t>(work.slots[c]) : c) * work.out_stride;
    const uint32_t a = tile.row + row, b = tile.second_row + row;
    if (work.result == GPU_TILE_GEGLU) {
        if (a < work.rows)
            out[a] = gpu_tile_gelu_tanh(first) * second;
        return;
    }
    const bool gates = work.result == GPU_TILE_GEGLU_OUT;
    if (a < work.rows)
        out[a] = gates ? gpu_tile_gelu_tanh(out[a]) * first : first;
    if (b < work.rows)
        out[b] = gates ? gpu_tile_gelu_tanh(out[b]) * second : second;
}

// ---- steps of quantised products

// A step in shared memory. Row r of codes is 16 words in the order of the columns, GPU_TILE_STRIDE apart;
// scales [half][part][row].
struct gpu_tile_step {
    int *codes, *x_codes;
    float *scales, *minimums;
    float *x_scales; // [part][row]
    float *x_sums;   // [half][part][row], times the scale
};

// Floats of a step's arrays.
template <int TYPE> struct gpu_tile_size {
    static constexpr unsigned scales = gpu_tile_type<TYPE>::scales * GPU_TILE_PARTS * GPU_TILE_WEIGHT_SCALES,
                              minimums = gpu_tile_type<TYPE>::minimums
                                             ? gpu_tile_type<TYPE>::minimums * GPU_TILE_PARTS *
                                                   GPU_TILE_WEIGHT_SCALES
                                             : 1,
                              x_sums =
                                  gpu_tile_type<TYPE>::minimums
                                      ? gpu_tile_type<TYPE>::minimums * GPU_TILE_PARTS * GPU_TILE_ROW_SCALES
                                      : 1;
};

// What a thread has fetched of the next step. Rows: of piece i, row thread / 8 + 32 i of the weights; of
// their scales, row thread / 2; of the codes of activations, row thread / 4; of their scales, row thread / 2.
template <int TYPE> struct gpu_tile_fetched {
    uint32_t codes[4][gpu_tile_type<TYPE>::words];
    uint32_t scales[gpu_tile_type<TYPE>::scale_words];
    uint4 x_codes;
    float x_scale;
    int32_t x_sums;
};

// Where it fetches from: bytes from the panels' first rows, and the same for the scales.
struct gpu_tile_source {
    uint32_t rows[4], scale_row;
    const int8_t *x_codes;
    size_t x_scales; // of the array
};

GPU_FN struct gpu_tile_source gpu_tile_source_of(const struct gpu_tile_work &work,
                                                 const struct gpu_tile &tile)
{
    struct gpu_tile_source source;
    const uint32_t thread = threadIdx.x, blocks = work.quantized.blocks;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        source.rows[i] = gpu_tile_row_offset(work, tile, i / 2, thread / 8 + 32 * (i % 2));
    source.scale_row = gpu_tile_row_offset(work, tile, thread / 128, thread / 2 % 64);
    source.x_codes =
        work.quantized.codes + static_cast<size_t>(gpu_tile_input_row(work, tile, thread / 4)) * blocks * 32;
    // Threads 128.. have no scale to fetch, and read one that is there.
    source.x_scales = static_cast<size_t>(gpu_tile_input_row(work, tile, thread / 2 % 64)) * blocks;
    return source;
}

// Bytes from the start of a row to the block of a part.
template <int TYPE> GPU_FN uint32_t gpu_tile_block(uint32_t part)
{
    return part / (gpu_type<TYPE>::block_elems / 32) * gpu_type<TYPE>::block_bytes;
}

template <int TYPE> GPU_FN uint32_t gpu_tile_part_of_block(uint32_t part)
{
    return part % (gpu_type<TYPE>::block_elems / 32);
}

// Parts first and first + 1; beyond the last of n_parts the last, which is not computed with.
template <int TYPE>
GPU_FN void gpu_tile_fetch_step(struct gpu_tile_fetched<TYPE> &fetched, const struct gpu_tile_work &work,
                                const struct gpu_tile &tile, const struct gpu_tile_source &source,
                                uint32_t first, uint32_t n_parts)
{
    using type = gpu_tile_type<TYPE>;
    const uint32_t thread = threadIdx.x, piece = thread % 8, second = first + 1 < n_parts ? 1 : 0;
    const uint32_t part = first + (type::pairs || piece < 4 ? 0 : second);
#pragma unroll
    for (int i = 0; i < 4; i++)
        gpu_tile_fetch<TYPE>(fetched.codes[i],
                             (i < 2 ? tile.weights : tile.second_weights) +
                                 (source.rows[i] + gpu_tile_block<TYPE>(part)),
                             gpu_tile_part_of_block<TYPE>(part), type::pairs ? piece : piece % 4);
    const uint32_t scale_part = first + (thread % 2 ? second : 0);
    gpu_tile_fetch_scales<TYPE>(fetched.scales,
                                (thread < 128 ? tile.weights : tile.second_weights) +
                                    (source.scale_row + gpu_tile_block<TYPE>(scale_part)),
                                gpu_tile_part_of_block<TYPE>(scale_part));
    const uint32_t x_part = first + (thread % 4 < 2 ? 0 : second);
    fetched.x_codes = *reinterpret_cast<const uint4 *>(source.x_codes + 32 * x_part + 16 * (thread % 2));
    fetched.x_scale = work.quantized.scales[source.x_scales + scale_part];
    if constexpr (type::minimums != 0)
        fetched.x_sums = work.quantized.sums[source.x_scales + scale_part];
}

// Decodes them into shared memory.
template <int TYPE>
GPU_FN void gpu_tile_put_step(const struct gpu_tile_step &step, const struct gpu_tile_fetched<TYPE> &fetched,
                              uint32_t first, uint32_t n_parts)
{
    using type = gpu_tile_type<TYPE>;
    const uint32_t thread = threadIdx.x, piece = thread % 8, second = first + 1 < n_parts ? 1 : 0;
    const uint32_t part = first + (type::pairs || piece < 4 ? 0 : second);
    const uint32_t at = type::pairs ? piece : piece / 4 * 8 + piece % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t a, b;
        gpu_tile_decode<TYPE>(&a, &b, fetched.codes[i], gpu_tile_part_of_block<TYPE>(part),
                              type::pairs ? piece : piece % 4);
        int *row = step.codes + (thread / 8 + 32 * i) * GPU_TILE_STRIDE + at;
        row[0] = static_cast<int>(a);
        row[type::pairs ? 8 : 4] = static_cast<int>(b);
    }
    const uint32_t scale_part = first + (thread % 2 ? second : 0);
    float scales[2], minimums[2];
    gpu_tile_decode_scales<TYPE>(scales, minimums, fetched.scales, gpu_tile_part_of_block<TYPE>(scale_part));
#pragma unroll
    for (int half = 0; half < type::scales; half++)
        step.scales[(2 * half + thread % 2) * GPU_TILE_WEIGHT_SCALES + thread / 2] = scales[half];
#pragma unroll
    for (int half = 0; half < type::minimums; half++)
        step.minimums[(2 * half + thread % 2) * GPU_TILE_WEIGHT_SCALES + thread / 2] = minimums[half];
    *reinterpret_cast<uint4 *>(step.x_codes + thread / 4 * GPU_TILE_STRIDE + thread % 4 * 4) =
        fetched.x_codes;
    if (thread < 2 * GPU_TILE_ROWS) {
        step.x_scales[thread % 2 * GPU_TILE_ROW_SCALES + thread / 2] = fetched.x_scale;
        if constexpr (type::minimums != 0) {
            const int low = static_cast<int16_t>(fetched.x_sums), high = fetched.x_sums >> 16;
            float *sums = step.x_sums + thread % 2 * GPU_TILE_ROW_SCALES + thread / 2;
            if constexpr (type::minimums == 1) {
                sums[0] = fetched.x_scale * static_cast<float>(low + high);
            } else {
                sums[0] = fetched.x_scale * static_cast<float>(low);
                sums[2 * GPU_TILE_ROW_SCALES] = fetched.x_scale * static_cast<float>(high);
            }
        }
    }
}

// A sum of up to 32 products of bytes, at most 520192, that starts here, as bits, is 1.5 * 2^23 + the sum as
// a float: taking the former off gives the sum, exactly.
#define GPU_TILE_BIAS 0x4b400000

GPU_FN float gpu_tile_sum(int biased)
{
    return gpu_tile_float(static_cast<uint32_t>(biased)) - 12582912.0f;
}

// Scales and minimums of a row of weights in a part, and of one of activations.
template <int TYPE> struct gpu_tile_weight_scales {
    float scales[2], minimums[2];
};
struct gpu_tile_row_scales {
    float scale, sums[2];
};

template <int TYPE>
GPU_FN void gpu_tile_get_scales(struct gpu_tile_weight_scales<TYPE> &out, const struct gpu_tile_step &step,
                                uint32_t part, uint32_t row)
{
#pragma unroll
    for (int half = 0; half < gpu_tile_type<TYPE>::scales; half++)
        out.scales[half] = step.scales[(2 * half + part) * GPU_TILE_WEIGHT_SCALES + row];
#pragma unroll
    for (int half = 0; half < gpu_tile_type<TYPE>::minimums; half++)
        out.minimums[half] = step.minimums[(2 * half + part) * GPU_TILE_WEIGHT_SCALES + row];
}

template <int TYPE>
GPU_FN void gpu_tile_get_row_scales(struct gpu_tile_row_scales &out, const struct gpu_tile_step &step,
                                    uint32_t part, uint32_t row)
{
    out.scale = step.x_scales[part * GPU_TILE_ROW_SCALES + row];
#pragma unroll
    for (int half = 0; half < gpu_tile_type<TYPE>::minimums; half++)
        out.sums[half] = step.x_sums[(2 * half + part) * GPU_TILE_ROW_SCALES + row];
}

// Adds a part to an output. dots: biased sums over the part, or over each half of it where those have scales
// of their own. Both kinds of kernel add in this order, so they give the same bits.
template <int TYPE>
GPU_FN void gpu_tile_add(float &out, const int *dots, const struct gpu_tile_weight_scales<TYPE> &weight,
                         const struct gpu_tile_row_scales &row)
{
    using type = gpu_tile_type<TYPE>;
    if constexpr (type::scales == 1) {
        out += gpu_tile_sum(dots[0]) * (weight.scales[0] * row.scale);
    } else {
        const float sum = gpu_tile_sum(dots[0]) * weight.scales[0] + gpu_tile_sum(dots[1]) * weight.scales[1];
        out += sum * row.scale;
    }
    if constexpr (type::minimums == 1)
        out += weight.minimums[0] * row.sums[0];
    else if constexpr (type::minimums == 2)
        out += weight.minimums[0] * row.sums[0] + weight.minimums[1] * row.sums[1];
}

#endif
