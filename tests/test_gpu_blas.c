// Products by a vendor's library, of which plain loops take the place: decoding to halves, slices, scales of
// rows, and what becomes of too little scratch.
#include "tests/gpu_blas_subject.h"
#include "tests/ops_reference.h"
#include "tests/product_reference.h"

static bool multiply_gated(struct lode_rows out, const struct lode_matrix *w, const struct lode_matrix *up,
                           struct lode_rows x, size_t scratch)
{
    struct lode_error error;
    char name[32];
    bool done = false;
    cr_assert_eq(test_gpu_blas_matmul(&done, out, w, up, x, scratch, name, &error), LODE_OK, "%s",
                 error.text);
    cr_assert_str_eq(name, "plain loops");
    return done;
}

static bool multiply(struct lode_rows out, const struct lode_matrix *w, struct lode_rows x, size_t scratch)
{
    return multiply_gated(out, w, NULL, x, scratch);
}

// Weights and activations lose at most 2^-11 of themselves each, or 2^-25 (of a row's scaled values too)
// where they are small; the sum is a chain. `scale`: what the row is divided by.
static void check_products(struct lode_rows out, const struct lode_matrix *w, struct lode_rows x,
                           const char *what)
{
    for (uint32_t i = 0; i < x.n; i++) {
        double largest = 0;
        for (uint32_t c = 0; c < w->cols; c++)
            largest = fmax(largest, fabs(row_of(x, i)[c]));
        for (uint32_t r = 0; r < w->rows; r++) {
            double want = 0, allowed = 0;
            for (uint32_t c = 0; c < w->cols; c++) {
                struct test_weight weight = test_matrix_at(w, r, c);
                double value = weight.product + weight.addend, part = fabs(row_of(x, i)[c]);
                want += value * row_of(x, i)[c];
                // A row's largest value is scaled to 2^-3 at least.
                double value_off = fabs(value) * 0x1p-11 + 0x1p-25,
                       part_off = part * 0x1p-11 + 0x1p-25 * fmin(1, largest * 8);
                allowed += value_off * (part + part_off) + part_off * fabs(value) +
                           w->cols * 0x1p-24 * fabs(value) * part;
            }
            double got = row_of(out, i)[r];
            cr_assert(fabs(got - want) <= allowed * 1.01, "%s %s [%u][%u]: got %.9g, want %.9g +- %.2g", what,
                      lode_type_name(w->type), i, r, got, want, allowed);
        }
    }
    check_gaps(out, what);
}

Test(gpu_blas, products_of_every_type_are_those_of_halves)
{
    for (unsigned t = 0; t < test_n_types; t++) {
        uint64_t state = t;
        uint32_t cols = lode_type_find(test_types[t])->block_elems == 256 ? 256 : 96;
        struct test_matrix w = random_matrix(test_types[t], 75, cols, 0, &state);
        struct lode_rows x = make_rows(11, cols, 1, &state), out = make_results(11, 75);
        cr_assert(multiply(out, &w.matrix, x, test_gpu_blas_scratch_bytes(11, cols, 75)));
        check_products(out, &w.matrix, x, "whole");
        free(x.data), free(out.data);
        test_matrix_free(&w);
    }
}

Test(gpu_blas, slices_give_the_same_bits_as_the_whole)
{
    uint64_t state = 1;
    struct test_matrix w = random_matrix(LODE_Q4_K, 200, 256, 0, &state);
    struct lode_rows x = make_rows(9, 256, 1, &state), whole = make_results(9, 200),
                     sliced = make_results(9, 200);
    cr_assert(multiply(whole, &w.matrix, x, test_gpu_blas_scratch_bytes(9, 256, 200)));
    // Room for 71 rows is used for 64.
    cr_assert(multiply(sliced, &w.matrix, x, test_gpu_blas_scratch_bytes(9, 256, 71)));
    check_same_bits(whole, sliced, "in slices");
    check_products(sliced, &w.matrix, x, "sliced");
    free(x.data), free(whole.data), free(sliced.data);
    test_matrix_free(&w);
}

Test(gpu_blas, columns_that_are_no_whole_words_are_whole_products)
{
    const enum lode_type types[] = {LODE_F32, LODE_F16, LODE_BF16};
    for (unsigned t = 0; t < 3; t++) {
        uint64_t state = t;
        struct test_matrix w = random_matrix(types[t], 70, 77, 6, &state);
        struct lode_rows x = make_rows(10, 77, 1, &state), out = make_results(10, 70);
        cr_assert(multiply(out, &w.matrix, x, test_gpu_blas_scratch_bytes(10, 77, 64)));
        check_products(out, &w.matrix, x, "odd");
        free(x.data), free(out.data);
        test_matrix_free(&w);
    }
}

