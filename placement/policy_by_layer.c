// Whole layers by their position, and nothing else: what the static splits of other engines do. llama.cpp's
// --n-gpu-layers and --n-cpu-moe (common/arg.cpp) let the experts of some layers lie in the fast memory and
// those of the others not, whatever is chosen. Here as the yardstick at equal bytes: the first layers, as
// many as the pool has slots for. There it is the last ones, which is worth as much: a token chooses as many
// experts in every layer.
//
//     score = -(number of the expert, layer after layer)
//
// Scores never change, and heat is not looked at. The pool fills by itself, since whatever comes in pushes
// out the last of those that are there: once every expert of the first layers has been chosen, which one long
// prompt does, they are there to stay. The layer that does not fit whole keeps its first experts. As many
// slots as a layer behind needs at once are left for passing through.
#include "placement/policy_internal.h"

static int by_layer_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    int rc = policy_alloc(out, sizeof **out, &policy_by_layer, setup, error);
    for (uint32_t u = 0; !rc && u < setup->n_units; u++)
        (*out)->score[u] = -(double)u;
    return rc;
}

static void by_layer_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    (void)policy;
    (void)unit;
    (void)n_tokens;
}

static void by_layer_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)policy;
    (void)n_tokens;
}

const struct policy_ops policy_by_layer = {
    .name = "by-layer",
    .summary =
        "keeps the first layers whole, whatever is chosen, as llama.cpp's --n-cpu-moe does; a yardstick",
    .open = by_layer_open,
    .close = policy_free,
    .chosen = by_layer_chosen,
    .pass_end = by_layer_pass_end,
};
