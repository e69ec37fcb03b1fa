// The number and the places of threads. Two threads on one physical core share its arithmetic units and gain
// nothing in matrix products, so cores are counted, not hardware threads; and more threads than a cgroup's
// quota pays for are stopped for the rest of every scheduling period, all others waiting for them.
#include "backends/cpu/threads.h"

#include <hwloc.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- cgroup quota ----

static uint32_t processors_of(double quota_us, double period_us)
{
    if (!(quota_us > 0) || !(period_us > 0))
        return UINT32_MAX;
    double processors = quota_us / period_us;
    if (processors >= (double)UINT32_MAX)
        return UINT32_MAX;
    uint32_t whole = (uint32_t)processors;
    return (double)whole < processors ? whole + 1 : whole;
}

static bool read_text(char *out, size_t capacity, const char *folder, const char *name)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return false;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t got = fread(out, 1, capacity - 1, file);
    out[got] = 0;
    fclose(file);
    return got > 0;
}

// cgroup v2: "cpu.max" holds "quota period", or "max period".
static uint32_t quota_v2(const char *folder)
{
    char text[128];
    double quota_us, period_us;
    if (!read_text(text, sizeof text, folder, "cpu.max") ||
        sscanf(text, "%lf %lf", &quota_us, &period_us) != 2)
        return UINT32_MAX;
    return processors_of(quota_us, period_us);
}

// cgroup v1: two files; a quota of -1 is none.
static uint32_t quota_v1(const char *folder)
{
    char quota[64], period[64];
    if (!read_text(quota, sizeof quota, folder, "cpu.cfs_quota_us") ||
        !read_text(period, sizeof period, folder, "cpu.cfs_period_us"))
        return UINT32_MAX;
    return processors_of(strtod(quota, NULL), strtod(period, NULL));
}

