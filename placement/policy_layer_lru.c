// Least recently used within each layer's equal share of the pool: immune to the cycle over the layers that
// spoils a global LRU, and unable to give a layer with scattered choices more than the others.
#include "placement/policy_internal.h"

static int layer_lru_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    int rc = policy_lru.open(out, setup, error);
    if (!rc)
        (*out)->ops = &policy_layer_lru;
    return rc;
}

const struct policy_ops policy_layer_lru = {
    .name = "layer-lru",
    .summary = "lru within each layer's equal share of the slots",
    .by_layer = true,
    .open = layer_lru_open,
    .close = policy_free,
    .chosen = policy_lru_chosen,
    .pass_end = policy_lru_pass_end,
};
