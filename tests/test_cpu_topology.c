// Cores, and which thread goes to which, on machines that hwloc makes up: hybrid processors, several sockets
// and nodes, masks, and machines that tell little of themselves.
#include "backends/cpu/cpu_topology.h"
#include "backends/cpu/memory.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 2048

static cpu_set_t places[MAX_THREADS];

// ---- made-up machines
// ----------------------------------------------------------------------------------------

static hwloc_topology_t machine(const char *description)
{
    hwloc_topology_t topology;
    cr_assert_eq(hwloc_topology_init(&topology), 0);
    cr_assert_eq(hwloc_topology_set_synthetic(topology, description), 0, "%s", description);
    cr_assert_eq(hwloc_topology_load(topology), 0);
    return topology;
}

// Takes the machine with it.
static struct cpu_topology read_allowed(hwloc_topology_t topology, const char *allowed)
{
    struct cpu_topology out;
    struct lode_error error;
    hwloc_bitmap_t mask = hwloc_bitmap_alloc();
    if (allowed)
        cr_assert_eq(hwloc_bitmap_list_sscanf(mask, allowed), 0);
    else
        hwloc_bitmap_copy(mask, hwloc_topology_get_topology_cpuset(topology));
    cr_assert_eq(cpu_topology_read(&out, topology, mask, &error), LODE_OK, "%s", error.text);
    hwloc_bitmap_free(mask);
    hwloc_topology_destroy(topology);
    return out;
}

static struct cpu_topology read_machine(const char *description, const char *allowed)
{
    return read_allowed(machine(description), allowed);
}

static void register_kind(hwloc_topology_t topology, const char *cpus, int efficiency, char *type, char *mhz)
{
    struct hwloc_info_s infos[] = {{"CoreType", type}, {"FrequencyMaxMHz", mhz}};
    hwloc_bitmap_t mask = hwloc_bitmap_alloc();
    cr_assert_eq(hwloc_bitmap_list_sscanf(mask, cpus), 0);
    cr_assert_eq(hwloc_cpukinds_register(topology, mask, efficiency, type ? 2 : 0, infos, 0), 0);
    hwloc_bitmap_free(mask);
}

// 16 efficiency cores without siblings, then 8 performance cores with: their hardware threads are 32 to 47.
// The slow ones come first in the system's order, so that this order alone does not do.
static hwloc_topology_t hybrid_machine(void)
{
    hwloc_topology_t topology = machine("package:1 numa:1 core:24 pu:2");
    hwloc_bitmap_t kept = hwloc_bitmap_alloc();
    for (unsigned cpu = 0; cpu < 48; cpu++)
        if (cpu >= 32 || cpu % 2 == 0)
            hwloc_bitmap_set(kept, cpu);
    cr_assert_eq(hwloc_topology_restrict(topology, kept, 0), 0);
    hwloc_bitmap_free(kept);
    register_kind(topology, "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30", 0, "IntelAtom", "3900");
    register_kind(topology, "32-47", 1, "IntelCore", "5200");
    return topology;
}

// ---- what a thread was given
// ---------------------------------------------------------------------------------

static void expect_place(uint32_t thread, const char *cpus)
{
    char text[64];
    cpu_topology_mask_text(text, sizeof text, &places[thread]);
    cr_assert_str_eq(text, cpus, "thread %u: %s instead of %s", thread, text, cpus);
}

static uint32_t core_of_place(const struct cpu_topology *topology, const cpu_set_t *place)
{
    for (uint32_t c = 0; c < topology->n_cores; c++) {
        cpu_set_t common;
        CPU_AND(&common, place, &topology->cores[c].allowed);
        if (CPU_EQUAL(&common, place))
            return c;
    }
    cr_assert_fail("a place on no core or on several");
    return 0;
}

