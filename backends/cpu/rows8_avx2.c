// Interleaved rows back in the order of the file, with AVX2: 16 bytes of each of eight rows are a
// transposition of 32-bit words, so that copies of weights for another device leave as fast as memory is
// written.
#if defined(__x86_64__)

#include "backends/cpu/x86_rows8.h"

// out + r * stride = 16 bytes of row r, of which words[q] has word q in lane r: transpose_words the other way
// round.
static ALWAYS_INLINE void put_words(uint8_t *out, size_t stride, const __m256i words[4])
{
    const __m256i low = _mm256_unpacklo_epi32(words[0], words[1]),
                  high = _mm256_unpackhi_epi32(words[0], words[1]);
    const __m256i next_low = _mm256_unpacklo_epi32(words[2], words[3]),
                  next_high = _mm256_unpackhi_epi32(words[2], words[3]);
    const __m256i rows[4] = {_mm256_unpacklo_epi64(low, next_low), _mm256_unpackhi_epi64(low, next_low),
                             _mm256_unpacklo_epi64(high, next_high),
                             _mm256_unpackhi_epi64(high, next_high)}; // r and r + 4
    UNROLL
    for (unsigned r = 0; r < 4; r++) {
        _mm_storeu_si128((__m128i *)(out + r * stride), _mm256_castsi256_si128(rows[r]));
        _mm_storeu_si128((__m128i *)(out + (r + 4) * stride), _mm256_extracti128_si256(rows[r], 1));
    }
}

// One word, and one half, of each row.
static ALWAYS_INLINE void put_word(uint8_t *out, size_t stride, __m256i word)
{
    uint32_t each[CPU_ROWS8];
    _mm256_storeu_si256((__m256i *)each, word);
    UNROLL
    for (unsigned r = 0; r < CPU_ROWS8; r++)
        memcpy(out + r * stride, &each[r], sizeof each[r]);
}

static ALWAYS_INLINE void put_half(uint8_t *out, size_t stride, const uint8_t *halves)
{
    UNROLL
    for (unsigned r = 0; r < CPU_ROWS8; r++)
        memcpy(out + r * stride, halves + 2 * r, 2);
}

// Words out of the halves that they begin and end with.
static ALWAYS_INLINE __m256i join_halves(const uint8_t *halves)
{
    const __m128i low = load_16(halves), high = load_16(halves + 16);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(low, high)),
                                   _mm_unpackhi_epi16(low, high), 1);
}

// As turn_back in rows8.c.
static ALWAYS_INLINE __m256i turn_back(__m256i turned)
{
    const __m256i first = _mm256_set1_epi32(0x01010101), gather = _mm256_set1_epi32(0x01020408);
    __m256i bits = _mm256_setzero_si256();
    UNROLL
    for (unsigned j = 0; j < 8; j++) {
        const __m256i each = _mm256_and_si256(_mm256_srli_epi32(turned, (int)j), first);
        const __m256i four = _mm256_srli_epi32(_mm256_mullo_epi32(each, gather), 24);
        bits = _mm256_or_si256(bits, _mm256_slli_epi32(four, (int)(4 * j)));
    }
    return bits;
}

static ALWAYS_INLINE void put_heads(enum lode_type type, uint8_t *out, size_t stride, const uint8_t *heads)
{
    switch (type) {
    case LODE_Q4_1:
        put_word(out, stride, join_halves(heads));
        return;
    case LODE_Q5_0:
        put_half(out, stride, heads + 32);
        put_word(out + 2, stride, turn_back(load_32(heads)));
        return;
    case LODE_Q5_1:
        put_word(out, stride, join_halves(heads + 32));
        put_word(out + 4, stride, turn_back(load_32(heads)));
        return;
    case LODE_Q4_K:
    case LODE_Q5_K: {
        const __m256i words[4] = {join_halves(heads + 96), load_32(heads), load_32(heads + 32),
                                  load_32(heads + 64)};
        put_words(out, stride, words);
        return;
    }
    case LODE_Q6_K: { // behind the codes
        const __m256i words[4] = {join_halves(heads), join_halves(heads + 32), join_halves(heads + 64),
                                  join_halves(heads + 96)};
        put_words(out + rows8_code_bytes(type), stride, words);
        put_half(out + rows8_code_bytes(type) + 16, stride, heads + 128);
        return;
    }
    default: // Q4_0, Q8_0
        put_half(out, stride, heads);
    }
}

// Asks for a block's share of where the next eight rows will be written: eight short streams are more than
// the hardware follows. Blocks of 18 to 24 bytes gain a tenth (Zen 3, beside other work).
static ALWAYS_INLINE void ask_for_next(enum lode_type type, const uint8_t *rows, size_t row_bytes,
                                       size_t block)
{
    const uint8_t *next = rows + CPU_ROWS8 * (row_bytes + block * block_bytes(type));
    UNROLL_16
    for (unsigned byte = 0; byte < CPU_ROWS8 * block_bytes(type); byte += 64)
        _mm_prefetch((const char *)next + byte, _MM_HINT_T0);
}

static ALWAYS_INLINE void restore(enum lode_type type, uint8_t *rows, size_t row_bytes, const uint8_t *group)
{
    const size_t n_blocks = row_bytes / block_bytes(type);
    for (size_t b = 0; b < n_blocks; b++) {
        const struct rows8_block block = rows8_block(type, group, n_blocks, b);
        uint8_t *out = rows + b * block_bytes(type);
        uint8_t *codes = out + (type == LODE_Q6_K ? 0 : rows8_head_bytes(type));
        ask_for_next(type, rows, row_bytes, b);
        put_heads(type, out, row_bytes, block.heads);
        for (unsigned c = 0; c < rows8_code_bytes(type); c += 16) {
            const uint8_t *from = block.codes + CPU_ROWS8 * c;
            const __m256i words[4] = {load_32(from), load_32(from + 32), load_32(from + 64),
                                      load_32(from + 96)};
            put_words(codes + c, row_bytes, words);
        }
    }
}

void cpu_rows8_restore_avx2(void *rows, enum lode_type type, size_t row_bytes, const void *group)
{
    switch (type) {
    case LODE_Q4_0:
        restore(LODE_Q4_0, rows, row_bytes, group);
        return;
    case LODE_Q4_1:
        restore(LODE_Q4_1, rows, row_bytes, group);
        return;
    case LODE_Q5_0:
        restore(LODE_Q5_0, rows, row_bytes, group);
        return;
    case LODE_Q5_1:
        restore(LODE_Q5_1, rows, row_bytes, group);
        return;
    case LODE_Q8_0:
        restore(LODE_Q8_0, rows, row_bytes, group);
        return;
    case LODE_Q4_K:
        restore(LODE_Q4_K, rows, row_bytes, group);
        return;
    case LODE_Q5_K:
        restore(LODE_Q5_K, rows, row_bytes, group);
        return;
    default: // the last that is interleaved
        restore(LODE_Q6_K, rows, row_bytes, group);
    }
}

#else
typedef int rows8_avx2_is_for_x86;
#endif
