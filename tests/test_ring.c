// Streamed units: in the order of a pass, in any other order, with too little room, over drives that fail.
#include "base/clock.h"
#include "placement/homes.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE IO_ALIGN_BYTES

static const char *name_unit(const struct unit *unit, char *buffer, size_t capacity)
{
    snprintf(buffer, capacity, "unit %u of layer %u", unit->index, unit->layer);
    return buffer;
}

// Dense units of 1 to 6 parts of any size at odd places.
static void add_random_model(struct world *w)
{
    const uint32_t n_units = 4 + world_random(w, 30), largest = 1 + world_random(w, 40000);
    for (uint32_t u = 0; u < n_units; u++) {
        world_add_unit(w, UNIT_DENSE, u / 2, u % 2);
        for (uint32_t n = 1 + world_random(w, 6); n > 0; n--)
            world_append_part(w, 1 + world_random(w, largest));
    }
}

// Units of one part of two pages each.
static void add_even_model(struct world *w, uint32_t n_units)
{
    w->table.name_unit = name_unit;
    for (uint32_t u = 0; u < n_units; u++) {
        world_add_unit(w, UNIT_DENSE, u, 0);
        world_add_part(w, w->end, 2 * PAGE);
    }
}

#define EVEN_UNITS 12
#define EVEN_FLOOR_BYTES (10 * PAGE) // a unit, and two parts of unknown place in their pages: five units fit

static void open_even(struct world *w, const struct io_fault_rule *rules, uint32_t n_rules)
{
    world_open_file(w, rules, n_rules);
    cr_assert_eq(homes_floor_bytes(&w->table, true), EVEN_FLOOR_BYTES);
    world_open(w, EVEN_FLOOR_BYTES);
    cr_assert_eq(world_figures(w).streamed_bytes, EVEN_UNITS * 2 * PAGE);
    residency_pass_begin(w->residency, 1, NULL, NULL);
}

static void set_up_even(struct world *w)
{
    world_set_up(w, true);
    add_even_model(w, EVEN_UNITS);
}

static void use_unit(struct world *w, uint32_t unit)
{
    cr_assert_eq(residency_acquire(w->residency, &unit, 1, &w->error), 0, "%s", w->error.text);
    world_check_unit(w, unit);
    residency_release(w->residency, &unit, 1);
}

static uint64_t streamed_payload_bytes(const struct world *w)
{
    struct homes homes;
    uint64_t bytes = 0;
    cr_assert_eq(homes_solve(&homes, &w->table, w->options.budget_bytes, true, NULL), 0);
    for (uint32_t u = 0; u < w->table.n_units; u++)
        bytes += homes.home[u] == HOME_RING ? w->table.units[u].bytes : 0;
    homes_free(&homes);
    return bytes;
}

static bool wait_for_read_bytes(const struct world *w, uint64_t bytes)
{
    const uint64_t start_ns = clock_now_ns();
    while (world_read_bytes(w) < bytes && clock_now_ns() - start_ns < (uint64_t)5000000000)
        usleep(200);
    return world_read_bytes(w) >= bytes;
}

// ---- the order of a pass

Test(ring, passes_have_the_right_content_under_every_budget)
{
    enum { PASSES = 5 };
    for (uint32_t seed = 1; seed <= 120; seed++) {
        struct world w;
        world_set_up(&w, true);
        w.random = seed;
        w.io_options.engine = seed % 2 ? IO_ENGINE_THREADS : IO_ENGINE_AUTO;
        w.io_options.cache = seed % 8 ? IO_CACHE_POPULATE : IO_CACHE_AUTO;
        add_random_model(&w);
        world_open_file(&w, NULL, 0);
        const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
        const uint64_t budget = seed % 3 ? floor + (full - floor) / 64 * world_random(&w, 60) : floor;
        world_open(&w, budget);
        const struct residency_figures figures = world_figures(&w);
        for (uint32_t pass = 0; pass < PASSES; pass++) {
            residency_pass_begin(w.residency, 1, NULL, NULL);
            for (uint32_t u = 0; u < w.table.n_units; u++)
                use_unit(&w, u);
            residency_pass_end(w.residency, true);
        }
        cr_assert_leq(w.device.most_bytes, budget + w.device.n_allocs * PAGE);
        const uint64_t read_bytes = world_read_bytes(&w) - figures.load_bytes,
                       once = streamed_payload_bytes(&w);
        if (w.io_options.cache == IO_CACHE_POPULATE)
            cr_assert_leq(read_bytes, PASSES * once + figures.ring_bytes, "a pass reads what it needs once");
        world_tear_down(&w);
    }
}

