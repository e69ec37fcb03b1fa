// The all-resident case: one slot for every unit, filled when the residency is opened.
//
// Slots of consecutive units share blocks of up to 1 GiB, so that a model of thousands of experts takes a few
// large allocations, which huge pages cover. Reading keeps many requests queued: io decides how many are in
// flight, and a request is small enough that progress moves and a cancel is quick. On a device whose memory
// the host can reach the reads go straight into the slots; else through a ring of staging buffers and upload.
#include "placement/residency.h"
#include "base/checked.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define BLOCK_MAX_BYTES ((uint64_t)1 << 30)

#define DIRECT_READS 256
#define DIRECT_READ_MAX_BYTES ((uint64_t)16 << 20)
// Host memory while a device without host memory is filled: 16 buffers of 2 MiB.
#define STAGED_READS 16
#define STAGED_READ_MAX_BYTES ((uint64_t)2 << 20)
#define STAGING_ALIGN_BYTES 4096

#define REAP_MAX 64
#define PROGRESS_INTERVAL_NS (50 * 1000 * 1000)

struct block {
    char *memory;
    uint64_t bytes;
};

struct residency {
    const struct unit_table *table;
    struct lode_device *device;
    uint64_t bytes;
    struct block *blocks;
    uint32_t n_blocks;
    void **parts; // device memory of each part of the table
};

static bool part_slot_bytes(uint64_t *out, const struct extent *part)
{
    uint64_t with_slack_bytes;
    return checked_add(&with_slack_bytes, part->bytes, LODE_DEVICE_SLACK) &&
           checked_align(out, with_slack_bytes, LODE_DEVICE_ALIGN);
}

static bool unit_slot_bytes(uint64_t *out, const struct unit_table *table, const struct unit *unit)
{
    *out = 0;
    for (uint32_t i = 0; i < unit->n_parts; i++) {
        uint64_t bytes;
        if (!part_slot_bytes(&bytes, &table->parts[unit->first_part + i]) || !checked_add(out, *out, bytes))
            return false;
    }
    return true;
}

uint64_t residency_needed_bytes(const struct unit_table *table)
{
    uint64_t total_bytes = 0;
    for (uint32_t i = 0; i < table->n_units; i++) {
        uint64_t bytes;
        if (!unit_slot_bytes(&bytes, table, &table->units[i]) ||
            !checked_add(&total_bytes, total_bytes, bytes))
            return UINT64_MAX;
    }
    return total_bytes;
}

// ---- memory
// --------------------------------------------------------------------------------------------------

static void place_parts(struct residency *residency, uint32_t first_unit, uint32_t end_unit, char *memory)
{
    const struct unit_table *table = residency->table;
    for (uint32_t u = first_unit; u < end_unit; u++) {
        const struct unit *unit = &table->units[u];
        for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts; i++) {
            uint64_t bytes = 0;
            part_slot_bytes(&bytes, &table->parts[i]); // fits: next_block has summed it up
            residency->parts[i] = memory;
            memory += bytes;
        }
    }
}

// Finds the run of units from `first` on that shares a block: one unit, and more as long as they fit.
static uint32_t next_block(uint64_t *out_bytes, const struct unit_table *table, uint32_t first)
{
    uint32_t end = first;
    uint64_t bytes;
    *out_bytes = 0;
    while (end < table->n_units && unit_slot_bytes(&bytes, table, &table->units[end]) &&
           (end == first || *out_bytes + bytes <= BLOCK_MAX_BYTES)) {
        *out_bytes += bytes;
        end++;
    }
    return end;
}

static int allocate(struct residency *residency, struct lode_error *error)
{
    const struct unit_table *table = residency->table;
    struct lode_device *device = residency->device;
    residency->bytes = residency_needed_bytes(table);
    residency->blocks = calloc(table->n_units + 1, sizeof residency->blocks[0]);
    residency->parts = calloc(table->n_parts + 1, sizeof residency->parts[0]);
    if (!residency->blocks || !residency->parts)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the places of %u units", table->n_units);
    if (residency->bytes > SIZE_MAX / 2)
        return lode_fail(error, LODE_ERR_MEMORY, "the sizes of the %u units are larger than any memory",
                         table->n_units);
    for (uint32_t first = 0, end; first < table->n_units; first = end) {
        uint64_t bytes;
        end = next_block(&bytes, table, first);
        if (bytes == 0)
            continue;
        void *memory;
        int code = device->ops->alloc(device, &memory, bytes, error);
        if (code != 0)
            return code;
        residency->blocks[residency->n_blocks++] = (struct block){memory, bytes};
        place_parts(residency, first, end, memory);
    }
    return 0;
}

// ---- reading
// -------------------------------------------------------------------------------------------------

struct pending_read {
    uint32_t unit, part;    // the part by its index in the table
    uint64_t offset, bytes; // in the part
    char *staging;          // NULL when the read goes into the slot
};

