// What the files of the simulator share: the model, the steps of a trace, and a run of them.
#ifndef LODE_SIMULATE_INTERNAL_H
#define LODE_SIMULATE_INTERNAL_H

#include "core/forward.h"
#include "core/gguf.h"
#include "core/shape_file.h"
#include "core/simulate.h"
#include "core/workload.h"
#include "io/io_sim.h"
#include "placement/sim_times.h"

#define SIMULATION_BATCH 512 // where the question says nothing, as in a session

struct simulation_model {
    struct shape_file shape_file; // fd -1: a file
    struct gguf *gguf;
    struct gemma_model model;
    struct workload workload;
    struct lode_shape shape;
    uint64_t *file_bytes; // [n_files]
    uint32_t n_files;
    uint32_t n_experts;
    uint64_t expert_bytes; // of all
    uint32_t context;      // that the trace needs; 0 without one
};

// ---- simulate_steps.c

// What the engine is asked to do at once: a pass of the trace, or a part of it.
struct simulation_step {
    uint32_t first_token, n_tokens; // of the trace
    uint32_t want;                  // rows whose logits are wanted
    uint32_t position;
    bool begins;  // a conversation
    bool prefill; // as the trace has it
    bool guesses; // all its rows have been guessed, as many experts as a token chooses
};

struct simulation_steps {
    struct simulation_step *steps;
    uint32_t n_steps, n_decode;
    uint32_t context, batch; // that they need
    bool has_guesses;        // any step of one token has
};

// The steps of the conversations that are not TRACE_PART_FIT, in parts of at most `batch`. Fails where a row
// of the trace lacks choices that the engine will ask for.
int simulation_steps_make(struct simulation_steps *out, const struct simulation_model *model,
                          const struct trace *trace, uint32_t batch, struct lode_error *error);
void simulation_steps_free(struct simulation_steps *steps);

// The first of the step's rows that are asked for choices in a layer.
uint32_t simulation_step_first_row(const struct simulation_step *step, const struct gemma_model *model,
                                   uint32_t layer);

// ---- simulate_routes.c

// Answers of the trace, for the step that runs.
struct simulation_routes {
    const struct simulation_model *model;
    const struct trace *trace;
    const struct simulation_step *step;
    const struct simulation_step *end; // behind the last
    uint32_t moe_of[TRACE_MAX_LAYERS]; // which of the trace's layers with experts
    bool perfect;                      // guesses are what will be chosen
};

void simulation_routes_init(struct simulation_routes *out, const struct simulation_model *model,
                            const struct trace *trace);

// `choose` of struct sim_device_options; the user is the struct simulation_routes.
int simulation_route(void *routes, const struct sim_route *route, int32_t *ids, float *weights,
                     struct lode_error *error);

// Of a token in a layer with experts: where its choices lie in the trace; the guess made of them, and n.
const uint16_t *simulation_choices(const struct simulation_routes *routes, uint32_t token, uint32_t layer);
uint32_t simulation_guess(const struct simulation_routes *routes, uint32_t token, uint32_t layer,
                          const uint16_t **out);

// ---- simulate_guesses.c

// Told of every choice of a row, when the residency has been asked for it. May be NULL.
typedef void (*simulation_chosen_fn)(void *user, uint32_t layer, const int32_t *experts, uint32_t n);

// Stands between the engine and a predictor: of single tokens it hands the guesses of the trace to those that
// ask the gate, and says itself what is perfect. NULL, without an error, where there is neither a predictor
// nor somebody to tell.
int simulation_predictor_open(struct predictor **out, const struct simulation_routes *routes,
                              const struct simulation_question *question, simulation_chosen_fn on_chosen,
                              void *user, struct lode_error *error);
void simulation_predictor_close(struct predictor *predictor); // NULL does nothing

// ---- simulate_run.c

// A step that is over.
struct simulation_passed {
    const struct simulation_step *step;
    uint32_t index;
    uint64_t ns, device_ns, device_calls;
    const struct residency_figures *before, *after;
    const struct lode_device_times *times; // of this step
};

struct simulation_run {
    const struct simulation_model *model;
    const struct simulation_question *question;
    struct simulation_steps steps;
    struct simulation_routes routes;
    struct sim_clock clock;
    struct sim_times *times;
    struct io *io;
    struct lode_device *device;
    struct lode_device_times device_times;
    struct weight_matrices matrices;
    struct forward_weights weights;
    struct forward *forward;
    struct heat heat;
    struct residency *residency;
    struct predictor *predictor;
    float *logits; // of the device
    int32_t *ids;
    uint64_t load_ns;
    bool has_drive;
};

// The times of a question's operations, and where its units have their homes.
int simulation_times_open(struct sim_times **out, const struct simulation_model *model,
                          const struct simulation_question *question, struct lode_error *error);

// Opens all of it and loads the weights. Released by simulation_run_close, also after a failure.
int simulation_run_open(struct simulation_run *out, const struct simulation_model *model,
                        const struct trace *trace, const struct simulation_question *question,
                        simulation_chosen_fn on_chosen, void *user, struct lode_error *error);
int simulation_run_steps(struct simulation_run *run,
                         void (*on_step)(void *user, const struct simulation_passed *passed), void *user,
                         struct lode_error *error);
void simulation_run_close(struct simulation_run *run);

// ---- simulate.c

// Of weights that stay in memory and every pass uses; experts and single rows of tables are not counted.
uint64_t simulation_dense_bytes(const struct simulation_model *model, const struct homes *homes);

// simulate, with somebody who is told of choices and of steps; both may be NULL.
struct simulation_watch {
    simulation_chosen_fn on_chosen;
    void (*on_step)(void *user, const struct simulation_run *run, const struct simulation_passed *passed);
    void *user;
    const struct simulation_run *run; // set before the first step
};
int simulation_watched(struct simulation_result *out, const struct simulation_model *model,
                       const struct trace *trace, const struct simulation_question *question,
                       struct simulation_watch *watch, struct lode_error *error);

#endif