static uint32_t threads_in_node(const struct cpu_topology *topology, uint32_t threads, uint32_t node)
{
    uint32_t n = 0;
    for (uint32_t t = 0; t < threads; t++)
        n += topology->cores[core_of_place(topology, &places[t])].node == node;
    return n;
}

// What holds on any machine: places are not empty and do not overlap; and no core has two threads more than
// another that has hardware threads left.
static void expect_fair(const struct cpu_topology *topology, uint32_t threads)
{
    uint32_t *of_core = calloc(topology->n_cores, sizeof *of_core);
    cpu_set_t taken;
    CPU_ZERO(&taken);
    for (uint32_t t = 0; t < threads; t++) {
        cpu_set_t common;
        CPU_AND(&common, &taken, &places[t]);
        cr_assert_eq(CPU_COUNT(&common), 0, "thread %u of %u shares a processor", t, threads);
        CPU_OR(&taken, &taken, &places[t]);
        cr_assert_gt(CPU_COUNT(&places[t]), 0);
        of_core[core_of_place(topology, &places[t])]++;
    }
    for (uint32_t a = 0; a < topology->n_cores; a++)
        for (uint32_t b = 0; b < topology->n_cores; b++)
            cr_assert(of_core[a] <= of_core[b] + 1 || of_core[b] == topology->cores[b].n_allowed);
    free(of_core);
}

// ---- hybrid processors
// ---------------------------------------------------------------------------------------

Test(cpu_topology, tells_the_kinds_of_cores_the_fastest_first)
{
    struct cpu_topology topology = read_allowed(hybrid_machine(), NULL);
    cr_assert_eq(topology.n_kinds, 2);
    const struct cpu_kind *fast = &topology.kinds[0], *slow = &topology.kinds[1];
    cr_assert_str_eq(fast->name, "P");
    cr_assert_eq(fast->n_cores, 8);
    cr_assert_eq(fast->n_hardware_threads, 16);
    cr_assert_eq(fast->max_mhz, 5200);
    cr_assert_str_eq(slow->name, "E");
    cr_assert_eq(slow->n_cores, 16);
    cr_assert_eq(slow->n_hardware_threads, 16);
    cr_assert_eq(slow->max_mhz, 3900);
    cr_assert_eq(topology.n_cores_allowed, 24);
    cr_assert_eq(topology.n_hardware_threads_allowed, 32);
    cpu_topology_close(&topology);
}

Test(cpu_topology, few_threads_get_the_fastest_cores)
{
    struct cpu_topology topology = read_allowed(hybrid_machine(), NULL);
    for (uint32_t threads = 1; threads <= 8; threads++) {
        cr_assert(cpu_topology_place(places, &topology, threads));
        expect_fair(&topology, threads);
        for (uint32_t t = 0; t < threads; t++)
            cr_assert_eq(topology.cores[core_of_place(&topology, &places[t])].kind, 0);
        expect_place(0, "32-33");
    }
    cr_assert(cpu_topology_place(places, &topology, 9));
    expect_place(8, "0");
    cpu_topology_close(&topology);
}

Test(cpu_topology, siblings_are_used_only_when_all_cores_of_all_kinds_are_taken)
{
    struct cpu_topology topology = read_allowed(hybrid_machine(), NULL);
    cr_assert(cpu_topology_place(places, &topology, 24));
    expect_fair(&topology, 24);
    expect_place(0, "32-33");
    expect_place(23, "30");
    cr_assert(cpu_topology_place(places, &topology, 25));
    expect_fair(&topology, 25);
    expect_place(0, "32");
    expect_place(24, "33");
    expect_place(1, "34-35");
    cr_assert(cpu_topology_place(places, &topology, 32));
    expect_fair(&topology, 32);
    expect_place(31, "47");
    cr_assert_not(cpu_topology_place(places, &topology, 33));
    cpu_topology_close(&topology);
}

