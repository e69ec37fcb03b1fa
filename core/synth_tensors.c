// The list of a synthetic model's tensors: names, dimensions and types as published files have them, and what
// each is filled with. K, V and K norm of layers that share KV are left out, as in the newer files: nothing
// reads them.
#include "core/synth.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_TENSORS (8 + 22 * SYNTH_MAX_LAYERS)

static const float norm_deviation = 0.1f, output_scale_deviation = 0.027f;
static const float logit_deviation = 3, router_deviation = 2, score_deviation = 2;

// ---- types --------------------------------------------------------------------------------------

// What quantisers take for rows that are no whole blocks of 256.
static enum lode_type fallback_of(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_K:
        return LODE_Q5_0;
    case LODE_Q5_K:
        return LODE_Q5_1;
    case LODE_Q6_K:
        return LODE_Q8_0;
    case LODE_Q2_K:
    case LODE_Q3_K:
    case LODE_IQ4_XS:
        return LODE_IQ4_NL;
    default:
        return LODE_F16;
    }
}

static enum lode_type type_of_rows(enum lode_type type, uint64_t cols)
{
    uint64_t row_bytes;
    while (!lode_type_row_bytes(&row_bytes, type, cols))
        type = fallback_of(type);
    return type;
}

static enum lode_type head_type_of(enum lode_type type)
{
    switch (type) {
    case LODE_Q2_K:
    case LODE_Q3_K:
    case LODE_Q4_K:
    case LODE_Q5_K:
    case LODE_Q6_K:
    case LODE_IQ4_NL:
    case LODE_IQ4_XS:
        return LODE_Q6_K;
    case LODE_MXFP4:
        return LODE_Q8_0;
    default:
        return type;
    }
}

// The projection of all layers' inputs is never quantised.
static enum lode_type model_proj_type_of(enum lode_type type)
{
    return type == LODE_F32 || type == LODE_F16 ? type : LODE_BF16;
}

static int find_type(enum lode_type *out, const char *name, struct lode_error *error)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        if (lode_type_find(type) && name && strcasecmp(lode_type_name(type), name) == 0) {
            *out = (enum lode_type)type;
            return 0;
        }
    }
    return lode_fail(error, LODE_ERR_ARGUMENT, "there is no tensor type \"%.40s\"; there are %s",
                     name ? name : "", lode_type_list());
}

static int find_type_or_mix(struct synth_model *model, const char *name, struct lode_error *error)
{
    model->mix = name ? synth_mix_find(name) : SYNTH_MIX_NONE;
    if (model->mix != SYNTH_MIX_NONE) {
        model->type = synth_mix_base(model->mix);
        return 0;
    }
    int rc = find_type(&model->type, name, error);
    if (rc)
        return lode_fail(error, rc, "there is no tensor type \"%.40s\"; there are %s, and the mixes %s",
                         name ? name : "", lode_type_list(), "Q4_K_S, Q4_K_M, Q5_K_M");
    return 0;
}

static bool has_v(const struct synth_shape *shape, uint32_t layer)
{
    return synth_layer_owns_kv(shape, layer) && !(shape->k_is_v && synth_layer_is_global(shape, layer));
}

static enum lode_type v_type(const struct synth_model *model, uint32_t layer)
{
    uint32_t index = 0, count = 0;
    if (model->mix == SYNTH_MIX_NONE)
        return model->type;
    for (uint32_t l = 0; l < model->shape.n_layers; l++) {
        if (!has_v(&model->shape, l))
            continue;
        index += l < layer;
        count++;
    }
    return synth_mix_type(model->mix, SYNTH_ROLE_V, index, count);
}

static enum lode_type down_type(const struct synth_model *model, uint32_t layer)
{
    if (model->mix == SYNTH_MIX_NONE)
        return model->type;
    return synth_mix_type(model->mix, SYNTH_ROLE_DOWN, layer, model->shape.n_layers);
}

// ---- tensors ------------------------------------------------------------------------------------

