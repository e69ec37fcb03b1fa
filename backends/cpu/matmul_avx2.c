// Matrix products with AVX2, FMA and F16C.
//
// Bytes are multiplied with maddubs, which adds two products in 16 bits with saturation. Activations stay
// within +-127, so that no two products saturate; narrow codes are summed further in 16 bits (see code_bits).
// The 8-bit types give maddubs the weights' magnitudes and the activations with the weights' signs.
#if defined(__x86_64__)

#include "backends/cpu/x86_avx2.h"

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

static ALWAYS_INLINE void dot_part(enum lode_type type, unsigned tokens, __m256i dots[2][TILE_TOKENS],
                                   const struct panel_part *part, const struct cpu_block *const *x)
{
    const unsigned step = pairs_in_16_bits(type);
    UNROLL
    for (unsigned first = 0; first < 8; first += step)
        add_fours(type, tokens, dots, part, x, first, step);
}

static ALWAYS_INLINE void dot_parts_of_eight(enum lode_type type, unsigned n, unsigned tokens,
                                             __m256i dots[ROWS8_PARTS][ROWS8_TOKENS],
                                             const struct rows8_parts *parts,
                                             const __m256i scale_pairs[ROWS8_PARTS][2])
{
    const unsigned step = pairs_in_16_bits(type);
    UNROLL
    for (unsigned first = 0; first < 8; first += step) {
        __m256i pairs[ROWS8_PARTS][ROWS8_TOKENS];
        UNROLL
        for (unsigned j = first; j < first + step; j++) {
            __m256i codes[ROWS8_PARTS];
            rows8_ask(type, n, parts, j);
            rows8_codes(codes, type, n, parts, j);
            UNROLL
            for (unsigned k = 0; k < n; k++) {
                UNROLL
                for (unsigned i = 0; i < tokens; i++) {
                    __m256i products = dot_pairs(type, codes[k], broadcast_four(parts->x[i] + k, j));
                    pairs[k][i] = j > first ? in_register(_mm256_add_epi16(pairs[k][i], products)) : products;
                }
            }
        }
        UNROLL
        for (unsigned k = 0; k < n; k++) {
            UNROLL
            for (unsigned i = 0; i < tokens; i++) {
                __m256i sum = _mm256_madd_epi16(pairs[k][i], scale_pairs[k][first / 4]);
                dots[k][i] = first ? in_register(_mm256_add_epi32(dots[k][i], sum)) : sum;
            }
        }
    }
}

DEFINE_QUANTISED_KERNELS

const struct cpu_matmul_kernels cpu_matmul_avx2 = X86_KERNEL_TABLE(struct panel);

#else
typedef int matmul_avx2_is_for_x86;
#endif
