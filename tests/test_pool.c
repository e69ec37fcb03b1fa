// Experts that come and go: choices are handed out whole and right, whatever is guessed, evicted, withdrawn
// or fails meanwhile.
#include "base/clock.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE IO_ALIGN_BYTES
#define LAYERS WORLD_LAYERS
#define EXPERTS WORLD_EXPERTS
#define EXPERT_BYTES (PAGE + PAGE)

static const char *name_unit(const struct unit *unit, char *buffer, size_t capacity)
{
    snprintf(buffer, capacity, "expert %u of layer %u", unit->index, unit->layer);
    return buffer;
}

static uint64_t budget_of_slots(uint32_t n_slots)
{
    return PAGE + n_slots * EXPERT_BYTES;
}

static void set_up_pool(struct world *w, uint32_t n_slots, const struct io_fault_rule *rules,
                        uint32_t n_rules)
{
    world_open_file(w, rules, n_rules);
    world_open(w, budget_of_slots(n_slots));
    cr_assert_eq(world_figures(w).pool_slots, n_slots);
    residency_pass_begin(w->residency, 1, NULL, NULL);
}

// For tests whose reads all succeed.
static void open_pool(struct world *w, uint32_t n_slots)
{
    world_set_up(w, true);
    w->options.policy = policy_find("lru");
    w->table.name_unit = name_unit;
    world_add_experts(w);
    set_up_pool(w, n_slots, NULL, 0);
}

static void open_pool_with(struct world *w, uint32_t n_slots, enum io_fault_kind kind, uint64_t times,
                           uint32_t unit, uint32_t part)
{
    world_set_up(w, true);
    w->options.policy = policy_find("lru");
    w->table.name_unit = name_unit;
    world_add_experts(w);
    struct io_fault_rule rule = world_fault_at(w, kind, unit, part);
    rule.times = times;
    rule.delay_ns = 100000000;
    set_up_pool(w, n_slots, &rule, 1);
}

// ---- choices

Test(pool, hands_out_a_choice_larger_than_itself_in_waves)
{
    struct world w;
    uint32_t units[EXPERTS];
    open_pool(&w, 16);
    for (uint32_t i = 0; i < EXPERTS; i++)
        units[i] = world_expert(1, i);
    for (uint32_t most = 1; most <= EXPERTS; most *= 2) {
        world_choose(&w, units, EXPERTS);
        world_take_all(&w, units, EXPERTS, most);
    }
    world_tear_down(&w);
}

Test(pool, hands_out_what_is_resident_before_what_is_read)
{
    struct world w;
    const uint32_t before[] = {world_expert(0, 1), world_expert(0, 3)};
    const uint32_t units[] = {world_expert(0, 1), world_expert(0, 2), world_expert(0, 3)};
    uint32_t taken[8], n;
    open_pool_with(&w, 16, IO_FAULT_HOLD, IO_FAULT_ALWAYS, units[1], 0);
    world_use(&w, before, 2);
    world_choose(&w, units, 3);
    cr_assert_eq(residency_take(w.residency, taken, &n, 8, true, &w.error), 0);
    cr_assert(n == 2 && taken[0] == units[0] && taken[1] == units[2]);
    residency_release(w.residency, taken, 2);
    io_fault_wait_until_held(w.fault, 1);
    cr_assert_eq(residency_take(w.residency, taken, &n, 8, false, &w.error), 0);
    cr_assert_eq(n, 0, "nothing is waited for");
    io_fault_release(w.fault);
    cr_assert_eq(residency_take(w.residency, taken, &n, 8, true, &w.error), 0);
    cr_assert(n == 1 && taken[0] == units[1]);
    world_check_unit(&w, units[1]);
    residency_release(w.residency, taken, 1);
    cr_assert_eq(residency_take(w.residency, taken, &n, 8, true, &w.error), 0);
    cr_assert_eq(n, 0);
    world_tear_down(&w);
}

Test(pool, keeps_what_is_held_and_says_so_when_that_leaves_no_room)
{
    struct world w;
    uint32_t held[16], taken[16], next[4], n, n_held = 0;
    open_pool(&w, 16);
    world_draw(&w, held, 16, 0);
    world_draw(&w, next, 4, 1);
    world_choose(&w, held, 16);
    while (n_held < 16) {
        cr_assert_eq(residency_take(w.residency, taken + n_held, &n, 16, true, &w.error), 0);
        n_held += n;
    }
    const uint64_t read_bytes = world_read_bytes(&w);
    residency_guess(w.residency, next, 4, true);
    world_choose(&w, next, 4);
    cr_assert_eq(residency_take(w.residency, next, &n, 4, true, &w.error), LODE_ERR_MEMORY);
    cr_assert(strstr(w.error.text, "no room"), "%s", w.error.text);
    cr_assert_eq(world_read_bytes(&w), read_bytes);
    for (uint32_t i = 0; i < 16; i++)
        world_check_unit(&w, held[i]);
    residency_release(w.residency, taken, 16);
    world_take_all(&w, next, 4, 4);
    world_tear_down(&w);
}

