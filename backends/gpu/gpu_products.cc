// Products with matrices of weights: the input is quantised once for all of them, then few rows go to the
// kernels that read each weight once for all rows, many rows to those that work in tiles, or to the vendor's
// library.
#include "backends/gpu/gpu_device.h"

bool gpu_quantize_rows(struct gpu_device *gpu, struct gpu_activations *out, struct lode_rows x, bool wanted)
{
    *out = {};
    if (!wanted)
        return true;
    const size_t needed = gpu_activations_bytes(x.n, x.cols);
    if (needed > gpu->activations_bytes) {
        gpu_set_fault_of_limits(gpu, "a product's input", needed, gpu->activations_bytes);
        return false;
    }
    *out = gpu_activations_in(gpu->activations, x.n, x.cols);
    gpu_quantize(&gpu->queue, *out, x);
    return true;
}

void gpu_op_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
                  const int32_t *ids, float scale)
{
    const struct gpu_operation op(device, "embed");
    if (!op.gpu || out.n == 0)
        return;
    if (out.n > op.gpu->limits.rows) {
        gpu_set_fault_of_limits(op.gpu, "embed", out.n, op.gpu->limits.rows);
        return;
    }
    struct lode_error error;
    if (gpu_send(op.gpu, op.gpu->ids, ids, out.n * sizeof *ids, &error) != LODE_OK)
        gpu_set_fault(op.gpu, &error);
    else
        gpu_dequantize(&op.gpu->queue, out, table, op.gpu->ids, scale);
}

void gpu_op_matmul(struct lode_device *device, const struct lode_rows *outs,
                   const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x)
{
    uint64_t bytes = 0;
    bool any_quantized = false;
    for (uint32_t j = 0; j < n_weights; j++) {
        bytes += static_cast<uint64_t>(weights[j].rows) * weights[j].row_bytes;
        any_quantized |= gpu_is_quantized(weights[j].type);
    }
    const struct gpu_operation op(device, "matmul", bytes);
    struct gpu_activations quantized = {};
    if (!op.gpu || x.n == 0)
        return;
    if (x.n <= GPU_MATVEC_ROWS) {
        if (gpu_quantize_rows(op.gpu, &quantized, x, any_quantized))
            gpu_matvec(&op.gpu->queue, outs, weights, n_weights, quantized, x);
        return;
    }
    for (uint32_t j = 0; j < n_weights; j++) {
        if (gpu_library_matmul(op.gpu, outs[j], &weights[j], x))
            continue;
        // By the first that needs it.
        if (!quantized.codes && !gpu_quantize_rows(op.gpu, &quantized, x, gpu_is_quantized(weights[j].type)))
            return;
        gpu_matmul(&op.gpu->queue, outs[j], &weights[j], quantized, x);
    }
}

void gpu_op_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                         const struct lode_matrix *up, struct lode_rows x)
{
    const struct gpu_operation op(device, "geglu product",
                                  2 * static_cast<uint64_t>(gate->rows) * gate->row_bytes);
    struct gpu_activations quantized;
    if (!op.gpu || x.n == 0 ||
        (x.n > GPU_MATVEC_ROWS && gpu_library_matmul_geglu(op.gpu, out, gate, up, x)) ||
        !gpu_quantize_rows(op.gpu, &quantized, x, gpu_is_quantized(gate->type)))
        return;
    if (x.n <= GPU_MATVEC_ROWS)
        gpu_matvec_geglu(&op.gpu->queue, out, gate, up, quantized, x);
    else
        gpu_matmul_geglu(&op.gpu->queue, out, gate, up, quantized, x);
}
