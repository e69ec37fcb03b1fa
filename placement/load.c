// Reading the pinned units at the start.
//
// Into host memory the reads go straight to their place, many at once. To a device without host memory they
// go through a ring of staging buffers and upload. What stays in the memory of the host and has a copy on a
// GPU is read once, and copied before anybody changes its order.
#include "base/checked.h"
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define BLOCK_MAX_BYTES ((uint64_t)1 << 30)

#define DIRECT_READS 256
#define DIRECT_READ_MAX_BYTES ((uint64_t)16 << 20)
// Host memory while a device without host memory is filled: 16 buffers of 2 MiB, with room for padding.
#define STAGED_READS 16
#define STAGED_READ_MAX_BYTES ((uint64_t)2 << 20)
#define STAGED_BYTES (STAGED_READ_MAX_BYTES + 2 * IO_ALIGN_BYTES)

#define REAP_MAX 64
#define PROGRESS_INTERVAL_NS (50 * 1000 * 1000)

struct pending_read {
    uint32_t unit, part;    // the part by its index in the table
    uint64_t offset, bytes; // in the part
    char *staging;          // NULL when the read goes into the slot
};

// Reads that are not used: a stack.
struct idle_reads {
    uint32_t n, ids[DIRECT_READS];
};

// Fills the slots in the order of the table. A read's tag is its index in `reads`.
struct loader {
    struct residency *residency;
    char *staging;
    struct lode_device *staging_from; // whose pinned memory it is; NULL: malloc's
    uint32_t n_reads;
    struct pending_read reads[DIRECT_READS + STAGED_READS];
    struct idle_reads direct, staged;
    struct io_completion completions[REAP_MAX];

    uint32_t next_unit, next_part; // next_part counts within the unit
    uint64_t next_offset;
    uint64_t done_bytes, total_bytes, told_bytes;
    uint64_t *left_bytes; // [n_parts of the table] still to be read
};

// ---- memory
// --------------------------------------------------------------------------------------------------

static bool is_pinned(const struct residency *residency, uint32_t unit)
{
    return residency->homes.home[unit] == HOME_PINNED;
}

static uint64_t slot_bytes(const struct residency *residency, uint32_t unit)
{
    return is_pinned(residency, unit)
               ? layout_unit_bytes(residency->table, unit, residency->device->host_memory)
               : 0;
}

// Finds the run of units from `first` on that shares a block: one unit, and more as long as they fit.
static uint32_t next_block(uint64_t *out_bytes, const struct residency *residency, uint32_t first)
{
    uint32_t end = first;
    *out_bytes = 0;
    while (end < residency->table->n_units) {
        const uint64_t bytes = slot_bytes(residency, end);
        if (*out_bytes && bytes && *out_bytes + bytes > BLOCK_MAX_BYTES)
            break;
        *out_bytes += bytes;
        end++;
    }
    return end;
}

static int allocate(struct residency *residency, struct lode_error *error)
{
    const struct unit_table *table = residency->table;
    for (uint32_t first = 0, end; first < table->n_units; first = end) {
        uint64_t bytes;
        end = next_block(&bytes, residency, first);
        if (bytes == 0)
            continue;
        char *memory;
        int code = residency_allocate(residency, &memory, bytes, error);
        if (code != 0)
            return code;
        for (uint32_t u = first; u < end; u++) {
            if (!is_pinned(residency, u))
                continue;
            layout_place(residency->parts, table, u, memory, residency->device->host_memory);
            memory += slot_bytes(residency, u);
        }
    }
    return 0;
}

// ---- where units go
// ----------------------------------------------------------------------------------------------

static bool is_loaded(const struct residency *residency, uint32_t unit)
{
    return is_pinned(residency, unit) || residency_executor(residency, unit) ||
           residency_copies(residency, unit);
}

static bool is_direct(const struct residency *residency, uint32_t unit)
{
    return is_pinned(residency, unit) && residency->device->host_memory;
}

