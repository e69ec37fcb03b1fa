// Products by the vendor's library: activations to halves, weights to halves in slices, and the scales of
// rows that were scaled put back.
#include "backends/gpu/blas.h"

#include <string.h>

#define THREADS 256
#define ALIGN 256      // of the parts of the scratch
#define LEAST_SLICE 64 // rows: less is not worth a launch

// 2^exponent for exponents -126 .. 127.
GPU_FN float power_of_two(int exponent)
{
    const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

// The power of two by which a row with this largest magnitude goes into halves: none for what a norm makes.
// Halves reach 65504, and have all of their digits above 2^-14.
GPU_FN int exponent_for(float largest)
{
    uint32_t bits;
    memcpy(&bits, &largest, sizeof bits);
    const int exponent = static_cast<int>(bits >> 23 & 255) - 127; // largest < 2^(exponent + 1)
    if ((exponent >= -3 && exponent <= 14) || exponent == 128 || largest == 0)
        return 0;
    const int wanted = 10 - exponent;
    return wanted > 126 ? 126 : wanted;
}

// A block a row. scales[row]: what its results are multiplied with.
GPU_KERNEL void GPU_BLOCK(THREADS) rows_to_halves(uint16_t *out, size_t out_stride, float *scales,
                                                  const float *x, size_t x_stride, uint32_t cols)
{
    GPU_SHARED(float, largest, THREADS / GPU_LANES);
    const float *row = x + blockIdx.x * x_stride;
    float most = 0;
    for (uint32_t c = threadIdx.x; c < cols; c += THREADS) {
        const float size = fabsf(row[c]);
        most = size > most ? size : most;
    }
    most = gpu_lanes_max(most);
    if (threadIdx.x % GPU_LANES == 0)
        largest[threadIdx.x / GPU_LANES] = most;
    __syncthreads();
    for (uint32_t i = 0; i < THREADS / GPU_LANES; i++)
        most = largest[i] > most ? largest[i] : most;
    const int exponent = exponent_for(most);
    const float scale = power_of_two(exponent);
    if (threadIdx.x == 0)
        scales[blockIdx.x] = power_of_two(-exponent);
    // Columns up to the stride are zeros: the product is told of those alone that are there.
    for (uint32_t c = threadIdx.x; c < out_stride; c += THREADS)
        out[blockIdx.x * out_stride + c] = c < cols ? gpu_float_to_half(row[c] * scale) : 0;
}

// Nearly always there is nothing to do but to look.
GPU_KERNEL void GPU_BLOCK(THREADS) scale_rows(float *out, size_t stride, const float *scales, uint32_t cols)
{
    const float scale = scales[blockIdx.x];
    if (scale == 1.0f)
        return;
    for (uint32_t c = threadIdx.x; c < cols; c += THREADS)
        out[blockIdx.x * stride + c] *= scale;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

// Halves between rows: whole 16 bytes, as tensor cores want them.
static size_t stride_for(uint32_t cols)
{
    return (static_cast<size_t>(cols) + 7) / 8 * 8;
}

// What lies before the slice.
static size_t head_bytes(uint32_t n, uint32_t cols)
{
    return GPU_BLAS_WORKSPACE_BYTES + aligned(n * sizeof(float)) +
           aligned(n * stride_for(cols) * sizeof(uint16_t));
}

size_t gpu_blas_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows)
{
    return head_bytes(n, cols) + slice_rows * static_cast<size_t>(cols) * sizeof(uint16_t);
}

bool gpu_blas_matmul(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows out,
                     const struct lode_matrix *weight, struct lode_rows x, void *scratch,
                     size_t scratch_bytes)
{
    const uint32_t n = x.n, cols = weight->cols;
    const size_t head = head_bytes(n, cols), row_bytes = static_cast<size_t>(cols) * sizeof(uint16_t);
    const bool as_it_is = weight->type == LODE_F16 && weight->row_bytes % sizeof(uint16_t) == 0;
    const size_t room = scratch_bytes > head && row_bytes > 0 ? (scratch_bytes - head) / row_bytes : 0;
    const uint32_t slice_rows = as_it_is || room >= weight->rows
                                    ? weight->rows
                                    : static_cast<uint32_t>(room / LEAST_SLICE * LEAST_SLICE);
    if (!blas || n == 0 || scratch_bytes < head || slice_rows == 0)
        return false;

    char *memory = static_cast<char *>(scratch);
    float *scales = reinterpret_cast<float *>(memory + GPU_BLAS_WORKSPACE_BYTES);
    uint16_t *halves =
        reinterpret_cast<uint16_t *>(memory + GPU_BLAS_WORKSPACE_BYTES + aligned(n * sizeof(float)));
    uint16_t *slice = reinterpret_cast<uint16_t *>(memory + head);
    GPU_LAUNCH(rows_to_halves, dim3(n), dim3(THREADS), queue->stream, halves, stride_for(cols), scales,
               const_cast<const float *>(x.data), x.stride, cols);
    for (uint32_t first = 0; first < weight->rows; first += slice_rows) {
        const uint32_t rows = weight->rows - first < slice_rows ? weight->rows - first : slice_rows;
        struct gpu_blas_product product = {};
        product.out = out.data + first;
        product.out_stride = out.stride;
        product.x = halves;
        product.x_stride = stride_for(cols);
        product.weights = as_it_is ? static_cast<const uint16_t *>(weight->data) : slice;
        product.weight_stride = as_it_is ? weight->row_bytes / sizeof(uint16_t) : cols;
        product.n = n;
        product.rows = rows;
        product.cols = cols;
        product.workspace = memory;
        if (!as_it_is)
            gpu_dequantize_half(queue, slice, weight, first, rows);
        if (!gpu_blas_multiply(blas, queue->stream, &product))
            return false;
    }
    GPU_LAUNCH(scale_rows, dim3(n), dim3(THREADS), queue->stream, out.data, out.stride,
               const_cast<const float *>(scales), weight->rows);
    return true;
}
