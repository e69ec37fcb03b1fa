// Co-occurrence: which experts of a layer go with those that the token has chosen in the layer before.
//
//     score(e) = sum over e' of  (pairs(e', e) + SMOOTHING * f(e)) / (tokens(e') + SMOOTHING)
//
// e' are the experts that the token chose in the layer before, tokens(e') how many tokens chose e' there,
// pairs(e', e) how many of these chose e in this layer: each summand is the share of the tokens with e' that
// go on to e. Where e' is rare it leans on f(e), how often a token of the layer chooses e at all. For the
// first layer, e' are those that the token before chose there.
//
// The count matrix of WASTE, which measured 29.0% of Kimi K3's choices held out, and 49.7% of the text that
// had been counted. Counts are of 16 bits: when e' has been seen ROW_TOKENS times, its row is halved, so that
// the memory is that of the last few thousand tokens.
//
// Of a prompt the choices of as many tokens are remembered as PASS_TOKENS says, until the next layer has made
// its own; the rest counts for f alone. Some layers of a pass may see fewer of its tokens than the layer
// before, and nothing tells which: then no pairs are counted.
//
// Constants by the first half of the recorded 26B-A4B conversation and a part of the demo model's trace, as
// the share of the choices that the first 4 names hold: SMOOTHING 0.1 to 0.5: 39.2 to 38.8% and 29.2%;
// 4: 36.0; 16: 32.7. ROW_TOKENS 32 to 1024 differ by less than half a point; 2048 loses one where the text
// changes.
#include "placement/predictor_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SMOOTHING 0.5
#define MEMORY_TOKENS 16.0 // of f, as in predictor_heat.c
#define PRIOR_TOKENS 16.0  // of f, as the heat of earlier runs says
enum { ROW_TOKENS = 256, PASS_TOKENS = 512, NOWHERE = UINT32_MAX };
#define MAX_PAIR_BYTES ((uint64_t)256 << 20)

// What the tokens of a pass chose in a layer.
struct choices {
    uint32_t layer, n_tokens;
    uint32_t *n;      // [PASS_TOKENS]
    int32_t *experts; // [PASS_TOKENS][n_used]
};

struct cooccur {
    struct predictor base;
    uint32_t n_layers, n_used, first_layer;
    struct predictor_counts counts; // of f
    uint32_t *before;               // [n_layers] the layer before; of the first one itself
    uint16_t **pairs;               // [n_layers] [experts of the layer before][experts], or NULL
    uint32_t *seen;                 // [experts, layer after layer] tokens with e' in rows of `pairs`
    struct choices now, last;       // the layer at work, and the one before
    struct choices first;           // of the last token, in the first layer
    double *score;                  // [experts of the largest layer]
};

static void close_choices(struct choices *choices)
{
    free(choices->n);
    free(choices->experts);
}

static bool open_choices(struct choices *choices, uint32_t n_tokens, uint32_t n_used)
{
    choices->layer = NOWHERE;
    choices->n = calloc(n_tokens, sizeof *choices->n);
    choices->experts = calloc((size_t)n_tokens * n_used + 1, sizeof *choices->experts);
    return choices->n && choices->experts;
}

static void cooccur_close(struct predictor *predictor)
{
    struct cooccur *cooccur = (struct cooccur *)predictor;
    if (!cooccur)
        return;
    for (uint32_t l = 0; cooccur->pairs && l < cooccur->n_layers; l++)
        free(cooccur->pairs[l]);
    free(cooccur->pairs);
    free(cooccur->before);
    free(cooccur->seen);
    free(cooccur->score);
    close_choices(&cooccur->now);
    close_choices(&cooccur->last);
    close_choices(&cooccur->first);
    predictor_counts_close(&cooccur->counts);
    free(cooccur);
}

static int no_memory(const struct predictor_setup *setup, struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the predictor 'cooccur' over %u layers",
                     setup->n_layers);
}

// Bytes of all pairs, or as soon as they are too many some number above what may be.
static uint64_t pair_bytes(const struct predictor_setup *setup)
{
    uint64_t bytes = 0;
    uint32_t before = 0;
    for (uint32_t l = 0; l < setup->n_layers && bytes <= MAX_PAIR_BYTES; l++) {
        const uint64_t n = setup->n_experts[l];
        if (!n)
            continue;
        const uint64_t rows = before ? before : n;
        bytes += rows <= MAX_PAIR_BYTES / n ? rows * n * sizeof(uint16_t) : MAX_PAIR_BYTES + 1;
        before = setup->n_experts[l];
    }
    return bytes;
}