// A group is bound by the quotas of all groups above it as well. Inside a container the path may be one of
// the host that is not there: then only its existing ancestors count, at least the mount itself.
static uint32_t quota_of_path(const char *mount, const char *path, uint32_t (*quota_of)(const char *folder))
{
    char folder[4096];
    int length = snprintf(folder, sizeof folder, "%s%s", mount, path);
    if (length < 0 || (size_t)length >= sizeof folder)
        return UINT32_MAX;
    uint32_t least = UINT32_MAX;
    size_t mount_length = strlen(mount);
    for (;;) {
        uint32_t quota = quota_of(folder);
        least = quota < least ? quota : least;
        char *slash = strrchr(folder + mount_length, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

static bool names_cpu(const char *controllers)
{
    char list[256];
    snprintf(list, sizeof list, ",%s,", controllers);
    return strstr(list, ",cpu,") != NULL;
}

// A line is "number:controllers:path"; v2's has no controllers. v1 mounts a hierarchy under the names of its
// controllers, often with a link for each of them.
static uint32_t quota_of_line(char *line, const char *mount)
{
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return UINT32_MAX;
    controllers++;
    *path++ = 0;
    if (!*controllers)
        return quota_of_path(mount, path, quota_v2);
    if (!names_cpu(controllers))
        return UINT32_MAX;

    char root[1024];
    snprintf(root, sizeof root, "%s/%s", mount, controllers);
    uint32_t under_list = quota_of_path(root, path, quota_v1);
    snprintf(root, sizeof root, "%s/cpu", mount);
    uint32_t under_cpu = quota_of_path(root, path, quota_v1);
    return under_list < under_cpu ? under_list : under_cpu;
}

uint32_t cpu_threads_quota(const char *membership, const char *mount)
{
    FILE *file = fopen(membership, "re");
    if (!file)
        return UINT32_MAX;
    uint32_t least = UINT32_MAX;
    char line[4096];
    while (fgets(line, sizeof line, file)) {
        uint32_t quota = quota_of_line(line, mount);
        least = quota < least ? quota : least;
    }
    fclose(file);
    return least;
}

// ---- cores ----

struct cores {
    hwloc_topology_t topology;
    hwloc_bitmap_t allowed; // hardware threads that the calling thread may use
};

static bool cores_open(struct cores *cores)
{
    if (hwloc_topology_init(&cores->topology) != 0)
        return false;
    cores->allowed = hwloc_bitmap_alloc();
    if (cores->allowed && hwloc_topology_load(cores->topology) == 0 &&
        hwloc_get_cpubind(cores->topology, cores->allowed, HWLOC_CPUBIND_THREAD) == 0)
        return true;
    hwloc_bitmap_free(cores->allowed);
    hwloc_topology_destroy(cores->topology);
    return false;
}

static void cores_close(struct cores *cores)
{
    hwloc_bitmap_free(cores->allowed);
    hwloc_topology_destroy(cores->topology);
}

// The next physical core after `previous` (NULL: the first) of which at least one hardware thread is allowed.
static hwloc_obj_t next_core(const struct cores *cores, hwloc_obj_t previous)
{
    hwloc_obj_t core = previous;
    do
        core = hwloc_get_next_obj_by_type(cores->topology, HWLOC_OBJ_CORE, core);
    while (core && !hwloc_bitmap_intersects(core->cpuset, cores->allowed));
    return core;
}

static uint32_t count_cores(const struct cores *cores)
{
    uint32_t n = 0;
    for (hwloc_obj_t core = next_core(cores, NULL); core; core = next_core(cores, core))
        n++;
    if (n > 0)
        return n;
    int hardware_threads = hwloc_bitmap_weight(cores->allowed); // a system that does not tell its cores
    return hardware_threads > 0 ? (uint32_t)hardware_threads : 1;
}

static uint32_t default_threads(void)
{
    uint32_t n = 1;
    struct cores cores;
    if (cores_open(&cores)) {
        n = count_cores(&cores);
        cores_close(&cores);
    } else if (omp_get_num_procs() > 1) {
        n = (uint32_t)omp_get_num_procs();
    }
    uint32_t quota = cpu_threads_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    n = quota < n ? quota : n;
    return n < CPU_MAX_THREADS ? n : CPU_MAX_THREADS;
}

int cpu_threads_choose(uint32_t *out, uint32_t requested, struct lode_error *error)
{
    if (requested > CPU_MAX_THREADS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u threads asked for; at most %u are possible", requested,
                         CPU_MAX_THREADS);
    *out = requested ? requested : default_threads();
    return LODE_OK;
}

// Hardware threads of the i-th allowed core; false if it has none that cpu_set_t can name.
static bool core_place(const struct cores *cores, uint32_t i, cpu_set_t *out)
{
    hwloc_obj_t core = next_core(cores, NULL);
    for (uint32_t skipped = 0; core && skipped < i; skipped++)
        core = next_core(cores, core);
    CPU_ZERO(out);
    if (!core)
        return false;
    unsigned cpu;
    hwloc_bitmap_foreach_begin(cpu,
                               core->cpuset) if (cpu < CPU_SETSIZE && hwloc_bitmap_isset(cores->allowed, cpu))
        CPU_SET(cpu, out);
    hwloc_bitmap_foreach_end();
    return CPU_COUNT(out) > 0;
}

// Worker i goes to the i-th core; core 0 is left for the caller. A refusal leaves a worker where the system
// puts it.
static void bind_workers(const struct cores *cores, struct cpu_places *out, uint32_t threads)
{
#pragma omp parallel num_threads(threads)
    {
        cpu_set_t place;
        const uint32_t worker = (uint32_t)omp_get_thread_num();
        if (worker > 0 && core_place(cores, worker, &place) &&
            sched_setaffinity(0, sizeof place, &place) == 0) {
#pragma omp critical(lode_cpu_places)
            CPU_OR(&out->workers, &out->workers, &place);
        }
    }
}

void cpu_threads_bind(struct cpu_places *out, uint32_t threads)
{
    *out = (struct cpu_places){0};
    struct cores cores;
    if (threads < 2 || omp_get_proc_bind() != omp_proc_bind_false || !cores_open(&cores))
        return;
    if (threads <= count_cores(&cores) && core_place(&cores, 0, &out->caller)) {
        bind_workers(&cores, out, threads);
        out->bound = CPU_COUNT(&out->workers) > 0;
    }
    cores_close(&cores);
}

void cpu_threads_move_caller(const struct cpu_places *places)
{
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0 &&
        sched_setaffinity(0, sizeof places->caller, &places->caller) == 0)
        sched_setaffinity(0, sizeof mask, &mask);
}
