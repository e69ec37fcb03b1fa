// The experts that the token before chose in this layer, best first, then those of the token before that, and
// so on, each once:
//
//     score(e) = number of the last token that chose e; of the same token the better rank
//
// The oldest predictor there is, and the baseline of most papers; BigMoeOnEdge measured 35.7% for Gemma 4
// 26B, 38.0% for Qwen3-30B and 17.9% for gpt-oss, WASTE 43.5% for OLMoE. For the first ranks of a model whose
// layers reuse a third of their experts it is all that recency can say.
#include "placement/predictor_internal.h"

#include <stdlib.h>
#include <string.h>

struct previous {
    struct predictor base;
    uint32_t n_layers, n_used;
    uint64_t n_choices; // of all layers
    uint32_t *first;    // [n_layers + 1] where a layer's experts begin
    double *last;       // [experts] a number that grows with each choice; 0: never
};

static void previous_close(struct predictor *predictor)
{
    struct previous *previous = (struct previous *)predictor;
    if (!previous)
        return;
    free(previous->first);
    free(previous->last);
    free(previous);
}

static int previous_open(struct predictor **out, const struct predictor_setup *setup,
                         struct lode_error *error)
{
    struct previous *previous = calloc(1, sizeof *previous);
    *out = NULL;
    if (previous) {
        previous->base.ops = &predictor_previous;
        previous->n_layers = setup->n_layers;
        previous->n_used = setup->n_used;
        previous->first = predictor_first_experts(setup);
    }
    if (previous && previous->first)
        previous->last = calloc((size_t)previous->first[setup->n_layers] + 1, sizeof *previous->last);
    if (!previous || !previous->last) {
        previous_close(&previous->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the predictor 'previous' over %u layers",
                         setup->n_layers);
    }
    *out = &previous->base;
    return 0;
}

static void previous_restart(struct predictor *predictor)
{
    struct previous *previous = (struct previous *)predictor;
    memset(previous->last, 0, previous->first[previous->n_layers] * sizeof *previous->last);
    previous->n_choices = 0;
}

// Whole numbers, exact in a double up to 2^53: 10^12 tokens.
static void previous_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct previous *previous = (struct previous *)predictor;
    double *last = previous->last + previous->first[layer];
    previous->n_choices += n;
    for (uint32_t i = 0; i < n; i++)
        last[experts[i]] = (double)(previous->n_choices - i);
}

static uint32_t previous_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                               uint32_t max)
{
    (void)gate;
    const struct previous *previous = (const struct previous *)predictor;
    const uint32_t first = previous->first[layer];
    return predictor_best(out, max, previous->last + first, previous->first[layer + 1] - first);
}

const struct predictor_ops predictor_previous = {
    .name = "previous",
    .summary = "names what the token before chose in the layer, then the one before that",
    .open = previous_open,
    .close = previous_close,
    .restart = previous_restart,
    .chosen = previous_chosen,
    .guess = previous_guess,
};
