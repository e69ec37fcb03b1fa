// What opens a vendor's library of products, for each vendor: which files are looked for, what is said where
// none can be used, and that the product is the right one. No toolkit and no GPU is needed.
#include "tests/vendor_blas_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

// Fails, and leaves nothing open.
static void open_fails(const char *text)
{
    struct lode_error error = {};
    char none;
    struct gpu_blas *blas = reinterpret_cast<struct gpu_blas *>(&none);
    world.n_selected = 0;
    cr_assert_eq(gpu_blas_open(&blas, world_context(), &error), LODE_ERR_UNSUPPORTED);
    cr_assert_eq(error.code, LODE_ERR_UNSUPPORTED);
    cr_assert_str_eq(error.text, text);
    cr_assert_null(blas);
    cr_assert_eq(world.n_open, 0);
    cr_assert_eq(world.n_handles, 0);
    world.n_selected = 0;
    cr_assert_eq(gpu_blas_open(&blas, world_context(), nullptr), LODE_ERR_UNSUPPORTED);
    cr_assert_eq(world.n_open, 0);
}

Test(vendor_blas, a_missing_library_is_unsupported_and_the_text_names_what_was_looked_for)
{
    struct lode_error error = {};
    struct gpu_blas *blas;
    cr_assert_eq(gpu_blas_open(&blas, world_context(), &error), LODE_ERR_UNSUPPORTED);
    cr_assert_str_eq(world.tried, vendor.tried);
    open_fails(vendor.missing);
}

Test(vendor_blas, versions_that_are_not_known_are_left_alone)
{
    for (int version = 0; version < WORLD_VERSIONS; version++)
        world.has[version] = version > vendor.newest || version < vendor.oldest;
    open_fails(vendor.missing);
}

Test(vendor_blas, a_library_that_lacks_a_function_is_closed_and_an_older_one_is_taken)
{
    for (const struct library_function *at = vendor.functions; at->name; at++) {
        if (!at->is_needed)
            continue;
        memset(&world, 0, sizeof world);
        world.has[vendor.newest] = true;
        world.lacks[vendor.newest] = at->name;
        open_fails(vendor.missing);

        world.has[vendor.newest - 1] = true;
        world.n_selected = 0;
        struct lode_error error = {};
        struct gpu_blas *blas;
        cr_assert_eq(gpu_blas_open(&blas, world_context(), &error), LODE_OK, "%s: %s", at->name, error.text);
        cr_assert_eq(world.n_open, 1, "%s", at->name);
        gpu_blas_close(blas);
        cr_assert_eq(world.n_open, 0, "%s", at->name);
    }
}

Test(vendor_blas, a_library_that_does_not_start_is_closed_and_its_status_is_told)
{
    char text[64];
    snprintf(text, sizeof text, "%s does not start: status 3", vendor.title);
    world.has[vendor.newest] = true;
    world.create_status = 3;
    open_fails(text);
}

Test(vendor_blas, closing_ends_the_library_on_its_device)
{
    struct gpu_blas *blas = world_open(vendor.newest);
    cr_assert_eq(world.n_handles, 1);
    cr_assert_eq(world.n_open, 1);
    world.n_selected = 0;
    gpu_blas_close(blas);
    cr_assert_eq(world.n_selected, 1);
    cr_assert_eq(world.n_handles, 0);
    cr_assert_eq(world.n_open, 0);
    gpu_blas_close(nullptr);
}

Test(vendor_blas, products_are_those_of_rows_with_rows_on_the_stream_that_is_given)
{
    struct gpu_blas *blas = world_open(vendor.newest);
    world.values = vendor.newest_values;
    cr_assert(world_multiply(blas));
    cr_assert_str_eq(world.calls, vendor.takes_workspace ? "stream workspace product " : "stream product ");
    gpu_blas_close(blas);
}

Test(vendor_blas, a_refusal_is_told_and_nothing_comes_after_it)
{
    static const char *const steps[] = {"stream", "workspace", "product"};
    struct gpu_blas *blas = world_open(vendor.newest);
    world.values = vendor.newest_values;
    for (const char *step : steps) {
        if (strcmp(step, "workspace") == 0 && !vendor.takes_workspace)
            continue;
        world.calls[0] = 0;
        world.refuses = step;
        cr_assert_not(world_multiply(blas), "%s", step);
        const size_t length = strlen(world.calls), last = strlen(step) + 1;
        cr_assert(length >= last && strncmp(world.calls + length - last, step, last - 1) == 0,
                  "%s is not the last of %s", step, world.calls);
    }
    gpu_blas_close(blas);
}
