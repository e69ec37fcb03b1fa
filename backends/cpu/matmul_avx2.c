// Matrix products with AVX2, FMA and F16C.
//
// Bytes are multiplied with maddubs, which adds two products in 16 bits with saturation. Activations stay
// within
// +-127, so that no two products saturate; narrow codes are summed further in 16 bits (see code_bits). The
// 8-bit types give maddubs the weights' magnitudes and the activations with the weights' signs.
#if defined(__x86_64__)

#define TILE_TOKENS 4

#include "backends/cpu/x86_panel.h"
#include "backends/cpu/x86_quantize.h"

static ALWAYS_INLINE __m256i dot_pairs(enum lode_type type, __m256i codes, __m256i q)
{
    if (code_bits(type) == 8)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(q, codes));
    return _mm256_maddubs_epi16(codes, q);
}

static ALWAYS_INLINE __m256i dot_fours(enum lode_type type, __m256i codes, __m256i q)
{
    return _mm256_madd_epi16(dot_pairs(type, codes, q), _mm256_set1_epi16(1));
}

// How many dot_pairs may be added in 16 bits, within a half of 4 if halves have scales of their own.
static ALWAYS_INLINE unsigned pairs_in_16_bits(enum lode_type type)
{
    switch (code_bits(type)) {
    case 4:
        return has_lane_scales(type) ? 4 : 8;
    case 5:
        return 4;
    case 6:
        return 2;
    default:
        return 1;
    }
}

static ALWAYS_INLINE __m256i broadcast_four(const struct cpu_block *x, unsigned four)
{
    return _mm256_set1_epi32(load_i32(x->q + 4 * four));
}

// Keeps a running sum in its register. Left alone, GCC 12 reorders the additions and spills the products: 133
// instead of 192 GFLOP/s for Q4_0 on a Zen 3 core.
static ALWAYS_INLINE __m256i in_register(__m256i sum)
{
#ifndef __clang__
    __asm__("" : "+x"(sum));
#endif
    return sum;
}

// dots[g][i] += fours first .. first + n - 1 of lanes 8g .. 8g + 7 times activation row i.
static ALWAYS_INLINE void add_fours(enum lode_type type, unsigned tokens, __m256i dots[2][TILE_TOKENS],
                                    const struct panel_part *part, const struct cpu_block *const *x,
                                    unsigned first, unsigned n)
{
    __m256i pairs[2][TILE_TOKENS];
    UNROLL
    for (unsigned j = 0; j < n; j++) {
        __m256i codes[2] = {load_32(part->codes[first + j]), load_32(part->codes[first + j] + 32)};
        UNROLL
        for (unsigned i = 0; i < tokens; i++) {
            __m256i q = broadcast_four(x[i], first + j);
            UNROLL
            for (unsigned g = 0; g < 2; g++) {
                __m256i products = dot_pairs(type, codes[g], q);
                pairs[g][i] = j ? in_register(_mm256_add_epi16(pairs[g][i], products)) : products;
            }
        }
    }
    UNROLL
    for (unsigned g = 0; g < 2; g++) {
        __m256i factor = _mm256_set1_epi16(1);
        if (has_lane_scales(type))
            factor = load_32(&part->lane_scales[first / 4][8 * g]);
        UNROLL
        for (unsigned i = 0; i < tokens; i++) {
            __m256i sum = _mm256_madd_epi16(pairs[g][i], factor);
            dots[g][i] = first ? in_register(_mm256_add_epi32(dots[g][i], sum)) : sum;
        }
    }
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
        const unsigned step = pairs_in_16_bits(type);
        UNROLL
        for (unsigned first = 0; first < 8; first += step)
            add_fours(type, tokens, dots, &parts[p], blocks, first, step);
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

DEFINE_QUANTISED_KERNELS

const struct cpu_matmul_kernels cpu_matmul_avx2 = X86_KERNEL_TABLE;

#else
typedef int matmul_avx2_is_for_x86;
#endif
