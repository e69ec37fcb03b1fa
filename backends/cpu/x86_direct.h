// Products with one or two activation rows: eight weight rows at a time, straight from their blocks.
//
// Decoding is bound by memory, so the work for a byte of weights is kept small: the eight dot products of a
// part of 32 are added up across the rows (a transposing tree), and everything after that is done once for
// the eight. Includer defines dot_fours.
#ifndef LODE_CPU_X86_DIRECT_H
#define LODE_CPU_X86_DIRECT_H

#include "backends/cpu/x86_rows.h"
#include "backends/cpu/x86_scales.h"

// Lane i = sum of codes[4i .. 4i+3] * q[4i .. 4i+3].
static ALWAYS_INLINE __m256i dot_fours(enum lode_type type, __m256i codes, __m256i q);

// a and b with neighbouring lanes added: a0+a1, a2+a3, b0+b1, b2+b3 in each half. Narrow sums go through 16
// bits: pack and multiply-add are two operations where the horizontal add is three.
static ALWAYS_INLINE __m256i add_neighbours(bool narrow, __m256i a, __m256i b)
{
    if (narrow)
        return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
    return _mm256_hadd_epi32(a, b);
}

// Four rows' lanes to their sums, row i in lane i of each half of the vector.
static ALWAYS_INLINE __m256i add_up_four(enum lode_type type, const __m256i rows[4])
{
    bool fours_narrow = code_bits(type) <= 6,
         eights_narrow = code_bits(type) <= 5; // 4 * 63 * 127, 8 * 31 * 127
    __m256i ab = add_neighbours(fours_narrow, rows[0], rows[1]);
    __m256i cd = add_neighbours(fours_narrow, rows[2], rows[3]);
    return add_neighbours(eights_narrow, ab, cd);
}

struct half_sums {
    __m256i low, high; // of weights 0..15 and 16..31; lane r for row r
};

static ALWAYS_INLINE struct half_sums dot_eight_rows(enum lode_type type, const __m256i codes[8], __m256i q)
{
    __m256i fours[2];
    UNROLL
    for (unsigned i = 0; i < 2; i++) {
        __m256i rows[4];
        UNROLL
        for (unsigned r = 0; r < 4; r++)
            rows[r] = dot_fours(type, codes[4 * i + r], q);
        fours[i] = add_up_four(type, rows);
    }
    return (struct half_sums){_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                              _mm256_permute2x128_si256(fours[0], fours[1], 0x31)};
}

// The exact integer dot product of a part, offset and lane scales included.
static ALWAYS_INLINE __m256i part_sum(enum lode_type type, const struct row_heads *heads, unsigned part,
                                      struct half_sums sums, const struct cpu_block *x)
{
    int offset = code_offset(type);
    if (!has_lane_scales(type)) {
        __m256i sum = _mm256_add_epi32(sums.low, sums.high);
        if (offset) {
            __m256i halves = _mm256_set1_epi32(load_i32(x->sums));
            sum = _mm256_sub_epi32(sum, _mm256_madd_epi16(halves, _mm256_set1_epi16((short)offset)));
        }
        return sum;
    }
    if (offset) {
        sums.low = _mm256_sub_epi32(sums.low, _mm256_set1_epi32(offset * x->sums[0]));
        sums.high = _mm256_sub_epi32(sums.high, _mm256_set1_epi32(offset * x->sums[1]));
    }
    return _mm256_add_epi32(_mm256_mullo_epi32(sums.low, lane_scale(type, heads, part, 0)),
                            _mm256_mullo_epi32(sums.high, lane_scale(type, heads, part, 1)));
}

static ALWAYS_INLINE __m256i lane_minimum_sum(const struct row_heads *heads, unsigned part,
                                              const struct cpu_block *x)
{
    return _mm256_add_epi32(_mm256_mullo_epi32(lane_minimum(heads, part, 0), _mm256_set1_epi32(x->sums[0])),
                            _mm256_mullo_epi32(lane_minimum(heads, part, 1), _mm256_set1_epi32(x->sums[1])));
}

