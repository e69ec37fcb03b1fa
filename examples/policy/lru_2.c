// LRU-2: evicts the expert whose use before the last is the longest ago (E. O'Neil et al., "The LRU-K page
// replacement algorithm", 1993). What was used once, by a token in passing, leaves before what was used
// twice.
//
//     score(e) = pass of e's last use but one, 0 if there is none; of equals the older last use leaves
//
// This is the worked example of docs/writing-a-policy.md.
#include "policy.h"

#include <stdio.h>
#include <stdlib.h>

struct lru_2 {
    struct policy base; // first, so that a struct policy * is one of ours
    double pass;        // the one at work, from 1
    double *last;       // [n_units] the pass of the last use; 0: never
};

static void lru_2_close(struct policy *policy)
{
    struct lru_2 *lru_2 = (struct lru_2 *)policy;
    free(lru_2->last);
    free(lru_2->base.score);
    free(lru_2);
}

const struct policy_ops lode_policy;

static int lru_2_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct lru_2 *lru_2 = calloc(1, sizeof *lru_2);
    *out = NULL;
    if (lru_2) {
        lru_2->base.ops = &lode_policy;
        lru_2->base.score = calloc(setup->n_units + 1u, sizeof *lru_2->base.score);
        lru_2->last = calloc(setup->n_units + 1u, sizeof *lru_2->last);
    }
    if (!lru_2 || !lru_2->base.score || !lru_2->last) {
        if (lru_2)
            lru_2_close(&lru_2->base);
        error->code = LODE_ERR_MEMORY;
        snprintf(error->text, sizeof error->text, "no memory for the policy 'lru-2' over %u experts",
                 setup->n_units);
        return LODE_ERR_MEMORY;
    }
    lru_2->pass = 1;
    // What no token has used yet: from -1 to 0, by the heat of earlier runs.
    for (uint32_t u = 0; u < setup->n_units; u++)
        lru_2->base.score[u] = setup->heat ? (double)setup->heat[u] - 1 : -1;
    *out = &lru_2->base;
    return 0;
}

static void lru_2_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct lru_2 *lru_2 = (struct lru_2 *)policy;
    const double before = n_tokens > 1 ? lru_2->pass : lru_2->last[unit]; // two tokens of a prompt: two uses
    lru_2->last[unit] = lru_2->pass;
    policy->score[unit] = before + lru_2->pass * 0x1p-40; // less than 1 for 10^12 passes
}

static void lru_2_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)n_tokens;
    ((struct lru_2 *)policy)->pass++;
}

const struct policy_ops lode_policy = {
    .name = "lru-2",
    .summary = "evicts what was used twice longest ago; the example of docs/writing-a-policy.md",
    .open = lru_2_open,
    .close = lru_2_close,
    .chosen = lru_2_chosen,
    .pass_end = lru_2_pass_end,
};

const uint32_t lode_policy_abi = POLICY_ABI;
