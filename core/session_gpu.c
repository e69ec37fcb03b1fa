// What a session does with GPUs beside its passes: the exchange of experts between turns, and figures.
#include "core/session_internal.h"

#include <stdio.h>

// Of copies, at the start of a turn: 10 ms over PCIe 4.0 with 16 lanes.
#define EXCHANGE_BYTES ((uint64_t)256 << 20)

int session_exchange_experts(struct lode_session *session, struct lode_error *error)
{
    uint64_t bytes;
    if (!session->engine->gpus.n || !session->engine->model.hparams.n_experts)
        return 0;
    return residency_replace(session->engine->residency, EXCHANGE_BYTES, &bytes, error);
}

void session_count_gpus(const struct lode_session *session, struct residency_gpu_figures *out)
{
    for (uint32_t g = 0; g < session->engine->gpus.n; g++)
        residency_count_gpu(session->engine->residency, g, &out[g]);
}

size_t lode_session_gpus(const struct lode_session *session, struct lode_gpu_stats *out, size_t max)
{
    const struct engine_gpus *gpus = &session->engine->gpus;
    for (uint32_t g = 0; g < gpus->n && g < max; g++) {
        const struct residency_gpu_figures *before = &session->gpus_before[g];
        struct residency_gpu_figures now;
        residency_count_gpu(session->engine->residency, g, &now);
        out[g] = (struct lode_gpu_stats){
            .pinned_bytes = now.pinned_bytes,
            .pool_bytes = now.pool_bytes,
            .pool_slots = now.pool_slots,
            .pool_used = now.pool_used,
            .hits = now.hits - before->hits,
            .uploads = now.uploads - before->uploads,
            .upload_bytes = now.upload_bytes - before->upload_bytes,
            .replaced_bytes = now.replaced_bytes - before->replaced_bytes,
            .yielded_bytes = now.yielded_bytes - before->yielded_bytes,
            .kv_bytes = forward_gpu_kv_bytes(session->forward, g),
            .scratch_bytes = forward_gpu_scratch_bytes(session->forward, g),
        };
        snprintf(out[g].name, sizeof out[g].name, "%.15s", gpus->devices[g]->name);
    }
    return gpus->n;
}
