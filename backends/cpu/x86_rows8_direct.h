// Products of interleaved weights (rows8.h) with few activation rows: lane r of a sum is row r of a group, so
// nothing has to be gathered, and nothing added up across a vector. The includer defines dot_part_of_eight.
#ifndef LODE_CPU_X86_ROWS8_DIRECT_H
#define LODE_CPU_X86_ROWS8_DIRECT_H

#include "backends/cpu/x86_direct.h"
#include "backends/cpu/x86_rows8.h"

#define ROWS8_TOKENS 4

// dots[i] = the eight rows of a part times activation block x[i], lane scales included, offset not.
static ALWAYS_INLINE void dot_part_of_eight(enum lode_type type, unsigned tokens, __m256i dots[ROWS8_TOKENS],
                                            struct rows8_block block, unsigned part,
                                            const __m256i scale_pairs[2], const struct cpu_block *const *x);

// The order of the float operations is part of the contract in matmul.h.
static ALWAYS_INLINE __m256 rows8_finish(enum lode_type type, __m256 sum, __m256i dot,
                                         const struct row_heads *heads, unsigned part, __m256i factors,
                                         const struct cpu_block *x)
{
    const __m256 x_scale = _mm256_set1_ps(x->scale);
    if (code_offset(type))
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(factors, _mm256_set1_epi32(load_i32(x->sums))));
    sum =
        _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(part_scale(type, heads, part), x_scale), sum);
    if (has_minimum(type))
        sum = _mm256_fmadd_ps(part_minimum(type, heads, part), _mm256_set1_ps(x->scaled_sum), sum);
    return sum;
}

static ALWAYS_INLINE void rows8_add_part(enum lode_type type, unsigned tokens, __m256 sums[ROWS8_TOKENS],
                                         struct rows8_block block, const struct row_heads *heads,
                                         unsigned part, const struct cpu_block *const *x)
{
    const __m256i minus_offset = _mm256_set1_epi16((short)-code_offset(type));
    __m256i scale_pairs[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)}, factors = minus_offset;
    if (has_lane_scales(type)) {
        const __m256i low = lane_scale(type, heads, part, 0), high = lane_scale(type, heads, part, 1);
        scale_pairs[0] = pair_of(low, low);
        scale_pairs[1] = pair_of(high, high);
        factors = _mm256_mullo_epi16(pair_of(low, high), minus_offset);
    }
    const struct cpu_block *blocks[ROWS8_TOKENS];
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        blocks[i] = x[i] + part;
    __m256i dots[ROWS8_TOKENS];
    dot_part_of_eight(type, tokens, dots, block, part, scale_pairs, blocks);
    UNROLL
    for (unsigned i = 0; i < tokens; i++)
        sums[i] = rows8_finish(type, sums[i], dots[i], heads, part, factors, blocks[i]);
}

// sums[i] = the eight rows of a group times activation row x[i]. The blocks' share of the group behind it is
// asked for meanwhile, as in direct_eight_rows.
static ALWAYS_INLINE void rows8_group(enum lode_type type, unsigned tokens, __m256 sums[ROWS8_TOKENS],
                                      const uint8_t *group, size_t n_blocks, const struct cpu_block *const *x)
{
    const uint8_t *ahead = group + n_blocks * 8 * block_bytes(type);
    for (unsigned i = 0; i < tokens; i++)
        sums[i] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++) {
        const struct rows8_block block = rows8_block(type, group, n_blocks, b);
        const struct cpu_block *blocks[ROWS8_TOKENS];
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            blocks[i] = x[i] + b * block_parts(type);
        prefetch_blocks(type, ahead + b * 8 * block_bytes(type));
        struct row_heads heads;
        rows8_load_heads(&heads, type, block.heads);
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++)
            rows8_add_part(type, tokens, sums, block, &heads, part, blocks);
    }
}

static inline const uint8_t *rows8_group_of(const struct cpu_product *p, uint32_t row)
{
    return (const uint8_t *)p->weight->data + (size_t)(p->first_row + row) * p->weight->row_bytes;
}

static ALWAYS_INLINE void rows8_tokens(enum lode_type type, unsigned tokens, const struct cpu_product *p,
                                       uint32_t token)
{
    const size_t n_blocks = p->weight->cols / (32 * block_parts(type));
    const struct cpu_block *x[ROWS8_TOKENS];
    for (unsigned i = 0; i < tokens; i++)
        x[i] = block_row(p, token + i);
    for (uint32_t r = 0; r < p->n_rows; r += 8) {
        __m256 sums[ROWS8_TOKENS];
        rows8_group(type, tokens, sums, rows8_group_of(p, r), n_blocks, x);
        for (unsigned i = 0; i < tokens; i++)
            _mm256_storeu_ps(out_row(p, token + i) + r, sums[i]);
    }
}

static ALWAYS_INLINE void multiply_rows8(enum lode_type type, const struct cpu_product *p)
{
    uint32_t token = 0;
    for (; token + 4 <= p->n; token += 4)
        rows8_tokens(type, 4, p, token);
    for (; token + 2 <= p->n; token += 2)
        rows8_tokens(type, 2, p, token);
    if (token < p->n)
        rows8_tokens(type, 1, p, token);
}

#endif
