// Reads the processor from hwloc into plain tables. Physical cores are what counts: two threads on one core
// share its arithmetic units and gain nothing in matrix products.
#include "backends/cpu/cpu_topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- kinds of cores ----

static const char *info_value(const struct hwloc_info_s *infos, unsigned n_infos, const char *name)
{
    for (unsigned i = 0; i < n_infos; i++)
        if (strcmp(infos[i].name, name) == 0)
            return infos[i].value;
    return "";
}

static const char *kind_name(const char *core_type)
{
    if (strcmp(core_type, "IntelCore") == 0)
        return "P";
    return strcmp(core_type, "IntelAtom") == 0 ? "E" : "";
}

// hwloc counts kinds from the slowest; a machine of more kinds than there is room for has its slowest ones
// taken together.
static uint32_t kind_of_index(const struct cpu_topology *out, int index, int n_known)
{
    int from_fastest = index < 0 ? n_known - 1 : n_known - 1 - index;
    int last = (int)out->n_kinds - 1;
    return (uint32_t)(from_fastest < 0 ? 0 : from_fastest < last ? from_fastest : last);
}

static void read_kinds(struct cpu_topology *out, hwloc_topology_t topology)
{
    int n_known = hwloc_cpukinds_get_nr(topology, 0);
    out->n_kinds = n_known < 1 ? 1 : n_known < CPU_TOPOLOGY_KINDS ? (uint32_t)n_known : CPU_TOPOLOGY_KINDS;
    for (int index = n_known - 1; index >= 0; index--) {
        struct cpu_kind *kind = &out->kinds[kind_of_index(out, index, n_known)];
        unsigned n_infos = 0;
        struct hwloc_info_s *infos = NULL;
        int efficiency = -1;
        if (hwloc_cpukinds_get_info(topology, (unsigned)index, NULL, &efficiency, &n_infos, &infos, 0) != 0)
            continue;
        snprintf(kind->name, sizeof kind->name, "%s", kind_name(info_value(infos, n_infos, "CoreType")));
        kind->speed = efficiency > 0 ? (uint32_t)efficiency : 0;
        kind->max_mhz = (uint32_t)strtoul(info_value(infos, n_infos, "FrequencyMaxMHz"), NULL, 10);
    }
}

static uint32_t kind_of_core(const struct cpu_topology *out, hwloc_topology_t topology, hwloc_obj_t core)
{
    int n_known = hwloc_cpukinds_get_nr(topology, 0);
    return kind_of_index(out, hwloc_cpukinds_get_by_cpuset(topology, core->cpuset, 0), n_known);
}

// ---- cores ----

// hwloc's cores; where a system does not tell them, a hardware thread stands for one.
static hwloc_obj_t core_of(hwloc_topology_t topology, hwloc_obj_t hardware_thread)
{
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, hardware_thread);
    return core ? core : hardware_thread;
}

// Memory of another kind beside the ordinary one (HBM) is a node of its own, with a higher number.
static uint32_t node_of_core(hwloc_topology_t topology, hwloc_obj_t core)
{
    uint32_t index = 0;
    for (hwloc_obj_t node = NULL; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node));
         index++)
        if (hwloc_bitmap_intersects(node->cpuset, core->cpuset))
            return index;
    return 0;
}

static void add_hardware_thread(struct cpu_topology *out, struct cpu_core *core, unsigned cpu, bool allowed)
{
    core->n_hardware_threads++;
    out->n_hardware_threads++;
    if (!allowed || cpu >= CPU_SETSIZE) // beyond: cpu_set_t cannot name it
        return;
    CPU_SET(cpu, &core->allowed);
    out->n_hardware_threads_allowed++;
    if (core->n_allowed++ == 0)
        out->n_cores_allowed++;
}

static void read_cores(struct cpu_topology *out, hwloc_topology_t topology, hwloc_const_bitmap_t allowed)
{
    hwloc_obj_t last = NULL;
    for (hwloc_obj_t pu = NULL; (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu));) {
        hwloc_obj_t core = core_of(topology, pu);
        if (core != last) {
            struct cpu_core *added = &out->cores[out->n_cores++];
            added->kind = kind_of_core(out, topology, core);
            added->node = node_of_core(topology, core);
            out->kinds[added->kind].n_cores++;
            out->nodes[added->node].n_cores++;
            last = core;
        }
        struct cpu_core *current = &out->cores[out->n_cores - 1];
        out->kinds[current->kind].n_hardware_threads++;
        add_hardware_thread(out, current, pu->os_index, hwloc_bitmap_isset(allowed, pu->os_index));
    }
}

