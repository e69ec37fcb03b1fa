// How many threads the CPU device uses, and where they run.
#ifndef LODE_CPU_THREADS_H
#define LODE_CPU_THREADS_H

#include "base/lode_error.h"

#include <stdint.h>

#define CPU_MAX_THREADS 1024

// requested 0: one for each physical core that the affinity of the calling thread allows, at most as many as
// the cgroup's CPU quota pays for. A request for more than CPU_MAX_THREADS is an error.
int cpu_threads_choose(uint32_t *out, uint32_t requested, struct lode_error *error);

// Binds the OpenMP workers of the calling thread to physical cores of their own, if there are enough of them
// and the user has not told OpenMP how to bind. The calling thread itself belongs to the program: it stays as
// it is, and one core is left for it.
void cpu_threads_bind(uint32_t threads);

// Processors that the cgroup quota pays for, rounded up; UINT32_MAX without a quota. `membership` is a file
// like /proc/self/cgroup, `mount` a folder like /sys/fs/cgroup.
uint32_t cpu_threads_quota(const char *membership, const char *mount);

#endif
