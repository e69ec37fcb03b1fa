// Products with many rows by the vendor's library (cuBLAS, hipBLAS), which is opened at run time and may be
// missing: weights are decoded to half precision a slice of rows at a time, and products are summed in float.
//
// It costs the decoding, two bytes of traffic a weight in each direction, and pays where the library's
// half-precision products are much faster than Lode's own: many rows, and GPUs without int8 tensor cores.
// Which that is on a machine is for measurement to say (profile_library_rows); nothing here decides it.
//
// Numbers: activations are rounded to half (a row whose largest value is far from 1 is scaled by a power of
// two before and its results after, so none overflows), and so are weights: each differs by at most 2^-11 of
// itself, or 2^-25 where it is smaller than 2^-14. With F16 weights theirs are the file's.
#ifndef LODE_GPU_BLAS_H
#define LODE_GPU_BLAS_H

#include "backends/gpu/kernels.h"
#include "backends/gpu/runtime.h"

// ---- of a vendor: backends/cuda/blas.cc, backends/hip/blas.cc, backends/simt/blas.cc

struct gpu_blas;

// Fails with LODE_ERR_UNSUPPORTED where no library is found or it does not start, with the reason. The
// library takes memory of the device for itself, here and when it first uses a kernel (tens of MiB):
// gpu_memory_count before and after a first product tells how much.
int gpu_blas_open(struct gpu_blas **out, struct gpu_context *context, struct lode_error *error);
void gpu_blas_close(struct gpu_blas *blas);             // NULL is fine; the stream must be idle
const char *gpu_blas_name(const struct gpu_blas *blas); // "cuBLAS 13.1.0"

// out[n][rows] = x[n][cols] weights[rows][cols]^T, halves, summed in float. Strides in elements. `workspace`:
// GPU_BLAS_WORKSPACE_BYTES of the device, aligned to 256, that is the library's until the product is done.
#define GPU_BLAS_WORKSPACE_BYTES ((size_t)4 << 20)
struct gpu_blas_product {
    float *out;
    const uint16_t *x, *weights;
    size_t out_stride, x_stride, weight_stride;
    uint32_t n, rows, cols;
    void *workspace;
};
// False, and nothing is launched, where the library refuses it.
bool gpu_blas_multiply(struct gpu_blas *blas, gpu_stream stream, const struct gpu_blas_product *product);

// ---- blas.cc

// Bytes of scratch for n rows by which a matrix goes in slices of `slice_rows` rows, and the same of two
// matrices whose products are gated.
size_t gpu_blas_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows);
size_t gpu_blas_geglu_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows);

// out = x weight^T, in slices as large as the scratch allows (memory of the device, aligned to 256). False
// where the scratch has no room for 64 rows of weights, or the library refuses; then out is as if untouched
// or half written, and gpu_matmul is to do it.
bool gpu_blas_matmul(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows out,
                     const struct lode_matrix *weight, struct lode_rows x, void *scratch,
                     size_t scratch_bytes);
// out = gelu_tanh(x gate^T) * (x up^T), likewise; gate and up have the same type and shape.
bool gpu_blas_matmul_geglu(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows out,
                           const struct lode_matrix *gate, const struct lode_matrix *up, struct lode_rows x,
                           void *scratch, size_t scratch_bytes);

#endif