// Halves end at 65504 and begin to lose digits at 2^-14: a row's scale keeps it between.
Test(gpu_blas, rows_of_any_magnitude_keep_their_digits)
{
    static const float magnitudes[] = {1e-36f, 1e-20f, 1e-5f, 1, 3e4f, 7e4f, 1e10f, 1e30f, 0};
    uint64_t state = 5;
    struct test_matrix w = random_matrix(LODE_Q8_0, 66, 64, 0, &state);
    struct lode_rows x = make_rows(9, 64, 1, &state), out = make_results(9, 66);
    for (uint32_t i = 0; i < 9; i++)
        for (uint32_t c = 0; c < 64; c++)
            row_of(x, i)[c] *= magnitudes[i];
    cr_assert(multiply(out, &w.matrix, x, test_gpu_blas_scratch_bytes(9, 64, 66)));
    check_products(out, &w.matrix, x, "magnitudes");
    free(x.data), free(out.data);
    test_matrix_free(&w);
}

Test(gpu_blas, too_little_scratch_is_refused_before_anything_is_done)
{
    uint64_t state = 7;
    struct test_matrix w = random_matrix(LODE_Q4_0, 100, 64, 0, &state);
    struct lode_rows x = make_rows(9, 64, 1, &state), out = make_results(9, 100);
    const size_t scratch[] = {0, 1000, test_gpu_blas_scratch_bytes(9, 64, 0),
                              test_gpu_blas_scratch_bytes(9, 64, 63)};
    for (unsigned i = 0; i < sizeof scratch / sizeof *scratch; i++)
        cr_assert_not(multiply(out, &w.matrix, x, scratch[i]));
    for (uint32_t i = 0; i < 9; i++)
        for (uint32_t r = 0; r < 100; r++)
            cr_assert(isnan(row_of(out, i)[r]));
    cr_assert(multiply(out, &w.matrix, x, test_gpu_blas_scratch_bytes(9, 64, 64)));
    check_products(out, &w.matrix, x, "just enough");
    free(x.data), free(out.data);
    test_matrix_free(&w);
}

Test(gpu_blas, gated_products_are_the_same_whatever_the_slices)
{
    static const enum lode_type types[] = {LODE_Q4_0, LODE_F16};
    for (unsigned t = 0; t < 2; t++) {
        uint64_t state = t;
        struct test_matrix gate = random_matrix(types[t], 200, 96, 0, &state),
                           up = random_matrix(types[t], 200, 96, 0, &state);
        struct lode_rows x = make_rows(9, 96, 1, &state), gates = make_results(9, 200),
                         factors = make_results(9, 200);
        cr_assert(multiply(gates, &gate.matrix, x, test_gpu_blas_scratch_bytes(9, 96, 200)));
        cr_assert(multiply(factors, &up.matrix, x, test_gpu_blas_scratch_bytes(9, 96, 200)));
        const uint32_t slices[] = {200, 130, 64};
        for (unsigned s = 0; s < 3; s++) {
            struct lode_rows out = make_results(9, 200);
            const size_t scratch = test_gpu_blas_geglu_scratch_bytes(9, 96, slices[s]);
            cr_assert(multiply_gated(out, &gate.matrix, &up.matrix, x, scratch));
            for (uint32_t i = 0; i < 9; i++)
                for (uint32_t r = 0; r < 200; r++) {
                    const double a = row_of(gates, i)[r], got = row_of(out, i)[r];
                    const double want = gelu_tanh(a) * row_of(factors, i)[r];
                    cr_assert(fabs(got - want) <= 1e-5 * fabs(want) + 1e-6 * fabs(a * row_of(factors, i)[r]),
                              "%u [%u][%u]: %g, %g", slices[s], i, r, got, want);
                }
            check_gaps(out, "gated");
            free(out.data);
        }
        struct lode_rows none = make_results(9, 200);
        cr_assert_not(
            multiply_gated(none, &gate.matrix, &up.matrix, x,
                           types[t] == LODE_F16 ? 1000 : test_gpu_blas_geglu_scratch_bytes(9, 96, 62)));
        free(none.data), free(x.data), free(gates.data), free(factors.data);
        test_matrix_free(&gate);
        test_matrix_free(&up);
    }
}
