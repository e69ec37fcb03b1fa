// cuBLAS. What is used of it has been the same since version 11.
#define VENDOR_BLAS "cuBLAS"
#define VENDOR_BLAS_FILE "libcublas.so"
#define VENDOR_BLAS_NEWEST 13
#define VENDOR_BLAS_OLDEST 11
#include "backends/gpu/vendor_blas.h"

// Values of cublas_api.h and library_types.h: CUBLAS_OP_N, CUBLAS_OP_T, CUDA_R_16F, CUDA_R_32F,
// CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT.
static const struct blas_values values = {0, 1, 2, 0, 68, -1};

static bool find_functions(struct gpu_blas *blas)
{
    blas->values = values;
    return find(blas, &blas->create, "cublasCreate_v2") && find(blas, &blas->destroy, "cublasDestroy_v2") &&
           find(blas, &blas->version, "cublasGetVersion_v2") &&
           find(blas, &blas->set_stream, "cublasSetStream_v2") &&
           find(blas, &blas->set_workspace, "cublasSetWorkspace_v2") &&
           find(blas, &blas->gemm, "cublasGemmEx");
}

static void name_library(struct gpu_blas *blas)
{
    int version = 0;
    blas->version(blas->handle, &version);
    // 110000 is 11.0.0; the older 11 counts 11401 for 11.4.1.
    const int major = version >= 100000 ? version / 10000 : version / 1000;
    const int minor = version >= 100000 ? version / 100 % 100 : version / 100 % 10;
    snprintf(blas->name, sizeof blas->name, "%s %d.%d.%d", VENDOR_BLAS, major, minor, version % 100);
}
