// The laboratory for kernels of GPUs: what its parts share. Whether results are right is the matter of the
// test suites; here is only time.
#ifndef LODE_BENCH_GPU_KERNELS_H
#define LODE_BENCH_GPU_KERNELS_H

#include "bench/laboratory.h"
#include "profiles/probe_internal.h"

#define GPU_ROWS 512
#define GPU_COLS 21504        // widest input, 31B
#define GPU_OUT_COLS 262144   // widest output of one row, a head
#define GPU_CHOICES (512 * 8) // of experts
#define GPU_EXPERTS 128

// The least that a call must move and compute.
struct gpu_cost {
    double bytes; // weights or cache, once each
    double ops;   // a multiply-add is two; 0: it is not what takes the time
};

// A device with operands for all cells: weights lie in the probe's arena, repeated so that no cache holds
// them.
struct gpu_lab {
    struct probe probe;
    struct probe_options probe_options; // of the probe, quick
    struct lode_device *device;
    int32_t *ids;                      // device memory, [GPU_CHOICES]
    float *weights;                    // likewise, ones
    struct lode_expert_entry *entries; // likewise, [GPU_EXPERTS]
    struct lab_options options;

    double copy_gbps;
    uint32_t n_cells;
    struct gpu_row {
        char op[24], type[16], shape[48];
        struct gpu_cost cost;
        double seconds;
    } * rows;
    uint32_t n_rows, capacity;
};

// A cell: run(user) calls the operation once, on the next copy of its operands.
typedef void (*gpu_run_fn)(void *user);

// Whether the filter wants a cell of this name; counts it, and prints it where cells are only listed.
bool gpu_lab_wants(struct gpu_lab *lab, const char *op, const char *type, const char *shape);
// Times it. Ends the program when the device fails.
void gpu_lab_measure(struct gpu_lab *lab, const char *op, const char *type, const char *shape,
                     struct gpu_cost cost, gpu_run_fn run, void *user);

// All cells, in their order.
void gpu_lab_products(struct gpu_lab *lab);
void gpu_lab_experts(struct gpu_lab *lab);
void gpu_lab_attention(struct gpu_lab *lab);
void gpu_lab_small(struct gpu_lab *lab);

#endif
