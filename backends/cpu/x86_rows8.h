// Codes and heads of interleaved weights (rows8.h), one row a lane. Codes come as fours: word j holds codes
// 4j .. 4j + 3 of a part for each of the eight rows, as in a panel.
#ifndef LODE_CPU_X86_ROWS8_H
#define LODE_CPU_X86_ROWS8_H

#include "backends/cpu/rows8.h"
#include "backends/cpu/x86_scales.h"

// The bytes of a block's codes and of its heads, of one row.
static ALWAYS_INLINE unsigned rows8_code_bytes(enum lode_type type)
{
    switch (type) {
    case LODE_Q8_0:
        return 32;
    case LODE_Q4_K:
        return 128;
    case LODE_Q5_K:
        return 160;
    case LODE_Q6_K:
        return 192;
    default:
        return 16;
    }
}

static ALWAYS_INLINE unsigned rows8_head_bytes(enum lode_type type)
{
    return block_bytes(type) - rows8_code_bytes(type);
}

static ALWAYS_INLINE bool rows8_has(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_0:
    case LODE_Q4_1:
    case LODE_Q5_0:
    case LODE_Q5_1:
    case LODE_Q8_0:
    case LODE_Q4_K:
    case LODE_Q5_K:
    case LODE_Q6_K:
        return true;
    default:
        return false;
    }
}

// A block of eight rows.
struct rows8_block {
    const uint8_t *codes, *heads;
};

static ALWAYS_INLINE struct rows8_block rows8_block(enum lode_type type, const uint8_t *group,
                                                    size_t n_blocks, size_t block)
{
    if (block_parts(type) > 1) { // whole blocks, one behind the other
        const uint8_t *codes = group + block * 8 * block_bytes(type);
        return (struct rows8_block){codes, codes + 8 * rows8_code_bytes(type)};
    }
    const uint8_t *heads = group + n_blocks * 8 * rows8_code_bytes(type);
    return (struct rows8_block){group + block * 8 * rows8_code_bytes(type),
                                heads + block * 8 * rows8_head_bytes(type)};
}

static ALWAYS_INLINE void rows8_load_heads(struct row_heads *heads, enum lode_type type, const uint8_t *bytes)
{
    switch (type) {
    case LODE_Q5_0:
        heads->scale = _mm256_cvtph_ps(load_16(bytes + 32));
        return;
    case LODE_Q4_1:
        heads->scale = _mm256_cvtph_ps(load_16(bytes));
        heads->minimum = _mm256_cvtph_ps(load_16(bytes + 16));
        return;
    case LODE_Q5_1:
        heads->scale = _mm256_cvtph_ps(load_16(bytes + 32));
        heads->minimum = _mm256_cvtph_ps(load_16(bytes + 48));
        return;
    case LODE_Q4_K:
    case LODE_Q5_K:
        UNROLL
        for (unsigned q = 0; q < 3; q++)
            heads->words[q + 1] = load_32(bytes + 32 * q);
        heads->scale = _mm256_cvtph_ps(load_16(bytes + 96));
        heads->minimum = negate(_mm256_cvtph_ps(load_16(bytes + 112)));
        unpack_k4_scales(heads->words);
        return;
    case LODE_Q6_K:
        heads->scale = _mm256_cvtph_ps(load_16(bytes + 128));
        return;
    default: // Q4_0, Q8_0
        heads->scale = _mm256_cvtph_ps(load_16(bytes));
        return;
    }
}

// Both integer scales of a part (Q6_K) as pairs of 16-bit numbers.
static ALWAYS_INLINE __m256i rows8_lane_scales(struct rows8_block block, unsigned part)
{
    return _mm256_cvtepi8_epi16(load_16(block.heads + 16 * part));
}

static ALWAYS_INLINE __m256i rows8_word(struct rows8_block block, unsigned word)
{
    return load_32(block.codes + 32 * word);
}

// Codes 4j .. 4j + 3 of part `part`.
static ALWAYS_INLINE __m256i rows8_four(enum lode_type type, struct rows8_block block, unsigned part,
                                        unsigned j)
{
    const unsigned half = part / 4, quarter = part % 4;
    switch (type) {
    case LODE_Q8_0:
        return wide_codes(rows8_word(block, j));
    case LODE_Q5_0:
    case LODE_Q5_1:
        return _mm256_or_si256(take_bits(rows8_word(block, j % 4), 4 * (j / 4), 0, 15),
                               take_bits(load_32(block.heads), j, 4, 16));
    case LODE_Q4_K:
        return take_bits(rows8_word(block, 8 * (part / 2) + j), 4 * (part % 2), 0, 15);
    case LODE_Q5_K:
        return _mm256_or_si256(take_bits(rows8_word(block, 8 + 8 * (part / 2) + j), 4 * (part % 2), 0, 15),
                               take_bits(rows8_word(block, j), part, 4, 16));
    case LODE_Q6_K:
        return _mm256_or_si256(
            take_bits(rows8_word(block, 16 * half + 8 * (quarter % 2) + j), 4 * (quarter / 2), 0, 15),
            take_bits(rows8_word(block, 32 + 8 * half + j), 2 * quarter, 4, 0x30));
    default: // Q4_0, Q4_1
        return take_bits(rows8_word(block, j % 4), 4 * (j / 4), 0, 15);
    }
}

// Parts of a block whose codes lie in the same words.
static ALWAYS_INLINE unsigned rows8_set_parts(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_K:
    case LODE_Q5_K:
        return 2;
    case LODE_Q6_K:
        return 4;
    default:
        return 1;
    }
}

// codes[k] = codes 4j .. 4j + 3 of part k of set `set`, each word loaded once.
static ALWAYS_INLINE void rows8_set_fours(__m256i codes[4], enum lode_type type, struct rows8_block block,
                                          unsigned set, unsigned j)
{
    if (type == LODE_Q6_K) {
        const __m256i high = rows8_word(block, 32 + 8 * set + j);
        UNROLL
        for (unsigned k = 0; k < 2; k++) {
            const __m256i low = rows8_word(block, 16 * set + 8 * k + j);
            codes[k] = _mm256_or_si256(take_bits(low, 0, 0, 15), take_bits(high, 2 * k, 4, 0x30));
            codes[k + 2] = _mm256_or_si256(take_bits(low, 4, 0, 15), take_bits(high, 2 * k + 4, 4, 0x30));
        }
        return;
    }
    const __m256i word = rows8_word(block, (type == LODE_Q5_K ? 8 : 0) + 8 * set + j);
    codes[0] = take_bits(word, 0, 0, 15);
    codes[1] = take_bits(word, 4, 0, 15);
    if (type == LODE_Q5_K) {
        const __m256i bits = rows8_word(block, j);
        codes[0] = _mm256_or_si256(codes[0], take_bits(bits, 2 * set, 4, 16));
        codes[1] = _mm256_or_si256(codes[1], take_bits(bits, 2 * set + 1, 4, 16));
    }
}

#endif