Test(cpu_topology, kinds_that_nobody_can_rank_keep_the_order_of_the_system)
{
    hwloc_topology_t unranked = machine("core:4 pu:1");
    register_kind(unranked, "0-1", -1, NULL, NULL);
    register_kind(unranked, "2-3", -1, NULL, NULL);
    struct cpu_topology topology = read_allowed(unranked, NULL);
    cr_assert(cpu_topology_place(places, &topology, 4));
    for (uint32_t t = 0; t < 4; t++)
        cr_assert(CPU_ISSET(t, &places[t]), "thread %u", t);
    cpu_topology_close(&topology);
}

Test(cpu_topology, more_kinds_than_there_is_room_for_lose_no_core)
{
    hwloc_topology_t motley = machine("core:12 pu:1");
    for (int kind = 0; kind < 12; kind++) {
        char cpus[8];
        snprintf(cpus, sizeof cpus, "%d", kind);
        register_kind(motley, cpus, kind, NULL, NULL);
    }
    struct cpu_topology topology = read_allowed(motley, NULL);
    cr_assert_eq(topology.n_kinds, CPU_TOPOLOGY_KINDS);
    uint32_t n_cores = 0;
    for (uint32_t k = 0; k < topology.n_kinds; k++)
        n_cores += topology.kinds[k].n_cores;
    cr_assert_eq(n_cores, 12);
    cr_assert_eq(topology.kinds[0].n_cores, 1);
    cr_assert_eq(topology.kinds[CPU_TOPOLOGY_KINDS - 1].n_cores, 5);
    cr_assert(cpu_topology_place(places, &topology, 12));
    expect_fair(&topology, 12);
    expect_place(0, "11");
    expect_place(6, "5");
    cpu_topology_close(&topology);
}

// ---- sockets and nodes
// ---------------------------------------------------------------------------------------

Test(cpu_topology, two_sockets_share_the_threads)
{
    struct cpu_topology topology = read_machine("package:2 numa:1 core:16 pu:2", NULL);
    cr_assert_eq(topology.n_nodes, 2);
    cr_assert_eq(topology.nodes[1].n_cores, 16);
    for (uint32_t threads = 1; threads <= 64; threads++) {
        cr_assert(cpu_topology_place(places, &topology, threads));
        expect_fair(&topology, threads);
        cr_assert_eq(threads_in_node(&topology, threads, 0), (threads + 1) / 2);
    }
    cr_assert(cpu_topology_place(places, &topology, 32));
    expect_place(0, "0-1");
    expect_place(1, "32-33");
    expect_place(2, "2-3");
    cr_assert_not(cpu_topology_place(places, &topology, 65));
    cpu_topology_close(&topology);
}

Test(cpu_topology, four_nodes_share_the_threads_and_their_memory)
{
    struct cpu_topology topology = read_machine("numa:4 core:8 pu:1", NULL);
    cr_assert(cpu_topology_place(places, &topology, 6));
    const uint32_t expected[] = {2, 2, 1, 1};
    for (uint32_t node = 0; node < 4; node++)
        cr_assert_eq(threads_in_node(&topology, 6, node), expected[node]);
    struct cpu_memory_nodes nodes;
    for (uint32_t threads = 1; threads <= 40; threads++) {
        cpu_topology_nodes(&nodes, &topology, threads);
        cr_assert_eq(nodes.count, threads < 4 ? threads : 4);
        cr_assert_eq(nodes.mask[0], threads < 4 ? (1ul << threads) - 1 : 0xf);
    }
    cpu_topology_close(&topology);
}

Test(cpu_topology, nodes_are_named_as_the_system_names_them)
{
    struct cpu_topology topology = read_machine("numa:2(indexes=5,70) core:2 pu:1", NULL);
    struct cpu_memory_nodes nodes;
    cpu_topology_nodes(&nodes, &topology, 4);
    cr_assert_eq(nodes.count, 2);
    cr_assert_eq(nodes.mask[0], 1ul << 5);
    cr_assert_eq(nodes.mask[1], 1ul << 6);
    cpu_topology_close(&topology);
}

