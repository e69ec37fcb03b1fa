// blas.h over a vendor's library, which is opened at run time so that a machine without it, or with another
// version of it than the build's, has everything else. cuBLAS and hipBLAS have the same functions under other
// names and with other constants, so that this is written once. Included by backends/cuda/blas.cc and
// backends/hip/blas.cc, which define the four constants below and what the two do not share.
//
// What is declared of the libraries is repeated here, so that their headers are not needed to build. A handle
// is a pointer in both, a status is 0 where all is well.
//
// VENDOR_BLAS          what the library is called
// VENDOR_BLAS_FILE     its file, to which a point and the version are added
// VENDOR_BLAS_NEWEST   versions that are looked for, the newest first
// VENDOR_BLAS_OLDEST
#ifndef LODE_GPU_VENDOR_BLAS_H
#define LODE_GPU_VENDOR_BLAS_H

#include "backends/gpu/blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What the library calls them.
struct blas_values {
    int op_n, op_t, r_16f, r_32f, compute_32f, algorithm;
};

struct gpu_blas {
    void *library;
    int file_version; // by which it was found
    struct gpu_context *context;
    void *handle;
    struct blas_values values;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*version)(void *handle, int *version); // NULL: it is not asked
    int (*set_stream)(void *handle, gpu_stream stream);
    int (*set_workspace)(void *handle, void *workspace, size_t bytes); // NULL: it has memory of its own
    int (*gemm)(void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha, const void *a,
                int a_type, int a_stride, const void *b, int b_type, int b_stride, const void *beta, void *c,
                int c_type, int c_stride, int compute, int algorithm);
    char name[32];
};

// ---- of the vendor's file

// Finds the functions of the library and writes their values. False where it lacks one that is needed.
static bool find_functions(struct gpu_blas *blas);
// Writes the name. The library has started.
static void name_library(struct gpu_blas *blas);

// ---- what both do alike

// False where the library has no such function; then *out is NULL.
template <typename Function> static bool find(struct gpu_blas *blas, Function *out, const char *name)
{
    void *symbol = dlsym(blas->library, name);
    memcpy(out, &symbol, sizeof symbol);
    return symbol != nullptr;
}

static int open_library(struct gpu_blas *blas, struct lode_error *error)
{
    for (int version = VENDOR_BLAS_NEWEST; version >= VENDOR_BLAS_OLDEST; version--) {
        char file[32];
        snprintf(file, sizeof file, "%s.%d", VENDOR_BLAS_FILE, version);
        blas->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        if (!blas->library)
            continue;
        blas->file_version = version;
        if (find_functions(blas))
            return LODE_OK;
        dlclose(blas->library);
        blas->library = nullptr;
    }
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "there is no %s.%d to .%d that can be used",
                     VENDOR_BLAS_FILE, VENDOR_BLAS_NEWEST, VENDOR_BLAS_OLDEST);
}

static int start_library(struct gpu_blas *blas, struct lode_error *error)
{
    gpu_context_select(blas->context);
    const int status = blas->create(&blas->handle);
    if (status == 0)
        return LODE_OK;
    blas->handle = nullptr;
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s does not start: status %d", VENDOR_BLAS, status);
}

int gpu_blas_open(struct gpu_blas **out, struct gpu_context *context, struct lode_error *error)
{
    *out = nullptr;
    struct gpu_blas *blas = static_cast<struct gpu_blas *>(calloc(1, sizeof *blas));
    if (!blas)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the handle of %s", VENDOR_BLAS);
    blas->context = context;
    int code = open_library(blas, error);
    if (code == LODE_OK)
        code = start_library(blas, error);
    if (code != LODE_OK) {
        gpu_blas_close(blas);
        return code;
    }
    name_library(blas);
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
    const struct blas_values *values = &blas->values;
    const float one = 1, zero = 0;
    if (blas->set_stream(blas->handle, stream) != 0)
        return false;
    // To set a stream gives the library its own workspace back, which it would allocate.
    if (blas->set_workspace &&
        blas->set_workspace(blas->handle, product->workspace, GPU_BLAS_WORKSPACE_BYTES) != 0)
        return false;
    // The library counts columns first, so rows of ours are its columns: out^T = weights x^T.
    return blas->gemm(blas->handle, values->op_t, values->op_n, static_cast<int>(product->rows),
                      static_cast<int>(product->n), static_cast<int>(product->cols), &one, product->weights,
                      values->r_16f, static_cast<int>(product->weight_stride), product->x, values->r_16f,
                      static_cast<int>(product->x_stride), &zero, product->out, values->r_32f,
                      static_cast<int>(product->out_stride), values->compute_32f, values->algorithm) == 0;
}

#endif
