// Units and their residency, on a device of malloc that counts and fails on command, over files with scripted
// faults.
#include "base/lode_error.h"
#include "io/io_fault.h"
#include "io/io_internal.h"
#include "placement/residency.h"
#include "placement/unit.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define NEVER UINT32_MAX

// ---- the device
// ----------------------------------------------------------------------------------------------

struct fake_device {
    struct lode_device base;
    uint32_t n_allocs, n_uploads, n_live;
    uint64_t live_bytes, largest_bytes;
    uint32_t fail_alloc, fail_upload; // by number from 0
    bool fail_sync, untouchable;      // untouchable: address space only, for layouts larger than the memory
};

static struct fake_device *fake(struct lode_device *device)
{
    return (struct fake_device *)device;
}

static int fake_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    struct fake_device *f = fake(device);
    if (f->n_allocs++ == f->fail_alloc)
        return lode_fail(error, LODE_ERR_MEMORY, "the fake device is full");
    if (f->untouchable)
        *out = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    else
        *out = aligned_alloc(LODE_DEVICE_ALIGN,
                             (bytes + 2 * LODE_DEVICE_SLACK) & ~(size_t)(LODE_DEVICE_ALIGN - 1));
    cr_assert(*out && *out != MAP_FAILED);
    if (!f->untouchable)
        memset(*out, 0, bytes + LODE_DEVICE_SLACK);
    f->n_live++;
    f->live_bytes += bytes;
    if (bytes > f->largest_bytes)
        f->largest_bytes = bytes;
    return 0;
}

static void fake_free(struct lode_device *device, void *memory, size_t bytes)
{
    struct fake_device *f = fake(device);
    f->n_live--;
    f->live_bytes -= bytes;
    if (f->untouchable)
        munmap(memory, bytes);
    else
        free(memory);
}

static int fake_upload(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
                       struct lode_error *error)
{
    struct fake_device *f = fake(device);
    if (f->n_uploads++ == f->fail_upload)
        return lode_fail(error, LODE_ERR_IO, "the fake link is cut");
    memcpy(to_device, from_host, bytes);
    return 0;
}

static int fake_sync(struct lode_device *device, struct lode_error *error)
{
    if (fake(device)->fail_sync)
        return lode_fail(error, LODE_ERR_IO, "the fake device has stopped");
    return 0;
}

static const struct lode_device_ops fake_ops = {
    .alloc = fake_alloc, .free = fake_free, .upload = fake_upload, .sync = fake_sync};

// ---- the world of a test
// -------------------------------------------------------------------------------------

struct fixture {
    struct fake_device device;
    struct unit_table table;
    char path[64];
    struct io_fault *fault;
    struct io *io;
    struct residency *residency;
    struct lode_error error;
};

static unsigned char content_at(uint64_t offset)
{
    return (unsigned char)(((offset + 1) * 0x9e3779b97f4a7c15u) >> 41 | 1); // never 0
}

// The file: `bytes` of known content, or a sparse one when it is large.
static void open_file(struct fixture *f, uint64_t bytes, const struct io_fault_rule *rules, uint32_t n_rules)
{
    snprintf(f->path, sizeof f->path, "/tmp/lode-test-residency-XXXXXX");
    int fd = mkstemp(f->path);
    cr_assert(fd >= 0);
    if (bytes <= 64 * MIB) {
        unsigned char *data = malloc(bytes);
        for (uint64_t i = 0; i < bytes; i++)
            data[i] = content_at(i);
        cr_assert_eq(write(fd, data, bytes), (ssize_t)bytes);
        free(data);
    } else {
        cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
    }
    close(fd);
    const char *paths[] = {f->path};
    cr_assert_eq(io_fault_new(&f->fault, rules, n_rules, &f->error), 0);
    cr_assert_eq(io_open_with(&f->io, paths, 1, NULL, io_fault_read, f->fault, &f->error), 0);
}

static void set_up(struct fixture *f, bool host_memory)
{
    *f = (struct fixture){.device = {
                              .base = {.ops = &fake_ops, .name = "fake", .host_memory = host_memory},
                              .fail_alloc = NEVER,
                              .fail_upload = NEVER,
                          }};
}

static int open_residency(struct fixture *f, residency_progress_fn on_progress, void *user)
{
    return residency_open(&f->residency, &f->table, f->io, &f->device.base, on_progress, user, &f->error);
}