// ---- the order of the cores ----

// What the comparison needs beside the core: its place before sorting, since qsort keeps none.
struct ordered_core {
    struct cpu_core core;
    uint32_t speed, index;
};

static int order(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int by_speed_and_node(const void *left, const void *right)
{
    const struct ordered_core *a = left, *b = right;
    int result = order(!a->core.n_allowed, !b->core.n_allowed);
    result = result ? result : order(b->speed, a->speed);
    result = result ? result : order(a->core.node, b->core.node);
    return result ? result : order(a->index, b->index);
}

static int by_speed_and_rank(const void *left, const void *right)
{
    const struct ordered_core *a = left, *b = right;
    int result = order(!a->core.n_allowed, !b->core.n_allowed);
    result = result ? result : order(b->speed, a->speed);
    result = result ? result : order(a->core.rank, b->core.rank);
    return result ? result : by_speed_and_node(left, right);
}

static void rank_in_nodes(struct ordered_core *cores, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (cores[i].speed == cores[i - 1].speed && cores[i].core.node == cores[i - 1].core.node)
            cores[i].core.rank = cores[i - 1].core.rank + 1;
}

static int sort_cores(struct cpu_topology *out, struct lode_error *error)
{
    struct ordered_core *cores = calloc(out->n_cores, sizeof *cores);
    if (!cores)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to order %u cores", out->n_cores);
    for (uint32_t i = 0; i < out->n_cores; i++)
        cores[i] = (struct ordered_core){out->cores[i], out->kinds[out->cores[i].kind].speed, i};
    qsort(cores, out->n_cores, sizeof *cores, by_speed_and_node);
    rank_in_nodes(cores, out->n_cores_allowed);
    qsort(cores, out->n_cores, sizeof *cores, by_speed_and_rank);
    for (uint32_t i = 0; i < out->n_cores; i++)
        out->cores[i] = cores[i].core;
    free(cores);
    return LODE_OK;
}

// ---- caches, memory, name ----

static uint32_t cores_inside(hwloc_topology_t topology, hwloc_const_bitmap_t cpus)
{
    int n = hwloc_get_nbobjs_inside_cpuset_by_type(topology, cpus, HWLOC_OBJ_CORE);
    return n > 0 ? (uint32_t)n : (uint32_t)hwloc_bitmap_weight(cpus);
}

static void count_cache(struct cpu_topology *out, struct cpu_cache cache)
{
    for (uint32_t i = 0; i < out->n_caches; i++) {
        struct cpu_cache *known = &out->caches[i];
        if (known->level == cache.level && known->bytes == cache.bytes && known->n_cores == cache.n_cores) {
            known->count++;
            return;
        }
    }
    if (out->n_caches < CPU_TOPOLOGY_CACHES)
        out->caches[out->n_caches++] = cache;
}

static void read_caches(struct cpu_topology *out, hwloc_topology_t topology)
{
    static const hwloc_obj_type_t types[] = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                             HWLOC_OBJ_L4CACHE};
    for (uint32_t level = 1; level <= sizeof types / sizeof *types; level++)
        for (hwloc_obj_t cache = NULL;
             (cache = hwloc_get_next_obj_by_type(topology, types[level - 1], cache));)
            count_cache(out, (struct cpu_cache){level, cache->attr->cache.size,
                                                cores_inside(topology, cache->cpuset), 1});
}

static void read_nodes(struct cpu_topology *out, hwloc_topology_t topology)
{
    uint32_t index = 0;
    for (hwloc_obj_t node = NULL; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node));)
        out->nodes[index++] =
            (struct cpu_node){.os_index = node->os_index, .memory_bytes = node->attr->numanode.local_memory};
}

static void read_model(struct cpu_topology *out, hwloc_topology_t topology)
{
    hwloc_obj_t package = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PACKAGE, NULL);
    const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    if (!model)
        model = hwloc_obj_get_info_by_name(hwloc_get_root_obj(topology), "CPUModel");
    snprintf(out->model, sizeof out->model, "%s", model ? model : "");
}

