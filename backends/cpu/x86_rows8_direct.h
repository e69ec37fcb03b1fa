// Products of interleaved weights (rows8.h) with few activation rows: lane r of a sum is row r of a group, so
// nothing has to be gathered, and nothing added up across a vector. The includer defines dot_parts_of_eight.
#ifndef LODE_CPU_X86_ROWS8_DIRECT_H
#define LODE_CPU_X86_ROWS8_DIRECT_H

#include "backends/cpu/x86_direct.h"
#include "backends/cpu/x86_rows8.h"

#define ROWS8_TOKENS 4
#define ROWS8_PARTS 4

// n parts of a block, a set (rows8_set_parts) or one, which are multiplied together with some activation
// rows.
struct rows8_parts {
    struct rows8_block block;
    const uint8_t *ahead; // where a block lies that will be wanted soon
    unsigned first;
    const struct cpu_block *x[ROWS8_TOKENS]; // the activations that meet part `first`
};

// dots[k][i] = the eight rows of part k of them times activation row i, lane scales included, offset not.
// Calls rows8_ask in each of the eight steps.
static ALWAYS_INLINE void dot_parts_of_eight(enum lode_type type, unsigned n, unsigned tokens,
                                             __m256i dots[ROWS8_PARTS][ROWS8_TOKENS],
                                             const struct rows8_parts *parts,
                                             const __m256i scale_pairs[ROWS8_PARTS][2]);

static ALWAYS_INLINE void rows8_codes(__m256i codes[ROWS8_PARTS], enum lode_type type, unsigned n,
                                      const struct rows8_parts *parts, unsigned j)
{
    if (n > 1)
        rows8_set_fours(codes, type, parts->block, parts->first / n, j);
    else
        codes[0] = rows8_four(type, parts->block, parts->first, j);
}

// A prefetch that stays where it is written: compilers move the others together, and requests in bursts wait
// for each other.
static ALWAYS_INLINE void prefetch_here(const uint8_t *bytes)
{
    __asm__ volatile("prefetcht0 %0" ::"m"(*bytes));
}

// Step j of eight with these parts asks for its share of the block ahead, in types that have more than one.
static ALWAYS_INLINE void rows8_ask(enum lode_type type, unsigned n, const struct rows8_parts *parts,
                                    unsigned j)
{
    if (block_parts(type) == 1)
        return;
    const unsigned lines = (8 * block_bytes(type) + 63) / 64, steps = 8 * block_parts(type) / n,
                   step = 8 * parts->first / n + j;
    UNROLL
    for (unsigned i = (lines * step + steps - 1) / steps; i < (lines * (step + 1) + steps - 1) / steps; i++)
        prefetch_here(parts->ahead + 64 * i);
}

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

static ALWAYS_INLINE void rows8_add_parts(enum lode_type type, unsigned n, unsigned tokens,
                                          __m256 sums[ROWS8_TOKENS], const struct rows8_parts *parts,
                                          const struct row_heads *heads)
{
    const __m256i minus_offset = _mm256_set1_epi16((short)-code_offset(type));
    __m256i scale_pairs[ROWS8_PARTS][2], factors[ROWS8_PARTS], dots[ROWS8_PARTS][ROWS8_TOKENS];
    UNROLL
    for (unsigned k = 0; k < n; k++) {
        scale_pairs[k][0] = scale_pairs[k][1] = _mm256_set1_epi16(1);
        factors[k] = minus_offset;
        if (has_lane_scales(type)) {
            const __m256i scales = rows8_lane_scales(parts->block, parts->first + k);
            spread_lane_scales(scale_pairs[k], scales);
            factors[k] = _mm256_mullo_epi16(scales, minus_offset);
        }
    }
    dot_parts_of_eight(type, n, tokens, dots, parts, scale_pairs);
    UNROLL
    for (unsigned k = 0; k < n; k++) {
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            sums[i] =
                rows8_finish(type, sums[i], dots[k][i], heads, parts->first + k, factors[k], parts->x[i] + k);
    }
}

// Groups of types with one part a block that are multiplied together with one activation row: 16 rows share
// its loads, and are two streams.
#define ROWS8_GROUPS 2

