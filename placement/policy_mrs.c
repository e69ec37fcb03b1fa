// A cache of the router's recent scores: how much weight an expert was given lately, not how often it was
// chosen. After MRS of HybriMoE (S. Zhong et al., arXiv 2504.05897), whose rule for each token is
//
//     S <- ALPHA * TopP(s) + (1 - ALPHA) * S,    the lowest S leaves
//
// where s are the router's probabilities of a layer and TopP keeps the P largest and sets the rest to 0. P is
// twice the number of chosen experts there; here it is the chosen ones, whose weights are all that the engine
// has at hand. Where weights are unknown, each chosen expert counts as 1/k, and the rule is a decayed count.
//
// All of S fades alike, so that log(S at the last use) - log(1 - ALPHA) * (time of the last use) ranks as S
// does and only a chosen expert's score changes. As in policy_heat.c, n tokens of a pass count as the root of
// n, in weight and in time.
//
// Measured without time (docs/learned.md, "Policies"): weights are worth less than plain choices, by a point
// where slots are few. ALPHA 0.02 to 0.2 are within 2 points of each other; 0.05 is between what the two
// halves of the recorded conversation like best.
#include "placement/policy_internal.h"

#include <math.h>
#include <stdlib.h>

#define ALPHA 0.05
#define PRIOR_TOKENS 16.0 // what the heat of earlier runs counts as; as in policy_heat.c
#define NEVER_SCORE 1e-9 // of an expert that no run has chosen: below one choice, and its logarithm is finite

struct recent {
    double score; // S at the last use
    double last;
    double told; // the weight of the choice to come; below 0: unknown
};

struct mrs {
    struct policy base;
    double now;         // tokens, a prompt's damped
    double even_weight; // 1/k
    double fade;        // -log(1 - ALPHA), a token
    struct recent *recent;
};

static void mrs_close(struct policy *policy)
{
    if (policy)
        free(((struct mrs *)policy)->recent);
    policy_free(policy);
}

static void set_score(struct mrs *mrs, uint32_t unit)
{
    const struct recent *recent = &mrs->recent[unit];
    mrs->base.score[unit] = log(recent->score) + mrs->fade * recent->last;
}

static int mrs_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct mrs *mrs;
    *out = NULL;
    int rc = policy_alloc(&mrs, sizeof *mrs, &policy_mrs, setup, error);
    if (rc)
        return rc;
    mrs->recent = calloc((size_t)setup->n_units + 1, sizeof *mrs->recent);
    if (!mrs->recent) {
        mrs_close(&mrs->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'mrs' over %u experts",
                         setup->n_units);
    }
    const uint32_t k = setup->n_layers ? setup->used_per_pass / setup->n_layers : 0;
    mrs->even_weight = 1.0 / (k ? k : 1);
    mrs->fade = -log1p(-ALPHA);
    for (uint32_t u = 0; u < setup->n_units; u++) {
        const double heat = setup->heat ? (double)setup->heat[u] : 0;
        mrs->recent[u].score = NEVER_SCORE + ALPHA * mrs->even_weight * PRIOR_TOKENS * heat;
        mrs->recent[u].told = -1;
        set_score(mrs, u);
    }
    *out = &mrs->base;
    return 0;
}

static void mrs_scored(struct policy *policy, uint32_t unit, float weight)
{
    ((struct mrs *)policy)->recent[unit].told = weight > 0 && weight < INFINITY ? (double)weight : 0;
}

static void mrs_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct mrs *mrs = (struct mrs *)policy;
    struct recent *recent = &mrs->recent[unit];
    const double n = n_tokens ? n_tokens : 1;
    const double mean = recent->told >= 0 ? recent->told / n : mrs->even_weight;
    recent->score = recent->score * exp((recent->last - mrs->now) * mrs->fade) + ALPHA * mean * sqrt(n);
    recent->score = fmax(recent->score, NEVER_SCORE); // a long idle time may have left nothing
    recent->last = mrs->now;
    recent->told = -1;
    set_score(mrs, unit);
}

static void mrs_pass_end(struct policy *policy, uint32_t n_tokens)
{
    ((struct mrs *)policy)->now += sqrt((double)n_tokens);
}

const struct policy_ops policy_mrs = {
    .name = "mrs",
    .summary = "evicts what the router gave least weight lately (HybriMoE's score cache)",
    .open = mrs_open,
    .close = mrs_close,
    .chosen = mrs_chosen,
    .pass_end = mrs_pass_end,
    .scored = mrs_scored,
};
