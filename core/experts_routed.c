// Layers whose experts are all on the GPU that computes the rest of them: the router's choice stays there,
// and no layer waits for the host. What was chosen is told at the end of the pass to who keeps count.
#include "core/forward_internal.h"

#include <stdlib.h>
#include <string.h>

uint64_t experts_entries_bytes(const struct gemma_model *model)
{
    return (uint64_t)model->hparams.n_layers * model->hparams.n_experts * sizeof(struct lode_expert_entry);
}

bool experts_may_route(const struct forward *f, const struct pass *pass, uint32_t l)
{
    const struct forward_weights *weights = f->weights;
    const uint32_t executor = pass->at->index;
    if (!executor || pass->n_tokens > EXECUTOR_ROUTED_ROWS || weights->trace ||
        !weights->entries[executor - 1])
        return false;
    // A predictor that learns from choices must see them before the next layer's.
    if (weights->predictor && weights->predictor->ops->chosen)
        return false;
    return residency_all_on_gpu(weights->residency, executor - 1, l);
}

static void fill_entries(struct lode_expert_entry *out, const struct forward_weights *weights, uint32_t g)
{
    const struct gemma_model *model = weights->model;
    const struct residency *residency = weights->residency;
    for (uint32_t l = 0; l < model->hparams.n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        for (uint32_t e = 0; layer->moe && e < model->hparams.n_experts; e++) {
            struct lode_expert_entry *entry = &out[(size_t)l * model->hparams.n_experts + e];
            const uint32_t unit = layer->first_expert_unit + e;
            const char *first = residency_gpu_part(residency, g, unit, 0);
            if (!first)
                continue;
            const uint32_t part = model->units.units[unit].first_part;
            const uint64_t gate_bytes =
                (uint64_t)model->hparams.expert_width * weights->matrices->parts[part].row_bytes;
            entry->gate = first;
            entry->up = layer->fused_gate_up ? first + gate_bytes : residency_gpu_part(residency, g, unit, 1);
            entry->down = residency_gpu_part(residency, g, unit, layer->fused_gate_up ? 1 : 2);
        }
    }
}

static int upload_entries(struct forward_weights *weights, uint32_t g, struct lode_error *error)
{
    struct lode_device *device = weights->gpus[g];
    const uint64_t bytes = experts_entries_bytes(weights->model);
    struct lode_expert_entry *entries = calloc(1, bytes);
    if (!entries)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the table of the experts on %s",
                         device->name);
    fill_entries(entries, weights, g);
    int rc = 0;
    if (!weights->entries[g])
        rc = device->ops->alloc(device, (void **)&weights->entries[g], bytes, error);
    if (!rc)
        rc = device->ops->upload(device, weights->entries[g], entries, bytes, error);
    free(entries);
    return rc;
}

int experts_prepare_routed(struct forward_weights *weights, struct lode_error *error)
{
    for (uint32_t g = 0; g < weights->n_gpus && weights->model->hparams.n_experts; g++) {
        const uint64_t generation = residency_gpu_generation(weights->residency, g);
        if (generation == weights->entries_generation[g] && weights->entries[g])
            continue;
        const int rc = upload_entries(weights, g, error);
        if (rc)
            return rc;
        weights->entries_generation[g] = generation;
    }
    return 0;
}

static int32_t *routed_ids(const struct forward *f, const struct executor *e, uint32_t l)
{
    const size_t n = (size_t)EXECUTOR_ROUTED_ROWS * f->weights->model->hparams.n_experts_used;
    return (int32_t *)e->buffers[BUFFER_ROUTED] + l * n;
}

int experts_run_routed(struct forward *f, const struct pass *pass, uint32_t l, struct lode_rows sum)
{
    const struct executor *e = pass->at;
    const struct lode_device_ops *ops = e->device->ops;
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct gemma_layer *layer = &model->layers[l];
    const struct lode_matrix *parts =
        &f->weights->matrices->parts[model->units.units[layer->first_expert_unit].first_part];
    const struct lode_rows input = executor_rows(e, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    const struct lode_rows slots =
        executor_rows(e, BUFFER_EXPERT_SLOTS, pass->x.n * h->n_experts_used, h->hidden);
    struct lode_expert_job kind = {.gate = parts[0],
                                   .up = parts[layer->fused_gate_up ? 0 : 1],
                                   .down = parts[layer->fused_gate_up ? 1 : 2]};
    int32_t *ids = routed_ids(f, e, l);
    kind.gate.rows = kind.up.rows = h->expert_width;
    kind.gate.layout = kind.up.layout = kind.down.layout = LODE_LAYOUT_FILE;
    experts_route(f, pass, layer, pass->x, h->n_experts_used, ids, e->buffers[BUFFER_CHOSEN_WEIGHT]);
    ops->rms_norm(e->device, input, pass->x, forward_vector(f, &layer->pre_ffw_norm_2), h->rms_eps, 1.0f);
    ops->experts_routed(e->device, slots, input, &kind,
                        f->weights->entries[e->index - 1] + (size_t)l * h->n_experts, ids, h->n_experts_used);
    ops->experts_combine(e->device, sum, slots, e->buffers[BUFFER_CHOSEN_WEIGHT], h->n_experts_used);
    f->experts.routed_rows[l] = pass->x.n;
    f->any_routed = true;
    return 0;
}

static int note_layer(struct forward *f, uint32_t l, const int32_t *ids, uint32_t n_rows,
                      struct lode_error *error)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct expert_batch *batch = &f->experts;
    const size_t n_choices = (size_t)n_rows * h->n_experts_used;
    for (size_t i = 0; i < n_choices; i++)
        if ((uint32_t)ids[i] >= h->n_experts)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "a router chose expert %d of %u: its weights are damaged", ids[i], h->n_experts);
    memcpy(batch->chosen, ids, n_choices * sizeof *ids);
    experts_group(batch, h, &f->weights->model->layers[l], n_rows);
    residency_note_choice(f->weights->residency, batch->units, batch->n_tokens, batch->n_units);
    return 0;
}

int experts_note_routed(struct forward *f, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const size_t n = (size_t)EXECUTOR_ROUTED_ROWS * model->hparams.n_experts_used;
    struct expert_batch *batch = &f->experts;
    int rc = 0;
    for (uint32_t i = 1; i < f->n_executors && !rc; i++) {
        const struct executor *e = &f->executors[i];
        bool any = false;
        for (uint32_t l = 0; l < model->hparams.n_layers; l++)
            any = any || (batch->routed_rows[l] && forward_layer_executor(f, l) == e);
        if (any)
            rc = executor_download(e, batch->routed, e->buffers[BUFFER_ROUTED],
                                   e->buffer_bytes[BUFFER_ROUTED], &f->gpu_wait_ns, error);
        for (uint32_t l = 0; any && l < model->hparams.n_layers && !rc; l++)
            if (batch->routed_rows[l] && forward_layer_executor(f, l) == e)
                rc = note_layer(f, l, batch->routed + l * n, batch->routed_rows[l], error);
    }
    return rc;
}
