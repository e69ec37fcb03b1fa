// The number and the places of threads: as many as there are physical cores to run them, on a core each.
#include "backends/cpu/threads.h"

#include "backends/cpu/cgroup_quota.h"
#include "backends/cpu/cpu_topology.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

// ---- how many ----

int cpu_threads_allowance(struct cpu_allowance *out, struct lode_error *error)
{
    struct cpu_topology topology;
    int rc = cpu_topology_open(&topology, error);
    if (rc)
        return rc;
    *out = (struct cpu_allowance){
        .cores = topology.n_cores_allowed,
        .hardware_threads = topology.n_hardware_threads_allowed,
        .quota_processors = cgroup_quota_processors("/proc/self/cgroup", "/sys/fs/cgroup"),
    };
    cpu_topology_close(&topology);
    return LODE_OK;
}

static uint32_t at_most(uint32_t n, double quota_processors)
{
    double whole = ceil(quota_processors);
    n = whole < n ? (uint32_t)whole : n;
    return n > 1 ? n : 1;
}

uint32_t cpu_allowance_threads(const struct cpu_allowance *allowance)
{
    uint32_t n = at_most(allowance->cores, allowance->quota_processors);
    return n < CPU_MAX_THREADS ? n : CPU_MAX_THREADS;
}

uint32_t cpu_allowance_processors(const struct cpu_allowance *allowance)
{
    return at_most(allowance->hardware_threads, allowance->quota_processors);
}

int cpu_threads_choose(uint32_t *out, uint32_t requested, struct lode_error *error)
{
    if (requested > CPU_MAX_THREADS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u threads asked for; at most %u are possible", requested,
                         CPU_MAX_THREADS);
    *out = requested;
    if (requested)
        return LODE_OK;
    struct cpu_allowance allowance;
    int rc = cpu_threads_allowance(&allowance, error);
    if (!rc)
        *out = cpu_allowance_threads(&allowance);
    return rc;
}

// ---- where ----

// A refusal leaves a worker where the system puts it.
static void bind_workers(struct cpu_places *out, const cpu_set_t *places, uint32_t threads)
{
#pragma omp parallel num_threads(threads)
    {
        const uint32_t worker = (uint32_t)omp_get_thread_num();
        if (worker > 0 && sched_setaffinity(0, sizeof places[worker], &places[worker]) == 0) {
#pragma omp critical(lode_cpu_places)
            CPU_OR(&out->workers, &out->workers, &places[worker]);
        }
    }
}

static void bind_on(struct cpu_places *out, const struct cpu_topology *topology, uint32_t threads)
{
    cpu_set_t *places = calloc(threads, sizeof *places);
    if (places && cpu_topology_place(places, topology, threads)) {
        out->caller = places[0];
        bind_workers(out, places, threads);
        out->bound = CPU_COUNT(&out->workers) > 0;
    }
    free(places);
}

void cpu_threads_bind(struct cpu_places *out, uint32_t threads)
{
    *out = (struct cpu_places){0};
    struct cpu_topology topology;
    if (threads < 2 || cpu_topology_open(&topology, NULL) != LODE_OK)
        return;
    cpu_topology_nodes(&out->nodes, &topology, threads);
    if (omp_get_proc_bind() == omp_proc_bind_false)
        bind_on(out, &topology, threads);
    cpu_topology_close(&topology);
}

void cpu_threads_move_caller(const struct cpu_places *places)
{
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0 &&
        sched_setaffinity(0, sizeof places->caller, &places->caller) == 0)
        sched_setaffinity(0, sizeof mask, &mask);
}
