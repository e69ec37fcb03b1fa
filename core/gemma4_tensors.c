// The tensor table of a gemma4 file: finds every tensor of the model, checks its shape, and files it under
// the unit that it is placed and moved with. Units come in the order in which a pass meets them.
#include "core/gemma4.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[GEMMA_UNIT_KINDS] = {
    [GEMMA_EMBEDDING] = "token embedding",
    [GEMMA_PLE_TABLE] = "per-layer embedding",
    [GEMMA_PLE_INPUT] = "per-layer input",
    [GEMMA_SMALL] = "norms and router",
    [GEMMA_ATTENTION] = "attention",
    [GEMMA_FFN] = "dense FFN",
    [GEMMA_EXPERT] = "expert",
    [GEMMA_PLE_LAYER] = "per-layer gate",
    [GEMMA_OUTPUT] = "output norm",
    [GEMMA_HEAD] = "head",
};

const char *gemma_unit_kind_name(enum gemma_unit_kind kind)
{
    return kind_names[kind];
}

const char *gemma_unit_name(const struct unit *unit, char *buffer, size_t capacity)
{
    if (unit->layer == UNIT_NO_LAYER)
        snprintf(buffer, capacity, "%s", kind_names[unit->kind]);
    else if (unit->kind == GEMMA_EXPERT)
        snprintf(buffer, capacity, "expert %" PRIu32 " of layer %" PRIu32, unit->index, unit->layer);
    else
        snprintf(buffer, capacity, "%s of layer %" PRIu32, kind_names[unit->kind], unit->layer);
    return buffer;
}

struct loader {
    struct gemma_model *model;
    const struct gguf *gguf;
    struct lode_error *error;
};

enum presence { REQUIRED, OPTIONAL };

// Dimensions in GGUF order; trailing ones are 1.
struct dims {
    uint64_t ne[GGUF_MAX_DIMS];
};

static struct dims vector(uint64_t n)
{
    return (struct dims){{n, 1, 1, 1}};
}

static struct dims matrix(uint64_t cols, uint64_t rows)
{
    return (struct dims){{cols, rows, 1, 1}};
}

static struct dims stack(uint64_t cols, uint64_t rows, uint64_t n)
{
    return (struct dims){{cols, rows, n, 1}};
}

static const char *dims_text(const uint64_t *ne, char *buffer, size_t capacity)
{
    size_t used = 0;
    int last = GGUF_MAX_DIMS - 1;
    while (last > 0 && ne[last] == 1)
        last--;
    for (int i = 0; i <= last && used < capacity; i++)
        used += (size_t)snprintf(buffer + used, capacity - used, i ? " x %" PRIu64 : "%" PRIu64, ne[i]);
    return buffer;
}

static const char *layer_tensor_name(char *buffer, size_t capacity, uint32_t layer, const char *suffix)
{
    snprintf(buffer, capacity, "blk.%" PRIu32 ".%s", layer, suffix);
    return buffer;
}

// Finds a tensor and checks type and shape. *out is NULL for an absent optional one.
static int find_tensor(struct loader *in, const char *name, enum presence presence, struct dims expected,
                       const struct gguf_tensor **out)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(in->gguf, name);
    *out = tensor;
    if (!tensor)
        return presence == OPTIONAL ? 0
                                    : lode_fail(in->error, LODE_ERR_FORMAT,
                                                "tensor %s is missing: the file is incomplete, or no "
                                                "Gemma 4 that Lode knows (E2B, E4B, 12B, 26B-A4B, 31B)",
                                                name);
    char found_text[96], expected_text[96];
    if (memcmp(tensor->ne, expected.ne, sizeof expected.ne) != 0)
        return lode_fail(in->error, LODE_ERR_FORMAT, "tensor %s has shape %s; the hyperparameters ask for %s",
                         name, dims_text(tensor->ne, found_text, sizeof found_text),
                         dims_text(expected.ne, expected_text, sizeof expected_text));
    if (!lode_type_find(tensor->type))
        return lode_fail(in->error, LODE_ERR_UNSUPPORTED,
                         "tensor %s has type %s (%" PRIu32 "), which Lode cannot read; it reads %s", name,
                         lode_type_name(tensor->type), tensor->type, lode_type_list());
    bool is_vector = expected.ne[1] == 1 && expected.ne[2] == 1;
    if (is_vector && tensor->type != LODE_F32)
        return lode_fail(in->error, LODE_ERR_UNSUPPORTED,
                         "tensor %s is a vector of type %s; vectors must be F32", name,
                         lode_type_name(tensor->type));
    return 0;
}