Test(pool, an_abandoned_choice_does_not_disturb_the_next)
{
    struct world w;
    uint32_t first[20], second[20], taken[4], n;
    open_pool(&w, 16);
    for (uint32_t round = 0; round < 300; round++) {
        world_draw(&w, first, 20, round % LAYERS);
        world_draw(&w, second, 20, round % LAYERS);
        const uint32_t n_first = 1 + world_random(&w, 20), n_second = 1 + world_random(&w, 20);
        world_choose(&w, first, n_first);
        for (uint32_t takes = world_random(&w, 3); takes > 0; takes--) {
            cr_assert_eq(residency_take(w.residency, taken, &n, 4, takes % 2, &w.error), 0);
            residency_release(w.residency, taken, n);
        }
        world_choose(&w, second, n_second);
        world_take_all(&w, second, n_second, 8);
    }
    world_tear_down(&w);
}

Test(pool, an_empty_choice_hands_out_nothing)
{
    struct world w;
    uint32_t units[4], n;
    open_pool(&w, 16);
    world_draw(&w, units, 4, 0);
    world_choose(&w, units, 4);
    world_choose(&w, units, 0);
    cr_assert_eq(residency_take(w.residency, units, &n, 4, true, &w.error), 0);
    cr_assert_eq(n, 0);
    world_tear_down(&w);
}

Test(pool, without_one_all_experts_are_at_hand)
{
    struct world w;
    uint32_t units[7];
    world_set_up(&w, true);
    world_add_experts(&w);
    world_open_file(&w, NULL, 0);
    world_open(&w, 0);
    residency_pass_begin(w.residency, 1, NULL, NULL);
    world_take_all(&w, NULL, 0, 3);
    world_draw(&w, units, 7, 2);
    world_choose(&w, units, 7);
    world_take_all(&w, units, 7, 3);
    residency_guess(w.residency, units, 7, true);
    cr_assert(!residency_wants_guess(w.residency, 2));
    const struct residency_figures figures = world_figures(&w);
    cr_assert(figures.choices == 7 && figures.hits == 7 && figures.pool_slots == 0);
    world_tear_down(&w);
}

// ---- guesses

static void reads_a_guess_once(bool certain)
{
    struct world w;
    const uint32_t unit = world_expert(2, 5);
    open_pool_with(&w, 16, IO_FAULT_HOLD, IO_FAULT_ALWAYS, unit, 0);
    const uint64_t before = world_read_bytes(&w);
    residency_guess(w.residency, &unit, 1, certain);
    io_fault_wait_until_held(w.fault, 1);
    world_choose(&w, &unit, 1);
    io_fault_release(w.fault);
    world_take_all(&w, &unit, 1, 1);
    cr_assert_eq(world_read_bytes(&w) - before, EXPERT_BYTES);
    cr_assert_eq(world_figures(&w).prefetch_useful_bytes, EXPERT_BYTES);
    cr_assert_eq(world_figures(&w).prefetch_wasted_bytes, 0);
    world_tear_down(&w);
}

Test(pool, a_guess_that_is_chosen_while_it_is_read_is_read_once)
{
    reads_a_guess_once(true);
    reads_a_guess_once(false);
}

Test(pool, a_guess_that_was_read_is_a_hit)
{
    struct world w;
    uint32_t units[4];
    open_pool(&w, 16);
    world_draw(&w, units, 4, 3);
    residency_guess(w.residency, units, 4, true);
    world_settle(&w);
    const uint64_t before = world_read_bytes(&w);
    world_use(&w, units, 4);
    cr_assert_eq(world_read_bytes(&w), before);
    cr_assert_eq(world_figures(&w).hits, 4);
    cr_assert_eq(world_figures(&w).prefetch_useful_bytes, 4 * EXPERT_BYTES);
    world_tear_down(&w);
}

