// Experts that pass over the link in a pass of many rows: the host copies them into pinned memory, the GPU's
// copy engine fetches them from there while it computes, and their room is used again when the operations
// that read it have gone by. Nothing is waited for but pinned memory that is still being read.
//
// What goes is decided when a layer is chosen, from the rows and the rates alone: neither the order in which
// experts arrive nor a clock may change which device computes, for their sums are rounded differently.
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

// ---- memory
// --------------------------------------------------------------------------------------------------

static bool can_upload(const struct lode_device *device)
{
    const struct lode_device_ops *ops = device->ops;
    return ops->copy_in && ops->copy_done && ops->copy_await && ops->fence;
}

void uploads_open(struct residency *residency, struct gpu *gpu, uint64_t bytes, uint64_t *out_bytes)
{
    *out_bytes = 0;
    if (!gpu->rates.n_points || !residency->options.host_rates.n_points || !can_upload(gpu->device) ||
        !gpu->slot_bytes)
        return;
    const uint64_t room = bytes / 2 / gpu->slot_bytes;
    const uint32_t n = room < RESIDENCY_UPLOADS ? (uint32_t)room : RESIDENCY_UPLOADS;
    void *memory;
    if (n == 0 || gpu->device->ops->alloc(gpu->device, &memory, n * gpu->slot_bytes, NULL) != 0)
        return; // everything is computed where it is
    gpu->uploads = memory;
    gpu->n_uploads = n;
    *out_bytes = n * gpu->slot_bytes;
}

// Without uploads there is one buffer, which residency_replace copies through.
int uploads_open_pinned(struct residency *residency, struct gpu *gpu, struct lode_error *error)
{
    (void)residency;
    const struct lode_device_ops *ops = gpu->device->ops;
    const size_t bytes = (gpu->n_uploads ? gpu->n_uploads : 1) * gpu->slot_bytes;
    if (gpu->slot_bytes == 0)
        return 0;
    void *memory = NULL;
    if (!ops->alloc_pinned || ops->alloc_pinned(gpu->device, &memory, bytes, NULL) != 0) {
        uploads_yield(gpu); // copies beside the operations come from pinned memory only
        memory = malloc(gpu->slot_bytes);
        gpu->is_malloc = true;
    }
    gpu->pinned = memory;
    if (!memory)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to copy experts to %s", gpu->device->name);
    memset(memory, 0, gpu->is_malloc ? gpu->slot_bytes : bytes);
    return 0;
}

// Waits for all copies and for the operations that read what was copied.
void uploads_settle(struct gpu *gpu)
{
    uint64_t last = 0;
    for (uint32_t i = 0; i < RESIDENCY_UPLOADS; i++) {
        last = gpu->slots[i].ticket > last ? gpu->slots[i].ticket : last;
        gpu->slots[i] = (struct upload_slot){0};
    }
    if (last)
        gpu->device->ops->copy_await(gpu->device, last);
    if (last)
        gpu->device->ops->sync(gpu->device, NULL); // a fault is told by whoever needs the device next
}

uint64_t uploads_yield(struct gpu *gpu)
{
    const uint64_t bytes = gpu->n_uploads * gpu->slot_bytes;
    if (!bytes)
        return 0;
    uploads_settle(gpu);
    gpu->device->ops->free(gpu->device, gpu->uploads, bytes);
    gpu->uploads = NULL;
    gpu->n_uploads = 0;
    return bytes;
}

void uploads_close(struct gpu *gpu)
{
    uploads_yield(gpu);
    if (gpu->is_malloc)
        free(gpu->pinned);
    else if (gpu->pinned)
        gpu->device->ops->free_pinned(gpu->device, gpu->pinned);
}

void expert_copy_out(const struct residency *residency, uint32_t unit, char *to)
{
    const struct residency_options *options = &residency->options;
    const uint32_t first = residency->table->units[unit].first_part;
    for (uint32_t i = 0; i < residency->table->units[unit].n_parts; i++) {
        char *part = to + layout_part_offset(residency->table, unit, i);
        const void *from = residency->parts[first + i];
        if (options->copy_part)
            options->copy_part(options->part_user, first + i, part, from);
        else
            memcpy(part, from, residency->table->parts[first + i].bytes);
    }
}

// ---- what goes
// -----------------------------------------------------------------------------------------------

// Those of the host by falling rows; equal ones in the order of the choice.
static void sort_host(struct residency *residency)
{
    for (uint32_t i = 0; i < residency->n_host; i++) {
        uint32_t at = i;
        for (; at > 0 && residency->order_tokens[at - 1] < residency->host_tokens[i]; at--) {
            residency->order[at] = residency->order[at - 1];
            residency->order_tokens[at] = residency->order_tokens[at - 1];
        }
        residency->order[at] = residency->host_units[i];
        residency->order_tokens[at] = residency->host_tokens[i];
    }
}

void uploads_choose(struct residency *residency, uint32_t layer)
{
    for (uint32_t i = 0; i < residency->n_host; i++)
        residency->upload_to[residency->host_units[i]] = 0;
    if (residency->n_host == 0 || residency_decodes(residency))
        return;
    const uint32_t g = residency->layer_gpu[layer], n = residency->n_host;
    const struct gpu *gpu = &residency->gpus[g];
    if (!gpu->n_uploads)
        return;
    sort_host(residency);
    const uint32_t m = expert_split(&residency->options.host_rates, &gpu->rates, gpu->busy_ns,
                                    residency->order_tokens, n, n);
    for (uint32_t i = 0; i < m; i++)
        residency->upload_to[residency->order[i]] = (uint8_t)(1 + g);
}

