// A vendor's library of products for tests: backends/{cuda,hip}/blas.cc, compiled for the CPU, find the
// loader below in the place of the system's (-Ddlopen=loader_open), and in it a library that multiplies and
// notes what is asked of it.
#ifndef LODE_TEST_VENDOR_BLAS_WORLD_H
#define LODE_TEST_VENDOR_BLAS_WORLD_H

#include "backends/gpu/blas.h"

#define WORLD_VERSIONS 16

// A function of the library, under the vendor's name.
struct library_function {
    const char *name;
    void *function;
    bool is_needed; // by every version
};

// Values as the library has them.
struct library_values {
    int op_n, op_t, r_16f, r_32f, compute_32f, algorithm;
};

// What is expected of the vendor's file; defined beside the tests of that vendor.
struct vendor_library {
    const char *title, *file; // "cuBLAS", "libcublas.so"
    const char *tried;        // every file that is looked for, in order, with a blank behind each
    const char *missing;      // what is said where there is none of them
    int newest, oldest;
    bool takes_workspace;
    struct library_values newest_values;      // of the newest version
    const struct library_function *functions; // the last has no name
};
extern const struct vendor_library vendor;

struct library_world {
    bool has[WORLD_VERSIONS];          // which versions there are
    const char *lacks[WORLD_VERSIONS]; // a function that the version has not; NULL: it has all
    int create_status, version_number; // what the library says
    const char *refuses;               // "stream", "workspace", "product"; NULL: nothing
    struct library_values values;      // that a product must come with
    char tried[512];                   // files, with a blank behind each
    char calls[512];                   // of the open library, with a blank behind each
    unsigned n_open, n_handles, n_selected;
    gpu_stream stream;
    void *workspace;
    size_t workspace_bytes;
};
extern struct library_world world;

// For tables of functions.
int library_create(void **handle);
int library_destroy(void *handle);
int library_version(void *handle, int *out);
int library_set_stream(void *handle, gpu_stream stream);
int library_set_workspace(void *handle, void *workspace, size_t bytes);
// The product as the libraries define it, columns first, and noted as "product"; the second as "product_v2".
int library_product(void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha, const void *a,
                    int a_type, int a_stride, const void *b, int b_type, int b_stride, const void *beta,
                    void *c, int c_type, int c_stride, int compute, int algorithm);
int library_product_v2(void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha,
                       const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride,
                       const void *beta, void *c, int c_type, int c_stride, int compute, int algorithm);

// Any context will do, and it must be this one.
struct gpu_context *world_context();
// Opens the library, of which only `version` is there; the test fails where it does not open.
struct gpu_blas *world_open(int version);
// Multiplies small matrices with gaps between their rows. False where the library refuses; then nothing is
// written. The test fails where the product is another than out = x weights^T.
bool world_multiply(struct gpu_blas *blas);

#endif
