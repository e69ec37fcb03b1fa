// Hyperparameters of a gemma4 file and the geometry of its layers.
//
// Keys are read liberally (any integer kind, scalar or one value a layer), as published files differ; what
// they say is then held against bounds, so that later arithmetic on 32-bit sizes cannot overflow.
#include "core/gemma4.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LAYERS 512
#define MAX_WIDTH (1u << 20)
#define MAX_HEADS 1024
#define MAX_CONTEXT (1u << 24)
#define MAX_EXPERTS 4096

struct reader {
    const struct gguf *gguf;
    struct lode_error *error;
};

static const struct gguf_value *find(const struct reader *in, const char *key, char *full, size_t capacity)
{
    snprintf(full, capacity, "gemma4.%s", key);
    return gguf_find(in->gguf, full);
}

static int check_range(const struct reader *in, const char *key, uint64_t value, uint64_t low, uint64_t high)
{
    if (value < low || value > high)
        return lode_fail(in->error, LODE_ERR_FORMAT,
                         "key %s is %" PRIu64 ", which is outside %" PRIu64 "..%" PRIu64, key, value, low,
                         high);
    return 0;
}

static int element_u32(const struct reader *in, const char *full, const struct gguf_value *value,
                       size_t index, uint64_t low, uint64_t high, uint32_t *out)
{
    uint64_t number;
    if (!gguf_value_u64(value, index, &number))
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s does not hold a whole number", full);
    int rc = check_range(in, full, number, low, high);
    *out = (uint32_t)number;
    return rc;
}

// A key that holds one value for all layers, or one a layer.
static int read_layer_u32(const struct reader *in, const char *key, uint32_t layer, uint32_t n_layers,
                          uint64_t low, uint64_t high, uint32_t *out)
{
    char full[96];
    const struct gguf_value *value = find(in, key, full, sizeof full);
    if (!value)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s is missing", full);
    bool is_array = gguf_value_kind(value) == GGUF_ARRAY;
    if (is_array && gguf_value_count(value) != n_layers)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s has %zu values for %" PRIu32 " layers", full,
                         gguf_value_count(value), n_layers);
    return element_u32(in, full, value, is_array ? layer : 0, low, high, out);
}

static int read_u32(const struct reader *in, const char *key, uint64_t low, uint64_t high, uint32_t *out)
{
    char full[96];
    const struct gguf_value *value = find(in, key, full, sizeof full);
    if (!value)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s is missing", full);
    if (gguf_value_count(value) != 1)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s has %zu values where one is meant", full,
                         gguf_value_count(value));
    return element_u32(in, full, value, 0, low, high, out);
}

static int read_u32_or(const struct reader *in, const char *key, uint64_t high, uint32_t fallback,
                       uint32_t *out)
{
    char full[96];
    if (find(in, key, full, sizeof full))
        return read_u32(in, key, 0, high, out);
    *out = fallback;
    return 0;
}

static int read_f32_or(const struct reader *in, const char *key, double low, double high, double fallback,
                       float *out)
{
    char full[96];
    const struct gguf_value *value = find(in, key, full, sizeof full);
    double number = fallback;
    if (value && !gguf_value_f64(value, 0, &number))
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s does not hold a number", full);
    if (!(number >= low && number <= high))
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s is %g, which is outside %g..%g", full, number,
                         low, high);
    *out = (float)number;
    return 0;
}

static int check_architecture(const struct reader *in)
{
    static const char supported[] =
        "Lode runs architecture gemma4 (E2B, E4B, 12B, 26B-A4B, 31B and models of their form)";
    const struct gguf_value *value = gguf_find(in->gguf, "general.architecture");
    struct gguf_string name;
    if (!value || !gguf_value_string(value, 0, &name))
        return lode_fail(in->error, LODE_ERR_UNSUPPORTED, "the file does not name its architecture; %s",
                         supported);
    if (name.len == 6 && memcmp(name.data, "gemma4", 6) == 0)
        return 0;
    return lode_fail(in->error, LODE_ERR_UNSUPPORTED, "the architecture is \"%.*s\"; %s",
                     (int)(name.len < 40 ? name.len : 40), name.data, supported);
}

static int read_scalars(const struct reader *in, struct gemma_hparams *h)
{
    int rc;
    if ((rc = read_u32(in, "block_count", 1, MAX_LAYERS, &h->n_layers)) ||
        (rc = read_u32(in, "embedding_length", 32, MAX_WIDTH, &h->hidden)) ||
        (rc = read_u32(in, "context_length", 1, MAX_CONTEXT, &h->context_limit)) ||
        (rc = read_layer_u32(in, "attention.head_count", 0, h->n_layers, 1, MAX_HEADS, &h->n_heads)) ||
        (rc = read_u32(in, "attention.key_length", 32, 4096, &h->head_size_global)) ||
        (rc = read_u32_or(in, "attention.key_length_swa", 4096, h->head_size_global, &h->head_size_local)) ||
        (rc = read_u32(in, "attention.sliding_window", 1, MAX_CONTEXT, &h->window)) ||
        (rc = read_u32_or(in, "attention.shared_kv_layers", h->n_layers - 1, 0, &h->n_shared_kv_layers)) ||
        (rc = read_u32_or(in, "embedding_length_per_layer_input", 65536, 0, &h->ple_width)) ||
        (rc = read_u32_or(in, "expert_count", MAX_EXPERTS, 0, &h->n_experts)) ||
        (rc = read_f32_or(in, "attention.layer_norm_rms_epsilon", 0, 1, 1e-6, &h->rms_eps)) ||
        (rc = read_f32_or(in, "rope.freq_base", 1, 1e12, 1e6, &h->rope_base_global)) ||
        (rc = read_f32_or(in, "rope.freq_base_swa", 1, 1e12, 1e4, &h->rope_base_local)) ||
        (rc = read_f32_or(in, "final_logit_softcapping", 0, 1e6, 30, &h->final_softcap)))
        return rc;
    if (h->n_experts) {
        if ((rc = read_u32(in, "expert_used_count", 1, h->n_experts, &h->n_experts_used)) ||
            (rc = read_u32(in, "expert_feed_forward_length", 1, MAX_WIDTH, &h->expert_width)))
            return rc;
    }
    if (h->head_size_local % 32 || h->head_size_global % 32)
        return lode_fail(in->error, LODE_ERR_UNSUPPORTED,
                         "head sizes %" PRIu32 " and %" PRIu32 " are not multiples of 32", h->head_size_local,
                         h->head_size_global);
    return 0;
}

