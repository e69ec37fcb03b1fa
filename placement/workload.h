// What a pass does with the units, in words that need no model: products by their types and shapes, attention
// by its heads and windows, and how many small operations stand between them.
//
// It lies beside a table of units: what is said of a part is indexed as the table's parts. Units of a layer
// stand in the table in the order in which the pass meets them. The cost model reads it; whoever knows the
// model fills it in.
#ifndef LODE_WORKLOAD_H
#define LODE_WORKLOAD_H

#include "base/tensor_type.h"
#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

// Rows whose logits nobody wants leave a pass at the last layer that writes K and V: what follows is done for
// the wanted ones alone.
enum work_rows { WORK_ALL_ROWS, WORK_WANTED_ROWS };

// A part of a unit. One row is a vector: the small operations read it. Parts of expert units are multiplied
// with the rows that chose the expert, of those that `when` tells.
struct work_matrix {
    enum lode_type type;
    uint32_t rows, cols;
    uint64_t bytes;
    enum work_rows when;
};

struct work_unit {
    uint32_t first, n; // parts
    bool attends;      // the layer's attention is computed with it
    bool hides_reads;  // computed between the choice of the layer's experts and their use
    bool guesses;      // holds the layer's router: a guess multiplies with it once more
};

struct work_layer {
    uint32_t first_unit, n_units; // of the table, in a row
    uint32_t q_heads, kv_heads, head_size;
    uint32_t window;   // positions that a row sees; 0: all before it
    uint32_t kv_layer; // whose K and V it reads
    enum work_rows attention_when, rest_when;
    uint32_t n_experts, n_used, first_expert; // the first unit of n_experts; 0 without
    uint32_t operations;                      // small ones, of a row
    uint32_t guess_operations;                // those of a guess on top
};

// A table of which each token reads a row.
struct work_rows_table {
    uint32_t unit;
    uint64_t row_bytes;
};

#define WORK_TABLES 2

struct workload {
    const struct unit_table *table; // not the workload's own
    struct work_matrix *matrices;   // [n_parts of the table]
    struct work_unit *units;        // [n_units of the table]
    struct work_layer *layers;
    uint32_t n_layers;
    uint32_t n_tables;
    struct work_rows_table tables[WORK_TABLES];
    uint32_t hidden, vocab, context_limit;
    uint32_t operations;      // outside the layers, of a row
    uint32_t head_operations; // of a row of logits, in rows of `hidden` values
};

// Room for all of it, zeroed, with the ranges of the units' parts. The table must outlive the workload.
int workload_open(struct workload *out, const struct unit_table *table, uint32_t n_layers,
                  struct lode_error *error);
void workload_close(struct workload *workload);

// Of all units; and what decoding one token reads: all but rows of tables and experts that were not chosen.
uint64_t workload_weight_bytes(const struct workload *workload);
uint64_t workload_bytes_per_token(const struct workload *workload);

// Bytes of one expert of a layer; 0 without experts.
uint64_t workload_expert_bytes(const struct workload *workload, const struct work_layer *layer);

// Choices of experts in all layers by one token, and experts in all.
uint32_t workload_choices(const struct workload *workload);
uint32_t workload_experts(const struct workload *workload);

#endif
