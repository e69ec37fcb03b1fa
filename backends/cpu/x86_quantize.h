// Activations to int8 blocks with AVX2; the same bits as quantize.c.
#ifndef LODE_CPU_X86_QUANTIZE_H
#define LODE_CPU_X86_QUANTIZE_H

#include "backends/cpu/intrinsics.h"
#include "backends/cpu/quantize.h"

static ALWAYS_INLINE float largest_lane(__m256 x)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    four = _mm_max_ss(four, _mm_movehdup_ps(four));
    return _mm_cvtss_f32(four);
}

static ALWAYS_INLINE int sum_of_bytes(__m128i bytes)
{
    // Unsigned sums of 8 bytes each, of bytes raised by 128.
    __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8((char)0x80));
    __m128i halves = _mm_sad_epu8(raised, _mm_setzero_si128());
    return _mm_cvtsi128_si32(halves) + _mm_extract_epi16(halves, 4) - 16 * 128;
}

static ALWAYS_INLINE void quantize_block(struct cpu_block *out, const float *x)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 v[4], largest_of = _mm256_setzero_ps();
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        largest_of = _mm256_max_ps(largest_of, _mm256_and_ps(v[i], magnitude));
    }
    float largest = largest_lane(largest_of);
    int tiny = largest < CPU_BLOCK_TINY;
    __m256 inverse = _mm256_set1_ps(tiny ? 0.0f : 127.0f / largest);
    out->scale = tiny ? 0.0f : largest / 127.0f;
    __m256i q[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    __m256i words[2] = {_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])};
    __m256i bytes = _mm256_packs_epi16(words[0], words[1]);
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)out->q, bytes);
    out->sums[0] = (int16_t)sum_of_bytes(_mm256_castsi256_si128(bytes));
    out->sums[1] = (int16_t)sum_of_bytes(_mm256_extracti128_si256(bytes, 1));
    out->scaled_sum = out->scale * (float)(out->sums[0] + out->sums[1]);
}

static void quantize(struct cpu_block *out, const float *x, uint32_t n_blocks)
{
    for (uint32_t b = 0; b < n_blocks; b++)
        quantize_block(&out[b], x + (size_t)b * CPU_BLOCK);
}

#endif
