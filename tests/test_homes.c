// Where units have their home: what is pinned, pooled and streamed under budgets from the floor up.
#include "placement/homes.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define PAGE IO_ALIGN_BYTES
#define POOL_LEAST_SLOTS 16

// What homes_solve must keep to, counted anew from the table.
struct sums {
    uint64_t fixed, dense, experts, rows_units;
    uint64_t largest_dense, largest_part, largest_expert;
};

static struct sums sum_up(const struct unit_table *table, bool host_memory)
{
    struct sums s = {0};
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const uint64_t bytes = world_slot_bytes(table, u, host_memory);
        if (unit->class == UNIT_FIXED) {
            s.fixed += bytes;
        } else if (unit->class == UNIT_DENSE) {
            s.dense += bytes;
            s.largest_dense = bytes > s.largest_dense ? bytes : s.largest_dense;
            for (uint32_t i = 0; i < unit->n_parts; i++) {
                const struct extent *part = &table->parts[unit->first_part + i];
                const uint64_t padded = io_padded_bytes(part->offset, part->bytes);
                s.largest_part = padded > s.largest_part ? padded : s.largest_part;
            }
        } else if (unit->class == UNIT_EXPERT) {
            s.experts += bytes;
            s.largest_expert = bytes > s.largest_expert ? bytes : s.largest_expert;
        } else {
            s.rows_units++;
        }
    }
    return s;
}

static uint64_t least_pool(const struct sums *s)
{
    const uint64_t slots = POOL_LEAST_SLOTS * s->largest_expert;
    return slots < s->experts ? slots : s->experts;
}

// Solves and checks everything that must hold under any budget.
static struct homes solve(const struct unit_table *table, uint64_t budget, bool host_memory)
{
    struct homes homes;
    struct lode_error error;
    cr_assert_eq(homes_solve(&homes, table, budget, host_memory, &error), 0, "%s", error.text);
    const struct sums s = sum_up(table, host_memory);
    uint64_t pinned = 0, streamed = 0;
    uint32_t n_of[4] = {0}, n_pinned_experts = 0;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const enum unit_class class = table->units[u].class;
        const enum unit_home home = homes.home[u];
        const uint64_t bytes = world_slot_bytes(table, u, host_memory);
        n_of[home]++;
        n_pinned_experts += home == HOME_PINNED && class == UNIT_EXPERT;
        pinned += home == HOME_PINNED ? bytes : 0;
        streamed += home == HOME_RING ? bytes : 0;
        cr_assert((home == HOME_ROWS) == (class == UNIT_ROWS), "unit %u", u);
        cr_assert(class != UNIT_FIXED || home == HOME_PINNED, "unit %u", u);
        cr_assert(home != HOME_RING || class == UNIT_DENSE, "unit %u", u);
        cr_assert(home != HOME_POOL || class == UNIT_EXPERT, "unit %u", u);
    }
    cr_assert_eq(homes.pinned_bytes, pinned);
    cr_assert_eq(homes.streamed_bytes, streamed);
    cr_assert_leq(pinned + homes.ring_bytes + homes.pool_bytes + homes.rows_bytes, budget);
    cr_assert_eq(homes.rows_bytes > 0, s.rows_units > 0);
    cr_assert(n_pinned_experts == 0 || n_of[HOME_POOL] == 0, "experts have one home");
    if (n_of[HOME_POOL])
        cr_assert_geq(homes.pool_bytes, least_pool(&s));
    if (n_of[HOME_RING]) {
        cr_assert_gt(s.fixed + s.dense + homes.rows_bytes + least_pool(&s), budget, "streamed without need");
        cr_assert_geq(homes.ring_bytes, s.largest_dense + 2 * s.largest_part);
    } else {
        cr_assert_eq(homes.ring_bytes, 0);
    }
    const bool all_fits = s.fixed + s.dense + s.experts + homes.rows_bytes <= budget;
    cr_assert_eq(all_fits, n_of[HOME_POOL] + n_of[HOME_RING] == 0);
    return homes;
}

static void check_budget(const struct unit_table *table, uint64_t budget, bool host_memory)
{
    struct homes homes = solve(table, budget, host_memory);
    homes_free(&homes);
}

