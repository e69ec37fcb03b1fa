// What may be chosen: groups of layers, experts by heat, and the memory that a choice takes.
#include "placement/layout.h"
#include "placement/plan_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_BATCH 512

// What the search may compute, in microseconds as plan_time.c counts them: a plan for 26B and two GPUs shall
// take less than 0.2 s.
#define MOST_EFFORT 120000

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t beyond(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

// ---- groups

// Layers that share K and V come together under the lowest of them.
static void find_groups(struct plan_space *s)
{
    const struct workload *w = s->work;
    uint32_t *first = s->layer_group; // for the moment: the lowest layer of the group
    for (uint32_t l = 0; l < w->n_layers; l++)
        first[l] = l;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t l = 0; l < w->n_layers; l++) {
            const uint32_t other = w->layers[l].kv_layer < w->n_layers ? w->layers[l].kv_layer : l;
            const uint32_t least = first[l] < first[other] ? first[l] : first[other];
            changed = changed || first[l] != least || first[other] != least;
            first[l] = first[other] = least;
        }
    }
    s->n_groups = 0;
    for (uint32_t l = 0; l < w->n_layers; l++)
        first[l] = first[l] == l ? s->n_groups++ : first[first[l]]; // lower layers have their group already
    s->n_groups++;
}

static void fill_groups(struct plan_space *s)
{
    const struct unit_table *table = s->work->table;
    for (uint32_t l = 0; l < s->work->n_layers; l++) {
        struct plan_group *group = &s->groups[s->layer_group[l]];
        group->n_layers++;
        group->kv_bytes = sum(group->kv_bytes, s->problem->kv_bytes[l]);
        group->gpu_bytes = sum(group->gpu_bytes, s->problem->kv_bytes[l]);
    }
    for (uint32_t u = 0; u < s->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const bool in_layer = unit->layer < s->work->n_layers;
        struct plan_group *group = &s->groups[in_layer ? s->layer_group[unit->layer] : s->n_groups - 1];
        s->unit_bytes[u] = layout_unit_bytes(table, u, false);
        s->unit_group[u] = PLAN_NONE;
        if (unit->class == UNIT_EXPERT)
            group->experts_gpu_bytes = sum(group->experts_gpu_bytes, s->unit_bytes[u]);
        if (unit->class == UNIT_EXPERT || unit->class == UNIT_ROWS)
            continue;
        s->unit_group[u] = (uint32_t)(group - s->groups);
        group->gpu_bytes = sum(group->gpu_bytes, s->unit_bytes[u]);
        group->n_units++;
    }
}

// ---- experts

