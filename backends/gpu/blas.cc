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

// Beside the slice of weights: the products of the second matrix.
size_t gpu_blas_geglu_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows)
{
    return gpu_blas_scratch_bytes(n, cols, slice_rows) + ALIGN +
           aligned(static_cast<size_t>(n) * slice_rows * sizeof(float));
}

// Rows of a slice of which each takes so many bytes behind the head; all where there is room, 0 where there
// is too little.
static uint32_t slice_rows_in(size_t scratch_bytes, size_t head, size_t bytes_a_row, uint32_t all)
{
    if (scratch_bytes < head)
        return 0;
    const size_t room = bytes_a_row ? (scratch_bytes - head) / bytes_a_row : all;
    return room >= all ? all : static_cast<uint32_t>(room / LEAST_SLICE * LEAST_SLICE);
}

static bool goes_as_it_is(const struct lode_matrix *weight)
{
    return weight->type == LODE_F16 && weight->row_bytes % sizeof(uint16_t) == 0;
}

namespace
{

// A product's input as halves, and the parts of the scratch.
struct blas_input {
    struct gpu_blas *blas;
    const struct gpu_queue *queue;
    uint16_t *halves;
    float *scales;
    void *workspace;
    uint32_t n, cols;
};

} // namespace

static struct blas_input prepare(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows x,
                                 uint32_t cols, void *scratch)
{
    char *memory = static_cast<char *>(scratch);
    struct blas_input input = {};
    input.blas = blas;
    input.queue = queue;
    input.workspace = memory;
    input.scales = reinterpret_cast<float *>(memory + GPU_BLAS_WORKSPACE_BYTES);
    input.halves =
        reinterpret_cast<uint16_t *>(memory + GPU_BLAS_WORKSPACE_BYTES + aligned(x.n * sizeof(float)));
    input.n = x.n;
    input.cols = cols;
    GPU_LAUNCH(rows_to_halves, dim3(x.n), dim3(THREADS), queue->stream, input.halves, stride_for(cols),
               input.scales, const_cast<const float *>(x.data), x.stride, cols);
    return input;
}

// out: the products with rows first .. first + rows - 1 of the weights, which are decoded to `slice`.
static bool multiply_slice(const struct blas_input *input, float *out, size_t out_stride,
                           const struct lode_matrix *weight, uint32_t first, uint32_t rows, uint16_t *slice)
{
    const bool as_it_is = goes_as_it_is(weight);
    struct gpu_blas_product product = {};
    product.out = out;
    product.out_stride = out_stride;
    product.x = input->halves;
    product.x_stride = stride_for(input->cols);
    product.weight_stride = as_it_is ? weight->row_bytes / sizeof(uint16_t) : input->cols;
    product.weights =
        as_it_is ? static_cast<const uint16_t *>(weight->data) + first * product.weight_stride : slice;
    product.n = input->n;
    product.rows = rows;
    product.cols = input->cols;
    product.workspace = input->workspace;
    if (!as_it_is)
        gpu_dequantize_half(input->queue, slice, weight, first, rows);
    if (!gpu_blas_multiply(input->blas, input->queue->stream, &product))
        return false;
    GPU_LAUNCH(scale_rows, dim3(input->n), dim3(THREADS), input->queue->stream, out, out_stride,
               const_cast<const float *>(input->scales), rows);
    return true;
}

bool gpu_blas_matmul(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows out,
                     const struct lode_matrix *weight, struct lode_rows x, void *scratch,
                     size_t scratch_bytes)
{
    const uint32_t cols = weight->cols, all = weight->rows;
    const size_t head = head_bytes(x.n, cols);
    const size_t row_bytes = goes_as_it_is(weight) ? 0 : static_cast<size_t>(cols) * sizeof(uint16_t);
    const uint32_t slice_rows = slice_rows_in(scratch_bytes, head, row_bytes, all);
    if (!blas || x.n == 0 || slice_rows == 0)
        return false;

    const struct blas_input input = prepare(blas, queue, x, cols, scratch);
    uint16_t *slice = reinterpret_cast<uint16_t *>(static_cast<char *>(scratch) + head);
    for (uint32_t first = 0; first < all; first += slice_rows) {
        const uint32_t rows = all - first < slice_rows ? all - first : slice_rows;
        if (!multiply_slice(&input, out.data + first, out.stride, weight, first, rows, slice))
            return false;
    }
    return true;
}

bool gpu_blas_matmul_geglu(struct gpu_blas *blas, const struct gpu_queue *queue, struct lode_rows out,
                           const struct lode_matrix *gate, const struct lode_matrix *up, struct lode_rows x,
                           void *scratch, size_t scratch_bytes)
{
    const uint32_t cols = gate->cols, all = gate->rows;
    // The products of `up` lie before its weights; their size is rounded up.
    const size_t head = head_bytes(x.n, cols) + ALIGN;
    const size_t row_bytes = goes_as_it_is(up) ? 0 : static_cast<size_t>(cols) * sizeof(uint16_t);
    const uint32_t slice_rows = slice_rows_in(scratch_bytes, head, row_bytes + x.n * sizeof(float), all);
    if (!blas || x.n == 0 || slice_rows == 0)
        return false;

    const struct blas_input input = prepare(blas, queue, x, cols, scratch);
    char *behind = static_cast<char *>(scratch) + head_bytes(x.n, cols);
    float *factors = reinterpret_cast<float *>(behind);
    uint16_t *slice =
        reinterpret_cast<uint16_t *>(behind + aligned(static_cast<size_t>(x.n) * slice_rows * sizeof(float)));
    for (uint32_t first = 0; first < all; first += slice_rows) {
        const uint32_t rows = all - first < slice_rows ? all - first : slice_rows;
        const struct lode_rows gated = {out.data + first, x.n, rows, out.stride};
        const struct lode_rows factor = {factors, x.n, rows, rows};
        if (!multiply_slice(&input, gated.data, gated.stride, gate, first, rows, slice) ||
            !multiply_slice(&input, factors, rows, up, first, rows, slice))
            return false;
        gpu_geglu(queue, gated, gated, factor);
    }
    return true;
}
