// The next layer's own router, asked before its turn:
//
//     guess(l + 1) = the experts with the largest entries of W(l + 1) * h(l)
//
// where W is the router with its norm and h the residual stream. Routers are small and always in memory, and
// the stream changes little from layer to layer. First by A. Eliseev and D. Mazur (arXiv 2312.17238), then
// Fate (Z. Fang et al., arXiv 2502.12224), colibri, WASTE and others. The first layer is asked about the
// token's embedding.
//
// Three of them differ in the stream that the engine asks about, which is where the work is; here its answer
// is copied.
//   gate        the stream when layer l has chosen its experts, before any of its feed-forward branches
//   gate-dense  with the output of the layer's dense branch added (colibri #200 folds the shared expert in)
//   gate-auto   the first where reads for the next layer could begin at once, else the second
//
// Measured (docs/learned.md, "Guessing the next layer's choice"): of the demo model's choices 67.6% are named
// by the first and 70.8% by the second.
#include "placement/predictor_internal.h"

#include <stdlib.h>
#include <string.h>

static int gate_open(struct predictor **out, const struct predictor_ops *ops, struct lode_error *error)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the predictor '%s'", ops->name);
    (*out)->ops = ops;
    return 0;
}

static int gate_auto_open(struct predictor **out, const struct predictor_setup *setup,
                          struct lode_error *error)
{
    (void)setup;
    return gate_open(out, &predictor_gate_auto, error);
}

static int gate_early_open(struct predictor **out, const struct predictor_setup *setup,
                           struct lode_error *error)
{
    (void)setup;
    return gate_open(out, &predictor_gate, error);
}

static int gate_dense_open(struct predictor **out, const struct predictor_setup *setup,
                           struct lode_error *error)
{
    (void)setup;
    return gate_open(out, &predictor_gate_dense, error);
}

static void gate_close(struct predictor *predictor)
{
    free(predictor);
}

static uint32_t gate_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                           uint32_t max)
{
    (void)predictor, (void)layer;
    if (!gate)
        return 0;
    memcpy(out, gate, max * sizeof *out);
    return max;
}

const struct predictor_ops predictor_gate_auto = {
    .name = "gate-auto",
    .summary = "asks the next router as late as reads allow, with the dense output where it is at hand",
    .gate = PREDICTOR_GATE_AUTO,
    .open = gate_auto_open,
    .close = gate_close,
    .guess = gate_guess,
};

const struct predictor_ops predictor_gate = {
    .name = "gate",
    .summary = "asks the next router about the stream before the feed-forward branches (Eliseev, Mazur)",
    .gate = PREDICTOR_GATE,
    .open = gate_early_open,
    .close = gate_close,
    .guess = gate_guess,
};

const struct predictor_ops predictor_gate_dense = {
    .name = "gate-dense",
    .summary = "asks the next router about the stream with the dense output added (colibri)",
    .gate = PREDICTOR_GATE_DENSE,
    .open = gate_dense_open,
    .close = gate_close,
    .guess = gate_guess,
};
