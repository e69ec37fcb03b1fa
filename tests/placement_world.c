// The world of the tests of placement; see placement_world.h.
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// ---- the device

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
    f->most_bytes = f->live_bytes > f->most_bytes ? f->live_bytes : f->most_bytes;
    f->largest_bytes = bytes > f->largest_bytes ? bytes : f->largest_bytes;
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

// ---- the world

void world_set_up(struct world *w, bool host_memory)
{
    *w = (struct world){
        .device =
            {
                .base = {.ops = &fake_ops, .name = "fake", .host_memory = host_memory},
                .fail_alloc = NEVER,
                .fail_upload = NEVER,
            },
        .io_options = {.engine = IO_ENGINE_THREADS, .cache = IO_CACHE_POPULATE},
        .options = {.used_per_layer = 2},
        .random = 1,
    };
}

void world_tear_down(struct world *w)
{
    residency_close(w->residency);
    cr_assert_eq(w->device.n_live, 0);
    cr_assert_eq(w->device.live_bytes, 0);
    if (w->io) {
        cr_assert_eq(io_pending(w->io), 0);
        io_fault_release(w->fault);
        io_close(w->io);
        io_fault_free(w->fault);
        unlink(w->path);
    }
    unit_table_free(&w->table);
}

uint32_t world_random(struct world *w, uint32_t end)
{
    w->random = w->random * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(w->random ^ w->random >> 15) * end >> 32);
}

uint32_t world_add_unit(struct world *w, enum unit_class class, uint32_t layer, uint32_t index)
{
    cr_assert_eq(unit_table_add(&w->table, class, (uint32_t) class, layer, index, &w->error), 0);
    return w->table.n_units - 1;
}

void world_add_part(struct world *w, uint64_t offset, uint64_t bytes)
{
    cr_assert_eq(unit_table_add_part(&w->table, (struct extent){0, offset, bytes}, &w->error), 0, "%s",
                 w->error.text);
    w->end = offset + bytes > w->end ? offset + bytes : w->end;
}

void world_append_part(struct world *w, uint64_t bytes)
{
    world_add_part(w, w->end + 11, bytes);
}

unsigned char world_content_at(uint64_t offset)
{
    return (unsigned char)(((offset + 1) * 0x9e3779b97f4a7c15u) >> 41 | 1);
}

static void write_content(int fd, uint64_t bytes)
{
    unsigned char *data = malloc(bytes);
    cr_assert(data);
    for (uint64_t i = 0; i < bytes; i++)
        data[i] = world_content_at(i);
    cr_assert_eq(write(fd, data, bytes), (ssize_t)bytes);
    free(data);
}

void world_open_file(struct world *w, const struct io_fault_rule *rules, uint32_t n_rules)
{
    snprintf(w->path, sizeof w->path, "/tmp/lode-test-placement-XXXXXX");
    int fd = mkstemp(w->path);
    cr_assert(fd >= 0);
    if (w->end <= 64 * MIB)
        write_content(fd, w->end);
    else
        cr_assert_eq(ftruncate(fd, (off_t)w->end), 0);
    close(fd);
    const char *paths[] = {w->path};
    cr_assert_eq(io_fault_new(&w->fault, rules, n_rules, &w->error), 0, "%s", w->error.text);
    const struct io_hooks hooks = io_fault_hooks(w->fault);
    cr_assert_eq(io_open_hooked(&w->io, paths, 1, &w->io_options, &hooks, &w->error), 0, "%s", w->error.text);
}

int world_try_open(struct world *w)
{
    return residency_open(&w->residency, &w->table, w->io, &w->device.base, &w->options, &w->error);
}

void world_open(struct world *w, uint64_t budget_bytes)
{
    w->options.budget_bytes = budget_bytes;
    cr_assert_eq(world_try_open(w), 0, "%s", w->error.text);
}

// ---- experts

