// Matrix products with AVX2 and AVX-VNNI: the tiles of AVX2 with the byte dot product of VNNI in 256 bits.
//
// It sums four products in 32 bits and saturates nowhere, so all codes are unsigned and there are no steps
// between: 8 operations for the dot products of a part of 32 where maddubs and its additions take 16 (Q4_0)
// to 31 (Q8_0). The results are the same bits as with AVX2.
#if defined(__x86_64__)

#define LODE_CODES_UNSIGNED

#include "backends/cpu/x86_avx2.h"

static ALWAYS_INLINE __m256i dot_fours(enum lode_type type, __m256i codes, __m256i q)
{
    (void)type;
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes, q);
}

static ALWAYS_INLINE void dot_tokens(unsigned tokens, __m256i dots[2][TILE_TOKENS],
                                     const struct panel_part *part, const struct cpu_block *const *x,
                                     unsigned first, unsigned n)
{
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        dots[0][i] = dots[1][i] = _mm256_setzero_si256();
    UNROLL
    for (unsigned j = first; j < first + n; j++) {
        __m256i codes[2] = {load_32(part->codes[j]), load_32(part->codes[j] + 32)};
        UNROLL
        for (unsigned i = 0; i < tokens; i++) {
            __m256i q = broadcast_four(x[i], j);
            dots[0][i] = _mm256_dpbusd_avx_epi32(dots[0][i], codes[0], q);
            dots[1][i] = _mm256_dpbusd_avx_epi32(dots[1][i], codes[1], q);
        }
    }
}

// One of a pair's equal 16-bit numbers, as 32 bits.
static ALWAYS_INLINE __m256i lane_scale_of(const struct panel_part *part, unsigned half, unsigned g)
{
    return _mm256_srai_epi32(load_32(&part->lane_scales[half][8 * g]), 16);
}

static ALWAYS_INLINE void dot_part(enum lode_type type, unsigned tokens, __m256i dots[2][TILE_TOKENS],
                                   const struct panel_part *part, const struct cpu_block *const *x)
{
    if (!has_lane_scales(type)) {
        dot_tokens(tokens, dots, part, x, 0, 8);
        return;
    }
    __m256i high[2][TILE_TOKENS];
    dot_tokens(tokens, dots, part, x, 0, 4);
    dot_tokens(tokens, high, part, x, 4, 4);
    UNROLL
    for (unsigned g = 0; g < 2; g++) {
        __m256i scales[2] = {lane_scale_of(part, 0, g), lane_scale_of(part, 1, g)};
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            dots[g][i] = _mm256_add_epi32(_mm256_mullo_epi32(dots[g][i], scales[0]),
                                          _mm256_mullo_epi32(high[g][i], scales[1]));
    }
}

#define DPBUSD _mm256_dpbusd_avx_epi32
#include "backends/cpu/x86_rows8_vnni.h"

DEFINE_QUANTISED_KERNELS

#ifdef LODE_SIMDE
const struct cpu_matmul_kernels cpu_matmul_avx2_vnni_simde = X86_KERNEL_TABLE(struct panel);
#else
const struct cpu_matmul_kernels cpu_matmul_avx2_vnni = X86_KERNEL_TABLE(struct panel);
#endif

#else
typedef int matmul_avx2_vnni_is_for_x86;
#endif