static int begin_unit(struct loader *in, enum unit_class class, enum gemma_unit_kind kind, uint32_t layer,
                      uint32_t index)
{
    return unit_table_add(&in->model->units, class, kind, layer, index, in->error);
}

// Adds a tensor to the unit that was begun last. An absent optional one leaves *out with cols 0.
static int take(struct loader *in, const char *name, enum presence presence, struct dims expected,
                struct gemma_weight *out)
{
    const struct gguf_tensor *tensor;
    int rc = find_tensor(in, name, presence, expected, &tensor);
    if (rc || !tensor)
        return rc;
    struct unit_table *table = &in->model->units;
    uint32_t unit = table->n_units - 1;
    out->unit = unit;
    out->part = table->units[unit].n_parts;
    out->type = (enum lode_type)tensor->type;
    out->cols = (uint32_t)expected.ne[0];
    out->rows = (uint32_t)expected.ne[1];
    in->model->tensor_unit[gguf_tensor_index(in->gguf, tensor)] = unit;
    struct extent extent = {tensor->file, tensor->offset_bytes, tensor->size_bytes};
    return unit_table_add_part(table, extent, in->error);
}

static int take_layer(struct loader *in, uint32_t layer, const char *suffix, enum presence presence,
                      struct dims expected, struct gemma_weight *out)
{
    char name[GGUF_MAX_NAME];
    return take(in, layer_tensor_name(name, sizeof name, layer, suffix), presence, expected, out);
}

static int load_inputs(struct loader *in)
{
    struct gemma_model *model = in->model;
    const struct gemma_hparams *h = &model->hparams;
    // Tied to the head it is read as a whole in each pass; else by the row.
    const bool tied = !gguf_tensor_find(in->gguf, "output.weight");
    int rc;
    if ((rc = begin_unit(in, tied ? UNIT_FIXED : UNIT_ROWS, GEMMA_EMBEDDING, UNIT_NO_LAYER, 0)) ||
        (rc = take(in, "token_embd.weight", REQUIRED, matrix(h->hidden, h->vocab), &model->embedding)))
        return rc;
    if (!h->ple_width)
        return 0;
    const uint64_t all_layers = (uint64_t)h->ple_width * h->n_layers;
    if ((rc = begin_unit(in, UNIT_ROWS, GEMMA_PLE_TABLE, UNIT_NO_LAYER, 0)) ||
        (rc = take(in, "per_layer_token_embd.weight", REQUIRED, matrix(all_layers, h->vocab),
                   &model->ple_table)) ||
        (rc = begin_unit(in, UNIT_FIXED, GEMMA_PLE_INPUT, UNIT_NO_LAYER, 0)) ||
        (rc = take(in, "per_layer_model_proj.weight", REQUIRED, matrix(h->hidden, all_layers),
                   &model->ple_model_proj)) ||
        (rc = take(in, "per_layer_proj_norm.weight", REQUIRED, vector(h->ple_width), &model->ple_proj_norm)))
        return rc;
    return 0;
}

