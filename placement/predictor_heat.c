// The experts that the layer has chosen most, whatever the token:
//
//     count(e) <- count(e) * exp(-1 / MEMORY_TOKENS) + (1 if the token chose e),   the largest first
//
// It starts as if PRIOR_TOKENS tokens had chosen as the heat of earlier runs says. A static hot list, without
// the decay, is the baseline of most papers: BigMoeOnEdge measured 39.6% for Gemma 4 26B, 37.6% for
// Qwen3-30B, 26.7% for gpt-oss, on two of three more than the token before.
//
// MEMORY by the first half of the recorded 26B-A4B conversation and a part of the demo model's trace, as the
// share of the choices that the first 4 names hold: 16 tokens 28.5 and 22.2%, 64 tokens 27.2 and 21.5, 1024
// tokens 26.6 and 19.0, which is a static list for a text of this length.
#include "placement/predictor_internal.h"

#include <stdlib.h>

#define MEMORY_TOKENS 16.0
#define PRIOR_TOKENS 16.0

struct heat_predictor {
    struct predictor base;
    struct predictor_counts counts;
};

static void heat_predictor_close(struct predictor *predictor)
{
    if (predictor)
        predictor_counts_close(&((struct heat_predictor *)predictor)->counts);
    free(predictor);
}

static int heat_predictor_open(struct predictor **out, const struct predictor_setup *setup,
                               struct lode_error *error)
{
    struct heat_predictor *heat = calloc(1, sizeof *heat);
    *out = NULL;
    if (!heat || !predictor_counts_open(&heat->counts, setup, MEMORY_TOKENS, PRIOR_TOKENS)) {
        free(heat);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the predictor 'heat' over %u layers",
                         setup->n_layers);
    }
    heat->base.ops = &predictor_heat;
    *out = &heat->base;
    return 0;
}

static void heat_predictor_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts,
                                  uint32_t n)
{
    predictor_counts_add(&((struct heat_predictor *)predictor)->counts, layer, experts, n);
}

static uint32_t heat_predictor_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate,
                                     int32_t *out, uint32_t max)
{
    (void)gate;
    const struct predictor_counts *counts = &((const struct heat_predictor *)predictor)->counts;
    const uint32_t first = counts->first[layer];
    return predictor_best(out, max, counts->count + first, counts->first[layer + 1] - first);
}

const struct predictor_ops predictor_heat = {
    .name = "heat",
    .summary = "names what the layer chose most lately; starts from the heat of earlier runs",
    .open = heat_predictor_open,
    .close = heat_predictor_close,
    .chosen = heat_predictor_chosen,
    .guess = heat_predictor_guess,
};
