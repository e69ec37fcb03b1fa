// What the policies share: how one is allocated, and a recency that is small enough to break ties only.
#ifndef LODE_POLICY_INTERNAL_H
#define LODE_POLICY_INTERNAL_H

#include "placement/policy.h"

extern const struct policy_ops policy_heat, policy_lfu, policy_window_lfu, policy_lfru, policy_mrs,
    policy_least_stale, policy_layer_lru, policy_lru, policy_static, policy_by_layer;

// Allocates a zeroed policy of `size_bytes` that begins with a struct policy, and its scores: from -1 to 0 by
// the heat of earlier runs, below anything that this run counts, so that it orders what was never used.
// `out` is the address of a pointer to the policy's own struct; NULL on failure.
int policy_alloc(void *out, size_t size_bytes, const struct policy_ops *ops, const struct policy_setup *setup,
                 struct lode_error *error);
void policy_free(struct policy *policy); // NULL does nothing

// Between 0 and 1, growing with each use: 2^-36 still shows beside a count of 2^16 in a double, and 2^36 uses
// are some 10^8 tokens. Later ones tie.
static inline double policy_recency(uint64_t n_uses)
{
    const uint64_t end = (uint64_t)1 << 36;
    return (double)(n_uses < end ? n_uses : end - 1) * 0x1p-36;
}

// ---- policy_lru.c, for both of its kinds

void policy_lru_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens);
void policy_lru_pass_end(struct policy *policy, uint32_t n_tokens);

#endif