// While the first guess is held no other can start, so those are dropped and never read.
Test(pool, guesses_that_do_not_come_true_are_not_read_on)
{
    struct world w;
    uint32_t guessed[8] = {world_expert(1, 0)}, chosen[4];
    struct io_fault_rule hold = {.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS, .skip = 1};
    world_set_up(&w, true);
    w.io_options.queue_depth = 1;
    world_add_experts(&w);
    set_up_pool(&w, 16, &hold, 1); // the fixed unit is read first
    for (uint32_t i = 0; i < 8; i++)
        guessed[i] = world_expert(1, i);
    for (uint32_t i = 0; i < 4; i++)
        chosen[i] = world_expert(1, 8 + i);
    const uint64_t before = world_read_bytes(&w);
    residency_guess(w.residency, guessed, 8, true);
    io_fault_wait_until_held(w.fault, 1);
    world_choose(&w, chosen, 4);
    io_fault_release(w.fault);
    world_take_all(&w, chosen, 4, 4);
    world_settle(&w);
    cr_assert_eq(world_read_bytes(&w) - before, PAGE + 4 * EXPERT_BYTES);
    world_use(&w, guessed, 8);
    world_tear_down(&w);
}

Test(pool, a_guess_that_was_withdrawn_too_late_counts_as_wasted)
{
    struct world w;
    const uint32_t guessed = world_expert(1, 0), chosen = world_expert(1, 1);
    open_pool_with(&w, 16, IO_FAULT_HOLD, IO_FAULT_ALWAYS, guessed, 0);
    const uint64_t before = world_read_bytes(&w);
    residency_guess(w.residency, &guessed, 1, true);
    io_fault_wait_until_held(w.fault, 1);
    while (world_read_bytes(&w) - before < PAGE) // the other part; what has not begun is not wasted
        usleep(100);
    world_use(&w, &chosen, 1);
    cr_assert_eq(world_figures(&w).prefetch_wasted_bytes, 0);
    io_fault_release(w.fault);
    world_settle(&w);
    cr_assert_eq(world_figures(&w).prefetch_wasted_bytes, EXPERT_BYTES);
    cr_assert_eq(world_figures(&w).prefetch_useful_bytes, 0);
    world_use(&w, &guessed, 1);
    cr_assert_eq(world_figures(&w).prefetch_wasted_bytes, EXPERT_BYTES);
    world_tear_down(&w);
}

Test(pool, a_guess_does_not_push_out_what_it_needs_itself)
{
    struct world w;
    uint32_t guessed[4], others[14];
    open_pool(&w, 16);
    world_draw(&w, guessed, 4, 1);
    world_draw(&w, others, 14, 0);
    world_use(&w, guessed + 2, 2); // used longest ago when the others have filled the pool
    world_use(&w, others, 14);
    residency_guess(w.residency, guessed, 4, true);
    world_settle(&w);
    const uint64_t before = world_read_bytes(&w);
    world_use(&w, guessed, 4);
    cr_assert_eq(world_read_bytes(&w), before);
    cr_assert_eq(world_figures(&w).prefetch_useful_bytes, 2 * EXPERT_BYTES);
    world_tear_down(&w);
}

Test(pool, guesses_have_at_most_half_of_it)
{
    struct world w;
    uint32_t guessed[EXPERTS];
    open_pool(&w, 16);
    world_draw(&w, guessed, EXPERTS, 2);
    residency_guess(w.residency, guessed, EXPERTS, true);
    world_settle(&w);
    cr_assert_eq(world_read_bytes(&w), PAGE + 8 * EXPERT_BYTES);
    world_tear_down(&w);
}

Test(pool, wants_guesses_only_where_something_is_missing)
{
    struct world w;
    uint32_t units[EXPERTS];
    open_pool(&w, EXPERTS + 8);
    residency_pass_begin(w.residency, 64, NULL, NULL);
    for (uint32_t l = 0; l < LAYERS; l++)
        cr_assert(residency_wants_guess(w.residency, l));
    cr_assert(!residency_wants_guess(w.residency, LAYERS));
    world_draw(&w, units, EXPERTS, 2);
    world_use(&w, units, EXPERTS);
    cr_assert(!residency_wants_guess(w.residency, 2));
    cr_assert(residency_wants_guess(w.residency, 3));
    for (uint32_t i = 0; i < 9; i++)
        units[i] = world_expert(3, i);
    world_use(&w, units, 9);
    cr_assert(residency_wants_guess(w.residency, 2), "one had to leave");
    world_tear_down(&w);
}

Test(pool, makes_no_guesses_where_that_is_switched_off)
{
    struct world w;
    world_set_up(&w, true);
    w.options.no_prefetch = true;
    world_add_experts(&w);
    set_up_pool(&w, 16, NULL, 0);
    cr_assert(!residency_wants_guess(w.residency, 1));
    cr_assert(!world_figures(&w).prefetch_on);
    world_tear_down(&w);
}

// ---- reads that fail