static void tear_down(struct fixture *f)
{
    residency_close(f->residency);
    cr_assert_eq(f->device.n_live, 0);
    cr_assert_eq(f->device.live_bytes, 0);
    if (f->io) {
        cr_assert_eq(io_pending(f->io), 0);
        io_fault_release(f->fault);
        io_close(f->io);
        io_fault_free(f->fault);
        unlink(f->path);
    }
    unit_table_free(&f->table);
}

static void add_unit(struct fixture *f, uint32_t kind, uint32_t layer, uint32_t index)
{
    cr_assert_eq(unit_table_add(&f->table, UNIT_EXPERT, kind, layer, index, &f->error), 0);
}

static void add_part(struct fixture *f, uint64_t offset, uint64_t bytes)
{
    cr_assert_eq(unit_table_add_part(&f->table, (struct extent){0, offset, bytes}, &f->error), 0);
}

// A model in small: one unit of a large part, 400 experts of two parts, a unit without parts; all sizes odd.
static uint64_t add_model(struct fixture *f)
{
    uint64_t offset = 3;
    add_unit(f, 0, UNIT_NO_LAYER, 0);
    add_part(f, offset, 19 * MIB + 5);
    offset += 19 * MIB + 5;
    for (uint32_t i = 0; i < 400; i++) {
        add_unit(f, 1, i / 8, i % 8);
        for (uint32_t part = 0; part < 2; part++) {
            uint64_t bytes = 1 + (i * 7919 + part * 104729) % 9001;
            add_part(f, offset, bytes);
            offset += bytes + 11;
        }
    }
    add_unit(f, 2, 3, 0);
    return offset;
}

static void check_content(const struct fixture *f)
{
    for (uint32_t u = 0; u < f->table.n_units; u++) {
        const struct unit *unit = &f->table.units[u];
        for (uint32_t i = 0; i < unit->n_parts; i++) {
            const struct extent *part = &f->table.parts[unit->first_part + i];
            const unsigned char *data = residency_part(f->residency, u, i);
            cr_assert_eq((uintptr_t)data % LODE_DEVICE_ALIGN, 0);
            for (uint64_t b = 0; b < part->bytes; b++)
                cr_assert_eq(data[b], content_at(part->offset + b));
            for (uint64_t b = 0; b < LODE_DEVICE_SLACK; b++)
                cr_assert_eq(data[part->bytes + b], 0, "slack of unit %u is not its own", u);
        }
    }
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
    cr_assert_eq(residency_needed_bytes(&table), UINT64_MAX);
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
    struct fixture f;
    struct progress progress = {.stop_at = NEVER};
    set_up(&f, host_memory);
    uint64_t end = add_model(&f);
    open_file(&f, end, NULL, 0);
    cr_assert_eq(open_residency(&f, note_progress, &progress), 0, "%s", f.error.text);
    check_content(&f);
    cr_assert_eq(residency_bytes(f.residency), residency_needed_bytes(&f.table));
    cr_assert_eq(f.device.live_bytes, residency_needed_bytes(&f.table));
    cr_assert_eq(f.device.n_live, 1, "a small model is one block");
    cr_assert_eq(f.device.n_uploads > 0, !host_memory);
    cr_assert_eq(progress.total_bytes, unit_table_bytes(&f.table));
    cr_assert_eq(progress.done_bytes, progress.total_bytes);
    cr_assert(!progress.fell && progress.n_calls >= 2);
    uint32_t units[] = {400, 0, 17};
    cr_assert_eq(residency_acquire(f.residency, units, 3, &f.error), 0);
    residency_release(f.residency, units, 3);
    tear_down(&f);
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
    struct fixture f;
    set_up(&f, true);
    for (uint32_t i = 0; i < 3840; i++) {
        add_unit(&f, 0, i / 128, i % 128);
        add_part(&f, (uint64_t)i * 3000, 2000);
        add_part(&f, (uint64_t)i * 3000 + 2000, 1000);
    }
    open_file(&f, 3840 * 3000, NULL, 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), 0, "%s", f.error.text);
    check_content(&f);
    tear_down(&f);
}

Test(residency, of_no_units_is_open_at_once)
{
    struct fixture f;
    set_up(&f, false);
    open_file(&f, 10, NULL, 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), 0);
    cr_assert_eq(residency_bytes(f.residency), 0);
    cr_assert_eq(f.device.n_allocs, 0);
    tear_down(&f);
}

Test(residency, recovers_from_single_faults)
{
    struct fixture f;
    struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_ERROR, .skip = 3, .times = 1, .error_number = EIO},
        {.kind = IO_FAULT_SHORT, .offset = 100, .end = 101, .times = 1, .short_bytes = 7},
    };
    set_up(&f, true);
    open_file(&f, add_model(&f), rules, 2);
    cr_assert_eq(open_residency(&f, NULL, NULL), 0, "%s", f.error.text);
    check_content(&f);
    tear_down(&f);
}

