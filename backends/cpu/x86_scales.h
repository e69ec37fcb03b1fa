// Scales and minima of eight weight rows at once, one row a lane, for AVX2 and AVX-512.
//
// The kernels take eight rows together so that an integer dot product, its scale and the running sum cost one
// vector operation for eight rows. The packed scales of K-quants are transposed as 32-bit words first; then
// each part of 32 weights shifts its own bits out of all rows at once.
#ifndef LODE_CPU_X86_SCALES_H
#define LODE_CPU_X86_SCALES_H

#include "backends/cpu/x86_codes.h"

// The heads of the same block of eight rows. words[q] holds bytes 4q..4q+3 of the packed scales.
struct row_heads {
    __m256 scale, minimum;
    __m256i words[4];
};

static ALWAYS_INLINE __m256i load_row_pair(const uint8_t *first, size_t stride)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_16(first)), load_16(first + 4 * stride), 1);
}

// Reads 16 bytes of each row, of which it takes the first two: an unpacking tree of vectors is half the work
// of putting eight numbers together one by one.
static ALWAYS_INLINE __m256 gather_f16(const uint8_t *first, size_t stride)
{
    __m256i a = load_row_pair(first, stride), b = load_row_pair(first + stride, stride);
    __m256i c = load_row_pair(first + 2 * stride, stride), d = load_row_pair(first + 3 * stride, stride);
    __m256i all = _mm256_unpacklo_epi32(_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(c, d));
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(all, 0x08)));
}

static ALWAYS_INLINE __m256i gather_u32(const uint8_t *first, size_t stride)
{
    return _mm256_setr_epi32(load_i32(first), load_i32(first + stride), load_i32(first + 2 * stride),
                             load_i32(first + 3 * stride), load_i32(first + 4 * stride),
                             load_i32(first + 5 * stride), load_i32(first + 6 * stride),
                             load_i32(first + 7 * stride));
}

// Splits eight 32-bit words into the halves they begin and end with.
static ALWAYS_INLINE void split_f16_pairs(__m256 *low, __m256 *high, __m256i words)
{
    __m256i lows = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
    __m256i both = _mm256_packus_epi32(lows, _mm256_srli_epi32(words, 16));
    both = _mm256_permute4x64_epi64(both, 0xd8);
    *low = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
    *high = _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}

// Words 0..3 of 16 bytes of eight rows: words[q] lane r = word q of row r.
static ALWAYS_INLINE void transpose_words(__m256i words[4], const uint8_t *first, size_t stride)
{
    __m256i a = load_row_pair(first, stride), b = load_row_pair(first + stride, stride);
    __m256i c = load_row_pair(first + 2 * stride, stride), d = load_row_pair(first + 3 * stride, stride);
    __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    words[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
    words[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
    words[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    words[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

// 2^(exponent - 128), denormal for the exponents 0 and 1.
static ALWAYS_INLINE __m256 mxfp4_scales(const uint8_t *first, size_t stride)
{
    uint64_t bytes = 0;
    UNROLL
    for (unsigned r = 0; r < 8; r++)
        bytes |= (uint64_t)first[r * stride] << 8 * r;
    __m256i exponent = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponent, _mm256_set1_epi32(1)), 23);
    __m256i denormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), exponent);
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponent);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, denormal, small));
}

static ALWAYS_INLINE __m256 negate(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

// The 12 bytes of Q4_K and Q5_K in words 1..3 to 8 scales in words 0, 1 and 8 minima in words 2, 3.
static ALWAYS_INLINE void unpack_k4_scales(__m256i words[4])
{
    const __m256i six = _mm256_set1_epi32(0x3f3f3f3f), four = _mm256_set1_epi32(0x0f0f0f0f);
    const __m256i top = _mm256_set1_epi32(0x30303030);
    __m256i a = words[1], b = words[2], c = words[3];
    words[0] = _mm256_and_si256(a, six);
    words[1] = _mm256_or_si256(_mm256_and_si256(c, four), _mm256_and_si256(_mm256_srli_epi32(a, 2), top));
    words[2] = _mm256_and_si256(b, six);
    words[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(c, 4), four),
                               _mm256_and_si256(_mm256_srli_epi32(b, 2), top));
}

// The 12 bytes of Q3_K in words 0..2 to 16 signed scales.
static ALWAYS_INLINE void unpack_q3_k_scales(__m256i words[4])
{
    const __m256i four = _mm256_set1_epi32(0x0f0f0f0f), top = _mm256_set1_epi32(0x30303030);
    const __m256i bias = _mm256_set1_epi8(32);
    __m256i a = words[0], b = words[1], c = words[2];
    __m256i low[4] = {a, b, _mm256_srli_epi32(a, 4), _mm256_srli_epi32(b, 4)};
    __m256i high[4] = {_mm256_slli_epi32(c, 4), _mm256_slli_epi32(c, 2), c, _mm256_srli_epi32(c, 2)};
    UNROLL
    for (unsigned q = 0; q < 4; q++) {
        __m256i joined = _mm256_or_si256(_mm256_and_si256(low[q], four), _mm256_and_si256(high[q], top));
        words[q] = _mm256_sub_epi8(joined, bias);
    }
}