static int load_small(struct loader *in, uint32_t l, struct gemma_layer *layer)
{
    const struct gemma_hparams *h = &in->model->hparams;
    const struct dims hidden = vector(h->hidden);
    int rc;
    if ((rc = begin_unit(in, UNIT_FIXED, GEMMA_SMALL, l, 0)) ||
        (rc = take_layer(in, l, "attn_norm.weight", REQUIRED, hidden, &layer->attn_norm)) ||
        (rc = take_layer(in, l, "attn_q_norm.weight", REQUIRED, vector(layer->head_size), &layer->q_norm)) ||
        (rc = take_layer(in, l, "post_attention_norm.weight", REQUIRED, hidden,
                         &layer->post_attention_norm)) ||
        (rc = take_layer(in, l, "ffn_norm.weight", REQUIRED, hidden, &layer->ffn_norm)) ||
        (rc = take_layer(in, l, "post_ffw_norm.weight", REQUIRED, hidden, &layer->post_ffw_norm)) ||
        (rc = take_layer(in, l, "layer_output_scale.weight", OPTIONAL, vector(1), &layer->output_scale)))
        return rc;
    if (layer->own_kv &&
        (rc = take_layer(in, l, "attn_k_norm.weight", REQUIRED, vector(layer->head_size), &layer->k_norm)))
        return rc;
    if (h->ple_width && (rc = take_layer(in, l, "post_norm.weight", REQUIRED, hidden, &layer->ple_post_norm)))
        return rc;
    if (!layer->moe)
        return 0;
    if ((rc = take_layer(in, l, "ffn_gate_inp.weight", REQUIRED, matrix(h->hidden, h->n_experts),
                         &layer->router)) ||
        (rc = take_layer(in, l, "ffn_gate_inp.scale", REQUIRED, hidden, &layer->router_scale)) ||
        (rc = take_layer(in, l, "ffn_down_exps.scale", OPTIONAL, vector(h->n_experts),
                         &layer->expert_scale)) ||
        (rc = take_layer(in, l, "post_ffw_norm_1.weight", REQUIRED, hidden, &layer->post_ffw_norm_1)) ||
        (rc = take_layer(in, l, "pre_ffw_norm_2.weight", REQUIRED, hidden, &layer->pre_ffw_norm_2)) ||
        (rc = take_layer(in, l, "post_ffw_norm_2.weight", REQUIRED, hidden, &layer->post_ffw_norm_2)))
        return rc;
    return 0;
}

// K and V tensors of layers that share KV stand in many files; they are dead weight and never read.
static int load_attention(struct loader *in, uint32_t l, struct gemma_layer *layer)
{
    const struct gemma_hparams *h = &in->model->hparams;
    const uint64_t q_width = (uint64_t)h->n_heads * layer->head_size;
    const uint64_t kv_width = (uint64_t)layer->n_kv_heads * layer->head_size;
    int rc;
    if ((rc = begin_unit(in, UNIT_DENSE, GEMMA_ATTENTION, l, 0)) ||
        (rc = take_layer(in, l, "attn_q.weight", REQUIRED, matrix(h->hidden, q_width), &layer->q)))
        return rc;
    if (layer->own_kv) {
        // V may be absent on global layers only: there the K projection serves as V.
        enum presence v_presence = layer->global ? OPTIONAL : REQUIRED;
        if ((rc = take_layer(in, l, "attn_k.weight", REQUIRED, matrix(h->hidden, kv_width), &layer->k)) ||
            (rc = take_layer(in, l, "attn_v.weight", v_presence, matrix(h->hidden, kv_width), &layer->v)))
            return rc;
    }
    return take_layer(in, l, "attn_output.weight", REQUIRED, matrix(q_width, h->hidden), &layer->output);
}

