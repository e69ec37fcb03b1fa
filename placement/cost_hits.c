// Which experts are in memory when they are chosen, and how many a batch chooses; see cost.h.
#include "placement/cost_internal.h"

#include "placement/layout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POLICY_GAIN (1.0 / 17)

// docs/learned.md, "decode hits", policy `heat`: by the share of experts that have a slot, on the recorded
// conversation and on the synthetic ones.
static const struct prior {
    double share, recorded, synthetic;
} priors[] = {{0, 0, 0},
              {8 / 128.0, .431, .388},
              {16 / 128.0, .617, .544},
              {24 / 128.0, .738, .645},
              {32 / 128.0, .816, .719},
              {45 / 128.0, .911, .803},
              {64 / 128.0, .972, .881},
              {1, 1, 1}};

static void hits_by_prior(struct cost_model *model, double share)
{
    size_t i = 1;
    while (i + 1 < sizeof priors / sizeof *priors && share > priors[i].share)
        i++;
    const struct prior *a = &priors[i - 1], *b = &priors[i];
    const double x = fmin(1, (share - a->share) / (b->share - a->share));
    model->hit_high = a->recorded + x * (b->recorded - a->recorded);
    model->hit_low = a->synthetic + x * (b->synthetic - a->synthetic);
    model->hit_rate = (model->hit_low + model->hit_high) / 2;
}

static int hotter_first(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

// The range: topics unlike those of the heat cost a quarter more misses ("static on topics unlike").
static int hits_by_heat(struct cost_model *model, uint32_t n_experts, struct lode_error *error)
{
    float *sorted = malloc((n_experts + (size_t)1) * sizeof *sorted);
    if (!sorted)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to sort %u experts", n_experts);
    memcpy(sorted, model->options.heat, n_experts * sizeof *sorted);
    qsort(sorted, n_experts, sizeof *sorted, hotter_first);
    double all = 0, in_pool = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        all += (double)sorted[e];
        in_pool += e < model->n_slots ? (double)sorted[e] : 0;
    }
    free(sorted);
    if (!(all > 0)) {
        hits_by_prior(model, (double)model->n_slots / n_experts);
        return 0;
    }
    const double misses = (1 - in_pool / all) * (1 - POLICY_GAIN);
    model->hit_rate = 1 - misses;
    model->hit_low = 1 - fmin(1, misses * 1.25);
    model->hit_high = 1 - misses * 0.85;
    return 0;
}

int cost_find_hits(struct cost_model *model, struct lode_error *error)
{
    const struct workload *w = model->workload;
    const uint32_t n_experts = workload_experts(w);
    model->hit_rate = model->hit_low = model->hit_high = 1;
    if (!model->homes->pool_bytes || !n_experts)
        return 0;
    uint64_t largest = 1;
    for (uint32_t u = 0; u < w->table->n_units; u++)
        if (model->homes->home[u] == HOME_POOL) {
            const uint64_t bytes = layout_unit_bytes(w->table, u, true);
            largest = bytes > largest ? bytes : largest;
        }
    const uint64_t slots = model->homes->pool_bytes / largest;
    model->n_slots = slots < n_experts ? (uint32_t)slots : n_experts;
    if (model->options.heat)
        return hits_by_heat(model, n_experts, error);
    hits_by_prior(model, (double)model->n_slots / n_experts);
    return 0;
}

double cost_experts_touched(uint32_t n, uint32_t k, double rows)
{
    return n ? n * -expm1(rows * log1p(-fmin(1, (double)k / n))) : 0;
}

double cost_touched(const struct cost_model *model, const struct work_layer *layer, double rows)
{
    const uint32_t n = layer->n_experts;
    if (rows <= 1)
        return rows > 0 ? layer->n_used : 0;
    const double alike = cost_experts_touched(n, layer->n_used, rows);
    if (!model->options.heat)
        return alike;
    uint32_t first = 0; // of the layer, among the experts
    for (const struct work_layer *l = model->workload->layers; l < layer; l++)
        first += l->n_experts;
    double sum = 0, all = 0;
    for (uint32_t e = 0; e < n; e++) {
        const double p = fmin(1, fmax(0, (double)model->options.heat[first + e]));
        all += p;
        sum += p < 1 ? -expm1(rows * log1p(-p)) : 1;
    }
    return all > 0 ? fmax(sum, layer->n_used) : alike;
}