static int upload(struct residency *residency, struct lode_device *device, uint32_t unit, char *to,
                  const char *from, uint64_t bytes, struct lode_error *error)
{
    struct lode_error cause;
    if (device->ops->upload(device, to, from, bytes, &cause) != 0)
        return residency_fail_for(residency, unit, error, &cause);
    return 0;
}

// To every GPU that has a copy of the unit; `from` is what lies `offset` behind the start of the part.
static int upload_copies(struct residency *residency, uint32_t unit, uint32_t part_id, const char *from,
                         uint64_t offset, uint64_t bytes, struct lode_error *error)
{
    const uint32_t part = part_id - residency->table->units[unit].first_part;
    int code = 0;
    for (uint32_t g = 0; g < residency->n_gpus && code == 0; g++)
        if (residency_copies(residency, unit) >> g & 1)
            code = upload(residency, residency->gpus[g].device, unit,
                          (char *)residency_gpu_part(residency, g, unit, part) + offset, from, bytes, error);
    return code;
}

// What a staging buffer has got.
static int upload_staged(struct residency *residency, const struct pending_read *read, const char *from,
                         struct lode_error *error)
{
    const uint32_t executor = residency_executor(residency, read->unit);
    if (!executor && !is_pinned(residency, read->unit))
        return upload_copies(residency, read->unit, read->part, from, read->offset, read->bytes, error);
    struct lode_device *device = executor ? residency->gpus[executor - 1].device : residency->device;
    return upload(residency, device, read->unit, (char *)residency->parts[read->part] + read->offset, from,
                  read->bytes, error);
}

// A part of a pinned unit is there as a whole.
static int finish_part(struct residency *residency, uint32_t unit, uint32_t part, struct lode_error *error)
{
    int code = 0;
    if (is_direct(residency, unit))
        code = upload_copies(residency, unit, part, residency->parts[part], 0,
                             residency->table->parts[part].bytes, error);
    const struct residency_options *options = &residency->options;
    if (code == 0 && options->on_part)
        options->on_part(options->part_user, part, residency->parts[part]);
    return code;
}

// ---- reading
// -------------------------------------------------------------------------------------------------

// Of all units, also those that are read later: a truncated file is told at the start.
static int check_extents(const struct loader *loader, struct lode_error *error)
{
    const struct unit_table *table = loader->residency->table;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts; i++) {
            const struct extent *part = &table->parts[i];
            uint64_t end, file_bytes = io_file_size_bytes(loader->residency->io, part->file);
            if (checked_add(&end, part->offset, part->bytes) && end <= file_bytes)
                continue;
            struct lode_error cause;
            lode_fail(&cause, LODE_ERR_FORMAT,
                      "%" PRIu64 " bytes at offset %" PRIu64 " end beyond file %u of %" PRIu64
                      " bytes; the file is incomplete, fetch it again",
                      part->bytes, part->offset, part->file, file_bytes);
            return residency_fail_for(loader->residency, u, error, &cause);
        }
    }
    return 0;
}

static int make_staging(struct loader *loader, struct lode_error *error)
{
    const struct residency *residency = loader->residency;
    struct lode_device *gpu = residency->n_gpus ? residency->gpus[0].device : NULL;
    void *memory = NULL;
    if (gpu && gpu->ops->alloc_pinned &&
        gpu->ops->alloc_pinned(gpu, &memory, STAGED_READS * STAGED_BYTES, NULL) == 0)
        loader->staging_from = gpu;
    else
        memory = aligned_alloc(IO_ALIGN_BYTES, STAGED_READS * STAGED_BYTES);
    loader->staging = memory;
    if (!memory)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for staging buffers of %" PRIu64 " MiB",
                         STAGED_READS * STAGED_BYTES >> 20);
    return 0;
}

static void free_staging(struct loader *loader)
{
    if (loader->staging_from)
        loader->staging_from->ops->free_pinned(loader->staging_from, loader->staging);
    else
        free(loader->staging);
}