Test(ring, reads_go_on_ahead_without_being_asked_for)
{
    struct world w;
    set_up_even(&w);
    open_even(&w, NULL, 0);
    cr_assert(wait_for_read_bytes(&w, EVEN_FLOOR_BYTES), "the ring is filled from the start");
    for (uint32_t u = 0; u < 3 * EVEN_UNITS; u++) {
        const uint32_t unit = u % EVEN_UNITS;
        const uint64_t before = world_read_bytes(&w);
        residency_pass_begin(w.residency, 1, NULL, NULL);
        cr_assert_eq(residency_acquire(w.residency, &unit, 1, &w.error), 0);
        cr_assert_eq(residency_last_stall(w.residency).total_ns, 0, "unit %u was waited for", u);
        world_check_unit(&w, unit);
        usleep(1000);
        cr_assert_eq(world_read_bytes(&w), before, "there is no room as long as it is held");
        residency_release(w.residency, &unit, 1);
        cr_assert(wait_for_read_bytes(&w, before + 2 * PAGE));
    }
    world_tear_down(&w);
}

Test(ring, a_list_of_units_is_acquired_as_one)
{
    struct world w;
    uint32_t units[4];
    set_up_even(&w);
    open_even(&w, NULL, 0);
    for (uint32_t round = 0; round < 9; round++) {
        for (uint32_t i = 0; i < 4; i++)
            units[i] = (round * 4 + i) % EVEN_UNITS;
        cr_assert_eq(residency_acquire(w.residency, units, 4, &w.error), 0);
        for (uint32_t i = 0; i < 4; i++)
            world_check_unit(&w, units[i]);
        residency_release(w.residency, units, 4);
    }
    world_tear_down(&w);
}

// ---- other orders

Test(ring, any_unit_may_follow_any_other)
{
    for (uint32_t from = 0; from < EVEN_UNITS; from++)
        for (uint32_t to = 0; to < EVEN_UNITS; to++) {
            struct world w;
            set_up_even(&w);
            open_even(&w, NULL, 0);
            use_unit(&w, from);
            if ((from + to) % 2)
                wait_for_read_bytes(&w, EVEN_FLOOR_BYTES);
            use_unit(&w, to);
            use_unit(&w, (to + 1) % EVEN_UNITS);
            world_tear_down(&w);
        }
}

Test(ring, passes_that_end_early_or_leave_units_out_have_the_right_content)
{
    for (uint32_t seed = 1; seed <= 60; seed++) {
        struct world w;
        world_set_up(&w, true);
        w.random = seed;
        add_random_model(&w);
        world_open_file(&w, NULL, 0);
        const uint64_t floor = homes_floor_bytes(&w.table, true), full = homes_full_bytes(&w.table, true);
        world_open(&w, floor + (full - floor) / 64 * world_random(&w, 40));
        for (uint32_t pass = 0; pass < 12; pass++) {
            residency_pass_begin(w.residency, 1, NULL, NULL);
            const uint32_t end = 1 + world_random(&w, w.table.n_units), skips = 1 + world_random(&w, 4);
            for (uint32_t u = 0; u < end; u++)
                if (world_random(&w, skips) == 0)
                    use_unit(&w, u);
            residency_pass_end(w.residency, true);
        }
        for (uint32_t i = 0; i < 60; i++)
            use_unit(&w, world_random(&w, w.table.n_units));
        world_tear_down(&w);
    }
}

Test(ring, a_unit_without_parts_is_there)
{
    struct world w;
    set_up_even(&w);
    const uint32_t empty = world_add_unit(&w, UNIT_DENSE, EVEN_UNITS, 0);
    open_even(&w, NULL, 0);
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t u = 0; u <= empty; u++)
            use_unit(&w, u);
    world_tear_down(&w);
}

// ---- no room

Test(ring, more_units_than_fit_are_refused_and_the_ring_goes_on)
{
    struct world w;
    uint32_t units[EVEN_UNITS];
    for (uint32_t u = 0; u < EVEN_UNITS; u++)
        units[u] = u;
    set_up_even(&w);
    open_even(&w, NULL, 0);
    const uint64_t start_ns = clock_now_ns();
    cr_assert_eq(residency_acquire(w.residency, units, 6, &w.error), LODE_ERR_MEMORY);
    cr_assert_lt(clock_now_ns() - start_ns, (uint64_t)5000000000);
    cr_assert(strstr(w.error.text, "no room"), "%s", w.error.text);
    for (uint32_t u = 0; u < EVEN_UNITS; u++)
        use_unit(&w, u);
    world_tear_down(&w);
}

