// Runs the kernels and the runtime that execute on the CPU, without a device around them; see
// gpu_blas_subject.h.
#ifndef LODE_GPU_SIMT
#define LODE_GPU_SIMT
#endif
#include "tests/gpu_blas_subject.h"

#include "backends/gpu/blas.h"

#include <stdio.h>
#include <string.h>

// A copy in memory of the device.
static int up(struct gpu_context *context, gpu_stream stream, void **out, const void *bytes, size_t n,
              struct lode_error *error)
{
    int code = gpu_memory_alloc(context, out, n + LODE_DEVICE_SLACK, error);
    return code != LODE_OK || !bytes ? code
                                     : gpu_stream_copy(context, stream, *out, bytes, n, GPU_COPY_IN, error);
}

static size_t bytes_of(struct lode_rows rows)
{
    return rows.n * rows.stride * sizeof(float);
}

static int multiply(bool *out_done, struct gpu_context *context, gpu_stream stream, struct gpu_blas *blas,
                    struct lode_rows out, const struct lode_matrix *weight,
                    const struct lode_matrix *up_weight, struct lode_rows x, size_t scratch_bytes,
                    struct lode_error *error)
{
    void *memory[5] = {};
    int code = up(context, stream, &memory[0], out.data, bytes_of(out), error);
    if (code == LODE_OK)
        code = up(context, stream, &memory[1], x.data, bytes_of(x), error);
    if (code == LODE_OK)
        code = up(context, stream, &memory[2], weight->data, weight->rows * weight->row_bytes, error);
    if (code == LODE_OK)
        code = up(context, stream, &memory[3], nullptr, scratch_bytes, error);
    if (code == LODE_OK && up_weight)
        code =
            up(context, stream, &memory[4], up_weight->data, up_weight->rows * up_weight->row_bytes, error);
    if (code == LODE_OK) {
        struct lode_rows device_out = out, device_x = x;
        device_out.data = static_cast<float *>(memory[0]);
        device_x.data = static_cast<float *>(memory[1]);
        struct lode_matrix matrix = *weight;
        matrix.data = memory[2];
        const struct gpu_queue queue = {stream, gpu_context_features(context),
                                        gpu_context_multiprocessors(context)};
        struct lode_matrix second = up_weight ? *up_weight : matrix;
        second.data = memory[4];
        *out_done = up_weight ? gpu_blas_matmul_geglu(blas, &queue, device_out, &matrix, &second, device_x,
                                                      memory[3], scratch_bytes)
                              : gpu_blas_matmul(blas, &queue, device_out, &matrix, device_x, memory[3],
                                                scratch_bytes);
        code = gpu_stream_copy(context, stream, out.data, memory[0], bytes_of(out), GPU_COPY_OUT, error);
    }
    if (code == LODE_OK)
        code = gpu_stream_wait(context, stream, error);
    if (code == LODE_OK)
        code = gpu_context_fault(context, error);
    for (void *part : memory)
        if (part)
            gpu_memory_free(context, part);
    return code;
}

int test_gpu_blas_matmul(bool *out_done, struct lode_rows out, const struct lode_matrix *weight,
                         const struct lode_matrix *up, struct lode_rows x, size_t scratch_bytes,
                         char name[32], struct lode_error *error)
{
    struct gpu_context *context;
    const struct lode_gpu_options options = {};
    int code = gpu_context_open(&context, 0, &options, error);
    if (code != LODE_OK)
        return code;
    gpu_stream stream = nullptr;
    struct gpu_blas *blas = nullptr;
    code = gpu_stream_open(context, &stream, error);
    if (code == LODE_OK)
        code = gpu_blas_open(&blas, context, error);
    if (code == LODE_OK) {
        snprintf(name, 32, "%s", gpu_blas_name(blas));
        code = multiply(out_done, context, stream, blas, out, weight, up, x, scratch_bytes, error);
    }
    gpu_blas_close(blas);
    if (stream)
        gpu_stream_close(context, stream);
    gpu_context_close(context);
    return code;
}

size_t test_gpu_blas_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows)
{
    return gpu_blas_scratch_bytes(n, cols, slice_rows);
}

size_t test_gpu_blas_geglu_scratch_bytes(uint32_t n, uint32_t cols, uint32_t slice_rows)
{
    return gpu_blas_geglu_scratch_bytes(n, cols, slice_rows);
}
