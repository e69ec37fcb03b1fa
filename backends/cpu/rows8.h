// Weights with the rows of a matrix interleaved by eights, as the x86 kernels read them fastest.
//
// In a file a row's blocks lie one behind the other, so eight rows are eight streams, their scales have to be
// gathered one by one, and dot products have to be added up across a vector. Interleaved, a vector holds 4
// codes of each of eight rows, as in a panel (x86_pack.h), and the eight scales lie side by side: a Zen 3
// core computes with 34 instead of 20 GB/s of Q4_0, twice what it can read.
//
// The bytes are those of the file in another order, in the same place. First come codes, as 32-bit words,
// word w of the eight rows side by side; then heads (scales and minima), each field of the eight rows side by
// side. A group of eight rows holds first the codes of all its blocks, then the heads of all, so that codes
// are aligned. The blocks of K-quants, a kilobyte and more for eight rows, come one behind the other, each
// with its heads: they are one stream, for which the next bytes can be asked for at a fixed distance.
#ifndef LODE_CPU_ROWS8_H
#define LODE_CPU_ROWS8_H

#include "backends/backend.h"

#define CPU_ROWS8 8

// Where the fields of a type lie in a block of the file.
struct cpu_rows8_format {
    uint16_t code_offset, code_bytes; // a multiple of 4
    uint16_t bits_offset;             // 32 fifth bits, turned so that word lanes meet codes
    uint16_t words_offset, n_words;   // heads of 32 bits
    uint16_t halves_offset, n_halves; // heads of 16 bits
    bool has_bits;
    bool whole_blocks; // each block with its heads
};

// NULL for types that are not interleaved.
const struct cpu_rows8_format *cpu_rows8_format(enum lode_type type);

// Bytes of a block's heads of eight rows.
size_t cpu_rows8_head_bytes(const struct cpu_rows8_format *format);

// Interleaves the eight rows at `group` in place; spare: 8 * row_bytes of working memory.
void cpu_rows8_interleave(void *group, enum lode_type type, size_t row_bytes, void *spare);

// Writes the eight interleaved rows at `group` to `rows`, row_bytes apart, as they are in the file; the
// second function is for processors with AVX2. `rows` is not in the group.
typedef void (*cpu_rows8_restore_fn)(void *rows, enum lode_type type, size_t row_bytes, const void *group);
void cpu_rows8_restore(void *rows, enum lode_type type, size_t row_bytes, const void *group);
void cpu_rows8_restore_avx2(void *rows, enum lode_type type, size_t row_bytes, const void *group);

// Puts block `block` of a row back into the order of the file.
void cpu_rows8_extract(uint8_t *out, const struct lode_matrix *matrix, uint32_t row, uint32_t block);

#endif