Test(ring, a_unit_of_too_many_parts_is_refused)
{
    struct world w;
    world_set_up(&w, true);
    for (uint32_t u = 0; u < 10; u++) {
        world_add_unit(&w, UNIT_DENSE, u, 0);
        for (uint32_t i = 0; i < 65; i++)
            world_append_part(&w, 10);
    }
    world_open_file(&w, NULL, 0);
    w.options.budget_bytes = homes_floor_bytes(&w.table, true);
    cr_assert_eq(world_try_open(&w), LODE_ERR_UNSUPPORTED);
    cr_assert(strstr(w.error.text, "65 parts"), "%s", w.error.text);
    world_tear_down(&w);
}

Test(ring, a_device_that_the_host_cannot_reach_does_not_stream)
{
    struct world w;
    world_set_up(&w, false);
    add_even_model(&w, EVEN_UNITS);
    world_open_file(&w, NULL, 0);
    w.options.budget_bytes = homes_full_bytes(&w.table, false) - 1;
    cr_assert_eq(world_try_open(&w), LODE_ERR_UNSUPPORTED);
    world_open(&w, homes_full_bytes(&w.table, false));
    for (uint32_t u = 0; u < EVEN_UNITS; u++)
        use_unit(&w, u);
    world_tear_down(&w);
}

Test(ring, without_memory_for_it_nothing_is_opened)
{
    struct world w;
    set_up_even(&w);
    world_open_file(&w, NULL, 0);
    w.options.budget_bytes = EVEN_FLOOR_BYTES;
    w.device.fail_alloc = 0;
    cr_assert_eq(world_try_open(&w), LODE_ERR_MEMORY);
    cr_assert_null(w.residency);
    w.options.budget_bytes = EVEN_FLOOR_BYTES - 1;
    cr_assert_eq(world_try_open(&w), LODE_ERR_MEMORY);
    cr_assert(strstr(w.error.text, "need at least"), "%s", w.error.text);
    world_tear_down(&w);
}

// ---- reads that fail

static void check_failure(struct world *w, uint32_t unit)
{
    char name[64], offset[64];
    name_unit(&w->table.units[unit], name, sizeof name);
    snprintf(offset, sizeof offset, "offset %llu",
             (unsigned long long)w->table.parts[w->table.units[unit].first_part].offset);
    cr_assert_eq(residency_acquire(w->residency, &unit, 1, &w->error), LODE_ERR_IO);
    cr_assert(strstr(w->error.text, name) == w->error.text, "%s", w->error.text);
    cr_assert(strstr(w->error.text, w->path) && strstr(w->error.text, offset), "%s", w->error.text);
}

Test(ring, a_read_that_fails_is_told_to_who_wants_it_and_tried_again_by_the_next)
{
    for (uint32_t bad = 0; bad < EVEN_UNITS; bad++) {
        struct world w;
        set_up_even(&w);
        struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_ERROR, bad, 0);
        rule.times = 4; // two requests, each tried twice
        open_even(&w, &rule, 1);
        for (uint32_t u = 0; u < bad; u++)
            use_unit(&w, u);
        check_failure(&w, bad);
        check_failure(&w, bad);
        for (uint32_t u = bad; u < bad + EVEN_UNITS; u++)
            use_unit(&w, u % EVEN_UNITS);
        world_tear_down(&w);
    }
}

Test(ring, one_bad_part_of_several_fails_its_unit_alone)
{
    for (uint32_t part = 0; part < 3; part++) {
        struct world w;
        world_set_up(&w, true);
        w.table.name_unit = name_unit;
        for (uint32_t u = 0; u < 8; u++) {
            world_add_unit(&w, UNIT_DENSE, u, 0);
            for (uint32_t i = 0; i < 3; i++)
                world_append_part(&w, 3000);
        }
        struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_ERROR, 3, part);
        world_open_file(&w, &rule, 1);
        world_open(&w, homes_floor_bytes(&w.table, true));
        for (uint32_t pass = 0; pass < 3; pass++)
            for (uint32_t u = 0; u < 8; u++) {
                if (u != 3) {
                    use_unit(&w, u);
                    continue;
                }
                cr_assert_eq(residency_acquire(w.residency, &u, 1, &w.error), LODE_ERR_IO);
                cr_assert(strstr(w.error.text, "unit 0 of layer 3: ") == w.error.text, "%s", w.error.text);
            }
        world_tear_down(&w);
    }
}

Test(ring, a_list_that_fails_holds_nothing)
{
    struct world w;
    const uint32_t units[] = {2, 3, 4};
    set_up_even(&w);
    struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_ERROR, 4, 0);
    rule.times = 2;
    open_even(&w, &rule, 1);
    cr_assert_eq(residency_acquire(w.residency, units, 3, &w.error), LODE_ERR_IO);
    for (uint32_t u = 0; u < 2 * EVEN_UNITS; u++)
        use_unit(&w, u % EVEN_UNITS);
    world_tear_down(&w);
}

