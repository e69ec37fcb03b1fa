// The table of units: it grows while a model is described and does not change afterwards.
#include "placement/unit.h"
#include "base/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Arrays have room for the next power of two, so the count alone says when they are full.
static bool grow(void **array, uint32_t count, size_t item_bytes)
{
    if ((count & (count - 1)) != 0)
        return true;
    if (count > UINT32_MAX / 4)
        return false;
    size_t capacity = count == 0 ? 1 : 2 * (size_t)count;
    void *larger = realloc(*array, capacity * item_bytes);
    if (!larger)
        return false;
    *array = larger;
    return true;
}

int unit_table_add(struct unit_table *table, enum unit_class class, uint32_t kind, uint32_t layer,
                   uint32_t index, struct lode_error *error)
{
    void *units = table->units;
    if (!grow(&units, table->n_units, sizeof table->units[0]))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list more than %u units", table->n_units);
    table->units = units;
    table->units[table->n_units++] = (struct unit){
        .class = class,
        .kind = kind,
        .layer = layer,
        .index = index,
        .first_part = table->n_parts,
    };
    return 0;
}

int unit_table_add_part(struct unit_table *table, struct extent extent, struct lode_error *error)
{
    if (table->n_units == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a part was added before the first unit");
    struct unit *unit = &table->units[table->n_units - 1];
    uint64_t end, unit_bytes;
    if (extent.bytes == 0 || !checked_add(&end, extent.offset, extent.bytes) ||
        !checked_add(&unit_bytes, unit->bytes, extent.bytes))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a part of %" PRIu64 " bytes at offset %" PRIu64 " of file %u is no range of a file",
                         extent.bytes, extent.offset, extent.file);
    void *parts = table->parts;
    if (!grow(&parts, table->n_parts, sizeof table->parts[0]))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list more than %u parts of units",
                         table->n_parts);
    table->parts = parts;
    table->parts[table->n_parts++] = extent;
    unit->n_parts++;
    unit->bytes = unit_bytes;
    return 0;
}

void unit_table_free(struct unit_table *table)
{
    free(table->units);
    free(table->parts);
    memset(table, 0, sizeof *table);
}

uint64_t unit_table_bytes(const struct unit_table *table)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < table->n_units; i++) {
        if (!checked_add(&total, total, table->units[i].bytes))
            return UINT64_MAX;
    }
    return total;
}

const char *unit_table_name(const struct unit_table *table, uint32_t unit_id, char *buffer, size_t capacity)
{
    const struct unit *unit = &table->units[unit_id];
    if (table->name_unit)
        return table->name_unit(unit, buffer, capacity);
    if (unit->layer == UNIT_NO_LAYER)
        snprintf(buffer, capacity, "unit %u (kind %u, index %u)", unit_id, unit->kind, unit->index);
    else
        snprintf(buffer, capacity, "unit %u (kind %u, layer %u, index %u)", unit_id, unit->kind, unit->layer,
                 unit->index);
    return buffer;
}
