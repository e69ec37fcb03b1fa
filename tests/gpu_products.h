// What products on a GPU are held against: double precision with the activations rounded as Lode rounds them.
#ifndef LODE_TEST_GPU_PRODUCTS_H
#define LODE_TEST_GPU_PRODUCTS_H

#include "backends/cpu/quantize.h"
#include "tests/gpu_devices.h"
#include "tests/gpu_features.h"
#include "tests/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GAP 3
#define GAP_VALUE 12345.0f

// Rows of random numbers, with gaps between them that must stay what they are.
static inline struct lode_rows make_rows(struct test_random *random, uint32_t n, uint32_t cols)
{
    struct lode_rows rows = {.n = n, .cols = cols, .stride = cols + GAP};
    rows.data = malloc(n * rows.stride * sizeof(float));
    for (size_t i = 0; i < n * rows.stride; i++)
        rows.data[i] = i % rows.stride < cols ? test_random_float(random) : GAP_VALUE;
    return rows;
}

static inline float *row_of(struct lode_rows rows, uint32_t i)
{
    return rows.data + i * rows.stride;
}

// Rows for a result: nothing in them is a number.
static inline struct lode_rows make_results(uint32_t n, uint32_t cols)
{
    struct test_random random = {0};
    struct lode_rows rows = make_rows(&random, n, cols);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < cols; c++)
            row_of(rows, i)[c] = NAN;
    return rows;
}

static inline void check_gaps(struct lode_rows rows, const char *what)
{
    for (uint32_t i = 0; i < rows.n; i++)
        for (size_t c = rows.cols; c < rows.stride; c++)
            cr_assert_eq(row_of(rows, i)[c], GAP_VALUE, "%s: wrote behind row %u", what, i);
}

static inline bool is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

static inline bool has_minimum(enum lode_type type)
{
    return type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q2_K || type == LODE_Q4_K ||
           type == LODE_Q5_K;
}

// A row as products with a type take it.
static inline void round_row(double *out, const float *x, uint32_t cols, bool quantised)
{
    for (uint32_t first = 0; first < cols; first += CPU_BLOCK) {
        struct cpu_block block;
        if (quantised)
            cpu_quantize_portable(&block, x + first, 1);
        for (uint32_t i = 0; i < CPU_BLOCK && first + i < cols; i++)
            out[first + i] = quantised ? (double)block.scale * block.q[i] : (double)x[first + i];
    }
}

// What a row of weights and a rounded row make, and what a GPU may be off by. u = 2^-24. Quantised: a sum
// over blocks in a chain of one addition a block (two with minimums) and up to eight roundings of a term.
// Floats: chains of 32 and a chain of those, with two roundings of a term.
static inline double exact_dot(const struct lode_matrix *w, uint32_t row, const double *x, double *allowed)
{
    double sum = 0, magnitude = 0;
    for (uint32_t c = 0; c < w->cols; c++) {
        struct test_weight weight = test_matrix_at(w, row, c);
        sum += (weight.product + weight.addend) * x[c];
        magnitude += (fabs(weight.product) + fabs(weight.addend)) * fabs(x[c]);
    }
    uint32_t blocks = (w->cols + 31) / 32;
    double roundings = is_quantised(w->type) ? blocks * (has_minimum(w->type) ? 2 : 1) + 8 : 32 + blocks + 2;
    *allowed = roundings * 0x1p-24 * magnitude;
    return sum;
}

static inline double exact_gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

// The gated product: its slope is at most 1.13, and the function itself is good for 6 units of the last
// place.
static inline double exact_gated(const struct lode_matrix *gate, const struct lode_matrix *up, uint32_t row,
                                 const double *x_gate, const double *x_up, double *allowed)
{
    double gate_off, up_off;
    double g = exact_dot(gate, row, x_gate, &gate_off), u = exact_dot(up, row, x_up, &up_off);
    double gated = exact_gelu_tanh(g);
    double gated_off = 1.13 * gate_off + 12 * 0x1p-24 * fabs(g);
    *allowed = gated_off * (fabs(u) + up_off) + fabs(gated) * up_off + 0x1p-23 * fabs(gated * u) + 1e-37;
    return gated * u;
}

// Each kind of kernel that the device has: with tensor cores, where it has them, and without.
#define FOR_GPU_KERNELS(device, features)                                                                    \
    for (uint32_t all_ = test_gpu_features(device), pass_ = 0; pass_ < 2;                                    \
         test_gpu_set_features(device, all_), pass_++)                                                       \
        if (pass_ == 0 || (all_ & TEST_GPU_HAS_MMA_S8))                                                      \
            for (uint32_t features = pass_ == 0 ? all_ & ~TEST_GPU_HAS_MMA_S8 : all_,                        \
                          once_ = (test_gpu_set_features(device, features), 1);                              \
                 once_; once_ = 0)

#endif
