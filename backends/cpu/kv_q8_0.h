// The block of a Q8_0 KV cache, the same as that of Q8_0 weights: 32 values, each scale * values[i].
#ifndef LODE_CPU_KV_Q8_0_H
#define LODE_CPU_KV_Q8_0_H

#include <stdint.h>

struct cpu_kv_q8_0 {
    uint16_t scale; // IEEE half
    int8_t values[32];
};

#endif
