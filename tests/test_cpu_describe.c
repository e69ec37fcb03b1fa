// What is told of the processor, against what the kernel says of it; how many threads that makes; and memory
// on several nodes.
#include "backends/cpu/isa.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/threads.h"
#include "core/lode.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct lode_cpu cpu;

static void describe(uint32_t threads)
{
    struct lode_error error;
    cr_assert_eq(lode_cpu_describe(&cpu, threads, &error), LODE_OK, "%s", error.text);
}

// ---- the description
// -----------------------------------------------------------------------------------------

Test(cpu_describe, counts_what_the_process_may_use)
{
    cpu_set_t mask;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    describe(0);
    cr_assert_eq(cpu.n_hardware_threads_allowed, (uint32_t)CPU_COUNT(&mask));
    cr_assert_leq(cpu.n_cores_allowed, cpu.n_hardware_threads_allowed);
    cr_assert_leq(cpu.n_cores_allowed, cpu.n_cores);
    uint32_t of_kinds = 0, of_nodes = 0;
    for (uint32_t i = 0; i < cpu.n_kinds; i++)
        of_kinds += cpu.kinds[i].n_cores;
    for (uint32_t i = 0; i < cpu.n_nodes && i < LODE_CPU_NODES; i++)
        of_nodes += cpu.nodes[i].n_cores;
    cr_assert_eq(of_kinds, cpu.n_cores);
    if (cpu.n_nodes <= LODE_CPU_NODES)
        cr_assert_eq(of_nodes, cpu.n_cores);
}

Test(cpu_describe, takes_the_threads_that_an_engine_would_take)
{
    uint32_t threads;
    cr_assert_eq(cpu_threads_choose(&threads, 0, NULL), LODE_OK);
    describe(0);
    cr_assert_eq(cpu.n_threads, threads);
    cr_assert(cpu.placed);
    for (uint32_t i = 0; i < threads; i++)
        cr_assert_neq(cpu.places[i][0], 0);
    cr_assert_geq(cpu.processors, threads);
}

Test(cpu_describe, tells_that_more_threads_than_processors_have_no_places)
{
    cpu_set_t mask;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    const uint32_t too_many = (uint32_t)CPU_COUNT(&mask) + 1;
    if (too_many > LODE_CPU_THREADS)
        cr_skip_test("this machine has a processor for every thread");
    describe(too_many);
    cr_assert_eq(cpu.n_threads, too_many);
    cr_assert_not(cpu.placed);
    cr_assert_lt(cpu.processors, too_many);
}

Test(cpu_describe, rejects_more_threads_than_any_machine_has)
{
    struct lode_error error;
    cr_assert_eq(lode_cpu_describe(&cpu, LODE_CPU_THREADS + 1, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "1025"), "%s", error.text);
}

Test(cpu_describe, marks_the_instruction_set_that_an_engine_would_take)
{
    enum cpu_isa best;
    cr_assert_eq(cpu_isa_choose(&best, NULL, NULL), LODE_OK);
    describe(0);
    cr_assert_eq(cpu.n_isas, (uint32_t)CPU_ISA_END);
    for (uint32_t i = 0; i < cpu.n_isas; i++) {
        const struct lode_cpu_isa *isa = &cpu.isas[i];
        cr_assert_eq(isa->chosen, i == (uint32_t)best, "%s", isa->name);
        cr_assert_eq(isa->available, cpu_isa_available(i), "%s", isa->name);
        cr_assert_eq(isa->available, isa->missing[0] == 0, "%s: '%s'", isa->name, isa->missing);
        cr_assert_neq(isa->summary[0], 0);
    }
}

// ---- features
// ------------------------------------------------------------------------------------------------

// The kernel's word in /proc/cpuinfo.
static const char *kernel_name(const char *feature)
{
    static const char *const names[][2] = {
        {"AVX2", "avx2"},          {"FMA", "fma"},
        {"F16C", "f16c"},          {"AVX-VNNI", "avx_vnni"},
        {"AVX-512F", "avx512f"},   {"AVX-512BW", "avx512bw"},
        {"AVX-512VL", "avx512vl"}, {"AVX-512DQ", "avx512dq"},
        {"AMX-TILE", "amx_tile"},  {"AVX-512-VNNI", "avx512_vnni"},
        {"AMX-INT8", "amx_int8"},  {"AVX-512-BF16", "avx512_bf16"},
        {"AMX-BF16", "amx_bf16"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(feature, names[i][0]) == 0)
            return names[i][1];
    cr_assert_fail("a feature that this test does not know: %s", feature);
    return NULL;
}

// " fpu vme … " of the first processor; empty where the kernel does not tell.
static void read_flags(char *out, size_t capacity)
{
    static char line[16384];
    out[0] = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && !out[0] && fgets(line, sizeof line, file))
        if (strncmp(line, "flags", 5) == 0 && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            snprintf(out, capacity, "%s ", strchr(line, ':') + 1);
        }
    if (file)
        fclose(file);
}

Test(cpu_describe, features_are_those_that_the_kernel_sees)
{
    static char flags[16384];
    read_flags(flags, sizeof flags);
    if (!flags[0])
        cr_skip_test("this system does not list the flags of its processors");
    describe(0);
    for (uint32_t i = 0; i < cpu.n_features; i++) {
        char word[64];
        snprintf(word, sizeof word, " %s ", kernel_name(cpu.features[i].name));
        cr_assert_eq(cpu.features[i].present, strstr(flags, word) != NULL, "%s", cpu.features[i].name);
    }
}

// ---- how many threads
// ----------------------------------------------------------------------------------------

