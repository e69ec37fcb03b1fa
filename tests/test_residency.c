// Units and the loading of what stays in memory: layout, content, progress, and every way to fail.
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// A model in small: one unit of a large part, 400 experts of two parts, a unit without parts; all sizes odd.
static void add_model(struct world *w)
{
    w->end = 3;
    world_add_unit(w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_add_part(w, w->end, 19 * MIB + 5);
    for (uint32_t i = 0; i < 400; i++) {
        world_add_unit(w, UNIT_EXPERT, i / 8, i % 8);
        for (uint32_t part = 0; part < 2; part++)
            world_append_part(w, 1 + (i * 7919 + part * 104729) % 9001);
    }
    world_add_unit(w, UNIT_DENSE, 3, 0);
}

static void check_content(const struct world *w)
{
    for (uint32_t u = 0; u < w->table.n_units; u++)
        world_check_unit(w, u);
}

static int open_told(struct world *w, residency_progress_fn on_progress, void *user)
{
    w->options.on_progress = on_progress;
    w->options.user = user;
    return world_try_open(w);
}

// ---- units
// ---------------------------------------------------------------------------------------------------

Test(unit, the_table_keeps_units_and_parts_in_order)
{
    struct unit_table table = {0};
    struct lode_error error;
    for (uint32_t i = 0; i < 5000; i++) {
        cr_assert_eq(unit_table_add(&table, UNIT_EXPERT, 4, i / 128, i % 128, &error), 0);
        for (uint32_t part = 0; part < i % 4; part++)
            cr_assert_eq(unit_table_add_part(&table, (struct extent){1, i, 10 + part}, &error), 0);
    }
    cr_assert_eq(table.n_units, 5000);
    uint64_t total_bytes = 0;
    uint32_t n_parts = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        const struct unit *unit = &table.units[i];
        cr_assert(unit->class == UNIT_EXPERT && unit->kind == 4 && unit->layer == i / 128 &&
                  unit->index == i % 128);
        cr_assert(unit->first_part == n_parts && unit->n_parts == i % 4);
        for (uint32_t part = 0; part < unit->n_parts; part++) {
            cr_assert_eq(table.parts[n_parts + part].offset, i);
            total_bytes += 10 + part;
        }
        n_parts += unit->n_parts;
    }
    cr_assert_eq(table.n_parts, n_parts);
    cr_assert_eq(unit_table_bytes(&table), total_bytes);
    unit_table_free(&table);
    cr_assert_eq(table.n_units, 0);
    cr_assert_eq(unit_table_bytes(&table), 0);
}

Test(unit, refuses_parts_that_are_no_range_of_a_file)
{
    struct unit_table table = {0};
    struct lode_error error;
    cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 0, 1}, &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(unit_table_add(&table, UNIT_DENSE, 0, 0, 0, &error), 0);
    cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 5, 0}, &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 2, UINT64_MAX - 1}, &error),
                 LODE_ERR_ARGUMENT);
    cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 0, UINT64_MAX - 1}, &error), 0);
    cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 0, 2}, &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(table.n_parts, 1);
    unit_table_free(&table);
}

Test(unit, sums_that_overflow_are_the_largest_number)
{
    struct unit_table table = {0};
    struct lode_error error;
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(unit_table_add(&table, UNIT_DENSE, 0, 0, 0, &error), 0);
        cr_assert_eq(unit_table_add_part(&table, (struct extent){0, 0, UINT64_MAX - 200}, &error), 0);
    }
    cr_assert_eq(unit_table_bytes(&table), UINT64_MAX);
    const struct lode_device device = {.host_memory = true};
    cr_assert_eq(residency_full_bytes(&table, &device), UINT64_MAX);
    cr_assert_eq(residency_floor_bytes(&table, &device), UINT64_MAX);
    unit_table_free(&table);
}

static const char *name_expert(const struct unit *unit, char *buffer, size_t capacity)
{
    snprintf(buffer, capacity, "expert %u of layer %u", unit->index, unit->layer);
    return buffer;
}

Test(unit, names_come_from_the_maker_or_from_the_labels)
{
    struct unit_table table = {0};
    char buffer[64];
    cr_assert_eq(unit_table_add(&table, UNIT_EXPERT, 4, 2, 17, NULL), 0);
    cr_assert_eq(unit_table_add(&table, UNIT_ROWS, 6, UNIT_NO_LAYER, 0, NULL), 0);
    cr_assert_str_eq(unit_table_name(&table, 0, buffer, sizeof buffer), "unit 0 (kind 4, layer 2, index 17)");
    cr_assert_str_eq(unit_table_name(&table, 1, buffer, sizeof buffer), "unit 1 (kind 6, index 0)");
    table.name_unit = name_expert;
    cr_assert_str_eq(unit_table_name(&table, 0, buffer, sizeof buffer), "expert 17 of layer 2");
    unit_table_free(&table);
}

