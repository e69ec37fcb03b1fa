// The x86 intrinsics, or SIMDe's emulation of them: with LODE_SIMDE the kernels for AVX-512 and AVX-VNNI run,
// slowly, on processors without these, which is how they are tested there.
#ifndef LODE_CPU_INTRINSICS_H
#define LODE_CPU_INTRINSICS_H

#ifdef LODE_SIMDE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

// What SIMDe 0.7.4 lacks, out of what it has for half the width.
static inline __m512i emulated_join(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline __m512i emulated_srai_epi32(__m512i a, int bits)
{
    __m256i low = _mm512_castsi512_si256(a), high = _mm512_extracti64x4_epi64(a, 1);
    return emulated_join(_mm256_srai_epi32(low, bits), _mm256_srai_epi32(high, bits));
}

static inline __m512i emulated_cvtepu16_epi32(__m256i a)
{
    __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    return emulated_join(_mm256_cvtepu16_epi32(low), _mm256_cvtepu16_epi32(high));
}

static inline __m512 emulated_cvtph_ps(__m256i a)
{
    __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    return _mm512_castsi512_ps(
        emulated_join(_mm256_castps_si256(_mm256_cvtph_ps(low)), _mm256_castps_si256(_mm256_cvtph_ps(high))));
}

static inline __m512 emulated_cvtepi32_ps(__m512i a)
{
    __m256i low = _mm512_castsi512_si256(a), high = _mm512_extracti64x4_epi64(a, 1);
    return _mm512_castsi512_ps(emulated_join(_mm256_castps_si256(_mm256_cvtepi32_ps(low)),
                                             _mm256_castps_si256(_mm256_cvtepi32_ps(high))));
}

static inline __m512i emulated_cvtepi8_epi32(__m128i a)
{
    return emulated_join(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}

static inline __m512i emulated_cvtps_epi32(__m512 a)
{
    __m256 low = _mm512_castps512_ps256(a),
           high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    return emulated_join(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
}

static inline __m256i emulated_cvtps_ph(__m512 a)
{
    __m256 low = _mm512_castps512_ps256(a),
           high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    __m128i half = _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(half),
                                   _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
}

#define _mm512_srai_epi32 emulated_srai_epi32
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a) // to nearest is all that is used
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#else
#include <immintrin.h>
#endif

#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

#if defined(LODE_SIMDE)
#define UNROLL // emulated, unrolled loops take minutes to compile
#define UNROLL_16
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#define UNROLL_16 UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_16 _Pragma("GCC unroll 16")
#endif

static ALWAYS_INLINE uint16_t load_u16(const void *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static ALWAYS_INLINE int32_t load_i32(const void *bytes)
{
    int32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static ALWAYS_INLINE __m128i load_16(const void *bytes)
{
    return _mm_loadu_si128((const __m128i *)bytes);
}

static ALWAYS_INLINE __m256i load_32(const void *bytes)
{
    return _mm256_loadu_si256((const __m256i *)bytes);
}

#endif
