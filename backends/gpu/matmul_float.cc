// Products in tiles with float weights, in float arithmetic: the small matrices that files keep in F32, and
// whole models in F16 or BF16 where the vendor's library is not there.
//
// A thread has 4 neighbouring rows of each panel by 4 of the activations: three reads of 16 bytes from shared
// memory for 32 multiplications and additions. Sums run over steps of 32 columns and then over the steps, so
// that the error is that of (32 + columns / 32) additions.
#include "backends/gpu/matmul_tile.h"

#define STEP 32 // columns

// Where number (k, row) of an array of [STEP][n_rows] lies. Threads write 8 columns of 4 rows and read 4 rows
// of a column at once; neither meets a bank twice.
GPU_FN uint32_t place(uint32_t n_rows, uint32_t k, uint32_t row)
{
    return k * n_rows + (row ^ 4 * (k % 8));
}

// Threads fetch column thread % 8 (+ 8, 16, 24) of row thread / 8 (+ 32, ...).
template <int TYPE>
GPU_FN void put_weights(float *weights, const struct gpu_tile_work &work, const struct gpu_tile &tile,
                        uint32_t first)
{
    const uint32_t column = threadIdx.x % 8, row = threadIdx.x / 8;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint8_t *from = (i < 2 ? tile.weights : tile.second_weights) +
                              gpu_tile_row_offset(work, tile, i / 2, row + 32 * (i % 2));
#pragma unroll
        for (uint32_t m = 0; m < STEP; m += 8) {
            const uint32_t k = m + column;
            weights[place(GPU_TILE_WEIGHTS, k, row + 32 * i)] =
                first + k < work.cols ? gpu_float_weight<TYPE>(from, first + k) : 0.0f;
        }
    }
}

GPU_FN void put_rows(float *rows, const struct gpu_tile_work &work, const float *from, const float *second,
                     uint32_t first)
{
    const uint32_t column = threadIdx.x % 8, row = threadIdx.x / 8;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
#pragma unroll
        for (uint32_t m = 0; m < STEP; m += 8) {
            const uint32_t k = m + column;
            rows[place(GPU_TILE_ROWS, k, row + 32 * i)] =
                first + k < work.cols ? (i == 0 ? from : second)[first + k] : 0.0f;
        }
}

GPU_FN void get_four(float *out, const float *from)
{
    const float4 four = *reinterpret_cast<const float4 *>(from);
    out[0] = four.x;
    out[1] = four.y;
    out[2] = four.z;
    out[3] = four.w;
}

template <int TYPE> GPU_KERNEL void GPU_BLOCK(GPU_TILE_BLOCK) matmul_float(struct gpu_tile_work work)
{
    GPU_SHARED(float, weights, STEP *GPU_TILE_WEIGHTS);
    GPU_SHARED(float, rows, STEP *GPU_TILE_ROWS);
    const struct gpu_tile tile = gpu_tile_here(work);
    if (tile.n == 0)
        return;
    const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const float *from = work.x + gpu_tile_input_row(work, tile, threadIdx.x / 8) * work.x_stride;
    const float *second = work.x + gpu_tile_input_row(work, tile, threadIdx.x / 8 + 32) * work.x_stride;
    float sums[8][4] = {};
    for (uint32_t first = 0; first < work.cols; first += STEP) {
        put_weights<TYPE>(weights, work, tile, first);
        put_rows(rows, work, from, second, first);
        __syncthreads();
        if (4 * ty < tile.n) {
            float parts[8][4] = {};
#pragma unroll 2
            for (uint32_t k = 0; k < STEP; k++) {
                float w[8], x[4];
                get_four(w, weights + place(GPU_TILE_WEIGHTS, k, 4 * tx));
                get_four(w + 4, weights + place(GPU_TILE_WEIGHTS, k, GPU_TILE_PANEL + 4 * tx));
                get_four(x, rows + place(GPU_TILE_ROWS, k, 4 * ty));
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        parts[i][j] += w[i] * x[j];
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[i][j] += parts[i][j];
        }
        __syncthreads();
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (4 * ty + j < tile.n)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                gpu_tile_store(work, tile, 4 * ty + j, 4 * tx + i, sums[i][j], sums[i + 4][j]);
}

void gpu_tiles_float(gpu_stream stream, enum lode_type type, const struct gpu_tile_work *work)
{
    gpu_of_type(type, [&](auto of) {
        constexpr int TYPE = decltype(of)::type;
        if constexpr (!gpu_type<TYPE>::quantised)
            GPU_LAUNCH(matmul_float<TYPE>, gpu_tile_grid(work), dim3(GPU_TILE_THREADS), stream, *work);
    });
}
