// Random models and machines for the tests of the planner; see plan_world.h.
#include "tests/plan_world.h"

#include "placement/layout.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)

uint32_t plan_world_random(struct plan_world *world, uint32_t end)
{
    world->random = world->random * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(world->random >> 8) * end >> 24);
}

double plan_world_between(struct plan_world *world, double a, double b)
{
    return a * pow(b / a, plan_world_random(world, 10001) / 10000.0);
}

// ---- machines

static struct profile_curve flat(double y)
{
    return (struct profile_curve){.n_points = 2, .points = {{1, y, 0}, {1e6, y, 0}}};
}

// Up to so many rows as fast as memory, beyond them in proportion to the rows.
static struct profile_curve bound(double gbps, double rows)
{
    return (struct profile_curve){.n_points = 3,
                                  .points = {{1, gbps, 0}, {rows, gbps, 0}, {64 * rows, gbps / 64, 0}}};
}

static void set_device(struct profile_device *device, double memory_gbps, double rows)
{
    device->read_gbps = flat(memory_gbps);
    device->attention_decode_gbps = flat(0.7 * memory_gbps);
    device->attention_prefill_gflops = flat(rows * memory_gbps);
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (lode_type_find(type))
            device->kernels[type] = (struct profile_kernels){.known = true,
                                                             .dense_gbps = bound(memory_gbps, rows),
                                                             .expert_gbps = bound(0.8 * memory_gbps, rows)};
}

void plan_world_machine(struct machine_profile *out, double memory_gbps, double drive_gbps)
{
    machine_profile_clear(out);
    snprintf(out->name, sizeof out->name, "test");
    snprintf(out->cpu.backend, sizeof out->cpu.backend, "cpu");
    out->cpu.cores = out->cpu.threads = 8;
    out->cpu.memory_bytes = 64 * 1024 * MIB;
    set_device(&out->cpu, memory_gbps, 4);
    out->cpu.operation_us = 0.5;
    out->n_drives = 1;
    out->drives[0].direct_gbps =
        (struct profile_curve){.n_points = 2, .points = {{1, drive_gbps / 3, 0}, {16, drive_gbps, 0}}};
    out->drives[0].latency_us = 100;
}

void plan_world_add_gpu(struct machine_profile *profile, double memory_gbps, double link_gbps,
                        uint64_t memory_bytes)
{
    struct profile_device *gpu = &profile->gpus[profile->n_gpus++];
    snprintf(gpu->name, sizeof gpu->name, "GPU");
    snprintf(gpu->backend, sizeof gpu->backend, "cuda");
    gpu->memory_bytes = memory_bytes;
    set_device(gpu, memory_gbps, 32);
    gpu->operation_us = 4;
    gpu->sync_us = 15;
    gpu->upload_pinned_gbps = gpu->download_pinned_gbps = flat(link_gbps);
    gpu->upload_pageable_gbps = gpu->download_pageable_gbps = flat(link_gbps / 2);
}

static void draw_machine(struct plan_world *w, uint32_t n_gpus)
{
    plan_world_machine(&w->profile, plan_world_between(w, 8, 90), plan_world_between(w, 0.4, 8));
    for (uint32_t g = 0; g < n_gpus; g++) {
        plan_world_add_gpu(&w->profile, plan_world_between(w, 40, 1200), plan_world_between(w, 3, 40),
                           64 * 1024 * MIB);
        w->profile.gpus[g].shares_memory = plan_world_random(w, 8) == 0;
    }
}

// ---- models

static void add_part(struct plan_world *w, uint32_t rows, uint32_t cols)
{
    struct lode_error error;
    uint64_t row_bytes;
    cr_assert_eq(lode_type_row_bytes(&row_bytes, LODE_Q4_0, cols), true);
    const struct extent extent = {.offset = w->end, .bytes = rows * row_bytes};
    cr_assert_eq(unit_table_add_part(&w->table, extent, &error), 0);
    w->end += (extent.bytes + 31) / 32 * 32;
}

static void add_unit(struct plan_world *w, enum unit_class class, uint32_t layer, uint32_t index)
{
    struct lode_error error;
    cr_assert_eq(unit_table_add(&w->table, class, 0, layer, index, &error), 0);
}

