// Runs the items of an operation on the device's threads, or in the calling thread when they are too little
// work.
//
// An item always computes the same, whoever runs it: results do not depend on the number of threads.
#ifndef LODE_CPU_PARALLEL_H
#define LODE_CPU_PARALLEL_H

#include "backends/cpu/cpu_device.h"

// A job costs about a microsecond with 2 threads (Zen 3) and more with many; one core adds 32 Ki floats in 6.
#define CPU_PARALLEL_MIN_FLOATS 32768

// Tasks that a thread gets of an operation with many items: enough to even out threads of different speed.
#define CPU_TASKS_PER_THREAD 8

// On the team if it is worth it, else in the calling thread.
static inline void cpu_run_tasks(const struct cpu_device *device, bool worth_it, uint32_t n_tasks,
                                 cpu_task_fn run, const void *call)
{
    if (worth_it)
        cpu_team_run(device->team, n_tasks, run, call);
    else
        for (uint32_t task = 0; task < n_tasks; task++)
            run(call, task, 0);
}

typedef void (*cpu_item_fn)(const struct cpu_device *device, const void *call, size_t item, uint32_t thread);

struct cpu_items {
    const struct cpu_device *device;
    const void *call;
    cpu_item_fn body;
    size_t n_items;
    uint32_t n_tasks;
};

static inline void cpu_run_items(const void *arguments, uint32_t task, uint32_t thread)
{
    const struct cpu_items *items = arguments;
    const size_t begin = items->n_items * task / items->n_tasks;
    const size_t end = items->n_items * (task + 1) / items->n_tasks;
    for (size_t i = begin; i < end; i++)
        items->body(items->device, items->call, i, thread);
}

static inline void cpu_for_items(const struct cpu_device *device, size_t n_items, size_t total_floats,
                                 cpu_item_fn body, const void *call)
{
    struct cpu_items items = {device, call, body, n_items, 1};
    if (n_items >= 2 && total_floats >= CPU_PARALLEL_MIN_FLOATS) {
        const uint32_t wanted = CPU_TASKS_PER_THREAD * device->threads;
        items.n_tasks = n_items < wanted ? (uint32_t)n_items : wanted;
    }
    cpu_team_run(device->team, items.n_tasks, cpu_run_items, &items);
}

// The part of the scratch that belongs to one thread.
static inline float *cpu_thread_scratch(const struct cpu_device *device, uint32_t thread)
{
    return device->vector_scratch.memory + thread * device->vector_scratch.thread_floats;
}

#endif
