// The table of predictors, and what they share. A new one is a file of its own and a line here.
#include "placement/predictor.h"

#include "placement/predictor_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct predictor_ops *const predictor_table[] = {
    &predictor_gate_auto,
    &predictor_gate,
    &predictor_gate_dense,
    &predictor_previous,
    &predictor_heat,
    &predictor_cooccur,
    NULL,
};

const struct predictor_ops *predictor_find(const char *name)
{
    for (size_t i = 0; predictor_table[i]; i++)
        if (strcmp(predictor_table[i]->name, name) == 0)
            return predictor_table[i];
    return NULL;
}

// ---- the best of many
// --------------------------------------------------------------------------------------------

static bool is_worse(const double *score, int32_t a, int32_t b)
{
    return score[a] < score[b] || (!(score[b] < score[a]) && a > b);
}

// A heap whose root is the worst: the place of `at` is given to the worst of it and what is below.
static void sift_down(int32_t *heap, uint32_t at, uint32_t n, const double *score)
{
    const int32_t moving = heap[at];
    for (uint32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && is_worse(score, heap[child + 1], heap[child]))
            child++;
        if (!is_worse(score, heap[child], moving))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

static void sift_up(int32_t *heap, uint32_t at, const double *score)
{
    const int32_t moving = heap[at];
    while (at > 0 && is_worse(score, moving, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = moving;
}

uint32_t predictor_best(int32_t *out, uint32_t max, const double *score, uint32_t n)
{
    uint32_t n_out = 0;
    if (max == 0)
        return 0;
    for (uint32_t e = 0; e < n; e++) {
        if (!(score[e] > 0))
            continue;
        if (n_out < max) {
            out[n_out] = (int32_t)e;
            sift_up(out, n_out++, score);
        } else if (score[e] > score[out[0]]) { // of equals the one that is there is the lower number
            out[0] = (int32_t)e;
            sift_down(out, 0, n_out, score);
        }
    }
    for (uint32_t end = n_out; end > 1; end--) { // the worst goes to the end, again and again
        const int32_t worst = out[0];
        out[0] = out[end - 1];
        out[end - 1] = worst;
        sift_down(out, 0, end - 1, score);
    }
    return n_out;
}

// ---- frequencies
// -------------------------------------------------------------------------------------------------

#define HEAVY 1e100 // a weight beyond this is brought back to 1

uint32_t *predictor_first_experts(const struct predictor_setup *setup)
{
    uint32_t *first = calloc((size_t)setup->n_layers + 1, sizeof *first);
    for (uint32_t l = 0; first && l < setup->n_layers; l++)
        first[l + 1] = first[l] + setup->n_experts[l];
    return first;
}

bool predictor_counts_open(struct predictor_counts *out, const struct predictor_setup *setup,
                           double memory_tokens, double prior_tokens)
{
    const uint32_t n_layers = setup->n_layers;
    *out = (struct predictor_counts){
        .n_layers = n_layers,
        .first = predictor_first_experts(setup),
        .tokens = calloc((size_t)n_layers + 1, sizeof *out->tokens),
        .weight = calloc((size_t)n_layers + 1, sizeof *out->weight),
        .growth = exp(1 / memory_tokens),
    };
    if (out->first)
        out->count = calloc((size_t)out->first[n_layers] + 1, sizeof *out->count);
    if (!out->first || !out->count || !out->tokens || !out->weight) {
        predictor_counts_close(out);
        return false;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        out->weight[l] = 1;
        out->tokens[l] = setup->heat ? prior_tokens : 0;
        for (uint32_t u = out->first[l]; setup->heat && u < out->first[l + 1]; u++)
            out->count[u] = prior_tokens * (double)setup->heat[u];
    }
    return true;
}

void predictor_counts_close(struct predictor_counts *counts)
{
    free(counts->first);
    free(counts->count);
    free(counts->tokens);
    free(counts->weight);
    *counts = (struct predictor_counts){0};
}

void predictor_counts_add(struct predictor_counts *counts, uint32_t layer, const int32_t *experts, uint32_t n)
{
    double *count = counts->count + counts->first[layer];
    const double weight = counts->weight[layer];
    for (uint32_t i = 0; i < n; i++)
        count[experts[i]] += weight;
    counts->tokens[layer] += weight;
    counts->weight[layer] = weight * counts->growth;
    if (counts->weight[layer] < HEAVY)
        return;
    const double back = 1 / counts->weight[layer];
    for (uint32_t e = 0; e < counts->first[layer + 1] - counts->first[layer]; e++)
        count[e] *= back;
    counts->tokens[layer] *= back;
    counts->weight[layer] = 1;
}
