// Which devices and which memories the experts are in when they are chosen, and how many a batch chooses; see
// cost.h.
#include "placement/cost_internal.h"

#include "placement/layout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POLICY_GAIN (1.0 / 17)

// Topics unlike those of the heat cost a quarter more misses (docs/learned.md, "static on topics unlike").
#define UNLIKE 1.25
#define ALIKE 0.85

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

static void hits_by_prior(struct cost_model *model)
{
    const double share = (double)model->n_slots / model->n_pooled;
    size_t i = 1;
    while (i + 1 < sizeof priors / sizeof *priors && share > priors[i].share)
        i++;
    const struct prior *a = &priors[i - 1], *b = &priors[i];
    const double x = fmin(1, (share - a->share) / (b->share - a->share));
    model->hit_high = a->recorded + x * (b->recorded - a->recorded);
    model->hit_low = a->synthetic + x * (b->synthetic - a->synthetic);
    model->hit_rate = (model->hit_low + model->hit_high) / 2;
}

// What is no number, or below 0, counts as nothing.
static float heat_at(const struct cost_model *model, uint32_t expert)
{
    const float heat = model->options.heat[expert];
    return isfinite(heat) && heat > 0 ? heat : 0;
}

// ---- the hottest of the pool

// Floats that are not negative are ordered as their bits are.
static float *list_pool(const struct cost_model *model)
{
    const struct workload *w = model->workload;
    float *heat = malloc(((size_t)model->n_pooled + 1) * sizeof *heat);
    uint32_t n = 0;
    for (uint32_t l = 0; heat && l < w->n_layers; l++)
        for (uint32_t e = 0; e < w->layers[l].n_experts; e++)
            if (model->homes->home[w->layers[l].first_expert + e] == HOME_POOL)
                heat[n++] = heat_at(model, model->layers[l].first_heat + e);
    return heat;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// The `wanted`-th largest, digit by digit of its bits: of those that have the digits that are known, as many
// are counted by the next one as there are above it.
static float find_largest(const float *heat, uint32_t n, uint32_t wanted)
{
    uint32_t known = 0, mask = 0;
    for (uint32_t shift = 32; shift > 0;) {
        uint32_t count[256] = {0}, digit = 255;
        shift -= 8;
        for (uint32_t i = 0; i < n; i++)
            if ((bits_of(heat[i]) & mask) == known)
                count[bits_of(heat[i]) >> shift & 255]++;
        while (digit > 0 && count[digit] < wanted)
            wanted -= count[digit--];
        known |= digit << shift;
        mask |= 255u << shift;
    }
    float found;
    memcpy(&found, &known, sizeof found);
    return found;
}

// All heat of the experts, and that of the hottest of them, in a few passes: a search among plans asks
// hundreds of times, and sorting 3,840 experts would take most of its time.
static double hottest_mass(const float *heat, uint32_t n, uint32_t hottest, double *out_all)
{
    const float least = hottest ? find_largest(heat, n, hottest) : INFINITY;
    double above = 0;
    uint32_t n_above = 0;
    *out_all = 0;
    for (uint32_t i = 0; i < n; i++) {
        *out_all += (double)heat[i];
        above += heat[i] > least ? (double)heat[i] : 0;
        n_above += heat[i] > least;
    }
    return hottest ? above + (double)(hottest - n_above) * (double)least : 0;
}

static int hits_by_heat(struct cost_model *model, struct lode_error *error)
{
    float *heat = list_pool(model);
    if (!heat)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the heat of %u experts", model->n_pooled);
    double all = 0;
    const double in_pool = hottest_mass(heat, model->n_pooled, model->n_slots, &all);
    free(heat);
    if (!(all > 0)) {
        hits_by_prior(model);
        return 0;
    }
    const double misses = fmax(0, 1 - in_pool / all) * (1 - POLICY_GAIN);
    // Of the choices that fall on no GPU, whose share is uncertain as well.
    const double off = model->off_gpu > 0 ? model->off_gpu : 1;
    const double low = misses * UNLIKE * off / fmax(off, model->off_low);
    const double high = misses * ALIKE * (model->off_high > 0 ? off / model->off_high : 1);
    model->hit_rate = 1 - misses;
    model->hit_low = 1 - fmin(1, low);
    model->hit_high = 1 - fmin(1, high);
    return 0;
}

// ---- shares

// The layer's choices by the device that holds the experts.
static void share_layer(struct cost_layer *layer, const struct cost_model *model,
                        const struct work_layer *work)
{
    double mass[COST_DEVICES] = {0}, all = 0;
    for (uint32_t e = 0; model->options.heat && e < work->n_experts; e++) {
        const uint8_t home = model->homes->home[work->first_expert + e];
        mass[home < HOME_GPU ? COST_CPU : home - HOME_GPU + 1] +=
            (double)heat_at(model, layer->first_heat + e);
    }
    for (uint32_t d = 0; d < COST_DEVICES; d++)
        all += mass[d];
    for (uint32_t d = 0; d < COST_DEVICES; d++)
        layer->share[d] = all > 0 ? mass[d] / all : (double)layer->n_on[d] / work->n_experts;
}

// True where an expert is on a GPU.
static bool find_shares(struct cost_model *model)
{
    const struct workload *w = model->workload;
    const double choices = workload_choices(w);
    double off = 0;
    uint32_t on_gpus = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        struct cost_layer *layer = &model->layers[l];
        if (!w->layers[l].n_experts)
            continue;
        share_layer(layer, model, &w->layers[l]);
        off += layer->share[COST_CPU] * w->layers[l].n_used;
        on_gpus += w->layers[l].n_experts - layer->n_on[COST_CPU];
    }
    model->off_gpu = choices > 0 ? off / choices : 1;
    return on_gpus > 0;
}

