// A GPU's pool of copies of experts: slots in blocks of memory that can be given back one by one, when K and
// V need the room or an allocation elsewhere fails.
//
// An expert's home is the host's (memory or files); a copy here is what executes. Copies are placed by heat
// and change slowly, between turns: moving them costs the link.
#ifndef LODE_VRAM_H
#define LODE_VRAM_H

#include "backends/backend.h"
#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

struct vram;

// Slots for experts of the table within `bytes` of the device; fewer, down to none, where an allocation
// fails: vram_bytes tells what it got. table and device outlive it.
int vram_open(struct vram **out, const struct unit_table *table, struct lode_device *device, uint64_t bytes,
              struct lode_error *error);
void vram_close(struct vram *vram);

uint64_t vram_bytes(const struct vram *vram);
uint32_t vram_slots(const struct vram *vram);
uint32_t vram_used(const struct vram *vram);

// Experts whose sizes differ by less than about an eighth share slots: a number for each such set, the same
// for all pools over one table, below VRAM_CLASSES.
#define VRAM_CLASSES 8
uint32_t vram_class(const struct vram *vram, uint32_t unit);

bool vram_has(const struct vram *vram, uint32_t unit);
void *vram_part(const struct vram *vram, uint32_t unit, uint32_t part); // NULL where it has no copy

// A slot for a unit that has none, whose parts vram_part then tells; false when none is free that is large
// enough. The caller fills it.
bool vram_take(struct vram *vram, uint32_t unit);
void vram_drop(struct vram *vram, uint32_t unit);

// Gives back at least `bytes` where it has them: whole blocks, those whose copies are the coldest by `heat`
// ([n_units] or NULL: the copies that came last); hotter ones among these move into the places of colder ones
// elsewhere. Returns what was given back. The device must be idle.
uint64_t vram_yield(struct vram *vram, uint64_t bytes, const float *heat);

// Changes with every copy that comes or leaves.
uint64_t vram_generation(const struct vram *vram);

#endif
