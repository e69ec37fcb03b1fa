// A ring has window + batch - 1 slots: when a step of `batch` tokens has been written, its first token still
// finds the window - 1 tokens before it.
#include "core/kv_cache.h"

#include <stdlib.h>
#include <string.h>

static uint32_t layer_capacity(const struct gemma_model *model, const struct gemma_layer *layer,
                               uint32_t context, uint32_t batch)
{
    uint64_t ring = (uint64_t)model->hparams.window + batch - 1;
    return layer->global || ring > context ? context : (uint32_t)ring;
}

static uint64_t layer_bytes(const struct gemma_layer *layer, uint32_t capacity, enum lode_kv_format format)
{
    return (uint64_t)layer->n_kv_heads * capacity *
           lode_kv_row_bytes(format, layer->head_size); // K or V alone
}

uint64_t kv_cache_layer_bytes(const struct gemma_model *model, uint32_t l, uint32_t context, uint32_t batch,
                              enum lode_kv_format format)
{
    const struct gemma_layer *layer = &model->layers[l];
    return layer->own_kv ? 2 * layer_bytes(layer, layer_capacity(model, layer, context, batch), format) : 0;
}

uint64_t kv_cache_needed_bytes(const struct gemma_model *model, uint32_t context, uint32_t batch,
                               enum lode_kv_format format)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        bytes += kv_cache_layer_bytes(model, l, context, batch, format);
    return bytes;
}

// A layer without a cache of its own reads another's.
uint64_t kv_cache_read_bytes(const struct gemma_model *model, uint32_t position, enum lode_kv_format format)
{
    const uint32_t window = model->hparams.window;
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < model->hparams.n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        const uint32_t rows = layer->global || position < window ? position + 1 : window;
        bytes += 2 * layer_bytes(layer, rows, format);
    }
    return bytes;
}

int kv_cache_open(struct kv_cache *out, const struct gemma_model *model, struct lode_device *device,
                  uint32_t context, uint32_t batch, enum lode_kv_format format, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    out->device = device;
    out->n_layers = model->hparams.n_layers;
    out->batch = batch;
    out->window = model->hparams.window;
    out->layers = calloc(out->n_layers, sizeof *out->layers);
    if (!out->layers)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the index of the KV cache");
    for (uint32_t l = 0; l < out->n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        if (!layer->own_kv)
            continue;
        struct lode_kv *kv = &out->layers[l];
        kv->format = format;
        kv->n_heads = layer->n_kv_heads;
        kv->head_size = layer->head_size;
        kv->capacity = layer_capacity(model, layer, context, batch);
        uint64_t bytes = layer_bytes(layer, kv->capacity, format);
        int rc = device->ops->alloc(device, &kv->k, bytes, error);
        if (!rc)
            rc = device->ops->alloc(device, &kv->v, bytes, error);
        if (rc) {
            lode_fail_in(error, "KV cache of layer %u for a context of %u tokens", l, context);
            kv_cache_close(out);
            return rc;
        }
        out->bytes += 2 * bytes;
    }
    return 0;
}

void kv_cache_close(struct kv_cache *cache)
{
    for (uint32_t l = 0; cache->layers && l < cache->n_layers; l++) {
        struct lode_kv *kv = &cache->layers[l];
        uint64_t bytes = (uint64_t)kv->n_heads * kv->capacity * lode_kv_row_bytes(kv->format, kv->head_size);
        if (kv->k)
            cache->device->ops->free(cache->device, kv->k, bytes);
        if (kv->v)
            cache->device->ops->free(cache->device, kv->v, bytes);
    }
    free(cache->layers);
    memset(cache, 0, sizeof *cache);
}

static bool ring_holds(const struct kv_cache *cache, uint32_t capacity, uint32_t keep)
{
    uint32_t first_needed = keep >= cache->window ? keep - cache->window + 1 : 0;
    uint32_t first_held = cache->high > capacity ? cache->high - capacity : 0;
    return first_needed >= first_held;
}

uint32_t kv_cache_rewind(struct kv_cache *cache, uint32_t keep)
{
    if (keep >= cache->position)
        return cache->position;
    for (uint32_t l = 0; l < cache->n_layers; l++)
        if (cache->layers[l].k && !ring_holds(cache, cache->layers[l].capacity, keep))
            keep = 0;
    cache->position = keep;
    if (keep == 0)
        cache->high = 0;
    return keep;
}