Test(ring, goes_on_after_faults_at_random_places)
{
    uint32_t n_failed_ever = 0;
    for (uint32_t seed = 1; seed <= 20; seed++) {
        struct world w;
        struct io_fault_rule rules[10];
        uint32_t n_failed = 0;
        world_set_up(&w, true);
        w.random = seed;
        add_random_model(&w);
        const uint64_t floor = homes_floor_bytes(&w.table, true);
        for (uint32_t i = 0; i < 10; i++)
            rules[i] = (struct io_fault_rule){
                .kind = IO_FAULT_ERROR, .skip = 100 + 30 * i, .times = 2, .error_number = 5};
        world_open_file(&w, rules, 10);
        if (floor < homes_full_bytes(&w.table, true) / 2) {
            world_open(&w, floor);
            for (uint32_t i = 0; i < 40 * w.table.n_units; i++) {
                const uint32_t unit = i % w.table.n_units;
                if (residency_acquire(w.residency, &unit, 1, &w.error) != 0) {
                    n_failed++;
                    continue;
                }
                world_check_unit(&w, unit);
                residency_release(w.residency, &unit, 1);
            }
            cr_assert_leq(n_failed, 20);
        }
        n_failed_ever += n_failed;
        world_tear_down(&w);
    }
    cr_assert_gt(n_failed_ever, 0);
}

// ---- waits

Test(ring, a_wait_ends_when_the_caller_asks_and_the_next_pass_gets_its_units)
{
    for (uint32_t again = 0; again < 2; again++) {
        struct world w;
        const uint32_t stuck = 1;
        set_up_even(&w);
        const struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_HOLD, stuck, 0);
        open_even(&w, &rule, 1);
        residency_pass_begin(w.residency, 1, world_stop, NULL);
        use_unit(&w, 0);
        cr_assert_eq(residency_acquire(w.residency, &stuck, 1, &w.error), LODE_ERR_CANCELLED);
        residency_pass_end(w.residency, false);
        io_fault_release(w.fault);
        residency_pass_begin(w.residency, 1, NULL, NULL);
        for (uint32_t u = 0; again && u < 2 * EVEN_UNITS; u++)
            use_unit(&w, u % EVEN_UNITS);
        world_tear_down(&w);
    }
}

Test(ring, tells_what_a_stall_waited_for)
{
    struct world w;
    char buffer[64];
    set_up_even(&w);
    struct io_fault_rule rule = world_fault_at(&w, IO_FAULT_DELAY, 2, 0);
    rule.delay_ns = 100000000;
    open_even(&w, &rule, 1);
    for (uint32_t u = 0; u < 3; u++)
        use_unit(&w, u);
    const struct residency_stall stall = residency_last_stall(w.residency);
    cr_assert_geq(stall.total_ns, 20000000);
    cr_assert_eq(stall.worst_kind, WAIT_STREAM);
    cr_assert_str_eq(residency_stall_text(w.residency, &stall, buffer, sizeof buffer),
                     "unit 0 of layer 2, streamed read");
    struct residency_layer_figures layer;
    residency_count_layer(w.residency, 2, &layer);
    cr_assert_geq(layer.stall_ns, 20000000);
    world_tear_down(&w);
}

static bool starts_before(struct io_fault *fault, uint64_t offset, uint64_t other)
{
    for (uint64_t i = 0; i < io_fault_read_count(fault); i++) {
        const uint64_t at = io_fault_started_at(fault, i);
        if (at == offset || at == other)
            return at == offset;
    }
    return false;
}

Test(ring, what_is_waited_for_overtakes_certain_guesses)
{
    struct world w;
    uint32_t guessed[8];
    const uint32_t far = 9; // not read ahead
    set_up_even(&w);
    for (uint32_t e = 0; e < 64; e++) {
        const uint32_t unit = world_add_unit(&w, UNIT_EXPERT, 0, e);
        world_add_part(&w, w.end, PAGE);
        if (e < 8)
            guessed[e] = unit;
    }
    const struct io_fault_rule slow = {.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 3000000};
    w.io_options.queue_depth = 1;
    world_open_file(&w, &slow, 1);
    world_open(&w, homes_floor_bytes(&w.table, true));
    residency_pass_begin(w.residency, 20, NULL, NULL);
    world_settle(&w);
    residency_guess(w.residency, guessed, 8, true);
    use_unit(&w, far);
    const uint64_t wanted = w.table.parts[w.table.units[far].first_part].offset;
    const uint64_t last_guess = w.table.parts[w.table.units[guessed[7]].first_part].offset;
    world_settle(&w);
    cr_assert(starts_before(w.fault, wanted, last_guess));
    world_tear_down(&w);
}
