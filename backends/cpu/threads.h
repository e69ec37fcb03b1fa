// How many threads the CPU device uses, and where they run.
#ifndef LODE_CPU_THREADS_H
#define LODE_CPU_THREADS_H

#include "backends/cpu/memory.h"
#include "base/lode_error.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define CPU_MAX_THREADS 1024

// What the process may use of the machine.
struct cpu_allowance {
    uint32_t cores, hardware_threads; // that the affinity of the calling thread allows
    double quota_processors;          // that the cgroup's CPU quota pays for; INFINITY without one
};

int cpu_threads_allowance(struct cpu_allowance *out, struct lode_error *error);

// One thread for each physical core, at most as many as the quota pays for, rounded up.
uint32_t cpu_allowance_threads(const struct cpu_allowance *allowance);

// More threads than this take turns.
uint32_t cpu_allowance_processors(const struct cpu_allowance *allowance);

// requested 0: cpu_allowance_threads. A request for more than CPU_MAX_THREADS is an error.
int cpu_threads_choose(uint32_t *out, uint32_t requested, struct lode_error *error);

// Where the threads of a device were put. All zero: nowhere in particular.
struct cpu_places {
    bool bound;
    cpu_set_t caller;              // the processors that are left for the calling thread
    cpu_set_t workers;             // those of the others
    struct cpu_memory_nodes nodes; // of the cores of all; none for a single thread
};

// Binds the OpenMP workers of the calling thread by the rule of cpu_topology_place, if there are hardware
// threads for all and the user has not told OpenMP how to bind. The calling thread itself belongs to the
// program: it keeps its mask, and one place is left for it.
void cpu_threads_bind(struct cpu_places *out, uint32_t threads);

// Moves the calling thread to the place that is left for it, and leaves its mask as it was.
void cpu_threads_move_caller(const struct cpu_places *places);

// To be called by the calling thread before it works with the others. Threads that wake each other are often put on one core, where they
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

#endif
