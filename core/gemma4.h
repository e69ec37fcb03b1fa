// Gemma 4 as Lode sees it: hyperparameters, layers, and where each weight lies among the placement units.
//
// All published shapes are one architecture with features switched on or off by the file: E2B and E4B
// (per-layer embeddings, layers that share KV), 12B and 31B (dense), 26B-A4B (experts beside the dense FFN).
#ifndef LODE_GEMMA4_H
#define LODE_GEMMA4_H

#include "base/lode_error.h"
#include "base/tensor_type.h"
#include "core/gguf.h"
#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

enum gemma_unit_kind {
    GEMMA_EMBEDDING, // token embedding; also the head unless the file has one of its own
    GEMMA_PLE_TABLE, // per-layer embedding rows, one a token
    GEMMA_PLE_INPUT, // projection of the embedding into all layers' inputs
    GEMMA_SMALL,     // norms, router and scales of a layer
    GEMMA_ATTENTION, // q, k, v, output of a layer
    GEMMA_FFN,       // dense FFN of a layer
    GEMMA_EXPERT,    // one routed expert of a layer
    GEMMA_PLE_LAYER, // gate and projection of a layer's per-layer input
    GEMMA_OUTPUT,    // final norm, RoPE factors
    GEMMA_HEAD,      // a head that is not tied to the embedding
    GEMMA_UNIT_KINDS,
};

const char *gemma_unit_kind_name(enum gemma_unit_kind kind);

// A tensor of the model: part `part` of unit `unit`. rows is 1 for a vector. Absent optional tensors have
// cols 0.
struct gemma_weight {
    uint32_t unit, part;
    enum lode_type type;
    uint32_t rows, cols;
};

struct gemma_hparams {
    uint32_t n_layers, hidden, vocab, context_limit, window;
    uint32_t n_heads, head_size_local, head_size_global;
    uint32_t n_shared_kv_layers;
    uint32_t n_experts, n_experts_used, expert_width;
    uint32_t ple_width; // values per layer of the per-layer embedding
    float rms_eps, rope_base_local, rope_base_global, final_softcap;
};

struct gemma_layer {
    bool global;       // sees all positions; else a sliding window
    bool own_kv;       // writes its own K and V
    uint32_t kv_layer; // the layer whose cache it reads: itself, or the last earlier owner of its kind
    uint32_t n_kv_heads, head_size, ffn_width;

    struct gemma_weight q, k, v, output; // v absent: V is the K projection
    struct gemma_weight gate, up, down;
    struct gemma_weight ple_gate, ple_proj;

    struct gemma_weight attn_norm, q_norm, k_norm, post_attention_norm, ffn_norm, post_ffw_norm;
    struct gemma_weight output_scale; // one number; absent means 1
    struct gemma_weight ple_post_norm;

    bool moe;
    struct gemma_weight router, router_scale, expert_scale;
    struct gemma_weight post_ffw_norm_1, pre_ffw_norm_2, post_ffw_norm_2;
    uint32_t first_expert_unit; // expert e is unit first_expert_unit + e, with the parts that follow
    bool fused_gate_up;         // part 0 is gate rows, then up rows; part 1 is down. Else gate, up, down
    enum lode_type expert_gate_type, expert_up_type, expert_down_type;
};

struct gemma_model {
    struct gemma_hparams hparams;
    struct gemma_layer *layers;
    struct gemma_weight embedding, head; // head: its own, or the embedding
    struct gemma_weight ple_table, ple_model_proj, ple_proj_norm;
    struct gemma_weight output_norm;
    struct gemma_weight rope_factors; // divides the global layers' angles; absent: the first quarter rotates
    uint32_t last_kv_layer;           // no layer after it writes K or V
    struct unit_table units;
    uint32_t *tensor_unit; // unit of each tensor of the file (an expert tensor: its first), or UNIT_NO_LAYER
};

// Reads hyperparameters and finds every tensor. Errors name the key or tensor, what was expected and what is
// there.
int gemma_model_load(struct gemma_model *out, const struct gguf *gguf, struct lode_error *error);
void gemma_model_free(struct gemma_model *model);

// Reads the hyperparameters and the layers' geometry only (layers[] allocated). Used by gemma_model_load.
int gemma_hparams_load(struct gemma_model *out, const struct gguf *gguf, struct lode_error *error);

// Writes "expert 17 of layer 3" or the like; for errors.
const char *gemma_unit_name(const struct unit *unit, char *buffer, size_t capacity);

#endif
