// Inside of the pool: its state, and what its files share. What a pool is stands in pool_open.c.
#ifndef LODE_POOL_INTERNAL_H
#define LODE_POOL_INTERNAL_H

#include "placement/residency_internal.h"
#include "placement/trace.h"

#define NOWHERE UINT32_MAX
#define MAX_CLASSES 8

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_RESIDENT };

struct slot {
    uint32_t expert; // NOWHERE when free
    uint16_t pins;
    uint8_t state; // enum slot_state
    uint8_t n_reads;
    bool wanted;   // chosen, and not handed out yet
    bool expected; // of a standing guess: spared
    bool guessed;  // read on a guess whose worth is not known yet
    bool late;     // chosen while it was being read on a guess
    bool filling;  // read at the start
    bool broken;   // a read of it was cancelled or failed
    uint8_t size_class;
    uint8_t read;        // enum trace_read_kind: why its expert was or is read
    uint64_t submit_ns;  // when
    uint64_t came_bytes; // of it so far
};

struct size_class {
    uint64_t slot_bytes;
    uint32_t first_slot, n_slots, n_experts;
    char *memory;
};

struct pool {
    struct residency *residency;
    struct policy *policy;
    uint32_t n_experts, n_slots, n_layers, layer_max; // layer_max: experts in the largest layer
    uint32_t *unit_of;                                // [n_experts]
    uint32_t *layer_of;                               // [n_experts]
    uint32_t *slot_of;                                // [n_experts] or NOWHERE
    uint32_t *missing;                                // [n_layers] experts that are not resident
    uint32_t *in_layer; // [n_layers] slots that hold or await one of its experts
    uint32_t *share;    // [n_layers] slots that a layer may have under by_layer
    struct slot *slots;
    uint32_t *free_slots, n_free[MAX_CLASSES]; // a stack for each class, at its first_slot
    struct size_class classes[MAX_CLASSES];
    uint32_t n_classes;

    // A choice: experts at hand, experts that need a slot, and slots on their way.
    uint32_t *ready, n_ready, ready_at;
    uint32_t *backlog, n_backlog, backlog_at;
    uint32_t n_awaited;
    struct lode_error failure; // of the first read that failed; names its unit

    uint32_t *expected, n_expected; // slots of the standing guess
    uint32_t expected_layer;

    uint32_t *fill_order, n_fill, fill_at, n_filling;

    // How much can be read between a layer's last demand read and the next choice.
    uint64_t idle_since_ns;
    double window_ns, disk_bytes_per_ns;
};

// Bytes that are read for an expert.
uint64_t pool_expert_bytes(const struct pool *pool, uint32_t expert);
uint32_t pool_class_of(const struct pool *pool, uint32_t expert);

// Takes a resident expert that nobody uses out of its slot.
void pool_evict(struct pool *pool, uint32_t slot);

// Counts what a guess was worth, once.
void pool_settle_guess(struct pool *pool, struct slot *slot, bool useful);

// What stood as expected is no longer spared; what was not chosen with `layer` is not read on.
void pool_settle_expected(struct pool *pool, uint32_t layer);

// An empty slot for an expert, or NOWHERE. A guess may not push out what another guess expects.
uint32_t pool_take_slot(struct pool *pool, uint32_t expert, bool for_guess);
int pool_start_read(struct pool *pool, uint32_t expert, uint32_t slot, enum io_priority priority,
                    struct lode_error *error);

#endif
