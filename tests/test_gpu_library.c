// Products that go through the library of a GPU's vendor: from the rows that were named on, by halves; all
// others as before; and what becomes of one that is refused. Where kernels are executed on the CPU plain
// loops take the library's place.
#include "tests/gpu_devices.h"
#include "tests/product_reference.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 70
#define COLS 256
#define FROM 16 // rows of activations

static const struct lode_limits limits = {
    .rows = 40, .cols = COLS, .ffn_width = ROWS, .n_heads = 1, .head_size = 32, .expert_rows = 8};

static bool use_library(struct lode_device *device, enum lode_type type, uint32_t rows)
{
    struct lode_error error = {0};
    const int code = device->ops->use_library(device, type, rows, &error);
    if (code == LODE_ERR_UNSUPPORTED) {
        printf("[SKIP] %s: %s\n", device->name, error.text);
        return false;
    }
    gpu_must(code, &error);
    return true;
}

struct operands {
    struct test_matrix gate, up;
    struct lode_rows x;
};

static struct operands make_operands(enum lode_type type, uint32_t n, uint64_t *state)
{
    return (struct operands){random_matrix(type, ROWS, COLS, 0, state),
                             random_matrix(type, ROWS, COLS, 0, state), make_rows(n, COLS, 1, state)};
}

static void free_operands(struct operands *operands)
{
    test_matrix_free(&operands->gate);
    test_matrix_free(&operands->up);
    free(operands->x.data);
}

static void multiply(struct lode_device *device, struct lode_rows out, const struct operands *operands,
                     bool gated)
{
    struct lode_rows x = gpu_rows_up(device, operands->x), result = gpu_rows_up(device, out);
    struct lode_matrix gate = gpu_matrix_up(device, &operands->gate.matrix),
                       up = gpu_matrix_up(device, &operands->up.matrix);
    if (gated)
        device->ops->matmul_geglu(device, result, &gate, &up, x);
    else
        device->ops->matmul(device, &result, &gate, 1, x);
    gpu_rows_down(device, out, result);
    gpu_release(device, x.data);
    gpu_release(device, result.data);
    gpu_release(device, gate.data);
    gpu_release(device, up.data);
}

// Weights and activations lose at most 2^-11 of themselves each, 2^-25 where they are small, and the library
// may sum as it likes.
static struct product_value halves_of(const struct product_matrix *matrix, uint32_t row, const float *x)
{
    struct product_value out = {0};
    for (uint32_t c = 0; c < matrix->cols; c++) {
        const double w = matrix->value[row * matrix->cols + c], part = fabs((double)x[c]);
        out.value += w * x[c];
        out.allowed += fabs(w) * part * (0x1p-10 + 0x1p-22 + matrix->cols * 0x1p-24) +
                       0x1p-25 * (fabs(w) + part + 0x1p-11);
    }
    return out;
}

static void check(struct lode_rows got, const struct operands *operands, bool gated, const char *what)
{
    struct product_matrix gate = product_matrix_make(&operands->gate.matrix),
                          up = product_matrix_make(&operands->up.matrix);
    for (uint32_t i = 0; i < got.n; i++)
        for (uint32_t r = 0; r < ROWS; r++) {
            const float *x = row_of(operands->x, i);
            struct product_value want = halves_of(&gate, r, x);
            if (gated)
                want = product_geglu(want, halves_of(&up, r, x));
            cr_assert(fabs(row_of(got, i)[r] - want.value) <= want.allowed,
                      "%s %s [%u][%u]: got %.9g, want %.9g +- %.2g", what, lode_type_name(gate.type), i, r,
                      (double)row_of(got, i)[r], want.value, want.allowed);
        }
    check_gaps(got, what);
    product_matrix_free(&gate);
    product_matrix_free(&up);
}

static bool is_same(struct lode_rows a, struct lode_rows b)
{
    for (uint32_t i = 0; i < a.n; i++)
        if (memcmp(row_of(a, i), row_of(b, i), a.cols * sizeof(float)) != 0)
            return false;
    return true;
}