// The order of the float operations is part of the contract in matmul.h: the panels do the same.
static ALWAYS_INLINE __m256 accumulate_part(enum lode_type type, __m256 sum, const struct row_heads *heads,
                                            unsigned part, struct half_sums sums, const struct cpu_block *x)
{
    __m256 x_scale = _mm256_set1_ps(x->scale);
    __m256 dot = _mm256_cvtepi32_ps(part_sum(type, heads, part, sums, x));
    sum = _mm256_fmadd_ps(dot, _mm256_mul_ps(part_scale(type, heads, part), x_scale), sum);
    if (has_minimum(type))
        sum = _mm256_fmadd_ps(part_minimum(type, heads, part), _mm256_set1_ps(x->scaled_sum), sum);
    if (has_lane_minima(type))
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(lane_minimum_sum(heads, part, x)),
                              _mm256_mul_ps(part_minimum(type, heads, part), x_scale), sum);
    return sum;
}

#define DIRECT_TOKENS 2

// Asks for the bytes that eight rows of one block take, the blocks' share of the next eight rows: a hardware
// prefetcher does not follow eight short streams, and without this the reading and the computing add up
// instead of overlapping.
static ALWAYS_INLINE void prefetch_blocks(enum lode_type type, const uint8_t *ahead)
{
    UNROLL
    for (unsigned byte = 0; byte < 8 * block_bytes(type); byte += 64)
        _mm_prefetch((const char *)ahead + byte, _MM_HINT_T0);
}

// sums[i] = eight weight rows, `stride` bytes apart, times activation row x[i].
static ALWAYS_INLINE void direct_eight_rows(enum lode_type type, unsigned tokens, __m256 *sums,
                                            const uint8_t *weights, size_t stride, size_t n_blocks,
                                            const struct cpu_block *const *x)
{
    for (unsigned i = 0; i < tokens; i++)
        sums[i] = _mm256_setzero_ps();
    const uint8_t *ahead = weights + 8 * stride;
    for (size_t b = 0; b < n_blocks; b++, weights += block_bytes(type)) {
        prefetch_blocks(type, ahead + b * 8 * block_bytes(type));
        struct row_heads heads;
        load_heads(&heads, type, weights, stride);
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++) {
            __m256i codes[8];
            UNROLL
            for (unsigned r = 0; r < 8; r++)
                codes[r] = unpack_codes(type, weights + r * stride, part);
            UNROLL
            for (unsigned i = 0; i < tokens; i++) {
                const struct cpu_block *x_block = x[i] + b * block_parts(type) + part;
                struct half_sums dots = dot_eight_rows(type, codes, load_32(x_block->q));
                sums[i] = accumulate_part(type, sums[i], &heads, part, dots, x_block);
            }
        }
    }
}

static ALWAYS_INLINE void store_lanes(float *out, __m256 sums, uint32_t skip, uint32_t n)
{
    if (n == 8) {
        _mm256_storeu_ps(out, sums);
        return;
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, sums);
    memcpy(out, lanes + skip, n * sizeof *out);
}

static ALWAYS_INLINE void direct_tokens(enum lode_type type, unsigned tokens, const struct cpu_product *p,
                                        uint32_t token)
{
    size_t n_blocks = p->weight->cols / (32 * block_parts(type));
    const struct cpu_block *x[DIRECT_TOKENS];
    for (unsigned i = 0; i < tokens; i++)
        x[i] = block_row(p, token + i);
    for (uint32_t r = 0, n; r < p->n_rows; r += n) {
        struct row_group group = row_group(p, r);
        __m256 sums[DIRECT_TOKENS];
        direct_eight_rows(type, tokens, sums, group.first, group.stride, n_blocks, x);
        for (unsigned i = 0; i < tokens; i++)
            store_lanes(out_row(p, token + i) + r, sums[i], group.skip, group.n);
        n = group.n;
    }
}

static ALWAYS_INLINE void multiply_direct(enum lode_type type, const struct cpu_product *p)
{
    uint32_t token = 0;
    for (; token + 2 <= p->n; token += 2)
        direct_tokens(type, 2, p, token);
    if (token < p->n)
        direct_tokens(type, 1, p, token);
}

#endif
