// Long runs of the pool: against a second, simple one that only counts, under every policy, with experts of
// unlike sizes, and from a warm start.
#include "placement/homes.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#define PAGE IO_ALIGN_BYTES
#define LAYERS WORLD_LAYERS
#define EXPERTS WORLD_EXPERTS
#define EXPERT_BYTES (2 * PAGE)
#define N_UNITS (1 + LAYERS * EXPERTS)

// ---- a second pool, of the lru policy, in which every read is over at once

enum { MODEL_SLOTS = 24, USED = 4 };

struct model_slot {
    uint32_t unit; // 0: empty
    bool pinned, expected, guessed;
};

struct model {
    struct model_slot slots[MODEL_SLOTS];
    uint64_t last_use[N_UNITS], n_uses;
    uint64_t n_hits, n_choices, n_reused, useful_bytes, wasted_bytes, read_bytes;
    uint64_t layer_hits[LAYERS], layer_bytes[LAYERS];
    uint32_t expected_layer;
    bool chosen_before[N_UNITS], chosen_now[N_UNITS];
};

static struct model_slot *model_find(struct model *m, uint32_t unit)
{
    for (uint32_t i = 0; i < MODEL_SLOTS; i++)
        if (m->slots[i].unit == unit)
            return &m->slots[i];
    return NULL;
}

// An empty slot, or the one that was used longest ago of those that may leave.
static struct model_slot *model_victim(struct model *m)
{
    struct model_slot *victim = model_find(m, 0);
    for (uint32_t i = 0; i < MODEL_SLOTS && !(victim && victim->unit == 0); i++) {
        struct model_slot *slot = &m->slots[i];
        if (!slot->pinned && !slot->expected &&
            (!victim || m->last_use[slot->unit] < m->last_use[victim->unit]))
            victim = slot;
    }
    return victim;
}

static void model_read(struct model *m, struct model_slot *slot, uint32_t unit)
{
    *slot = (struct model_slot){.unit = unit};
    m->read_bytes += EXPERT_BYTES;
    m->layer_bytes[(unit - 1) / EXPERTS] += EXPERT_BYTES;
}

static void model_settle(struct model *m, uint32_t layer)
{
    for (uint32_t i = 0; i < MODEL_SLOTS; i++) {
        struct model_slot *slot = &m->slots[i];
        const bool came_true = slot->pinned && layer == m->expected_layer;
        if (slot->guessed)
            *(came_true ? &m->useful_bytes : &m->wasted_bytes) += EXPERT_BYTES;
        slot->expected = slot->guessed = false;
    }
}

static void model_guess(struct model *m, const uint32_t *units, uint32_t n)
{
    uint32_t n_expected = 0;
    model_settle(m, UINT32_MAX);
    m->expected_layer = (units[0] - 1) / EXPERTS;
    for (uint32_t i = 0; i < n && n_expected < MODEL_SLOTS / 2; i++)
        if (model_find(m, units[i])) {
            model_find(m, units[i])->expected = true;
            n_expected++;
        }
    for (uint32_t i = 0; i < n && n_expected < MODEL_SLOTS / 2; i++) {
        if (model_find(m, units[i]))
            continue;
        struct model_slot *slot = model_victim(m);
        if (!slot)
            return;
        model_read(m, slot, units[i]);
        slot->expected = slot->guessed = true;
        n_expected++;
    }
}

static void model_use(struct model *m, const uint32_t *units, uint32_t n)
{
    const uint32_t layer = (units[0] - 1) / EXPERTS;
    for (uint32_t i = 0; i < n; i++) {
        m->n_choices++;
        m->n_reused += m->chosen_before[units[i]];
        m->chosen_now[units[i]] = true;
        m->last_use[units[i]] = ++m->n_uses;
        struct model_slot *slot = model_find(m, units[i]);
        if (!slot)
            continue;
        slot->pinned = true;
        m->n_hits++;
        m->layer_hits[layer]++;
    }
    model_settle(m, layer);
    for (uint32_t i = 0; i < n; i++)
        if (!model_find(m, units[i])) {
            struct model_slot *slot = model_victim(m);
            cr_assert(slot);
            model_read(m, slot, units[i]);
            slot->pinned = true;
        }
    for (uint32_t i = 0; i < MODEL_SLOTS; i++)
        m->slots[i].pinned = false;
}