static void check_failure(const struct world *w, uint32_t unit, uint32_t part)
{
    char offset[32], name[64];
    const struct extent *extent = &w->table.parts[w->table.units[unit].first_part + part];
    snprintf(offset, sizeof offset, "offset %llu", (unsigned long long)extent->offset);
    name_unit(&w->table.units[unit], name, sizeof name);
    cr_assert(strstr(w->error.text, name) == w->error.text, "%s", w->error.text);
    cr_assert(strstr(w->error.text, w->path) && strstr(w->error.text, offset), "%s", w->error.text);
}

// Takes until it fails, and returns the code.
static int take_until_failure(struct world *w)
{
    uint32_t taken[8], n = 1;
    int code = 0;
    while (code == 0 && n > 0) {
        code = residency_take(w->residency, taken, &n, 8, true, &w->error);
        if (code == 0)
            residency_release(w->residency, taken, n);
    }
    return code;
}

Test(pool, a_demand_read_that_fails_is_told_and_works_when_it_is_tried_again)
{
    for (uint32_t part = 0; part < 2; part++) {
        struct world w;
        const uint32_t units[] = {world_expert(1, 4), world_expert(1, 9), world_expert(1, 30)};
        open_pool_with(&w, 16, IO_FAULT_ERROR, 4, units[1], part); // twice tried, in two choices
        for (uint32_t i = 0; i < 2; i++) {
            world_choose(&w, units, 3);
            cr_assert_eq(take_until_failure(&w), LODE_ERR_IO);
            check_failure(&w, units[1], part);
            cr_assert_eq(take_until_failure(&w), LODE_ERR_IO, "the choice stays failed");
        }
        world_use(&w, units, 3);
        world_tear_down(&w);
    }
}

Test(pool, both_parts_may_fail_and_at_different_times)
{
    struct world w;
    const uint32_t unit = world_expert(0, 7);
    world_set_up(&w, true);
    w.table.name_unit = name_unit;
    world_add_experts(&w);
    const struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_DELAY,
         .times = 1,
         .delay_ns = 20000000,
         .offset = w.table.parts[w.table.units[unit].first_part + 1].offset,
         .end = w.table.parts[w.table.units[unit].first_part + 1].offset + 1},
        {.kind = IO_FAULT_ERROR,
         .times = 3,
         .error_number = 5,
         .offset = w.table.parts[w.table.units[unit].first_part].offset,
         .end = w.table.parts[w.table.units[unit].first_part + 1].offset + 1},
    };
    set_up_pool(&w, 16, rules, 2);
    world_choose(&w, &unit, 1);
    cr_assert_eq(take_until_failure(&w), LODE_ERR_IO);
    check_failure(&w, unit, 0);
    world_choose(&w, &unit, 1); // the second part is still being read for the choice that failed
    world_take_all(&w, &unit, 1, 1);
    world_tear_down(&w);
}

Test(pool, names_the_unit_that_failed_while_others_fail_too)
{
    struct world w;
    const uint32_t units[] = {world_expert(0, 7), world_expert(0, 8)};
    world_set_up(&w, true);
    w.table.name_unit = name_unit;
    world_add_experts(&w);
    const struct io_fault_rule rules[] = {
        world_fault_at(&w, IO_FAULT_HOLD, units[1], 0), // the unit's last read is still to come
        world_fault_at(&w, IO_FAULT_ERROR, units[1], 1),
    };
    set_up_pool(&w, 16, rules, 2);
    world_choose(&w, units, 2);
    cr_assert_eq(take_until_failure(&w), LODE_ERR_IO);
    check_failure(&w, units[1], 1);
    io_fault_release(w.fault);
    world_tear_down(&w);
}

Test(pool, a_guess_that_fails_is_silent_and_read_again_on_demand)
{
    struct world w;
    const uint32_t units[] = {world_expert(3, 1), world_expert(3, 2)};
    open_pool_with(&w, 16, IO_FAULT_ERROR, 2, units[0], 1);
    residency_guess(w.residency, units, 2, true);
    world_settle(&w);
    const uint64_t before = world_read_bytes(&w);
    world_use(&w, units, 2);
    cr_assert_eq(world_read_bytes(&w) - before, EXPERT_BYTES);
    cr_assert_eq(world_figures(&w).hits, 1);
    world_tear_down(&w);
}