static int init_reads(struct loader *loader, struct lode_error *error)
{
    const struct residency *residency = loader->residency;
    bool any_staged = false;
    for (uint32_t u = 0; u < residency->table->n_units && !any_staged; u++)
        any_staged = is_loaded(residency, u) && !is_direct(residency, u);
    for (uint32_t i = 0; residency->device->host_memory && i < DIRECT_READS; i++)
        loader->direct.ids[loader->direct.n++] = loader->n_reads++;
    if (!any_staged)
        return 0;
    const int code = make_staging(loader, error);
    for (uint32_t i = 0; code == 0 && i < STAGED_READS; i++) {
        loader->reads[loader->n_reads].staging = loader->staging + i * STAGED_BYTES;
        loader->staged.ids[loader->staged.n++] = loader->n_reads++;
    }
    return code;
}

// Moves on to the next unit that has a part left; false when everything has been asked for.
static bool find_next_part(struct loader *loader)
{
    const struct unit_table *table = loader->residency->table;
    while (loader->next_unit < table->n_units &&
           (!is_loaded(loader->residency, loader->next_unit) ||
            loader->next_part == table->units[loader->next_unit].n_parts)) {
        loader->next_unit++;
        loader->next_part = 0;
    }
    return loader->next_unit < table->n_units;
}

// The unused reads of the kind that the next part needs.
static struct idle_reads *next_idle(struct loader *loader)
{
    return is_direct(loader->residency, loader->next_unit) ? &loader->direct : &loader->staged;
}

// Reads of one part meet at a multiple of IO_ALIGN_BYTES in the file, so that their paddings do not overlap.
static uint64_t next_read_bytes(const struct loader *loader, const struct extent *part)
{
    const uint64_t left = part->bytes - loader->next_offset;
    const uint64_t most =
        is_direct(loader->residency, loader->next_unit) ? DIRECT_READ_MAX_BYTES : STAGED_READ_MAX_BYTES;
    if (left <= most)
        return left;
    const uint64_t start = part->offset + loader->next_offset;
    return (start + most) / IO_ALIGN_BYTES * IO_ALIGN_BYTES - start;
}

// A staging buffer is read into as the bytes lie in the file, too.
static char *staged_at(const struct loader *loader, const struct pending_read *read)
{
    const struct extent *part = &loader->residency->table->parts[read->part];
    return read->staging + (part->offset + read->offset) % IO_ALIGN_BYTES;
}

static int submit_next(struct loader *loader, struct lode_error *error)
{
    struct residency *residency = loader->residency;
    const struct unit_table *table = residency->table;
    uint32_t part_id = table->units[loader->next_unit].first_part + loader->next_part;
    const struct extent *part = &table->parts[part_id];
    struct idle_reads *idle = next_idle(loader);
    uint32_t id = idle->ids[idle->n - 1];
    struct pending_read *read = &loader->reads[id];
    read->unit = loader->next_unit;
    read->part = part_id;
    read->offset = loader->next_offset;
    read->bytes = next_read_bytes(loader, part);
    struct io_request request = {
        .file = part->file,
        .offset = part->offset + read->offset,
        .length = read->bytes,
        .buffer = read->staging ? staged_at(loader, read) : (char *)residency->parts[part_id] + read->offset,
        .tag = read_tag(READ_LOAD, id),
        .priority = IO_DEMAND,
        .padded = true,
        .told_layer = table->units[read->unit].layer + 1, // UNIT_NO_LAYER becomes 0
    };
    struct lode_error cause;
    if (io_submit(residency->io, &request, &cause) != 0)
        return residency_fail_for(residency, read->unit, error, &cause);
    idle->n--;
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
    const uint32_t id = (uint32_t)completion->tag;
    const struct pending_read *read = &loader->reads[id];
    struct idle_reads *idle = read->staging ? &loader->staged : &loader->direct;
    idle->ids[idle->n++] = id;
    if (completion->status != IO_DONE)
        return residency_fail_for(residency, read->unit, error, &completion->error);
    int code = 0;
    if (read->staging)
        code = upload_staged(residency, read, staged_at(loader, read), error);
    if (code != 0)
        return code;
    loader->done_bytes += read->bytes;
    loader->left_bytes[read->part] -= read->bytes;
    if (loader->left_bytes[read->part] == 0 && is_pinned(residency, read->unit))
        code = finish_part(residency, read->unit, read->part, error);
    return code;
}