static int open_pairs(struct cooccur *cooccur, const struct predictor_setup *setup, struct lode_error *error)
{
    uint32_t most = 0, before = NOWHERE;
    for (uint32_t l = 0; l < setup->n_layers; l++) {
        const uint32_t n = setup->n_experts[l];
        if (!n)
            continue;
        if (before == NOWHERE)
            cooccur->first_layer = before = l;
        cooccur->before[l] = before;
        cooccur->pairs[l] = calloc((size_t)setup->n_experts[before] * n, sizeof **cooccur->pairs);
        if (!cooccur->pairs[l])
            return no_memory(setup, error);
        before = l;
        most = n > most ? n : most;
    }
    cooccur->score = calloc((size_t)most + 1, sizeof *cooccur->score);
    return cooccur->score ? 0 : no_memory(setup, error);
}

static int open_parts(struct cooccur *cooccur, const struct predictor_setup *setup, struct lode_error *error)
{
    if (!predictor_counts_open(&cooccur->counts, setup, MEMORY_TOKENS, PRIOR_TOKENS))
        return no_memory(setup, error);
    cooccur->before = calloc((size_t)setup->n_layers + 1, sizeof *cooccur->before);
    cooccur->pairs = calloc((size_t)setup->n_layers + 1, sizeof *cooccur->pairs);
    // Twice: rows of the first layer by itself lie behind all others.
    cooccur->seen = calloc((size_t)cooccur->counts.first[setup->n_layers] * 2 + 1, sizeof *cooccur->seen);
    if (!cooccur->before || !cooccur->pairs || !cooccur->seen ||
        !open_choices(&cooccur->now, PASS_TOKENS, setup->n_used) ||
        !open_choices(&cooccur->last, PASS_TOKENS, setup->n_used) ||
        !open_choices(&cooccur->first, 1, setup->n_used))
        return no_memory(setup, error);
    return open_pairs(cooccur, setup, error);
}

static int cooccur_open(struct predictor **out, const struct predictor_setup *setup, struct lode_error *error)
{
    *out = NULL;
    if (pair_bytes(setup) > MAX_PAIR_BYTES)
        return lode_fail(
            error, LODE_ERR_UNSUPPORTED,
            "the predictor 'cooccur' counts pairs of experts of neighbouring layers, and those of "
            "%u layers would need more than %" PRIu64 " MiB: choose another predictor",
            setup->n_layers, MAX_PAIR_BYTES >> 20);
    struct cooccur *cooccur = calloc(1, sizeof *cooccur);
    if (!cooccur)
        return no_memory(setup, error);
    cooccur->base.ops = &predictor_cooccur;
    cooccur->n_layers = setup->n_layers;
    cooccur->n_used = setup->n_used;
    int rc = open_parts(cooccur, setup, error);
    if (rc) {
        cooccur_close(&cooccur->base);
        return rc;
    }
    *out = &cooccur->base;
    return 0;
}

// ---- what goes with what
// -----------------------------------------------------------------------------------------

static uint32_t experts_of(const struct cooccur *cooccur, uint32_t layer)
{
    return cooccur->counts.first[layer + 1] - cooccur->counts.first[layer];
}

// Tokens that each expert of the layer before was seen with, for the rows of `layer`.
static uint32_t *seen_before(const struct cooccur *cooccur, uint32_t layer)
{
    const bool is_first = layer == cooccur->first_layer;
    return cooccur->seen + cooccur->counts.first[cooccur->before[layer]] +
           (is_first ? cooccur->counts.first[cooccur->n_layers] : 0);
}

static void count_pairs(struct cooccur *cooccur, uint32_t layer, const int32_t *before, uint32_t n_before,
                        const int32_t *chosen, uint32_t n_chosen)
{
    const uint32_t n_experts = experts_of(cooccur, layer);
    uint32_t *seen = seen_before(cooccur, layer);
    for (uint32_t i = 0; i < n_before; i++) {
        uint16_t *row = cooccur->pairs[layer] + (size_t)before[i] * n_experts;
        for (uint32_t j = 0; j < n_chosen; j++)
            row[chosen[j]]++;
        if (++seen[before[i]] < ROW_TOKENS)
            continue;
        seen[before[i]] /= 2;
        for (uint32_t e = 0; e < n_experts; e++)
            row[e] /= 2;
    }
}

// The layer at work is through: its tokens are paired with those of the layer before.
static void settle(struct cooccur *cooccur)
{
    const struct choices *now = &cooccur->now, *last = &cooccur->last;
    if (now->layer == NOWHERE || now->layer == cooccur->first_layer || now->n_tokens != last->n_tokens ||
        last->layer != cooccur->before[now->layer])
        return;
    const uint32_t n_tokens = now->n_tokens < PASS_TOKENS ? now->n_tokens : PASS_TOKENS;
    for (uint32_t t = 0; t < n_tokens; t++)
        count_pairs(cooccur, now->layer, last->experts + (size_t)t * cooccur->n_used, last->n[t],
                    now->experts + (size_t)t * cooccur->n_used, now->n[t]);
}

