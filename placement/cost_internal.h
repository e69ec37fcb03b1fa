// What the files of the cost model share: rates of the machine, and the pass that is followed with them.
#ifndef LODE_COST_INTERNAL_H
#define LODE_COST_INTERNAL_H

#include "placement/cost.h"

// ---- cost_rates.c

struct product {
    double seconds, spread_s; // spread: half of what the middle half of the repeats took
};

double cost_bytes_a_weight(uint32_t type);

// A matrix with so many rows of activations. Vectors and no rows take no time.
struct product cost_multiply(const struct cost_model *model, const struct work_matrix *matrix, double rows,
                             bool expert);

// Attention of the rows at positions first .. first + rows - 1.
struct product cost_attend(const struct cost_model *model, const struct work_layer *layer, double first,
                           double rows);

// Of a read of so many bytes at once.
double cost_drive_gbps(const struct cost_model *model, double read_bytes);

// ---- cost_hits.c

int cost_find_hits(struct cost_model *model, struct lode_error *error);

// Different experts that the rows choose in a layer.
double cost_touched(const struct cost_model *model, const struct work_layer *layer, double rows);

// ---- cost_pass.c

struct pass {
    double rows, wanted; // wanted: whose logits are
    uint32_t context;
};

// The clock of the processor and that of the drive.
struct pipeline {
    const struct cost_model *model;
    double hit_rate, cpu_factor, drive_factor; // factors of time, by interference
    double latency_s;                          // of a small read
    double now, drive_free, drive_s, drive_bytes;
    double ahead; // experts of the next layer that have been asked for
    double kernels_s, attention_s, operations_s, stall_s, spread_s;

    // The ring. Positions count on over all passes; position p is part p % n_cycle.
    const struct extent **cycle;
    double *ready; // [n_cycle] when it is there
    uint64_t n_cycle, next_read, next_free;
    double used_bytes;
};

// The clocks start where the ring has been filled. Released by pipeline_close, also after a failure.
int pipeline_open(struct pipeline *out, const struct cost_model *model, double hit_rate, double cpu_factor,
                  double drive_factor, struct lode_error *error);
void pipeline_close(struct pipeline *pipeline);
void pipeline_run(struct pipeline *pipeline, const struct pass *pass);

#endif
