// Memory of the CPU device: zero-filled, LODE_DEVICE_ALIGN aligned, with LODE_DEVICE_SLACK bytes behind, in
// huge pages where it is large, and of no cost until it is touched.
#ifndef LODE_CPU_MEMORY_H
#define LODE_CPU_MEMORY_H

#include "base/lode_error.h"

#include <stddef.h>
#include <stdint.h>

#define CPU_MEMORY_NODES 1024 // the most that Linux knows
#define CPU_MEMORY_NODE_BITS (8 * sizeof(unsigned long))

// NUMA nodes, by the numbers of the operating system.
struct cpu_memory_nodes {
    uint32_t count;
    unsigned long mask[CPU_MEMORY_NODES / CPU_MEMORY_NODE_BITS];
};

int cpu_memory_alloc(void **out, size_t bytes, struct lode_error *error);

// The same, for memory that threads on all these nodes read: the pages of large blocks are spread over them
// in turn. A system that refuses leaves each page where it is touched first; that is slower, not wrong.
int cpu_memory_alloc_on(void **out, size_t bytes, const struct cpu_memory_nodes *nodes,
                        struct lode_error *error);

void cpu_memory_free(void *memory, size_t bytes); // bytes as they were asked for; NULL does nothing

void cpu_memory_add_node(struct cpu_memory_nodes *nodes, uint32_t os_index); // beyond the most: left out

// When the kernel gives huge pages: "always", "madvise" or "never"; empty where it does not tell. `path` is a
// file like /sys/kernel/mm/transparent_hugepage/enabled.
void cpu_memory_huge_pages(char *out, size_t capacity, const char *path);

#endif
