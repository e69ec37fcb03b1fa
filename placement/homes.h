// Where units have their home under a budget of memory.
//
// Dense units are pinned or streamed, never cached: layers are visited in a cycle, and a cache smaller than a
// cycle never hits. Experts have slots in a pool over the files. Tables of rows stay in the files. What is
// streamed is spread evenly over the layers, so that reading goes on during the whole pass. Which units lie
// in the memory of a GPU is the planner's choice (plan.h); homes_divide divides what is left.
#ifndef LODE_HOMES_H
#define LODE_HOMES_H

#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

enum unit_home {
    HOME_PINNED, // in memory from the start to the end
    HOME_RING,   // in the files, streamed in the order of the layers
    HOME_POOL,   // in the files, in a slot of the pool while the policy keeps it
    HOME_ROWS,   // in the files, single rows are fetched
    HOME_GPU,    // HOME_GPU + g: in the memory of GPU g, which computes with it
};
#define HOME_GPUS 4

struct homes {
    uint8_t *home;                                             // [n_units] of enum unit_home, HOME_GPU + g
    uint64_t pinned_bytes, ring_bytes, pool_bytes, rows_bytes; // memory
    uint64_t streamed_bytes;                                   // of the units in HOME_RING
    uint64_t gpu_bytes[HOME_GPUS];                             // of the units in HOME_GPU + g
};

struct homes_request {
    uint64_t budget_bytes; // memory of the host for weights
    bool host_memory;      // it is the host's own: parts lie as in their files
    uint64_t ring_bytes;   // where something is streamed; 0, or less than that: the least that works
    const uint8_t *gpu;    // [n_units] 1 + g: in the memory of GPU g; 0: not. NULL: none
    // Of experts and tables of rows `gpu` is not looked at: they are the host's, whatever copies there are.
    bool gpu_has_copies;
};

// The memory of the host that homes_divide needs at least, and what lets everything but rows be pinned there;
// the budget and the wish for a ring do not matter.
struct homes_bounds {
    uint64_t floor_bytes, full_bytes;
};
struct homes_bounds homes_bounds(const struct unit_table *table, const struct homes_request *request);

// The sum of the host's four memories is at most the budget; a larger ring than the least is made of what
// streams would else be pinned with, or the pool. LODE_ERR_MEMORY below the floor.
int homes_divide(struct homes *out, const struct unit_table *table, const struct homes_request *request,
                 struct lode_error *error);

// The same without GPUs and wishes.
uint64_t homes_floor_bytes(const struct unit_table *table, bool host_memory);
uint64_t homes_full_bytes(const struct unit_table *table, bool host_memory);
int homes_solve(struct homes *out, const struct unit_table *table, uint64_t budget_bytes, bool host_memory,
                struct lode_error *error);
void homes_free(struct homes *homes);

#endif
