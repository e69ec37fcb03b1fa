// hipBLAS, opened at run time so that a machine without it, or with another version of it than the build's,
// has everything else. Its general product has changed its types twice: version 3 and a second name in
// version 2 take the types of HIP, before that they were its own.
#include "backends/gpu/blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle_type;

// Values of hipblas.h and library_types.h.
#define SUCCESS 0
#define OP_N 111
#define OP_T 112
#define GEMM_DEFAULT 160

struct type_values {
    int r_32f, r_16f, compute_32f;
};
static const struct type_values own_types = {151, 150, 151}, hip_types = {0, 2, 2};

struct gpu_blas {
    void *library;
    struct gpu_context *context;
    handle_type handle;
    struct type_values types;
    int (*create)(handle_type *handle);
    int (*destroy)(handle_type handle);
    int (*set_stream)(handle_type handle, hipStream_t stream);
    int (*gemm)(handle_type handle, int a_op, int b_op, int m, int n, int k, const void *alpha, const void *a,
                int a_type, int a_stride, const void *b, int b_type, int b_stride, const void *beta, void *c,
                int c_type, int c_stride, int compute, int algorithm);
    char name[32];
};

// False where the library has no such function.
template <typename Function> static bool find(struct gpu_blas *blas, Function *out, const char *name)
{
    void *symbol = dlsym(blas->library, name);
    memcpy(out, &symbol, sizeof symbol);
    return symbol != nullptr;
}

static bool find_product(struct gpu_blas *blas, int version)
{
    if (version == 3) {
        blas->types = hip_types;
        return find(blas, &blas->gemm, "hipblasGemmEx");
    }
    if (version == 2 && find(blas, &blas->gemm, "hipblasGemmEx_v2")) {
        blas->types = hip_types;
        return true;
    }
    blas->types = own_types;
    return find(blas, &blas->gemm, "hipblasGemmEx");
}

static int open_library(struct gpu_blas *blas, struct lode_error *error)
{
    for (int version = 3; version >= 0; version--) {
        char file[32];
        snprintf(file, sizeof file, "libhipblas.so.%d", version);
        blas->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        if (!blas->library)
            continue;
        if (find(blas, &blas->create, "hipblasCreate") && find(blas, &blas->destroy, "hipblasDestroy") &&
            find(blas, &blas->set_stream, "hipblasSetStream") && find_product(blas, version)) {
            snprintf(blas->name, sizeof blas->name, "hipBLAS %d", version);
            return LODE_OK;
        }
        dlclose(blas->library);
        blas->library = nullptr;
    }
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "there is no libhipblas.so.3 to .0 that can be used");
}

int gpu_blas_open(struct gpu_blas **out, struct gpu_context *context, struct lode_error *error)
{
    *out = nullptr;
    struct gpu_blas *blas = static_cast<struct gpu_blas *>(calloc(1, sizeof *blas));
    if (!blas)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the handle of hipBLAS");
    blas->context = context;
    int code = open_library(blas, error);
    if (code == LODE_OK) {
        gpu_context_select(context);
        const int status = blas->create(&blas->handle);
        if (status != SUCCESS) {
            blas->handle = nullptr;
            code = lode_fail(error, LODE_ERR_UNSUPPORTED, "hipBLAS does not start: status %d", status);
        }
    }
    if (code != LODE_OK) {
        gpu_blas_close(blas);
        return code;
    }
    *out = blas;
    return LODE_OK;
}

void gpu_blas_close(struct gpu_blas *blas)
{
    if (!blas)
        return;
    if (blas->handle) {
        gpu_context_select(blas->context);
        blas->destroy(blas->handle);
    }
    if (blas->library)
        dlclose(blas->library);
    free(blas);
}

const char *gpu_blas_name(const struct gpu_blas *blas)
{
    return blas->name;
}

bool gpu_blas_multiply(struct gpu_blas *blas, gpu_stream stream, const struct gpu_blas_product *product)
{
    // The library counts columns first, so rows of ours are its columns: out^T = weights x^T. It has memory
    // of its own for what it needs; not all versions take ours.
    const float one = 1, zero = 0;
    return blas->set_stream(blas->handle, stream) == SUCCESS &&
           blas->gemm(blas->handle, OP_T, OP_N, static_cast<int>(product->rows), static_cast<int>(product->n),
                      static_cast<int>(product->cols), &one, product->weights, blas->types.r_16f,
                      static_cast<int>(product->weight_stride), product->x, blas->types.r_16f,
                      static_cast<int>(product->x_stride), &zero, product->out, blas->types.r_32f,
                      static_cast<int>(product->out_stride), blas->types.compute_32f,
                      GEMM_DEFAULT) == SUCCESS;
}
