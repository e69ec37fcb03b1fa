// How many threads the CPU device uses, and where they run.
#ifndef LODE_CPU_THREADS_H
#define LODE_CPU_THREADS_H

#include "base/lode_error.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define CPU_MAX_THREADS 1024

// Where the threads of a device were put. All zero: nowhere in particular.
struct cpu_places {
    bool bound;
    cpu_set_t caller;  // the core that is left for the calling thread
    cpu_set_t workers; // the cores of the others
};

// requested 0: one for each physical core that the affinity of the calling thread allows, at most as many as
// the cgroup's CPU quota pays for. A request for more than CPU_MAX_THREADS is an error.
int cpu_threads_choose(uint32_t *out, uint32_t requested, struct lode_error *error);

// Binds the OpenMP workers of the calling thread to physical cores of their own, if there are enough of them
// and the user has not told OpenMP how to bind. The calling thread itself belongs to the program: it keeps
// its mask, and one core is left for it.
void cpu_threads_bind(struct cpu_places *out, uint32_t threads);

// Moves the calling thread to the core that is left for it, and leaves its mask as it was.
void cpu_threads_move_caller(const struct cpu_places *places);

// To be called before a parallel region. Threads that wake each other are often put on one core, where they
// then take turns. Decoding the demo model on 2 cores (medians of 5 or 6): 3,000 tokens/s with this, 2,600
// without; with one other busy process 1,370 and 820. Holding the caller on its core for a whole pass gave
// 2,400 and 1,420.
static inline void cpu_threads_part(const struct cpu_places *places)
{
    if (!places->bound)
        return;
    int cpu = sched_getcpu();
    if (cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &places->workers))
        cpu_threads_move_caller(places);
}

// Processors that the cgroup quota pays for, rounded up; UINT32_MAX without a quota. `membership` is a file
// like /proc/self/cgroup, `mount` a folder like /sys/fs/cgroup.
uint32_t cpu_threads_quota(const char *membership, const char *mount);

#endif
