// Products in tiles by four-byte dot products, which every supported GPU has or can do.
//
// A thread has 8 rows of weights, 4 of each panel, by 4 of activations. It keeps the activations of a part in
// registers and lets the weights pass by: 24 reads of 16 bytes from shared memory for 256 dot products, those
// of the activations the same for 16 threads.
#include "backends/gpu/matmul_tile.h"

// Where a dot product is many instructions the compiler would take the codes apart ahead of their use, for
// which no GPU has registers: what is taken apart here looks new each time.
GPU_FN int dot4(int a, int b, int c)
{
#if defined __gfx900__ || defined __gfx902__ || defined __gfx1010__
    asm("" : "+v"(a), "+v"(b));
#endif
    return gpu_dot4(a, b, c);
}

// 16 codes, of 16 bytes in shared memory.
GPU_FN void get_codes(int *out, const int *from)
{
    const int4 codes = *reinterpret_cast<const int4 *>(from);
    out[0] = codes.x;
    out[1] = codes.y;
    out[2] = codes.z;
    out[3] = codes.w;
}

// n_groups: of 16 rows of the tile that have any row.
template <int TYPE>
GPU_FN void add_part(float (&sums)[8][4], const struct gpu_tile_step &step, uint32_t part, uint32_t n_groups)
{
    const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    int x[4][8];
    struct gpu_tile_row_scales x_scales[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (j < n_groups) {
            const uint32_t row = ty + 16 * j;
            get_codes(x[j], step.x_codes + row * GPU_TILE_STRIDE + 8 * part);
            get_codes(x[j] + 4, step.x_codes + row * GPU_TILE_STRIDE + 8 * part + 4);
            gpu_tile_get_row_scales<TYPE>(x_scales[j], step, part, row);
        }
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t row = i / 4 * GPU_TILE_PANEL + tx + 16 * (i % 4);
        int w[8];
        struct gpu_tile_weight_scales<TYPE> scales;
        get_codes(w, step.codes + row * GPU_TILE_STRIDE + 8 * part);
        get_codes(w + 4, step.codes + row * GPU_TILE_STRIDE + 8 * part + 4);
        gpu_tile_get_scales<TYPE>(scales, step, part, row);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (j < n_groups) {
                constexpr int n_dots = gpu_tile_type<TYPE>::scales, words = 8 / n_dots;
                int dots[n_dots];
#pragma unroll
                for (int d = 0; d < n_dots; d++) {
                    dots[d] = GPU_TILE_BIAS;
#pragma unroll
                    for (int k = 0; k < words; k++)
                        dots[d] = dot4(w[d * words + k], x[j][d * words + k], dots[d]);
                }
                gpu_tile_add<TYPE>(sums[i][j], dots, scales, x_scales[j]);
            }
    }
}

template <int TYPE> GPU_KERNEL void GPU_BLOCK(GPU_TILE_BLOCK) matmul_dot4(struct gpu_tile_work work)
{
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
    const uint32_t n_parts = work.cols / 32, n_groups = (tile.n + 15) / 16;
    float sums[8][4] = {};
    struct gpu_tile_fetched<TYPE> fetched;
    gpu_tile_fetch_step<TYPE>(fetched, work, tile, source, 0, n_parts);
    for (uint32_t first = 0; first < n_parts; first += GPU_TILE_PARTS) {
        gpu_tile_put_step<TYPE>(step, fetched, first, n_parts);
        __syncthreads();
        if (first + GPU_TILE_PARTS < n_parts)
            gpu_tile_fetch_step<TYPE>(fetched, work, tile, source, first + GPU_TILE_PARTS, n_parts);
#pragma unroll 1
        for (uint32_t part = 0; part < GPU_TILE_PARTS && first + part < n_parts; part++)
            add_part<TYPE>(sums, step, part, n_groups);
        __syncthreads();
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (threadIdx.x / 16 + 16 * j < tile.n)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                gpu_tile_store(work, tile, threadIdx.x / 16 + 16 * j, threadIdx.x % 16 + 16 * i, sums[i][j],
                               sums[i + 4][j]);
}

template <int TYPE> static void launch(gpu_stream stream, const struct gpu_tile_work *work)
{
    GPU_LAUNCH(matmul_dot4<TYPE>, gpu_tile_grid(work), dim3(GPU_TILE_THREADS), stream, *work);
}

void gpu_tiles_dot4(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work)
{
    switch (type) {
    case LODE_Q4_0:
        return launch<LODE_Q4_0>(stream, work);
    case LODE_Q4_1:
        return launch<LODE_Q4_1>(stream, work);
    case LODE_Q5_0:
        return launch<LODE_Q5_0>(stream, work);
    case LODE_Q5_1:
        return launch<LODE_Q5_1>(stream, work);
    case LODE_Q8_0:
        return launch<LODE_Q8_0>(stream, work);
    case LODE_Q2_K:
        return launch<LODE_Q2_K>(stream, work);
    case LODE_Q3_K:
        return launch<LODE_Q3_K>(stream, work);
    case LODE_Q4_K:
        return launch<LODE_Q4_K>(stream, work);
    case LODE_Q5_K:
        return launch<LODE_Q5_K>(stream, work);
    case LODE_Q6_K:
        return launch<LODE_Q6_K>(stream, work);
    case LODE_IQ4_NL:
        return launch<LODE_IQ4_NL>(stream, work);
    case LODE_IQ4_XS:
        return launch<LODE_IQ4_XS>(stream, work);
    case LODE_MXFP4:
        return launch<LODE_MXFP4>(stream, work);
    default:
        return; // float weights are matmul_float.cc's
    }
}