static int hotter_first(const void *a, const void *b)
{
    const struct plan_expert *x = a, *y = b;
    if (x->heat != y->heat)
        return x->heat < y->heat ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static int falling(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// A layer of whose experts nothing is known chooses them alike.
static void fill_layer_experts(struct plan_space *s, const struct work_layer *layer, uint32_t at)
{
    const float *heat = s->problem->options.heat;
    double all = 0;
    for (uint32_t e = 0; e < layer->n_experts; e++)
        all += heat ? fmax(0, (double)heat[at + e]) : 0;
    for (uint32_t e = 0; e < layer->n_experts; e++)
        s->experts[at + e] = (struct plan_expert){
            .unit = layer->first_expert + e,
            .index = at + e,
            .heat = all > 0 ? fmin(1, fmax(0, (double)heat[at + e]))
                            : fmin(1, (double)layer->n_used / layer->n_experts),
        };
    qsort(s->experts + at, layer->n_experts, sizeof *s->experts, hotter_first);
    double heat_sum = 0;
    uint64_t bytes_sum = 0;
    for (uint32_t e = 0; e < layer->n_experts; e++) {
        struct plan_expert *expert = &s->experts[at + e];
        expert->heat_sum = heat_sum += expert->heat;
        expert->bytes_sum = bytes_sum = sum(bytes_sum, s->unit_bytes[expert->unit]);
    }
}

static void sum_touched(struct plan_space *s, uint32_t batch, uint32_t l)
{
    const struct plan_problem *p = s->problem;
    const uint32_t most = p->batches[batch].tokens, rows = p->prompt_tokens < most ? p->prompt_tokens : most;
    double sum = 0;
    for (uint32_t rank = 0; rank < s->work->layers[l].n_experts; rank++) {
        const uint32_t at = s->layer_expert[l] + rank;
        const double heat = s->experts[at].heat;
        sum += heat < 1 ? -expm1(rows * log1p(-heat)) : rows > 0;
        s->touched_sum[(size_t)batch * s->n_experts + at] = sum;
    }
}

static void fill_experts(struct plan_space *s)
{
    const struct workload *w = s->work;
    const struct plan_problem *p = s->problem;
    uint32_t at = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        s->layer_expert[l] = at;
        fill_layer_experts(s, &w->layers[l], at);
        at += w->layers[l].n_experts;
    }
    for (uint32_t e = 0; e < s->n_experts; e++)
        s->heat_falling[e] = s->experts[e].heat;
    qsort(s->heat_falling, s->n_experts, sizeof *s->heat_falling, falling);
    for (uint32_t b = 0; b < p->n_batches; b++)
        for (uint32_t l = 0; l < w->n_layers; l++)
            sum_touched(s, b, l);
}

// ---- the space

static void settle(struct plan_space *s)
{
    const struct plan_problem *p = s->problem;
    for (uint32_t g = 0; g < p->profile->n_gpus && g < HOME_GPUS; g++)
        if (p->vram_bytes[g])
            s->gpus[s->n_gpus++] = g;
    for (uint32_t b = 0; b < p->n_batches; b++)
        if (p->batches[b].tokens <= DEFAULT_BATCH)
            s->default_batch = b;
    s->most_effort = MOST_EFFORT;
}

int plan_space_open(struct plan_space *out, const struct plan_problem *problem, struct lode_error *error)
{
    const struct workload *w = problem->workload;
    *out = (struct plan_space){
        .problem = problem, .work = w, .n_units = w->table->n_units, .n_experts = workload_experts(w)};
    struct plan_space *s = out;
    if (!problem->n_batches || problem->n_batches > 64 ||
        (!problem->prompt_tokens && !problem->generated_tokens))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a plan is for a turn of some tokens, with 1 to 64 batches to choose from");
    const size_t layers = (size_t)w->n_layers + 1, units = (size_t)s->n_units + 1,
                 experts = (size_t)s->n_experts + 1;
    s->groups = calloc(layers, sizeof *s->groups);
    s->layer_group = calloc(layers, sizeof *s->layer_group);
    s->layer_expert = calloc(layers, sizeof *s->layer_expert);
    s->unit_group = calloc(units, sizeof *s->unit_group);
    s->unit_bytes = calloc(units, sizeof *s->unit_bytes);
    s->experts = calloc(experts, sizeof *s->experts);
    s->heat_falling = calloc(experts, sizeof *s->heat_falling);
    s->touched_sum = calloc(experts * problem->n_batches, sizeof *s->touched_sum);
    if (!s->groups || !s->layer_group || !s->layer_expert || !s->unit_group || !s->unit_bytes ||
        !s->experts || !s->heat_falling || !s->touched_sum)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to plan for %u units", s->n_units);
    settle(s);
    find_groups(s);
    fill_groups(s);
    fill_experts(s);
    return 0;
}

void plan_space_close(struct plan_space *space)
{
    free(space->groups);
    free(space->layer_group);
    free(space->layer_expert);
    free(space->unit_group);
    free(space->unit_bytes);
    free(space->experts);
    free(space->heat_falling);
    free(space->touched_sum);
    memset(space, 0, sizeof *space);
}

// ---- choices

int plan_choice_open(struct plan_choice *out, const struct plan_space *space, struct lode_error *error)
{
    *out = (struct plan_choice){.device = calloc((size_t)space->n_units + space->n_groups, 1)};
    if (!out->device)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to plan for %u units", space->n_units);
    out->place = out->device + space->n_units;
    plan_choice_clear(out, space);
    return 0;
}

void plan_choice_close(struct plan_choice *choice)
{
    free(choice->device);
    *choice = (struct plan_choice){0};
}

void plan_choice_clear(struct plan_choice *choice, const struct plan_space *space)
{
    memset(choice->device, 0, (size_t)space->n_units + space->n_groups);
    choice->batch = space->default_batch;
    choice->ring = 0;
    choice->short_bytes = PLAN_IMPOSSIBLE;
    choice->score = choice->turn_s = choice->decode_s = INFINITY;
}

void plan_choice_copy(struct plan_choice *to, const struct plan_choice *from, const struct plan_space *space)
{
    uint8_t *device = to->device;
    *to = *from;
    to->device = device;
    to->place = device + space->n_units;
    memcpy(device, from->device, (size_t)space->n_units + space->n_groups);
}

bool plan_choice_same(const struct plan_choice *a, const struct plan_choice *b,
                      const struct plan_space *space)
{
    return a->batch == b->batch && a->ring == b->ring && !memcmp(a->device, b->device, space->n_units);
}

bool plan_choice_better(const struct plan_choice *a, const struct plan_choice *b)
{
    if (a->short_bytes != b->short_bytes)
        return a->short_bytes < b->short_bytes;
    return a->score < b->score * (1 - 1e-7);
}

void plan_place_group(struct plan_choice *choice, const struct plan_space *space, uint32_t group,
                      uint32_t device)
{
    const struct unit_table *table = space->work->table;
    choice->place[group] = (uint8_t)device;
    if (group == space->n_groups - 1) {
        for (uint32_t u = 0; u < space->n_units; u++)
            if (space->unit_group[u] == group)
                choice->device[u] = (uint8_t)device;
        return;
    }
    for (uint32_t l = 0; l < space->work->n_layers; l++) {
        const struct work_layer *layer = &space->work->layers[l];
        for (uint32_t i = 0; i < layer->n_units && space->layer_group[l] == group; i++)
            if (table->units[layer->first_unit + i].class != UNIT_EXPERT &&
                table->units[layer->first_unit + i].class != UNIT_ROWS)
                choice->device[layer->first_unit + i] = (uint8_t)device;
    }
}

void plan_count_room(struct plan_room *out, const struct plan_space *space, const struct plan_choice *choice)
{
    const struct plan_problem *p = space->problem;
    const struct plan_batch *batch = &p->batches[choice->batch];
    *out = (struct plan_room){.scratch_bytes = batch->scratch_bytes};
    uint64_t ram = out->scratch_bytes;
    bool used[HOME_GPUS] = {false};
    for (uint32_t u = 0; u < space->n_units; u++)
        if (choice->device[u]) {
            const uint32_t g = choice->device[u] - 1u;
            used[g] = true;
            out->gpu_bytes[g] = sum(out->gpu_bytes[g], space->unit_bytes[u]);
        }
    for (uint32_t i = 0; i < space->n_groups; i++) {
        uint64_t *kv = choice->place[i] ? &out->kv_gpu_bytes[choice->place[i] - 1] : &out->kv_ram_bytes;
        *kv = sum(*kv, space->groups[i].kv_bytes);
    }
    ram = sum(ram, out->kv_ram_bytes);
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        if (!used[g])
            continue;
        out->gpu_scratch_bytes[g] = batch->gpu_scratch_bytes;
        out->gpu_bytes[g] = sum(sum(out->gpu_bytes[g], out->kv_gpu_bytes[g]), batch->gpu_scratch_bytes);
        out->short_bytes = sum(out->short_bytes, beyond(out->gpu_bytes[g], p->vram_bytes[g]));
        if (p->profile->gpus[g].shares_memory)
            ram = sum(ram, out->gpu_bytes[g]);
    }
    out->short_bytes = sum(out->short_bytes, beyond(ram, p->ram_bytes));
    out->weights_ram_bytes = beyond(p->ram_bytes, ram);
}
