// The pool of copies; see vram.h.
//
// Blocks are as large as a few slots, some 64 MiB: few allocations, for each takes the driver a system call
// and 2 MiB at least, and yet fine enough to give back. A block has slots of one size; an empty one may take
// another. Copies are put into the first block that has room, so that blocks that are filled in the order of
// heat lie in that order.
#include "placement/vram.h"
#include "placement/layout.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define BLOCK_BYTES ((uint64_t)64 << 20)
#define BLOCK_LEAST_SLOTS 4
#define LEAST_BLOCKS 16 // of a small pool, where slots are small too

#define NOWHERE UINT32_MAX
#define NO_CLASS UINT8_MAX

struct block {
    char *memory;
    uint64_t bytes;
    uint8_t class; // of its slots; NO_CLASS: empty
    uint32_t n_slots, n_used;
    uint32_t *unit_of; // [n_slots] or NOWHERE
};

struct place {
    uint32_t block, slot; // block NOWHERE: the unit has no copy
    uint64_t serial;      // of its coming
};

struct vram {
    const struct unit_table *table;
    struct lode_device *device;
    uint32_t n_classes, common; // common: the class of the most experts
    uint64_t class_bytes[VRAM_CLASSES];
    uint8_t *class_of;    // [n_units]; NO_CLASS: not an expert
    struct place *places; // [n_units]
    struct block *blocks;
    uint32_t n_blocks;
    uint32_t *slots; // of all blocks: [n_blocks][most_slots]
    uint32_t most_slots;
    uint64_t generation, serial;
};

// ---- opening
// -----------------------------------------------------------------------------------------------------

// The smallest class that has room for so many bytes.
static uint8_t smallest_class(const struct vram *vram, uint64_t bytes)
{
    uint32_t best = NO_CLASS;
    for (uint32_t c = 0; c < vram->n_classes; c++)
        if (vram->class_bytes[c] >= bytes &&
            (best == NO_CLASS || vram->class_bytes[c] < vram->class_bytes[best]))
            best = c;
    return (uint8_t)best;
}

static void make_classes(struct vram *vram, uint32_t *n_experts)
{
    for (uint32_t u = 0; u < vram->table->n_units; u++) {
        if (vram->table->units[u].class != UNIT_EXPERT)
            continue;
        const uint64_t bytes = layout_unit_bytes(vram->table, u, false);
        uint32_t c = 0;
        while (c < vram->n_classes && !(bytes <= vram->class_bytes[c] + vram->class_bytes[c] / 8 &&
                                        bytes >= vram->class_bytes[c] - vram->class_bytes[c] / 8))
            c++;
        if (c == VRAM_CLASSES)
            c = VRAM_CLASSES - 1;
        if (c == vram->n_classes)
            vram->class_bytes[vram->n_classes++] = bytes;
        if (bytes > vram->class_bytes[c])
            vram->class_bytes[c] = bytes;
    }
    for (uint32_t u = 0; u < vram->table->n_units; u++) {
        vram->places[u].block = NOWHERE;
        vram->class_of[u] = NO_CLASS;
        if (vram->table->units[u].class != UNIT_EXPERT)
            continue;
        vram->class_of[u] = smallest_class(vram, layout_unit_bytes(vram->table, u, false));
        n_experts[vram->class_of[u]]++;
    }
    for (uint32_t c = 0; c < vram->n_classes; c++)
        if (n_experts[c] > n_experts[vram->common])
            vram->common = c;
}

// Whole slots of the common class, so that nothing is left over behind them; at least BLOCK_LEAST_SLOTS of
// any.
static uint64_t choose_block_bytes(const struct vram *vram, uint64_t bytes)
{
    uint64_t largest = 0;
    for (uint32_t c = 0; c < vram->n_classes; c++)
        largest = vram->class_bytes[c] > largest ? vram->class_bytes[c] : largest;
    const uint64_t slot = vram->class_bytes[vram->common], least = BLOCK_LEAST_SLOTS * largest;
    uint64_t block = bytes / LEAST_BLOCKS < BLOCK_BYTES ? bytes / LEAST_BLOCKS : BLOCK_BYTES;
    block = block < least ? least : block;
    return (block + slot - 1) / slot * slot;
}

