// What the files of the forward pass share: a timeline's buffers and the state of a pass.
#ifndef LODE_FORWARD_INTERNAL_H
#define LODE_FORWARD_INTERNAL_H

#include "core/executor.h"
#include "core/forward.h"
#include "core/kv_cache.h"

// The choices of a batch, sorted by expert. Host memory, made once.
struct expert_batch {
    int32_t *chosen; // [rows][k]
    // [rows][k], only where the policy looks at them, a trace is written or several executors share the layer
    float *weights;
    int32_t *tokens, *slots; // by expert
    uint32_t *begin;         // [n_experts + 1]
    uint32_t *units;         // of the distinct experts
    uint32_t *n_tokens;      // of each of units
    uint32_t n_units;
    uint32_t *at_hand; // units that the residency has handed out
    struct lode_expert_job *jobs;

    // Where there are GPUs: who computes an expert of the layer, the choices' weights for one executor, and
    // what was chosen without the host's knowing.
    uint8_t *executor;     // [n_experts]
    float *share;          // [rows][k]
    int32_t *routed;       // [n_layers][EXECUTOR_ROUTED_ROWS][k]
    uint32_t *routed_rows; // [n_layers] of this pass; 0 where the host knows

    int32_t *guessed;   // [rows][k], or [1][ranks]
    int32_t *predicted; // [1][ranks] as the predictor says
    uint32_t *votes;    // [n_experts] rows that are thought to choose the expert
};

int expert_batch_open(struct expert_batch *out, const struct gemma_hparams *hparams, uint32_t batch,
                      bool many, struct lode_error *error);
void expert_batch_close(struct expert_batch *batch);

struct forward {
    struct forward_weights *weights;
    struct executor executors[EXECUTORS]; // those that nothing is computed on have no device
    uint32_t n_executors;
    struct kv_cache kv;
    struct expert_batch experts;
    bool (*keep_going)(void *user); // NULL: always
    void *user;
    char *fetched;      // [batch] rows of a table that stays in the files; host memory
    int32_t *row_order; // 0, 1, 2, …: ids of fetched rows
    uint64_t fetched_bytes;
    uint32_t batch;
    uint64_t scratch_bytes;
    uint64_t gpu_wait_ns; // that the caller waited for GPUs, of all passes
    bool any_routed;      // in this pass
    // Of the running layer, bits by executor: which have the experts' input, and which compute some of them.
    uint32_t input_at, shares;
    uint32_t left_to_host; // experts of it
};

// The rows on their way through the layers and the executors. They become fewer at the last layer that writes
// K and V, from where on only rows whose logits are wanted go on.
struct pass {
    const struct executor *at; // where x is
    struct lode_rows x;
    struct lode_rows ple[EXECUTORS]; // no data where they have not been brought yet
    const struct executor *ple_at;   // where they were made
    uint32_t n_tokens;               // that the pass began with
    uint32_t first_position, want;
};

// The CPU: what runs there, and the way between GPUs.
static inline const struct executor *forward_host(const struct forward *f)
{
    return &f->executors[0];
}

static inline const struct executor *forward_executor(const struct forward *f, uint32_t unit)
{
    const uint8_t *unit_gpu = f->weights->unit_gpu;
    return &f->executors[unit_gpu ? unit_gpu[unit] : 0];
}

// Of a layer: all its units but experts are on one device.
static inline const struct executor *forward_layer_executor(const struct forward *f, uint32_t l)
{
    return forward_executor(f, f->weights->model->layers[l].attn_norm.unit);
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

// Waits for all executors, also after a failure `rc`, which it returns then.
int forward_sync(struct forward *f, int rc, struct lode_error *error);

// Makes room in the KV cache for positions up to `end`; between passes.
int forward_grow(struct forward *f, uint32_t end, struct lode_error *error);

// Brings the rows of a pass to an executor, where they are not there.
int pass_move(struct forward *f, struct pass *pass, const struct executor *to, struct lode_error *error);

// Brings the per-layer inputs to where the pass is.
int pass_bring_ple(struct forward *f, struct pass *pass, struct lode_error *error);

// Runs one layer over the pass. After the last layer that writes K and V the pass has `want` rows.
int layer_run(struct forward *f, struct pass *pass, uint32_t l, struct lode_error *error);

// The routed experts of a layer, in steps so that work can be done while missing ones are read: choose fills
// the batch's choices from the residual stream and asks for them, start sets GPUs to work, guess looks ahead
// to what the next layer will choose, run computes the weighted sum of the chosen into `sum`, which is on the
// pass's executor, each expert when it is there. Guesses are made from x, which has the pass's rows;
// experts_gate says how, and experts_wants_guess whether.
int experts_choose(struct forward *f, const struct pass *pass, uint32_t l, struct lode_error *error);
int experts_start(struct forward *f, const struct pass *pass, uint32_t l, struct lode_error *error);
enum predictor_gate experts_gate(const struct forward *f, const struct pass *pass);
bool experts_wants_guess(const struct forward *f, const struct pass *pass, uint32_t l);
int experts_guess(struct forward *f, const struct pass *pass, struct lode_rows x, uint32_t l,
                  struct lode_error *error);
int experts_run(struct forward *f, const struct pass *pass, uint32_t l, struct lode_rows sum,
                struct lode_error *error);

// ---- experts_choice.c

// Router: r = RMS(x) * hidden^-1/2 * router_scale, softmax(Wr r), the k largest of each row to `ids` and
// `weights` on the pass's executor.
void experts_route(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                   struct lode_rows x, uint32_t k, int32_t *ids, float *weights);

// Fills the batch's groups from its choices.
void experts_group(struct expert_batch *batch, const struct gemma_hparams *hparams,
                   const struct gemma_layer *layer, uint32_t n_rows);

// ---- experts_routed.c: layers whose experts are all on the GPU that computes the rest of them

bool experts_may_route(const struct forward *f, const struct pass *pass, uint32_t l);

// Makes the tables of experts' addresses on the GPUs new where copies have come or left. Before a pass.
int experts_prepare_routed(struct forward_weights *weights, struct lode_error *error);

int experts_run_routed(struct forward *f, const struct pass *pass, uint32_t l, struct lode_rows sum);

// Tells who keeps count what was chosen so; at the end of a pass.
int experts_note_routed(struct forward *f, struct lode_error *error);

uint64_t experts_entries_bytes(const struct gemma_model *model);

#endif
