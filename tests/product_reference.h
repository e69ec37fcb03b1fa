// Products in double precision, as tests hold those of GPUs against them, with what rounding may cost.
//
// With quantised weights x is rounded to int8 in blocks of 32 (cpu_quantize_portable) before, and the result
// is held against the product with the rounded activations. u = 2^-24, M = sum of |w| |x|, of both parts of a
// weight that has a minimum:
//   quantised weights: (blocks * (1, or 2 with minimums) + 8) u M, for a chain over the blocks and up to
//   eight roundings of a term, as in backends/cpu/matmul.h; float weights: as enum product_sums says.
#ifndef LODE_TEST_PRODUCT_REFERENCE_H
#define LODE_TEST_PRODUCT_REFERENCE_H

#include "tests/float_rows.h"
#include "tests/weights.h"

#define PRODUCT_UNIT 0x1p-24

// How a kernel adds up products with float weights.
enum product_sums {
    PRODUCT_LANES, // few rows: a chain in each of at least 8 lanes, then the lanes: (columns / 8 + 24) u M
    PRODUCT_TILES, // many rows: chains of 32 columns, and a chain of those: (32 + columns / 32 + 2) u M
};

bool product_is_quantised(enum lode_type type);

// As test_matrix_make, of this generator's numbers.
struct test_matrix random_matrix(enum lode_type type, uint32_t rows, uint32_t cols, size_t gap,
                                 uint64_t *state);

// An expert of random weights: gate and up of types[0] and types[1], width rows of `hidden` columns, down of
// types[2]. Released by random_expert_free.
struct random_expert {
    struct test_matrix gate, up, down;
    struct lode_expert_job job; // its matrices, without choices
};

struct random_expert random_expert_make(const enum lode_type types[3], uint32_t hidden, uint32_t width,
                                        size_t gap, uint64_t *state);
void random_expert_free(struct random_expert *expert);

// A matrix in double precision, and the sums of the magnitudes of its weights' parts; released by
// product_matrix_free.
struct product_matrix {
    enum lode_type type;
    uint32_t rows, cols;
    double *value, *magnitude; // [rows][cols]
};

struct product_matrix product_matrix_make(const struct lode_matrix *matrix);
void product_matrix_free(struct product_matrix *matrix);

// out = x as products with weights of a type take it.
void product_round(double *out, enum lode_type type, const float *x, uint32_t cols);

struct product_value {
    double value, allowed; // what a device may be off by
};

// A row of a matrix times rounded activations.
struct product_value product_of(const struct product_matrix *matrix, uint32_t row, const double *rounded,
                                enum product_sums sums);
// gelu_tanh(gate) * up.
struct product_value product_geglu(struct product_value gate, struct product_value up);

// Every element of a result against its product, and the gaps between its rows. `what` is for messages.
void product_check(struct lode_rows got, const struct lode_matrix *weight, struct lode_rows x,
                   enum product_sums sums, const char *what);
// Likewise gelu_tanh(x gate^T) * (x up^T).
void product_check_geglu(struct lode_rows got, const struct lode_matrix *gate, const struct lode_matrix *up,
                         struct lode_rows x, enum product_sums sums, const char *what);

// An expert in double precision; released by product_expert_free.
struct product_expert {
    struct product_matrix gate, up, down;
};

struct product_expert product_expert_make(const struct lode_expert_job *expert);
void product_expert_free(struct product_expert *expert);

// One choice's result, got[down.rows], of the activations x[gate.cols].
void product_check_expert(const float *got, const struct product_expert *expert, const float *x,
                          enum product_sums sums, const char *what);

#endif
