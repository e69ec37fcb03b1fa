// Synthetic models: GGUF files of the real Gemma 4 shapes, or of small ones, filled with random weights.
//
// They are for measuring and testing where no published file is at hand: names, dimensions, types, metadata
// and sizes are those of published files, and the numbers are such that a pass behaves like one of a trained
// model as far as speed and routing go. They say nothing sensible.
//
// What the weights are made to do (N(m, s): normal, mean m, standard deviation s; d: the hidden size):
//
//   matrices       N(0, 1/sqrt(columns)): an input of RMS 1 gives an output of RMS 1
//   norms          N(1, 0.1)
//   post norms     mean sqrt(3 / branches): the residual stream's energy grows from 1 to about 4
//   q norm         mean 2 / sqrt(head size): attention scores of standard deviation 2
//   output scale   N(1, 0.027), which stays within 10%
//   embedding      N(0, 1/sqrt(d)): RMS 1 after the scaling by sqrt(d)
//   output norm    +-3, signs at random: logits of standard deviation 3. With one sign the token just read
//                  would have the largest logit by far, for the head is the embedding
//   router         N(0, 2/sqrt(d)), scale N(1, 0.1) sqrt(d): scores of standard deviation 2, so that the
//                  best 8 of 128 experts hold about 60% of the weight
//
// Matrices of quantised types are drawn as codes: uniform ones, under block scales that vary by a factor of 3
// (synth_draw.h). The same options make the same file.
//
// Skew S > 0 gives experts the popularity of Zipf's law. Element 0 of each 32 of an embedding row is then the
// same for all tokens (about 1.5 times the usual size, 7% of the energy): a direction m that every token
// shares and that the residual stream keeps. Expert e of a layer, at rank r (a random order for each layer,
// from 1), gets
//
//     router row e = N(0, 2/sqrt(d)) outside m, and b_e u along m, where
//     b_e = -S ln r + a constant that makes the mean 0,  u = m / (expected input . m)
//
// so its score is N(0, 2) + b_e (1 + noise): without the token's own part the router's softmax would be r^-S.
// The expected input is followed through the layers (norms, output scales); the noise is about 0.1 at
// d = 2816 and 0.3 at d = 256. What is not modelled is persistence: that a token chooses as the one before it
// did because the text goes on.
//
// Measured on tiny-moe (F32, 150 random tokens, top 8 of 128): the share of a token's experts that the token
// before it had in the same layer, and the share of choices that fall on the more popular half of experts:
//
//     S = 0: 9% and 72%;  S = 1: 28% and 95%;  S = 1.5: 42% and 98%
//     a recorded run of 26B-A4B (top 6, 128 tokens of one text): 36% and 99%
#ifndef LODE_SYNTH_H
#define LODE_SYNTH_H

#include "base/tensor_type.h"
#include "core/gguf_write.h"
#include "core/lode.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYNTH_MAX_LAYERS 512

struct synth_shape {
    const char *name, *size_label;
    uint32_t n_layers, period; // every period-th layer is global, and the last
    uint32_t hidden, ffn_width, window, context;
    uint32_t n_heads, n_kv_heads_local, n_kv_heads_global, head_size_local, head_size_global;
    uint32_t n_shared_kv_layers;
    bool wide_shared_ffn; // twice the FFN width in the layers that share KV
    bool k_is_v;          // no V projection in global layers
    uint32_t ple_width;
    uint32_t n_experts, n_experts_used, expert_width;
    uint32_t vocab;
};

enum synth_group {
    SYNTH_EMBEDDING_TABLE,
    SYNTH_PLE_TABLE,
    SYNTH_ATTENTION,
    SYNTH_DENSE_FFN,
    SYNTH_EXPERTS,
    SYNTH_ROUTERS,
    SYNTH_PLE_PROJECTIONS,
    SYNTH_NORMS,
    SYNTH_ROPE,
    SYNTH_GROUPS,
};
_Static_assert(SYNTH_GROUPS == LODE_SYNTH_GROUPS, "the public interface has room for every group");

