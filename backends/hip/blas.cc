// hipBLAS. Its general product has changed its types twice: version 3 and a second name in version 2 take
// the types of HIP, before that they were its own. Not all versions take memory of ours for what they need.
#define VENDOR_BLAS "hipBLAS"
#define VENDOR_BLAS_FILE "libhipblas.so"
#define VENDOR_BLAS_NEWEST 3
#define VENDOR_BLAS_OLDEST 0
#include "backends/gpu/vendor_blas.h"

// Values of hipblas.h (HIPBLAS_OP_N, HIPBLAS_OP_T, HIPBLAS_R_16F and _32F twice, HIPBLAS_GEMM_DEFAULT), and
// of HIP's library_types.h (HIP_R_16F, HIP_R_32F) with HIPBLAS_COMPUTE_32F.
static const struct blas_values own_types = {111, 112, 150, 151, 151, 160};
static const struct blas_values hip_types = {111, 112, 2, 0, 2, 160};

static bool find_product(struct gpu_blas *blas)
{
    blas->values = hip_types;
    if (blas->file_version == 3)
        return find(blas, &blas->gemm, "hipblasGemmEx");
    if (blas->file_version == 2 && find(blas, &blas->gemm, "hipblasGemmEx_v2"))
        return true;
    blas->values = own_types;
    return find(blas, &blas->gemm, "hipblasGemmEx");
}

static bool find_functions(struct gpu_blas *blas)
{
    return find(blas, &blas->create, "hipblasCreate") && find(blas, &blas->destroy, "hipblasDestroy") &&
           find(blas, &blas->set_stream, "hipblasSetStream") && find_product(blas);
}

static void name_library(struct gpu_blas *blas)
{
    snprintf(blas->name, sizeof blas->name, "%s %d", VENDOR_BLAS, blas->file_version);
}
