// The simulator: the engine itself (forward pass, residency, policies, predictors) under a virtual clock, on
// a device that takes the times of a machine profile and the routing of a trace, beside a simulated drive.
//
// Nothing is computed and no weight is read; a model may be a shape. The same question gives the same answer,
// to the byte and the nanosecond. Several threads may ask at once, each about its own answer.
#ifndef LODE_SIMULATE_H
#define LODE_SIMULATE_H

#include "core/lode.h"
#include "placement/policy.h"
#include "placement/predictor.h"
#include "placement/trace.h"
#include "profiles/machine_profile.h"

struct simulation_model;

// A model file, or (path NULL) a shape of struct lode_synth_options with a type (NULL: "q4_0"). `trace` may
// be NULL; otherwise the model must be the trace's: the same layers with as many experts, and the fingerprint
// where both have one (LODE_ERR_ARGUMENT says what differs). Where the trace's tokens choose fewer experts
// than the model's would, the simulated model does as the trace, and *out_note (may be NULL, static) says so.
int simulation_model_open(struct simulation_model **out, const char *path, const char *shape,
                          const char *type, const struct trace *trace, const char **out_note,
                          struct lode_error *error);
void simulation_model_close(struct simulation_model *model);

const struct lode_shape *simulation_model_shape(const struct simulation_model *model);

// Of the experts, layer after layer; and all of them.
uint32_t simulation_model_experts(const struct simulation_model *model);
uint64_t simulation_model_expert_bytes(const struct simulation_model *model);

// Memory for weights with a share of the experts beside everything else: 0 is what residency needs at least,
// 1 is all.
uint64_t simulation_share_bytes(const struct simulation_model *model, double share);

// What a run of this question would have for weights under its ceiling, as the planner divides memory; its
// batch, context and ring are filled in where the question leaves them open. 0: everything fits.
struct simulation_question;
int simulation_plan(struct simulation_question *inout, const struct simulation_model *model,
                    uint64_t ram_bytes, struct lode_error *error);

// Predicts from the trace what will be chosen: every guess is right.
extern const struct predictor_ops simulation_perfect_predictor;

struct simulation_question {
    const struct machine_profile *profile;
    uint32_t threads;                      // 0: as many as the profile was made with
    uint64_t weights_bytes;                // memory for weights; 0: enough for all
    uint32_t context, batch;               // 0: what the trace needs; 512
    int kv;                                // enum lode_kv_type
    const struct policy_ops *policy;       // NULL: the default
    const struct predictor_ops *predictor; // NULL: nothing is prefetched
    uint32_t prefetch_ranks, queue_depth;  // as in lode_engine_options; and ring_bytes
    uint64_t ring_bytes;
    // [experts, layer after layer] choices a token, of training: what policy and predictor start from and
    // what the pool is filled with; or NULL.
    const float *heat;
    // Training traces that the predictor is fitted on: of each the conversations that are TRACE_PART_FIT, or
    // all where it has no parts.
    const struct trace *const *fit;
    uint32_t n_fit;
    bool (*keep_going)(void *user); // NULL: always
    void *user;
};

enum simulation_stall {
    SIMULATION_STALL_DEMAND,
    SIMULATION_STALL_LATE,
    SIMULATION_STALL_STREAM,
    SIMULATION_STALL_ROWS,
    SIMULATION_STALLS
};

struct simulation_phase {
    uint32_t passes;
    uint64_t tokens;
    double seconds;
    double stall_s[SIMULATION_STALLS];     // by cause
    double kernels_s, attention_s;         // of the device; with operations they fill the rest
    uint64_t choices, hits;                // of experts (prefill: different experts of a pass in a layer)
    uint64_t choice_bytes, hit_bytes;      // of layers of unlike experts: by the step's mean
    uint64_t dense_bytes;                  // of weights that stay in memory, used by these passes
    uint64_t streamed_bytes, row_bytes;    // read from the drive for units that are no experts
    uint64_t demand_bytes, prefetch_bytes; // of experts
    uint64_t useful_bytes, late_bytes, wasted_bytes; // of the prefetched: used in time; waited for; not used
    double drive_busy_s;
    double p50_ms, p95_ms, p99_ms; // of a pass; decode
};

struct simulation_result {
    struct simulation_phase prefill, decode;
    uint64_t pinned_bytes, pool_bytes, ring_bytes;
    uint32_t pool_slots, n_experts;
    uint64_t load_bytes; // read at the start
    double load_s;
    bool prefetch_on; // at the end
};

// Replays the conversations of the trace that are not TRACE_PART_FIT, one after the other in one engine.
// Their passes are as recorded, those beyond the batch in parts; guesses of prompts are made where the trace
// has them of all the pass's rows. LODE_ERR_ARGUMENT where the predictor asks the gate and the trace has no
// guesses of single tokens; LODE_ERR_FORMAT where a row lacks choices, by token and layer.
int simulate(struct simulation_result *out, const struct simulation_model *model, const struct trace *trace,
             const struct simulation_question *question, struct lode_error *error);

// What bounds every policy and every predictor under this question's memory (placement/bounds.h): Belady's
// loads as demand_bytes and hits, and the times of the bandwidth-limited oracle. A prompt, and what is
// decoded behind it, are bounded each for itself, from a pool and a ring that hold the best there is at its
// start (nothing, for the first, unless there is heat): no simulation is below in prefill, in decode, or in
// both. Stalls, parts and percentiles are not told.
int simulate_bounds(struct simulation_result *out, const struct simulation_model *model,
                    const struct trace *trace, const struct simulation_question *question,
                    struct lode_error *error);

// The trace's own run again: its policy, prefetch, budget, context and batch (struct trace_settings), and
// what of the run it equals. Without prefetch and with an empty start all three are equal.
struct simulation_replay {
    struct simulation_result result;
    uint64_t live_choices, live_hits, live_reads, live_bytes; // of decode and prefill; as the trace tells
    uint64_t replay_hits, replay_bytes;
    uint64_t first_difference; // row whose residency is not the run's, UINT64_MAX: none
    double live_decode_s, replay_decode_s;
};
int simulate_replay(struct simulation_replay *out, const struct simulation_model *model,
                    const struct trace *trace, const struct machine_profile *profile,
                    struct lode_error *error);

#endif
