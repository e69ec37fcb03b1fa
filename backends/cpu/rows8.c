// Interleaving rows by eights, and taking rows and blocks out of it again; see rows8.h.
#include "backends/cpu/rows8.h"

#include <string.h>

#define WORD 4
#define HALF 2
#define ALWAYS_INLINE inline __attribute__((always_inline))

static const struct cpu_rows8_format formats[LODE_TYPE_END] = {
    [LODE_Q4_0] = {.code_offset = 2, .code_bytes = 16, .halves_offset = 0, .n_halves = 1},
    [LODE_Q4_1] = {.code_offset = 4, .code_bytes = 16, .halves_offset = 0, .n_halves = 2},
    [LODE_Q5_0] = {.code_offset = 6,
                   .code_bytes = 16,
                   .bits_offset = 2,
                   .has_bits = true,
                   .halves_offset = 0,
                   .n_halves = 1},
    [LODE_Q5_1] = {.code_offset = 8,
                   .code_bytes = 16,
                   .bits_offset = 4,
                   .has_bits = true,
                   .halves_offset = 0,
                   .n_halves = 2},
    [LODE_Q8_0] = {.code_offset = 2, .code_bytes = 32, .halves_offset = 0, .n_halves = 1},
    [LODE_Q4_K] = {.code_offset = 16,
                   .code_bytes = 128,
                   .words_offset = 4,
                   .n_words = 3,
                   .halves_offset = 0,
                   .n_halves = 2,
                   .whole_blocks = true},
    [LODE_Q5_K] = {.code_offset = 16,
                   .code_bytes = 160,
                   .words_offset = 4,
                   .n_words = 3,
                   .halves_offset = 0,
                   .n_halves = 2,
                   .whole_blocks = true},
    // The two 8-bit scales of a part are a head, which widens to a pair of factors.
    [LODE_Q6_K] =
        {.code_offset = 0, .code_bytes = 192, .halves_offset = 192, .n_halves = 9, .whole_blocks = true},
};

const struct cpu_rows8_format *cpu_rows8_format(enum lode_type type)
{
    return formats[type].code_bytes ? &formats[type] : NULL;
}

size_t cpu_rows8_head_bytes(const struct cpu_rows8_format *format)
{
    return CPU_ROWS8 *
           ((format->has_bits ? WORD : 0) + (size_t)format->n_words * WORD + (size_t)format->n_halves * HALF);
}

