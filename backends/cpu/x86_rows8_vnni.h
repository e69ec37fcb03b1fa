// The dot products of interleaved weights by VNNI, which both of its forms share; the includer defines
// DPBUSD.
#ifndef LODE_CPU_X86_ROWS8_VNNI_H
#define LODE_CPU_X86_ROWS8_VNNI_H

#include "backends/cpu/x86_rows8_direct.h"

static ALWAYS_INLINE void dot_part_of_eight(enum lode_type type, unsigned tokens, __m256i dots[ROWS8_TOKENS],
                                            struct rows8_block block, unsigned part,
                                            const __m256i scale_pairs[2], const struct cpu_block *const *x)
{
    __m256i halves[2][ROWS8_TOKENS];
    UNROLL
    for (unsigned half = 0; half < 2; half++) {
        UNROLL
        for (unsigned j = 4 * half; j < 4 * half + 4; j++) {
            const __m256i codes = rows8_four(type, block, part, j);
            UNROLL
            for (unsigned i = 0; i < tokens; i++) {
                __m256i sum = _mm256_setzero_si256();
                if (j % 4)
                    sum = halves[half][i];
                else if (half && !has_lane_scales(type))
                    sum = halves[0][i];
                halves[half][i] = DPBUSD(sum, codes, _mm256_set1_epi32(load_i32(x[i]->q + 4 * j)));
            }
        }
    }
    UNROLL
    for (unsigned i = 0; i < tokens; i++) {
        dots[i] = halves[1][i];
        if (has_lane_scales(type))
            dots[i] =
                _mm256_add_epi32(_mm256_mullo_epi32(halves[0][i], _mm256_srai_epi32(scale_pairs[0], 16)),
                                 _mm256_mullo_epi32(halves[1][i], _mm256_srai_epi32(scale_pairs[1], 16)));
    }
}

#endif
