// IEEE half and bfloat16 to float and back, for code that is not hot or has no hardware for it.
#ifndef LODE_HALF_H
#define LODE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float lode_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t lode_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float lode_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00) // infinity, NaN
        return lode_bits_to_f32(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x0400) // normal: rebias the exponent by 127 - 15
        return lode_bits_to_f32(sign | ((magnitude << 13) + (112u << 23)));
    float subnormal = (float)magnitude * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

// Rounds to nearest, ties to even, as F16C does.
static inline uint16_t lode_f32_to_f16(float value)
{
    uint32_t bits = lode_f32_to_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) // rounds to 2^16 or is infinite
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000u) { // subnormal: let the FPU round at 2^-24
        float scaled = lode_bits_to_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (lode_f32_to_bits(scaled) - 0x3f000000u));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

static inline float lode_bf16_to_f32(uint16_t half)
{
    return lode_bits_to_f32((uint32_t)half << 16);
}

static inline uint16_t lode_f32_to_bf16(float value)
{
    uint32_t bits = lode_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#endif