// Layers of attention, FFN and experts behind an embedding of rows and a fixed unit, all of random sizes.
static void add_random_model(struct world *w)
{
    const uint32_t n_layers = 1 + world_random(w, 12),
                   n_experts = world_random(w, 3) ? world_random(w, 40) : 0;
    const uint32_t largest = 1 + world_random(w, 300000);
    if (world_random(w, 2)) {
        world_add_unit(w, UNIT_ROWS, UNIT_NO_LAYER, 0);
        world_append_part(w, 100000);
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        static const enum unit_class classes[] = {UNIT_FIXED, UNIT_DENSE, UNIT_DENSE};
        for (uint32_t i = 0; i < 3; i++) {
            world_add_unit(w, classes[i], l, 0);
            for (uint32_t n = 1 + world_random(w, 4); n > 0; n--)
                world_append_part(w, 1 + world_random(w, largest));
        }
        const uint32_t expert_bytes = 1 + world_random(w, largest);
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_append_part(w, expert_bytes);
            world_append_part(w, 1 + expert_bytes / 2);
        }
    }
}

Test(homes, keep_to_every_budget_of_every_model)
{
    for (uint32_t seed = 1; seed <= 400; seed++) {
        struct world w;
        const bool host_memory = seed % 4 != 0;
        world_set_up(&w, host_memory);
        w.random = seed;
        add_random_model(&w);
        const uint64_t floor = homes_floor_bytes(&w.table, host_memory);
        const uint64_t full = homes_full_bytes(&w.table, host_memory);
        cr_assert_leq(floor, full);
        check_budget(&w.table, floor, host_memory);
        check_budget(&w.table, full, host_memory);
        check_budget(&w.table, full + PAGE, host_memory);
        check_budget(&w.table, UINT64_MAX, host_memory);
        for (uint32_t i = 0; i < 20 && full > floor; i++)
            check_budget(&w.table, floor + (full - floor) / 1024 * world_random(&w, 1024), host_memory);
        if (full > floor)
            check_budget(&w.table, full - 1, host_memory);
        world_tear_down(&w);
    }
}

Test(homes, below_the_floor_there_is_no_solution)
{
    for (uint32_t seed = 1; seed <= 50; seed++) {
        struct world w;
        struct homes homes;
        world_set_up(&w, true);
        w.random = seed;
        add_random_model(&w);
        const uint64_t floor = homes_floor_bytes(&w.table, true);
        cr_assert_eq(homes_solve(&homes, &w.table, floor - 1, true, &w.error), LODE_ERR_MEMORY);
        cr_assert(strstr(w.error.text, "need at least"), "%s", w.error.text);
        cr_assert_eq(homes_solve(&homes, &w.table, 0, true, NULL), LODE_ERR_MEMORY);
        world_tear_down(&w);
    }
}

// n_layers of a dense unit of dense_pages and n_experts of one page, after a fixed page; all at page
// boundaries.
static void add_even_model(struct world *w, uint32_t n_layers, uint32_t dense_pages, uint32_t n_experts)
{
    world_add_unit(w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_add_part(w, 0, PAGE);
    for (uint32_t l = 0; l < n_layers; l++) {
        world_add_unit(w, UNIT_DENSE, l, 0);
        world_add_part(w, w->end, dense_pages * PAGE);
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_add_part(w, w->end, PAGE);
        }
    }
}

Test(homes, experts_leave_first_and_dense_units_only_when_they_must)
{
    struct world w;
    world_set_up(&w, true);
    add_even_model(&w, 10, 2, 32);
    const uint64_t full = (1 + 20 + 320) * PAGE, without_ring = (1 + 20 + POOL_LEAST_SLOTS) * PAGE;
    cr_assert_eq(homes_full_bytes(&w.table, true), full);

    struct homes homes = solve(&w.table, full - 1, true);
    cr_assert_eq(homes.pinned_bytes, 21 * PAGE);
    cr_assert_eq(homes.pool_bytes, 320 * PAGE - 1, "the pool has all that is left");
    homes_free(&homes);

    homes = solve(&w.table, without_ring, true);
    cr_assert_eq(homes.pinned_bytes, 21 * PAGE);
    cr_assert_eq(homes.pool_bytes, POOL_LEAST_SLOTS * PAGE);
    homes_free(&homes);

    homes = solve(&w.table, without_ring - 1, true);
    cr_assert_gt(homes.streamed_bytes, 0);
    homes_free(&homes);
    world_tear_down(&w);
}

