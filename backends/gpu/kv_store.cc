// Puts new rows of K and V into the cache, in its format: a thread a value, bytes alone. The 32 values of a
// block of Q8_0 are a group's 32 lanes.
#include "backends/gpu/gpu_math.h"
#include "backends/gpu/kernels.h"
#include "backends/gpu/kv_cache.h"

#define THREADS 256

namespace
{

struct store_shape {
    size_t k_stride, v_stride;
    uint32_t cols, head_size, capacity;
    uint32_t first_position, first_row;
};

GPU_FN float larger(float a, float b)
{
    return a > b ? a : b;
}

// Quantises with the scale as it is stored, so that its rounding to half costs nothing; the same bits as
// kv_pack_q8_0 of backends/cpu/vector_attention.h.
GPU_FN void store_q8_0(struct gpu_kv_q8_0 *block, float x, uint32_t lane)
{
    const uint16_t scale_bits = gpu_float_to_half(gpu_lanes_max(fabsf(x)) / 127.0f);
    const float scale = gpu_half_to_float(scale_bits);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    float value = larger(x * inverse, -127.0f);
    value = value < 127.0f ? value : 127.0f;
    block->values[lane] = static_cast<int8_t>((value + GPU_ROUND_SHIFT) - GPU_ROUND_SHIFT);
    if (lane == 0)
        block->scale = scale_bits;
}

// Block x is of row first_row + x, block y of THREADS columns, block z of K (0) or V (1).
template <enum lode_kv_format FORMAT>
GPU_KERNEL void GPU_BLOCK(THREADS)
    store(void *k, void *v, const float *k_rows, const float *v_rows, store_shape shape)
{
    const uint32_t row = shape.first_row + blockIdx.x, col = blockIdx.y * THREADS + threadIdx.x;
    if (col < shape.cols) { // a multiple of 32: a group of lanes is within it or not
        const float x = blockIdx.z ? v_rows[row * shape.v_stride + col] : k_rows[row * shape.k_stride + col];
        const uint32_t head = col / shape.head_size, at = col % shape.head_size;
        const uint32_t slot = (shape.first_position + row) % shape.capacity;
        char *out =
            static_cast<char *>(blockIdx.z ? v : k) +
            (static_cast<size_t>(head) * shape.capacity + slot) * gpu_kv_row_bytes<FORMAT>(shape.head_size);
        if (FORMAT == LODE_CACHE_F16)
            reinterpret_cast<uint16_t *>(out)[at] = gpu_float_to_half(x);
        else if (FORMAT == LODE_CACHE_F32)
            reinterpret_cast<float *>(out)[at] = x;
        else
            store_q8_0(reinterpret_cast<struct gpu_kv_q8_0 *>(out) + at / 32, x, at % 32);
    }
}

} // namespace

// Of more rows than the ring has slots only the last are kept: two rows of one slot would race.
void gpu_kv_store(const struct gpu_queue *queue, const struct lode_kv *kv, struct lode_rows k,
                  struct lode_rows v, uint32_t first_position)
{
    if (k.n == 0)
        return;
    const uint32_t first_row = k.n > kv->capacity ? k.n - kv->capacity : 0;
    const store_shape shape = {k.stride,     v.stride,       k.cols,   kv->head_size,
                               kv->capacity, first_position, first_row};
    const float *k_rows = k.data, *v_rows = v.data;
    const dim3 grid(k.n - first_row, (k.cols + THREADS - 1) / THREADS, 2);
    switch (kv->format) {
    case LODE_CACHE_F16:
        GPU_LAUNCH(store<LODE_CACHE_F16>, grid, THREADS, queue->stream, kv->k, kv->v, k_rows, v_rows, shape);
        break;
    case LODE_CACHE_Q8_0:
        GPU_LAUNCH(store<LODE_CACHE_Q8_0>, grid, THREADS, queue->stream, kv->k, kv->v, k_rows, v_rows, shape);
        break;
    case LODE_CACHE_F32:
        GPU_LAUNCH(store<LODE_CACHE_F32>, grid, THREADS, queue->stream, kv->k, kv->v, k_rows, v_rows, shape);
        break;
    }
}
