#include "core/shape.h"

#include "core/kv_cache.h"

#include <stdio.h>
#include <string.h>

// Published shapes are told by depth and width together; anything else is "custom".
static const char *size_name(const struct gemma_hparams *h)
{
    static const struct {
        uint32_t n_layers, hidden;
        const char *name;
    } published[] = {
        {35, 1536, "E2B"}, {42, 2560, "E4B"}, {48, 3840, "12B"}, {30, 2816, "26B-A4B"}, {60, 5376, "31B"}};
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (published[i].n_layers == h->n_layers && published[i].hidden == h->hidden)
            return published[i].name;
    return "custom";
}

static void describe_name(struct lode_shape *out, const struct gguf *gguf)
{
    const struct gguf_value *value = gguf_find(gguf, "general.name");
    struct gguf_string name;
    snprintf(out->name, sizeof out->name, "gemma4 %s", out->size);
    if (!value || !gguf_value_string(value, 0, &name) || !name.len)
        return;
    size_t len = name.len < sizeof out->name - 1 ? name.len : sizeof out->name - 1;
    for (size_t i = 0; i < len; i++) // it goes to terminals: no control characters
        out->name[i] = (unsigned char)name.data[i] < 0x20 || name.data[i] == 0x7f ? '?' : name.data[i];
    out->name[len] = 0;
}

static uint64_t elements(const struct gguf_tensor *tensor)
{
    return tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
}

// What a token reads of `whole` parameters or bytes of a tensor: everything but the rows of tables it does
// not use and the experts that were not chosen. The embedding counts once, as the head, when it is tied.
static uint64_t read_for_a_token(const struct gemma_hparams *h, enum unit_class class, uint64_t whole)
{
    if (class == UNIT_EXPERT)
        return whole / h->n_experts * h->n_experts_used;
    return class == UNIT_ROWS ? 0 : whole;
}

static void count_weights(struct lode_shape *out, const struct gemma_model *model, const struct gguf *gguf)
{
    uint64_t bytes_of_type[LODE_TYPE_END] = {0}, most_bytes = 0;
    for (size_t t = 0; t < gguf_tensor_count(gguf); t++) {
        if (model->tensor_unit[t] == UNIT_NO_LAYER)
            continue;
        const enum unit_class class = model->units.units[model->tensor_unit[t]].class;
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, t);
        const uint64_t bytes = read_for_a_token(&model->hparams, class, tensor->size_bytes);
        out->parameters += elements(tensor);
        out->parameters_per_token += read_for_a_token(&model->hparams, class, elements(tensor));
        out->bytes_per_token += bytes;
        bytes_of_type[tensor->type] += bytes;
        if (bytes_of_type[tensor->type] <= most_bytes)
            continue;
        most_bytes = bytes_of_type[tensor->type];
        snprintf(out->type, sizeof out->type, "%s", lode_type_name(tensor->type));
    }
}

void shape_describe(struct lode_shape *out, const struct gemma_model *model, const struct gguf *gguf)
{
    const struct gemma_hparams *h = &model->hparams;
    *out = (struct lode_shape){
        .n_layers = h->n_layers,
        .n_shared_kv_layers = h->n_shared_kv_layers,
        .hidden = h->hidden,
        .vocab = h->vocab,
        .context_limit = h->context_limit,
        .window = h->window,
        .n_heads = h->n_heads,
        .head_size_local = h->head_size_local,
        .head_size_global = h->head_size_global,
        .n_experts = h->n_experts,
        .n_experts_used = h->n_experts_used,
        .expert_width = h->expert_width,
        .ple_width = h->ple_width,
        .rope_base_local = h->rope_base_local,
        .rope_base_global = h->rope_base_global,
        .final_softcap = h->final_softcap,
        .weight_bytes = unit_table_bytes(&model->units),
    };
    snprintf(out->size, sizeof out->size, "%s", size_name(h));
    describe_name(out, gguf);
    for (uint32_t l = 0; l < h->n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        out->n_global_layers += layer->global;
        *(layer->global ? &out->n_kv_heads_global : &out->n_kv_heads_local) = layer->n_kv_heads;
        if (l == 0 || layer->ffn_width < out->ffn_width_min)
            out->ffn_width_min = layer->ffn_width;
        if (layer->ffn_width > out->ffn_width_max)
            out->ffn_width_max = layer->ffn_width;
        if (!layer->own_kv)
            continue;
        uint64_t bytes = 2ull * layer->n_kv_heads * lode_kv_row_bytes(LODE_CACHE_F16, layer->head_size);
        if (layer->global)
            out->kv_bytes_per_token += bytes;
        else
            out->kv_fixed_bytes += bytes * h->window;
    }
    count_weights(out, model, gguf);
}