static void describe_parts(struct plan_world *w, uint32_t unit, uint32_t rows, uint32_t cols)
{
    for (uint32_t i = 0; i < w->work.units[unit].n; i++) {
        const uint32_t part = w->work.units[unit].first + i;
        w->work.matrices[part] = (struct work_matrix){
            .type = LODE_Q4_0, .rows = rows, .cols = cols, .bytes = w->table.parts[part].bytes};
    }
}

struct widths {
    uint32_t hidden, attention[PLAN_WORLD_LAYERS], ffn[PLAN_WORLD_LAYERS], expert[PLAN_WORLD_LAYERS], vocab;
};

static void add_units(struct plan_world *w, const struct plan_world_size *size, const struct widths *widths)
{
    const uint32_t n = widths->hidden;
    add_unit(w, UNIT_DENSE, UNIT_NO_LAYER, 0);
    add_part(w, widths->vocab, n);
    if (size->rows) {
        add_unit(w, UNIT_ROWS, UNIT_NO_LAYER, 1);
        add_part(w, widths->vocab, n);
    }
    for (uint32_t l = 0; l < size->n_layers; l++) {
        add_unit(w, UNIT_FIXED, l, 0);
        add_part(w, 1, n);
        add_unit(w, UNIT_DENSE, l, 1);
        add_part(w, widths->attention[l], n);
        add_unit(w, UNIT_DENSE, l, 2);
        add_part(w, widths->ffn[l], n);
        for (uint32_t e = 0; e < size->n_experts; e++) {
            add_unit(w, UNIT_EXPERT, l, e);
            add_part(w, widths->expert[l], n);
        }
    }
}

static void describe_layer(struct plan_world *w, const struct plan_world_size *size,
                           const struct widths *widths, uint32_t l, uint32_t n_used)
{
    const uint32_t per_layer = 3 + size->n_experts, first = 1 + size->rows + l * per_layer;
    struct work_layer *layer = &w->work.layers[l];
    *layer = (struct work_layer){.first_unit = first,
                                 .n_units = per_layer,
                                 .q_heads = 8,
                                 .kv_heads = 4,
                                 .head_size = 128,
                                 .window = plan_world_random(w, 2) ? 1024 : 0,
                                 .kv_layer = l,
                                 .operations = 12};
    describe_parts(w, first, 1, widths->hidden);
    describe_parts(w, first + 1, widths->attention[l], widths->hidden);
    describe_parts(w, first + 2, widths->ffn[l], widths->hidden);
    w->work.units[first + 1].attends = true;
    w->kv_bytes[l] = MIB * (1 + plan_world_random(w, layer->window ? 8 : 60));
    w->group_of[l] = w->n_groups++;
    if (size->shares_kv && l && plan_world_random(w, 4) == 0) {
        layer->kv_layer = w->work.layers[plan_world_random(w, l)].kv_layer;
        w->kv_bytes[l] = 0;
        w->group_of[l] = w->group_of[layer->kv_layer];
        w->n_groups--;
    }
    if (!size->n_experts)
        return;
    layer->n_experts = size->n_experts;
    layer->n_used = n_used;
    layer->first_expert = first + 3;
    layer->guess_operations = 2;
    w->work.units[first + 2].hides_reads = true;
    w->work.units[first].guesses = true;
    for (uint32_t e = 0; e < size->n_experts; e++)
        describe_parts(w, first + 3 + e, widths->expert[l], widths->hidden);
}

// Shares of the choices that fall off geometrically in a random order; none is chosen more than once a token.
static void draw_heat(struct plan_world *w, uint32_t n_layers, uint32_t n, uint32_t n_used)
{
    for (uint32_t l = 0; l < n_layers; l++) {
        float *heat = w->heat + (size_t)l * n;
        double all = 0;
        for (uint32_t e = 0; e < n; e++) {
            heat[e] = (float)plan_world_between(w, 0.02, 1);
            all += (double)heat[e];
        }
        for (uint32_t e = 0; e < n; e++)
            heat[e] = (float)fmin(0.95, (double)heat[e] / all * n_used);
    }
}

