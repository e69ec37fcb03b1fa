// The metadata of a synthetic model: the keys of a published gemma4 file, in its converter's kinds.
#include "core/synth.h"

#include <stdio.h>
#include <string.h>

// The number that says what most of a file's tensors are; informational.
static uint32_t file_type(const struct synth_model *model)
{
    if (model->mix != SYNTH_MIX_NONE)
        return synth_mix_file_type(model->mix);
    switch (model->type) {
    case LODE_F32:
        return 0;
    case LODE_F16:
        return 1;
    case LODE_Q4_0:
        return 2;
    case LODE_Q4_1:
        return 3;
    case LODE_Q8_0:
        return 7;
    case LODE_Q5_0:
        return 8;
    case LODE_Q5_1:
        return 9;
    case LODE_Q2_K:
        return 10;
    case LODE_Q3_K:
        return 11;
    case LODE_Q4_K:
        return 14;
    case LODE_Q5_K:
        return 16;
    case LODE_Q6_K:
        return 18;
    case LODE_IQ4_NL:
        return 25;
    case LODE_IQ4_XS:
        return 30;
    case LODE_BF16:
        return 32;
    case LODE_MXFP4:
        return 38;
    default:
        return 0;
    }
}

static void write_general(struct gguf_write *file, const struct synth_model *model)
{
    char name[64];
    snprintf(name, sizeof name, "synthetic %s", model->shape.name);
    gguf_write_string(file, "general.architecture", "gemma4");
    gguf_write_string(file, "general.type", "model");
    gguf_write_string(file, "general.name", name);
    gguf_write_string(file, "general.size_label", model->shape.size_label);
    gguf_write_string(file, "general.description", "random weights of a real shape, for measurements");
    gguf_write_u32(file, "general.quantization_version", 2);
    gguf_write_u32(file, "general.file_type", file_type(model));
    gguf_write_i32(file, "general.sampling.top_k", 64);
    gguf_write_f32(file, "general.sampling.top_p", 0.95f);
    gguf_write_f32(file, "general.sampling.temp", 1);
}

static void write_ffn_width(struct gguf_write *file, const struct synth_shape *s)
{
    static const char key[] = "gemma4.feed_forward_length";
    if (!s->wide_shared_ffn) {
        gguf_write_u32(file, key, s->ffn_width);
        return;
    }
    gguf_write_array(file, key, GGUF_I32, s->n_layers);
    for (uint32_t l = 0; l < s->n_layers; l++)
        gguf_write_item_i32(file, (int32_t)synth_layer_ffn_width(s, l));
}

static void write_kv_heads(struct gguf_write *file, const struct synth_shape *s)
{
    static const char key[] = "gemma4.attention.head_count_kv";
    if (s->n_kv_heads_local == s->n_kv_heads_global) {
        gguf_write_u32(file, key, s->n_kv_heads_local);
        return;
    }
    gguf_write_array(file, key, GGUF_I32, s->n_layers);
    for (uint32_t l = 0; l < s->n_layers; l++)
        gguf_write_item_i32(file, (int32_t)synth_layer_kv_heads(s, l));
}

static void write_attention(struct gguf_write *file, const struct synth_shape *s)
{
    gguf_write_u32(file, "gemma4.attention.head_count", s->n_heads);
    write_kv_heads(file, s);
    gguf_write_u32(file, "gemma4.attention.key_length", s->head_size_global);
    gguf_write_u32(file, "gemma4.attention.value_length", s->head_size_global);
    gguf_write_u32(file, "gemma4.attention.key_length_swa", s->head_size_local);
    gguf_write_u32(file, "gemma4.attention.value_length_swa", s->head_size_local);
    gguf_write_f32(file, "gemma4.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_write_u32(file, "gemma4.attention.sliding_window", s->window);
    gguf_write_array(file, "gemma4.attention.sliding_window_pattern", GGUF_BOOL, s->n_layers);
    for (uint32_t l = 0; l < s->n_layers; l++)
        gguf_write_item_bool(file, !synth_layer_is_global(s, l));
    gguf_write_u32(file, "gemma4.attention.shared_kv_layers", s->n_shared_kv_layers);
}

void synth_write_metadata(struct gguf_write *file, const struct synth_model *model)
{
    const struct synth_shape *s = &model->shape;
    write_general(file, model);
    gguf_write_u32(file, "gemma4.block_count", s->n_layers);
    gguf_write_u32(file, "gemma4.context_length", s->context);
    gguf_write_u32(file, "gemma4.embedding_length", s->hidden);
    write_ffn_width(file, s);
    write_attention(file, s);
    gguf_write_u32(file, "gemma4.embedding_length_per_layer_input", s->ple_width);
    gguf_write_f32(file, "gemma4.rope.freq_base", 1e6f);
    gguf_write_f32(file, "gemma4.rope.freq_base_swa", 1e4f);
    gguf_write_u32(file, "gemma4.rope.dimension_count", s->head_size_global);
    gguf_write_u32(file, "gemma4.rope.dimension_count_swa", s->head_size_local);
    gguf_write_f32(file, "gemma4.final_logit_softcapping", 30);
    if (s->n_experts) {
        gguf_write_u32(file, "gemma4.expert_count", s->n_experts);
        gguf_write_u32(file, "gemma4.expert_used_count", s->n_experts_used);
        gguf_write_u32(file, "gemma4.expert_feed_forward_length", s->expert_width);
    }
    synth_write_tokenizer(file, s);
}
