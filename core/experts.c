// The routed experts of a layer: choose, group the batch by expert, compute, and sum in the order of the
// ranks, so that the result does not depend on which expert was at hand first.
#include "core/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int expert_batch_open(struct expert_batch *out, const struct gemma_hparams *hparams, uint32_t batch,
                      struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    const size_t n_experts = hparams->n_experts, n_choices = (size_t)batch * hparams->n_experts_used;
    if (!n_experts)
        return 0;
    out->chosen = malloc(n_choices * sizeof *out->chosen);
    out->tokens = malloc(n_choices * sizeof *out->tokens);
    out->slots = malloc(n_choices * sizeof *out->slots);
    out->begin = malloc((n_experts + 1) * sizeof *out->begin);
    out->units = malloc(n_experts * sizeof *out->units);
    out->jobs = malloc(n_experts * sizeof *out->jobs);
    if (out->chosen && out->tokens && out->slots && out->begin && out->units && out->jobs)
        return 0;
    expert_batch_close(out);
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the expert choices of %u tokens", batch);
}

void expert_batch_close(struct expert_batch *batch)
{
    free(batch->chosen);
    free(batch->tokens);
    free(batch->slots);
    free(batch->begin);
    free(batch->units);
    free(batch->jobs);
    memset(batch, 0, sizeof *batch);
}

// Router: r = RMS(x) * hidden^-1/2 * router_scale, softmax(Wr r), the k largest.
int experts_choose(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                   struct lode_error *error)
{
    const struct lode_device_ops *ops = f->device->ops;
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct lode_rows input = forward_rows(f, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    struct lode_rows logits = forward_rows(f, BUFFER_ROUTER, pass->x.n, h->n_experts);
    const struct lode_matrix router = forward_matrix(f, &layer->router);
    const float *expert_scale = layer->expert_scale.cols ? forward_vector(f, &layer->expert_scale) : NULL;
    int32_t *chosen = (int32_t *)f->buffers[BUFFER_CHOSEN];
    ops->rms_norm(f->device, input, pass->x, forward_vector(f, &layer->router_scale), h->rms_eps,
                  1.0f / sqrtf((float)h->hidden));
    ops->matmul(f->device, &logits, &router, 1, input);
    ops->router(f->device, chosen, f->buffers[BUFFER_CHOSEN_WEIGHT], logits, h->n_experts_used, expert_scale);
    const size_t n_choices = (size_t)pass->x.n * h->n_experts_used;
    int rc = ops->download(f->device, f->experts.chosen, chosen, n_choices * sizeof *chosen, error);
    for (size_t i = 0; i < n_choices && !rc; i++)
        if ((uint32_t)f->experts.chosen[i] >= h->n_experts)
            rc = lode_fail(error, LODE_ERR_FORMAT, "a router chose expert %d of %u: its weights are damaged",
                           f->experts.chosen[i], h->n_experts);
    return rc;
}

// Counting sort of the choices by expert; within an expert the tokens stay in order.
static void group_by_expert(struct expert_batch *batch, uint32_t n_tokens, uint32_t k, uint32_t n_experts)
{
    uint32_t *begin = batch->begin;
    memset(begin, 0, (n_experts + 1) * sizeof *begin);
    for (uint32_t i = 0; i < n_tokens * k; i++)
        begin[batch->chosen[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        begin[e + 1] += begin[e];
    for (uint32_t i = 0; i < n_tokens * k; i++) {
        uint32_t at = begin[batch->chosen[i]]++;
        batch->tokens[at] = (int32_t)(i / k);
        batch->slots[at] = (int32_t)i;
    }
    for (uint32_t e = n_experts; e > 0; e--)
        begin[e] = begin[e - 1];
    begin[0] = 0;
}

static struct lode_matrix expert_matrix(const void *data, enum lode_type type, uint32_t rows, uint32_t cols)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    size_t row_bytes = (size_t)cols / traits->block_elems * traits->block_bytes;
    return (struct lode_matrix){data, type, rows, cols, row_bytes};
}

static void describe_job(const struct forward *f, const struct gemma_layer *layer, uint32_t unit,
                         struct lode_expert_job *job)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct residency *residency = f->weights->residency;
    const uint32_t width = h->expert_width;
    job->gate = expert_matrix(residency_part(residency, unit, 0), layer->expert_gate_type, width, h->hidden);
    if (layer->fused_gate_up) {
        job->up = job->gate;
        job->up.data = (const char *)job->gate.data + width * job->gate.row_bytes;
    } else {
        job->up = expert_matrix(residency_part(residency, unit, 1), layer->expert_up_type, width, h->hidden);
    }
    const void *down = residency_part(residency, unit, layer->fused_gate_up ? 1 : 2);
    job->down = expert_matrix(down, layer->expert_down_type, h->hidden, width);
}

// sum = sum over the chosen e of weight_e * down_e (gelu(gate_e n) * (up_e n)), n = RMS(x) * pre_ffw_norm_2
int experts_run(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                struct lode_rows sum, struct lode_error *error)
{
    const struct lode_device_ops *ops = f->device->ops;
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct expert_batch *batch = &f->experts;
    const uint32_t k = h->n_experts_used;
    struct lode_rows input = forward_rows(f, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    struct lode_rows slots = forward_rows(f, BUFFER_EXPERT_SLOTS, pass->x.n * k, h->hidden);
    ops->rms_norm(f->device, input, pass->x, forward_vector(f, &layer->pre_ffw_norm_2), h->rms_eps, 1.0f);

    group_by_expert(batch, pass->x.n, k, h->n_experts);
    uint32_t n_jobs = 0;
    for (uint32_t e = 0; e < h->n_experts; e++)
        if (batch->begin[e] < batch->begin[e + 1])
            batch->units[n_jobs++] = layer->first_expert_unit + e;
    int rc = residency_acquire(f->weights->residency, batch->units, n_jobs, error);
    if (rc)
        return rc;
    for (uint32_t j = 0; j < n_jobs; j++) {
        const uint32_t e = batch->units[j] - layer->first_expert_unit;
        struct lode_expert_job *job = &batch->jobs[j];
        describe_job(f, layer, batch->units[j], job);
        job->tokens = batch->tokens + batch->begin[e];
        job->slots = batch->slots + batch->begin[e];
        job->n = batch->begin[e + 1] - batch->begin[e];
    }
    ops->experts(f->device, slots, input, batch->jobs, n_jobs);
    ops->experts_combine(f->device, sum, slots, f->buffers[BUFFER_CHOSEN_WEIGHT], k);
    residency_release(f->weights->residency, batch->units, n_jobs);
    return 0;
}
