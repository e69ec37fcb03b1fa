// Gathers for people what the CPU backend knows of the processor, from the same tables by which an engine
// chooses its kernels and threads.
#include "core/lode.h"

#include "backends/cpu/cgroup_quota.h"
#include "backends/cpu/cpu_topology.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/isa_features.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/threads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

_Static_assert(LODE_CPU_THREADS == CPU_MAX_THREADS, "a place for every thread");
_Static_assert((int)LODE_CPU_FEATURES >= (int)ISA_FEATURE_OF_SYSTEM, "room for every feature");
_Static_assert((int)LODE_CPU_ISAS >= (int)CPU_ISA_END, "room for every instruction set");

// ---- the machine
// ------------------------------------------------------------------------------------------------

static void describe_kinds(struct lode_cpu *out, const struct cpu_topology *topology)
{
    for (uint32_t i = 0; i < topology->n_kinds && i < LODE_CPU_KINDS; i++) {
        const struct cpu_kind *kind = &topology->kinds[i];
        if (kind->n_cores == 0)
            continue;
        struct lode_cpu_kind *own = &out->kinds[out->n_kinds++];
        own->n_cores = kind->n_cores;
        own->n_hardware_threads = kind->n_hardware_threads;
        own->max_mhz = kind->max_mhz;
        snprintf(own->name, sizeof own->name, "%s", kind->name);
    }
}

static void describe_memory(struct lode_cpu *out, const struct cpu_topology *topology)
{
    out->n_caches = topology->n_caches;
    for (uint32_t i = 0; i < topology->n_caches && i < LODE_CPU_CACHES; i++) {
        const struct cpu_cache *cache = &topology->caches[i];
        out->caches[i] = (struct lode_cpu_cache){cache->level, cache->bytes, cache->n_cores, cache->count};
    }
    out->n_nodes = topology->n_nodes;
    for (uint32_t i = 0; i < topology->n_nodes && i < LODE_CPU_NODES; i++) {
        const struct cpu_node *node = &topology->nodes[i];
        out->nodes[i] = (struct lode_cpu_node){node->os_index, node->n_cores, node->memory_bytes};
    }
    cpu_memory_huge_pages(out->huge_pages, sizeof out->huge_pages,
                          "/sys/kernel/mm/transparent_hugepage/enabled");
}

static void describe_affinity(struct lode_cpu *out, const struct cpu_topology *topology)
{
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    for (uint32_t i = 0; i < topology->n_cores_allowed; i++)
        CPU_OR(&allowed, &allowed, &topology->cores[i].allowed);
    cpu_topology_mask_text(out->affinity, sizeof out->affinity, &allowed);
    out->n_cores_allowed = topology->n_cores_allowed;
    out->n_hardware_threads_allowed = topology->n_hardware_threads_allowed;
}

// ---- instructions
// ------------------------------------------------------------------------------------------------

static void describe_instructions(struct lode_cpu *out)
{
    const isa_features detected = isa_features_detect(0);
    for (unsigned feature = 0; feature < ISA_FEATURE_OF_SYSTEM; feature++)
        out->features[out->n_features++] =
            (struct lode_cpu_feature){isa_feature_words(feature), detected >> feature & 1};

    enum cpu_isa best = CPU_ISA_PORTABLE;
    cpu_isa_choose(&best, NULL, NULL);
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        struct lode_cpu_isa *own = &out->isas[out->n_isas++];
        own->name = cpu_isa_name(isa);
        own->summary = cpu_isa_summary(isa);
        own->available = cpu_isa_available(isa);
        own->chosen = isa == (int)best;
        cpu_isa_missing(isa, own->missing, sizeof own->missing);
    }
}

// ---- threads
// ------------------------------------------------------------------------------------------------

static int describe_threads(struct lode_cpu *out, const struct cpu_topology *topology, uint32_t threads,
                            struct lode_error *error)
{
    const struct cpu_allowance allowance = {
        .cores = topology->n_cores_allowed,
        .hardware_threads = topology->n_hardware_threads_allowed,
        .quota_processors = cgroup_quota_processors("/proc/self/cgroup", "/sys/fs/cgroup"),
    };
    out->quota_processors = isinf(allowance.quota_processors) ? 0 : allowance.quota_processors;
    out->processors = cpu_allowance_processors(&allowance);
    out->n_threads = threads ? threads : cpu_allowance_threads(&allowance);

    cpu_set_t *places = calloc(out->n_threads, sizeof *places);
    if (!places)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the places of %u threads", out->n_threads);
    out->placed = cpu_topology_place(places, topology, out->n_threads);
    for (uint32_t i = 0; out->placed && i < out->n_threads; i++)
        cpu_topology_mask_text(out->places[i], sizeof out->places[i], &places[i]);
    free(places);
    return LODE_OK;
}

int lode_cpu_describe(struct lode_cpu *out, uint32_t threads, struct lode_error *error)
{
    *out = (struct lode_cpu){0};
    uint32_t checked;
    int rc = threads ? cpu_threads_choose(&checked, threads, error) : LODE_OK;
    struct cpu_topology topology;
    if (!rc)
        rc = cpu_topology_open(&topology, error);
    if (rc)
        return rc;
    snprintf(out->model, sizeof out->model, "%s", topology.model);
    out->n_cores = topology.n_cores;
    out->n_hardware_threads = topology.n_hardware_threads;
    describe_kinds(out, &topology);
    describe_memory(out, &topology);
    describe_affinity(out, &topology);
    describe_instructions(out);
    rc = describe_threads(out, &topology, threads, error);
    cpu_topology_close(&topology);
    return rc;
}
