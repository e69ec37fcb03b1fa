// Products in tiles by int8 tensor cores: an instruction of a warp multiplies 16 rows of weights with 8 of
// activations over a part of 32 columns.
//
// A warp has 16 rows of each panel by 32 of the activations, which are four groups of 8, every other of the
// tile's: where few are there, both halves of the block share them. Its threads hold the accumulators as the
// instruction gives them out: rows g and g + 8, columns 2 t and 2 t + 1, with g = lane / 4 and t = lane % 4.
// Where each 16 columns have scales of their own the part is multiplied in two instructions, with zeros for
// the other half of the weights.
#include "backends/gpu/matmul_steps.h"

#if defined LODE_GPU_HIP

void gpu_tiles_mma(gpu_stream, enum lode_type, const struct gpu_tile_work *) {}

#else

// Panels whose scales a thread holds at a time: both, but for types that have many.
template <int TYPE> struct panels_at_once {
    static constexpr uint32_t n = gpu_tile_type<TYPE>::scales == 2 ? 1 : 2;
};

// The outputs of a thread: sums[panel][group of rows][i], i as the instruction has them.
template <int TYPE> struct gpu_tile_mma {
    static constexpr int type = TYPE;
    static constexpr bool has_code = GPU_TILE_HAS_MMA;
    float sums[2][4][4];

    GPU_FN void add_panels(const struct gpu_tile_step &step, uint32_t part, uint32_t n, uint32_t first_panel)
    {
        constexpr uint32_t n_panels = panels_at_once<TYPE>::n;
        constexpr int n_dots = gpu_tile_type<TYPE>::scales;
        const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        int weights[n_panels][4];
        struct gpu_tile_weight_scales<TYPE> scales[n_panels][2];
#pragma unroll
        for (uint32_t p = 0; p < n_panels; p++) {
            const uint32_t row = (first_panel + p) * GPU_TILE_PANEL + warp % 4 * 16 + g;
            const int *upper = step.codes + row * GPU_TILE_STRIDE + 8 * part + t,
                      *lower = upper + 8 * GPU_TILE_STRIDE;
            weights[p][0] = upper[0];
            weights[p][1] = lower[0];
            weights[p][2] = upper[4];
            weights[p][3] = lower[4];
            gpu_tile_get_scales<TYPE>(scales[p][0], step, part, row);
            gpu_tile_get_scales<TYPE>(scales[p][1], step, part, row + 8);
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t first = (2 * j + warp / 4) * 8;
            if (first >= n)
                break; // the whole warp
            const int *codes = step.x_codes + (first + g) * GPU_TILE_STRIDE + 8 * part + t;
            const int x[2] = {codes[0], codes[4]};
            struct gpu_tile_row_scales x_scales[2];
            gpu_tile_get_row_scales<TYPE>(x_scales[0], step, part, first + 2 * t);
            gpu_tile_get_row_scales<TYPE>(x_scales[1], step, part, first + 2 * t + 1);
#pragma unroll
            for (uint32_t p = 0; p < n_panels; p++) {
                int dots[n_dots][4];
#pragma unroll
                for (int d = 0; d < n_dots; d++) {
                    const int *w = weights[p];
                    const int half[4] = {d == 0 ? w[0] : 0, d == 0 ? w[1] : 0, d == n_dots - 1 ? w[2] : 0,
                                         d == n_dots - 1 ? w[3] : 0};
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        dots[d][i] = GPU_TILE_BIAS;
                    gpu_mma_s8_16x8x32(dots[d], half, x);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int both[2] = {dots[0][i], dots[n_dots - 1][i]};
                    gpu_tile_add<TYPE>(sums[first_panel + p][j][i], both, scales[p][i / 2], x_scales[i % 2]);
                }
            }
        }
    }

    GPU_FN void add_part(const struct gpu_tile_step &step, uint32_t part, uint32_t n)
    {
#pragma unroll
        for (uint32_t panel = 0; panel < 2; panel += panels_at_once<TYPE>::n)
            add_panels(step, part, n, panel);
    }

    GPU_FN void store(const struct gpu_tile_work &work, const struct gpu_tile &tile) const
    {
        const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t row = (2 * j + warp / 4) * 8 + 2 * t + i % 2;
                if (row < tile.n)
                    gpu_tile_store(work, tile, row, warp % 4 * 16 + g + 8 * (i / 2), sums[0][j][i],
                                   sums[1][j][i]);
            }
    }
};

void gpu_tiles_mma(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work)
{
    gpu_tiles_quantised<gpu_tile_mma>(stream, type, work);
}

#endif