// The dense FFN's width is the key's, or twice that where a file with one number has double-wide FFNs in the
// layers that share KV.
static int load_ffn(struct loader *in, uint32_t l, struct gemma_layer *layer)
{
    const struct gemma_hparams *h = &in->model->hparams;
    char name[GGUF_MAX_NAME];
    const struct gguf_tensor *gate =
        gguf_tensor_find(in->gguf, layer_tensor_name(name, sizeof name, l, "ffn_gate.weight"));
    if (gate && !layer->own_kv && gate->ne[1] == 2 * (uint64_t)layer->ffn_width)
        layer->ffn_width *= 2;
    const uint64_t width = layer->ffn_width;
    int rc;
    if ((rc = begin_unit(in, UNIT_DENSE, GEMMA_FFN, l, 0)) ||
        (rc = take_layer(in, l, "ffn_gate.weight", REQUIRED, matrix(h->hidden, width), &layer->gate)) ||
        (rc = take_layer(in, l, "ffn_up.weight", REQUIRED, matrix(h->hidden, width), &layer->up)) ||
        (rc = take_layer(in, l, "ffn_down.weight", REQUIRED, matrix(width, h->hidden), &layer->down)))
        return rc;
    return 0;
}

static int take_expert_slices(struct loader *in, const struct gguf_tensor *const *tensors, uint32_t n_tensors,
                              uint32_t layer)
{
    struct unit_table *table = &in->model->units;
    const uint32_t n_experts = in->model->hparams.n_experts;
    for (uint32_t e = 0; e < n_experts; e++) {
        int rc = begin_unit(in, UNIT_EXPERT, GEMMA_EXPERT, layer, e);
        for (uint32_t t = 0; t < n_tensors && !rc; t++) {
            uint64_t bytes = tensors[t]->size_bytes / n_experts;
            struct extent extent = {tensors[t]->file, tensors[t]->offset_bytes + e * bytes, bytes};
            rc = unit_table_add_part(table, extent, in->error);
        }
        if (rc)
            return rc;
    }
    return 0;
}

static int load_experts(struct loader *in, uint32_t l, struct gemma_layer *layer)
{
    const struct gemma_hparams *h = &in->model->hparams;
    const struct gguf_tensor *fused, *gate = NULL, *up = NULL, *down;
    char name[GGUF_MAX_NAME];
    const struct dims half = stack(h->hidden, h->expert_width, h->n_experts);
    const struct dims both = stack(h->hidden, 2 * (uint64_t)h->expert_width, h->n_experts);
    const struct dims back = stack(h->expert_width, h->hidden, h->n_experts);
    int rc;
    if ((rc = find_tensor(in, layer_tensor_name(name, sizeof name, l, "ffn_gate_up_exps.weight"), OPTIONAL,
                          both, &fused)) ||
        (!fused && ((rc = find_tensor(in, layer_tensor_name(name, sizeof name, l, "ffn_gate_exps.weight"),
                                      REQUIRED, half, &gate)) ||
                    (rc = find_tensor(in, layer_tensor_name(name, sizeof name, l, "ffn_up_exps.weight"),
                                      REQUIRED, half, &up)))) ||
        (rc = find_tensor(in, layer_tensor_name(name, sizeof name, l, "ffn_down_exps.weight"), REQUIRED, back,
                          &down)))
        return rc;
    layer->first_expert_unit = in->model->units.n_units;
    layer->fused_gate_up = fused != NULL;
    layer->expert_gate_type = (enum lode_type)(fused ? fused : gate)->type;
    layer->expert_up_type = (enum lode_type)(fused ? fused : up)->type;
    layer->expert_down_type = (enum lode_type)down->type;
    const struct gguf_tensor *const fused_parts[] = {fused, down};
    const struct gguf_tensor *const parts[] = {gate, up, down};
    const struct gguf_tensor *const *tensors = fused ? fused_parts : parts;
    const uint32_t n_tensors = fused ? 2 : 3;
    for (uint32_t t = 0; t < n_tensors; t++)
        in->model->tensor_unit[gguf_tensor_index(in->gguf, tensors[t])] = layer->first_expert_unit;
    return take_expert_slices(in, tensors, n_tensors, l);
}