Test(homes, what_is_streamed_lies_evenly_among_the_layers)
{
    struct world w;
    const uint32_t n_layers = 60;
    world_set_up(&w, true);
    add_even_model(&w, n_layers, 4, 0);
    const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
    uint64_t streamed_before = UINT64_MAX;
    for (uint64_t budget = floor; budget < full; budget += PAGE) {
        struct homes homes = solve(&w.table, budget, true);
        cr_assert_leq(homes.streamed_bytes, streamed_before, "more memory streams more");
        cr_assert_gt(homes.streamed_bytes, 0);
        streamed_before = homes.streamed_bytes;
        const double share = (double)homes.streamed_bytes / (double)(n_layers * 4 * PAGE);
        double streamed = 0;
        for (uint32_t u = 1; u <= n_layers; u++) {
            streamed += homes.home[u] == HOME_RING;
            cr_assert_float_eq(streamed, share * u, 1.01, "%g of the first %u at %llu", streamed, u,
                               (unsigned long long)(budget / PAGE));
        }
        cr_assert_lt(budget - homes.pinned_bytes - homes.ring_bytes, 4 * PAGE, "a unit more would fit");
        homes_free(&homes);
    }
    world_tear_down(&w);
}

Test(homes, units_of_unlike_sizes_are_spread_by_their_bytes)
{
    struct world w;
    world_set_up(&w, true);
    for (uint32_t l = 0; l < 48; l++)
        for (uint32_t i = 0; i < 2; i++) {
            world_add_unit(&w, UNIT_DENSE, l, i);
            world_add_part(&w, w.end, (i ? 9 : 2) * PAGE);
        }
    const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
    for (uint64_t budget = floor; budget < full; budget += 7 * PAGE) {
        struct homes homes = solve(&w.table, budget, true);
        const double share = (double)homes.streamed_bytes / (double)full;
        double streamed = 0, met = 0;
        for (uint32_t u = 0; u < w.table.n_units; u++) {
            met += (u % 2 ? 9 : 2);
            streamed += homes.home[u] == HOME_RING ? (u % 2 ? 9 : 2) : 0;
            cr_assert_float_eq(streamed, share * met, 2 * 9 + 2, "%g of %g pages", streamed, met);
        }
        homes_free(&homes);
    }
    world_tear_down(&w);
}

Test(homes, few_experts_need_no_more_memory_than_they_have)
{
    struct world w;
    world_set_up(&w, true);
    add_even_model(&w, 1, 1, 5);
    cr_assert_eq(homes_floor_bytes(&w.table, true), 7 * PAGE);
    check_budget(&w.table, 7 * PAGE, true);
    world_tear_down(&w);
}

Test(homes, a_table_without_units_needs_nothing)
{
    const struct unit_table table = {0};
    cr_assert_eq(homes_floor_bytes(&table, true), 0);
    cr_assert_eq(homes_full_bytes(&table, true), 0);
    check_budget(&table, 0, true);
}

Test(homes, sizes_that_cannot_be_counted_fit_nowhere)
{
    static const enum unit_class classes[] = {UNIT_FIXED, UNIT_DENSE, UNIT_EXPERT};
    static const uint64_t sizes[] = {UINT64_MAX - 200, UINT64_MAX / 8, UINT64_MAX / 4};
    for (uint32_t i = 0; i < 9; i++) {
        struct world w;
        struct homes homes;
        world_set_up(&w, true);
        world_add_unit(&w, classes[i % 3], 0, 0);
        world_add_part(&w, 1, sizes[i / 3]);
        cr_assert_eq(homes_full_bytes(&w.table, true), UINT64_MAX);
        cr_assert_eq(homes_floor_bytes(&w.table, true), UINT64_MAX);
        cr_assert_eq(homes_solve(&homes, &w.table, UINT64_MAX, true, &w.error), LODE_ERR_MEMORY);
        world_tear_down(&w);
    }
}

Test(homes, the_floor_of_huge_experts_does_not_wrap_around)
{
    struct world w;
    world_set_up(&w, true);
    world_add_unit(&w, UNIT_EXPERT, 0, 0);
    world_add_part(&w, 0, UINT64_MAX / POOL_LEAST_SLOTS + 1);
    cr_assert_eq(homes_floor_bytes(&w.table, true), UINT64_MAX / POOL_LEAST_SLOTS + 1);
    world_tear_down(&w);
}

// ---- with units on GPUs, and wishes