// V heads have the size of K heads in every published model; the cache and the attention rely on it.
static int check_value_lengths(const struct reader *in, const struct gemma_hparams *h)
{
    uint32_t global, local;
    int rc;
    if ((rc = read_u32_or(in, "attention.value_length", 4096, h->head_size_global, &global)) ||
        (rc = read_u32_or(in, "attention.value_length_swa", 4096, h->head_size_local, &local)))
        return rc;
    if (global != h->head_size_global || local != h->head_size_local)
        return lode_fail(in->error, LODE_ERR_UNSUPPORTED,
                         "gemma4.attention.value_length differs from key_length (%" PRIu32 " and %" PRIu32
                         ", local %" PRIu32 " and %" PRIu32 ")",
                         global, h->head_size_global, local, h->head_size_local);
    return 0;
}

// The pattern is one flag a layer; a single number N means that every N-th layer is global, and a bare "true"
// the family's own period. The last layer is global in all of them.
static int read_pattern(const struct reader *in, struct gemma_model *model)
{
    const uint32_t n_layers = model->hparams.n_layers;
    char full[96];
    const struct gguf_value *value = find(in, "attention.sliding_window_pattern", full, sizeof full);
    if (!value)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s is missing", full);
    if (gguf_value_kind(value) == GGUF_ARRAY) {
        if (gguf_value_count(value) != n_layers)
            return lode_fail(in->error, LODE_ERR_FORMAT, "key %s has %zu values for %" PRIu32 " layers", full,
                             gguf_value_count(value), n_layers);
        for (uint32_t l = 0; l < n_layers; l++) {
            uint64_t local;
            if (!gguf_value_u64(value, l, &local) || local > 1)
                return lode_fail(in->error, LODE_ERR_FORMAT, "key %s, value %" PRIu32 ": neither 0 nor 1",
                                 full, l);
            model->layers[l].global = !local;
        }
        return 0;
    }
    uint64_t period;
    if (!gguf_value_u64(value, 0, &period) || period == 0 || period > n_layers)
        return lode_fail(in->error, LODE_ERR_FORMAT, "key %s holds neither flags nor a period", full);
    if (period == 1)
        period = n_layers == 35 ? 5 : 6;
    for (uint32_t l = 0; l < n_layers; l++)
        model->layers[l].global = (l + 1) % period == 0 || l + 1 == n_layers;
    return 0;
}

// A layer that shares KV reads the cache of the last earlier layer of its kind that has one.
static int assign_kv(const struct reader *in, struct gemma_model *model)
{
    const struct gemma_hparams *h = &model->hparams;
    const uint32_t first_shared = h->n_layers - h->n_shared_kv_layers;
    uint32_t last_owner[2] = {UINT32_MAX, UINT32_MAX};
    for (uint32_t l = 0; l < h->n_layers; l++) {
        struct gemma_layer *layer = &model->layers[l];
        layer->own_kv = l < first_shared;
        if (layer->own_kv)
            last_owner[layer->global] = l;
        layer->kv_layer = last_owner[layer->global];
        if (layer->kv_layer == UINT32_MAX)
            return lode_fail(in->error, LODE_ERR_FORMAT,
                             "layer %" PRIu32 " shares KV, but no earlier %s layer has its own", l,
                             layer->global ? "global" : "local");
    }
    model->last_kv_layer = first_shared - 1;
    return 0;
}

int gemma_hparams_load(struct gemma_model *out, const struct gguf *gguf, struct lode_error *error)
{
    struct reader in = {gguf, error};
    struct gemma_hparams *h = &out->hparams;
    int rc;
    if ((rc = check_architecture(&in)) || (rc = read_scalars(&in, h)) || (rc = check_value_lengths(&in, h)))
        return rc;
    out->layers = calloc(h->n_layers, sizeof *out->layers);
    if (!out->layers)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %" PRIu32 " layers", h->n_layers);
    if ((rc = read_pattern(&in, out)) || (rc = assign_kv(&in, out)))
        return rc;
    for (uint32_t l = 0; l < h->n_layers; l++) {
        struct gemma_layer *layer = &out->layers[l];
        layer->head_size = layer->global ? h->head_size_global : h->head_size_local;
        if ((rc = read_layer_u32(&in, "attention.head_count_kv", l, h->n_layers, 1, h->n_heads,
                                 &layer->n_kv_heads)) ||
            (rc =
                 read_layer_u32(&in, "feed_forward_length", l, h->n_layers, 1, MAX_WIDTH, &layer->ffn_width)))
            return rc;
        if (h->n_heads % layer->n_kv_heads)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "layer %" PRIu32 ": %" PRIu32 " query heads do not divide by %" PRIu32
                             " KV heads",
                             l, h->n_heads, layer->n_kv_heads);
    }
    return 0;
}
