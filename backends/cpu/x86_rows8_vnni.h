// The dot products of interleaved weights by VNNI, which both of its forms share; the includer defines
// DPBUSD.
#ifndef LODE_CPU_X86_ROWS8_VNNI_H
#define LODE_CPU_X86_ROWS8_VNNI_H

#include "backends/cpu/x86_rows8_direct.h"

static ALWAYS_INLINE void dot_parts_of_eight(enum lode_type type, unsigned n, unsigned tokens,
                                             __m256i dots[ROWS8_PARTS][ROWS8_TOKENS],
                                             const struct rows8_parts *parts,
                                             const __m256i scale_pairs[ROWS8_PARTS][2])
{
    __m256i halves[2][ROWS8_PARTS][ROWS8_TOKENS];
    UNROLL
    for (unsigned j = 0; j < 8; j++) {
        const unsigned half = j / 4;
        __m256i codes[ROWS8_PARTS];
        rows8_ask(type, n, parts, j);
        rows8_codes(codes, type, n, parts, j);
        UNROLL
        for (unsigned k = 0; k < n; k++) {
            UNROLL
            for (unsigned i = 0; i < tokens; i++) {
                __m256i sum = _mm256_setzero_si256();
                if (j % 4)
                    sum = halves[half][k][i];
                else if (half && !has_lane_scales(type))
                    sum = halves[0][k][i];
                halves[half][k][i] =
                    DPBUSD(sum, codes[k], _mm256_set1_epi32(load_i32(parts->x[i][k].q + 4 * j)));
            }
        }
    }
    UNROLL
    for (unsigned k = 0; k < n; k++) {
        UNROLL
        for (unsigned i = 0; i < tokens; i++) {
            dots[k][i] = halves[1][k][i];
            if (has_lane_scales(type))
                dots[k][i] = _mm256_add_epi32(
                    _mm256_mullo_epi32(halves[0][k][i], _mm256_srai_epi32(scale_pairs[k][0], 16)),
                    _mm256_mullo_epi32(halves[1][k][i], _mm256_srai_epi32(scale_pairs[k][1], 16)));
        }
    }
}

#endif
