// What the AVX-512 and the AMX kernels do alike with a part's exact dot products: the float operations, whose
// order is part of the contract in matmul.h.
#ifndef LODE_CPU_X86_AVX512_H
#define LODE_CPU_X86_AVX512_H

#include "backends/cpu/x86_pack.h"

static ALWAYS_INLINE __m512i load_64(const void *bytes)
{
    return _mm512_loadu_si512(bytes);
}

// sum + the part of PANEL_LANES weight rows times an activation block. dot: lane scales included, offset
// subtracted.
static ALWAYS_INLINE __m512 add_part(enum lode_type type, __m512 sum, __m512i dot,
                                     const struct panel_part *part, const struct cpu_block *x)
{
    __m512 x_scale = _mm512_set1_ps(x->scale);
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(part->scale), x_scale);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sum);
    if (has_minimum(type))
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(part->minimum), _mm512_set1_ps(x->scaled_sum), sum);
    if (has_lane_minima(type)) {
        __m512i x_sums = _mm512_set1_epi32(load_i32(x->sums));
        __m512i minimum_sum = _mm512_dpwssd_epi32(_mm512_setzero_si512(), load_64(part->sum_factors), x_sums);
        __m512 minimum = _mm512_mul_ps(_mm512_loadu_ps(part->minimum), x_scale);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(minimum_sum), minimum, sum);
    }
    return sum;
}

#endif
