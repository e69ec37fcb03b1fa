// What the files of planning share: the question with what it is about, and the steps of an answer.
#ifndef LODE_PLAN_INTERNAL_H
#define LODE_PLAN_INTERNAL_H

#include "core/gemma4.h"
#include "core/gguf.h"
#include "core/lode.h"
#include "core/shape_file.h"
#include "placement/heat.h"
#include "placement/plan.h"
#include "placement/workload.h"
#include "profiles/machine_profile.h"

#define PLANNER_BATCHES 6

// A question and its machine; a change of either is a copy with other values.
struct planner {
    struct lode_plan *plan;
    struct lode_plan_options options;
    const struct gemma_model *model;
    const struct workload *workload;
    struct machine_profile *profile; // the planner's own copy
    const struct heat *heat;         // NULL: nothing is known
    enum lode_kv_format format;
    uint64_t ceiling_bytes, program_bytes, vram_bytes[HOME_GPUS];
};

// A solution for one size of timeline.
struct planner_solution {
    uint32_t context;
    uint64_t *kv_bytes; // [n_layers]
    struct plan_batch batches[PLANNER_BATCHES];
    struct plan plan;
};

void planner_warn(struct planner *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

// ---- plan_memory.c

// Ceilings of RAM and of the GPUs.
void planner_settle_ceilings(struct planner *p);

// What the question says to the cost model.
struct cost_options planner_cost_options(const struct planner *p, uint32_t batch);

// Solves for a timeline of `context` tokens of which `depth` are there. Released by planner_release, also
// after a failure.
int planner_solve(struct planner_solution *out, const struct planner *p, uint32_t context, uint32_t depth,
                  struct lode_error *error);
void planner_release(struct planner_solution *solution);

// The timeline that a turn after `depth` tokens needs, as a run would have it.
uint32_t planner_context(const struct planner *p, uint32_t depth);

// Tokens of the turn's prompt and generation that fit behind `depth`.
uint32_t planner_prompt(const struct planner *p, uint32_t context, uint32_t depth);

int planner_describe_memory(struct planner *p, const struct planner_solution *solution,
                            struct lode_error *error);

// ---- plan_expect.c

int planner_expect(struct planner *p, const struct planner_solution *solution, uint32_t depth,
                   struct lode_error *error);

// ---- plan_advice.c

// Changes of the machine or of the question, each solved anew, by what they gain.
int planner_advise(struct planner *p, const struct lode_synth_options *shape, struct lode_error *error);
void planner_warn_of_machine(struct planner *p, const struct planner_solution *solution);

#endif