static void begin_layer(struct cooccur *cooccur, uint32_t layer)
{
    settle(cooccur);
    const struct choices last = cooccur->last;
    cooccur->last = cooccur->now;
    cooccur->now = last;
    cooccur->now.layer = layer;
    cooccur->now.n_tokens = 0;
}

static void remember(struct choices *choices, uint32_t at, const int32_t *experts, uint32_t n,
                     uint32_t n_used)
{
    choices->n[at] = n;
    memcpy(choices->experts + (size_t)at * n_used, experts, n * sizeof *experts);
}

static void cooccur_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct cooccur *cooccur = (struct cooccur *)predictor;
    predictor_counts_add(&cooccur->counts, layer, experts, n);
    if (layer != cooccur->now.layer)
        begin_layer(cooccur, layer);
    struct choices *first = &cooccur->first;
    if (layer == cooccur->first_layer) {
        if (first->layer == layer)
            count_pairs(cooccur, layer, first->experts, first->n[0], experts, n);
        first->layer = layer;
        remember(first, 0, experts, n, cooccur->n_used);
    }
    // The last token is kept in any case: guesses are for it.
    const uint32_t at = cooccur->now.n_tokens++;
    remember(&cooccur->now, at < PASS_TOKENS ? at : PASS_TOKENS - 1, experts, n, cooccur->n_used);
}

static void cooccur_pass_end(struct predictor *predictor, uint32_t n_tokens)
{
    (void)n_tokens;
    struct cooccur *cooccur = (struct cooccur *)predictor;
    settle(cooccur);
    cooccur->now.layer = cooccur->last.layer = NOWHERE;
    cooccur->now.n_tokens = cooccur->last.n_tokens = 0;
}

static void cooccur_restart(struct predictor *predictor)
{
    struct cooccur *cooccur = (struct cooccur *)predictor;
    cooccur->now.layer = cooccur->last.layer = cooccur->first.layer = NOWHERE;
    cooccur->now.n_tokens = cooccur->last.n_tokens = 0;
}

// What the token has chosen in the layer before, how many; 0 where nobody has told.
static uint32_t chosen_before(const struct cooccur *cooccur, uint32_t layer, const int32_t **out)
{
    const struct choices *from = layer == cooccur->first_layer ? &cooccur->first : &cooccur->now;
    if (from->layer != cooccur->before[layer])
        return 0;
    uint32_t at = 0;
    if (from == &cooccur->now)
        at = (from->n_tokens < PASS_TOKENS ? from->n_tokens : PASS_TOKENS) - 1;
    *out = from->experts + (size_t)at * cooccur->n_used;
    return from->n[at];
}

static uint32_t cooccur_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                              uint32_t max)
{
    (void)gate;
    struct cooccur *cooccur = (struct cooccur *)predictor;
    const uint32_t n_experts = experts_of(cooccur, layer);
    if (n_experts == 0)
        return 0;
    const double *count = cooccur->counts.count + cooccur->counts.first[layer];
    const double tokens = cooccur->counts.tokens[layer];
    const int32_t *before = NULL;
    const uint32_t n_before = chosen_before(cooccur, layer, &before);
    const uint32_t *seen = seen_before(cooccur, layer);
    double smoothing = n_before ? 0 : 1;
    for (uint32_t i = 0; i < n_before; i++)
        smoothing += SMOOTHING / ((double)seen[before[i]] + SMOOTHING);
    smoothing = tokens > 0 ? smoothing / tokens : 0;
    for (uint32_t e = 0; e < n_experts; e++)
        cooccur->score[e] = smoothing * count[e];
    for (uint32_t i = 0; i < n_before; i++) {
        const double weight = 1 / ((double)seen[before[i]] + SMOOTHING);
        const uint16_t *row = cooccur->pairs[layer] + (size_t)before[i] * n_experts;
        for (uint32_t e = 0; e < n_experts; e++)
            cooccur->score[e] += weight * row[e];
    }
    return predictor_best(out, max, cooccur->score, n_experts);
}

const struct predictor_ops predictor_cooccur = {
    .name = "cooccur",
    .summary = "names what goes with the experts chosen in the layer before, by counted pairs (WASTE)",
    .open = cooccur_open,
    .close = cooccur_close,
    .restart = cooccur_restart,
    .chosen = cooccur_chosen,
    .pass_end = cooccur_pass_end,
    .guess = cooccur_guess,
};
