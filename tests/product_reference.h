// Products in double precision, as tests hold those of GPUs against them, with what rounding may cost.
//
// With quantised weights x is rounded to int8 in blocks of 32 (cpu_quantize_portable) before; the bounds are
// those of backends/cpu/matmul.h against the product with the rounded activations, for any order of the sums.
#ifndef LODE_TEST_PRODUCT_REFERENCE_H
#define LODE_TEST_PRODUCT_REFERENCE_H

#include "backends/cpu/quantize.h"
#include "tests/weights.h"

#include <math.h>
#include <stdlib.h>

#define PRODUCT_UNIT 0x1p-24

static inline bool product_is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

static inline bool product_has_minimum(enum lode_type type)
{
    return type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q4_K || type == LODE_Q5_K ||
           type == LODE_Q2_K;
}

// out = x as products with weights of a type take it.
static inline void product_round(double *out, enum lode_type type, const float *x, uint32_t cols)
{
    for (uint32_t c = 0; c < cols; c++)
        out[c] = x[c];
    for (uint32_t c = 0; product_is_quantised(type) && c < cols; c += 32) {
        struct cpu_block block;
        cpu_quantize_portable(&block, x + c, 1);
        for (uint32_t i = 0; i < 32; i++)
            out[c + i] = (double)block.scale * block.q[i];
    }
}

// A row of weights, and the magnitudes of its parts.
struct product_row {
    double *value, *magnitude;
};

static inline struct product_row product_row_make(const struct lode_matrix *matrix, uint32_t row)
{
    struct product_row out = {malloc(matrix->cols * sizeof(double)), malloc(matrix->cols * sizeof(double))};
    for (uint32_t c = 0; c < matrix->cols; c++) {
        struct test_weight weight = test_matrix_at(matrix, row, c);
        out.value[c] = weight.product + weight.addend;
        out.magnitude[c] = fabs(weight.product) + fabs(weight.addend);
    }
    return out;
}

static inline void product_row_free(struct product_row *row)
{
    free(row->value);
    free(row->magnitude);
}

struct product_value {
    double value, allowed;
};

static inline struct product_value product_of(const struct product_row *row, enum lode_type type,
                                              const double *rounded, uint32_t cols)
{
    struct product_value out = {0, 0};
    double magnitude = 0;
    for (uint32_t c = 0; c < cols; c++) {
        out.value += row->value[c] * rounded[c];
        magnitude += row->magnitude[c] * fabs(rounded[c]);
    }
    const unsigned additions =
        product_is_quantised(type) ? cols / 32 * (product_has_minimum(type) ? 2 : 1) + 8 : cols / 8 + 24;
    out.allowed = additions * PRODUCT_UNIT * magnitude;
    return out;
}

static inline double product_gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// gelu_tanh(gate) * up. gelu_tanh is at most 1.13 steep, and in float is off by less than 1e-5 of itself.
static inline struct product_value product_geglu(struct product_value gate, struct product_value up)
{
    const double gelu = product_gelu_tanh(gate.value);
    const double gelu_allowed = 1.13 * gate.allowed + 1e-5 * fabs(gelu) + 1e-30;
    return (struct product_value){
        gelu * up.value,
        gelu_allowed * (fabs(up.value) + up.allowed) + fabs(gelu) * up.allowed +
            2 * PRODUCT_UNIT * fabs(gelu * up.value),
    };
}

#endif
