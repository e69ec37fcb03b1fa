// What is derived from the weights once, when a model is loaded: the RoPE frequencies and the layers' output
// scales.
#include "core/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Global layers without factors in the file rotate the first quarter of the pairs only ("proportional" RoPE).
#define ROTATED_QUARTER 4

static struct lode_device *device_of(const struct forward_weights *weights, uint32_t executor)
{
    return executor ? weights->gpus[executor - 1] : weights->device;
}

static int download_part(const struct forward_weights *weights, const struct gemma_weight *weight, float *out,
                         struct lode_error *error)
{
    int rc = residency_acquire(weights->residency, &weight->unit, 1, error);
    if (rc)
        return rc;
    const void *from = residency_part(weights->residency, weight->unit, weight->part);
    struct lode_device *device = device_of(weights, weights->unit_gpu ? weights->unit_gpu[weight->unit] : 0);
    rc = device->ops->download(device, out, from, weight->cols * sizeof *out, error);
    residency_release(weights->residency, &weight->unit, 1);
    return rc;
}

// inverse_frequency[i] = base^(-2i / head_size) / factor[i]; an infinite factor leaves the pair unturned.
static int global_factors(const struct forward_weights *weights, float *factors, uint32_t n,
                          struct lode_error *error)
{
    if (weights->model->rope_factors.cols)
        return download_part(weights, &weights->model->rope_factors, factors, error);
    for (uint32_t i = 0; i < n; i++)
        factors[i] = i < n / ROTATED_QUARTER ? 1.0f : INFINITY;
    return 0;
}

static int make_frequencies(struct forward_weights *weights, bool global, struct lode_error *error)
{
    const struct gemma_hparams *h = &weights->model->hparams;
    const uint32_t head_size = global ? h->head_size_global : h->head_size_local, n = head_size / 2;
    const double base = global ? h->rope_base_global : h->rope_base_local;
    float *host = malloc(n * sizeof *host);
    if (!host)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for RoPE tables");
    int rc = 0;
    for (uint32_t i = 0; i < n; i++)
        host[i] = 1.0f;
    if (global)
        rc = global_factors(weights, host, n, error);
    for (uint32_t i = 0; i < n && !rc; i++) {
        if (!(host[i] > 0))
            rc = lode_fail(error, LODE_ERR_FORMAT,
                           "tensor rope_freqs.weight, element %u is %g; it must be positive", i, host[i]);
        else // beyond 1e29 is the files' way to say "not rotated"
            host[i] = host[i] > 1e29f ? 0.0f : (float)(pow(base, -2.0 * i / head_size) / host[i]);
    }
    for (uint32_t e = 0; e <= weights->n_gpus && !rc; e++) {
        struct lode_device *device = device_of(weights, e);
        float **table = &weights->inverse_frequency[e][global];
        rc = device->ops->alloc(device, (void **)table, n * sizeof *host, error);
        if (!rc)
            rc = device->ops->upload(device, *table, host, n * sizeof *host, error);
    }
    free(host);
    return rc;
}

int forward_weights_open(struct forward_weights *out, const struct gemma_model *model,
                         const struct weight_matrices *matrices, struct residency *residency,
                         struct lode_error *error)
{
    const struct forward_weights devices = *out;
    *out = (struct forward_weights){.model = model,
                                    .device = matrices->device,
                                    .unit_gpu = devices.unit_gpu,
                                    .n_gpus = devices.n_gpus,
                                    .make_room = devices.make_room,
                                    .owner = devices.owner,
                                    .residency = residency,
                                    .matrices = matrices};
    memcpy(out->gpus, devices.gpus, sizeof out->gpus);
    const uint32_t n_layers = model->hparams.n_layers;
    out->output_scale = malloc(n_layers * sizeof *out->output_scale);
    int rc = out->output_scale ? 0 : lode_fail(error, LODE_ERR_MEMORY, "no memory for the layers' scales");
    for (uint32_t l = 0; l < n_layers && !rc; l++) {
        out->output_scale[l] = 1.0f;
        if (model->layers[l].output_scale.cols)
            rc = download_part(out, &model->layers[l].output_scale, &out->output_scale[l], error);
    }
    if (!rc)
        rc = make_frequencies(out, false, error);
    if (!rc)
        rc = make_frequencies(out, true, error);
    if (rc)
        forward_weights_close(out);
    return rc;
}

void forward_weights_close(struct forward_weights *weights)
{
    const struct gemma_model *model = weights->model;
    for (uint32_t e = 0; e <= weights->n_gpus && model; e++) {
        struct lode_device *device = device_of(weights, e);
        for (int global = 0; global < 2; global++) {
            const uint32_t head_size =
                global ? model->hparams.head_size_global : model->hparams.head_size_local;
            if (weights->inverse_frequency[e][global])
                device->ops->free(device, weights->inverse_frequency[e][global],
                                  head_size / 2 * sizeof(float));
        }
        if (e && weights->entries[e - 1])
            device->ops->free(device, weights->entries[e - 1], experts_entries_bytes(model));
    }
    free(weights->output_scale);
    memset(weights, 0, sizeof *weights);
}