static uint64_t smallest_slot(const struct vram *vram)
{
    uint64_t smallest = UINT64_MAX;
    for (uint32_t c = 0; c < vram->n_classes; c++)
        smallest = vram->class_bytes[c] < smallest ? vram->class_bytes[c] : smallest;
    return smallest;
}

// What has room for every expert. Of several classes each has blocks of its own.
static uint64_t whole_bytes(const struct vram *vram, const uint32_t *n_experts, uint64_t block_bytes)
{
    uint64_t bytes = 0;
    for (uint32_t c = 0; c < vram->n_classes; c++) {
        const uint64_t a_block = block_bytes / vram->class_bytes[c];
        bytes += vram->n_classes == 1 ? n_experts[c] * vram->class_bytes[c]
                                      : (n_experts[c] + a_block - 1) / a_block * block_bytes;
    }
    return bytes;
}

// Room for the lists of the blocks is made before their memory.
static int make_blocks(struct vram *vram, const uint32_t *n_experts, uint64_t bytes, struct lode_error *error)
{
    const uint64_t block_bytes = choose_block_bytes(vram, bytes);
    const uint64_t whole = whole_bytes(vram, n_experts, block_bytes), smallest = smallest_slot(vram);
    uint64_t left = bytes < whole ? bytes : whole;
    const uint64_t n = (left + block_bytes - 1) / block_bytes;
    vram->most_slots = (uint32_t)(block_bytes / smallest);
    vram->blocks = calloc(n + 1, sizeof *vram->blocks);
    vram->slots = calloc(n * vram->most_slots + 1, sizeof *vram->slots);
    if (!vram->blocks || !vram->slots)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list the copies of experts on %s",
                         vram->device->name);
    while (left >= smallest) {
        struct block *block = &vram->blocks[vram->n_blocks];
        const uint64_t slot = vram->class_bytes[vram->common];
        block->bytes = left < block_bytes ? left : block_bytes;
        if (block->bytes >= slot)
            block->bytes -= block->bytes % slot;
        block->class = NO_CLASS;
        block->unit_of = vram->slots + (size_t)vram->n_blocks * vram->most_slots;
        void *memory;
        if (vram->device->ops->alloc(vram->device, &memory, block->bytes, NULL) != 0)
            break; // the pool is smaller than it might be
        block->memory = memory;
        left -= block->bytes;
        vram->n_blocks++;
        if (block->bytes < block_bytes)
            break;
    }
    return 0;
}

int vram_open(struct vram **out, const struct unit_table *table, struct lode_device *device, uint64_t bytes,
              struct lode_error *error)
{
    struct vram *vram = *out = calloc(1, sizeof *vram);
    if (!vram)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the copies of experts on %s", device->name);
    vram->table = table;
    vram->device = device;
    vram->class_of = calloc(table->n_units + 1, sizeof *vram->class_of);
    vram->places = calloc(table->n_units + 1, sizeof *vram->places);
    uint32_t n_experts[VRAM_CLASSES] = {0};
    int code = 0;
    if (!vram->class_of || !vram->places)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory for the places of %u units on %s", table->n_units,
                         device->name);
    if (code == 0)
        make_classes(vram, n_experts);
    if (code == 0 && vram->n_classes)
        code = make_blocks(vram, n_experts, bytes, error);
    if (code != 0) {
        vram_close(vram);
        *out = NULL;
    }
    return code;
}

void vram_close(struct vram *vram)
{
    if (!vram)
        return;
    for (uint32_t b = 0; b < vram->n_blocks; b++)
        vram->device->ops->free(vram->device, vram->blocks[b].memory, vram->blocks[b].bytes);
    free(vram->blocks);
    free(vram->slots);
    free(vram->class_of);
    free(vram->places);
    free(vram);
}

// ---- what there is
// -----------------------------------------------------------------------------------------------

