// Hits of a policy on a recorded trace, without time: which chosen experts were in memory, counted by the
// policies' own code, driven as the residency drives it.
//
// Each token is a pass of its own. A layer's experts of a token are looked up together, and none of them
// evicts another. Memory starts empty; nothing is prefetched.
#ifndef LODE_POLICY_REPLAY_H
#define LODE_POLICY_REPLAY_H

#include "placement/policy.h"
#include "placement/trace.h"

struct policy_replay {
    uint32_t slots;  // for each layer with experts; a cache holds at least what a token uses in a layer
    bool shared;     // one pool of them all, as the engine has it; otherwise each layer has its own
    bool by_expert;  // a token's experts are told in their order, as the engine does; otherwise best first
    uint32_t first;  // tokens that are replayed and not counted
    uint32_t tokens; // tokens that are replayed; 0: all
};

struct policy_hits {
    uint64_t choices, hits;
};

// Fails with LODE_ERR_ARGUMENT where the slots are too few or nothing is left to count, and without memory.
int policy_replay(struct policy_hits *out, const struct policy_replay *replay, const struct trace *trace,
                  const struct policy_ops *ops, struct lode_error *error);

// The most hits that are possible: the expert leaves that is needed again last (L. Belady, 1966).
int policy_replay_belady(struct policy_hits *out, const struct policy_replay *replay,
                         const struct trace *trace, struct lode_error *error);

#endif