// ---- filling
// -------------------------------------------------------------------------------------------------

struct progress {
    uint64_t done_bytes, total_bytes;
    uint32_t n_calls, stop_at; // stop_at: the call that cancels, counted from 0
    bool fell;
};

static bool note_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *progress = user;
    progress->fell |= done_bytes < progress->done_bytes;
    progress->done_bytes = done_bytes;
    progress->total_bytes = total_bytes;
    return progress->n_calls++ != progress->stop_at;
}

static void fills_every_slot(bool host_memory)
{
    struct world w;
    struct progress progress = {.stop_at = NEVER};
    world_set_up(&w, host_memory);
    add_model(&w);
    world_open_file(&w, NULL, 0);
    cr_assert_eq(open_told(&w, note_progress, &progress), 0, "%s", w.error.text);
    check_content(&w);
    const uint64_t full_bytes = residency_full_bytes(&w.table, &w.device.base);
    const struct residency_figures figures = world_figures(&w);
    cr_assert_eq(figures.pinned_bytes, full_bytes);
    cr_assert(figures.pool_bytes == 0 && figures.ring_bytes == 0 && figures.streamed_bytes == 0);
    cr_assert_geq(figures.load_bytes, unit_table_bytes(&w.table));
    cr_assert_eq(w.device.live_bytes, full_bytes + (host_memory ? IO_ALIGN_BYTES : 0));
    cr_assert_eq(w.device.n_live, 1, "a small model is one block");
    cr_assert_eq(w.device.n_uploads > 0, !host_memory);
    cr_assert_eq(progress.total_bytes, unit_table_bytes(&w.table));
    cr_assert_eq(progress.done_bytes, progress.total_bytes);
    cr_assert(!progress.fell && progress.n_calls >= 2);
    uint32_t units[] = {400, 0, 17};
    cr_assert_eq(residency_acquire(w.residency, units, 3, &w.error), 0);
    residency_release(w.residency, units, 3);
    world_tear_down(&w);
}

Test(residency, reads_into_host_memory)
{
    fills_every_slot(true);
}

Test(residency, reads_through_staging_where_the_host_cannot_reach)
{
    fills_every_slot(false);
}

Test(residency, fills_thousands_of_experts)
{
    struct world w;
    world_set_up(&w, true);
    for (uint32_t i = 0; i < 3840; i++) {
        world_add_unit(&w, UNIT_EXPERT, i / 128, i % 128);
        world_add_part(&w, (uint64_t)i * 3000, 2000);
        world_add_part(&w, (uint64_t)i * 3000 + 2000, 1000);
    }
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), 0, "%s", w.error.text);
    check_content(&w);
    world_tear_down(&w);
}

Test(residency, of_no_units_is_open_at_once)
{
    struct world w;
    world_set_up(&w, false);
    w.end = 10;
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), 0);
    cr_assert_eq(world_figures(&w).pinned_bytes, 0);
    cr_assert_eq(w.device.n_allocs, 0);
    world_tear_down(&w);
}

Test(residency, recovers_from_single_faults)
{
    struct world w;
    struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_ERROR, .offset = 5 * MIB, .end = 5 * MIB + 1, .times = 1, .error_number = EIO},
        {.kind = IO_FAULT_SHORT, .offset = 100, .end = 101, .times = 1, .short_bytes = 7},
    };
    world_set_up(&w, true);
    add_model(&w);
    world_open_file(&w, rules, 2);
    cr_assert_eq(world_try_open(&w), 0, "%s", w.error.text);
    check_content(&w);
    world_tear_down(&w);
}

// ---- layout
// --------------------------------------------------------------------------------------------------

Test(residency, needs_each_part_aligned_and_with_slack)
{
    struct world w;
    world_set_up(&w, false);
    world_add_unit(&w, UNIT_EXPERT, 0, 0);
    world_add_part(&w, 0, 1);   // 1 + 64 -> 128
    world_add_part(&w, 1, 64);  // 64 + 64 -> 128
    world_add_part(&w, 65, 65); // 65 + 64 -> 192
    cr_assert_eq(residency_full_bytes(&w.table, &w.device.base), 128 + 128 + 192);
    w.device.base.host_memory = true;
    cr_assert_eq(residency_full_bytes(&w.table, &w.device.base), 3 * 4096);
    world_add_part(&w, 4095, 2); // lies in two pages
    cr_assert_eq(residency_full_bytes(&w.table, &w.device.base), 5 * 4096);
    world_tear_down(&w);
}

