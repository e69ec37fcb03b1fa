// Activations to int8 blocks in plain C: the definition that the other instruction sets reproduce.
#include "backends/cpu/quantize.h"

#include "base/half.h"

#include <math.h>

// Nearest, ties to even, for |x| < 2^22: the sum's last mantissa bit is the unit.
static int round_to_int(float x)
{
    return (int)(lode_f32_to_bits(x + 0x1.8p23f) & 0x7fffff) - 0x400000;
}

static int quantize_half(int8_t *q, const float *x, float inverse)
{
    int sum = 0;
    for (int i = 0; i < CPU_BLOCK / 2; i++) {
        q[i] = (int8_t)round_to_int(x[i] * inverse);
        sum += q[i];
    }
    return sum;
}

static void quantize_block(struct cpu_block *out, const float *x)
{
    float largest = 0;
    for (int i = 0; i < CPU_BLOCK; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    int tiny = largest < CPU_BLOCK_TINY;
    float inverse = tiny ? 0.0f : 127.0f / largest;
    out->scale = tiny ? 0.0f : largest / 127.0f;
    out->sums[0] = (int16_t)quantize_half(out->q, x, inverse);
    out->sums[1] = (int16_t)quantize_half(out->q + CPU_BLOCK / 2, x + CPU_BLOCK / 2, inverse);
    out->scaled_sum = out->scale * (float)(out->sums[0] + out->sums[1]);
}

void cpu_quantize_portable(struct cpu_block *out, const float *x, uint32_t n_blocks)
{
    for (uint32_t b = 0; b < n_blocks; b++)
        quantize_block(&out[b], x + (size_t)b * CPU_BLOCK);
}