// Fills the slots in the order of the table. A read's tag is its index in `reads`; `idle` is a stack of the
// unused.
struct loader {
    struct residency *residency;
    struct io *io;
    char *staging;
    uint64_t read_max_bytes;
    uint32_t n_reads, n_idle;
    struct pending_read reads[DIRECT_READS];
    uint32_t idle[DIRECT_READS];
    struct io_completion completions[REAP_MAX];

    uint32_t next_unit, next_part; // next_part counts within the unit
    uint64_t next_offset;

    residency_progress_fn on_progress;
    void *user;
    uint64_t done_bytes, total_bytes, told_bytes;
};

static int fail_for_unit(const struct loader *loader, uint32_t unit, struct lode_error *error,
                         const struct lode_error *cause)
{
    char name[128];
    return lode_fail(error, cause->code, "%s: %s",
                     unit_table_name(loader->residency->table, unit, name, sizeof name), cause->text);
}

static int check_extents(const struct loader *loader, struct lode_error *error)
{
    const struct unit_table *table = loader->residency->table;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts; i++) {
            const struct extent *part = &table->parts[i];
            uint64_t end, file_bytes = io_file_size_bytes(loader->io, part->file);
            if (checked_add(&end, part->offset, part->bytes) && end <= file_bytes)
                continue;
            struct lode_error cause;
            lode_fail(&cause, LODE_ERR_FORMAT,
                      "%" PRIu64 " bytes at offset %" PRIu64 " end beyond file %u of %" PRIu64
                      " bytes; the file is incomplete, fetch it again",
                      part->bytes, part->offset, part->file, file_bytes);
            return fail_for_unit(loader, u, error, &cause);
        }
    }
    return 0;
}

static int init_reads(struct loader *loader, struct lode_error *error)
{
    bool staged = !loader->residency->device->host_memory;
    loader->n_reads = staged ? STAGED_READS : DIRECT_READS;
    loader->read_max_bytes = staged ? STAGED_READ_MAX_BYTES : DIRECT_READ_MAX_BYTES;
    if (staged) {
        loader->staging = aligned_alloc(STAGING_ALIGN_BYTES, STAGED_READS * STAGED_READ_MAX_BYTES);
        if (!loader->staging)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for staging buffers of %" PRIu64 " MiB",
                             STAGED_READS * STAGED_READ_MAX_BYTES >> 20);
    }
    for (uint32_t i = 0; i < loader->n_reads; i++) {
        loader->reads[i].staging = staged ? loader->staging + i * STAGED_READ_MAX_BYTES : NULL;
        loader->idle[loader->n_idle++] = i;
    }
    return 0;
}

// Moves on to the next unit that has a part left; false when everything has been asked for.
static bool find_next_part(struct loader *loader)
{
    const struct unit_table *table = loader->residency->table;
    while (loader->next_unit < table->n_units &&
           loader->next_part == table->units[loader->next_unit].n_parts) {
        loader->next_unit++;
        loader->next_part = 0;
    }
    return loader->next_unit < table->n_units;
}

static int submit_next(struct loader *loader, struct lode_error *error)
{
    const struct unit_table *table = loader->residency->table;
    uint32_t part_id = table->units[loader->next_unit].first_part + loader->next_part;
    const struct extent *part = &table->parts[part_id];
    uint32_t tag = loader->idle[loader->n_idle - 1];
    struct pending_read *read = &loader->reads[tag];
    read->unit = loader->next_unit;
    read->part = part_id;
    read->offset = loader->next_offset;
    read->bytes = part->bytes - read->offset;
    if (read->bytes > loader->read_max_bytes)
        read->bytes = loader->read_max_bytes;
    char *slot = (char *)loader->residency->parts[part_id] + read->offset;
    struct io_request request = {
        .file = part->file,
        .offset = part->offset + read->offset,
        .length = read->bytes,
        .buffer = read->staging ? read->staging : slot,
        .tag = tag,
        .priority = IO_DEMAND,
    };
    struct lode_error cause;
    if (io_submit(loader->io, &request, &cause) != 0)
        return fail_for_unit(loader, read->unit, error, &cause);
    loader->n_idle--;
    loader->next_offset += read->bytes;
    if (loader->next_offset == part->bytes) {
        loader->next_part++;
        loader->next_offset = 0;
    }
    return 0;
}

static int take_completion(struct loader *loader, const struct io_completion *completion,
                           struct lode_error *error)
{
    struct residency *residency = loader->residency;
    struct lode_device *device = residency->device;
    const struct pending_read *read = &loader->reads[completion->tag];
    loader->idle[loader->n_idle++] = (uint32_t)completion->tag;
    if (completion->status != IO_DONE)
        return fail_for_unit(loader, read->unit, error, &completion->error);
    if (read->staging) {
        char *slot = (char *)residency->parts[read->part] + read->offset;
        struct lode_error cause;
        if (device->ops->upload(device, slot, read->staging, read->bytes, &cause) != 0)
            return fail_for_unit(loader, read->unit, error, &cause);
    }
    loader->done_bytes += read->bytes;
    return 0;
}