Test(residency, groups_units_into_blocks_of_at_most_a_gibibyte_unless_one_is_larger)
{
    struct world w;
    struct progress cancel_at_once = {.stop_at = 0};
    world_set_up(&w, true);
    w.device.untouchable = true;
    static const uint64_t sizes[] = {600 * MIB, 300 * MIB,  200 * MIB, 1500 * MIB,
                                     10 * MIB,  1014 * MIB, 1 * MIB};
    for (uint32_t i = 0; i < 7; i++) { // blocks: 600+300 | 200 | 1500 | 10+1014 | 1
        world_add_unit(&w, UNIT_EXPERT, 0, i);
        world_add_part(&w, 0, sizes[i]);
    }
    world_open_file(&w, NULL, 0);
    cr_assert_eq(open_told(&w, note_progress, &cancel_at_once), LODE_ERR_CANCELLED);
    cr_assert_eq(w.device.n_allocs, 5);
    cr_assert_eq(w.device.largest_bytes, 1500 * MIB + IO_ALIGN_BYTES);
    cr_assert_eq(io_fault_read_count(w.fault), 0);
    world_tear_down(&w);
}

// ---- failures
// ------------------------------------------------------------------------------------------------

Test(residency, an_allocation_that_fails_leaks_nothing)
{
    for (uint32_t nth = 0; nth < 3; nth++) {
        struct world w;
        world_set_up(&w, true);
        w.device.untouchable = true;
        w.device.fail_alloc = nth;
        for (uint32_t i = 0; i < 3; i++) {
            world_add_unit(&w, UNIT_EXPERT, 0, i);
            world_add_part(&w, 0, 1000 * MIB);
        }
        world_open_file(&w, NULL, 0);
        cr_assert_eq(world_try_open(&w), LODE_ERR_MEMORY);
        cr_assert_str_eq(w.error.text, "the fake device is full");
        cr_assert_eq(w.device.n_allocs, nth + 1);
        cr_assert_null(w.residency);
        world_tear_down(&w);
    }
}

static void tells_a_bad_read(bool host_memory)
{
    struct world w;
    world_set_up(&w, host_memory);
    w.table.name_unit = name_expert;
    add_model(&w);
    const struct extent *part = &w.table.parts[w.table.units[123].first_part + 1];
    struct io_fault_rule rule = {.kind = IO_FAULT_ERROR,
                                 .offset = part->offset,
                                 .end = part->offset + 1,
                                 .times = IO_FAULT_ALWAYS,
                                 .error_number = EIO};
    char offset[32];
    snprintf(offset, sizeof offset, "%llu", (unsigned long long)part->offset);
    world_open_file(&w, &rule, 1);
    cr_assert_eq(world_try_open(&w), LODE_ERR_IO);
    cr_assert(strstr(w.error.text, "expert 2 of layer 15: "), "%s", w.error.text);
    cr_assert(strstr(w.error.text, w.path), "%s", w.error.text);
    cr_assert(strstr(w.error.text, offset), "%s", w.error.text);
    cr_assert(strstr(w.error.text, strerror(EIO)), "%s", w.error.text);
    world_tear_down(&w);
}

Test(residency, a_read_that_fails_names_file_offset_and_unit)
{
    tells_a_bad_read(true);
    tells_a_bad_read(false);
}

Test(residency, fails_cleanly_wherever_the_disk_fails)
{
    for (uint32_t nth = 0; nth < 800; nth += 113) {
        struct world w;
        struct io_fault_rule rule = {
            .kind = IO_FAULT_ERROR, .skip = nth, .times = IO_FAULT_ALWAYS, .error_number = EIO};
        world_set_up(&w, nth % 2);
        add_model(&w);
        world_open_file(&w, &rule, 1);
        cr_assert_eq(world_try_open(&w), LODE_ERR_IO);
        cr_assert_null(w.residency);
        world_tear_down(&w);
    }
}

