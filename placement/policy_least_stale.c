// Least stale first to stay: staleness counts how often an expert's own layer has come by without choosing
// it, not how long ago its last use was. After Least-Stale (D. Hoang et al., SpecMD, arXiv 2602.03921), in
// the terms of this pool:
//
//     age(e)   = passes that have ended since the last one that chose e
//     score(e) = layers * -age(e) + layer(e), and the lowest leaves: the stalest, of equals the lowest layer
//
// Layers are visited in a cycle. To LRU, what the token before used in a layer still to come is the oldest of
// all, and goes just before it is needed; here it is as fresh as what this token has used, for its layer has
// not had its turn, and behind the layers that have. So a pool below one token's experts keeps those of the
// last layers and hits, where a global LRU hits nothing.
//
// Kept as layers * (pass of the last use) + layer, which changes only with a use. What the pass at work has
// chosen counts as of the pass before until the pass has ended: until then it is no fresher than what lies
// ahead. Within one layer's cache the rule is LRU by passes.
//
// Measured without time and without prefetch (docs/learned.md, "Policies"): far better than LRU below one
// token's experts, but half as many hits as a count; no better from there on.
#include "placement/policy_internal.h"

#include <stdlib.h>
#include <string.h>

struct least_stale {
    struct policy base;
    uint32_t n_units, n_layers;
    uint64_t pass;   // the one at work
    uint32_t *layer; // [n_units]
    bool *used;      // [n_units] by the pass at work, or by one that was given up since the last that ended
};

static void least_stale_close(struct policy *policy)
{
    struct least_stale *stale = (struct least_stale *)policy;
    if (stale) {
        free(stale->layer);
        free(stale->used);
    }
    policy_free(policy);
}

static int least_stale_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct least_stale *stale;
    *out = NULL;
    int rc = policy_alloc(&stale, sizeof *stale, &policy_least_stale, setup, error);
    if (rc)
        return rc;
    stale->n_units = setup->n_units;
    stale->n_layers = setup->n_layers;
    stale->pass = 1;
    stale->layer = calloc((size_t)setup->n_units + 1, sizeof *stale->layer);
    stale->used = calloc((size_t)setup->n_units + 1, sizeof *stale->used);
    if (!stale->layer || !stale->used) {
        least_stale_close(&stale->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'least-stale' over %u experts",
                         setup->n_units);
    }
    if (setup->layer)
        memcpy(stale->layer, setup->layer, setup->n_units * sizeof *stale->layer);
    *out = &stale->base;
    return 0;
}

// 1 and more: what was never used lies between -1 and 0.
static double score_of(const struct least_stale *stale, uint32_t unit, uint64_t pass)
{
    return (double)pass * stale->n_layers + stale->layer[unit] + 1;
}

static void least_stale_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct least_stale *stale = (struct least_stale *)policy;
    (void)n_tokens;
    stale->used[unit] = true;
    stale->base.score[unit] = score_of(stale, unit, stale->pass - 1);
}

static void least_stale_pass_end(struct policy *policy, uint32_t n_tokens)
{
    struct least_stale *stale = (struct least_stale *)policy;
    if (n_tokens == 0)
        return;
    for (uint32_t u = 0; u < stale->n_units; u++)
        if (stale->used[u])
            stale->base.score[u] = score_of(stale, u, stale->pass);
    memset(stale->used, 0, stale->n_units * sizeof *stale->used);
    stale->pass++;
}

const struct policy_ops policy_least_stale = {
    .name = "least-stale",
    .summary = "evicts what its own layer has passed over most often, then the layer that is past longest",
    .open = least_stale_open,
    .close = least_stale_close,
    .chosen = least_stale_chosen,
    .pass_end = least_stale_pass_end,
};
