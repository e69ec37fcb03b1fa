// Runs the items of an operation on the device's threads, or in the calling thread when they are too little
// work.
//
// An item always computes the same, whoever runs it: results do not depend on the number of threads. Every
// region asks for the same number, for libgomp would end and restart its threads at each change; and a small
// operation opens none.
#ifndef LODE_CPU_PARALLEL_H
#define LODE_CPU_PARALLEL_H

#include "backends/cpu/cpu_device.h"

#include <omp.h>

// A parallel region costs 1.5 us with 2 threads (Zen 3, libgomp) and some 5 us with many; one core adds 32 Ki
// floats in 6.
#define CPU_PARALLEL_MIN_FLOATS 32768

typedef void (*cpu_item_fn)(const struct cpu_device *device, const void *call, size_t item, uint32_t thread);

static inline void cpu_for_items(const struct cpu_device *device, size_t n_items, size_t total_floats,
                                 cpu_item_fn body, const void *call)
{
    if (device->threads == 1 || n_items < 2 || total_floats < CPU_PARALLEL_MIN_FLOATS) {
        for (size_t i = 0; i < n_items; i++)
            body(device, call, i, 0);
        return;
    }
    cpu_threads_part(&device->places);
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (size_t i = 0; i < n_items; i++)
        body(device, call, i, (uint32_t)omp_get_thread_num());
}

// The part of the scratch that belongs to one thread.
static inline float *cpu_thread_scratch(const struct cpu_device *device, uint32_t thread)
{
    return device->vector_scratch.memory + thread * device->vector_scratch.thread_floats;
}

#endif
