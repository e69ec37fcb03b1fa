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

static uint64_t kv_bytes(const struct lode_kv *kv) // K or V alone
{
    return (uint64_t)kv->n_heads * kv->capacity * lode_kv_row_bytes(kv->format, kv->head_size);
}

static void release(struct lode_device *device, struct lode_kv *kv)
{
    if (kv->k)
        device->ops->free(device, kv->k, kv_bytes(kv));
    if (kv->v)
        device->ops->free(device, kv->v, kv_bytes(kv));
    kv->k = kv->v = NULL;
}

// Both or none.
static int allocate(struct lode_device *device, struct lode_kv *kv, struct lode_error *error)
{
    int rc = device->ops->alloc(device, &kv->k, kv_bytes(kv), error);
    if (!rc)
        rc = device->ops->alloc(device, &kv->v, kv_bytes(kv), error);
    if (rc)
        release(device, kv);
    return rc;
}

uint32_t kv_cache_first_context(uint32_t context, uint32_t batch)
{
    const uint32_t first = batch > KV_CACHE_FIRST_TOKENS ? batch : KV_CACHE_FIRST_TOKENS;
    return context < first ? context : first;
}

// Rings of local layers are their full size at once: another size would move every position.
static uint32_t first_capacity(uint32_t full, bool global, uint32_t first)
{
    return global && first < full ? first : full;
}

int kv_cache_open(struct kv_cache *out, const struct gemma_model *model, struct lode_device *const *devices,
                  uint32_t context, uint32_t batch, enum lode_kv_format format, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    out->n_layers = model->hparams.n_layers;
    out->batch = batch;
    out->window = model->hparams.window;
    out->layers = calloc(out->n_layers, sizeof *out->layers);
    out->devices = calloc(out->n_layers, sizeof *out->devices);
    out->full_capacity = calloc(out->n_layers, sizeof *out->full_capacity);
    if (!out->layers || !out->devices || !out->full_capacity) {
        kv_cache_close(out);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the index of the KV cache");
    }
    for (uint32_t l = 0; l < out->n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        out->devices[l] = devices[l];
        if (!layer->own_kv)
            continue;
        const uint32_t first = devices[l]->host_memory ? context : kv_cache_first_context(context, batch);
        out->full_capacity[l] = layer_capacity(model, layer, context, batch);
        out->layers[l] = (struct lode_kv){
            .format = format,
            .n_heads = layer->n_kv_heads,
            .head_size = layer->head_size,
            .capacity = first_capacity(out->full_capacity[l], layer->global, first),
        };
        const int rc = allocate(out->devices[l], &out->layers[l], error);
        if (rc) {
            lode_fail_in(error, "KV cache of layer %u for a context of %u tokens", l, context);
            kv_cache_close(out);
            return rc;
        }
    }
    return 0;
}

void kv_cache_close(struct kv_cache *cache)
{
    for (uint32_t l = 0; cache->layers && cache->devices && l < cache->n_layers; l++)
        release(cache->devices[l], &cache->layers[l]);
    free(cache->layers);
    free(cache->devices);
    free(cache->full_capacity);
    memset(cache, 0, sizeof *cache);
}

// Copies what positions before `used` have: each head's rows lie together.
static int copy_rows(struct lode_device *device, const struct lode_kv *to, const struct lode_kv *from,
                     uint32_t used, struct lode_error *error)
{
    const uint64_t row = lode_kv_row_bytes(from->format, from->head_size);
    int rc = 0;
    for (uint32_t h = 0; h < from->n_heads && !rc && used; h++) {
        const uint64_t new_at = row * to->capacity * h, old_at = row * from->capacity * h;
        rc = device->ops->copy(device, (char *)to->k + new_at, (const char *)from->k + old_at, row * used,
                               error);
        if (!rc)
            rc = device->ops->copy(device, (char *)to->v + new_at, (const char *)from->v + old_at, row * used,
                                   error);
    }
    return rc ? rc : device->ops->sync(device, error);
}

static int grow_layer(struct kv_cache *cache, uint32_t l, uint32_t capacity, kv_cache_room_fn make_room,
                      void *owner, struct lode_error *error)
{
    struct lode_device *device = cache->devices[l];
    struct lode_kv *kv = &cache->layers[l], grown = *kv;
    grown.capacity = capacity;
    grown.k = grown.v = NULL;
    make_room(owner, device, 2 * kv_bytes(&grown), false);
    int rc = allocate(device, &grown, error);
    if (rc == LODE_ERR_MEMORY && make_room(owner, device, 2 * kv_bytes(&grown), true))
        rc = allocate(device, &grown, error);
    if (!rc)
        rc = copy_rows(device, &grown, kv, cache->position, error);
    if (rc) {
        release(device, &grown);
        return lode_fail_in(error, "KV cache of layer %u for %u tokens", l, capacity);
    }
    release(device, kv);
    *kv = grown;
    return 0;
}

int kv_cache_grow(struct kv_cache *cache, uint32_t end, kv_cache_room_fn make_room, void *owner,
                  struct lode_error *error)
{
    for (uint32_t l = 0; l < cache->n_layers; l++) {
        const uint32_t full = cache->full_capacity[l], now = cache->layers[l].capacity;
        if (!cache->layers[l].k || now == full || end <= now)
            continue;
        const uint32_t doubled = now < full / 2 ? 2 * now : full;
        const int rc = grow_layer(cache, l, end > doubled ? (end < full ? end : full) : doubled, make_room,
                                  owner, error);
        if (rc)
            return rc;
    }
    return 0;
}

uint64_t kv_cache_bytes_on(const struct kv_cache *cache, const struct lode_device *device)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < cache->n_layers; l++)
        if (cache->layers[l].k && cache->devices[l] == device)
            bytes += 2 * kv_bytes(&cache->layers[l]);
    return bytes;
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
