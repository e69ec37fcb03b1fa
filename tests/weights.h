// Random weights of every tensor type for tests, and what they mean, written down element by element from the
// formulas of docs/tensor-types.md and independently of the code that is tested.
#ifndef LODE_TEST_WEIGHTS_H
#define LODE_TEST_WEIGHTS_H

#include "backends/backend.h"

// All types, for loops over them.
extern const enum lode_type test_types[];
extern const unsigned test_n_types;

// Weight number `i` of a block = product + addend; the parts tell how much may cancel.
struct test_weight {
    double product, addend;
};

struct test_weight test_weight_of(enum lode_type type, const uint8_t *block, unsigned i);

// A small generator that gives the same numbers everywhere.
struct test_random {
    uint64_t state;
};

uint32_t test_random_u32(struct test_random *random);
float test_random_float(struct test_random *random); // uniform in [-1, 1)

// A block of random bytes, with scales of moderate size in it.
void test_random_block(struct test_random *random, enum lode_type type, uint8_t *block);

// Puts one half-precision number (or, for MXFP4, its exponent) into all scale fields of a block.
void test_set_scales(enum lode_type type, uint8_t *block, uint16_t half, uint8_t exponent);

// A matrix of random weights in memory of its own: at an odd address, rows `row_gap` bytes apart from each
// other, and with unreadable memory right behind the slack that a device may read.
struct test_matrix {
    struct lode_matrix matrix;
    void *mapping;
    size_t mapping_bytes;
};

struct test_matrix test_matrix_make(struct test_random *random, enum lode_type type, uint32_t rows,
                                    uint32_t cols, size_t row_gap);
void test_matrix_free(struct test_matrix *matrix);

struct test_weight test_matrix_at(const struct lode_matrix *matrix, uint32_t row, uint32_t col);
uint8_t *test_matrix_row(const struct lode_matrix *matrix, uint32_t row);

#endif
