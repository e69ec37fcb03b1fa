// How the matrix operations share their work among threads: phases of tasks, with all of a phase done before
// the next.
//
// A task always computes the same numbers, whoever runs it. Threads take tasks as they become free, because
// cores differ in speed and neighbours take time from them.
#ifndef LODE_CPU_TASKS_H
#define LODE_CPU_TASKS_H

#include "backends/cpu/cpu_device.h"

// What a thread has while it runs tasks.
struct cpu_worker {
    _Alignas(64) const struct cpu_device *device; // a cache line of its own
    void *workspace;                              // of the kernels
    float *tiles;                                 // two of CPU_PRODUCT_TOKENS x CPU_PRODUCT_ROWS
    // Where this thread's last task was in a list of unequal items: tasks come in rising order, so that
    // finding the next takes no search. Zero at the start of a phase.
    uint32_t item, item_first_task;
    size_t item_offset;
    uint64_t phase; // that all this belongs to
};

struct cpu_phase {
    void (*run)(struct cpu_worker *worker, const void *call, uint32_t task);
    const void *call;
    uint32_t n_tasks;
};

int cpu_workers_open(struct cpu_device *device, struct lode_error *error);
void cpu_workers_close(struct cpu_device *device);

void cpu_run_phases(struct cpu_device *device, const struct cpu_phase *phases, uint32_t n_phases);

bool cpu_is_quantised(enum lode_type type);

// Phase 0 of the operations: x to blocks at the start of the scratch.
struct cpu_quantize_call {
    struct lode_rows x;
    struct cpu_block *blocks;
};

// Makes that phase, with no tasks left in it when x is so small that it was cheaper to do at once.
struct cpu_phase cpu_quantize_phase(struct cpu_device *device, struct cpu_quantize_call *call,
                                    struct lode_rows x);

// Up to so many activation rows a product is bound by reading the weights.
#define CPU_FEW_TOKENS 8

// Weight rows of a task when there are few activation rows, `total_rows` in all. Long tasks, because a kernel
// asks for the bytes behind the rows it works on, which at a task's end are another thread's: with tasks of
// 32 rows a quarter of a matrix of 2,816 columns was read without being asked for in time (19 of 35 GB/s).
// Some eight tasks a thread still even out threads of different speed.
static inline uint32_t cpu_long_task_rows(const struct cpu_device *device, uint64_t total_rows)
{
    uint64_t rows = total_rows / (8ull * device->threads) / CPU_PRODUCT_ROWS * CPU_PRODUCT_ROWS;
    return rows < CPU_PRODUCT_ROWS ? CPU_PRODUCT_ROWS : rows > 4096 ? 4096 : (uint32_t)rows;
}

static inline uint32_t cpu_least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t cpu_ceil_div(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

#endif
