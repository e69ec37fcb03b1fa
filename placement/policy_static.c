// The heat of earlier runs, and nothing else: what a placement that never moves would earn. Without heat it
// counts from the start of the run.
#include "placement/policy_internal.h"

struct fixed {
    struct policy base;
    bool counts;
};

static int static_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct fixed *fixed;
    int rc = policy_alloc(&fixed, sizeof *fixed, &policy_static, setup, error);
    *out = rc ? NULL : &fixed->base;
    if (!rc)
        fixed->counts = !setup->heat;
    return rc;
}

static void static_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    if (((struct fixed *)policy)->counts)
        policy->score[unit] += n_tokens;
}

static void static_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)policy;
    (void)n_tokens;
}

const struct policy_ops policy_static = {
    .name = "static",
    .summary = "keeps the experts that earlier runs chose most, whatever this run does",
    .open = static_open,
    .close = policy_free,
    .chosen = static_chosen,
    .pass_end = static_pass_end,
};
