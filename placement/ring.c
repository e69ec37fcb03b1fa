// The streaming ring: dense units that do not fit pass through a buffer, in the order of the layers.
//
// The order of the parts is a cycle, so what is needed next is known for certain: parts are read as soon as
// there is room behind the last one, across the end of a pass too. Places are given out and taken back in
// order. When a pass leaves the cycle (it ended early, or failed), the parts up to the wanted one are
// dropped.
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 64 // parts that are in the buffer at once

enum part_state { PART_READING, PART_RESIDENT, PART_FAILED };

struct entry {
    uint32_t position; // in the cycle
    uint64_t start, bytes;
    enum part_state state;
    bool held;    // its unit is acquired
    bool dropped; // its place may be taken once it is not being read
    struct lode_error failure;
};

struct streamed_part {
    uint32_t unit, part; // the part by its index in the table
};

struct ring {
    struct residency *residency;
    char *memory;
    uint64_t bytes;
    struct streamed_part *cycle;
    uint32_t cycle_length;
    uint32_t *position_of; // [n_units] of its first part

    struct entry entries[MAX_ENTRIES];
    uint32_t first, n_entries; // a queue in entries
    uint64_t head;             // where the next part goes
    uint32_t next;             // position of the next part to read
};

static struct entry *entry_at(struct ring *ring, uint32_t i)
{
    return &ring->entries[(ring->first + i) % MAX_ENTRIES];
}

// ---- places
// --------------------------------------------------------------------------------------------------

static void take_back(struct ring *ring)
{
    while (ring->n_entries) {
        const struct entry *oldest = entry_at(ring, 0);
        if (!oldest->dropped || oldest->state == PART_READING)
            return;
        ring->first = (ring->first + 1) % MAX_ENTRIES;
        ring->n_entries--;
    }
    ring->head = 0;
}

// A place for `bytes` behind the last entry, or at the beginning of the buffer.
static bool find_place(struct ring *ring, uint64_t bytes, uint64_t *out_start)
{
    if (ring->n_entries == MAX_ENTRIES || bytes > ring->bytes)
        return false;
    if (ring->n_entries == 0) {
        *out_start = 0;
        return true;
    }
    const uint64_t tail = entry_at(ring, 0)->start;
    if (ring->head > tail) {
        if (ring->head + bytes <= ring->bytes)
            *out_start = ring->head;
        else if (bytes <= tail)
            *out_start = 0;
        else
            return false;
        return true;
    }
    *out_start = ring->head; // wrapped: up to the oldest; head == tail means full
    return ring->head < tail && ring->head + bytes <= tail;
}

static int read_next(struct ring *ring, uint64_t start, uint64_t bytes, struct lode_error *error)
{
    struct residency *residency = ring->residency;
    const struct streamed_part *streamed = &ring->cycle[ring->next];
    const struct extent *part = &residency->table->parts[streamed->part];
    const uint32_t index = (ring->first + ring->n_entries) % MAX_ENTRIES;
    char *address = ring->memory + start + part->offset % IO_ALIGN_BYTES;
    const struct io_request request = {
        .file = part->file,
        .offset = part->offset,
        .length = part->bytes,
        .buffer = address,
        .tag = read_tag(READ_RING, index),
        .priority = IO_AHEAD,
        .padded = true,
        .told_layer = residency->table->units[streamed->unit].layer + 1, // UNIT_NO_LAYER becomes 0
    };
    struct lode_error cause;
    if (io_submit(residency->io, &request, &cause) != 0)
        return residency_fail_for(residency, streamed->unit, error, &cause);
    ring->entries[index] = (struct entry){.position = ring->next, .start = start, .bytes = bytes};
    ring->n_entries++;
    ring->head = start + bytes;
    ring->next = (ring->next + 1) % ring->cycle_length;
    return 0;
}

static int read_ahead(struct ring *ring, struct lode_error *error)
{
    int code = 0;
    while (code == 0 && ring->n_entries < ring->cycle_length) {
        const struct extent *part = &ring->residency->table->parts[ring->cycle[ring->next].part];
        const uint64_t bytes = io_padded_bytes(part->offset, part->bytes);
        uint64_t start;
        if (!find_place(ring, bytes, &start))
            break;
        code = read_next(ring, start, bytes, error);
    }
    return code;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int list_cycle(struct ring *ring, struct lode_error *error)
{
    const struct unit_table *table = ring->residency->table;
    ring->cycle = calloc(table->n_parts + 1, sizeof *ring->cycle);
    ring->position_of = calloc(table->n_units + 1, sizeof *ring->position_of);
    if (!ring->cycle || !ring->position_of)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the order of %u streamed parts",
                         table->n_parts);
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        if (ring->residency->homes.home[u] != HOME_RING)
            continue;
        if (unit->n_parts > MAX_ENTRIES)
            return lode_fail(error, LODE_ERR_UNSUPPORTED, "a streamed unit of %u parts; at most %d",
                             unit->n_parts, MAX_ENTRIES);
        ring->position_of[u] = ring->cycle_length;
        for (uint32_t i = 0; i < unit->n_parts; i++)
            ring->cycle[ring->cycle_length++] = (struct streamed_part){u, unit->first_part + i};
    }
    return 0;
}