static uint32_t load_word(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

// Bit 4j + k to bit j of byte k: then word j of the codes, whose byte k is code 4j + k, finds its fifth bits
// by one shift. The product puts bit k of four into byte k.
static uint32_t turn_bits(uint32_t bits)
{
    uint32_t turned = 0;
    for (unsigned j = 0; j < 8; j++)
        turned |= ((bits >> 4 * j & 15) * 0x00204081u & 0x01010101u) << j;
    return turned;
}

// The product gathers bit j of the four bytes in its highest byte.
static uint32_t turn_back(uint32_t turned)
{
    uint32_t bits = 0;
    for (unsigned j = 0; j < 8; j++)
        bits |= (turned >> j & 0x01010101u) * 0x01020408u >> 24 << 4 * j;
    return bits;
}

// A block of one row, and its lane among the interleaved: fields of eight rows side by side.
static ALWAYS_INLINE void put_block(uint8_t *codes, uint8_t *heads, const struct cpu_rows8_format *format,
                                    const uint8_t *block, unsigned lane)
{
    for (unsigned c = 0; c < format->code_bytes; c += WORD)
        memcpy(codes + CPU_ROWS8 * c + lane * WORD, block + format->code_offset + c, WORD);
    if (format->has_bits) {
        const uint32_t turned = turn_bits(load_word(block + format->bits_offset));
        memcpy(heads + lane * WORD, &turned, WORD);
        heads += CPU_ROWS8 * WORD;
    }
    for (unsigned w = 0; w < format->n_words; w++, heads += CPU_ROWS8 * WORD)
        memcpy(heads + lane * WORD, block + format->words_offset + w * WORD, WORD);
    for (unsigned h = 0; h < format->n_halves; h++, heads += CPU_ROWS8 * HALF)
        memcpy(heads + lane * HALF, block + format->halves_offset + h * HALF, HALF);
}

static ALWAYS_INLINE void take_block(uint8_t *block, const struct cpu_rows8_format *format,
                                     const uint8_t *codes, const uint8_t *heads, unsigned lane)
{
    for (unsigned c = 0; c < format->code_bytes; c += WORD)
        memcpy(block + format->code_offset + c, codes + CPU_ROWS8 * c + lane * WORD, WORD);
    if (format->has_bits) {
        const uint32_t bits = turn_back(load_word(heads + lane * WORD));
        memcpy(block + format->bits_offset, &bits, WORD);
        heads += CPU_ROWS8 * WORD;
    }
    for (unsigned w = 0; w < format->n_words; w++, heads += CPU_ROWS8 * WORD)
        memcpy(block + format->words_offset + w * WORD, heads + lane * WORD, WORD);
    for (unsigned h = 0; h < format->n_halves; h++, heads += CPU_ROWS8 * HALF)
        memcpy(block + format->halves_offset + h * HALF, heads + lane * HALF, HALF);
}

// Where the codes and the heads of a block of eight rows begin in their group.
struct block_place {
    size_t codes, heads;
};

static ALWAYS_INLINE struct block_place place_of(const struct cpu_rows8_format *format, size_t n_blocks,
                                                 size_t block)
{
    const size_t code_bytes = (size_t)CPU_ROWS8 * format->code_bytes,
                 head_bytes = cpu_rows8_head_bytes(format);
    if (format->whole_blocks) {
        const size_t codes = block * (code_bytes + head_bytes);
        return (struct block_place){codes, codes + code_bytes};
    }
    return (struct block_place){block * code_bytes, n_blocks * code_bytes + block * head_bytes};
}

// With the type as a constant the moves of a block are unrolled: three times as fast.
static ALWAYS_INLINE void interleave(enum lode_type type, uint8_t *group, size_t block_bytes,
                                     size_t row_bytes, const uint8_t *rows)
{
    const struct cpu_rows8_format *format = &formats[type];
    const size_t n_blocks = row_bytes / block_bytes;
    for (size_t b = 0; b < n_blocks; b++, rows += block_bytes) {
        const struct block_place place = place_of(format, n_blocks, b);
        for (unsigned lane = 0; lane < CPU_ROWS8; lane++)
            put_block(group + place.codes, group + place.heads, format, rows + lane * row_bytes, lane);
    }
}

void cpu_rows8_interleave(void *group, enum lode_type type, size_t row_bytes, void *spare)
{
    memcpy(spare, group, CPU_ROWS8 * row_bytes);
    switch (type) {
    case LODE_Q4_0:
        interleave(LODE_Q4_0, group, 18, row_bytes, spare);
        return;
    case LODE_Q8_0:
        interleave(LODE_Q8_0, group, 34, row_bytes, spare);
        return;
    case LODE_Q4_K:
        interleave(LODE_Q4_K, group, 144, row_bytes, spare);
        return;
    case LODE_Q6_K:
        interleave(LODE_Q6_K, group, 210, row_bytes, spare);
        return;
    default:
        interleave(type, group, lode_type_find(type)->block_bytes, row_bytes, spare);
    }
}

static ALWAYS_INLINE void restore(enum lode_type type, uint8_t *rows, size_t block_bytes, size_t row_bytes,
                                  const uint8_t *group)
{
    const struct cpu_rows8_format *format = &formats[type];
    const size_t n_blocks = row_bytes / block_bytes;
    for (size_t b = 0; b < n_blocks; b++, rows += block_bytes) {
        const struct block_place place = place_of(format, n_blocks, b);
        for (unsigned lane = 0; lane < CPU_ROWS8; lane++)
            take_block(rows + lane * row_bytes, format, group + place.codes, group + place.heads, lane);
    }
}

void cpu_rows8_restore(void *rows, enum lode_type type, size_t row_bytes, const void *group)
{
    switch (type) {
    case LODE_Q4_0:
        restore(LODE_Q4_0, rows, 18, row_bytes, group);
        return;
    case LODE_Q8_0:
        restore(LODE_Q8_0, rows, 34, row_bytes, group);
        return;
    case LODE_Q4_K:
        restore(LODE_Q4_K, rows, 144, row_bytes, group);
        return;
    case LODE_Q6_K:
        restore(LODE_Q6_K, rows, 210, row_bytes, group);
        return;
    default:
        restore(type, rows, lode_type_find(type)->block_bytes, row_bytes, group);
    }
}

void cpu_rows8_extract(uint8_t *out, const struct lode_matrix *matrix, uint32_t row, uint32_t block)
{
    const struct cpu_rows8_format *format = &formats[matrix->type];
    const size_t n_blocks = matrix->row_bytes / lode_type_find(matrix->type)->block_bytes;
    const uint8_t *group = (const uint8_t *)matrix->data + row / CPU_ROWS8 * CPU_ROWS8 * matrix->row_bytes;
    const struct block_place place = place_of(format, n_blocks, block);
    take_block(out, format, group + place.codes, group + place.heads, row % CPU_ROWS8);
}