static void model_pass_end(struct model *m)
{
    memcpy(m->chosen_before, m->chosen_now, sizeof m->chosen_before);
    memset(m->chosen_now, 0, sizeof m->chosen_now);
}

static void check_figures(const struct world *w, const struct model *m, uint64_t bytes_before)
{
    const struct residency_figures figures = world_figures(w);
    cr_assert_eq(world_read_bytes(w) - bytes_before, m->read_bytes);
    cr_assert_eq(figures.read_bytes, world_read_bytes(w));
    cr_assert_eq(figures.choices, m->n_choices);
    cr_assert_eq(figures.hits, m->n_hits);
    cr_assert_eq(figures.reused, m->n_reused);
    cr_assert_eq(figures.prefetch_useful_bytes, m->useful_bytes);
    cr_assert_eq(figures.prefetch_wasted_bytes, m->wasted_bytes);
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct residency_layer_figures layer;
        residency_count_layer(w->residency, l, &layer);
        cr_assert_eq(layer.choices, m->n_choices / LAYERS);
        cr_assert_eq(layer.hits, m->layer_hits[l]);
        cr_assert_eq(layer.bytes, m->layer_bytes[l]);
    }
}

Test(pool_replay, figures_equal_an_independent_count)
{
    struct world w;
    struct model m = {.expected_layer = UINT32_MAX};
    uint32_t units[EXPERTS], guessed[16];
    world_set_up(&w, true);
    w.options.policy = policy_find("lru");
    world_add_experts(&w);
    world_open_file(&w, NULL, 0);
    world_open(&w, PAGE + MODEL_SLOTS * EXPERT_BYTES);
    const uint64_t bytes_before = world_read_bytes(&w);
    const uint32_t n_passes = 300;
    for (uint32_t pass = 0; pass < n_passes; pass++) {
        residency_pass_begin(w.residency, 1, NULL, NULL);
        for (uint32_t l = 0; l < LAYERS; l++) {
            if (world_random(&w, 3)) {
                const uint32_t n = 1 + world_random(&w, 16);
                world_draw(&w, guessed, n, l);
                residency_guess(w.residency, guessed, n, true);
                world_settle(&w);
                model_guess(&m, guessed, n);
            }
            world_draw(&w, units, USED, l);
            world_use(&w, units, USED);
            model_use(&m, units, USED);
        }
        residency_pass_end(w.residency, true);
        model_pass_end(&m);
        if (pass % 50 == 49)
            check_figures(&w, &m, bytes_before);
    }
    const struct residency_figures figures = world_figures(&w);
    cr_assert_eq(figures.decode_passes, n_passes);
    cr_assert_eq(figures.prefill_bytes, 0);
    cr_assert_eq(figures.load_bytes + figures.decode_bytes, figures.read_bytes);
    cr_assert_gt(m.useful_bytes, 0);
    cr_assert_gt(m.n_hits, 0);
    world_tear_down(&w);
}

// ---- every policy

// Experts of sizes that differ within a layer a little and between layers a lot, at odd places.
static void add_odd_experts(struct world *w)
{
    static const uint32_t layer_bytes[LAYERS] = {900, 5000, 30000, 5600};
    world_add_unit(w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_append_part(w, 777);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_append_part(w, layer_bytes[l] + world_random(w, 600));
            world_append_part(w, 1 + layer_bytes[l] / 2);
        }
}

static void check_memory(const struct world *w, uint64_t budget_bytes)
{
    cr_assert_leq(w->device.most_bytes, budget_bytes + w->device.n_allocs * PAGE);
    cr_assert_leq(world_figures(w).pool_slots * (2 * PAGE), budget_bytes);
}