enum synth_fill {
    SYNTH_FILL_RANDOM,    // mean and deviation as the tensor says
    SYNTH_FILL_SIGNED,    // the same, with a random sign
    SYNTH_FILL_EMBEDDING, // random, with the shared direction where there is skew
    SYNTH_FILL_ROUTER,    // random, with the experts' popularity where there is skew
    SYNTH_FILL_SCALE,     // a layer's output scale, random
    SYNTH_FILL_ROPE,      // ones for the quarter of the pairs that turns, 1e30 for the rest
};

// Files whose tensors are of more than one type by design.
enum synth_mix {
    SYNTH_MIX_NONE, // all matrices alike
    SYNTH_MIX_Q4_K_S,
    SYNTH_MIX_Q4_K_M,
    SYNTH_MIX_Q5_K_M,
    SYNTH_MIXES,
};

enum synth_role { SYNTH_ROLE_V, SYNTH_ROLE_DOWN }; // what mixes treat apart

struct synth_tensor {
    char name[GGUF_MAX_NAME];
    enum lode_type type;
    uint32_t n_dims;
    uint64_t ne[GGUF_MAX_DIMS];
    enum synth_group group;
    enum synth_fill fill;
    float mean, deviation;
    uint32_t layer; // of a router
};

struct synth_model {
    struct synth_shape shape;
    enum synth_mix mix;
    enum lode_type type, head_type; // of a mix, `type` is what most matrices are
    uint64_t seed;
    float skew;
    uint32_t threads;
    struct synth_tensor *tensors;
    size_t n_tensors;
};

// ---- synth_shapes.c

// The shape of that name, with `n_layers` layers unless that is 0.
int synth_shape_find(struct synth_shape *out, const char *name, uint32_t n_layers, struct lode_error *error);

bool synth_layer_is_global(const struct synth_shape *shape, uint32_t layer);
bool synth_layer_owns_kv(const struct synth_shape *shape, uint32_t layer);
uint32_t synth_layer_kv_heads(const struct synth_shape *shape, uint32_t layer);
uint32_t synth_layer_head_size(const struct synth_shape *shape, uint32_t layer);
uint32_t synth_layer_ffn_width(const struct synth_shape *shape, uint32_t layer);

// Branches of a layer that are added to the residual stream, and the mean of the norms that end them.
uint32_t synth_branches(const struct synth_shape *shape);
float synth_post_norm(const struct synth_shape *shape);

// ---- synth_mix.c

// The mix of that name, in any case of letters; SYNTH_MIX_NONE for any other.
enum synth_mix synth_mix_find(const char *name);

// For a mix that is not SYNTH_MIX_NONE: what most of its matrices are, its number in general.file_type, and
// the type of the index-th of `count` tensors of a role, before rows that are no whole blocks make it fall
// back. FFNs, dense and experts alike, are counted by their layer, V projections among the layers that have
// one.
enum lode_type synth_mix_base(enum synth_mix mix);
uint32_t synth_mix_file_type(enum synth_mix mix);
enum lode_type synth_mix_type(enum synth_mix mix, enum synth_role role, uint32_t index, uint32_t count);

// ---- synth_tensors.c

// Checks the options and lists the tensors; released by synth_model_free. Nothing is kept on failure.
int synth_model_make(struct synth_model *out, const struct lode_synth_options *options,
                     struct lode_error *error);
void synth_model_free(struct synth_model *model);

// ---- synth_metadata.c, synth_vocab.c

void synth_write_metadata(struct gguf_write *file, const struct synth_model *model);
void synth_write_tokenizer(struct gguf_write *file, const struct synth_shape *shape);

// ---- synth_weights.c

// Writes the data of all tensors.
int synth_write_weights(struct gguf_write *file, const struct synth_model *model,
                        lode_progress_fn on_progress, void *user, struct lode_error *error);

#endif
