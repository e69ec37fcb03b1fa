// The vector kernels for AVX-512 F, BW, VL and DQ. Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq
// -mavx512vnni -mavx2 -mfma -mf16c; see vector_body.h. With LODE_SIMDE it becomes a table of its own for
// tests, which runs anywhere.
#include "backends/cpu/vector.h"

#if defined(__AVX512F__) || defined(LODE_SIMDE)

#include "backends/cpu/intrinsics.h"
#include "backends/cpu/kv_q8_0.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

#ifdef LODE_SIMDE
#define VECTOR_TABLE cpu_vector_avx512_simde
extern const struct cpu_vector_kernels VECTOR_TABLE;
#else
#define VECTOR_TABLE cpu_vector_avx512
#endif

#define VF 16
#define TILE_SUMS 24
typedef __m512 vf;

static inline vf v_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

static inline void v_store(float *x, vf a)
{
    _mm512_storeu_ps(x, a);
}

static inline vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

static inline vf v_less(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}

static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_abs(vf a)
{
    return _mm512_abs_ps(a);
}

static inline vf v_copysign(vf magnitude, vf sign)
{
    __m512i bit = _mm512_and_si512(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(sign));
    return _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_castps_si512(magnitude), bit)); // magnitude is not negative
}

static inline vf v_pow2_shifted(vf shifted)
{
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}

static inline __m256 low_half(vf a)
{
    return _mm512_castps512_ps256(a);
}

static inline __m256 high_half(vf a)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}

static inline float v_sum(vf a)
{
    __m256 h = _mm256_add_ps(low_half(a), high_half(a));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float v_max_lane(vf a)
{
    __m256 h = _mm256_max_ps(low_half(a), high_half(a));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline void v_sum4(float *out, vf a, vf b, vf c, vf d)
{
    __m256 ab =
        _mm256_hadd_ps(_mm256_add_ps(low_half(a), high_half(a)), _mm256_add_ps(low_half(b), high_half(b)));
    __m256 cd =
        _mm256_hadd_ps(_mm256_add_ps(low_half(c), high_half(c)), _mm256_add_ps(low_half(d), high_half(d)));
    __m256 s = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

static inline vf v_load_f16(const uint16_t *x)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

static inline void v_store_f16(uint16_t *x, vf a)
{
    _mm256_storeu_si256((__m256i *)x, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline float v_f16_scalar(uint16_t x)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x)));
}

static inline vf v_load_i8(const int8_t *x)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x)));
}

static inline void v_store_i8(int8_t *x, vf a)
{
    _mm_storeu_si128((__m128i *)x, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

#include "backends/cpu/vector_body.h"

#endif