// A layer of a pass: sometimes a guess, a choice of few or of many, sometimes one that is left in the middle.
static void run_layer(struct world *w, uint32_t layer, bool prefill)
{
    uint32_t units[EXPERTS], guessed[EXPERTS];
    const uint32_t n = prefill ? 1 + world_random(w, EXPERTS) : USED;
    const uint32_t n_guessed = 1 + world_random(w, prefill ? EXPERTS : 6);
    world_draw(w, units, n, layer);
    world_choose(w, units, n);
    world_draw(w, guessed, n_guessed, (layer + 1 + (world_random(w, 9) == 0)) % LAYERS);
    if (world_random(w, 4))
        residency_guess(w->residency, guessed, n_guessed, prefill || world_random(w, 2));
    if (world_random(w, 3) == 0)
        world_settle(w);
    if (world_random(w, 50))
        world_take_all(w, units, n, 1 + world_random(w, 8));
}

static void replay(const struct policy_ops *policy, enum io_engine_kind engine, bool warm)
{
    struct world w;
    struct heat heat;
    world_set_up(&w, true);
    add_odd_experts(&w);
    cr_assert_eq(heat_open(&heat, LAYERS, LAYERS * EXPERTS, 1, &w.error), 0);
    heat.n_tokens = warm ? 1000 : 0;
    for (uint32_t e = 0; e < LAYERS * EXPERTS; e++)
        heat.mean[e] = warm ? (float)(e * 37 % 128) / 128 : 0;
    w.io_options.engine = engine;
    w.options.policy = policy;
    w.options.heat = &heat;
    world_open_file(&w, NULL, 0);
    const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
    const uint64_t budget = floor + (full - floor) / 10;
    world_open(&w, budget);
    cr_assert_str_eq(world_figures(&w).policy, policy->name);
    for (uint32_t pass = 0; pass < 120; pass++) {
        const bool prefill = world_random(&w, 5) == 0;
        residency_pass_begin(w.residency, prefill ? 20 : 1, NULL, NULL);
        for (uint32_t l = 0; l < LAYERS; l++)
            run_layer(&w, l, prefill);
        residency_pass_end(w.residency, world_random(&w, 20) != 0);
    }
    const struct residency_figures figures = world_figures(&w);
    cr_assert(figures.hits > 0 && figures.hits < figures.choices);
    check_memory(&w, budget);
    world_tear_down(&w);
    heat_close(&heat);
}

Test(pool_replay, content_is_right_under_every_policy)
{
    for (uint32_t i = 0; policy_table[i]; i++) {
        replay(policy_table[i], IO_ENGINE_THREADS, i % 2);
        replay(policy_table[i], IO_ENGINE_AUTO, !(i % 2));
    }
}

Test(pool_replay, a_policy_by_layer_leaves_the_others_their_share)
{
    struct world w;
    world_set_up(&w, true);
    w.options.policy = policy_find("layer-lru");
    world_add_experts(&w);
    world_open_file(&w, NULL, 0);
    world_open(&w, PAGE + 16 * EXPERT_BYTES);
    residency_pass_begin(w.residency, 1, NULL, NULL);
    uint32_t units[LAYERS][4];
    for (uint32_t l = 0; l < LAYERS; l++) {
        world_draw(&w, units[l], 4, l);
        world_use(&w, units[l], 4);
    }
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const uint32_t unit = world_expert(0, e);
        world_use(&w, &unit, 1);
    }
    const uint64_t hits = world_figures(&w).hits, read_bytes = world_read_bytes(&w);
    for (uint32_t l = 1; l < LAYERS; l++)
        world_use(&w, units[l], 4);
    cr_assert_eq(world_figures(&w).hits - hits, 4 * (LAYERS - 1));
    cr_assert_eq(world_read_bytes(&w), read_bytes);
    world_tear_down(&w);
}

// ---- classes

