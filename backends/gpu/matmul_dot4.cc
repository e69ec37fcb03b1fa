// Products in tiles by four-byte dot products, which every supported GPU has or can do.
//
// A thread has 8 rows of weights, 4 of each panel, by 4 of activations. It keeps the activations of a part in
// registers and lets the weights pass by: 24 reads of 16 bytes from shared memory for 256 dot products, those
// of the activations the same for 16 threads.
#include "backends/gpu/matmul_steps.h"

// The sum is to be made here. clang would put the last group's off until all rows of weights have been read,
// and keep them in registers (gfx1030, Q4_0: 186 instead of 138; gfx906 spills).
GPU_FN void make_here(int &sum)
{
#if defined LODE_GPU_HIP && defined __HIP_DEVICE_COMPILE__
    asm volatile("" : "+v"(sum));
#else
    (void)sum;
#endif
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

// The outputs of a thread: rows tx + 16 i of the panels' 128, with rows ty + 16 j of the tile.
template <int TYPE> struct gpu_tile_dot4 {
    static constexpr int type = TYPE;
    static constexpr bool has_code = GPU_TILE_HAS_DOT4;
    float sums[8][4];

    GPU_FN void add_part(const struct gpu_tile_step &step, uint32_t part, uint32_t n)
    {
        const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
        int x[4][8];
        struct gpu_tile_row_scales x_scales[4];
        // Of 16 rows each, as many as have any row.
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (16 * j < n) {
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
                if (16 * j < n) {
                    constexpr int n_dots = gpu_tile_type<TYPE>::scales, words = 8 / n_dots;
                    int dots[n_dots];
#pragma unroll
                    for (int d = 0; d < n_dots; d++) {
                        dots[d] = GPU_TILE_BIAS;
#pragma unroll
                        for (int k = 0; k < words; k++)
                            dots[d] = gpu_dot4(w[d * words + k], x[j][d * words + k], dots[d]);
                        make_here(dots[d]);
                    }
                    gpu_tile_add<TYPE>(sums[i][j], dots, scales, x_scales[j]);
                }
        }
    }

    GPU_FN void store(const struct gpu_tile_work &work, const struct gpu_tile &tile) const
    {
        const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (ty + 16 * j < tile.n)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    gpu_tile_store(work, tile, ty + 16 * j, tx + 16 * i, sums[i][j], sums[i + 4][j]);
    }
};

void gpu_tiles_dot4(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work)
{
    gpu_tiles_quantised<gpu_tile_dot4>(stream, type, work);
}
