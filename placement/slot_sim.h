// Hits of a policy on a trace without time: a cache with a number of slots for each layer, or one pool of
// them all, driven by the policies' own code. For comparing with the literature, which counts like this.
//
// Each token is a pass of its own. A layer's experts of a token are looked up together, and none of them
// evicts another. Caches start empty; nothing is prefetched. Of a trace with parts only what is not
// TRACE_PART_FIT is replayed, as if the rest were not there; where a conversation ends makes no difference
// otherwise.
#ifndef LODE_SLOT_SIM_H
#define LODE_SLOT_SIM_H

#include "placement/policy.h"
#include "placement/trace.h"

struct slot_sim {
    uint32_t slots;  // for each layer with experts; a cache holds at least what a token uses in a layer
    bool shared;     // one pool of them all, as the engine has it; otherwise each layer has its own
    bool by_expert;  // a token's experts are told in their order, as the engine does; otherwise best first
    uint32_t first;  // of the tokens that are replayed, so many are not counted
    uint32_t tokens; // tokens that are replayed; 0: all
    // What the policy starts from, choices a token: [n], the experts of the layers that have any, layer after
    // layer, as the trace counts them. Or NULL.
    const float *heat;
};

struct slot_hits {
    uint64_t choices, hits;
    uint64_t missed_bytes; // 0 where the trace does not know the size of every layer's experts
};

// Fails with LODE_ERR_ARGUMENT where the slots are too few or nothing is left to count, and without memory.
int slot_sim_run(struct slot_hits *out, const struct slot_sim *sim, const struct trace *trace,
                 const struct policy_ops *ops, struct lode_error *error);

// The most hits that are possible where whatever is chosen takes a slot, as above: the expert leaves that is
// needed again last (L. Belady, 1966). `heat` is not looked at.
int slot_sim_belady(struct slot_hits *out, const struct slot_sim *sim, const struct trace *trace,
                    struct lode_error *error);

#endif