static struct synth_tensor *add(struct synth_model *model, enum synth_group group, const char *name,
                                enum lode_type type, uint32_t n_dims, uint64_t cols, uint64_t rows,
                                uint64_t stack)
{
    assert(model->n_tensors < MAX_TENSORS);
    struct synth_tensor *tensor = &model->tensors[model->n_tensors++];
    *tensor = (struct synth_tensor){.type = type,
                                    .n_dims = n_dims,
                                    .ne = {cols, rows, stack, 1},
                                    .group = group,
                                    .fill = SYNTH_FILL_RANDOM};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

static struct synth_tensor *add_vector(struct synth_model *model, const char *name, uint64_t n, float mean,
                                       float relative_deviation)
{
    struct synth_tensor *tensor = add(model, SYNTH_NORMS, name, LODE_F32, 1, n, 1, 1);
    tensor->mean = mean;
    tensor->deviation = mean * relative_deviation;
    return tensor;
}

static struct synth_tensor *add_matrix(struct synth_model *model, enum synth_group group, const char *name,
                                       enum lode_type type, uint64_t cols, uint64_t rows)
{
    struct synth_tensor *tensor = add(model, group, name, type_of_rows(type, cols), 2, cols, rows, 1);
    tensor->deviation = 1 / sqrtf((float)cols);
    return tensor;
}

static void add_stack(struct synth_model *model, const char *name, enum lode_type type, uint64_t cols,
                      uint64_t rows)
{
    struct synth_tensor *tensor =
        add(model, SYNTH_EXPERTS, name, type_of_rows(type, cols), 3, cols, rows, model->shape.n_experts);
    tensor->deviation = 1 / sqrtf((float)cols);
}

struct name {
    char text[GGUF_MAX_NAME];
};

static struct name in_layer(uint32_t layer, const char *suffix)
{
    struct name name;
    snprintf(name.text, sizeof name.text, "blk.%" PRIu32 ".%s", layer, suffix);
    return name;
}

static void add_inputs(struct synth_model *model)
{
    const struct synth_shape *s = &model->shape;
    add_matrix(model, SYNTH_EMBEDDING_TABLE, "token_embd.weight", model->head_type, s->hidden, s->vocab)
        ->fill = SYNTH_FILL_EMBEDDING;
    if (!s->ple_width)
        return;
    const uint64_t all_layers = (uint64_t)s->ple_width * s->n_layers;
    add_matrix(model, SYNTH_PLE_TABLE, "per_layer_token_embd.weight", model->head_type, all_layers, s->vocab)
        ->deviation =
        1 / sqrtf((float)s->ple_width); // RMS 1 after the scaling by the root of a layer's width
    add_matrix(model, SYNTH_PLE_PROJECTIONS, "per_layer_model_proj.weight", model_proj_type_of(model->type),
               s->hidden, all_layers);
    add_vector(model, "per_layer_proj_norm.weight", s->ple_width, 1, norm_deviation);
}

static void add_attention(struct synth_model *model, uint32_t l)
{
    const struct synth_shape *s = &model->shape;
    const uint32_t head_size = synth_layer_head_size(s, l);
    const uint64_t q_width = (uint64_t)s->n_heads * head_size;
    const uint64_t kv_width = (uint64_t)synth_layer_kv_heads(s, l) * head_size;
    add_vector(model, in_layer(l, "attn_norm.weight").text, s->hidden, 1, norm_deviation);
    add_matrix(model, SYNTH_ATTENTION, in_layer(l, "attn_q.weight").text, model->type, s->hidden, q_width);
    add_vector(model, in_layer(l, "attn_q_norm.weight").text, head_size,
               score_deviation / sqrtf((float)head_size), norm_deviation);
    if (synth_layer_owns_kv(s, l)) {
        add_matrix(model, SYNTH_ATTENTION, in_layer(l, "attn_k.weight").text, model->type, s->hidden,
                   kv_width);
        add_vector(model, in_layer(l, "attn_k_norm.weight").text, head_size, 1, norm_deviation);
        if (has_v(s, l))
            add_matrix(model, SYNTH_ATTENTION, in_layer(l, "attn_v.weight").text, v_type(model, l), s->hidden,
                       kv_width);
    }
    add_matrix(model, SYNTH_ATTENTION, in_layer(l, "attn_output.weight").text, model->type, q_width,
               s->hidden);
    add_vector(model, in_layer(l, "post_attention_norm.weight").text, s->hidden, synth_post_norm(s),
               norm_deviation);
}

static void add_ffn(struct synth_model *model, uint32_t l)
{
    const struct synth_shape *s = &model->shape;
    const uint64_t width = synth_layer_ffn_width(s, l);
    add_vector(model, in_layer(l, "ffn_norm.weight").text, s->hidden, 1, norm_deviation);
    add_matrix(model, SYNTH_DENSE_FFN, in_layer(l, "ffn_gate.weight").text, model->type, s->hidden, width);
    add_matrix(model, SYNTH_DENSE_FFN, in_layer(l, "ffn_up.weight").text, model->type, s->hidden, width);
    add_matrix(model, SYNTH_DENSE_FFN, in_layer(l, "ffn_down.weight").text, down_type(model, l), width,
               s->hidden);
    add_vector(model, in_layer(l, "post_ffw_norm.weight").text, s->hidden, synth_post_norm(s),
               norm_deviation);
}

static void add_experts(struct synth_model *model, uint32_t l)
{
    const struct synth_shape *s = &model->shape;
    const float root = sqrtf((float)s->hidden);
    struct synth_tensor *router = add_matrix(model, SYNTH_ROUTERS, in_layer(l, "ffn_gate_inp.weight").text,
                                             LODE_F32, s->hidden, s->n_experts);
    router->deviation *= router_deviation;
    router->fill = SYNTH_FILL_ROUTER;
    router->layer = l;
    add_vector(model, in_layer(l, "ffn_gate_inp.scale").text, s->hidden, root, norm_deviation);
    add_stack(model, in_layer(l, "ffn_gate_up_exps.weight").text, model->type, s->hidden,
              2 * (uint64_t)s->expert_width);
    add_stack(model, in_layer(l, "ffn_down_exps.weight").text, down_type(model, l), s->expert_width,
              s->hidden);
    add_vector(model, in_layer(l, "ffn_down_exps.scale").text, s->n_experts, 1, norm_deviation);
    add_vector(model, in_layer(l, "pre_ffw_norm_2.weight").text, s->hidden, 1, norm_deviation);
    add_vector(model, in_layer(l, "post_ffw_norm_1.weight").text, s->hidden, 1, norm_deviation);
    add_vector(model, in_layer(l, "post_ffw_norm_2.weight").text, s->hidden, 1, norm_deviation);
}

static void add_layer(struct synth_model *model, uint32_t l)
{
    const struct synth_shape *s = &model->shape;
    add_attention(model, l);
    add_ffn(model, l);
    if (s->n_experts)
        add_experts(model, l);
    if (s->ple_width) {
        add_matrix(model, SYNTH_PLE_PROJECTIONS, in_layer(l, "inp_gate.weight").text, model->type, s->hidden,
                   s->ple_width);
        add_matrix(model, SYNTH_PLE_PROJECTIONS, in_layer(l, "proj.weight").text, model->type, s->ple_width,
                   s->hidden);
        add_vector(model, in_layer(l, "post_norm.weight").text, s->hidden, synth_post_norm(s),
                   norm_deviation);
    }
    add_vector(model, in_layer(l, "layer_output_scale.weight").text, 1, 1, output_scale_deviation)->fill =
        SYNTH_FILL_SCALE;
}

static void add_tensors(struct synth_model *model)
{
    const struct synth_shape *s = &model->shape;
    add_inputs(model);
    for (uint32_t l = 0; l < s->n_layers; l++)
        add_layer(model, l);
    add_vector(model, "output_norm.weight", s->hidden, logit_deviation, norm_deviation)->fill =
        SYNTH_FILL_SIGNED;
    add(model, SYNTH_ROPE, "rope_freqs.weight", LODE_F32, 1, s->head_size_global / 2, 1, 1)->fill =
        SYNTH_FILL_ROPE;
}

int synth_model_make(struct synth_model *out, const struct lode_synth_options *options,
                     struct lode_error *error)
{
    struct synth_model model = {.seed = options->seed, .skew = options->skew, .threads = options->threads};
    int rc = synth_shape_find(&model.shape, options->shape, options->layers, error);
    if (!rc)
        rc = find_type_or_mix(&model, options->type, error);
    model.head_type = head_type_of(model.type);
    if (!rc && options->head_type)
        rc = find_type(&model.head_type, options->head_type, error);
    if (!rc && !(options->skew >= 0 && options->skew <= 4))
        rc = lode_fail(error, LODE_ERR_ARGUMENT, "a skew of %g is outside 0..4", (double)options->skew);
    if (rc)
        return rc;
    model.tensors = malloc(MAX_TENSORS * sizeof *model.tensors);
    if (!model.tensors)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the list of tensors");
    add_tensors(&model);
    *out = model;
    return 0;
}

void synth_model_free(struct synth_model *model)
{
    free(model->tensors);
    model->tensors = NULL;
}