// ---- opening ----

static int allocate(struct cpu_topology *out, uint32_t n_cores, uint32_t n_nodes, struct lode_error *error)
{
    *out = (struct cpu_topology){.n_nodes = n_nodes ? n_nodes : 1};
    out->cores = calloc(n_cores ? n_cores : 1, sizeof *out->cores);
    out->nodes = calloc(out->n_nodes, sizeof *out->nodes);
    if (out->cores && out->nodes)
        return LODE_OK;
    cpu_topology_close(out);
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for a table of %u cores", n_cores);
}

static uint32_t count_objects(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(topology, type);
    return n > 0 ? (uint32_t)n : 0;
}

int cpu_topology_read(struct cpu_topology *out, hwloc_topology_t topology, hwloc_const_bitmap_t allowed,
                      struct lode_error *error)
{
    int rc = allocate(out, count_objects(topology, HWLOC_OBJ_PU), count_objects(topology, HWLOC_OBJ_NUMANODE),
                      error);
    if (rc)
        return rc;
    read_model(out, topology);
    read_kinds(out, topology);
    read_nodes(out, topology);
    read_caches(out, topology);
    read_cores(out, topology, allowed);
    rc = out->n_cores ? sort_cores(out, error) : LODE_OK;
    if (rc)
        cpu_topology_close(out);
    return rc;
}

int cpu_topology_flat(struct cpu_topology *out, const cpu_set_t *allowed, struct lode_error *error)
{
    const uint32_t n = (uint32_t)CPU_COUNT(allowed);
    int rc = allocate(out, n, 1, error);
    if (rc)
        return rc;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed)) {
            struct cpu_core *core = &out->cores[out->n_cores];
            core->rank = out->n_cores++;
            add_hardware_thread(out, core, cpu, true);
        }
    out->n_kinds = 1;
    out->kinds[0] = (struct cpu_kind){.n_cores = n, .n_hardware_threads = n};
    out->nodes[0].n_cores = n;
    return LODE_OK;
}

static hwloc_topology_t load(unsigned long flags)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return NULL;
    if (hwloc_topology_set_flags(topology, flags) == 0 && hwloc_topology_load(topology) == 0)
        return topology;
    hwloc_topology_destroy(topology);
    return NULL;
}

// Processors that a control group takes away stay in the topology, so that it shows the machine; the mask
// leaves them out. Asking every processor for its identity means visiting it and waiting while it is
// busy: 2.3 ms without and 3 to 8 with 2 busy cores. It is done only where the system does not tell the
// cores.
static hwloc_topology_t load_this_machine(void)
{
    const unsigned long flags = HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED;
    hwloc_topology_t topology = load(flags | HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING);
    if (!topology || count_objects(topology, HWLOC_OBJ_CORE) > 0)
        return topology;
    hwloc_topology_destroy(topology);
    return load(flags);
}

static int read_own(struct cpu_topology *out, hwloc_topology_t topology, hwloc_bitmap_t allowed,
                    struct lode_error *error)
{
    if (hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_zero(allowed);
    hwloc_bitmap_and(allowed, allowed, hwloc_topology_get_allowed_cpuset(topology));
    return cpu_topology_read(out, topology, allowed, error);
}

static int open_flat(struct cpu_topology *out, struct lode_error *error)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0) {
        CPU_ZERO(&allowed);
        CPU_SET(0, &allowed);
    }
    return cpu_topology_flat(out, &allowed, error);
}

int cpu_topology_open(struct cpu_topology *out, struct lode_error *error)
{
    hwloc_topology_t topology = load_this_machine();
    if (!topology)
        return open_flat(out, error);
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    int rc = allowed ? read_own(out, topology, allowed, error)
                     : lode_fail(error, LODE_ERR_MEMORY, "no memory for a mask of processors");
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
    if (rc || out->n_cores_allowed > 0)
        return rc;
    cpu_topology_close(out);
    return open_flat(out, error);
}

void cpu_topology_close(struct cpu_topology *topology)
{
    free(topology->cores);
    free(topology->nodes);
    *topology = (struct cpu_topology){0};
}
