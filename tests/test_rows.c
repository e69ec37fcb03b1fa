// Rows of tables that stay in the files: content, the cache, and reads that fail or never end; and a whole
// model in which rows, streamed units and experts come and go together.
#include "placement/homes.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROW_BYTES 1234 // no row lies on a page of its own
#define N_ROWS 3000
#define MOST_IDS 1000

static const char *name_unit(const struct unit *unit, char *buffer, size_t capacity)
{
    snprintf(buffer, capacity, "table %u", unit->index);
    return buffer;
}

// Two tables; the first has a second part of other rows.
static void set_up_tables(struct world *w, bool host_memory)
{
    world_set_up(w, host_memory);
    w->table.name_unit = name_unit;
    world_add_unit(w, UNIT_ROWS, UNIT_NO_LAYER, 0);
    world_append_part(w, (uint64_t)N_ROWS * ROW_BYTES);
    world_append_part(w, (uint64_t)N_ROWS * ROW_BYTES);
    world_add_unit(w, UNIT_ROWS, UNIT_NO_LAYER, 1);
    world_append_part(w, (uint64_t)N_ROWS * ROW_BYTES);
}

static void open_tables(struct world *w, const struct io_fault_rule *rules, uint32_t n_rules)
{
    world_open_file(w, rules, n_rules);
    world_open(w, 0);
    residency_pass_begin(w->residency, 1, NULL, NULL);
}

static uint64_t row_offset(const struct world *w, uint32_t unit, uint32_t part, uint64_t row_bytes,
                           int32_t id)
{
    return w->table.parts[w->table.units[unit].first_part + part].offset + (uint64_t)id * row_bytes;
}

static int fetch(struct world *w, uint32_t unit, uint32_t part, const int32_t *ids, uint32_t n, void *out)
{
    return residency_fetch_rows(w->residency, unit, part, ROW_BYTES, ids, n, out, &w->error);
}

static void check_rows(const struct world *w, uint32_t unit, uint32_t part, uint64_t row_bytes,
                       const int32_t *ids, uint32_t n, const unsigned char *rows)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t offset = row_offset(w, unit, part, row_bytes, ids[i]);
        for (uint64_t b = 0; b < row_bytes; b++)
            if (rows[i * row_bytes + b] != world_content_at(offset + b))
                cr_assert_fail("byte %llu of row %d, the %u-th, is wrong", (unsigned long long)b, ids[i], i);
    }
}

static void fetch_and_check(struct world *w, uint32_t unit, uint32_t part, const int32_t *ids, uint32_t n)
{
    unsigned char *out =
        malloc((size_t)n * ROW_BYTES + 1); // exactly, so that the sanitizer sees a byte too much
    memset(out, 0, (size_t)n * ROW_BYTES + 1);
    cr_assert_eq(fetch(w, unit, part, ids, n, out), 0, "%s", w->error.text);
    check_rows(w, unit, part, ROW_BYTES, ids, n, out);
    cr_assert_eq(out[(size_t)n * ROW_BYTES], 0);
    free(out);
}

// ---- content

Test(rows, random_ids_with_repetitions_have_the_content_of_their_table)
{
    for (uint32_t host_memory = 0; host_memory < 2; host_memory++) {
        struct world w;
        int32_t ids[MOST_IDS];
        set_up_tables(&w, host_memory);
        open_tables(&w, NULL, 0);
        cr_assert(residency_has_rows(w.residency, 0) && residency_has_rows(w.residency, 1));
        for (uint32_t round = 0; round < 120; round++) {
            const uint32_t n = round % 10 ? world_random(&w, 40) : world_random(&w, MOST_IDS);
            const uint32_t among = 1 + world_random(&w, N_ROWS);
            for (uint32_t i = 0; i < n; i++)
                ids[i] = (int32_t)world_random(&w, among);
            fetch_and_check(&w, round % 2, round % 4 == 2, ids, n);
        }
        const int32_t ends[] = {0, N_ROWS - 1};
        fetch_and_check(&w, 1, 0, ends, 2);
        world_tear_down(&w);
    }
}

Test(rows, a_batch_of_one_row_over_and_over_is_one_read)
{
    struct world w;
    int32_t ids[MOST_IDS];
    set_up_tables(&w, true);
    open_tables(&w, NULL, 0);
    for (uint32_t i = 0; i < MOST_IDS; i++)
        ids[i] = 77;
    fetch_and_check(&w, 1, 0, ids, MOST_IDS);
    cr_assert_eq(world_read_bytes(&w), ROW_BYTES);
    world_tear_down(&w);
}

