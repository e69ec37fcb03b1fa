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

// Groups that are multiplied together with one activation row. 16 rows share its loads and are two streams,
// which reads as fast as a plain loop over memory, a fifth faster than one (Zen 3). The heads of two blocks
// of K-quants do not fit into the registers.
#define ROWS8_GROUPS 2

static ALWAYS_INLINE unsigned rows8_groups_of(enum lode_type type)
{
    return block_parts(type) == 1 ? ROWS8_GROUPS : 1;
}

// Asks for a block's share of what lies `ahead`. It will be used once and need not stay in the caches; but
// blocks of K-quants, of a kilobyte and more, are read faster when it may.
static ALWAYS_INLINE void prefetch_share(enum lode_type type, const uint8_t *ahead)
{
    UNROLL
    for (unsigned byte = 0; byte < 8 * block_bytes(type); byte += 64) {
        if (block_parts(type) == 1)
            _mm_prefetch((const char *)ahead + byte, _MM_HINT_NTA);
        else
            _mm_prefetch((const char *)ahead + byte, _MM_HINT_T0);
    }
}

// sums[g][i] = the eight rows of group g times activation row x[i]. As many groups behind them are asked for
// meanwhile.
static ALWAYS_INLINE void rows8_groups(enum lode_type type, unsigned groups, unsigned tokens,
                                       __m256 sums[ROWS8_GROUPS][ROWS8_TOKENS], const uint8_t *first,
                                       size_t n_blocks, const struct cpu_block *const *x)
{
    const size_t group_bytes = n_blocks * 8 * block_bytes(type), share = 8 * block_bytes(type);
    for (unsigned g = 0; g < groups; g++)
        for (unsigned i = 0; i < tokens; i++)
            sums[g][i] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++) {
        struct rows8_block block[ROWS8_GROUPS];
        struct row_heads heads[ROWS8_GROUPS];
        const struct cpu_block *blocks[ROWS8_TOKENS];
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            blocks[i] = x[i] + b * block_parts(type);
        UNROLL
        for (unsigned g = 0; g < groups; g++) {
            prefetch_share(type, first + (groups + g) * group_bytes + b * share);
            block[g] = rows8_block(type, first + g * group_bytes, n_blocks, b);
            rows8_load_heads(&heads[g], type, block[g].heads);
        }
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++) {
            UNROLL
            for (unsigned g = 0; g < groups; g++) {
                rows8_add_part(type, tokens, sums[g], block[g], &heads[g], part, blocks);
            }
        }
    }
}

static inline const uint8_t *rows8_group_of(const struct cpu_product *p, uint32_t row)
{
    return (const uint8_t *)p->weight->data + (size_t)(p->first_row + row) * p->weight->row_bytes;
}

static ALWAYS_INLINE void rows8_rows(enum lode_type type, unsigned groups, unsigned tokens,
                                     const struct cpu_product *p, uint32_t token, uint32_t row,
                                     const struct cpu_block *const *x)
{
    __m256 sums[ROWS8_GROUPS][ROWS8_TOKENS];
    rows8_groups(type, groups, tokens, sums, rows8_group_of(p, row),
                 p->weight->cols / (32 * block_parts(type)), x);
    for (unsigned g = 0; g < groups; g++)
        for (unsigned i = 0; i < tokens; i++)
            _mm256_storeu_ps(out_row(p, token + i) + row + 8 * g, sums[g][i]);
}

static ALWAYS_INLINE void rows8_tokens(enum lode_type type, unsigned tokens, const struct cpu_product *p,
                                       uint32_t token)
{
    const struct cpu_block *x[ROWS8_TOKENS];
    for (unsigned i = 0; i < tokens; i++)
        x[i] = block_row(p, token + i);
    uint32_t row = 0;
    if (tokens == 1 && rows8_groups_of(type) > 1)
        for (; row + 8 * ROWS8_GROUPS <= p->n_rows; row += 8 * ROWS8_GROUPS)
            rows8_rows(type, ROWS8_GROUPS, tokens, p, token, row, x);
    for (; row < p->n_rows; row += 8)
        rows8_rows(type, 1, tokens, p, token, row, x);
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