int ring_open(struct ring **out, struct residency *residency, struct lode_error *error)
{
    struct ring *ring = *out = calloc(1, sizeof *ring);
    if (!ring)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the streaming ring");
    ring->residency = residency;
    ring->bytes = residency->homes.ring_bytes;
    int code = residency_allocate(residency, &ring->memory, ring->bytes, error);
    if (code == 0)
        code = list_cycle(ring, error);
    if (code != 0)
        return code;
    io_register(residency->io, ring->memory, ring->bytes); // refused: a little slower
    return read_ahead(ring, error);
}

void ring_close(struct ring *ring)
{
    if (!ring)
        return;
    free(ring->cycle);
    free(ring->position_of);
    free(ring);
}

// ---- use
// -----------------------------------------------------------------------------------------------------

void ring_complete(struct ring *ring, uint32_t index, const struct io_completion *completion)
{
    struct entry *entry = &ring->entries[index];
    assert(entry->state == PART_READING);
    entry->state = completion->status == IO_DONE ? PART_RESIDENT : PART_FAILED;
    if (entry->state == PART_RESIDENT)
        ring->residency->figures.ring_read_bytes +=
            ring->residency->table->parts[ring->cycle[entry->position].part].bytes;
    if (entry->state == PART_FAILED)
        entry->failure = completion->error;
    take_back(ring);
}

static struct entry *find_entry(struct ring *ring, uint32_t position)
{
    for (uint32_t i = 0; i < ring->n_entries; i++) {
        struct entry *entry = entry_at(ring, i);
        if (entry->position == position && !entry->dropped)
            return entry;
    }
    return NULL;
}

// Drops what lies before a position and is held by nobody; all, when the position has not been asked for.
static void drop_until(struct ring *ring, uint32_t position)
{
    const bool ahead = find_entry(ring, position) != NULL;
    for (uint32_t i = 0; i < ring->n_entries; i++) {
        struct entry *entry = entry_at(ring, i);
        if (ahead && entry->position == position && !entry->dropped)
            break;
        if (!entry->held && !entry->dropped) {
            entry->dropped = true;
            io_cancel(ring->residency->io, read_tag(READ_RING, (uint32_t)(entry - ring->entries)));
        }
    }
    if (!ahead)
        ring->next = position;
    take_back(ring);
}

// Waits until the part at a position is there. A part that failed is read again by the next who wants it.
static int await_part(struct ring *ring, uint32_t position, struct lode_error *error)
{
    struct residency *residency = ring->residency;
    const uint32_t unit = ring->cycle[position].unit;
    uint64_t start_ns = 0;
    int code = 0;
    for (;;) {
        struct entry *entry = find_entry(ring, position);
        if (!entry) {
            if (ring->next != position)
                drop_until(ring, position);
            code = read_ahead(ring, error);
            entry = find_entry(ring, position);
        }
        if (code == 0 && entry && entry->state == PART_RESIDENT) {
            entry->held = true;
            residency->parts[ring->cycle[position].part] =
                ring->memory + entry->start +
                residency->table->parts[ring->cycle[position].part].offset % IO_ALIGN_BYTES;
            break;
        }
        if (code == 0 && entry && entry->state == PART_FAILED) {
            code = residency_fail_for(residency, unit, error, &entry->failure);
            entry->dropped = true;
            take_back(ring);
        }
        start_ns = start_ns ? start_ns : io_now_ns(residency->io);
        if (code == 0) {
            if (entry) // ahead of guesses that are read ahead as well
                io_promote(residency->io, read_tag(READ_RING, (uint32_t)(entry - ring->entries)), IO_DEMAND);
            code = residency_pump(residency, true, error);
            if (code == LODE_ERR_IO) {
                struct lode_error cause = error ? *error : (struct lode_error){.code = code};
                residency_fail_for(residency, unit, error, &cause);
            }
        }
        if (code != 0)
            break;
    }
    if (start_ns)
        residency_stalled(residency, unit, WAIT_STREAM, io_now_ns(residency->io) - start_ns);
    return code;
}

int ring_acquire(struct ring *ring, uint32_t unit, struct lode_error *error)
{
    const uint32_t first = ring->position_of[unit], n = ring->residency->table->units[unit].n_parts;
    if (n == 0)
        return 0;
    residency_pump(ring->residency, false, NULL);
    drop_until(ring, first); // what a pass left out
    int code = read_ahead(ring, error);
    for (uint32_t i = 0; i < n && code == 0; i++)
        code = await_part(ring, first + i, error);
    if (code != 0)
        ring_release(ring, unit);
    return code;
}

void ring_release(struct ring *ring, uint32_t unit)
{
    const uint32_t first = ring->position_of[unit], n = ring->residency->table->units[unit].n_parts;
    for (uint32_t i = 0; i < ring->n_entries; i++) {
        struct entry *entry = entry_at(ring, i);
        if (entry->held && entry->position >= first && entry->position < first + n) {
            entry->held = false;
            entry->dropped = true;
        }
    }
    take_back(ring);
    read_ahead(ring, NULL); // a failure shows when the part is wanted
}
