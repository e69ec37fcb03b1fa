// Activations as the quantised matmuls take them: int8 in blocks of 32, each with its own float scale.
//
// Every quantised weight type is multiplied with these blocks, K-quants included: a scale per 32 values is
// finer than the 256 of the K-quants' own blocks, so an outlier among the activations costs only its 31
// neighbours precision.
#ifndef LODE_CPU_QUANTIZE_H
#define LODE_CPU_QUANTIZE_H

#include <stddef.h>
#include <stdint.h>

#define CPU_BLOCK 32

// x[i] ~ scale * q[i]; |q| <= 127, so that products of pairs fit in 16 bits. The sums serve weights that have
// an offset or a minimum: sum of (code - offset) * q = sum of code * q - offset * sum of q.
struct cpu_block {
    int8_t q[CPU_BLOCK];
    float scale;
    float scaled_sum; // scale * (sums[0] + sums[1])
    int16_t sums[2];  // of q[0..15] and q[16..31]
};

// Below this largest magnitude a block is taken for zero: 127 / max would overflow.
#define CPU_BLOCK_TINY 0x1p-120f

// out[b] holds x[32 b .. 32 b + 31]. All instruction sets give the same blocks, bit for bit.
void cpu_quantize_portable(struct cpu_block *out, const float *x, uint32_t n_blocks);

#endif