void uploads_begin_pass(struct residency *residency)
{
    for (uint32_t g = 0; g < residency->n_gpus; g++)
        uploads_settle(&residency->gpus[g]); // tickets are not for ever, and a pass may have failed
}

// ---- copies
// --------------------------------------------------------------------------------------------------

// The slot whose last use is the longest ago.
static uint32_t oldest_free(const struct gpu *gpu)
{
    uint32_t oldest = UINT32_MAX;
    for (uint32_t i = 0; i < gpu->n_uploads; i++)
        if (!gpu->slots[i].held && (oldest == UINT32_MAX || gpu->slots[i].ticket < gpu->slots[oldest].ticket))
            oldest = i;
    return oldest;
}

static int await_pinned(const struct residency *residency, struct gpu *gpu, const struct upload_slot *slot,
                        struct lode_error *error)
{
    if (!slot->ticket)
        return 0;
    uint64_t start_ns = 0;
    while (!gpu->device->ops->copy_done(gpu->device, slot->ticket)) {
        const uint64_t now_ns = io_now_ns(residency->io);
        start_ns = start_ns ? start_ns : now_ns;
        if (now_ns - start_ns >= RESIDENCY_PATIENCE_NS)
            return lode_fail(error, LODE_ERR_IO, "%s has not ended a copy for %u seconds", gpu->device->name,
                             (unsigned)(RESIDENCY_PATIENCE_NS / 1000000000));
        sched_yield();
    }
    return 0;
}

static int start(struct residency *residency, struct gpu *gpu, uint32_t unit, uint32_t index,
                 struct lode_error *error)
{
    struct upload_slot *slot = &gpu->slots[index];
    struct lode_error cause;
    int code = await_pinned(residency, gpu, slot, &cause);
    if (code == 0) {
        const uint64_t bytes = layout_unit_bytes(residency->table, unit, false);
        char *pinned = gpu->pinned + index * gpu->slot_bytes;
        expert_copy_out(residency, unit, pinned);
        code = gpu->device->ops->copy_in(gpu->device, gpu->uploads + index * gpu->slot_bytes, pinned, bytes,
                                         slot->fence, &slot->ticket, &cause);
        gpu->figures.uploads += code == 0;
        gpu->figures.upload_bytes += code == 0 ? bytes : 0;
    }
    if (code != 0)
        return residency_fail_for(residency, unit, error, &cause);
    slot->unit = unit;
    slot->held = true;
    return 0;
}

// Of those that shall go to GPU g, the one that most rows meet; n: none is left.
static uint32_t next_upload(const struct residency *residency, uint32_t g, const uint32_t *units,
                            const uint32_t *n_tokens, uint32_t n)
{
    uint32_t best = n;
    for (uint32_t i = 0; i < n; i++)
        if (residency->upload_to[units[i]] == 1 + g && (best == n || n_tokens[i] > n_tokens[best]))
            best = i;
    return best;
}

int residency_upload(struct residency *residency, uint32_t g, uint32_t *units, const uint32_t *n_tokens,
                     uint32_t n, uint32_t *out_n, struct lode_error *error)
{
    struct gpu *gpu = &residency->gpus[g];
    uint32_t *gone = residency->order, n_gone = 0;
    assert(n <= residency->layer_max);
    *out_n = n;
    int code = 0;
    uint64_t last = 0;
    for (uint32_t slot; code == 0 && (slot = oldest_free(gpu)) != UINT32_MAX;) {
        const uint32_t next = next_upload(residency, g, units, n_tokens, n);
        if (next == n)
            break;
        code = start(residency, gpu, units[next], slot, error);
        residency->upload_to[units[next]] = 0; // it is, or will not be
        if (code == 0) {
            gone[n_gone++] = units[next];
            last = gpu->slots[slot].ticket;
        }
    }
    if (last)
        gpu->device->ops->copy_await(gpu->device, last);
    if (code != 0 || n_gone == 0)
        return code;
    *out_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t unit = units[i];
        if (!residency_upload_part(residency, g, unit, 0))
            units[(*out_n)++] = unit;
    }
    memcpy(units + *out_n, gone, n_gone * sizeof *units);
    return 0;
}

void *residency_upload_part(const struct residency *residency, uint32_t g, uint32_t unit, uint32_t part)
{
    const struct gpu *gpu = &residency->gpus[g];
    for (uint32_t i = 0; i < gpu->n_uploads; i++)
        if (gpu->slots[i].held && gpu->slots[i].unit == unit)
            return gpu->uploads + i * gpu->slot_bytes + layout_part_offset(residency->table, unit, part);
    return NULL;
}

void residency_upload_end(struct residency *residency, uint32_t g)
{
    struct gpu *gpu = &residency->gpus[g];
    uint64_t fence = 0;
    for (uint32_t i = 0; i < gpu->n_uploads; i++) {
        if (!gpu->slots[i].held)
            continue;
        fence = fence ? fence : gpu->device->ops->fence(gpu->device);
        gpu->slots[i].held = false;
        gpu->slots[i].fence = fence;
    }
}