// How far ahead of their use bytes are asked for: of the one stream of a K-quant, where 2 to 4 KB make no
// difference, and of each of two streams. Groups that are small beside the nearest cache ask for those that
// follow instead; larger ones not, for they may be a fifth of a task, and what lies behind its end is another
// thread's.
#define ROWS8_AHEAD_BYTES 3072
#define ROWS8_AHEAD_EACH_BYTES 1024
#define ROWS8_SMALL_BYTES 16384

// From a block's codes and heads to those of the block that is asked for meanwhile.
struct rows8_lead {
    size_t codes, heads;
};

// Of types with one part a block, whose shares are a few lines.
static ALWAYS_INLINE void prefetch_block(enum lode_type type, struct rows8_block block,
                                         struct rows8_lead lead)
{
    UNROLL
    for (unsigned byte = 0; byte < 8 * rows8_code_bytes(type); byte += 64)
        _mm_prefetch((const char *)block.codes + lead.codes + byte, _MM_HINT_T0);
    _mm_prefetch((const char *)block.heads + lead.heads, _MM_HINT_T0);
}

// sums[g][i] += blocks from .. to - 1 of the eight rows of group g times activation row x[i].
static ALWAYS_INLINE void rows8_blocks(enum lode_type type, unsigned groups, unsigned tokens,
                                       __m256 sums[ROWS8_GROUPS][ROWS8_TOKENS], const uint8_t *first,
                                       size_t n_blocks, size_t from, size_t to, struct rows8_lead lead,
                                       const struct cpu_block *const *x)
{
    const size_t group_bytes = n_blocks * 8 * block_bytes(type);
    const unsigned set = tokens == 1 ? rows8_set_parts(type) : 1;
    for (size_t b = from; b < to; b++) {
        struct rows8_parts parts[ROWS8_GROUPS];
        struct row_heads heads[ROWS8_GROUPS];
        UNROLL
        for (unsigned g = 0; g < groups; g++) {
            const struct rows8_block block = rows8_block(type, first + g * group_bytes, n_blocks, b);
            parts[g] = (struct rows8_parts){.block = block, .ahead = block.codes + lead.codes};
            if (block_parts(type) == 1)
                prefetch_block(type, block, lead);
            rows8_load_heads(&heads[g], type, block.heads);
        }
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part += set) {
            UNROLL
            for (unsigned g = 0; g < groups; g++) {
                parts[g].first = part;
                UNROLL
                for (unsigned i = 0; i < tokens; i++)
                    parts[g].x[i] = x[i] + b * block_parts(type) + part;
                rows8_add_parts(type, set, tokens, sums[g], &parts[g], &heads[g]);
            }
        }
    }
}

// sums[g][i] = the eight rows of group g times activation row x[i]. What follows is asked for meanwhile, from
// the groups behind when these end.
static ALWAYS_INLINE void rows8_groups(enum lode_type type, unsigned groups, unsigned tokens,
                                       __m256 sums[ROWS8_GROUPS][ROWS8_TOKENS], const uint8_t *first,
                                       size_t n_blocks, const struct cpu_block *const *x)
{
    const size_t code_bytes = 8 * rows8_code_bytes(type), head_bytes = 8 * rows8_head_bytes(type);
    for (unsigned g = 0; g < groups; g++)
        for (unsigned i = 0; i < tokens; i++)
            sums[g][i] = _mm256_setzero_ps();
    if (block_parts(type) > 1) {
        rows8_blocks(type, groups, tokens, sums, first, n_blocks, 0, n_blocks,
                     (struct rows8_lead){ROWS8_AHEAD_BYTES, 0}, x);
        return;
    }
    const size_t ahead = ROWS8_AHEAD_EACH_BYTES / code_bytes,
                 next = groups * n_blocks * 8 * block_bytes(type);
    const size_t near = next > ROWS8_SMALL_BYTES && ahead < n_blocks ? n_blocks - ahead : 0;
    rows8_blocks(type, groups, tokens, sums, first, n_blocks, 0, near,
                 (struct rows8_lead){ahead * code_bytes, ahead * head_bytes}, x);
    rows8_blocks(type, groups, tokens, sums, first, n_blocks, near, n_blocks,
                 (struct rows8_lead){next - near * code_bytes, next - near * head_bytes}, x);
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
    if (tokens == 1 && block_parts(type) == 1)
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
