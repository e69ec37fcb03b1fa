// The processor as threads see it: physical cores of one or several kinds, their caches and NUMA nodes; and
// which thread belongs on which core.
//
// Everything is plain data drawn from an hwloc topology and a mask, so that machines that are not there can
// be tested.
#ifndef LODE_CPU_TOPOLOGY_H
#define LODE_CPU_TOPOLOGY_H

#include "base/lode_error.h"

#include <hwloc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define CPU_TOPOLOGY_KINDS 8
#define CPU_TOPOLOGY_CACHES 16

struct cpu_memory_nodes;

// Cores of one kind: the performance or the efficiency cores of a hybrid processor.
struct cpu_kind {
    char name[16];  // "P" or "E" where the processor says so, else empty
    uint32_t speed; // the larger the faster; 0 for all kinds where the system cannot rank them
    uint32_t n_cores, n_hardware_threads, max_mhz; // max_mhz 0: not known
};

struct cpu_core {
    cpu_set_t allowed; // those of its hardware threads that may be used
    uint32_t n_allowed, n_hardware_threads;
    uint32_t kind, node; // indices
    uint32_t rank;       // among the allowed cores of its speed in its node
};

struct cpu_cache {
    uint32_t level; // of data
    uint64_t bytes;
    uint32_t n_cores; // that share it
    uint32_t count;   // of such caches in the machine
};

struct cpu_node {
    uint32_t os_index, n_cores;
    uint64_t memory_bytes;
};

struct cpu_topology {
    char model[96]; // empty where the system does not tell
    uint32_t n_hardware_threads;
    // In the order in which threads are put on them: the fastest first, the nodes in turn, at the end those
    // that may not be used.
    struct cpu_core *cores;
    uint32_t n_cores, n_cores_allowed, n_hardware_threads_allowed;
    struct cpu_kind kinds[CPU_TOPOLOGY_KINDS]; // the fastest first
    uint32_t n_kinds;
    struct cpu_cache caches[CPU_TOPOLOGY_CACHES]; // small before large
    uint32_t n_caches;
    struct cpu_node *nodes;
    uint32_t n_nodes; // at least 1
};

// This machine, and of it what the calling thread may use. A system that tells little of itself counts as one
// in which every processor is a core of its own; only memory can be lacking.
int cpu_topology_open(struct cpu_topology *out, struct lode_error *error);

// The same of any topology, as if `allowed` were what may be used.
int cpu_topology_read(struct cpu_topology *out, hwloc_topology_t topology, hwloc_const_bitmap_t allowed,
                      struct lode_error *error);

// The same where nothing is known but which processors may be used.
int cpu_topology_flat(struct cpu_topology *out, const cpu_set_t *allowed, struct lode_error *error);

void cpu_topology_close(struct cpu_topology *topology);

// The processors of each of `threads` threads; thread 0 is the caller, and one of the fastest cores is its
// own. The one rule: threads are dealt to the cores in their order, round after round, a core whose hardware
// threads are all taken being passed over; and a core's hardware threads are divided among its threads. So no
// thread shares a core while another is free. False, and nothing is written, when there are fewer hardware
// threads than threads.
bool cpu_topology_place(cpu_set_t *out, const struct cpu_topology *topology, uint32_t threads);

// The same on this machine, for the calling thread's mask. False as well where the machine cannot be read.
bool cpu_topology_places(cpu_set_t *out, uint32_t threads);

// The NUMA nodes of the cores that `threads` threads have.
void cpu_topology_nodes(struct cpu_memory_nodes *out, const struct cpu_topology *topology, uint32_t threads);

// A mask in the kernel's way, "0-3,8"; ends in "..." when it is longer than `capacity`, which is 8 at least.
void cpu_topology_mask_text(char *out, size_t capacity, const cpu_set_t *mask);

#endif
