// Forward passes on a model without its weights: on the simulated device beside the simulated drive, or on
// whatever device and io a test gives.
#ifndef LODE_TEST_SIM_RUN_H
#define LODE_TEST_SIM_RUN_H

#include "backends/sim/sim_device.h"
#include "core/forward.h"
#include "core/shape_file.h"
#include "io/io_sim.h"
#include "placement/sim_times.h"

// A model file, or a shape.
struct sim_model {
    struct shape_file shape; // fd -1: a file
    struct gguf *gguf;
    struct gemma_model model;
    uint64_t file_bytes;
    uint64_t expert_bytes; // of all experts
};

void sim_model_open_shape(struct sim_model *out, const char *shape, const char *type);
void sim_model_open_file(struct sim_model *out, const char *path);
void sim_model_close(struct sim_model *model);

struct sim_run {
    const struct sim_model *model;
    struct lode_device *device;
    struct io *io;
    struct weight_matrices matrices;
    struct forward_weights weights;
    struct forward *forward;
    struct residency *residency;
    struct sim_clock clock;
    struct sim_times *times; // of the options
    int (*choose)(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                  struct lode_error *error);
    void *user;
    float *logits; // [vocab]
    struct lode_error error;
};

struct sim_run_options {
    uint32_t context, batch;
    uint64_t budget_bytes; // for weights
    const char *policy;
    bool no_prefetch;
    struct io_sim_drive drive;
    struct sim_times *times; // what operations take; NULL: a rule of round figures
    int (*choose)(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                  struct lode_error *error);
    void *user;
};

// A session's forward pass and its weights, as core/session.c and core/engine.c make them. The first is over
// a device and an io that are set already, which the run closes.
void sim_run_open_on(struct sim_run *run, const struct sim_model *model,
                     const struct sim_run_options *options);
void sim_run_open(struct sim_run *run, const struct sim_model *model, const struct sim_run_options *options);
void sim_run_close(struct sim_run *run);

// A step whose last logits are wanted; the code of forward_step.
int sim_run_step(struct sim_run *run, const int32_t *ids, uint32_t n);

struct residency_figures sim_run_figures(const struct sim_run *run);

#endif