static void check_from_rows_on(struct lode_device *device, enum lode_type type, bool gated)
{
    static const uint32_t counts[] = {1, FROM - 1, FROM, 40};
    uint64_t state = 10 * type + gated;
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct operands operands = make_operands(type, counts[i], &state);
        struct lode_rows own = make_results(counts[i], ROWS), got = make_results(counts[i], ROWS);
        use_library(device, type, 0);
        multiply(device, own, &operands, gated);
        use_library(device, type, FROM);
        multiply(device, got, &operands, gated);
        if (counts[i] < FROM)
            cr_assert(is_same(own, got), "%s: %u rows", lode_type_name(type), counts[i]);
        else
            check(got, &operands, gated, gated ? "gated" : "product");
        // Lode's own kernels round activations to int8 where weights are quantised.
        if (counts[i] >= FROM && product_is_quantised(type))
            cr_assert(!is_same(own, got), "%s: %u rows by its own kernels", lode_type_name(type), counts[i]);
        free(own.data), free(got.data);
        free_operands(&operands);
    }
    use_library(device, type, 0);
}

Test(gpu_library, products_go_there_from_the_rows_on_that_were_named)
{
    static const enum lode_type types[] = {LODE_Q4_0, LODE_Q8_0, LODE_Q4_K, LODE_Q6_K, LODE_F16, LODE_BF16};
    FOR_GPU_DEVICES(device)
    {
        if (!use_library(device, LODE_Q4_0, FROM))
            continue;
        gpu_reserve_for(device, &limits);
        for (unsigned t = 0; t < sizeof types / sizeof *types; t++)
            for (int gated = 0; gated < 2; gated++)
                check_from_rows_on(device, types[t], gated);
    }
}

Test(gpu_library, scratch_is_there_while_a_step_can_be_so_large)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        const size_t without = device->ops->scratch_bytes(device);
        const uint64_t allocated = device->allocated_bytes;
        cr_assert_null(device->ops->library_name(device));
        if (!use_library(device, LODE_Q8_0, limits.rows + 1))
            continue;
        cr_assert_not_null(device->ops->library_name(device));
        gpu_reserve_for(device, &limits);
        const size_t own = device->ops->scratch_bytes(device) - without; // the library's own
        cr_assert_eq(device->allocated_bytes - allocated, own);
        use_library(device, LODE_Q8_0, limits.rows);
        gpu_reserve_for(device, &limits);
        const size_t more = device->ops->scratch_bytes(device) - without - own;
        cr_assert_gt(more, (size_t)4 << 20);
        cr_assert_leq(more, (size_t)64 << 20);
        cr_assert_eq(device->allocated_bytes - allocated, own + more);
        use_library(device, LODE_Q8_0, 0);
        gpu_reserve_for(device, &limits);
        cr_assert_eq(device->ops->scratch_bytes(device), without + own);
    }
}

// A matrix that is wider than what scratch was made for: kernels that take rows as they are need none.
Test(gpu_library, a_product_that_is_refused_is_done_otherwise_and_told)
{
    FOR_GPU_DEVICES(device)
    {
        uint64_t state = 3;
        if (!use_library(device, LODE_F16, FROM))
            continue;
        gpu_reserve_for(device, &limits);
        struct test_matrix weight = random_matrix(LODE_F16, 65, 16384, 0, &state);
        struct lode_rows x = make_rows(FROM, 16384, 1, &state), got = make_results(FROM, 65);
        struct lode_rows device_x = gpu_rows_up(device, x), device_got = gpu_rows_up(device, got);
        struct lode_matrix matrix = gpu_matrix_up(device, &weight.matrix);
        cr_assert_null(device->notice);
        device->ops->matmul(device, &device_got, &matrix, 1, device_x);
        cr_assert_not_null(device->notice);
        cr_assert(strstr(device->notice, "refused a product"), "%s", device->notice);
        device->notice = NULL;
        device->ops->matmul(device, &device_got, &matrix, 1, device_x);
        cr_assert_null(device->notice, "told once");
        gpu_rows_down(device, got, device_got);
        product_check(got, &weight.matrix, x, PRODUCT_TILES, "refused");
        gpu_release(device, device_x.data);
        gpu_release(device, device_got.data);
        gpu_release(device, matrix.data);
        free(x.data), free(got.data);
        test_matrix_free(&weight);
    }
}
