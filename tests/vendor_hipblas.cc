// What is expected of backends/hip/blas.cc; see test_vendor_blas.cc.
#include "tests/vendor_blas_world.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define FUNCTION(function) reinterpret_cast<void *>(function)

static const struct library_function functions[] = {
    {"hipblasCreate", FUNCTION(library_create), true},
    {"hipblasDestroy", FUNCTION(library_destroy), true},
    {"hipblasSetStream", FUNCTION(library_set_stream), true},
    {"hipblasGemmEx", FUNCTION(library_product), true},
    {"hipblasGemmEx_v2", FUNCTION(library_product_v2), false},
    {},
};

static const struct library_values own_types = {111, 112, 150, 151, 151, 160},
                                   hip_types = {111, 112, 2, 0, 2, 160};

extern const struct vendor_library vendor = {
    "hipBLAS",
    "libhipblas.so",
    "libhipblas.so.3 libhipblas.so.2 libhipblas.so.1 libhipblas.so.0 ",
    "there is no libhipblas.so.3 to .0 that can be used",
    3,
    0,
    false,
    hip_types,
    functions,
};

// The product comes with such types, under the one name or the other.
static void check_types(int version, struct library_values values, const char *calls)
{
    char name[32];
    snprintf(name, sizeof name, "hipBLAS %d", version);
    struct gpu_blas *blas = world_open(version);
    cr_assert_str_eq(gpu_blas_name(blas), name);
    world.values = values;
    world.calls[0] = 0;
    cr_assert(world_multiply(blas));
    cr_assert_str_eq(world.calls, calls, "version %d: %s", version, world.calls);
    gpu_blas_close(blas);
}

Test(vendor_blas, types_of_a_product_are_those_of_the_version)
{
    check_types(3, hip_types, "stream product ");
    check_types(2, hip_types, "stream product_v2 ");
    check_types(1, own_types, "stream product ");
    check_types(0, own_types, "stream product ");
}

Test(vendor_blas, the_second_version_without_its_second_product_takes_the_older_types)
{
    world.lacks[2] = "hipblasGemmEx_v2";
    check_types(2, own_types, "stream product ");
}
