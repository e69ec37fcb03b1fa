// Least recently used, over the whole pool. Here as the yardstick: layers are visited in a cycle, so the
// oldest unit is the one that is needed next, and a pool below one token's working set never hits.
#include "placement/policy_internal.h"

struct lru {
    struct policy base;
    uint64_t n_uses;
};

static int lru_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct lru *lru;
    int rc = policy_alloc(&lru, sizeof *lru, &policy_lru, setup, error);
    *out = rc ? NULL : &lru->base;
    return rc;
}

void policy_lru_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    (void)n_tokens;
    policy->score[unit] = (double)++((struct lru *)policy)->n_uses;
}

void policy_lru_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)policy;
    (void)n_tokens;
}

const struct policy_ops policy_lru = {
    .name = "lru",
    .summary = "evicts what was used longest ago; a yardstick, useless below one token's experts",
    .open = lru_open,
    .close = policy_free,
    .chosen = policy_lru_chosen,
    .pass_end = policy_lru_pass_end,
};
