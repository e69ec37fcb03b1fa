// The planner: which unit lies where and which device computes with it, and the sizes of what passes through,
// so that a turn of a conversation takes the least time by the cost model.
//
// What couples the units is enumerated: how many layers' dense units a GPU takes (with the K and V of their
// attention), the batch of prefill, the ring. Within each of these the memory of GPUs that is left goes to
// experts by marginal time saved per byte, greedily, the hottest of each layer first; RAM is divided by
// homes_solve. The best single-knob splits (whole layers on the GPU; all dense units there and whole layers'
// experts in RAM) are among the starts, so that no plan is worse than they are, and the best start is
// improved step by step until no step gains.
#ifndef LODE_PLAN_H
#define LODE_PLAN_H

#include "placement/cost.h"

// A batch of prefill that may be chosen, with what it takes beside weights and K and V.
struct plan_batch {
    uint32_t tokens;
    uint64_t scratch_bytes;     // RAM
    uint64_t gpu_scratch_bytes; // of each GPU that computes
};

struct plan_problem {
    const struct workload *workload;
    const struct machine_profile *profile;
    uint64_t ram_bytes;             // for weights, K and V, and scratch
    uint64_t vram_bytes[HOME_GPUS]; // likewise of each GPU of the profile; 0: it is not used
    const uint64_t *kv_bytes;       // [n_layers] of its K and V; 0 of a layer that reads another's
    const struct plan_batch *batches;
    uint32_t n_batches;          // candidates, at least one, ascending
    uint64_t ring_bytes;         // as of homes_request, not to be changed; 0: chosen
    struct cost_options options; // its batch is chosen
    // The turn: so many tokens of a prompt behind a context, then so many generated.
    uint32_t context, prompt_tokens, generated_tokens;
};

#define PLAN_REFUSED 12

// An alternative that was computed and is slower or does not fit.
struct plan_refused {
    char what[96]; // "whole layers on the GPU (8 of 30)"
    bool fits;
    double turn_s, decode_s; // of a token; 0 where it does not fit
};

struct plan {
    struct homes homes;
    uint32_t batch;
    uint64_t kv_gpu_bytes[HOME_GPUS], kv_ram_bytes;
    uint64_t scratch_bytes, gpu_scratch_bytes[HOME_GPUS]; // 0 for a GPU that is not used
    double turn_s;
    struct cost decode, prefill; // behind `context` tokens; decode half-way through what is generated
    uint32_t n_refused;
    struct plan_refused refused[PLAN_REFUSED]; // the best first
    uint32_t n_evaluated;
};

// Fails with LODE_ERR_MEMORY where nothing fits: the text tells the least RAM that a plan without GPUs needs.
// Released by plan_free, also after a failure.
int plan_solve(struct plan *out, const struct plan_problem *problem, struct lode_error *error);
void plan_free(struct plan *plan);

// The time of a turn with homes that are given, in seconds.
int plan_turn_seconds(double *out, const struct plan_problem *problem, const struct homes *homes,
                      uint32_t batch, struct lode_error *error);

#endif