// Everything that must hold of the host holds of the units that are left to it; what a GPU holds is counted.
Test(homes, units_on_gpus_leave_the_host_alone)
{
    for (uint32_t seed = 1; seed <= 200; seed++) {
        struct world w;
        struct homes homes;
        world_set_up(&w, true);
        w.random = seed;
        add_random_model(&w);
        uint8_t *gpu = calloc(w.table.n_units + 1, 1);
        uint64_t on_gpu[HOME_GPUS] = {0};
        for (uint32_t u = 0; u < w.table.n_units; u++)
            if (w.table.units[u].class != UNIT_ROWS && world_random(&w, 3) == 0) {
                gpu[u] = (uint8_t)(1 + world_random(&w, HOME_GPUS));
                on_gpu[gpu[u] - 1] += world_slot_bytes(&w.table, u, false);
            }
        struct homes_request request = {.host_memory = true, .gpu = gpu};
        const struct homes_bounds bounds = homes_bounds(&w.table, &request);
        cr_assert_leq(bounds.floor_bytes, bounds.full_bytes);
        cr_assert_leq(bounds.full_bytes, homes_full_bytes(&w.table, true));
        const uint64_t room = bounds.full_bytes - bounds.floor_bytes;
        request.budget_bytes = bounds.floor_bytes + room / 8 * world_random(&w, 9);
        cr_assert_eq(homes_divide(&homes, &w.table, &request, &w.error), 0, "%s", w.error.text);
        uint64_t pinned = 0;
        for (uint32_t u = 0; u < w.table.n_units; u++) {
            cr_assert_eq(homes.home[u] >= HOME_GPU, gpu[u] > 0, "unit %u", u);
            cr_assert(!gpu[u] || homes.home[u] == HOME_GPU + gpu[u] - 1, "unit %u", u);
            pinned += homes.home[u] == HOME_PINNED ? world_slot_bytes(&w.table, u, true) : 0;
        }
        cr_assert_eq(homes.pinned_bytes, pinned);
        for (uint32_t g = 0; g < HOME_GPUS; g++)
            cr_assert_eq(homes.gpu_bytes[g], on_gpu[g]);
        cr_assert_leq(pinned + homes.ring_bytes + homes.pool_bytes + homes.rows_bytes, request.budget_bytes);
        homes_free(&homes);
        if (bounds.floor_bytes) {
            request.budget_bytes = bounds.floor_bytes - 1;
            cr_assert_eq(homes_divide(&homes, &w.table, &request, NULL), LODE_ERR_MEMORY);
        }
        free(gpu);
        world_tear_down(&w);
    }
}

Test(homes, a_larger_ring_is_made_of_what_would_be_pinned)
{
    struct world w;
    struct homes homes, least;
    world_set_up(&w, true);
    add_even_model(&w, 40, 4, 32);
    const uint64_t floor = homes_floor_bytes(&w.table, true);
    struct homes_request request = {.budget_bytes = floor + 60 * PAGE, .host_memory = true};
    cr_assert_eq(homes_divide(&least, &w.table, &request, &w.error), 0);
    cr_assert_gt(least.streamed_bytes, 0);
    for (uint64_t pages = 0; pages < 200; pages += 4) {
        request.ring_bytes = pages * PAGE;
        cr_assert_eq(homes_divide(&homes, &w.table, &request, &w.error), 0);
        cr_assert_geq(homes.ring_bytes, least.ring_bytes);
        if (request.ring_bytes >= least.ring_bytes && pages <= 60)
            cr_assert_eq(homes.ring_bytes, request.ring_bytes, "as wished");
        cr_assert_geq(homes.streamed_bytes, least.streamed_bytes);
        cr_assert_leq(homes.pinned_bytes + homes.ring_bytes + homes.pool_bytes, request.budget_bytes);
        cr_assert_geq(homes.pool_bytes, POOL_LEAST_SLOTS * PAGE);
        homes_free(&homes);
    }
    request.ring_bytes = 1000 * PAGE; // nothing is streamed: no ring whatever the wish
    request.budget_bytes = homes_full_bytes(&w.table, true);
    cr_assert_eq(homes_divide(&homes, &w.table, &request, &w.error), 0);
    cr_assert_eq(homes.ring_bytes, 0);
    homes_free(&homes);
    homes_free(&least);
    world_tear_down(&w);
}