static void draw_model(struct plan_world *w, const struct plan_world_size *size)
{
    struct widths widths = {.hidden = 1024, .vocab = 4096 * (1 + plan_world_random(w, 16))};
    for (uint32_t l = 0; l < size->n_layers; l++) { // most layers are alike
        const bool alike = l && plan_world_random(w, 4);
        widths.attention[l] = alike ? widths.attention[l - 1] : 256 * (8 + plan_world_random(w, 60));
        widths.ffn[l] = alike ? widths.ffn[l - 1] : 256 * (8 + plan_world_random(w, 90));
        widths.expert[l] = alike ? widths.expert[l - 1] : 256 * (4 + plan_world_random(w, 24));
    }
    const uint32_t n_used = size->n_experts ? 1 + plan_world_random(w, (size->n_experts + 1) / 2) : 0;
    struct lode_error error;
    add_units(w, size, &widths);
    cr_assert_eq(workload_open(&w->work, &w->table, size->n_layers, &error), 0);
    w->work.hidden = widths.hidden;
    w->work.vocab = widths.vocab;
    w->work.context_limit = 32768;
    w->work.operations = w->work.head_operations = 2;
    describe_parts(w, 0, widths.vocab, widths.hidden);
    w->work.matrices[w->work.units[0].first].when = WORK_WANTED_ROWS;
    if (size->rows) {
        uint64_t row_bytes = 0;
        describe_parts(w, 1, widths.vocab, widths.hidden);
        lode_type_row_bytes(&row_bytes, LODE_Q4_0, widths.hidden);
        w->work.tables[w->work.n_tables++] = (struct work_rows_table){.unit = 1, .row_bytes = row_bytes};
    }
    for (uint32_t l = 0; l < size->n_layers; l++)
        describe_layer(w, size, &widths, l, n_used);
    w->n_experts = size->n_layers * size->n_experts;
    if (size->heat && w->n_experts) {
        w->heat = calloc(w->n_experts, sizeof *w->heat);
        draw_heat(w, size->n_layers, size->n_experts, n_used);
    }
}

// ---- budgets

static uint64_t gpu_bytes_of_all(const struct plan_world *w)
{
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < w->table.n_units; u++)
        bytes += layout_unit_bytes(&w->table, u, false);
    for (uint32_t l = 0; l < w->work.n_layers; l++)
        bytes += w->kv_bytes[l];
    return bytes;
}

static void draw_problem(struct plan_world *w, const struct plan_world_size *size)
{
    static const uint32_t tokens[PLAN_WORLD_BATCHES] = {128, 512, 1024};
    const uint32_t first = size->n_batches < PLAN_WORLD_BATCHES ? 1 : 0;
    for (uint32_t b = 0; b < size->n_batches; b++) {
        const uint32_t n = tokens[(first + b) % PLAN_WORLD_BATCHES];
        w->batches[b] =
            (struct plan_batch){.tokens = n, .scratch_bytes = n * 20000, .gpu_scratch_bytes = n * 10000};
    }
    const uint64_t all = gpu_bytes_of_all(w);
    const uint64_t floor = homes_floor_bytes(&w->table, true), full = homes_full_bytes(&w->table, true);
    uint64_t kv = w->batches[0].scratch_bytes;
    for (uint32_t l = 0; l < size->n_layers; l++)
        kv += w->kv_bytes[l];
    // From a little less than what works to a little more than all.
    const double ram = (double)floor * 0.9 +
                       ((double)full * 1.15 - (double)floor * 0.9) * plan_world_random(w, 1001) / 1000.0;
    w->problem = (struct plan_problem){.workload = &w->work,
                                       .profile = &w->profile,
                                       .ram_bytes = (uint64_t)ram + kv,
                                       .kv_bytes = w->kv_bytes,
                                       .batches = w->batches,
                                       .n_batches = size->n_batches,
                                       .options = {.heat = w->heat},
                                       .context = plan_world_random(w, 2) * 4096,
                                       .prompt_tokens = 64 + plan_world_random(w, 1500),
                                       .generated_tokens = 16 + plan_world_random(w, 500)};
    for (uint32_t g = 0; g < size->n_gpus; g++)
        w->problem.vram_bytes[g] = (uint64_t)((double)all * plan_world_random(w, 1001) / 900.0);
}

