// Sticky: names the experts that the last few tokens chose, those first that they chose more than once. What
// one token chose in passing comes after what is chosen again and again, which a list of the last token's
// experts cannot tell apart.
//
//     stick(e) <- stick(e) / 2 + (1 if the token chose e),   the largest first
//
// This is the worked example of docs/writing-a-policy.md.
#include "predictor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sticky {
    struct predictor base; // first, so that a struct predictor * is one of ours
    uint32_t n_layers;
    uint32_t *first; // [n_layers + 1] where a layer's experts begin
    float *stick;    // [experts, layer after layer]
};

static void sticky_close(struct predictor *predictor)
{
    struct sticky *sticky = (struct sticky *)predictor;
    free(sticky->first);
    free(sticky->stick);
    free(sticky);
}

const struct predictor_ops lode_predictor;

static int sticky_open(struct predictor **out, const struct predictor_setup *setup, struct lode_error *error)
{
    struct sticky *sticky = calloc(1, sizeof *sticky);
    *out = NULL;
    if (sticky) {
        sticky->base.ops = &lode_predictor;
        sticky->n_layers = setup->n_layers;
        sticky->first = calloc(setup->n_layers + 1u, sizeof *sticky->first);
    }
    for (uint32_t l = 0; sticky && sticky->first && l < setup->n_layers; l++)
        sticky->first[l + 1] = sticky->first[l] + setup->n_experts[l];
    if (sticky && sticky->first)
        sticky->stick = calloc(sticky->first[setup->n_layers] + 1u, sizeof *sticky->stick);
    if (!sticky || !sticky->stick) {
        if (sticky)
            sticky_close(&sticky->base);
        error->code = LODE_ERR_MEMORY;
        snprintf(error->text, sizeof error->text, "no memory for the predictor 'sticky'");
        return LODE_ERR_MEMORY;
    }
    *out = &sticky->base;
    return 0;
}

static void sticky_restart(struct predictor *predictor)
{
    struct sticky *sticky = (struct sticky *)predictor;
    memset(sticky->stick, 0, sticky->first[sticky->n_layers] * sizeof *sticky->stick);
}

static void sticky_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct sticky *sticky = (struct sticky *)predictor;
    float *stick = sticky->stick + sticky->first[layer];
    for (uint32_t e = 0; e < sticky->first[layer + 1] - sticky->first[layer]; e++)
        stick[e] = stick[e] > 1e-3f ? stick[e] / 2 : 0; // ten tokens later it is nothing
    for (uint32_t i = 0; i < n; i++)
        stick[experts[i]] += 1;
}

// The best so far stand in order; each expert goes to its place among them, or nowhere.
static uint32_t sticky_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                             uint32_t max)
{
    (void)gate; // .gate is PREDICTOR_NO_GATE
    const struct sticky *sticky = (const struct sticky *)predictor;
    const float *stick = sticky->stick + sticky->first[layer];
    uint32_t n = 0;
    for (uint32_t e = 0; e < sticky->first[layer + 1] - sticky->first[layer]; e++) {
        if (stick[e] <= 0 || max == 0 || (n == max && stick[e] <= stick[out[n - 1]]))
            continue;
        uint32_t at = n < max ? n++ : n - 1;
        for (; at > 0 && stick[out[at - 1]] < stick[e]; at--)
            out[at] = out[at - 1];
        out[at] = (int32_t)e;
    }
    return n;
}

const struct predictor_ops lode_predictor = {
    .name = "sticky",
    .summary = "names what the last tokens chose again and again; the example of docs/writing-a-policy.md",
    .open = sticky_open,
    .close = sticky_close,
    .restart = sticky_restart,
    .chosen = sticky_chosen,
    .guess = sticky_guess,
};

const uint32_t lode_predictor_abi = PREDICTOR_ABI;