// Q4_K and Q5_K, from the words.
static ALWAYS_INLINE void finish_k4_heads(struct row_heads *heads)
{
    split_f16_pairs(&heads->scale, &heads->minimum, heads->words[0]);
    heads->minimum = negate(heads->minimum);
    unpack_k4_scales(heads->words);
}

static ALWAYS_INLINE void load_heads(struct row_heads *heads, enum lode_type type, const uint8_t *first,
                                     size_t stride)
{
    switch (type) {
    case LODE_Q4_0:
    case LODE_Q5_0:
    case LODE_Q8_0:
    case LODE_IQ4_NL:
        heads->scale = gather_f16(first, stride);
        return;
    case LODE_Q4_1:
    case LODE_Q5_1:
        split_f16_pairs(&heads->scale, &heads->minimum, gather_u32(first, stride));
        return;
    case LODE_MXFP4:
        heads->scale = mxfp4_scales(first, stride);
        return;
    case LODE_Q2_K:
        split_f16_pairs(&heads->scale, &heads->minimum, gather_u32(first + 80, stride));
        heads->minimum = negate(heads->minimum);
        transpose_words(heads->words, first, stride);
        return;
    case LODE_Q3_K:
        heads->scale = gather_f16(first + 108, stride);
        transpose_words(heads->words, first + 96, stride);
        unpack_q3_k_scales(heads->words);
        return;
    case LODE_Q4_K:
    case LODE_Q5_K:
        transpose_words(heads->words, first, stride);
        finish_k4_heads(heads);
        return;
    case LODE_Q6_K:
        heads->scale = gather_f16(first + 208, stride);
        transpose_words(heads->words, first + 192, stride);
        return;
    case LODE_IQ4_XS:
        heads->words[0] = gather_u32(first, stride);
        heads->words[1] = gather_u32(first + 4, stride);
        heads->scale = gather_f16(first, stride);
        return;
    default:
        __builtin_unreachable();
    }
}

static ALWAYS_INLINE __m256i pair_of(__m256i low, __m256i high)
{
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}

static ALWAYS_INLINE __m256i byte_of_words(const __m256i *words, unsigned index)
{
    const unsigned byte = index % 4; // the indices of 0x80 and more give zeros
    const __m256i places = _mm256_add_epi32(_mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12),
                                            _mm256_set1_epi32((int)(0x80808000 + byte)));
    return _mm256_shuffle_epi8(words[index / 4], places);
}

static ALWAYS_INLINE __m256i signed_byte_of_words(const __m256i *words, unsigned index)
{
    return _mm256_srai_epi32(_mm256_slli_epi32(words[index / 4], (int)(24 - 8 * (index % 4))), 24);
}

// Float scale of a part, exact: 11 bits of the block's scale times at most 8 of the part's.
static ALWAYS_INLINE __m256 part_scale(enum lode_type type, const struct row_heads *heads, unsigned part)
{
    __m256i factor;
    if (type == LODE_Q4_K || type == LODE_Q5_K) {
        factor = byte_of_words(heads->words, part);
    } else if (type == LODE_IQ4_XS) {
        __m256i low = _mm256_srli_epi32(heads->words[1], (int)(4 * part));
        __m256i high = _mm256_srli_epi32(heads->words[0], (int)(16 + 2 * part));
        low = _mm256_and_si256(low, _mm256_set1_epi32(15));
        high = _mm256_and_si256(high, _mm256_set1_epi32(3));
        factor = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
    } else {
        return heads->scale;
    }
    return _mm256_mul_ps(heads->scale, _mm256_cvtepi32_ps(factor));
}

// Float minimum of a part; for lane minima the float scale they stand under.
static ALWAYS_INLINE __m256 part_minimum(enum lode_type type, const struct row_heads *heads, unsigned part)
{
    if (type != LODE_Q4_K && type != LODE_Q5_K)
        return heads->minimum;
    return _mm256_mul_ps(heads->minimum, _mm256_cvtepi32_ps(byte_of_words(heads->words + 2, part)));
}

// Integer scale of half `half` of a part.
static ALWAYS_INLINE __m256i lane_scale(enum lode_type type, const struct row_heads *heads, unsigned part,
                                        unsigned half)
{
    unsigned index = 2 * part + half;
    if (type == LODE_Q2_K)
        return _mm256_and_si256(byte_of_words(heads->words, index), _mm256_set1_epi32(15));
    return signed_byte_of_words(heads->words, index);
}

// Both integer scales of a part as pairs of 16-bit numbers.
static ALWAYS_INLINE __m256i lane_scales(enum lode_type type, const struct row_heads *heads, unsigned part)
{
    return pair_of(lane_scale(type, heads, part, 0), lane_scale(type, heads, part, 1));
}

// From pairs (low, high): the pairs (low, low) and (high, high).
static ALWAYS_INLINE void spread_lane_scales(__m256i spread[2], __m256i scales)
{
    spread[0] = _mm256_blend_epi16(scales, _mm256_slli_epi32(scales, 16), 0xaa);
    spread[1] = _mm256_blend_epi16(_mm256_srli_epi32(scales, 16), scales, 0xaa);
}

static ALWAYS_INLINE __m256i lane_minimum(const struct row_heads *heads, unsigned part, unsigned half)
{
    return _mm256_srli_epi32(byte_of_words(heads->words, 2 * part + half), 4);
}

#endif