struct plan_world *plan_world_open(const struct plan_world_size *size)
{
    struct plan_world *w = calloc(1, sizeof *w);
    cr_assert(w && size->n_layers <= PLAN_WORLD_LAYERS);
    w->random = size->seed * 2654435761u + 12345;
    draw_machine(w, size->n_gpus);
    draw_model(w, size);
    draw_problem(w, size);
    return w;
}

void plan_world_close(struct plan_world *world)
{
    workload_close(&world->work);
    unit_table_free(&world->table);
    free(world->heat);
    free(world);
}

// ---- counting anew

void plan_world_place(uint8_t *device, const struct workload *work, uint32_t layer, uint32_t to)
{
    for (uint32_t u = 0; u < work->table->n_units; u++) {
        const struct unit *unit = &work->table->units[u];
        if (unit->layer == layer && unit->class != UNIT_EXPERT && unit->class != UNIT_ROWS)
            device[u] = (uint8_t)to;
    }
}

void plan_world_place_experts(uint8_t *device, const struct workload *work, uint32_t layer, uint32_t to)
{
    for (uint32_t e = 0; e < work->layers[layer].n_experts; e++)
        device[work->layers[layer].first_expert + e] = (uint8_t)to;
}

// What is left of RAM for weights; false when a memory is too small.
static bool count(uint64_t *out_ram, const struct plan_problem *p, const uint8_t *device, uint32_t batch)
{
    const struct workload *w = p->workload;
    uint64_t on[1 + HOME_GPUS] = {p->batches[batch].scratch_bytes};
    bool used[1 + HOME_GPUS] = {false};
    for (uint32_t u = 0; u < w->table->n_units; u++)
        if (device[u]) {
            on[device[u]] += layout_unit_bytes(w->table, u, false);
            used[device[u]] = true;
        }
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint32_t i = 0; i < w->layers[l].n_units; i++)
            if (w->units[w->layers[l].first_unit + i].attends)
                on[device[w->layers[l].first_unit + i]] += p->kv_bytes[l];
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        if (!used[1 + g])
            continue;
        on[1 + g] += p->batches[batch].gpu_scratch_bytes;
        if (on[1 + g] > p->vram_bytes[g])
            return false;
        on[0] += p->profile->gpus[g].shares_memory ? on[1 + g] : 0;
    }
    *out_ram = p->ram_bytes > on[0] ? p->ram_bytes - on[0] : 0;
    return on[0] <= p->ram_bytes;
}

bool plan_world_turn(double *out_turn_s, const struct plan_problem *problem, const uint8_t *device,
                     uint32_t batch, uint32_t ring)
{
    struct homes homes;
    struct lode_error error;
    struct homes_request request = {.host_memory = true, .ring_bytes = problem->ring_bytes, .gpu = device};
    const struct unit_table *table = problem->workload->table;
    if (!count(&request.budget_bytes, problem, device, batch) ||
        homes_bounds(table, &request).floor_bytes > request.budget_bytes)
        return false;
    cr_assert_eq(homes_divide(&homes, table, &request, &error), 0, "%s", error.text);
    if (ring) {
        request.ring_bytes = homes.ring_bytes << ring;
        const bool streams = homes.ring_bytes && !problem->ring_bytes;
        homes_free(&homes);
        if (!streams)
            return false;
        cr_assert_eq(homes_divide(&homes, table, &request, &error), 0, "%s", error.text);
    }
    cr_assert_eq(plan_turn_seconds(out_turn_s, problem, &homes, problem->batches[batch].tokens, &error), 0,
                 "%s", error.text);
    homes_free(&homes);
    return true;
}

uint32_t plan_world_default_batch(const struct plan_problem *problem)
{
    uint32_t best = 0;
    for (uint32_t b = 0; b < problem->n_batches; b++)
        best = problem->batches[b].tokens <= 512 ? b : best;
    return best;
}