Test(pool, a_guess_that_has_half_failed_when_it_is_chosen_is_read_again)
{
    struct world w;
    const uint32_t unit = world_expert(3, 1);
    world_set_up(&w, true);
    world_add_experts(&w);
    struct io_fault_rule rules[] = {world_fault_at(&w, IO_FAULT_HOLD, unit, 0),
                                    world_fault_at(&w, IO_FAULT_ERROR, unit, 1)};
    rules[1].times = 2;
    set_up_pool(&w, 16, rules, 2);
    residency_guess(w.residency, &unit, 1, true);
    while (io_pending(w.io) > 1) {
        uint32_t taken, n;
        cr_assert_eq(residency_take(w.residency, &taken, &n, 1, false, &w.error), 0);
    }
    world_choose(&w, &unit, 1);
    io_fault_release(w.fault);
    world_take_all(&w, &unit, 1, 1);
    world_tear_down(&w);
}

Test(pool, goes_on_after_faults_at_random_places)
{
    struct world w;
    uint32_t units[8], n_failed = 0;
    struct io_fault_rule rules[12];
    for (uint32_t i = 0; i < 12; i++)
        rules[i] = (struct io_fault_rule){
            .kind = IO_FAULT_ERROR, .skip = 20 + 40 * i, .times = 2 + i % 3, .error_number = 5};
    world_set_up(&w, true);
    w.io_options.queue_depth = 2;
    w.table.name_unit = name_unit;
    world_add_experts(&w);
    set_up_pool(&w, 16, rules, 12);
    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t layer = round % LAYERS;
        world_draw(&w, units, 8, layer);
        world_choose(&w, units, 6);
        residency_guess(w.residency, units, 0, true);
        const int code = take_until_failure(&w);
        n_failed += code != 0;
        cr_assert(code == 0 || code == LODE_ERR_IO);
        world_draw(&w, units, 8, (layer + 1) % LAYERS);
        residency_guess(w.residency, units, 8, round % 2);
    }
    cr_assert_gt(n_failed, 0);
    world_draw(&w, units, 8, 0);
    world_use(&w, units, 8);
    world_tear_down(&w);
}

Test(pool, a_wait_ends_when_the_caller_asks_and_closing_works_after_it)
{
    struct world w;
    const uint32_t units[] = {world_expert(1, 4), world_expert(1, 9)};
    uint32_t taken[2], n;
    open_pool_with(&w, 16, IO_FAULT_HOLD, IO_FAULT_ALWAYS, units[1], 0);
    residency_pass_begin(w.residency, 1, world_stop, NULL);
    world_choose(&w, units, 2);
    const uint64_t start_ns = clock_now_ns();
    cr_assert_eq(take_until_failure(&w), LODE_ERR_CANCELLED);
    cr_assert_lt(clock_now_ns() - start_ns, (uint64_t)5000000000);
    residency_pass_end(w.residency, false);
    cr_assert_eq(residency_take(w.residency, taken, &n, 2, false, &w.error), 0);
    cr_assert_eq(n, 0);
    io_fault_release(w.fault);
    world_tear_down(&w);
}

Test(pool, the_pass_after_one_that_was_stopped_gets_its_experts)
{
    struct world w;
    const uint32_t units[] = {world_expert(1, 4), world_expert(1, 9), world_expert(1, 10)};
    open_pool_with(&w, 16, IO_FAULT_HOLD, IO_FAULT_ALWAYS, units[1], 0);
    residency_pass_begin(w.residency, 1, world_stop, NULL);
    world_choose(&w, units, 2);
    cr_assert_eq(take_until_failure(&w), LODE_ERR_CANCELLED);
    residency_pass_end(w.residency, false);
    io_fault_release(w.fault);
    residency_pass_begin(w.residency, 1, world_stop, NULL);
    world_use(&w, units + 1, 2);
    residency_pass_end(w.residency, true);
    world_tear_down(&w);
}

// ---- stalls

static void stalls_for(bool guessed, enum residency_wait kind, const char *text)
{
    struct world w;
    char buffer[128];
    const uint32_t units[] = {world_expert(2, 6), world_expert(2, 7)};
    open_pool_with(&w, 16, IO_FAULT_DELAY, IO_FAULT_ALWAYS, units[1], 1);
    if (guessed)
        residency_guess(w.residency, units, 2, true);
    world_use(&w, units, 2);
    const struct residency_stall stall = residency_last_stall(w.residency);
    cr_assert_geq(stall.total_ns, 20000000);
    cr_assert_eq(stall.worst_unit, units[1]);
    cr_assert_eq(stall.worst_kind, kind);
    cr_assert_str_eq(residency_stall_text(w.residency, &stall, buffer, sizeof buffer), text);
    world_tear_down(&w);
}

Test(pool, tells_what_a_stall_waited_for)
{
    stalls_for(false, WAIT_DEMAND, "expert 7 of layer 2, demand read");
    stalls_for(true, WAIT_GUESSED, "expert 7 of layer 2, prefetch that came late");
}
