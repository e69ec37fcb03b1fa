// The router of a mixture of experts, and the sum of what the experts returned.
//
// Routing is latency alone. Each logit's place is counted: how many are larger, or equal with a lower id.
// That takes every logit past every other, 128 * 128 comparisons in a block of 128 threads, but no rounds
// that wait for each other, and costs the same for the 8 largest and for all in order.
//
// The sum reads the chosen experts' rows once and writes one: bytes alone.
#include "backends/gpu/gpu_math.h"
#include "backends/gpu/kernels.h"

#include <math.h>

// The least sum of the chosen probabilities that is divided by: 2^-14, as the reference implementation has
// it.
#define LEAST_CHOSEN_SUM (1.0f / 16384)
#define ROUTER_THREADS 128
#define KEYS 1024 // that pass at a time

#define COMBINE_THREADS 256

namespace
{

struct router_shape {
    size_t stride;
    uint32_t cols, k;
};

// An integer that is ordered as the logits are, zeros alike; a NaN, so that every place is taken, comes last.
GPU_FN uint32_t key_of(float logit)
{
    const uint32_t bits = gpu_float_bits(logit + 0.0f);
    if (!(logit == logit))
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

GPU_FN float larger(float a, float b)
{
    return a > b ? a : b;
}

// Over the block; all threads have the result. `parts` is used again only after another __syncthreads.
GPU_FN float block_sum(float *parts, float value)
{
    const uint32_t lane = threadIdx.x % GPU_LANES;
    value = gpu_lanes_sum(value);
    if (lane == 0)
        parts[threadIdx.x / GPU_LANES] = value;
    __syncthreads();
    return gpu_lanes_sum(lane < ROUTER_THREADS / GPU_LANES ? parts[lane] : 0.0f);
}

GPU_FN float block_max(float *parts, float value)
{
    const uint32_t lane = threadIdx.x % GPU_LANES;
    value = gpu_lanes_max(value);
    if (lane == 0)
        parts[threadIdx.x / GPU_LANES] = value;
    __syncthreads();
    return gpu_lanes_max(parts[lane % (ROUTER_THREADS / GPU_LANES)]);
}

// How many of n keys, of the ids `first` and following, come before the key of an id.
GPU_FN uint32_t count_before(const uint32_t *keys, uint32_t n, uint32_t first, uint32_t key, uint32_t id)
{
    uint32_t before = 0;
    for (uint32_t j = 0; j < n; j++)
        before += keys[j] > key || (keys[j] == key && first + j < id);
    return before;
}

// Block x is of row x.
GPU_KERNEL void GPU_BLOCK(ROUTER_THREADS)
    route(int32_t *ids, float *weights, const float *logits, const float *expert_scale, router_shape shape)
{
    GPU_SHARED(uint32_t, keys, KEYS);
    GPU_SHARED(float, max_parts, ROUTER_THREADS / GPU_LANES);
    GPU_SHARED(float, all_parts, ROUTER_THREADS / GPU_LANES);
    GPU_SHARED(float, chosen_parts, ROUTER_THREADS / GPU_LANES);
    logits += blockIdx.x * shape.stride;
    ids += static_cast<size_t>(blockIdx.x) * shape.k;
    weights += static_cast<size_t>(blockIdx.x) * shape.k;

    float max = -INFINITY, all = 0, chosen = 0;
    for (uint32_t id = threadIdx.x; id < shape.cols; id += ROUTER_THREADS)
        max = larger(max, logits[id]);
    max = block_max(max_parts, max);
    for (uint32_t id = threadIdx.x; id < shape.cols; id += ROUTER_THREADS)
        all += gpu_exp(logits[id] - max);
    all = block_sum(all_parts, all);

    for (uint32_t begin = 0; begin < shape.cols; begin += ROUTER_THREADS) {
        const uint32_t id = begin + threadIdx.x;
        const float logit = id < shape.cols ? logits[id] : 0.0f;
        const uint32_t key = key_of(logit);
        uint32_t place = id < shape.cols ? 0 : shape.k;
        for (uint32_t first = 0; first < shape.cols; first += KEYS) {
            const uint32_t left = shape.cols - first, n = left < KEYS ? left : KEYS;
            __syncthreads();
            for (uint32_t j = threadIdx.x; j < n; j += ROUTER_THREADS)
                keys[j] = key_of(logits[first + j]);
            __syncthreads();
            if (place < shape.k)
                place += count_before(keys, n, first, key, id);
        }
        if (place < shape.k) {
            ids[place] = static_cast<int32_t>(id);
            weights[place] = gpu_exp(logit - max);
            chosen += weights[place];
        }
    }
    chosen = block_sum(chosen_parts, chosen); // and what the block has written is seen
    const float divisor = larger(chosen, all * LEAST_CHOSEN_SUM);
    for (uint32_t r = threadIdx.x; r < shape.k; r += ROUTER_THREADS)
        weights[r] = weights[r] / divisor * (expert_scale ? expert_scale[ids[r]] : 1.0f);
}

struct combine_shape {
    size_t out_stride, slots_stride;
    uint32_t cols, k;
};

// Block x is of row x, block y of COMBINE_THREADS columns. Weights are the same for all threads, so that none
// waits where one is 0.
GPU_KERNEL void GPU_BLOCK(COMBINE_THREADS)
    combine(float *out, const float *slots, const float *weights, combine_shape shape)
{
    const uint32_t col = blockIdx.y * COMBINE_THREADS + threadIdx.x;
    if (col < shape.cols) {
        const size_t first = static_cast<size_t>(blockIdx.x) * shape.k;
        const float *slot = slots + first * shape.slots_stride + col;
        float sum = 0;
#pragma unroll 4
        for (uint32_t r = 0; r < shape.k; r++, slot += shape.slots_stride) {
            const float weight = weights[first + r];
            sum += weight * (weight != 0 ? *slot : 0.0f);
        }
        out[blockIdx.x * shape.out_stride + col] = sum;
    }
}

} // namespace

void gpu_router(const struct gpu_queue *queue, int32_t *ids, float *weights, struct lode_rows logits,
                uint32_t k, const float *expert_scale)
{
    if (logits.n == 0)
        return;
    const router_shape shape = {logits.stride, logits.cols, k};
    const float *from = logits.data;
    GPU_LAUNCH(route, logits.n, ROUTER_THREADS, queue->stream, ids, weights, from, expert_scale, shape);
}

void gpu_experts_combine(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows slots,
                         const float *weights, uint32_t k)
{
    if (out.n == 0)
        return;
    const combine_shape shape = {out.stride, slots.stride, out.cols, k};
    const float *from = slots.data;
    const dim3 grid(out.n, (out.cols + COMBINE_THREADS - 1) / COMBINE_THREADS);
    GPU_LAUNCH(combine, grid, COMBINE_THREADS, queue->stream, out.data, from, weights, shape);
}
