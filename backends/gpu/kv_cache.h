// The formats of the K and V cache as kernels read and write them. See struct lode_kv.
#ifndef LODE_GPU_KV_CACHE_H
#define LODE_GPU_KV_CACHE_H

#include "backends/backend.h"
#include "backends/gpu/gpu.h"

// The block of a Q8_0 cache, as backends/cpu/kv_q8_0.h has it: 32 values, each scale * values[i].
struct gpu_kv_q8_0 {
    uint16_t scale;
    int8_t values[32];
};

// Bytes of one head of one token.
template <enum lode_kv_format FORMAT> GPU_FN size_t gpu_kv_row_bytes(uint32_t head_size)
{
    return FORMAT == LODE_CACHE_F16    ? head_size * sizeof(uint16_t)
           : FORMAT == LODE_CACHE_Q8_0 ? head_size / 32 * sizeof(struct gpu_kv_q8_0)
                                       : head_size * sizeof(float);
}

#endif
