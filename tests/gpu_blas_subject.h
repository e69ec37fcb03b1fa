// Products by a vendor's library as tests call them: with everything in the host's memory.
#ifndef LODE_TEST_GPU_BLAS_SUBJECT_H
#define LODE_TEST_GPU_BLAS_SUBJECT_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// What gpu_blas_matmul says, or with `up` gpu_blas_matmul_geglu, with so much scratch; out is what it left.
// Fails with an error where anything else does. name: of the library.
int test_gpu_blas_matmul(bool *out_done, struct lode_rows out, const struct lode_matrix *weight,
                         const struct lode_matrix *up, struct lode_rows x, size_t scratch_bytes,
                         char name[32], struct lode_error *error);

size_t test_gpu_blas_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows);
size_t test_gpu_blas_geglu_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows);

#ifdef __cplusplus
}
#endif

#endif