uint64_t vram_bytes(const struct vram *vram)
{
    uint64_t bytes = 0;
    for (uint32_t b = 0; b < vram->n_blocks; b++)
        bytes += vram->blocks[b].bytes;
    return bytes;
}

uint32_t vram_slots(const struct vram *vram)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < vram->n_blocks; b++) {
        const struct block *block = &vram->blocks[b];
        n += block->class == NO_CLASS ? (uint32_t)(block->bytes / vram->class_bytes[vram->common])
                                      : block->n_slots;
    }
    return n;
}

uint32_t vram_used(const struct vram *vram)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < vram->n_blocks; b++)
        n += vram->blocks[b].n_used;
    return n;
}

uint32_t vram_class(const struct vram *vram, uint32_t unit)
{
    assert(vram->class_of[unit] != NO_CLASS);
    return vram->class_of[unit];
}

bool vram_has(const struct vram *vram, uint32_t unit)
{
    return vram->places[unit].block != NOWHERE;
}

static char *slot_memory(const struct vram *vram, const struct place *place)
{
    const struct block *block = &vram->blocks[place->block];
    return block->memory + place->slot * vram->class_bytes[block->class];
}

void *vram_part(const struct vram *vram, uint32_t unit, uint32_t part)
{
    if (!vram_has(vram, unit))
        return NULL;
    return slot_memory(vram, &vram->places[unit]) + layout_part_offset(vram->table, unit, part);
}

uint64_t vram_generation(const struct vram *vram)
{
    return vram->generation;
}

// ---- copies that come and leave
// ----------------------------------------------------------------------------------

static void settle(struct vram *vram, uint32_t unit, uint32_t block_index, uint64_t serial)
{
    struct block *block = &vram->blocks[block_index];
    uint32_t slot = 0;
    while (block->unit_of[slot] != NOWHERE)
        slot++;
    block->unit_of[slot] = unit;
    block->n_used++;
    vram->places[unit] = (struct place){block_index, slot, serial};
}

static void leave(struct vram *vram, uint32_t unit)
{
    struct place *place = &vram->places[unit];
    struct block *block = &vram->blocks[place->block];
    block->unit_of[place->slot] = NOWHERE;
    if (--block->n_used == 0)
        block->class = NO_CLASS;
    place->block = NOWHERE;
}

// A block with a free slot of the class, or an empty one that then has slots of it; `but` is left out.
static uint32_t find_room(struct vram *vram, uint8_t class, uint32_t but)
{
    uint32_t empty = NOWHERE;
    for (uint32_t b = 0; b < vram->n_blocks; b++) {
        const struct block *block = &vram->blocks[b];
        if (b == but)
            continue;
        if (block->class == class && block->n_used < block->n_slots)
            return b;
        if (empty == NOWHERE && block->class == NO_CLASS && block->bytes >= vram->class_bytes[class])
            empty = b;
    }
    if (empty == NOWHERE)
        return NOWHERE;
    struct block *block = &vram->blocks[empty];
    block->class = class;
    block->n_slots = (uint32_t)(block->bytes / vram->class_bytes[class]);
    for (uint32_t i = 0; i < block->n_slots; i++)
        block->unit_of[i] = NOWHERE;
    return empty;
}

bool vram_take(struct vram *vram, uint32_t unit)
{
    assert(vram->class_of[unit] != NO_CLASS && !vram_has(vram, unit));
    const uint32_t block = find_room(vram, vram->class_of[unit], NOWHERE);
    if (block == NOWHERE)
        return false;
    settle(vram, unit, block, vram->serial++);
    vram->generation++;
    return true;
}

void vram_drop(struct vram *vram, uint32_t unit)
{
    assert(vram_has(vram, unit));
    leave(vram, unit);
    vram->generation++;
}

// ---- giving back
// -------------------------------------------------------------------------------------------------

// What a copy is worth; without heat, the more the earlier it came.
static double worth(const struct vram *vram, const float *heat, uint32_t unit)
{
    return heat ? (double)heat[unit] : 1.0 / (double)(1 + vram->places[unit].serial);
}