double plan_world_score(const struct plan_problem *problem, double turn_s, uint32_t batch, uint32_t ring)
{
    return turn_s / (batch == plan_world_default_batch(problem) ? 1 : 0.98) / (ring ? 0.99 : 1);
}

// ---- what must hold of a plan

static uint32_t device_of(const struct plan *plan, uint32_t unit)
{
    return plan->homes.home[unit] >= HOME_GPU ? plan->homes.home[unit] - HOME_GPU + 1u : 0;
}

static void check_groups(const struct workload *w, const struct plan *plan)
{
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct work_layer *layer = &w->layers[l];
        const uint32_t first = device_of(plan, layer->first_unit);
        for (uint32_t i = 0; i < layer->n_units; i++)
            if (w->table->units[layer->first_unit + i].class != UNIT_EXPERT)
                cr_assert_eq(device_of(plan, layer->first_unit + i), first, "layer %u", l);
        cr_assert_eq(first, device_of(plan, w->layers[layer->kv_layer].first_unit), "K and V of layer %u", l);
    }
    for (uint32_t u = 0; u < w->table->n_units; u++)
        if (w->table->units[u].class == UNIT_ROWS)
            cr_assert_eq(plan->homes.home[u], HOME_ROWS);
}

// Whether the ring is larger than it would be without a wish.
static bool has_large_ring(const struct plan_problem *problem, const struct plan *plan, const uint8_t *device,
                           uint64_t ram)
{
    struct homes homes;
    struct lode_error error;
    const struct homes_request request = {
        .budget_bytes = ram, .host_memory = true, .ring_bytes = problem->ring_bytes, .gpu = device};
    cr_assert_eq(homes_divide(&homes, problem->workload->table, &request, &error), 0, "%s", error.text);
    const bool large = plan->homes.ring_bytes != homes.ring_bytes;
    homes_free(&homes);
    return large;
}

double plan_world_check(const struct plan_problem *problem, const struct plan *plan)
{
    const struct workload *w = problem->workload;
    uint8_t *device = calloc(w->table->n_units + 1u, 1);
    uint32_t batch = 0;
    uint64_t ram, kv = 0, kv_told = plan->kv_ram_bytes;
    double turn_s;
    while (problem->batches[batch].tokens != plan->batch)
        cr_assert_lt(++batch, problem->n_batches);
    check_groups(w, plan);
    for (uint32_t u = 0; u < w->table->n_units; u++)
        device[u] = (uint8_t)device_of(plan, u);
    cr_assert(count(&ram, problem, device, batch), "a budget is exceeded");
    cr_assert_leq(plan->homes.pinned_bytes + plan->homes.ring_bytes + plan->homes.pool_bytes +
                      plan->homes.rows_bytes,
                  ram);
    for (uint32_t l = 0; l < w->n_layers; l++)
        kv += problem->kv_bytes[l];
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        cr_assert_leq(plan->homes.gpu_bytes[g] + plan->kv_gpu_bytes[g] + plan->gpu_scratch_bytes[g],
                      problem->vram_bytes[g]);
        cr_assert_eq(plan->gpu_scratch_bytes[g] > 0, plan->homes.gpu_bytes[g] > 0);
        kv_told += plan->kv_gpu_bytes[g];
    }
    cr_assert_eq(kv, kv_told);
    struct lode_error error;
    cr_assert_eq(plan_turn_seconds(&turn_s, problem, &plan->homes, plan->batch, &error), 0, "%s", error.text);
    cr_assert_float_eq(turn_s, plan->turn_s, 1e-6 * turn_s, "%g, the cost model says %g", plan->turn_s,
                       turn_s);
    cr_assert(plan->decode.fast_s <= plan->decode.seconds && plan->decode.seconds <= plan->decode.slow_s);
    for (uint32_t i = 1; i < plan->n_refused; i++) {
        const struct plan_refused *a = &plan->refused[i - 1], *b = &plan->refused[i];
        cr_assert(a->fits >= b->fits && (!b->fits || a->turn_s <= b->turn_s), "\"%s\" before \"%s\"", a->what,
                  b->what);
    }
    const bool large_ring = has_large_ring(problem, plan, device, ram);
    free(device);
    return plan_world_score(problem, plan->turn_s, batch, large_ring);
}
