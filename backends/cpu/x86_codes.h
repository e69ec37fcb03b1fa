// 32 consecutive weights of every quantised type as 32 bytes in their natural order, for AVX2 and AVX-512.
//
// Codes stay unsigned where the type allows it: multiply-add of bytes takes an unsigned and a signed operand,
// and an offset is cheaper to subtract from the finished sum. The 8-bit types are signed here, unless
// LODE_CODES_UNSIGNED, set for VNNI, which has no saturation to fear, makes them unsigned as well.
//
// All functions take the type as a constant and are inlined, so that the switches vanish.
#ifndef LODE_CPU_X86_CODES_H
#define LODE_CPU_X86_CODES_H

#include "backends/cpu/intrinsics.h"
#include "base/tensor_type.h"

#include <stdbool.h>

#ifdef LODE_CODES_UNSIGNED
#define WIDE_OFFSET 128
#else
#define WIDE_OFFSET 0
#endif

static ALWAYS_INLINE unsigned block_bytes(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_0:
    case LODE_IQ4_NL:
        return 18;
    case LODE_Q4_1:
        return 20;
    case LODE_Q5_0:
        return 22;
    case LODE_Q5_1:
        return 24;
    case LODE_Q8_0:
        return 34;
    case LODE_MXFP4:
        return 17;
    case LODE_Q2_K:
        return 84;
    case LODE_Q3_K:
        return 110;
    case LODE_Q4_K:
        return 144;
    case LODE_Q5_K:
        return 176;
    case LODE_Q6_K:
        return 210;
    case LODE_IQ4_XS:
        return 136;
    default:
        __builtin_unreachable();
    }
}

// Parts of 32 weights in a block.
static ALWAYS_INLINE unsigned block_parts(enum lode_type type)
{
    return (type >= LODE_Q2_K && type <= LODE_Q6_K) || type == LODE_IQ4_XS ? 8 : 1;
}

// Bits that a code takes, which says how many products may be summed in 16 bits: 4 bits 8 pairs (15 * 127 * 2
// * 8 = 30,480), 5 bits 4 pairs (31,496), 6 bits 2 pairs (32,004), 8 bits 1.
static ALWAYS_INLINE unsigned code_bits(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_0:
    case LODE_Q4_1:
    case LODE_Q4_K:
    case LODE_Q2_K:
    case LODE_Q3_K:
        return 4;
    case LODE_Q5_0:
    case LODE_Q5_1:
    case LODE_Q5_K:
    case LODE_MXFP4:
        return 5;
    case LODE_Q6_K:
        return 6;
    default:
        return 8;
    }
}

// weight = scale * (code - offset) + minimum
static ALWAYS_INLINE int code_offset(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_0:
        return 8;
    case LODE_Q5_0:
        return 16;
    case LODE_MXFP4:
        return 12;
    case LODE_Q3_K:
        return 4;
    case LODE_Q6_K:
        return 32;
    case LODE_Q8_0:
    case LODE_IQ4_NL:
    case LODE_IQ4_XS:
        return WIDE_OFFSET;
    default:
        return 0;
    }
}

// An integer scale for each half of 16 weights, beside the float scale.
static ALWAYS_INLINE bool has_lane_scales(enum lode_type type)
{
    return type == LODE_Q2_K || type == LODE_Q3_K || type == LODE_Q6_K;
}

// An integer minimum for each half of 16 weights, under a float scale of its own.
static ALWAYS_INLINE bool has_lane_minima(enum lode_type type)
{
    return type == LODE_Q2_K;
}

static ALWAYS_INLINE bool has_minimum(enum lode_type type)
{
    return type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q4_K || type == LODE_Q5_K;
}

// Low nibbles of 16 bytes, then high nibbles.
static ALWAYS_INLINE __m256i split_nibbles(const uint8_t *bytes)
{
    __m256i both = _mm256_broadcastsi128_si256(load_16(bytes));
    __m256i shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// Bit i of 32 as `bit` or 0 in byte i.
static ALWAYS_INLINE __m256i spread_bits(const uint8_t *bits, char bit)
{
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, //
                                             2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i mask = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(load_i32(bits)), byte_of);
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, mask), mask);
    return _mm256_and_si256(set, _mm256_set1_epi8(bit));
}

// `mask` of every byte shifted so that bit `from` comes to bit `to`.
static ALWAYS_INLINE __m256i take_bits(__m256i bytes, unsigned from, unsigned to, char mask)
{
    __m256i shifted = from > to ? _mm256_srli_epi16(bytes, (int)(from - to)) : bytes;
    if (from < to)
        shifted = _mm256_slli_epi16(bytes, (int)(to - from));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(mask));
}

static ALWAYS_INLINE __m256i wide_codes(__m256i signed_codes)
{
    return WIDE_OFFSET ? _mm256_xor_si256(signed_codes, _mm256_set1_epi8((char)0x80)) : signed_codes;
}

static ALWAYS_INLINE __m256i iq4_codes(const uint8_t *bytes)
{
    __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
    return _mm256_shuffle_epi8(wide_codes(values), split_nibbles(bytes));
}

static ALWAYS_INLINE __m256i mxfp4_codes(const uint8_t *bytes)
{
    const __m256i values =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return _mm256_shuffle_epi8(values, split_nibbles(bytes));
}

static ALWAYS_INLINE __m256i q2_k_codes(const uint8_t *codes, unsigned part)
{
    return take_bits(load_32(codes + 32 * (part / 4)), 2 * (part % 4), 0, 3);
}

static ALWAYS_INLINE __m256i q6_k_codes(const uint8_t *block, unsigned part)
{
    unsigned quarter = part % 4;
    __m256i low = load_32(block + 64 * (part / 4) + 32 * (quarter % 2));
    __m256i high = load_32(block + 128 + 32 * (part / 4));
    return _mm256_or_si256(take_bits(low, 4 * (quarter / 2), 0, 15), take_bits(high, 2 * quarter, 4, 0x30));
}

static ALWAYS_INLINE __m256i k_nibbles(const uint8_t *bytes, unsigned part)
{
    return take_bits(load_32(bytes + 32 * (part / 2)), 4 * (part % 2), 0, 15);
}

// The codes of part `part` of a block.
static ALWAYS_INLINE __m256i unpack_codes(enum lode_type type, const uint8_t *block, unsigned part)
{
    switch (type) {
    case LODE_Q4_0:
        return split_nibbles(block + 2);
    case LODE_Q4_1:
        return split_nibbles(block + 4);
    case LODE_Q5_0:
        return _mm256_or_si256(split_nibbles(block + 6), spread_bits(block + 2, 16));
    case LODE_Q5_1:
        return _mm256_or_si256(split_nibbles(block + 8), spread_bits(block + 4, 16));
    case LODE_Q8_0:
        return wide_codes(load_32(block + 2));
    case LODE_IQ4_NL:
        return iq4_codes(block + 2);
    case LODE_MXFP4:
        return mxfp4_codes(block + 1);
    case LODE_Q2_K:
        return q2_k_codes(block + 16, part);
    case LODE_Q3_K:
        return _mm256_or_si256(q2_k_codes(block + 32, part), take_bits(load_32(block), part, 2, 4));
    case LODE_Q4_K:
        return k_nibbles(block + 16, part);
    case LODE_Q5_K:
        return _mm256_or_si256(k_nibbles(block + 48, part), take_bits(load_32(block + 16), part, 4, 16));
    case LODE_Q6_K:
        return q6_k_codes(block, part);
    case LODE_IQ4_XS:
        return iq4_codes(block + 8 + 16 * part);
    default:
        __builtin_unreachable();
    }
}

#endif