void world_add_experts(struct world *w)
{
    world_add_unit(w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_add_part(w, 0, IO_ALIGN_BYTES);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        for (uint32_t e = 0; e < WORLD_EXPERTS; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_add_part(w, w->end, IO_ALIGN_BYTES);
            world_add_part(w, w->end, IO_ALIGN_BYTES);
        }
}

uint32_t world_expert(uint32_t layer, uint32_t expert)
{
    return 1 + layer * WORLD_EXPERTS + expert;
}

void world_choose(struct world *w, const uint32_t *units, uint32_t n)
{
    static uint32_t n_tokens[WORLD_LAYERS * WORLD_EXPERTS];
    for (uint32_t i = 0; i < n; i++)
        n_tokens[i] = 1;
    cr_assert_eq(residency_choose(w->residency, units, n_tokens, n, &w->error), 0, "%s", w->error.text);
}

void world_take_all(struct world *w, const uint32_t *units, uint32_t n, uint32_t most)
{
    bool *had = calloc(w->table.n_units, sizeof *had);
    uint32_t taken[WORLD_LAYERS * WORLD_EXPERTS], n_taken, n_had = 0;
    for (;;) {
        cr_assert_eq(residency_take(w->residency, taken, &n_taken, most, true, &w->error), 0, "%s",
                     w->error.text);
        cr_assert_leq(n_taken, most);
        if (n_taken == 0)
            break;
        for (uint32_t i = 0; i < n_taken; i++) {
            bool chosen = false;
            for (uint32_t j = 0; j < n; j++)
                chosen |= units[j] == taken[i];
            cr_assert(chosen && !had[taken[i]], "unit %u", taken[i]);
            had[taken[i]] = true;
            world_check_unit(w, taken[i]);
        }
        residency_release(w->residency, taken, n_taken);
        n_had += n_taken;
    }
    cr_assert_eq(n_had, n);
    free(had);
}

void world_use(struct world *w, const uint32_t *units, uint32_t n)
{
    world_choose(w, units, n);
    world_take_all(w, units, n, 8);
}

void world_draw(struct world *w, uint32_t *units, uint32_t n, uint32_t layer)
{
    uint32_t order[WORLD_EXPERTS];
    for (uint32_t i = 0; i < WORLD_EXPERTS; i++)
        order[i] = i;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t j = i + world_random(w, WORLD_EXPERTS - i), other = order[j];
        order[j] = order[i];
        order[i] = other;
        units[i] = world_expert(layer, order[i]);
    }
}

// ---- what is checked

void world_check_unit(const struct world *w, uint32_t unit_id)
{
    const struct unit *unit = &w->table.units[unit_id];
    const uint64_t align = w->device.base.host_memory ? IO_ALIGN_BYTES : LODE_DEVICE_ALIGN;
    for (uint32_t i = 0; i < unit->n_parts; i++) {
        const struct extent *part = &w->table.parts[unit->first_part + i];
        const unsigned char *data = residency_part(w->residency, unit_id, i);
        const uint64_t offset_in_page = w->device.base.host_memory ? part->offset % align : 0;
        cr_assert_eq((uintptr_t)data % align, offset_in_page, "unit %u part %u", unit_id, i);
        for (uint64_t b = 0; b < part->bytes; b++)
            if (data[b] != world_content_at(part->offset + b))
                cr_assert_fail("byte %llu of part %u of unit %u is wrong", (unsigned long long)b, i, unit_id);
        unsigned char sum = 0; // the sanitizer objects when the slack is not readable
        for (uint64_t b = 0; b < LODE_DEVICE_SLACK; b++)
            sum |= data[part->bytes + b];
        if (!w->device.base.host_memory)
            cr_assert_eq(sum, 0, "the slack of unit %u is not its own", unit_id);
    }
}

void world_settle(struct world *w)
{
    do {
        uint32_t unit, n;
        cr_assert_eq(residency_take(w->residency, &unit, &n, 0, false, &w->error), 0, "%s", w->error.text);
        usleep(100);
    } while (io_pending(w->io) > 0);
}

uint64_t world_read_bytes(const struct world *w)
{
    struct io_counters counters;
    io_count(w->io, &counters);
    return counters.read_bytes;
}

struct residency_figures world_figures(const struct world *w)
{
    struct residency_figures figures;
    residency_count(w->residency, &figures);
    return figures;
}

uint64_t world_slot_bytes(const struct unit_table *table, uint32_t unit_id, bool host_memory)
{
    const struct unit *unit = &table->units[unit_id];
    uint64_t total = 0;
    for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts; i++) {
        const struct extent *part = &table->parts[i];
        if (host_memory)
            total += io_padded_bytes(part->offset, part->bytes);
        else
            total += (part->bytes + LODE_DEVICE_SLACK + LODE_DEVICE_ALIGN - 1) / LODE_DEVICE_ALIGN *
                     LODE_DEVICE_ALIGN;
    }
    return total;
}

bool world_stop(void *user)
{
    (void)user;
    return false;
}

struct io_fault_rule world_fault_at(const struct world *w, enum io_fault_kind kind, uint32_t unit,
                                    uint32_t part)
{
    const struct extent *extent = &w->table.parts[w->table.units[unit].first_part + part];
    return (struct io_fault_rule){
        .kind = kind,
        .offset = extent->offset,
        .end = extent->offset + 1,
        .times = IO_FAULT_ALWAYS,
        .error_number = EIO,
    };
}