static int load_layer(struct loader *in, uint32_t l)
{
    const struct gemma_hparams *h = &in->model->hparams;
    struct gemma_layer *layer = &in->model->layers[l];
    char name[GGUF_MAX_NAME];
    bool has_router =
        gguf_tensor_find(in->gguf, layer_tensor_name(name, sizeof name, l, "ffn_gate_inp.weight"));
    if (has_router && !h->n_experts)
        return lode_fail(in->error, LODE_ERR_FORMAT, "tensor %s is there, but key gemma4.expert_count is not",
                         name);
    layer->moe = has_router;
    int rc;
    if ((rc = load_small(in, l, layer)) || (rc = load_attention(in, l, layer)) ||
        (rc = load_ffn(in, l, layer)))
        return rc;
    if (layer->moe && (rc = load_experts(in, l, layer)))
        return rc;
    if (h->ple_width) {
        if ((rc = begin_unit(in, UNIT_DENSE, GEMMA_PLE_LAYER, l, 0)) ||
            (rc = take_layer(in, l, "inp_gate.weight", REQUIRED, matrix(h->hidden, h->ple_width),
                             &layer->ple_gate)) ||
            (rc = take_layer(in, l, "proj.weight", REQUIRED, matrix(h->ple_width, h->hidden),
                             &layer->ple_proj)))
            return rc;
    }
    return 0;
}

static int load_outputs(struct loader *in)
{
    struct gemma_model *model = in->model;
    const struct gemma_hparams *h = &model->hparams;
    int rc;
    if ((rc = begin_unit(in, UNIT_FIXED, GEMMA_OUTPUT, UNIT_NO_LAYER, 0)) ||
        (rc = take(in, "output_norm.weight", REQUIRED, vector(h->hidden), &model->output_norm)) ||
        (rc = take(in, "rope_freqs.weight", OPTIONAL, vector(h->head_size_global / 2), &model->rope_factors)))
        return rc;
    model->head = model->embedding;
    if (!gguf_tensor_find(in->gguf, "output.weight"))
        return 0;
    if ((rc = begin_unit(in, UNIT_FIXED, GEMMA_HEAD, UNIT_NO_LAYER, 0)))
        return rc;
    return take(in, "output.weight", REQUIRED, matrix(h->hidden, h->vocab), &model->head);
}

// The vocabulary is as large as the embedding table; no key says it.
static int read_vocab(struct loader *in)
{
    const struct gguf_tensor *table = gguf_tensor_find(in->gguf, "token_embd.weight");
    if (!table)
        return lode_fail(in->error, LODE_ERR_FORMAT,
                         "tensor token_embd.weight is missing: the file holds no model "
                         "(perhaps only a vocabulary)");
    if (table->ne[1] == 0 || table->ne[1] > 1u << 24)
        return lode_fail(in->error, LODE_ERR_FORMAT, "tensor token_embd.weight has %" PRIu64 " rows",
                         table->ne[1]);
    in->model->hparams.vocab = (uint32_t)table->ne[1];
    return 0;
}

int gemma_model_load(struct gemma_model *out, const struct gguf *gguf, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    out->units.name_unit = gemma_unit_name;
    struct loader in = {out, gguf, error};
    int rc = gemma_hparams_load(out, gguf, error);
    const size_t n_tensors = gguf_tensor_count(gguf);
    if (!rc && !(out->tensor_unit = malloc((n_tensors + 1) * sizeof *out->tensor_unit)))
        rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for the index of %zu tensors", n_tensors);
    for (size_t t = 0; t < n_tensors && !rc; t++)
        out->tensor_unit[t] = UNIT_NO_LAYER;
    if (!rc)
        rc = read_vocab(&in);
    if (!rc)
        rc = load_inputs(&in);
    for (uint32_t l = 0; l < out->hparams.n_layers && !rc; l++)
        rc = load_layer(&in, l);
    if (!rc)
        rc = load_outputs(&in);
    if (rc)
        gemma_model_free(out);
    return rc;
}

void gemma_model_free(struct gemma_model *model)
{
    unit_table_free(&model->units);
    free(model->layers);
    free(model->tensor_unit);
    memset(model, 0, sizeof *model);
}