Test(pool_replay, experts_of_unlike_sizes_share_the_memory_and_keep_to_it)
{
    for (uint32_t seed = 1; seed <= 60; seed++) {
        struct world w;
        uint32_t units[EXPERTS];
        world_set_up(&w, true);
        w.random = seed;
        world_add_unit(&w, UNIT_FIXED, UNIT_NO_LAYER, 0);
        world_append_part(&w, 1);
        const uint32_t n_sizes = 1 + world_random(&w, 12);
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++) {
            world_add_unit(&w, UNIT_EXPERT, i / EXPERTS, i % EXPERTS);
            const uint32_t size = world_random(&w, 8) ? 0 : world_random(&w, n_sizes);
            world_append_part(&w, 1 + ((uint64_t)PAGE << size / 2) + size % 2 * (PAGE / 3));
        }
        world_open_file(&w, NULL, 0);
        const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
        const uint64_t budget = floor + (full - floor) / 16 * world_random(&w, 12);
        world_open(&w, budget);
        residency_pass_begin(w.residency, 9, NULL, NULL);
        for (uint32_t l = 0; l < 2 * LAYERS; l++) {
            const uint32_t n = 1 + world_random(&w, EXPERTS);
            world_draw(&w, units, n, l % LAYERS);
            world_use(&w, units, n);
        }
        cr_assert_leq(w.device.most_bytes, budget + w.device.n_allocs * PAGE, "seed %u", seed);
        cr_assert_geq(w.device.most_bytes, floor / 2, "the memory is made use of");
        world_tear_down(&w);
    }
}

// ---- a warm start

static void open_warm(struct world *w, struct heat *heat, const struct io_fault_rule *rules, uint32_t n_rules)
{
    cr_assert_eq(heat_open(heat, LAYERS, LAYERS * EXPERTS, 1, &w->error), 0);
    heat->n_tokens = 1000;
    for (uint32_t e = 0; e < 20; e++) // the hottest are experts 0 .. 9 of layer 3, then 10 .. 19 of layer 1
        heat->mean[e < 10 ? 3 * EXPERTS + e : EXPERTS + e] = (float)(40 - e) / 64;
    w->options.heat = heat;
    world_open_file(w, rules, n_rules);
    world_open(w, PAGE + 16 * EXPERT_BYTES);
    residency_pass_begin(w->residency, 1, NULL, NULL);
}

Test(pool_replay, an_empty_pool_is_filled_with_what_was_hot)
{
    struct world w;
    struct heat heat;
    uint32_t hottest[16];
    for (uint32_t i = 0; i < 16; i++)
        hottest[i] = i < 10 ? world_expert(3, i) : world_expert(1, i);
    world_set_up(&w, true);
    world_add_experts(&w);
    open_warm(&w, &heat, NULL, 0);
    world_settle(&w);
    cr_assert_eq(world_read_bytes(&w), PAGE + 16 * EXPERT_BYTES);
    world_use(&w, hottest, 10);
    world_use(&w, hottest + 10, 6);
    cr_assert_eq(world_figures(&w).hits, 16);
    cr_assert_eq(world_read_bytes(&w), PAGE + 16 * EXPERT_BYTES);
    residency_pass_end(w.residency, true);
    cr_assert_eq(heat.n_tokens, 1001, "what is chosen is counted");
    world_tear_down(&w);
    heat_close(&heat);
}

Test(pool_replay, what_is_being_filled_in_and_chosen_is_read_once)
{
    struct world w;
    struct heat heat;
    const uint32_t units[] = {world_expert(3, 0), world_expert(3, 31)};
    world_set_up(&w, true);
    world_add_experts(&w);
    const struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_HOLD, units[0], 1);
    open_warm(&w, &heat, &rule, 1);
    uint32_t n, unit;
    cr_assert_eq(residency_take(w.residency, &unit, &n, 1, false, &w.error), 0);
    io_fault_wait_until_held(w.fault, 1);
    world_choose(&w, units, 2);
    io_fault_release(w.fault);
    world_take_all(&w, units, 2, 2);
    world_settle(&w);
    cr_assert_eq(world_read_bytes(&w), PAGE + 16 * EXPERT_BYTES);
    world_tear_down(&w);
    heat_close(&heat);
}

Test(pool_replay, a_fill_that_fails_is_silent)
{
    struct world w;
    struct heat heat;
    const uint32_t unit = world_expert(3, 2);
    world_set_up(&w, true);
    world_add_experts(&w);
    struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_ERROR, unit, 0);
    rule.times = 2;
    open_warm(&w, &heat, &rule, 1);
    world_settle(&w);
    world_use(&w, &unit, 1);
    world_tear_down(&w);
    heat_close(&heat);
}