static double block_worth(const struct vram *vram, const float *heat, const struct block *block)
{
    double sum = 0;
    for (uint32_t i = 0; block->class != NO_CLASS && i < block->n_slots; i++)
        if (block->unit_of[i] != NOWHERE)
            sum += worth(vram, heat, block->unit_of[i]);
    return sum / (double)block->bytes;
}

static uint32_t coldest_block(const struct vram *vram, const float *heat)
{
    uint32_t coldest = NOWHERE;
    double least = INFINITY;
    for (uint32_t b = vram->n_blocks; b-- > 0;) {
        const double value = block_worth(vram, heat, &vram->blocks[b]);
        if (value < least || coldest == NOWHERE) {
            least = value;
            coldest = b;
        }
    }
    return coldest;
}

// The copy of a class that is worth least, or most, in block `in`, or in all but it.
static uint32_t find_copy(const struct vram *vram, const float *heat, uint8_t class, uint32_t in, bool inside,
                          bool most)
{
    uint32_t found = NOWHERE;
    for (uint32_t b = 0; b < vram->n_blocks; b++) {
        const struct block *block = &vram->blocks[b];
        if ((b == in) != inside || block->class != class)
            continue;
        for (uint32_t i = 0; i < block->n_slots; i++) {
            const uint32_t unit = block->unit_of[i];
            if (unit == NOWHERE)
                continue;
            const double value = worth(vram, heat, unit);
            if (found == NOWHERE ||
                (most ? value > worth(vram, heat, found) : value < worth(vram, heat, found)))
                found = unit;
        }
    }
    return found;
}

// Moves what is worth keeping out of a block: into free slots, then into those of copies that are worth less.
static void rescue(struct vram *vram, const float *heat, uint32_t from)
{
    struct block *block = &vram->blocks[from];
    const struct lode_device_ops *ops = vram->device->ops;
    const uint8_t class = block->class;
    if (class == NO_CLASS || !ops->copy)
        return;
    while (block->n_used) {
        const uint32_t unit = find_copy(vram, heat, class, from, true, true);
        uint32_t room = find_room(vram, class, from);
        if (room == NOWHERE) {
            const uint32_t other = find_copy(vram, heat, class, from, false, false);
            if (other == NOWHERE || worth(vram, heat, other) >= worth(vram, heat, unit))
                return;
            leave(vram, other);
            room = find_room(vram, class, from); // that of the other
        }
        const struct place before = vram->places[unit];
        const char *old = slot_memory(vram, &before);
        settle(vram, unit, room, before.serial);
        const uint64_t bytes = layout_unit_bytes(vram->table, unit, false);
        const int code = ops->copy(vram->device, slot_memory(vram, &vram->places[unit]), old, bytes, NULL);
        block->unit_of[before.slot] = NOWHERE;
        block->n_used--;
        if (code != 0)
            leave(vram, unit); // the device will tell at its next sync
        if (code != 0)
            return;
    }
}

static uint64_t give_back(struct vram *vram, uint32_t index)
{
    struct block *block = &vram->blocks[index];
    for (uint32_t i = 0; block->class != NO_CLASS && i < block->n_slots; i++)
        if (block->unit_of[i] != NOWHERE)
            vram->places[block->unit_of[i]].block = NOWHERE;
    const uint64_t bytes = block->bytes;
    vram->device->ops->free(vram->device, block->memory, bytes);
    *block = vram->blocks[--vram->n_blocks];
    for (uint32_t i = 0; index < vram->n_blocks && block->class != NO_CLASS && i < block->n_slots; i++)
        if (block->unit_of[i] != NOWHERE)
            vram->places[block->unit_of[i]].block = index;
    return bytes;
}

uint64_t vram_yield(struct vram *vram, uint64_t bytes, const float *heat)
{
    uint64_t given = 0;
    while (given < bytes && vram->n_blocks) {
        const uint32_t index = coldest_block(vram, heat);
        rescue(vram, heat, index);
        vram->device->ops->sync(vram->device, NULL); // before its memory goes
        given += give_back(vram, index);
        vram->generation++;
    }
    return given;
}