static int tell_progress(struct loader *loader, struct lode_error *error)
{
    loader->told_bytes = loader->done_bytes;
    if (loader->on_progress && !loader->on_progress(loader->user, loader->done_bytes, loader->total_bytes))
        return lode_fail(error, LODE_ERR_CANCELLED, "loading was cancelled");
    return 0;
}

// Waits for some of the reads, at most one interval of the progress.
static int reap_some(struct loader *loader, struct lode_error *error)
{
    uint32_t wanted = loader->n_reads / 16;
    uint32_t n = io_reap(loader->io, loader->completions, REAP_MAX, wanted, PROGRESS_INTERVAL_NS);
    int code = 0;
    for (uint32_t i = 0; i < n; i++) {
        // All are taken, also after a failure, for a read is idle again only when it has been taken.
        int one = take_completion(loader, &loader->completions[i], code == 0 ? error : NULL);
        code = code == 0 ? one : code;
    }
    if (code != 0)
        return code;
    bool interval_over = n < wanted;
    bool moved = loader->done_bytes - loader->told_bytes >= loader->total_bytes / 100;
    return interval_over || moved ? tell_progress(loader, error) : 0;
}

static int read_all(struct loader *loader, struct lode_error *error)
{
    int code = tell_progress(loader, error);
    while (code == 0) {
        while (code == 0 && loader->n_idle > 0 && find_next_part(loader))
            code = submit_next(loader, error);
        if (code == 0 && loader->n_idle == loader->n_reads)
            break;
        if (code == 0)
            code = reap_some(loader, error);
    }
    if (code == 0 && loader->told_bytes != loader->done_bytes)
        code = tell_progress(loader, error);
    return code;
}

// After a failure nothing may write into memory that is about to be freed.
static void drain(struct loader *loader)
{
    for (uint32_t tag = 0; tag < loader->n_reads; tag++)
        io_cancel(loader->io, tag);
    while (io_pending(loader->io) > 0)
        io_reap(loader->io, loader->completions, REAP_MAX, 1, -1);
}

static int load(struct residency *residency, struct io *io, residency_progress_fn on_progress, void *user,
                struct lode_error *error)
{
    assert(io_pending(io) == 0);
    struct loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read the units");
    loader->residency = residency;
    loader->io = io;
    loader->on_progress = on_progress;
    loader->user = user;
    loader->total_bytes = unit_table_bytes(residency->table);
    int code = check_extents(loader, error);
    if (code == 0)
        code = allocate(residency, error);
    if (code == 0)
        code = init_reads(loader, error);
    if (code == 0)
        code = read_all(loader, error);
    drain(loader);
    if (code == 0)
        code = residency->device->ops->sync(residency->device, error);
    free(loader->staging);
    free(loader);
    return code;
}

// ---- the interface
// -------------------------------------------------------------------------------------------

int residency_open(struct residency **out, const struct unit_table *table, struct io *io,
                   struct lode_device *device, residency_progress_fn on_progress, void *user,
                   struct lode_error *error)
{
    struct residency *residency = calloc(1, sizeof *residency);
    if (!residency)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the residency");
    residency->table = table;
    residency->device = device;
    int code = load(residency, io, on_progress, user, error);
    if (code != 0) {
        residency_close(residency);
        return code;
    }
    *out = residency;
    return 0;
}

void residency_close(struct residency *residency)
{
    if (!residency)
        return;
    for (uint32_t i = 0; i < residency->n_blocks; i++)
        residency->device->ops->free(residency->device, residency->blocks[i].memory,
                                     residency->blocks[i].bytes);
    free(residency->blocks);
    free(residency->parts);
    free(residency);
}

uint64_t residency_bytes(const struct residency *residency)
{
    return residency->bytes;
}

static inline bool all_known(const struct residency *residency, const uint32_t *units, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (units[i] >= residency->table->n_units)
            return false;
    }
    return true;
}

int residency_acquire(struct residency *residency, const uint32_t *units, uint32_t n,
                      struct lode_error *error)
{
    assert(all_known(residency, units, n));
    (void)residency, (void)units, (void)n, (void)error;
    return 0;
}

void residency_release(struct residency *residency, const uint32_t *units, uint32_t n)
{
    assert(all_known(residency, units, n));
    (void)residency, (void)units, (void)n;
}

void *residency_part(const struct residency *residency, uint32_t unit, uint32_t part)
{
    assert(unit < residency->table->n_units && part < residency->table->units[unit].n_parts);
    return residency->parts[residency->table->units[unit].first_part + part];
}