Test(pool_replay, choices_larger_than_the_pool_and_fills_that_fail_get_along)
{
    for (uint32_t seed = 0; seed < 30; seed++) {
        struct world w;
        struct heat heat;
        uint32_t units[EXPERTS];
        const struct io_fault_rule rule = {
            .kind = IO_FAULT_ERROR, .skip = 1 + seed % 8, .times = 4, .error_number = 5};
        world_set_up(&w, true);
        w.random = seed;
        world_add_experts(&w);
        open_warm(&w, &heat, &rule, 1);
        world_draw(&w, units, EXPERTS, 3);
        world_choose(&w, units, EXPERTS);
        uint32_t taken[8], n = 1;
        int code = 0;
        while (code == 0 && n > 0) {
            code = residency_take(w.residency, taken, &n, 8, true, &w.error);
            if (code == 0)
                residency_release(w.residency, taken, n);
        }
        cr_assert(code == 0 || code == LODE_ERR_IO);
        for (uint32_t l = 0; l < LAYERS; l++) {
            world_draw(&w, units, EXPERTS, l);
            world_use(&w, units, EXPERTS);
        }
        world_tear_down(&w);
        heat_close(&heat);
    }
}

// A fill that fails leaves a slot to the next fill, which may be of an expert that waits for a slot itself.
Test(pool_replay, what_was_chosen_and_is_filled_in_meanwhile_is_read_once)
{
    struct world w;
    struct heat heat;
    uint32_t units[EXPERTS];
    world_set_up(&w, true);
    world_add_experts(&w);
    cr_assert_eq(heat_open(&heat, LAYERS, LAYERS * EXPERTS, 1, &w.error), 0);
    heat.n_tokens = 1000;
    for (uint32_t e = 0; e < 4; e++) // as many as are filled in at once
        heat.mean[e] = 0.5;
    heat.mean[EXPERTS + 12] = 0.25; // the first of the choice that waits for a slot
    w.options.heat = &heat;
    struct io_fault_rule rules[] = {world_fault_at(&w, IO_FAULT_ERROR, world_expert(0, 0), 1),
                                    world_fault_at(&w, IO_FAULT_HOLD, world_expert(0, 0), 0)};
    rules[0].times = 2;
    rules[1].end = w.table.parts[w.table.units[world_expert(0, 4)].first_part].offset;
    world_open_file(&w, rules, 2);
    world_open(&w, PAGE + 16 * EXPERT_BYTES);
    residency_pass_begin(w.residency, 1, NULL, NULL);
    for (uint32_t e = 0; e < EXPERTS; e++)
        units[e] = world_expert(1, e);
    world_choose(&w, units, EXPERTS); // 12 have slots, 20 wait
    io_fault_release(w.fault);
    const uint64_t read_bytes = PAGE + 12 * EXPERT_BYTES + 3 * EXPERT_BYTES + PAGE;
    struct io_counters counters;
    do {
        usleep(200);
        io_count(w.io, &counters);
    } while (counters.read_bytes < read_bytes || counters.failed_requests < 1);
    world_take_all(&w, units, EXPERTS, 8);
    world_settle(&w);
    cr_assert_eq(world_read_bytes(&w), read_bytes + 20 * EXPERT_BYTES);
    cr_assert(residency_wants_guess(w.residency, 1));
    world_tear_down(&w);
    heat_close(&heat);
}

Test(pool_replay, heat_of_another_model_is_refused)
{
    struct world w;
    struct heat heat;
    world_set_up(&w, true);
    world_add_experts(&w);
    cr_assert_eq(heat_open(&heat, LAYERS, LAYERS * EXPERTS - LAYERS, 1, &w.error), 0);
    w.options.heat = &heat;
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), LODE_ERR_ARGUMENT);
    cr_assert(strstr(w.error.text, "heat of 124 experts"), "%s", w.error.text);
    world_tear_down(&w);
    heat_close(&heat);
}
