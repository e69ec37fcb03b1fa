// Units: the smallest sets of weights that are placed and moved as one, with the extents of the files they
// lie in.
//
// Placement sees sizes and classes, not what the weights mean: `kind`, `layer` and `index` are the maker's
// labels.
#ifndef LODE_UNIT_H
#define LODE_UNIT_H

#include "base/lode_error.h"

#include <stddef.h>
#include <stdint.h>

struct extent {
    uint32_t file;
    uint64_t offset, bytes;
};

enum unit_class {
    UNIT_FIXED,  // in use during a whole pass or a whole layer: always in memory
    UNIT_DENSE,  // used once in every pass, in the order of the layers
    UNIT_EXPERT, // one of many in its layer, chosen by a router
    UNIT_ROWS,   // a table of which a token reads one row
};

#define UNIT_NO_LAYER UINT32_MAX

struct unit {
    enum unit_class class;
    uint32_t kind;                // the maker's label
    uint32_t layer;               // or UNIT_NO_LAYER
    uint32_t index;               // of the expert in its layer; else 0
    uint32_t first_part, n_parts; // in the table's parts
    uint64_t bytes;               // of all parts
};

// What to call a unit in the text of an error, from the maker's labels; written to `buffer` or a constant.
typedef const char *(*unit_name_fn)(const struct unit *unit, char *buffer, size_t capacity);

// The units of a model in the order in which a pass meets them. All zero is an empty table.
struct unit_table {
    struct unit *units;
    uint32_t n_units;
    struct extent *parts; // one a tensor, or a slice of one
    uint32_t n_parts;
    unit_name_fn name_unit; // NULL: the labels are told as numbers
};

// Grows the table; parts are appended to the unit that was added last.
int unit_table_add(struct unit_table *table, enum unit_class class, uint32_t kind, uint32_t layer,
                   uint32_t index, struct lode_error *error);
int unit_table_add_part(struct unit_table *table, struct extent extent, struct lode_error *error);
void unit_table_free(struct unit_table *table);

uint64_t unit_table_bytes(const struct unit_table *table);

const char *unit_table_name(const struct unit_table *table, uint32_t unit, char *buffer, size_t capacity);

#endif
