// Sorts the units of a plan, and says which experts the pool would hold.
#include "tools/plan_layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool plan_is_expert(const struct lode_plan_unit *unit)
{
    return unit->layer != UINT32_MAX && strcmp(unit->kind, "expert") == 0;
}

bool plan_uses_gpu(const struct lode_plan *plan, uint32_t gpu)
{
    uint64_t bytes = plan->gpus[gpu].kv_bytes + plan->gpus[gpu].scratch_bytes;
    for (uint32_t i = 0; i < plan->n_groups; i++)
        bytes += plan->groups[i].gpu_bytes[gpu];
    return bytes > 0;
}

const char *plan_home_name(char out[PLAN_HOME_SIZE], uint8_t home)
{
    static const char *const names[] = {[LODE_HOME_RAM] = "ram",
                                        [LODE_HOME_POOL] = "pool",
                                        [LODE_HOME_STREAM] = "stream",
                                        [LODE_HOME_ROWS] = "rows"};
    if (home >= LODE_HOME_GPU)
        snprintf(out, PLAN_HOME_SIZE, "gpu%d", home - LODE_HOME_GPU);
    else
        snprintf(out, PLAN_HOME_SIZE, "%s", names[home]);
    return out;
}

static enum plan_place place_of(uint8_t home)
{
    if (home >= LODE_HOME_GPU && home < LODE_HOME_GPU + LODE_PLAN_GPUS)
        return PLAN_PLACE_GPU + (home - LODE_HOME_GPU);
    return home == LODE_HOME_RAM    ? PLAN_PLACE_RAM
           : home == LODE_HOME_POOL ? PLAN_PLACE_POOL
                                    : PLAN_PLACE_NVME;
}

// ---- order
// ---------------------------------------------------------------------------------------------------

#define COMPARE(a, b) ((a) < (b) ? -1 : (a) > (b))

// By layer, those outside in front; dense units as they come, experts by heat, then by place.
static int compare_units(const void *a, const void *b, void *layers_void)
{
    const struct plan_layers *layers = layers_void;
    const uint32_t u = *(const uint32_t *)a, v = *(const uint32_t *)b;
    const struct lode_plan_unit *left = &layers->plan->units[u], *right = &layers->plan->units[v];
    if (left->layer != right->layer) // UINT32_MAX + 1 is 0
        return COMPARE(left->layer + 1, right->layer + 1);
    const bool experts = plan_is_expert(left);
    if (experts != plan_is_expert(right))
        return experts ? 1 : -1;
    if (experts && left->heat != right->heat)
        return COMPARE(right->heat, left->heat);
    if (experts && layers->place[u] != layers->place[v])
        return COMPARE(layers->place[u], layers->place[v]);
    return COMPARE(u, v);
}

static void find_layers(struct plan_layers *layers)
{
    const struct lode_plan *plan = layers->plan;
    uint32_t at = 0;
    while (at < plan->n_units && plan->units[layers->order[at]].layer == UINT32_MAX)
        at++;
    for (uint32_t l = 0; l < layers->n_layers; l++) {
        uint64_t bytes = 0;
        layers->begin[l] = at;
        for (; at < plan->n_units && plan->units[layers->order[at]].layer == l &&
               !plan_is_expert(&plan->units[layers->order[at]]);
             at++)
            bytes += plan->units[layers->order[at]].bytes;
        layers->experts[l] = at;
        while (at < plan->n_units && plan->units[layers->order[at]].layer == l)
            at++;
        const uint32_t n_dense = layers->experts[l] - layers->begin[l], n_experts = at - layers->experts[l];
        layers->most_dense = n_dense > layers->most_dense ? n_dense : layers->most_dense;
        layers->most_experts = n_experts > layers->most_experts ? n_experts : layers->most_experts;
        layers->most_dense_bytes = bytes > layers->most_dense_bytes ? bytes : layers->most_dense_bytes;
    }
    layers->begin[layers->n_layers] = at;
}

