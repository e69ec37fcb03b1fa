// The CPU as a device. Kernels are chosen at run time by what the processor can do.
#ifndef LODE_CPU_H
#define LODE_CPU_H

#include "backends/backend.h"

struct cpu_options {
    uint32_t
        threads; // 0: one for each physical core that affinity and the cgroup's quota leave to the process
    const char
        *isa; // NULL: the best; else "portable", "avx2", "avx512": fails if the CPU or the build lacks it
};

int cpu_open(struct lode_device **out, const struct cpu_options *options, struct lode_error *error);

uint32_t cpu_threads(const struct lode_device *device);
const char *cpu_isa(const struct lode_device *device);

#endif