Test(residency, tells_a_file_that_was_truncated_after_it_was_opened)
{
    struct world w;
    world_set_up(&w, true);
    add_model(&w);
    world_open_file(&w, NULL, 0);
    cr_assert_eq(truncate(w.path, (off_t)(w.end - 5000)), 0);
    cr_assert_eq(world_try_open(&w), LODE_ERR_IO);
    cr_assert(strstr(w.error.text, "truncated while in use"), "%s", w.error.text);
    cr_assert(strstr(w.error.text, "layer 49"), "%s", w.error.text);
    world_tear_down(&w);
}

Test(residency, refuses_units_beyond_their_file_before_it_takes_memory)
{
    struct world w;
    world_set_up(&w, true);
    add_model(&w);
    w.end -= 5000;
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), LODE_ERR_FORMAT);
    cr_assert(strstr(w.error.text, "layer 49"), "%s", w.error.text);
    cr_assert_eq(w.device.n_allocs, 0);
    world_add_unit(&w, UNIT_EXPERT, 0, 0);
    cr_assert_eq(unit_table_add_part(&w.table, (struct extent){7, 0, 1}, &w.error), 0);
    w.table.units += 402; // only the unit that was added last
    w.table.n_units -= 402;
    cr_assert_eq(world_try_open(&w), LODE_ERR_FORMAT);
    cr_assert(strstr(w.error.text, "file 7"), "%s", w.error.text);
    w.table.units -= 402;
    w.table.n_units += 402;
    world_tear_down(&w);
}

Test(residency, an_upload_that_fails_names_the_unit)
{
    for (uint32_t nth = 0; nth < 30; nth += 10) {
        struct world w;
        world_set_up(&w, false);
        w.device.fail_upload = nth;
        add_model(&w);
        world_open_file(&w, NULL, 0);
        cr_assert_eq(world_try_open(&w), LODE_ERR_IO);
        cr_assert(strstr(w.error.text, "unit ") && strstr(w.error.text, "the fake link is cut"), "%s",
                  w.error.text);
        world_tear_down(&w);
    }
}

Test(residency, a_device_that_fails_at_the_end_is_told)
{
    struct world w;
    world_set_up(&w, false);
    w.device.fail_sync = true;
    add_model(&w);
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), LODE_ERR_IO);
    cr_assert_str_eq(w.error.text, "the fake device has stopped");
    world_tear_down(&w);
}

Test(residency, failures_need_no_error_to_fill)
{
    struct world w;
    struct io_fault_rule rule = {
        .kind = IO_FAULT_ERROR, .skip = 9, .times = IO_FAULT_ALWAYS, .error_number = EIO};
    world_set_up(&w, true);
    add_model(&w);
    world_open_file(&w, &rule, 1);
    cr_assert_eq(residency_open(&w.residency, &w.table, w.io, &w.device.base, &w.options, NULL), LODE_ERR_IO);
    world_tear_down(&w);
}

// ---- progress and cancel
// -------------------------------------------------------------------------------------

Test(residency, cancel_stops_wherever_it_comes)
{
    for (uint32_t stop_at = 0; stop_at < 5; stop_at++) {
        struct world w;
        struct io_fault_rule slow = {.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 500000};
        struct progress progress = {.stop_at = stop_at};
        world_set_up(&w, stop_at % 2);
        add_model(&w);
        world_open_file(&w, &slow, 1);
        cr_assert_eq(open_told(&w, note_progress, &progress), LODE_ERR_CANCELLED);
        cr_assert_eq(progress.n_calls, stop_at + 1, "nothing is told after a cancel");
        cr_assert_lt(progress.done_bytes, progress.total_bytes);
        world_tear_down(&w);
    }
}

Test(residency, progress_goes_on_while_the_disk_does_not_answer)
{
    struct world w;
    struct io_fault_rule stuck = {.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 500000000};
    struct progress progress = {.stop_at = 3};
    world_set_up(&w, true);
    add_model(&w);
    world_open_file(&w, &stuck, 1);
    cr_assert_eq(open_told(&w, note_progress, &progress), LODE_ERR_CANCELLED);
    cr_assert_eq(progress.done_bytes, 0);
    cr_assert_leq(io_fault_read_count(w.fault), 40, "reads that had not started are dropped");
    world_tear_down(&w);
}

#ifndef NDEBUG
Test(residency, acquire_of_an_unknown_unit_asserts, .signal = SIGABRT)
{
    struct world w;
    uint32_t unknown = 402;
    world_set_up(&w, true);
    add_model(&w);
    world_open_file(&w, NULL, 0);
    cr_assert_eq(world_try_open(&w), 0);
    unlink(w.path);
    residency_acquire(w.residency, &unknown, 1, &w.error);
}
#endif