// ---- layout
// --------------------------------------------------------------------------------------------------

Test(residency, needs_each_part_aligned_and_with_slack)
{
    struct fixture f;
    set_up(&f, true);
    add_unit(&f, 0, 0, 0);
    add_part(&f, 0, 1);   // 1 + 64 -> 128
    add_part(&f, 1, 64);  // 64 + 64 -> 128
    add_part(&f, 65, 65); // 65 + 64 -> 192
    cr_assert_eq(residency_needed_bytes(&f.table), 128 + 128 + 192);
    tear_down(&f);
}

Test(residency, groups_units_into_blocks_of_at_most_a_gibibyte_unless_one_is_larger)
{
    struct fixture f;
    struct progress cancel_at_once = {.stop_at = 0};
    set_up(&f, true);
    f.device.untouchable = true;
    static const uint64_t sizes[] = {600 * MIB, 300 * MIB,  200 * MIB, 1500 * MIB,
                                     10 * MIB,  1013 * MIB, 1 * MIB};
    for (uint32_t i = 0; i < 7;
         i++) { // blocks: 600+300 | 200 | 1500 | 10+1013 (less than 1 GiB with slack) | 1
        add_unit(&f, 0, 0, i);
        add_part(&f, 0, sizes[i]);
    }
    open_file(&f, 2000 * MIB, NULL, 0);
    cr_assert_eq(open_residency(&f, note_progress, &cancel_at_once), LODE_ERR_CANCELLED);
    cr_assert_eq(f.device.n_allocs, 5);
    cr_assert_eq(f.device.largest_bytes, 1500 * MIB + 64);
    cr_assert_eq(io_fault_read_count(f.fault), 0);
    tear_down(&f);
}

// ---- failures
// ------------------------------------------------------------------------------------------------

Test(residency, an_allocation_that_fails_leaks_nothing)
{
    for (uint32_t nth = 0; nth < 3; nth++) {
        struct fixture f;
        set_up(&f, true);
        f.device.untouchable = true;
        f.device.fail_alloc = nth;
        for (uint32_t i = 0; i < 3; i++) {
            add_unit(&f, 0, 0, i);
            add_part(&f, 0, 1000 * MIB);
        }
        open_file(&f, 2000 * MIB, NULL, 0);
        cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_MEMORY);
        cr_assert_str_eq(f.error.text, "the fake device is full");
        cr_assert_eq(f.device.n_allocs, nth + 1);
        cr_assert_null(f.residency);
        tear_down(&f);
    }
}

static void tells_a_bad_read(bool host_memory)
{
    struct fixture f;
    set_up(&f, host_memory);
    f.table.name_unit = name_expert;
    uint64_t end = add_model(&f);
    const struct extent *part = &f.table.parts[f.table.units[123].first_part + 1];
    struct io_fault_rule rule = {.kind = IO_FAULT_ERROR,
                                 .offset = part->offset,
                                 .end = part->offset + 1,
                                 .times = IO_FAULT_ALWAYS,
                                 .error_number = EIO};
    char offset[32];
    snprintf(offset, sizeof offset, "%llu", (unsigned long long)part->offset);
    open_file(&f, end, &rule, 1);
    cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_IO);
    cr_assert(strstr(f.error.text, "expert 2 of layer 15: "), "%s", f.error.text);
    cr_assert(strstr(f.error.text, f.path), "%s", f.error.text);
    cr_assert(strstr(f.error.text, offset), "%s", f.error.text);
    cr_assert(strstr(f.error.text, strerror(EIO)), "%s", f.error.text);
    tear_down(&f);
}

Test(residency, a_read_that_fails_names_file_offset_and_unit)
{
    tells_a_bad_read(true);
    tells_a_bad_read(false);
}

Test(residency, fails_cleanly_wherever_the_disk_fails)
{
    for (uint32_t nth = 0; nth < 800; nth += 113) {
        struct fixture f;
        struct io_fault_rule rule = {
            .kind = IO_FAULT_ERROR, .skip = nth, .times = IO_FAULT_ALWAYS, .error_number = EIO};
        set_up(&f, nth % 2);
        open_file(&f, add_model(&f), &rule, 1);
        cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_IO);
        cr_assert_null(f.residency);
        tear_down(&f);
    }
}

