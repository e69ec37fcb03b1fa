// Noise in place of keys and values, for measuring at a depth of context that would take minutes to compute.
//
// The rows have the size of real ones: a key is normed and weighted like a key, a value normed. With larger
// ones attention would look at a single position, and subnormal probabilities would cost time that real ones
// do not. A row depends on the seed, the layer and its position, so steps of any size leave the same.
#include "core/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// The rows that are drawn at once take 8 MiB for 31B, of what the plan of memory keeps in reserve.
#define STEP_ROWS 512

static uint64_t scramble(uint64_t x) // splitmix64
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Each value is the sum of four of the eight random bytes of a word: near enough to a normal distribution,
// and 0.5e9 of them (32K positions of 26B-A4B) take 0.9 s on a core.
static void noise_row(float *out, uint32_t n, uint64_t key)
{
    static const float mean = 4 * 127.5f, scale = 1 / 147.8f;
    for (uint32_t i = 0; i < n; i += 2) {
        const uint64_t word = scramble(key + (i + 1) * 0x9e3779b97f4a7c15u), even = 0x00ff00ff00ff00ffu;
        const uint64_t pairs = (word & even) + (word >> 8 & even), sums = pairs + (pairs >> 16);
        out[i] = ((float)(sums & 0xffff) - mean) * scale;
        out[i + 1] = ((float)(sums >> 32 & 0xffff) - mean) * scale;
    }
}

static uint32_t step_rows(const struct forward *f)
{
    return f->batch < STEP_ROWS ? f->batch : STEP_ROWS;
}

static int upload_noise(struct lode_device *device, struct lode_rows to, float *noise, uint64_t key,
                        uint32_t position, struct lode_error *error)
{
    for (uint32_t i = 0; i < to.n; i++)
        noise_row(noise + i * to.stride, to.cols, scramble(key + position + i));
    return device->ops->upload(device, to.data, noise, to.n * to.stride * sizeof *noise, error);
}

// Rows [from, end) of a layer.
static int fill_layer(struct forward *f, uint32_t l, uint32_t from, uint32_t end, uint64_t seed, float *noise,
                      struct lode_error *error)
{
    const struct executor *e = forward_layer_executor(f, l);
    const struct lode_device_ops *ops = e->device->ops;
    const struct gemma_layer *layer = &f->weights->model->layers[l];
    const float eps = f->weights->model->hparams.rms_eps;
    const float *k_norm = forward_vector(f, &layer->k_norm);
    const uint64_t k_key = scramble(scramble(seed) + 2 * l), v_key = scramble(scramble(seed) + 2 * l + 1);
    const uint32_t width = layer->n_kv_heads * layer->head_size, step = step_rows(f);
    for (uint32_t n, at = from; at < end; at += n) {
        if (f->keep_going && !f->keep_going(f->user))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped before the noise of layer %u was complete",
                             l);
        n = end - at < step ? end - at : step;
        const struct lode_rows k = executor_rows(e, BUFFER_K, n, width),
                               v = executor_rows(e, BUFFER_V, n, width);
        int rc = upload_noise(e->device, k, noise, k_key, at, error);
        if (!rc)
            rc = upload_noise(e->device, v, noise, v_key, at, error);
        if (rc)
            return rc;
        const struct lode_rows k_heads = split_rows(k, layer->head_size),
                               v_heads = split_rows(v, layer->head_size);
        ops->rms_norm(e->device, k_heads, k_heads, k_norm, eps, 1.0f);
        ops->rms_norm(e->device, v_heads, v_heads, NULL, eps, 1.0f);
        ops->kv_store(e->device, &f->kv.layers[l], k, v, at);
    }
    return 0;
}

static int fill_layers(struct forward *f, uint32_t end, uint64_t seed, float *noise, struct lode_error *error)
{
    for (uint32_t l = 0; l < f->kv.n_layers; l++) {
        const struct lode_kv *kv = &f->kv.layers[l];
        if (!kv->k)
            continue;
        // Of a ring only the last round stays.
        const uint32_t round = end > kv->capacity ? end - kv->capacity : 0;
        const uint32_t from = round > f->kv.position ? round : f->kv.position;
        int rc = fill_layer(f, l, from, end, seed, noise, error);
        if (rc)
            return rc;
    }
    return forward_sync(f, 0, error);
}

int forward_fill(struct forward *f, uint32_t count, uint64_t seed, struct lode_error *error)
{
    const uint32_t end = f->kv.position + count;
    f->weights->last = NULL; // what follows is another text
    float *noise = malloc(f->executors[0].buffer_bytes[BUFFER_K] / f->batch * step_rows(f));
    if (!noise)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for noise of %u positions", step_rows(f));
    int rc = forward_grow(f, end, error);
    if (!rc)
        rc = fill_layers(f, end, seed, noise, error);
    free(noise);
    if (rc) {
        kv_cache_rewind(&f->kv, 0); // the windows before the noise may be overwritten
        return rc;
    }
    f->kv.position = end;
    if (f->kv.high < end)
        f->kv.high = end;
    return 0;
}

void forward_move(struct forward *f, uint32_t position)
{
    f->weights->last = NULL;
    f->kv.position = f->kv.high = position;
}