static int tell_progress(struct loader *loader, struct lode_error *error)
{
    const struct residency_options *options = &loader->residency->options;
    loader->told_bytes = loader->done_bytes;
    if (options->on_progress && !options->on_progress(options->user, loader->done_bytes, loader->total_bytes))
        return lode_fail(error, LODE_ERR_CANCELLED, "loading was cancelled");
    return 0;
}

// Waits for some of the reads, at most one interval of the progress.
static int reap_some(struct loader *loader, struct lode_error *error)
{
    uint32_t wanted = loader->staging ? 1 : loader->n_reads / 16; // there are few buffers for staging
    uint32_t n = io_reap(loader->residency->io, loader->completions, REAP_MAX, wanted, PROGRESS_INTERVAL_NS);
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
        while (code == 0 && find_next_part(loader) && next_idle(loader)->n > 0)
            code = submit_next(loader, error);
        if (code == 0 && loader->direct.n + loader->staged.n == loader->n_reads)
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
    struct io *io = loader->residency->io;
    for (uint32_t id = 0; id < loader->n_reads; id++)
        io_cancel(io, read_tag(READ_LOAD, id));
    while (io_pending(io) > 0)
        io_reap(io, loader->completions, REAP_MAX, 1, -1);
}

// The pool first, then what is read at the start, from its end: the reads begin at the beginning.
static void populate(struct residency *residency, uint32_t n_pool_blocks)
{
    const uint32_t n = residency->n_blocks;
    struct populate_range *ranges = calloc(n + 1, sizeof *ranges);
    if (!ranges || !residency->device->host_memory) {
        free(ranges);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t b = i < n_pool_blocks ? i : n - 1 - (i - n_pool_blocks);
        ranges[i] = (struct populate_range){residency->blocks[b].memory, residency->blocks[b].bytes};
    }
    residency->populate = populate_start(ranges, n);
    free(ranges);
}

static uint64_t *count_part_bytes(const struct unit_table *table)
{
    uint64_t *bytes = malloc((table->n_parts + 1) * sizeof *bytes);
    for (uint32_t i = 0; bytes && i < table->n_parts; i++)
        bytes[i] = table->parts[i].bytes;
    return bytes;
}

uint64_t residency_staging_bytes(void)
{
    return STAGED_READS * STAGED_BYTES;
}

int residency_load(struct residency *residency, struct lode_error *error)
{
    const uint32_t n_pool_blocks = residency->n_blocks;
    assert(io_pending(residency->io) == 0);
    struct loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read the units");
    loader->residency = residency;
    loader->left_bytes = count_part_bytes(residency->table);
    if (!loader->left_bytes) {
        free(loader);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to count what has been read");
    }
    for (uint32_t u = 0; u < residency->table->n_units; u++)
        loader->total_bytes += is_loaded(residency, u) ? residency->table->units[u].bytes : 0;
    int code = check_extents(loader, error);
    if (code == 0)
        code = allocate(residency, error);
    if (code == 0)
        populate(residency, n_pool_blocks);
    if (code == 0)
        code = init_reads(loader, error);
    if (code == 0)
        code = read_all(loader, error);
    drain(loader);
    if (code == 0)
        code = residency->device->ops->sync(residency->device, error);
    for (uint32_t g = 0; g < residency->n_gpus && code == 0; g++)
        code = residency->gpus[g].device->ops->sync(residency->gpus[g].device, error);
    free(loader->left_bytes);
    free_staging(loader);
    free(loader);
    return code;
}
