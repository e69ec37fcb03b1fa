// The operations that need nothing of the device but its stream: each is one launcher.
#include "backends/gpu/gpu_device.h"

void gpu_op_experts_combine(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                            const float *weights, uint32_t k)
{
    const struct gpu_operation op(device, "combine");
    if (op.gpu && out.n > 0)
        gpu_experts_combine(&op.gpu->queue, out, slots, weights, k);
}

void gpu_op_router(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits,
                   uint32_t k, const float *expert_scale)
{
    const struct gpu_operation op(device, "router");
    if (op.gpu && logits.n > 0)
        gpu_router(&op.gpu->queue, ids, weights, logits, k, expert_scale);
}

void gpu_op_rms_norm(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                     const float *weight, float eps, float scale)
{
    const struct gpu_operation op(device, "norm");
    if (op.gpu && x.n > 0)
        gpu_rms_norm(&op.gpu->queue, out, x, weight, eps, scale);
}

void gpu_op_add_rms_norm(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                         const float *weight, float eps, float scale)
{
    const struct gpu_operation op(device, "norm");
    if (op.gpu && x.n > 0)
        gpu_add_rms_norm(&op.gpu->queue, residual, x, weight, eps, scale);
}

void gpu_op_add(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
                float scale)
{
    const struct gpu_operation op(device, "add");
    if (op.gpu && out.n > 0)
        gpu_add(&op.gpu->queue, out, a, b, scale);
}

void gpu_op_geglu(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b)
{
    const struct gpu_operation op(device, "geglu");
    if (op.gpu && out.n > 0)
        gpu_geglu(&op.gpu->queue, out, a, b);
}

void gpu_op_scale(struct lode_device *device, struct lode_rows x, float scale)
{
    const struct gpu_operation op(device, "scale");
    if (op.gpu && x.n > 0)
        gpu_scale(&op.gpu->queue, x, scale);
}

void gpu_op_softcap(struct lode_device *device, struct lode_rows x, float cap)
{
    const struct gpu_operation op(device, "softcap");
    if (op.gpu && x.n > 0)
        gpu_softcap(&op.gpu->queue, x, cap);
}

void gpu_op_rope(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
                 uint32_t first_position, const float *inverse_frequency)
{
    const struct gpu_operation op(device, "rope");
    if (op.gpu && x.n > 0)
        gpu_rope(&op.gpu->queue, x, n_heads, head_size, first_position, inverse_frequency);
}

void gpu_op_kv_store(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                     struct lode_rows v, uint32_t first_position)
{
    const struct gpu_operation op(device, "kv store");
    if (op.gpu && k.n > 0)
        gpu_kv_store(&op.gpu->queue, kv, k, v, first_position);
}

void gpu_op_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                      const struct lode_kv *kv, uint32_t first_position, uint32_t window)
{
    const struct gpu_operation op(device, "attention");
    if (!op.gpu || q.n == 0)
        return;
    const size_t needed = gpu_attention_scratch_bytes(q.n, n_heads, kv->head_size);
    if (needed > op.gpu->attention_bytes)
        gpu_set_fault_of_limits(op.gpu, "attention", needed, op.gpu->attention_bytes);
    else
        gpu_attention(&op.gpu->queue, out, q, n_heads, kv, first_position, window, op.gpu->attention);
}
