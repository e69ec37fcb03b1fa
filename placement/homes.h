// Where units have their home under a budget of memory.
//
// Dense units are pinned or streamed, never cached: layers are visited in a cycle, and a cache smaller than a
// cycle never hits. Experts have slots in a pool over the files. Tables of rows stay in the files. What is
// streamed is spread evenly over the layers, so that reading goes on during the whole pass.
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
};

struct homes {
    uint8_t *home;                                             // [n_units] of enum unit_home
    uint64_t pinned_bytes, ring_bytes, pool_bytes, rows_bytes; // memory
    uint64_t streamed_bytes;                                   // of the units in HOME_RING
};

// What homes_solve needs at least, and what lets everything but rows be pinned.
uint64_t homes_floor_bytes(const struct unit_table *table, bool host_memory);
uint64_t homes_full_bytes(const struct unit_table *table, bool host_memory);

// The sum of the four memories is at most the budget. LODE_ERR_MEMORY below the floor.
int homes_solve(struct homes *out, const struct unit_table *table, uint64_t budget_bytes, bool host_memory,
                struct lode_error *error);
void homes_free(struct homes *homes);

#endif
