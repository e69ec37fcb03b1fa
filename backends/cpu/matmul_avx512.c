// Matrix products with AVX-512 and VNNI.
//
// Products with one or two activation rows wait for memory and use 256-bit vectors like AVX2; with many,
// 512-bit vectors hold 16 weight rows. The byte dot product of VNNI sums in 32 bits and saturates nowhere, so
// all codes are unsigned, and the results are the same as with AVX2, bit for bit.
#if defined(__x86_64__)

#define LODE_CODES_UNSIGNED
#define TILE_TOKENS 8

#include "backends/cpu/x86_avx512.h"
#include "backends/cpu/x86_panel.h"
#include "backends/cpu/x86_quantize.h"

static ALWAYS_INLINE __m256i dot_fours(enum lode_type type, __m256i codes, __m256i q)
{
    (void)type;
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, q);
}

// dots[i] = fours first .. first + n - 1 of 16 weight rows times activation row i.
static ALWAYS_INLINE void dot_tokens(unsigned tokens, __m512i dots[TILE_TOKENS],
                                     const struct panel_part *part, const struct cpu_block *const *x,
                                     unsigned first, unsigned n)
{
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        dots[i] = _mm512_setzero_si512();
    UNROLL
    for (unsigned j = first; j < first + n; j++) {
        __m512i codes = load_64(part->codes[j]);
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            dots[i] = _mm512_dpbusd_epi32(dots[i], codes, _mm512_set1_epi32(load_i32(x[i]->q + 4 * j)));
    }
}

// One of a pair's equal 16-bit numbers, as 32 bits.
static ALWAYS_INLINE __m512i lane_scale_of(const struct panel_part *part, unsigned half)
{
    return _mm512_srai_epi32(load_64(part->lane_scales[half]), 16);
}

static ALWAYS_INLINE __m512 finish_part(enum lode_type type, __m512 sum, __m512i dot, __m512i offset_pair,
                                        const struct panel_part *part, const struct cpu_block *x)
{
    if (code_offset(type)) {
        __m512i factors = has_lane_scales(type) ? load_64(part->sum_factors) : offset_pair;
        dot = _mm512_dpwssd_epi32(dot, factors, _mm512_set1_epi32(load_i32(x->sums)));
    }
    return add_part(type, sum, dot, part, x);
}

static ALWAYS_INLINE void dot_part(enum lode_type type, unsigned tokens, __m512i dots[TILE_TOKENS],
                                   const struct panel_part *part, const struct cpu_block *const *x)
{
    if (!has_lane_scales(type)) {
        dot_tokens(tokens, dots, part, x, 0, 8);
        return;
    }
    __m512i high[TILE_TOKENS], scales[2] = {lane_scale_of(part, 0), lane_scale_of(part, 1)};
    dot_tokens(tokens, dots, part, x, 0, 4);
    dot_tokens(tokens, high, part, x, 4, 4);
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        dots[i] =
            _mm512_add_epi32(_mm512_mullo_epi32(dots[i], scales[0]), _mm512_mullo_epi32(high[i], scales[1]));
}

static ALWAYS_INLINE void multiply_tile(enum lode_type type, unsigned tokens, int offset, float *sums,
                                        const struct panel_part *parts, uint32_t n_parts,
                                        const struct cpu_block *const *x)
{
    const __m512i offset_pair = _mm512_set1_epi16((short)-offset);
    __m512 acc[TILE_TOKENS];
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        acc[i] = _mm512_loadu_ps(sums + i * PANEL_ROWS);
    for (uint32_t p = 0; p < n_parts; p++) {
        const struct cpu_block *blocks[TILE_TOKENS];
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            blocks[i] = x[i] + p;
        __m512i dots[TILE_TOKENS];
        dot_part(type, tokens, dots, &parts[p], blocks);
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            acc[i] = finish_part(type, acc[i], dots[i], offset_pair, &parts[p], blocks[i]);
    }
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        _mm512_storeu_ps(sums + i * PANEL_ROWS, acc[i]);
}

#define FLOAT_LANES 16
typedef __m512 vector;

static ALWAYS_INLINE vector vector_zero(void)
{
    return _mm512_setzero_ps();
}

static ALWAYS_INLINE vector vector_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

static ALWAYS_INLINE vector vector_load_f16(const uint8_t *bytes)
{
    return _mm512_cvtph_ps(load_32(bytes));
}

static ALWAYS_INLINE vector vector_load_bf16(const uint8_t *bytes)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32(bytes)), 16));
}

static ALWAYS_INLINE vector vector_fmadd(vector a, vector b, vector c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static ALWAYS_INLINE float vector_sum(vector x)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

#include "backends/cpu/x86_float.h"
#include "backends/cpu/x86_table.h"

#define DPBUSD _mm256_dpbusd_epi32
#include "backends/cpu/x86_rows8_vnni.h"

DEFINE_QUANTISED_KERNELS

#ifdef LODE_SIMDE
const struct cpu_matmul_kernels cpu_matmul_avx512_simde = X86_KERNEL_TABLE(struct panel);
#else
const struct cpu_matmul_kernels cpu_matmul_avx512 = X86_KERNEL_TABLE(struct panel);
#endif

#else
typedef int matmul_avx512_is_for_x86;
#endif
