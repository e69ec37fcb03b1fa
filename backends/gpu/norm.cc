// RMS norms. A wide row (the hidden state) has a block of threads, a short one (a head) a group of 32 lanes.
//
// One row is a few microseconds of latency, not of work: its values are loaded several at a time, summed in a
// fixed tree, and read again from the nearest cache to be scaled. Of many rows the bytes of x, read once from
// memory, and of out are the bound.
//
// Sums are of floats: each thread's few and a tree above them stay within a rounding or two of the true sum,
// and the root halves that.
#include "backends/gpu/kernels.h"

#include <math.h>

#define WIDE_THREADS 512
#define SHORT_COLS 512 // the widest row that a group of lanes takes
#define SHORT_ROWS 4   // of a block

namespace
{

struct norm_shape {
    size_t out_stride, x_stride;
    uint32_t n, cols;
    float eps, scale;
};

// Of the elements first, first + THREADS, ...
template <uint32_t THREADS> GPU_FN float sum_squares(const float *x, uint32_t cols, uint32_t first)
{
    float sums[4] = {0, 0, 0, 0};
    uint32_t i = first;
    for (; i + 3 * THREADS < cols; i += 4 * THREADS)
        for (uint32_t j = 0; j < 4; j++)
            sums[j] += x[i + j * THREADS] * x[i + j * THREADS];
    for (; i < cols; i += THREADS)
        sums[0] += x[i] * x[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// out may be x: a thread writes only what it reads itself.
template <uint32_t THREADS, bool ADD>
GPU_FN void scale_row(float *out, const float *x, const float *weight, const norm_shape &shape, float sum,
                      uint32_t first)
{
    const float root = sqrtf(sum / static_cast<float>(shape.cols) + shape.eps);
    const float factor = (ADD ? 1.0f : shape.scale) / root;
    for (uint32_t i = first; i < shape.cols; i += THREADS) {
        const float y = x[i] * factor * (weight ? weight[i] : 1.0f);
        out[i] = ADD ? (y + out[i]) * shape.scale : y;
    }
}

template <bool ADD>
GPU_KERNEL void GPU_BLOCK(SHORT_ROWS *GPU_LANES)
    norm_short(float *out, const float *x, const float *weight, norm_shape shape)
{
    const uint32_t row = blockIdx.x * SHORT_ROWS + threadIdx.x / GPU_LANES, lane = threadIdx.x % GPU_LANES;
    if (row < shape.n) {
        x += row * shape.x_stride;
        const float sum = gpu_lanes_sum(sum_squares<GPU_LANES>(x, shape.cols, lane));
        scale_row<GPU_LANES, ADD>(out + row * shape.out_stride, x, weight, shape, sum, lane);
    }
}

template <bool ADD>
GPU_KERNEL void GPU_BLOCK(WIDE_THREADS)
    norm_wide(float *out, const float *x, const float *weight, norm_shape shape)
{
    GPU_SHARED(float, parts, WIDE_THREADS / GPU_LANES);
    x += blockIdx.x * shape.x_stride;
    const uint32_t lane = threadIdx.x % GPU_LANES;
    const float part = gpu_lanes_sum(sum_squares<WIDE_THREADS>(x, shape.cols, threadIdx.x));
    if (lane == 0)
        parts[threadIdx.x / GPU_LANES] = part;
    __syncthreads();
    const float sum = gpu_lanes_sum(lane < WIDE_THREADS / GPU_LANES ? parts[lane] : 0.0f);
    scale_row<WIDE_THREADS, ADD>(out + blockIdx.x * shape.out_stride, x, weight, shape, sum, threadIdx.x);
}

template <bool ADD>
void launch_norm(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows x, const float *weight,
                 float eps, float scale)
{
    if (x.n == 0)
        return;
    const norm_shape shape = {out.stride, x.stride, x.n, x.cols, eps, scale};
    const float *from = x.data;
    if (x.cols <= SHORT_COLS)
        GPU_LAUNCH(norm_short<ADD>, (x.n + SHORT_ROWS - 1) / SHORT_ROWS, SHORT_ROWS * GPU_LANES,
                   queue->stream, out.data, from, weight, shape);
    else
        GPU_LAUNCH(norm_wide<ADD>, x.n, WIDE_THREADS, queue->stream, out.data, from, weight, shape);
}

} // namespace

void gpu_rms_norm(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows x,
                  const float *weight, float eps, float scale)
{
    launch_norm<false>(queue, out, x, weight, eps, scale);
}

void gpu_add_rms_norm(const struct gpu_queue *queue, struct lode_rows residual, struct lode_rows x,
                      const float *weight, float eps, float scale)
{
    launch_norm<true>(queue, residual, x, weight, eps, scale);
}
