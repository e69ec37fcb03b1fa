// What the files of the cost model share: rates of the machine, the work of a pass by these rates, and the
// pass that is followed with it.
#ifndef LODE_COST_INTERNAL_H
#define LODE_COST_INTERNAL_H

#include "placement/cost.h"

#define COST_CPU 0 // of the devices

// A unit that is no expert.
struct cost_step {
    uint32_t unit;
    uint8_t device;
    bool streamed; // through the ring
    bool products; // any matrix of more than one row
    bool all_rows; // any that is for WORK_ALL_ROWS
    bool attends;
};

struct cost_layer {
    uint32_t first_step, n_steps;
    uint32_t experts_at; // the step before which experts are computed
    uint32_t begins_at;  // the step beside which their reads begin, experts_at without one
    uint32_t guesses_at; // the step that holds the router, UINT32_MAX without one
    uint8_t lead;        // the device of the unit that attends, or of the first with products
    uint8_t helper;      // the GPU that may take over the experts in RAM; COST_CPU: none
    bool pooled;         // some of its experts are
    uint32_t first_heat; // its first expert, among those of all layers
    uint32_t n_on[COST_DEVICES];
    double share[COST_DEVICES]; // of the choices of a token
    double expert_bytes;
};

static inline const struct profile_device *cost_device(const struct cost_model *model, uint32_t device)
{
    return device == COST_CPU ? &model->profile->cpu : &model->profile->gpus[device - 1];
}

// ---- cost_rates.c

struct product {
    double seconds, spread_s; // spread: half of what the middle half of the repeats took
};

double cost_bytes_a_weight(uint32_t type);

// A matrix with so many rows of activations. Vectors and no rows take no time.
struct product cost_multiply(const struct cost_model *model, uint32_t device,
                             const struct work_matrix *matrix, double rows, bool expert);

// Attention of the rows at positions first .. first + rows - 1.
struct product cost_attend(const struct cost_model *model, uint32_t device, const struct work_layer *layer,
                           double first, double rows);

// So many small operations of each of the rows.
struct product cost_operate(const struct cost_model *model, uint32_t device, double calls, double rows);

// One copy from device to device, and the waiting of the GPUs among them.
double cost_copy(const struct cost_model *model, uint32_t from, uint32_t to, double bytes);
double cost_sync(const struct cost_model *model, uint32_t from, uint32_t to);

// Fills model->drive_gbps.
void cost_find_drive_rates(struct cost_model *model);

// Of a read of so many bytes at once.
double cost_drive_gbps(const struct cost_model *model, double read_bytes);

// ---- cost_hits.c

// Shares of the devices and hit rates. The layers have been counted.
int cost_find_hits(struct cost_model *model, struct lode_error *error);

// Different experts that the rows choose in a layer, by the device that holds them; [COST_CPU]: the others.
void cost_touched(double out[COST_DEVICES], const struct cost_model *model, uint32_t layer, double rows);

// ---- cost_work.c

struct pass {
    double rows, wanted; // wanted: whose logits are
    uint32_t context;
};

double cost_rows_of(const struct pass *pass, enum work_rows when);

// The parts of a pass, each alone on its device.
struct work {
    const struct cost_model *model;
    struct pass pass;          // that it stands for; no rows: none yet
    struct product *kernels;   // [n_steps]
    struct product *attention; // [n_layers]
    struct layer_work {
        double n[COST_DEVICES];           // different experts
        struct product one[COST_DEVICES]; // an expert with the rows that chose it
        struct product helped;            // an expert of RAM, computed by the layer's helper
    } * layers;                           // [n_layers]
};

// Passes of which no logits are wanted, and those with.
struct works {
    struct work of[2];
};

// Released by works_close, also after a failure.
int works_open(struct works *out, const struct cost_model *model, struct lode_error *error);
void works_close(struct works *works);

// Computes what changed since the last pass.
void work_set(struct work *work, const struct pass *pass);

// ---- cost_pass.c

struct chance {
    double hit_rate, off_gpu; // as those of the model
};

// The clock of the processors and that of the drive.
struct pipeline {
    const struct cost_model *model;
    struct works *works;
    struct work *work; // of the pass
    struct chance chance;
    double factor[PROFILE_LANES]; // of time, by interference with the drive
    double latency_s;             // of a small read
    double now, drive_free, drive_bytes;
    uint32_t at;  // the device that has the residual stream
    double ahead; // experts of the next layer that have been asked for
    double kernels_s, attention_s, operations_s, stall_s, gpu_s, link_s, spread_s;
    double busy_s[PROFILE_LANES];

    // The ring. Positions count on over all passes; position p is part p % n_cycle.
    double *ready; // [n_cycle] when it is there
    double ring_gbps;
    uint64_t next_read, next_free;
    double used_bytes;
};

// The clocks start where the ring has been filled. Released by pipeline_close, also after a failure.
int pipeline_open(struct pipeline *out, struct works *works, struct chance chance,
                  const double factor[PROFILE_LANES], struct lode_error *error);
void pipeline_close(struct pipeline *pipeline);
void pipeline_run(struct pipeline *pipeline, const struct pass *pass);

// Time passes on a device, as a part of the CPU's; on the link; or until then by waiting for the drive.
void pipeline_compute(struct pipeline *pipeline, uint32_t device, double *part_s, struct product product);
void pipeline_link(struct pipeline *pipeline, double seconds);
void pipeline_await(struct pipeline *pipeline, double until);

double pipeline_read_seconds(const struct pipeline *pipeline, double bytes, double gbps);
void pipeline_count_read(struct pipeline *pipeline, double bytes, double seconds);

// ---- cost_pool.c

// Experts that a pass has chosen in a layer.
struct chosen {
    uint32_t layer;
    double rows;
    double n[COST_DEVICES], all; // different ones, by device
    double missing, ahead;       // of those not in memory, and of these read ahead
    bool many;                   // so many rows that guesses are certain
    double at_s, wait_s, read_s; // when they were chosen, what the drive does before, and the reads
};

// Asks for those of the layer that can be foreseen.
void experts_read_ahead(struct pipeline *pipeline, const struct pass *pass, uint32_t layer);
struct chosen experts_begin(struct pipeline *pipeline, const struct pass *pass, uint32_t layer);
void experts_finish(struct pipeline *pipeline, const struct chosen *chosen);

// ---- cost_lanes.c

// The experts of a layer, by all devices that have some.
struct lanes {
    double cpu_s, gpu_s, link_s;  // who takes the longest; they add up to the time of all
    double spread_s;              // of that
    double handed_s;              // before and behind that: rows on their way
    double busy_s[PROFILE_LANES]; // of each, the shorter ones too
    double last_s;                // one that arrives when all others are done
};

struct lanes lanes_of(const struct pipeline *pipeline, const struct chosen *chosen);

#endif