Test(rows, what_was_fetched_lately_is_not_read_again)
{
    struct world w;
    int32_t ids[MOST_IDS];
    set_up_tables(&w, true);
    open_tables(&w, NULL, 0);
    for (uint32_t i = 0; i < MOST_IDS; i++)
        ids[i] = (int32_t)(i * 7 % N_ROWS);
    fetch_and_check(&w, 0, 0, ids, 400);
    cr_assert_eq(world_read_bytes(&w), 400 * ROW_BYTES);
    fetch_and_check(&w, 0, 0, ids + 100, 300);
    const uint64_t again_bytes = world_read_bytes(&w) - 400 * ROW_BYTES;
    cr_assert_leq(again_bytes, 3 * ROW_BYTES, "a set of the cache is rarely full");
    fetch_and_check(&w, 0, 0, ids + 399, 1);
    cr_assert_eq(world_read_bytes(&w), 400 * ROW_BYTES + again_bytes);
    fetch_and_check(&w, 0, 1, ids, 5); // the same ids of another part, and of another table
    fetch_and_check(&w, 1, 0, ids, 5);
    cr_assert_eq(world_read_bytes(&w), 410 * ROW_BYTES + again_bytes);
    world_tear_down(&w);
}

Test(rows, tables_of_unlike_widths_share_the_cache)
{
    struct world w;
    static const uint64_t widths[] = {64, 5000, 1, 100000, 3000000};
    unsigned char *out = malloc(3 * 3000000);
    world_set_up(&w, true);
    for (uint32_t i = 0; i < 5; i++) {
        world_add_unit(&w, UNIT_ROWS, UNIT_NO_LAYER, i);
        world_append_part(&w, 6 * widths[i]);
    }
    open_tables(&w, NULL, 0);
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t i = 0; i < 5; i++) {
            const int32_t ids[] = {5, (int32_t)round, 5};
            cr_assert_eq(residency_fetch_rows(w.residency, i, 0, widths[i], ids, 3, out, &w.error), 0);
            check_rows(&w, i, 0, widths[i], ids, 3, out);
        }
    free(out);
    world_tear_down(&w);
}

Test(rows, no_rows_are_no_work)
{
    struct world w;
    set_up_tables(&w, true);
    open_tables(&w, NULL, 0);
    cr_assert_eq(fetch(&w, 0, 0, NULL, 0, NULL), 0);
    cr_assert_eq(world_read_bytes(&w), 0);
    world_tear_down(&w);
}

// ---- reads that fail

Test(rows, a_read_that_fails_names_the_table_and_leaves_the_next_fetch_working)
{
    struct world w;
    int32_t ids[600];
    char offset[64];
    unsigned char *out = malloc(600 * ROW_BYTES);
    for (int32_t i = 0; i < 600; i++)
        ids[i] = 2 * i;
    set_up_tables(&w, true);
    const uint64_t bad = row_offset(&w, 1, 0, ROW_BYTES, ids[500]);
    const struct io_fault_rule rule = {
        .kind = IO_FAULT_ERROR, .offset = bad, .end = bad + 1, .times = 2, .error_number = 5};
    snprintf(offset, sizeof offset, "offset %llu", (unsigned long long)bad);
    open_tables(&w, &rule, 1);
    cr_assert_eq(fetch(&w, 1, 0, ids, 600, out), LODE_ERR_IO);
    cr_assert(strstr(w.error.text, "table 1: ") == w.error.text, "%s", w.error.text);
    cr_assert(strstr(w.error.text, w.path) && strstr(w.error.text, offset), "%s", w.error.text);
    fetch_and_check(&w, 1, 0, ids, 600);
    free(out);
    world_tear_down(&w);
}

Test(rows, a_fetch_beyond_the_file_fails_at_once)
{
    struct world w;
    unsigned char out[2 * ROW_BYTES];
    set_up_tables(&w, true);
    open_tables(&w, NULL, 0);
    cr_assert_eq(truncate(w.path, (off_t)row_offset(&w, 1, 0, ROW_BYTES, 2000)), 0);
    const int32_t ids[] = {1, 2500};
    cr_assert_eq(fetch(&w, 1, 0, ids, 2, out), LODE_ERR_IO);
    cr_assert(strstr(w.error.text, "truncated"), "%s", w.error.text);
    fetch_and_check(&w, 1, 0, ids, 1);
    world_tear_down(&w);
}

// What is fetched for nobody any more may not be written to the caller's memory, nor be taken for other rows.
Test(rows, a_wait_ends_when_the_caller_asks_and_leaves_nothing_behind)
{
    struct world w;
    const int32_t first[] = {3, 4, 5}, second[] = {10, 11, 12};
    set_up_tables(&w, true);
    const uint64_t late = row_offset(&w, 0, 0, ROW_BYTES, 4) + 10;
    const struct io_fault_rule rule = {
        .kind = IO_FAULT_DELAY, .offset = late, .end = late + 1, .times = 1, .delay_ns = 500000000};
    open_tables(&w, &rule, 1);
    unsigned char *out = malloc(3 * ROW_BYTES);
    residency_pass_begin(w.residency, 1, world_stop, NULL);
    cr_assert_eq(fetch(&w, 0, 0, first, 3, out), LODE_ERR_CANCELLED);
    free(out);
    residency_pass_begin(w.residency, 1, NULL, NULL);
    fetch_and_check(&w, 0, 0, second, 3);
    fetch_and_check(&w, 0, 0, first, 3);
    world_tear_down(&w);
}