// ---- masks
// ---------------------------------------------------------------------------------------------------

Test(cpu_topology, only_what_is_allowed_is_used)
{
    // Node 0 keeps one core and a sibling, node 1 six whole cores.
    struct cpu_topology topology = read_machine("numa:2 core:8 pu:2", "2-3,5,16-27");
    cr_assert_eq(topology.n_cores, 16);
    cr_assert_eq(topology.n_cores_allowed, 8);
    cr_assert_eq(topology.n_hardware_threads_allowed, 15);
    cr_assert(cpu_topology_place(places, &topology, 8));
    expect_fair(&topology, 8);
    expect_place(0, "2-3");
    expect_place(1, "16-17");
    expect_place(2, "5");
    cr_assert_eq(threads_in_node(&topology, 8, 0), 2);
    cr_assert(cpu_topology_place(places, &topology, 15));
    expect_fair(&topology, 15);
    cr_assert_not(cpu_topology_place(places, &topology, 16));
    cpu_topology_close(&topology);
}

Test(cpu_topology, a_mask_may_leave_only_slow_cores)
{
    struct cpu_topology topology = read_allowed(hybrid_machine(), "0,2,4");
    cr_assert_eq(topology.n_cores_allowed, 3);
    cr_assert_eq(topology.kinds[0].n_cores, 8, "what the machine has is told all the same");
    cr_assert(cpu_topology_place(places, &topology, 3));
    expect_place(0, "0");
    expect_place(2, "4");
    cpu_topology_close(&topology);
}

Test(cpu_topology, a_mask_may_leave_nothing)
{
    struct cpu_topology topology = read_machine("core:4 pu:1", "100");
    cr_assert_eq(topology.n_cores_allowed, 0);
    cr_assert_not(cpu_topology_place(places, &topology, 1));
    struct cpu_memory_nodes nodes;
    cpu_topology_nodes(&nodes, &topology, 4);
    cr_assert_eq(nodes.count, 0);
    cpu_topology_close(&topology);
}

Test(cpu_topology, one_core_takes_as_many_threads_as_it_has)
{
    struct cpu_topology topology = read_machine("core:1 pu:1", NULL);
    cr_assert(cpu_topology_place(places, &topology, 1));
    expect_place(0, "0");
    cr_assert_not(cpu_topology_place(places, &topology, 2));
    cpu_topology_close(&topology);

    topology = read_machine("core:1 pu:4", NULL);
    cr_assert(cpu_topology_place(places, &topology, 2));
    expect_place(0, "0,2");
    expect_place(1, "1,3");
    cr_assert(cpu_topology_place(places, &topology, 3));
    expect_place(0, "0,3");
    expect_place(2, "2");
    cpu_topology_close(&topology);
}

Test(cpu_topology, processors_that_a_mask_cannot_name_are_left_alone)
{
    struct cpu_topology topology = read_machine("core:600 pu:2", NULL);
    cr_assert_eq(topology.n_hardware_threads, 1200);
    cr_assert_eq(topology.n_hardware_threads_allowed, CPU_SETSIZE);
    cr_assert_eq(topology.n_cores_allowed, CPU_SETSIZE / 2);
    cr_assert(cpu_topology_place(places, &topology, CPU_SETSIZE));
    expect_fair(&topology, CPU_SETSIZE);
    cr_assert_not(cpu_topology_place(places, &topology, CPU_SETSIZE + 1));
    cpu_topology_close(&topology);
}

