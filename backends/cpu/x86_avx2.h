// Tiles of 256-bit vectors: what the kernels for AVX2 and for AVX2 with AVX-VNNI share, which is everything
// but the byte dot products. The includer defines dot_fours and dot_part.
#ifndef LODE_CPU_X86_AVX2_H
#define LODE_CPU_X86_AVX2_H

#define TILE_TOKENS 4

#include "backends/cpu/x86_panel.h"
#include "backends/cpu/x86_quantize.h"

// dots[g][i] = lanes 8g .. 8g + 7 of the part times activation row i, lane scales included, offset not.
static ALWAYS_INLINE void dot_part(enum lode_type type, unsigned tokens, __m256i dots[2][TILE_TOKENS],
                                   const struct panel_part *part, const struct cpu_block *const *x);

static ALWAYS_INLINE __m256i broadcast_four(const struct cpu_block *x, unsigned four)
{
    return _mm256_set1_epi32(load_i32(x->q + 4 * four));
}

static ALWAYS_INLINE __m256 finish_part(enum lode_type type, __m256 sum, __m256i dot, __m256i offset_pair,
                                        const struct panel_part *part, unsigned lane,
                                        const struct cpu_block *x)
{
    __m256i x_sums = _mm256_set1_epi32(load_i32(x->sums));
    __m256 x_scale = _mm256_set1_ps(x->scale);
    __m256i factors = has_lane_scales(type) ? load_32(&part->sum_factors[lane]) : offset_pair;
    if (code_offset(type))
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(factors, x_sums));
    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(&part->scale[lane]), x_scale);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum);
    __m256 minimum = _mm256_loadu_ps(&part->minimum[lane]);
    if (has_minimum(type))
        sum = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x->scaled_sum), sum);
    if (has_lane_minima(type)) {
        __m256 minimum_sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(factors, x_sums));
        sum = _mm256_fmadd_ps(minimum_sum, _mm256_mul_ps(minimum, x_scale), sum);
    }
    return sum;
}

static ALWAYS_INLINE void multiply_tile(enum lode_type type, unsigned tokens, int offset, float *sums,
                                        const struct panel_part *parts, uint32_t n_parts,
                                        const struct cpu_block *const *x)
{
    const __m256i offset_pair = _mm256_set1_epi16((short)-offset);
    __m256 acc[2][TILE_TOKENS];
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        for (unsigned g = 0; g < 2; g++)
            acc[g][i] = _mm256_loadu_ps(sums + i * PANEL_ROWS + 8 * g);
    for (uint32_t p = 0; p < n_parts; p++) {
        const struct cpu_block *blocks[TILE_TOKENS];
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            blocks[i] = x[i] + p;
        __m256i dots[2][TILE_TOKENS];
        dot_part(type, tokens, dots, &parts[p], blocks);
        UNROLL
        for (unsigned g = 0; g < 2; g++)
            for (unsigned i = 0; i < tokens; i++)
                acc[g][i] =
                    finish_part(type, acc[g][i], dots[g][i], offset_pair, &parts[p], 8 * g, blocks[i]);
    }
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        for (unsigned g = 0; g < 2; g++)
            _mm256_storeu_ps(sums + i * PANEL_ROWS + 8 * g, acc[g][i]);
}

#define FLOAT_LANES 8
typedef __m256 vector;

static ALWAYS_INLINE vector vector_zero(void)
{
    return _mm256_setzero_ps();
}

static ALWAYS_INLINE vector vector_load(const float *x)
{
    return _mm256_loadu_ps(x);
}

static ALWAYS_INLINE vector vector_load_f16(const uint8_t *bytes)
{
    return _mm256_cvtph_ps(load_16(bytes));
}

static ALWAYS_INLINE vector vector_load_bf16(const uint8_t *bytes)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(bytes)), 16));
}

static ALWAYS_INLINE vector vector_fmadd(vector a, vector b, vector c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static ALWAYS_INLINE float vector_sum(vector x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

#include "backends/cpu/x86_float.h"
#include "backends/cpu/x86_table.h"

#endif
