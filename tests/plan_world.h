// What the tests of the planner share: random models of layers and experts on random machines with GPUs, and
// a count of memory and time that knows nothing of how the planner searches.
#ifndef LODE_TEST_PLAN_WORLD_H
#define LODE_TEST_PLAN_WORLD_H

#include "placement/plan.h"

// Clang's sanitizers take eight times as long; an eighth of the instances is enough to let them look
// everywhere.
#define PLAN_WORLD_SHARE 1
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#undef PLAN_WORLD_SHARE
#define PLAN_WORLD_SHARE 8
#endif
#endif

#define PLAN_WORLD_LAYERS 64
#define PLAN_WORLD_BATCHES 3
#define PLAN_WORLD_RINGS 3 // the least, twice, four times

struct plan_world {
    struct unit_table table;
    struct workload work;
    struct machine_profile profile;
    float *heat;
    uint32_t n_experts, group_of[PLAN_WORLD_LAYERS], n_groups; // of layers, without the head's
    uint64_t kv_bytes[PLAN_WORLD_LAYERS];
    struct plan_batch batches[PLAN_WORLD_BATCHES];
    struct plan_problem problem;
    uint32_t random;
    uint64_t end; // of the file
};

struct plan_world_size {
    uint32_t seed, n_layers, n_experts, n_gpus, n_batches; // experts: of a layer
    bool heat, shares_kv, rows;
};

struct plan_world *plan_world_open(const struct plan_world_size *size);
void plan_world_close(struct plan_world *world);
uint32_t plan_world_random(struct plan_world *world, uint32_t end);      // 0 .. end - 1
double plan_world_between(struct plan_world *world, double a, double b); // alike in its logarithm

// A machine of rates that do not depend on the rows up to a bound.
void plan_world_machine(struct machine_profile *out, double memory_gbps, double drive_gbps);
void plan_world_add_gpu(struct machine_profile *profile, double memory_gbps, double link_gbps,
                        uint64_t memory_bytes);

// The layer's units that are no experts go to a device, 0 or 1 + g; the head's for layer UNIT_NO_LAYER.
void plan_world_place(uint8_t *device, const struct workload *work, uint32_t layer, uint32_t to);
void plan_world_place_experts(uint8_t *device, const struct workload *work, uint32_t layer, uint32_t to);

// Counts what a placement takes and asks the cost model for its turn: false where it does not fit anywhere,
// or where there is no such ring. Pass a place for the homes, or NULL.
bool plan_world_turn(double *out_turn_s, const struct plan_problem *problem, const uint8_t *device,
                     uint32_t batch, uint32_t ring);

// As the planner prefers: 2% for another batch than the default, 1% for a larger ring.
double plan_world_score(const struct plan_problem *problem, double turn_s, uint32_t batch, uint32_t ring);
uint32_t plan_world_default_batch(const struct plan_problem *problem);

// What must hold of every plan: units of one layer lie together, budgets are kept, the turn is that of
// its homes. Returns the plan's score.
double plan_world_check(const struct plan_problem *problem, const struct plan *plan);

#endif
