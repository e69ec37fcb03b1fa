// The layout of slots; see layout.h.
#include "placement/layout.h"
#include "backends/backend.h"
#include "base/checked.h"
#include "io/io.h"

uint64_t layout_align(bool host_memory)
{
    return host_memory ? IO_ALIGN_BYTES : LODE_DEVICE_ALIGN;
}

static bool part_bytes(uint64_t *out, const struct extent *part, bool host_memory)
{
    uint64_t sum;
    if (host_memory)
        return checked_add(&sum, part->offset % IO_ALIGN_BYTES, part->bytes) &&
               checked_align(out, sum, IO_ALIGN_BYTES);
    return checked_add(&sum, part->bytes, LODE_DEVICE_SLACK) && checked_align(out, sum, LODE_DEVICE_ALIGN);
}

uint64_t layout_unit_bytes(const struct unit_table *table, uint32_t unit_id, bool host_memory)
{
    const struct unit *unit = &table->units[unit_id];
    uint64_t total = 0;
    for (uint32_t i = 0; i < unit->n_parts; i++) {
        uint64_t bytes;
        if (!part_bytes(&bytes, &table->parts[unit->first_part + i], host_memory) ||
            !checked_add(&total, total, bytes))
            return UINT64_MAX;
    }
    return total;
}

void layout_place(void **parts, const struct unit_table *table, uint32_t unit_id, char *memory,
                  bool host_memory)
{
    const struct unit *unit = &table->units[unit_id];
    for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts; i++) {
        const struct extent *part = &table->parts[i];
        uint64_t bytes = 0;
        part_bytes(&bytes, part, host_memory); // counted before: it fits
        parts[i] = memory + (host_memory ? part->offset % IO_ALIGN_BYTES : 0);
        memory += bytes;
    }
}

uint64_t layout_part_offset(const struct unit_table *table, uint32_t unit_id, uint32_t part)
{
    const struct extent *parts = &table->parts[table->units[unit_id].first_part];
    uint64_t offset = 0;
    for (uint32_t i = 0; i < part; i++) {
        uint64_t bytes = 0;
        part_bytes(&bytes, &parts[i], false); // counted before: it fits
        offset += bytes;
    }
    return offset;
}
