// Products in tiles of quantised weights: the kernel, but for the multiplication itself, which has one form
// for four-byte dot products (matmul_dot4.cc) and one for tensor cores (matmul_mma.cc).
//
// A step is 64 columns, two parts of 32. While one is multiplied in shared memory, where it lies decoded, the
// threads hold their pieces of the next.
#ifndef LODE_GPU_MATMUL_STEPS_H
#define LODE_GPU_MATMUL_STEPS_H

#include "backends/gpu/matmul_tile.h"
#include "backends/gpu/tile_codes.h"

// Which of the two the code at hand has: of an NVIDIA GPU's one, which is what a device of GPU_HAS_MMA_S8, or
// one without, is given (gpu_tiles).
#if defined LODE_GPU_CUDA && defined __CUDA_ARCH__
#define GPU_TILE_HAS_MMA (__CUDA_ARCH__ >= 800)
#define GPU_TILE_HAS_DOT4 (__CUDA_ARCH__ < 800)
#else
#define GPU_TILE_HAS_MMA true
#define GPU_TILE_HAS_DOT4 true
#endif

// ---- a step

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
    const uint8_t *panel = tile.weights; // see gpu_tile_row_offset
    if (thread >= 128)
        panel = tile.second_weights;
    gpu_tile_fetch_scales<TYPE>(fetched.scales, panel + (source.scale_row + gpu_tile_block<TYPE>(scale_part)),
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

// ---- the kernel

// OUTPUTS are those of a thread, all zeros at first, of weights of the type OUTPUTS::type:
//   add_part(step, part, n) adds the products of a part with n rows of activations, those of the tile;
//   store(work, tile) writes them.
// OUTPUTS::has_code is false in code that has no kernel of this kind. Its launch would be a fault.
template <typename OUTPUTS> GPU_KERNEL void GPU_BLOCK(GPU_TILE_BLOCK) multiply_tile(struct gpu_tile_work work)
{
    if constexpr (OUTPUTS::has_code) {
        constexpr int TYPE = OUTPUTS::type;
        GPU_SHARED(int, codes, GPU_TILE_WEIGHTS *GPU_TILE_STRIDE);
        GPU_SHARED(int, x_codes, GPU_TILE_ROWS *GPU_TILE_STRIDE);
        GPU_SHARED(float, scales, gpu_tile_size<TYPE>::scales);
        GPU_SHARED(float, minimums, gpu_tile_size<TYPE>::minimums);
        GPU_SHARED(float, x_scales, GPU_TILE_PARTS *GPU_TILE_ROW_SCALES);
        GPU_SHARED(float, x_sums, gpu_tile_size<TYPE>::x_sums);
        const struct gpu_tile_step step = {codes, x_codes, scales, minimums, x_scales, x_sums};
        const struct gpu_tile tile = gpu_tile_here(work);
        if (tile.n == 0)
            return;
        const struct gpu_tile_source source = gpu_tile_source_of(work, tile);
        const uint32_t n_parts = work.cols / 32;
        OUTPUTS outputs = {};
        struct gpu_tile_fetched<TYPE> fetched;
        gpu_tile_fetch_step<TYPE>(fetched, work, tile, source, 0, n_parts);
        for (uint32_t first = 0; first < n_parts; first += GPU_TILE_PARTS) {
            gpu_tile_put_step<TYPE>(step, fetched, first, n_parts);
            __syncthreads();
            if (first + GPU_TILE_PARTS < n_parts)
                gpu_tile_fetch_step<TYPE>(fetched, work, tile, source, first + GPU_TILE_PARTS, n_parts);
#pragma unroll 1
            for (uint32_t part = 0; part < GPU_TILE_PARTS && first + part < n_parts; part++)
                outputs.add_part(step, part, tile.n);
            __syncthreads();
        }
        outputs.store(work, tile);
    } else {
        (void)work;
#if defined LODE_GPU_CUDA
        __trap();
#endif
    }
}

// Launches it for a quantised type, with OUTPUTS<type>.
template <template <int> class OUTPUTS>
void gpu_tiles_quantised(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work)
{
    gpu_of_type(type, [&](auto of) {
        constexpr int TYPE = decltype(of)::type;
        if constexpr (gpu_type<TYPE>::quantised)
            GPU_LAUNCH((multiply_tile<OUTPUTS<TYPE>>), gpu_tile_grid(work), dim3(GPU_TILE_THREADS), stream,
                       *work);
    });
}

#endif