Test(rows, closing_waits_for_a_fetch_that_was_given_up)
{
    struct world w;
    const int32_t id = 7;
    unsigned char out[ROW_BYTES];
    set_up_tables(&w, true);
    const struct io_fault_rule rule = {.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS};
    open_tables(&w, &rule, 1);
    residency_pass_begin(w.residency, 1, world_stop, NULL);
    cr_assert_eq(fetch(&w, 0, 0, &id, 1, out), LODE_ERR_CANCELLED);
    io_fault_release(w.fault);
    world_tear_down(&w);
}

// ---- all homes at once

// What a pass of a model uses, in its order: rows, then in each layer a fixed unit, attention, experts and
// FFN.
static void run_pass(struct world *w, uint32_t n_tokens, uint32_t n_layers, uint32_t n_experts)
{
    int32_t ids[64];
    uint32_t chosen[64], guessed[64], unit = 2;
    for (uint32_t i = 0; i < n_tokens; i++)
        ids[i] = (int32_t)world_random(w, N_ROWS);
    fetch_and_check(w, 0, 0, ids, n_tokens);
    for (uint32_t l = 0; l < n_layers; l++, unit += 3 + n_experts) {
        for (uint32_t part = 0; part < 2; part++) { // fixed, attention
            const uint32_t dense = unit + part;
            cr_assert_eq(residency_acquire(w->residency, &dense, 1, &w->error), 0, "%s", w->error.text);
            world_check_unit(w, dense);
            residency_release(w->residency, &dense, 1);
        }
        const uint32_t n = 1 + world_random(w, n_tokens > 1 ? n_experts : 4),
                       step = 1 + 2 * world_random(w, 8);
        for (uint32_t i = 0; i < n; i++) {
            chosen[i] = unit + 3 + (l + i * step) % n_experts;
            guessed[i] = l + 1 < n_layers ? chosen[i] + 3 + n_experts : 0;
        }
        world_choose(w, chosen, n);
        if (guessed[0] && residency_wants_guess(w->residency, l + 1))
            residency_guess(w->residency, guessed, n, n_tokens > 1);
        const uint32_t ffn = unit + 2;
        cr_assert_eq(residency_acquire(w->residency, &ffn, 1, &w->error), 0, "%s", w->error.text);
        world_check_unit(w, ffn);
        residency_release(w->residency, &ffn, 1);
        world_take_all(w, chosen, n, 8);
    }
}

static void add_whole_model(struct world *w, uint32_t n_layers, uint32_t n_experts)
{
    for (uint32_t l = 0; l < n_layers; l++) {
        world_add_unit(w, UNIT_FIXED, l, 0);
        world_append_part(w, 500);
        for (uint32_t i = 0; i < 2; i++) {
            world_add_unit(w, UNIT_DENSE, l, i);
            for (uint32_t part = 0; part < 3; part++)
                world_append_part(w, 20000 + world_random(w, 30000));
        }
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_append_part(w, 4000);
            world_append_part(w, 2000);
        }
    }
}

Test(rows, and_streamed_units_and_experts_go_together_under_every_budget)
{
    enum { LAYERS = 6, EXPERTS = 32 };
    for (uint32_t step = 0; step <= 9; step++) {
        struct world w;
        set_up_tables(&w, true);
        w.io_options.engine = step % 2 ? IO_ENGINE_AUTO : IO_ENGINE_THREADS;
        add_whole_model(&w, LAYERS, EXPERTS);
        world_open_file(&w, NULL, 0);
        const uint64_t floor = residency_floor_bytes(&w.table, &w.device.base);
        const uint64_t full = residency_full_bytes(&w.table, &w.device.base);
        const uint64_t budget = floor + (full - floor) / 9 * step;
        world_open(&w, budget);
        uint64_t told_bytes = world_figures(&w).load_bytes;
        for (uint32_t pass = 0; pass < 30; pass++) {
            const uint32_t n_tokens = pass % 10 ? 1 : 1 + world_random(&w, 64);
            residency_pass_begin(w.residency, n_tokens, NULL, NULL);
            run_pass(&w, n_tokens, LAYERS, EXPERTS);
            residency_pass_end(w.residency, true);
        }
        const struct residency_figures figures = world_figures(&w);
        told_bytes += figures.prefill_bytes + figures.decode_bytes;
        cr_assert_leq(told_bytes, figures.read_bytes);
        cr_assert_geq(figures.choices, figures.hits);
        cr_assert_leq(w.device.most_bytes + (6 << 20), budget + w.device.n_allocs * IO_ALIGN_BYTES);
        world_tear_down(&w);
    }
}
