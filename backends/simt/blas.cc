// The place of a vendor's library where kernels are executed on the CPU: plain loops, so that what is around
// a library is proven without one.
#include "backends/gpu/blas.h"

#include <stdlib.h>

#define THREADS 64

struct gpu_blas {
    struct gpu_context *context;
};

int gpu_blas_open(struct gpu_blas **out, struct gpu_context *context, struct lode_error *error)
{
    *out = static_cast<struct gpu_blas *>(calloc(1, sizeof **out));
    if (!*out)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the handle of plain loops");
    (*out)->context = context;
    return LODE_OK;
}

void gpu_blas_close(struct gpu_blas *blas)
{
    free(blas);
}

const char *gpu_blas_name(const struct gpu_blas *)
{
    return "plain loops";
}

static void multiply(float *out, size_t out_stride, const uint16_t *x, size_t x_stride,
                     const uint16_t *weights, size_t weight_stride, uint32_t rows, uint32_t cols)
{
    const uint32_t row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= rows)
        return;
    float sum = 0;
    for (uint32_t c = 0; c < cols; c++)
        sum += gpu_half_to_float(x[blockIdx.y * x_stride + c]) *
               gpu_half_to_float(weights[row * weight_stride + c]);
    out[blockIdx.y * out_stride + row] = sum;
}

bool gpu_blas_multiply(struct gpu_blas *, gpu_stream stream, const struct gpu_blas_product *product)
{
    GPU_LAUNCH(multiply, dim3((product->rows + THREADS - 1) / THREADS, product->n), dim3(THREADS), stream,
               product->out, product->out_stride, product->x, product->x_stride, product->weights,
               product->weight_stride, product->rows, product->cols);
    return true;
}