Test(cpu_describe, threads_are_one_a_core_within_the_quota)
{
    const struct {
        uint32_t cores, hardware_threads;
        double quota;
        uint32_t threads, processors;
    } cases[] = {
        {8, 16, INFINITY, 8, 16},
        {8, 16, 8, 8, 8},
        {8, 16, 12.5, 8, 13},
        {8, 16, 2.5, 3, 3},
        {8, 16, 2, 2, 2},
        {8, 16, 0.01, 1, 1},
        {1, 1, INFINITY, 1, 1},
        {0, 0, INFINITY, 1, 1},
        {1, 2, INFINITY, 1, 2},
        {8, 16, 1e300, 8, 16},
        {2000, 4000, 1e9, 1024, 4000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct cpu_allowance allowance = {cases[i].cores, cases[i].hardware_threads, cases[i].quota};
        cr_assert_eq(cpu_allowance_threads(&allowance), cases[i].threads, "case %zu", i);
        cr_assert_eq(cpu_allowance_processors(&allowance), cases[i].processors, "case %zu", i);
    }
}

// ---- memory on nodes
// -----------------------------------------------------------------------------------------

#define BLOCK_BYTES ((size_t)8 << 20)

static int policy_of(void *memory, unsigned long *mask)
{
    int policy = -1;
    if (syscall(SYS_get_mempolicy, &policy, mask, (unsigned long)CPU_MEMORY_NODES + 1, memory,
                (unsigned long)MPOL_F_ADDR) != 0)
        cr_skip_test("this system does not tell where memory lies: %s", strerror(errno));
    return policy;
}

// Nodes that are not there are ignored by the kernel as long as one of them is.
static struct cpu_memory_nodes two_nodes(void)
{
    struct cpu_memory_nodes nodes = {0};
    cpu_memory_add_node(&nodes, 0);
    cpu_memory_add_node(&nodes, 1);
    cpu_memory_add_node(&nodes, 1);
    cr_assert_eq(nodes.count, 2);
    return nodes;
}

Test(cpu_memory, of_several_nodes_is_spread_over_them)
{
    const struct cpu_memory_nodes nodes = two_nodes();
    unsigned char *memory;
    unsigned long mask[CPU_MEMORY_NODES / CPU_MEMORY_NODE_BITS] = {0};
    cr_assert_eq(cpu_memory_alloc_on((void **)&memory, BLOCK_BYTES, &nodes, NULL), LODE_OK);
    const int policy = policy_of(memory, mask);
    if (policy == MPOL_DEFAULT && access("/sys/devices/system/node/node0", F_OK) != 0)
        cr_skip_test("this kernel knows no nodes");
    cr_assert_eq(policy, MPOL_INTERLEAVE);
    cr_assert(mask[0] & 1);
    for (size_t i = 0; i < BLOCK_BYTES; i += 4096)
        cr_assert_eq(memory[i], 0);
    cpu_memory_free(memory, BLOCK_BYTES);
}

Test(cpu_memory, of_one_node_and_of_none_is_left_to_the_system)
{
    struct cpu_memory_nodes one = {0};
    cpu_memory_add_node(&one, 0);
    const struct cpu_memory_nodes none = {0}, *cases[] = {&one, &none};
    for (size_t i = 0; i < 2; i++) {
        void *memory;
        unsigned long mask[CPU_MEMORY_NODES / CPU_MEMORY_NODE_BITS] = {0};
        cr_assert_eq(cpu_memory_alloc_on(&memory, BLOCK_BYTES, cases[i], NULL), LODE_OK);
        cr_assert_eq(policy_of(memory, mask), MPOL_DEFAULT);
        cpu_memory_free(memory, BLOCK_BYTES);
    }
}

Test(cpu_memory, is_there_when_the_system_refuses_to_spread_it)
{
    struct cpu_memory_nodes absent = {0};
    cpu_memory_add_node(&absent, CPU_MEMORY_NODES - 1);
    cpu_memory_add_node(&absent, CPU_MEMORY_NODES - 2);
    cr_assert_eq(absent.count, 2);
    unsigned char *memory;
    cr_assert_eq(cpu_memory_alloc_on((void **)&memory, BLOCK_BYTES, &absent, NULL), LODE_OK);
    memory[BLOCK_BYTES - 1] = 1;
    cpu_memory_free(memory, BLOCK_BYTES);
}

Test(cpu_memory, nodes_that_no_kernel_has_are_left_out)
{
    struct cpu_memory_nodes nodes = {0};
    cpu_memory_add_node(&nodes, CPU_MEMORY_NODES);
    cpu_memory_add_node(&nodes, UINT32_MAX); // hwloc's word for an unknown number
    cr_assert_eq(nodes.count, 0);
}

Test(cpu_memory, huge_pages_are_as_the_kernel_writes_them)
{
    const char *const cases[][2] = {{"always [madvise] never\n", "madvise"},
                                    {"[always] madvise never\n", "always"},
                                    {"always madvise [never]\n", "never"},
                                    {"always madvise never\n", ""},
                                    {"[always", ""},
                                    {"][", ""},
                                    {"[an_unknown_and_very_long_word]", "an_unknown_and_"},
                                    {"", ""}};
    char path[] = "/tmp/lode-huge-pages-XXXXXX", choice[16];
    int descriptor = mkstemp(path);
    cr_assert_geq(descriptor, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(ftruncate(descriptor, 0), 0);
        cr_assert_eq(pwrite(descriptor, cases[i][0], strlen(cases[i][0]), 0), (ssize_t)strlen(cases[i][0]));
        cpu_memory_huge_pages(choice, sizeof choice, path);
        cr_assert_str_eq(choice, cases[i][1]);
    }
    close(descriptor);
    unlink(path);
    cpu_memory_huge_pages(choice, sizeof choice, path);
    cr_assert_str_eq(choice, "");
}
