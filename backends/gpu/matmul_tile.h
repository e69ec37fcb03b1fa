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
#include "backends/gpu/of_type.h"
#include "backends/gpu/unpack.h"

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
    return gpu_global(weights) + (row < work.rows ? row : work.rows - 1) * work.row_bytes;
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
    // Not by `panel ? a : b`: clang may choose between addresses, and keep both in scratch memory.
    uint32_t first = tile.row;
    if (panel)
        first = tile.second_row;
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
    if (work.result == GPU_TILE_STORE) {
        if (a < work.rows)
            out[a] = first;
        if (b < work.rows)
            out[b] = second;
        return;
    }
    // One place for both kinds of gates: a kernel has this function 16 times.
    const bool of_panels = work.result == GPU_TILE_GEGLU;
    if (a < work.rows) {
        float gate = first, up = second;
        if (!of_panels) {
            gate = out[a];
            up = first;
        }
        out[a] = gpu_tile_gelu_tanh(gate) * up;
    }
    if (!of_panels && b < work.rows)
        out[b] = gpu_tile_gelu_tanh(out[b]) * second;
}

#endif
