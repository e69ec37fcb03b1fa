// cuBLAS, opened at run time so that a machine without it, or with another version of it than the build's,
// has everything else. What is used of it has been the same since version 11; the declarations are repeated
// here, so that its headers are not needed to build.
#include "backends/gpu/blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct cublasContext *handle_type;

// Values of cublas_api.h and library_types.h.
#define SUCCESS 0
#define OP_N 0
#define OP_T 1
#define R_32F 0
#define R_16F 2
#define COMPUTE_32F 68
#define GEMM_DEFAULT (-1)

struct gpu_blas {
    void *library;
    struct gpu_context *context;
    handle_type handle;
    int (*create)(handle_type *handle);
    int (*destroy)(handle_type handle);
    int (*version)(handle_type handle, int *version);
    int (*set_stream)(handle_type handle, cudaStream_t stream);
    int (*set_workspace)(handle_type handle, void *workspace, size_t bytes);
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

static int open_library(struct gpu_blas *blas, struct lode_error *error)
{
    // The build's own version first: the driver can be counted on to know it.
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        blas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!blas->library)
            continue;
        if (find(blas, &blas->create, "cublasCreate_v2") && find(blas, &blas->destroy, "cublasDestroy_v2") &&
            find(blas, &blas->version, "cublasGetVersion_v2") &&
            find(blas, &blas->set_stream, "cublasSetStream_v2") &&
            find(blas, &blas->set_workspace, "cublasSetWorkspace_v2") &&
            find(blas, &blas->gemm, "cublasGemmEx"))
            return LODE_OK;
        dlclose(blas->library);
        blas->library = nullptr;
    }
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "there is no libcublas.so.13, .12 or .11 that can be used");
}

int gpu_blas_open(struct gpu_blas **out, struct gpu_context *context, struct lode_error *error)
{
    *out = nullptr;
    struct gpu_blas *blas = static_cast<struct gpu_blas *>(calloc(1, sizeof *blas));
    if (!blas)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the handle of cuBLAS");
    blas->context = context;
    int code = open_library(blas, error);
    if (code == LODE_OK) {
        gpu_context_select(context);
        const int status = blas->create(&blas->handle);
        if (status != SUCCESS) {
            blas->handle = nullptr;
            code = lode_fail(error, LODE_ERR_UNSUPPORTED, "cuBLAS does not start: status %d", status);
        }
    }
    if (code != LODE_OK) {
        gpu_blas_close(blas);
        return code;
    }
    int version = 0;
    blas->version(blas->handle, &version);
    // 110000 is 11.0.0; the older 11 counts 11401 for 11.4.1.
    const int major = version >= 100000 ? version / 10000 : version / 1000;
    const int minor = version >= 100000 ? version / 100 % 100 : version / 100 % 10;
    snprintf(blas->name, sizeof blas->name, "cuBLAS %d.%d.%d", major, minor, version % 100);
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
    // The library counts columns first, so rows of ours are its columns: out^T = weights x^T. To set a stream
    // gives it its own workspace back, which it would allocate.
    const float one = 1, zero = 0;
    return blas->set_stream(blas->handle, stream) == SUCCESS &&
           blas->set_workspace(blas->handle, product->workspace, GPU_BLAS_WORKSPACE_BYTES) == SUCCESS &&
           blas->gemm(blas->handle, OP_T, OP_N, static_cast<int>(product->rows), static_cast<int>(product->n),
                      static_cast<int>(product->cols), &one, product->weights, R_16F,
                      static_cast<int>(product->weight_stride), product->x, R_16F,
                      static_cast<int>(product->x_stride), &zero, product->out, R_32F,
                      static_cast<int>(product->out_stride), COMPUTE_32F, GEMM_DEFAULT) == SUCCESS;
}