int cost_find_hits(struct cost_model *model, struct lode_error *error)
{
    const struct workload *w = model->workload;
    model->hit_rate = model->hit_low = model->hit_high = 1;
    const bool on_gpus = find_shares(model);
    model->off_low = model->off_high = model->off_gpu;
    if (on_gpus && model->options.heat) {
        model->off_low = fmin(1, model->off_gpu * UNLIKE);
        model->off_high = model->off_gpu * ALIKE;
    }
    if (!model->homes->pool_bytes)
        return 0;
    uint64_t largest = 1;
    for (uint32_t u = 0; u < w->table->n_units; u++)
        if (model->homes->home[u] == HOME_POOL) {
            const uint64_t bytes = layout_unit_bytes(w->table, u, true);
            largest = bytes > largest ? bytes : largest;
            model->n_pooled++;
        }
    if (!model->n_pooled)
        return 0;
    const uint64_t slots = model->homes->pool_bytes / largest;
    model->n_slots = slots < model->n_pooled ? (uint32_t)slots : model->n_pooled;
    if (model->options.heat)
        return hits_by_heat(model, error);
    hits_by_prior(model);
    return 0;
}

// ---- batches

double cost_experts_touched(uint32_t n, uint32_t k, double rows)
{
    return n ? n * -expm1(rows * log1p(-fmin(1, (double)k / n))) : 0;
}

static double touched(double p, double rows)
{
    return p >= 1 || p * rows > 20 ? 1 : -expm1(rows * log1p(-p)); // (1 - p)^rows < 2e-9
}

void cost_touched(double out[COST_DEVICES], const struct cost_model *model, uint32_t l, double rows)
{
    const struct work_layer *work = &model->workload->layers[l];
    const struct cost_layer *layer = &model->layers[l];
    memset(out, 0, COST_DEVICES * sizeof *out);
    if (!work->n_experts || rows <= 0)
        return;
    double sum = 0, p_sum = 0;
    if (rows > 1 && model->options.heat)
        for (uint32_t e = 0; e < work->n_experts; e++) {
            const uint8_t home = model->homes->home[work->first_expert + e];
            const double p = fmin(1, (double)heat_at(model, layer->first_heat + e));
            const double chosen = touched(p, rows);
            out[home < HOME_GPU ? COST_CPU : home - HOME_GPU + 1] += chosen;
            sum += chosen;
            p_sum += p;
        }
    const double alike = cost_experts_touched(work->n_experts, work->n_used, rows);
    for (uint32_t d = 0; d < COST_DEVICES; d++) {
        if (rows <= 1)
            out[d] = work->n_used * layer->share[d];
        else if (p_sum > 0)
            out[d] *= fmax(1, work->n_used / sum);
        else
            out[d] = alike * layer->n_on[d] / work->n_experts;
    }
}