// ---- the pool
// ------------------------------------------------------------------------------------------------

struct pooled {
    uint32_t unit, rank, layer; // rank: in the layer's order
    float heat;
};

// Without heat, each layer has as many as any other.
static int compare_pooled(const void *a, const void *b)
{
    const struct pooled *left = a, *right = b;
    if (left->heat != right->heat)
        return COMPARE(right->heat, left->heat);
    if (left->rank != right->rank)
        return COMPARE(left->rank, right->rank);
    return COMPARE(left->layer, right->layer);
}

// What the group has in RAM beyond the experts that stay there.
static uint64_t pool_bytes(const struct lode_plan *plan)
{
    uint64_t bytes = 0, staying = 0;
    for (uint32_t g = 0; g < plan->n_groups; g++)
        if (strcmp(plan->groups[g].kind, "expert") == 0)
            bytes += plan->groups[g].ram_bytes;
    for (uint32_t u = 0; u < plan->n_units; u++)
        if (plan_is_expert(&plan->units[u]) && plan->units[u].home == LODE_HOME_RAM)
            staying += plan->units[u].bytes;
    return bytes > staying ? bytes - staying : 0;
}

static bool fill_pool(struct plan_layers *layers)
{
    const struct lode_plan *plan = layers->plan;
    struct pooled *pooled = calloc(plan->n_units + (size_t)1, sizeof *pooled);
    if (!pooled)
        return false;
    for (uint32_t l = 0; l < layers->n_layers; l++)
        for (uint32_t i = layers->experts[l], rank = 0; i < layers->begin[l + 1]; i++) {
            const uint32_t u = layers->order[i];
            if (layers->place[u] == PLAN_PLACE_POOL)
                pooled[layers->n_pooled++] = (struct pooled){u, rank++, l, plan->units[u].heat};
        }
    qsort(pooled, layers->n_pooled, sizeof *pooled, compare_pooled);
    uint64_t left_bytes = pool_bytes(plan);
    for (uint32_t i = 0; i < layers->n_pooled; i++) {
        const uint64_t bytes = plan->units[pooled[i].unit].bytes;
        if (bytes > left_bytes) {
            layers->place[pooled[i].unit] = PLAN_PLACE_NVME;
            continue;
        }
        left_bytes -= bytes;
        layers->n_in_pool++;
    }
    free(pooled);
    return true;
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

bool plan_layers_open(struct plan_layers *out, const struct lode_plan *plan)
{
    *out = (struct plan_layers){.plan = plan};
    for (uint32_t u = 0; u < plan->n_units; u++) {
        const struct lode_plan_unit *unit = &plan->units[u];
        if (unit->layer != UINT32_MAX && unit->layer >= out->n_layers)
            out->n_layers = unit->layer + 1;
        if (unit->heat > out->most_heat)
            out->most_heat = unit->heat;
    }
    out->order = calloc(plan->n_units + (size_t)1, sizeof *out->order);
    out->place = calloc(plan->n_units + (size_t)1, sizeof *out->place);
    out->begin = calloc(out->n_layers + (size_t)1, sizeof *out->begin);
    out->experts = calloc(out->n_layers + (size_t)1, sizeof *out->experts);
    if (!out->order || !out->place || !out->begin || !out->experts)
        return false;
    for (uint32_t u = 0; u < plan->n_units; u++) {
        out->order[u] = u;
        out->place[u] = place_of(plan->units[u].home);
    }
    qsort_r(out->order, plan->n_units, sizeof *out->order, compare_units, out);
    find_layers(out);
    if (!fill_pool(out))
        return false;
    // In a layer without heat the pool's stand together now.
    qsort_r(out->order, plan->n_units, sizeof *out->order, compare_units, out);
    return true;
}

void plan_layers_close(struct plan_layers *layers)
{
    free(layers->order);
    free(layers->place);
    free(layers->begin);
    free(layers->experts);
    *layers = (struct plan_layers){0};
}