Test(cpu_topology, is_fair_on_any_machine_and_mask)
{
    srand(1);
    for (int round = 0; round < 60; round++) {
        char description[64];
        const int n_nodes = 1 + rand() % 4, n_cores = 1 + rand() % 6, n_siblings = 1 + rand() % 4;
        snprintf(description, sizeof description, "numa:%d core:%d pu:%d", n_nodes, n_cores, n_siblings);
        char allowed[1024] = "";
        size_t used = 0;
        const int n = n_nodes * n_cores * n_siblings;
        for (int cpu = 0; cpu < n; cpu++)
            if (rand() % 3)
                used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%d", used ? "," : "", cpu);
        hwloc_topology_t made = machine(description);
        if (n >= 4) {
            char half[16];
            snprintf(half, sizeof half, "%d-%d", n / 2, n - 1);
            register_kind(made, half, 1, NULL, NULL);
            snprintf(half, sizeof half, "0-%d", n / 2 - 1);
            register_kind(made, half, 0, NULL, NULL);
        }
        struct cpu_topology topology = read_allowed(made, used ? allowed : "0");
        const uint32_t most = topology.n_hardware_threads_allowed;
        for (uint32_t threads = 1; threads <= most; threads++) {
            cr_assert(cpu_topology_place(places, &topology, threads), "%s", description);
            expect_fair(&topology, threads);
        }
        cr_assert_not(cpu_topology_place(places, &topology, most + 1));
        cpu_topology_close(&topology);
    }
}

// ---- what else is told
// ---------------------------------------------------------------------------------------

Test(cpu_topology, caches_are_counted_by_size_and_by_the_cores_that_share_them)
{
    struct cpu_topology topology = read_machine(
        "numa:1(memory=8589934592) l3:2(size=33554432) l2:4(size=2097152) l1:2(size=49152) core:1 pu:2",
        NULL);
    cr_assert_eq(topology.n_cores, 16);
    cr_assert_eq(topology.n_caches, 3);
    const struct cpu_cache expected[] = {{1, 48 << 10, 1, 16}, {2, 2 << 20, 2, 8}, {3, 32 << 20, 8, 2}};
    for (uint32_t i = 0; i < 3; i++) {
        const struct cpu_cache *cache = &topology.caches[i];
        cr_assert_eq(cache->level, expected[i].level);
        cr_assert_eq(cache->n_cores, expected[i].n_cores, "level %u", cache->level);
        cr_assert_eq(cache->count, expected[i].count, "level %u", cache->level);
        cr_assert_eq(cache->bytes, expected[i].bytes, "level %u: %lu", cache->level,
                     (unsigned long)cache->bytes);
    }
    cr_assert_eq(topology.nodes[0].memory_bytes, (uint64_t)8 << 30);
    cpu_topology_close(&topology);
}

Test(cpu_topology, a_hardware_thread_stands_for_a_core_where_cores_are_not_told)
{
    struct cpu_topology topology = read_machine("package:2 pu:4", "0-5");
    cr_assert_eq(topology.n_cores, 8);
    cr_assert_eq(topology.n_cores_allowed, 6);
    cr_assert_eq(topology.n_kinds, 1);
    cr_assert(cpu_topology_place(places, &topology, 6));
    expect_fair(&topology, 6);
    cpu_topology_close(&topology);
}

Test(cpu_topology, a_mask_alone_is_enough)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(3, &mask);
    CPU_SET(5, &mask);
    struct cpu_topology topology;
    cr_assert_eq(cpu_topology_flat(&topology, &mask, NULL), LODE_OK);
    cr_assert_eq(topology.n_cores_allowed, 2);
    cr_assert_eq(topology.n_nodes, 1);
    cr_assert(cpu_topology_place(places, &topology, 2));
    expect_place(0, "3");
    expect_place(1, "5");
    cpu_topology_close(&topology);
}

