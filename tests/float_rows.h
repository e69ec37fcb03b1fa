// Rows of random floats for tests, with gaps that must stay what they were, and comparisons. The same numbers
// come everywhere.
#ifndef LODE_TEST_FLOAT_ROWS_H
#define LODE_TEST_FLOAT_ROWS_H

#include "backends/backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((uint64_t)random_bits(state) * n >> 32);
}

// Between -size and size.
static inline float random_float(uint64_t *state, float size)
{
    return ((float)(random_bits(state) >> 8) * 0x1p-23f - 1.0f) * size;
}

// n rows with some floats between them, which must stay what they were.
#define ROW_GAP 5
#define GAP_VALUE 12345.0f

static inline struct lode_rows make_rows(uint32_t n, uint32_t cols, float size, uint64_t *state)
{
    struct lode_rows rows = {NULL, n, cols, cols + ROW_GAP};
    rows.data = malloc((n * rows.stride + 1) * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < rows.stride; j++)
            rows.data[i * rows.stride + j] = j < cols ? random_float(state, size) : GAP_VALUE;
    return rows;
}

// Rows for a result: nothing in them is a number.
static inline struct lode_rows make_results(uint32_t n, uint32_t cols)
{
    uint64_t state = 0;
    struct lode_rows rows = make_rows(n, cols, 1, &state);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < cols; j++)
            rows.data[i * rows.stride + j] = NAN;
    return rows;
}

static inline struct lode_rows copy_rows(struct lode_rows rows)
{
    struct lode_rows copy = rows;
    size_t bytes = (rows.n * rows.stride + 1) * sizeof(float);
    copy.data = malloc(bytes);
    memcpy(copy.data, rows.data, bytes - sizeof(float));
    return copy;
}

static inline float *row_of(struct lode_rows rows, uint32_t row)
{
    return rows.data + row * rows.stride;
}

static inline float at(struct lode_rows rows, uint32_t row, uint32_t col)
{
    return rows.data[row * rows.stride + col];
}

static inline void check_gaps(struct lode_rows rows, const char *name)
{
    for (uint32_t i = 0; i < rows.n; i++)
        for (uint32_t j = rows.cols; j < rows.stride; j++)
            cr_assert_eq(at(rows, i, j), GAP_VALUE, "%s: wrote behind row %u", name, i);
}

static inline void check_same_bits(struct lode_rows a, struct lode_rows b, const char *name)
{
    for (uint32_t i = 0; i < a.n; i++)
        cr_assert_eq(memcmp(a.data + i * a.stride, b.data + i * b.stride, a.cols * sizeof(float)), 0,
                     "%s: row %u differs", name, i);
}

#define check_close(got, want, relative, absolute, ...)                                                      \
    do {                                                                                                     \
        double got_ = (double)(got), want_ = (want);                                                         \
        double allowed_ = (relative)*fabs(want_) + (absolute);                                               \
        if (!(fabs(got_ - want_) <= allowed_)) {                                                             \
            cr_log_error(__VA_ARGS__);                                                                       \
            cr_assert_fail("got %.9g, want %.9g, allowed %.3g", got_, want_, allowed_);                      \
        }                                                                                                    \
    } while (0)

#endif
