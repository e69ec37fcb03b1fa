// What the files of the planner share: the space of what may be chosen, a choice in it with its time, and the
// steps of the search.
#ifndef LODE_PLAN_SEARCH_H
#define LODE_PLAN_SEARCH_H

#include "placement/plan.h"

#define PLAN_DEVICES (1 + HOME_GPUS) // device 0 is the host with its CPU, 1 + g is GPU g
#define PLAN_RINGS 3                 // the least, twice and four times that
#define PLAN_KEPT 8                  // choices that are improved step by step
#define PLAN_NONE UINT32_MAX
#define PLAN_IMPOSSIBLE UINT64_MAX

// ---- plan_space.c: what may be chosen, and what a choice takes

// Layers that lie on one device as a whole, since some read the K and V of others.
struct plan_group {
    uint64_t gpu_bytes; // in the memory of a GPU, with K and V, without experts
    uint64_t experts_gpu_bytes;
    uint64_t kv_bytes;
    uint32_t n_layers; // 0: the group of what stands outside of the layers
    uint32_t n_units;
};

// An expert by its heat: choices a token. With the sums of its layer's up to it, the hottest first.
struct plan_expert {
    uint32_t unit, index; // index: among all experts in the order of the table
    double heat, heat_sum;
    uint64_t bytes_sum; // in the memory of a GPU
};

struct plan_space {
    const struct plan_problem *problem;
    const struct workload *work;
    uint32_t n_units, n_experts;
    uint32_t n_groups; // in the order of their first layers; the last is that of what stands outside
    uint32_t n_gpus, gpus[HOME_GPUS]; // those that may be used
    uint32_t default_batch;
    struct plan_group *groups;
    uint32_t *layer_group;       // [n_layers]
    uint32_t *unit_group;        // [n_units] PLAN_NONE for experts and tables of rows
    uint64_t *unit_bytes;        // [n_units] in the memory of a GPU
    uint32_t *layer_expert;      // [n_layers] where the layer's begin in `experts`
    struct plan_expert *experts; // layer by layer, the hottest first
    double *touched_sum;         // [n_batches][n_experts] of their chances to be chosen by a step of prefill
    double *heat_falling;        // [n_experts] of all layers together
    uint64_t effort, most_effort;
    uint32_t n_evaluated;
};

struct plan_choice {
    uint8_t *device;      // [n_units] 0 or 1 + g
    uint8_t *place;       // [n_groups] likewise
    uint32_t batch, ring; // an index, and how often the least ring is doubled
    uint64_t short_bytes; // that are missing somewhere; PLAN_IMPOSSIBLE: the machine cannot do it
    double score;         // turn_s, longer for what is not the default
    double turn_s, decode_s;
};

int plan_space_open(struct plan_space *out, const struct plan_problem *problem, struct lode_error *error);
void plan_space_close(struct plan_space *space);

int plan_choice_open(struct plan_choice *out, const struct plan_space *space, struct lode_error *error);
void plan_choice_close(struct plan_choice *choice);
void plan_choice_copy(struct plan_choice *to, const struct plan_choice *from, const struct plan_space *space);
bool plan_choice_same(const struct plan_choice *a, const struct plan_choice *b,
                      const struct plan_space *space);

// Less is missing, or it is faster by more than what rounding does.
bool plan_choice_better(const struct plan_choice *a, const struct plan_choice *b);

// All on the host, with the default batch and the least ring.
void plan_choice_clear(struct plan_choice *choice, const struct plan_space *space);

// A group's units go where it goes.
void plan_place_group(struct plan_choice *choice, const struct plan_space *space, uint32_t group,
                      uint32_t device);

// Memory that a choice takes beside the weights in RAM.
struct plan_room {
    uint64_t gpu_bytes[HOME_GPUS], kv_gpu_bytes[HOME_GPUS], gpu_scratch_bytes[HOME_GPUS]; // with all of it
    uint64_t kv_ram_bytes, scratch_bytes;
    uint64_t weights_ram_bytes; // what is left for weights
    uint64_t short_bytes;
};
void plan_count_room(struct plan_room *out, const struct plan_space *space, const struct plan_choice *choice);

// ---- plan_time.c: how long a choice takes

// The homes that a choice leads to. Where bytes are missing: 0 and choice->short_bytes, and no homes.
int plan_divide(struct homes *out, struct plan_choice *choice, const struct plan_space *space,
                struct lode_error *error);

// Fills the choice's times and what is missing. What the profile cannot tell is PLAN_IMPOSSIBLE, and *error
// keeps why.
int plan_evaluate(struct plan_choice *choice, struct plan_space *space, struct lode_error *error);

// Of one token half-way through what is generated, and of the prompt.
uint32_t plan_decode_context(const struct plan_problem *problem);
int plan_times(double *out_turn_s, struct cost *decode, struct cost *prefill,
               const struct plan_problem *problem, const struct homes *homes, uint32_t batch, bool ranges,
               struct lode_error *error);

// ---- plan_experts.c

// How far GPUs are trusted to be as fast as the curves say, beside what the rest of the layer does; the last
// fills their memory whatever it gains.
#define PLAN_BIASES 4

// Gives what is left of the memory of the GPUs in `mask` (bit g) to experts on the host.
int plan_fill_experts(struct plan_choice *choice, const struct plan_space *space, uint32_t mask,
                      uint32_t bias, struct lode_error *error);

// ---- plan_start.c, plan_climb.c, plan_polish.c

struct plan_option {
    char what[96];
    struct plan_choice choice;
};

struct plan_sketch; // plan_climb.c

struct plan_search {
    struct plan_space space;
    struct plan_choice kept[PLAN_KEPT]; // the best first
    uint32_t n_kept;
    struct plan_choice trial, other; // what is looked at
    uint32_t random;
    struct plan_option options[3 * PLAN_REFUSED]; // what is told beside the plan
    uint32_t n_options;
    uint32_t start_batch; // an index
    struct plan_sketch *sketches;
    uint32_t n_sketches;
    struct lode_error why; // the last thing that the profile could not tell
};

// Evaluates the trial and keeps it if it is among the best.
int plan_try(struct plan_search *search, struct lode_error *error);

// The single-knob splits, of which the best of each kind become options.
int plan_try_splits(struct plan_search *search, struct lode_error *error);

// Room for what plan_climb has looked at, released with free.
int plan_sketches_open(struct plan_search *search, struct lode_error *error);

// Enumerates how many groups each GPU takes, with what couples them.
int plan_climb(struct plan_search *search, struct lode_error *error);

// Improves what is kept by single moves. The best stands first afterwards.
int plan_polish(struct plan_search *search, struct lode_error *error);

// ---- plan_refuse.c

// Adds an option with the trial's choice, if it is new; evaluates it if that has not been done.
int plan_add_option(struct plan_search *search, const char *what, bool fits, struct lode_error *error);

// Evaluates what the chosen plan could have been else, and fills out->refused.
int plan_refuse(struct plan *out, struct plan_search *search, struct lode_error *error);

#endif