Test(cpu_topology, a_mask_is_written_as_ranges_and_cut_where_there_is_no_room)
{
    cpu_set_t mask;
    char text[16];
    CPU_ZERO(&mask);
    cpu_topology_mask_text(text, sizeof text, &mask);
    cr_assert_str_eq(text, "");
    for (int cpu = 0; cpu < 4; cpu++)
        CPU_SET(cpu, &mask);
    CPU_SET(8, &mask);
    cpu_topology_mask_text(text, sizeof text, &mask);
    cr_assert_str_eq(text, "0-3,8");
    CPU_SET(CPU_SETSIZE - 1, &mask);
    cpu_topology_mask_text(text, sizeof text, &mask);
    cr_assert_str_eq(text, "0-3,8,1023");
    for (int cpu = 10; cpu < 40; cpu += 2)
        CPU_SET(cpu, &mask);
    cpu_topology_mask_text(text, sizeof text, &mask);
    cr_assert_str_eq(text, "0-3,8,10,12...");
    char small[8];
    cpu_topology_mask_text(small, sizeof small, &mask);
    cr_assert_str_eq(small, "0-3...");
}

// ---- this machine
// --------------------------------------------------------------------------------------------

static void expect_this_machine(struct cpu_topology *topology)
{
    cpu_set_t mask, all;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    CPU_ZERO(&all);
    for (uint32_t c = 0; c < topology->n_cores; c++)
        CPU_OR(&all, &all, &topology->cores[c].allowed);
    cr_assert(CPU_EQUAL(&all, &mask));
    cr_assert_eq(topology->n_hardware_threads_allowed, (uint32_t)CPU_COUNT(&mask));
    cr_assert_geq(topology->n_cores_allowed, 1);
}

Test(cpu_topology, this_machine_allows_what_the_mask_allows)
{
    struct cpu_topology topology;
    cr_assert_eq(cpu_topology_open(&topology, NULL), LODE_OK);
    expect_this_machine(&topology);
    const uint32_t n_hardware_threads = topology.n_hardware_threads;
    cpu_topology_close(&topology);

    cpu_set_t mask, one;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &mask))
            CPU_SET(cpu, &one);
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    cr_assert_eq(cpu_topology_open(&topology, NULL), LODE_OK);
    expect_this_machine(&topology);
    cr_assert_eq(topology.n_hardware_threads, n_hardware_threads);
    cpu_topology_close(&topology);
    cr_assert(cpu_topology_places(places, 1));
    cr_assert(CPU_EQUAL(&places[0], &one));
    cr_assert_not(cpu_topology_places(places, 2));
}

Test(cpu_topology, this_machine_may_tell_nothing_of_itself)
{
    setenv("HWLOC_COMPONENTS", "stop", 1); // hwloc looks at nothing
    struct cpu_topology topology;
    cr_assert_eq(cpu_topology_open(&topology, NULL), LODE_OK);
    expect_this_machine(&topology);
    cr_assert_str_eq(topology.model, "");
    cpu_topology_close(&topology);
}

Test(cpu_topology, this_machine_may_tell_only_what_its_processors_say)
{
#if !defined(__x86_64__)
    cr_skip_test("these processors are not asked");
#endif
    setenv("HWLOC_FSROOT", "/proc/self/task", 1); // a place without /sys
    setenv("HWLOC_THISSYSTEM", "1", 1);
    setenv("HWLOC_HIDE_ERRORS", "2", 1);
    struct cpu_topology topology;
    cr_assert_eq(cpu_topology_open(&topology, NULL), LODE_OK);
    expect_this_machine(&topology);
    cr_assert_neq(topology.model[0], 0);
    cpu_topology_close(&topology);
}

Test(cpu_topology, this_machine_may_tell_of_other_processors_than_it_allows)
{
    setenv("HWLOC_SYNTHETIC", "core:4 pu:1(indexes=1000,1001,1002,1003)", 1);
    setenv("HWLOC_THISSYSTEM", "1", 1); // so that the mask is the real one
    struct cpu_topology topology;
    cr_assert_eq(cpu_topology_open(&topology, NULL), LODE_OK);
    expect_this_machine(&topology);
    cr_assert_eq(topology.n_cores, topology.n_cores_allowed);
    cpu_topology_close(&topology);
}