Test(residency, tells_a_file_that_was_truncated_after_it_was_opened)
{
    struct fixture f;
    set_up(&f, true);
    uint64_t end = add_model(&f);
    open_file(&f, end, NULL, 0);
    cr_assert_eq(truncate(f.path, (off_t)(end - 5000)), 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_IO);
    cr_assert(strstr(f.error.text, "truncated while in use"), "%s", f.error.text);
    cr_assert(strstr(f.error.text, "layer 49"), "%s", f.error.text);
    tear_down(&f);
}

Test(residency, refuses_units_beyond_their_file_before_it_takes_memory)
{
    struct fixture f;
    set_up(&f, true);
    uint64_t end = add_model(&f);
    open_file(&f, end - 5000, NULL, 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_FORMAT);
    cr_assert(strstr(f.error.text, "layer 49"), "%s", f.error.text);
    cr_assert_eq(f.device.n_allocs, 0);
    add_unit(&f, 0, 0, 0);
    cr_assert_eq(unit_table_add_part(&f.table, (struct extent){7, 0, 1}, &f.error), 0);
    f.table.units += 402; // only the unit that was added last
    f.table.n_units -= 402;
    cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_FORMAT);
    cr_assert(strstr(f.error.text, "file 7"), "%s", f.error.text);
    f.table.units -= 402;
    f.table.n_units += 402;
    tear_down(&f);
}

Test(residency, an_upload_that_fails_names_the_unit)
{
    for (uint32_t nth = 0; nth < 30; nth += 10) {
        struct fixture f;
        set_up(&f, false);
        f.device.fail_upload = nth;
        open_file(&f, add_model(&f), NULL, 0);
        cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_IO);
        cr_assert(strstr(f.error.text, "unit ") && strstr(f.error.text, "the fake link is cut"), "%s",
                  f.error.text);
        tear_down(&f);
    }
}

Test(residency, a_device_that_fails_at_the_end_is_told)
{
    struct fixture f;
    set_up(&f, false);
    f.device.fail_sync = true;
    open_file(&f, add_model(&f), NULL, 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), LODE_ERR_IO);
    cr_assert_str_eq(f.error.text, "the fake device has stopped");
    tear_down(&f);
}

Test(residency, failures_need_no_error_to_fill)
{
    struct fixture f;
    struct io_fault_rule rule = {
        .kind = IO_FAULT_ERROR, .skip = 9, .times = IO_FAULT_ALWAYS, .error_number = EIO};
    set_up(&f, true);
    open_file(&f, add_model(&f), &rule, 1);
    cr_assert_eq(residency_open(&f.residency, &f.table, f.io, &f.device.base, NULL, NULL, NULL), LODE_ERR_IO);
    tear_down(&f);
}

// ---- progress and cancel
// -------------------------------------------------------------------------------------

Test(residency, cancel_stops_wherever_it_comes)
{
    for (uint32_t stop_at = 0; stop_at < 5; stop_at++) {
        struct fixture f;
        struct io_fault_rule slow = {.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 500000};
        struct progress progress = {.stop_at = stop_at};
        set_up(&f, stop_at % 2);
        open_file(&f, add_model(&f), &slow, 1);
        cr_assert_eq(open_residency(&f, note_progress, &progress), LODE_ERR_CANCELLED);
        cr_assert_eq(progress.n_calls, stop_at + 1, "nothing is told after a cancel");
        cr_assert_lt(progress.done_bytes, progress.total_bytes);
        tear_down(&f);
    }
}

Test(residency, progress_goes_on_while_the_disk_does_not_answer)
{
    struct fixture f;
    struct io_fault_rule stuck = {.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 500000000};
    struct progress progress = {.stop_at = 3};
    set_up(&f, true);
    open_file(&f, add_model(&f), &stuck, 1);
    cr_assert_eq(open_residency(&f, note_progress, &progress), LODE_ERR_CANCELLED);
    cr_assert_eq(progress.done_bytes, 0);
    cr_assert_leq(io_fault_read_count(f.fault), 40, "reads that had not started are dropped");
    tear_down(&f);
}

#ifndef NDEBUG
Test(residency, acquire_of_an_unknown_unit_asserts, .signal = SIGABRT)
{
    struct fixture f;
    uint32_t unknown = 402;
    set_up(&f, true);
    open_file(&f, add_model(&f), NULL, 0);
    cr_assert_eq(open_residency(&f, NULL, NULL), 0);
    unlink(f.path);
    residency_acquire(f.residency, &unknown, 1, &f.error);
}
#endif
