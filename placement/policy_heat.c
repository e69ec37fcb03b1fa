// The default: how often a unit was chosen lately, starting from the heat of earlier runs, and for how long
// it has been idle.
//
//     frequency  <- frequency * exp(-(now - last use) / MEMORY_TOKENS) + weight of this use
//     score       = log(frequency at the last use) - (now - last use) / IDLE_TOKENS
//
// A unit in use forgets slowly, an idle one fades faster; equal constants would be a plain decayed count. The
// part of the score that changes with `now` is the same for all units and is left out, so that only a chosen
// unit's score changes and nothing needs rescaling.
//
// Found by replaying the recorded choices of a 26B-A4B conversation (its first half; the second to judge) and
// synthetic conversations that change their topic. Shares of choices that were in memory in decode, means
// over pools of 8, 16, 32 and 64 slots a layer:
//   MEMORY 64, IDLE 16: 70.2% recorded, 63.2% synthetic. IDLE 4: 69.9 and 62.3; IDLE 64, which is the decayed
//   count: 69.7 and 62.6. MEMORY 256: 70.1 and 62.8.
//   A pass of n tokens, and n tokens of a pass that chose a unit, count as the root of n: a prompt shall
//   outweigh single tokens and not wipe out what came before. As n: 69.9 and 63.3; as 1: 69.2 and 62.6.
//   PRIOR 16, the heat counts as the choices of 16 tokens. Short conversations, prompt included: on topics
//   like those of the heat file 56.8% instead of 55.0 without a prior, on other ones 58.1 instead of 57.2.
//   128: 58.0 and 57.2, and 2 points less in decode on other topics.
#include "placement/policy_internal.h"

#include <math.h>
#include <stdlib.h>

#define MEMORY_TOKENS 64.0
#define IDLE_TOKENS 16.0
#define PRIOR_TOKENS 16.0
#define NEVER_FREQUENCY                                                                                      \
    1e-6 // of a unit that no run has chosen: below one choice, and its logarithm is finite

struct use {
    double frequency; // at the last use
    double last;
};

struct heat_policy {
    struct policy base;
    double now; // tokens, a prompt's damped
    struct use *uses;
};

static void heat_policy_close(struct policy *policy)
{
    if (policy)
        free(((struct heat_policy *)policy)->uses);
    policy_free(policy);
}

static void set_score(struct heat_policy *heat, uint32_t unit)
{
    const struct use *use = &heat->uses[unit];
    heat->base.score[unit] = log(use->frequency) + use->last / IDLE_TOKENS;
}

static int heat_policy_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct heat_policy *heat;
    *out = NULL;
    int rc = policy_alloc(&heat, sizeof *heat, &policy_heat, setup, error);
    if (rc)
        return rc;
    heat->uses = calloc((size_t)setup->n_units + 1, sizeof *heat->uses);
    if (!heat->uses) {
        heat_policy_close(&heat->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'heat' over %u experts",
                         setup->n_units);
    }
    for (uint32_t u = 0; u < setup->n_units; u++) {
        heat->uses[u].frequency = NEVER_FREQUENCY + (setup->heat ? PRIOR_TOKENS * (double)setup->heat[u] : 0);
        set_score(heat, u);
    }
    *out = &heat->base;
    return 0;
}

static void heat_policy_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct heat_policy *heat = (struct heat_policy *)policy;
    struct use *use = &heat->uses[unit];
    use->frequency = use->frequency * exp((use->last - heat->now) / MEMORY_TOKENS) + sqrt((double)n_tokens);
    use->last = heat->now;
    set_score(heat, unit);
}

static void heat_policy_pass_end(struct policy *policy, uint32_t n_tokens)
{
    ((struct heat_policy *)policy)->now += sqrt((double)n_tokens);
}

const struct policy_ops policy_heat = {
    .name = "heat",
    .summary = "evicts what was chosen least lately; starts from the heat of earlier runs",
    .open = heat_policy_open,
    .close = heat_policy_close,
    .chosen = heat_policy_chosen,
    .pass_end = heat_policy_pass_end,
};
