// What is expected of backends/cuda/blas.cc; see test_vendor_blas.cc.
#include "tests/vendor_blas_world.h"

#include <criterion/criterion.h>

#define FUNCTION(function) reinterpret_cast<void *>(function)

static const struct library_function functions[] = {
    {"cublasCreate_v2", FUNCTION(library_create), true},
    {"cublasDestroy_v2", FUNCTION(library_destroy), true},
    {"cublasGetVersion_v2", FUNCTION(library_version), true},
    {"cublasSetStream_v2", FUNCTION(library_set_stream), true},
    {"cublasSetWorkspace_v2", FUNCTION(library_set_workspace), true},
    {"cublasGemmEx", FUNCTION(library_product), true},
    {},
};

extern const struct vendor_library vendor = {
    "cuBLAS",
    "libcublas.so",
    "libcublas.so.13 libcublas.so.12 libcublas.so.11 ",
    "there is no libcublas.so.13 to .11 that can be used",
    13,
    11,
    true,
    {0, 1, 2, 0, 68, -1},
    functions,
};

Test(vendor_blas, the_name_has_the_version_in_either_way_of_counting)
{
    static const struct {
        int number;
        const char *name;
    } versions[] = {{130100, "cuBLAS 13.1.0"},
                    {120804, "cuBLAS 12.8.4"},
                    {110000, "cuBLAS 11.0.0"},
                    {11401, "cuBLAS 11.4.1"}};
    for (const auto &version : versions) {
        world.version_number = version.number;
        struct gpu_blas *blas = world_open(11);
        cr_assert_str_eq(gpu_blas_name(blas), version.name);
        gpu_blas_close(blas);
    }
}
