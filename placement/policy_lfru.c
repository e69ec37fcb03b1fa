// Least frequently and recently used: the count decides, the recency breaks ties, and all counts are halved
// now and then, so that old fame fades. Published for expert caches far below a token's working set, where it
// beat LRU by 29 to 5% of hits, and lost 3 to 4 points at an eighth of the experts and above.
#include "placement/policy_internal.h"

#include <stdlib.h>

enum { HALVE_TOKENS = 256 };

struct lfru {
    struct policy base;
    uint32_t n_units, age_tokens;
    uint64_t n_uses;
    uint32_t *count; // [n_units]
    double *recency; // [n_units] of the last use; 0: never
};

static void lfru_close(struct policy *policy)
{
    struct lfru *lfru = (struct lfru *)policy;
    if (lfru) {
        free(lfru->count);
        free(lfru->recency);
    }
    policy_free(policy);
}

static int lfru_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct lfru *lfru;
    *out = NULL;
    int rc = policy_alloc(&lfru, sizeof *lfru, &policy_lfru, setup, error);
    if (rc)
        return rc;
    lfru->n_units = setup->n_units;
    lfru->count = calloc((size_t)setup->n_units + 1, sizeof *lfru->count);
    lfru->recency = calloc((size_t)setup->n_units + 1, sizeof *lfru->recency);
    if (!lfru->count || !lfru->recency) {
        lfru_close(&lfru->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'lfru' over %u experts",
                         setup->n_units);
    }
    *out = &lfru->base;
    return 0;
}

static void set_score(struct lfru *lfru, uint32_t unit)
{
    lfru->base.score[unit] = lfru->count[unit] + lfru->recency[unit];
}

static void lfru_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct lfru *lfru = (struct lfru *)policy;
    if (__builtin_add_overflow(lfru->count[unit], n_tokens, &lfru->count[unit]))
        lfru->count[unit] = UINT32_MAX;
    lfru->recency[unit] = policy_recency(++lfru->n_uses);
    set_score(lfru, unit);
}

static void lfru_pass_end(struct policy *policy, uint32_t n_tokens)
{
    struct lfru *lfru = (struct lfru *)policy;
    lfru->age_tokens += n_tokens < HALVE_TOKENS ? n_tokens : HALVE_TOKENS;
    if (lfru->age_tokens < HALVE_TOKENS)
        return;
    lfru->age_tokens -= HALVE_TOKENS;
    for (uint32_t u = 0; u < lfru->n_units; u++) {
        lfru->count[u] /= 2;
        if (lfru->recency[u] > 0)
            set_score(lfru, u);
    }
}

const struct policy_ops policy_lfru = {
    .name = "lfru",
    .summary = "evicts by the count, then by recency; counts are halved every 256 tokens",
    .open = lfru_open,
    .close = lfru_close,
    .chosen = lfru_chosen,
    .pass_end = lfru_pass_end,
};
