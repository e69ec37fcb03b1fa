// Functions of single floats in kernels. They are sums of a few products rather than the vendors' functions:
// the same everywhere, so that what is proven on the CPU holds on every GPU, and close to those of
// backends/cpu/vector_body.h, which has the same coefficients.
#ifndef LODE_GPU_MATH_H
#define LODE_GPU_MATH_H

#include "backends/gpu/gpu.h"

#include <math.h>
#include <string.h>

GPU_FN uint32_t gpu_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

GPU_FN float gpu_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define GPU_ROUND_SHIFT 12582912.0f // 1.5 * 2^23: added to |x| < 2^22 it leaves round(x), ties to even

// e^x: 2^n e^r with |r| <= ln 2 / 2. Within 2 units of the last place; 0 below -87 (true: under 1.7e-38),
// limited to e^88 above, NaN for NaN.
GPU_FN float gpu_exp(float x)
{
    float bounded = x < -87.0f ? -87.0f : x;
    bounded = bounded > 88.0f ? 88.0f : bounded;
    const float shifted = bounded * 1.44269502f + GPU_ROUND_SHIFT;
    const float n = shifted - GPU_ROUND_SHIFT;
    float r = bounded - n * 0.693359375f; // ln 2 in two parts: n times the first is exact
    r = r - n * -2.12194440e-4f;
    float sum = r * (1.0f / 5040) + 1.0f / 720;
    sum = r * sum + 1.0f / 120;
    sum = r * sum + 1.0f / 24;
    sum = r * sum + 1.0f / 6;
    sum = r * sum + 0.5f;
    sum = (r * r) * sum + (r + 1.0f);
    const float power = gpu_float_of_bits((gpu_float_bits(shifted) << 23) + 0x3f800000u);
    return x < -87.0f ? 0.0f : sum * power;
}

// tanh: near 0 an odd polynomial (coefficients of Cephes' tanhf), where 1 - 2 / (e^2x + 1) would cancel.
GPU_FN float gpu_tanh(float x)
{
    const float size = fabsf(x);
    if (size < 0.625f) {
        const float z = x * x;
        float p = z * -5.70498872745e-3f + 2.06390887954e-2f;
        p = z * p + -5.37397155531e-2f;
        p = z * p + 1.33314422036e-1f;
        p = z * p + -3.33332819422e-1f;
        return (z * p) * x + x;
    }
    return copysignf(1.0f - 2.0f / (gpu_exp(size + size) + 1.0f), x);
}

// x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3): the right side does not cancel.
GPU_FN float gpu_gelu_tanh(float x)
{
    const float slope = (x * x) * -0.07135481627f + -1.59576912161f;
    return x / (1.0f + gpu_exp(x * slope));
}

#endif
