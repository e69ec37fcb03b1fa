// What the files of the forward pass share: a timeline's buffers and the state of a pass.
#ifndef LODE_FORWARD_INTERNAL_H
#define LODE_FORWARD_INTERNAL_H

#include "core/forward.h"
#include "core/kv_cache.h"

enum buffer {
    BUFFER_X,      // the residual stream
    BUFFER_NORMED, // normed input of a branch
    BUFFER_BRANCH, // output of a branch before it joins the stream
    BUFFER_Q,
    BUFFER_K,
    BUFFER_V,
    BUFFER_ATTENDED,
    BUFFER_FFN, // gated activations
    BUFFER_PLE, // per-layer inputs of all layers
    BUFFER_PLE_CONTEXT,
    BUFFER_EXPERT_INPUT,
    BUFFER_EXPERT_SUM,
    BUFFER_ROUTER,
    BUFFER_CHOSEN, // int32
    BUFFER_CHOSEN_WEIGHT,
    BUFFER_GUESSED, // int32; as many ranks as are wanted, with room for all experts of one row
    BUFFER_GUESSED_WEIGHT,
    BUFFER_EXPERT_SLOTS, // one row for each choice
    BUFFER_LOGITS,
    N_BUFFERS,
};

// The choices of a batch, sorted by expert. Host memory, made once.
struct expert_batch {
    int32_t *chosen;         // [rows][k]
    float *weights;          // [rows][k], only where the policy looks at them or a trace is written
    int32_t *tokens, *slots; // by expert
    uint32_t *begin;         // [n_experts + 1]
    uint32_t *units;         // of the distinct experts
    uint32_t *n_tokens;      // of each of units
    uint32_t n_units;
    uint32_t *at_hand; // units that the residency has handed out
    struct lode_expert_job *jobs;

    int32_t *guessed;   // [rows][k], or [1][ranks]
    int32_t *predicted; // [1][ranks] as the predictor says
    uint32_t *votes;    // [n_experts] rows that are thought to choose the expert
};

int expert_batch_open(struct expert_batch *out, const struct gemma_hparams *hparams, uint32_t batch,
                      struct lode_error *error);
void expert_batch_close(struct expert_batch *batch);

struct forward {
    struct forward_weights *weights;
    struct lode_device *device;
    struct kv_cache kv;
    struct expert_batch experts;
    bool (*keep_going)(void *user); // NULL: always
    void *user;
    char *fetched;      // [batch] rows of a table that stays in the files; host memory
    int32_t *row_order; // 0, 1, 2, …: ids of fetched rows
    uint64_t fetched_bytes;
    uint32_t batch;
    float *buffers[N_BUFFERS];
    size_t buffer_bytes[N_BUFFERS];
    uint64_t scratch_bytes;
};

// The rows on their way through the layers. They become fewer at the last layer that writes K and V, from
// where on only rows whose logits are wanted go on.
struct pass {
    struct lode_rows x, ple;
    uint32_t n_tokens; // that the pass began with
    uint32_t first_position, want;
};

static inline struct lode_rows forward_rows(const struct forward *f, enum buffer buffer, uint32_t n,
                                            uint32_t cols)
{
    return (struct lode_rows){f->buffers[buffer], n, cols, cols};
}

// Contiguous rows seen as shorter ones: heads, or layers.
static inline struct lode_rows split_rows(struct lode_rows rows, uint32_t cols)
{
    return (struct lode_rows){rows.data, rows.n * (rows.cols / cols), cols, cols};
}

// Part `part` of a unit that is acquired.
static inline struct lode_matrix forward_part(const struct forward *f, uint32_t unit, uint32_t part)
{
    const uint32_t index = f->weights->model->units.units[unit].first_part + part;
    struct lode_matrix matrix = f->weights->matrices->parts[index];
    matrix.data = residency_part(f->weights->residency, unit, part);
    return matrix;
}

static inline struct lode_matrix forward_matrix(const struct forward *f, const struct gemma_weight *weight)
{
    return forward_part(f, weight->unit, weight->part);
}

static inline const float *forward_vector(const struct forward *f, const struct gemma_weight *weight)
{
    return residency_part(f->weights->residency, weight->unit, weight->part);
}

// Runs one layer over the pass. After the last layer that writes K and V the pass has `want` rows.
int layer_run(struct forward *f, struct pass *pass, uint32_t l, struct lode_error *error);

// The routed experts of a layer, in steps so that work can be done while missing ones are read: choose fills
// the batch's choices from the residual stream and asks for them, guess looks ahead to what the next layer
// will choose, run computes the weighted sum of the chosen into `sum`, each expert when it is there. Guesses
// are made from x, which has the pass's rows; experts_gate says how, and experts_wants_guess whether.
int experts_choose(struct forward *f, const struct pass *pass, uint32_t l, struct lode_error *error);
enum predictor_gate experts_gate(const struct forward *f, const struct pass *pass);
bool experts_wants_guess(const struct forward *f, const struct pass *pass, uint32_t l);
int experts_guess(struct forward *f, const struct pass *pass, struct lode_rows x, uint32_t l,
                  struct lode_error *error);
int experts_run(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                struct lode_rows sum, struct lode_error *error);

#endif
