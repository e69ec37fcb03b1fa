// How a unit's parts lie in a slot of memory.
//
// In host memory each part lies at the address that is equal to its offset in the file modulo IO_ALIGN_BYTES,
// with the padding of io.h around it, so that direct reads go straight into the slot. Elsewhere parts are
// uploaded, and each is aligned to LODE_DEVICE_ALIGN and followed by LODE_DEVICE_SLACK bytes.
#ifndef LODE_LAYOUT_H
#define LODE_LAYOUT_H

#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

// What a slot's address must be a multiple of.
uint64_t layout_align(bool host_memory);

// Bytes of a slot for the unit; UINT64_MAX when they cannot be counted.
uint64_t layout_unit_bytes(const struct unit_table *table, uint32_t unit, bool host_memory);

// Writes the parts' addresses for a slot at `memory` to parts[], which is indexed as the table's parts.
void layout_place(void **parts, const struct unit_table *table, uint32_t unit, char *memory,
                  bool host_memory);

// How far behind its slot's address a part (0 .. n_parts-1) of a unit lies on a device without host memory.
uint64_t layout_part_offset(const struct unit_table *table, uint32_t unit, uint32_t part);

#endif
