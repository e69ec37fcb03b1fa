// Memory of the CPU device. Large blocks come from the kernel directly, so that untouched pages stay unbacked
// and huge pages can be asked for (a decode step walks gigabytes of weights: with 4 KiB pages every one is a
// TLB miss). Where threads run on several NUMA nodes, large blocks are spread over these: any thread may take
// any task, and the pages of one node would be read at that node's bandwidth by all of them.
#include "backends/cpu/memory.h"

#include "backends/backend.h"
#include "base/checked.h"

#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES ((uint64_t)2 << 20)

static bool padded_bytes(uint64_t *out, size_t bytes)
{
    return checked_add(out, bytes, LODE_DEVICE_SLACK) && checked_align(out, *out, LODE_DEVICE_ALIGN) &&
           *out <= PTRDIFF_MAX;
}

static void *map_pages(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes,
            MADV_HUGEPAGE); // a kernel without huge pages refuses: then it is slower, not wrong
#endif
    return memory;
}

// The kernel takes one bit less than it is told that there are.
static void interleave(void *memory, uint64_t bytes, const struct cpu_memory_nodes *nodes)
{
    syscall(SYS_mbind, memory, (unsigned long)bytes, MPOL_INTERLEAVE, nodes->mask,
            (unsigned long)CPU_MEMORY_NODES + 1, 0u);
}

void cpu_memory_add_node(struct cpu_memory_nodes *nodes, uint32_t os_index)
{
    if (os_index >= CPU_MEMORY_NODES)
        return;
    unsigned long *word = &nodes->mask[os_index / CPU_MEMORY_NODE_BITS];
    const unsigned long bit = 1ul << os_index % CPU_MEMORY_NODE_BITS;
    nodes->count += !(*word & bit);
    *word |= bit;
}

int cpu_memory_alloc_on(void **out, size_t bytes, const struct cpu_memory_nodes *nodes,
                        struct lode_error *error)
{
    *out = NULL;
    uint64_t padded = 0;
    if (padded_bytes(&padded, bytes)) {
        if (padded >= HUGE_PAGE_BYTES) {
            *out = map_pages(padded);
            if (*out && nodes->count > 1)
                interleave(*out, padded, nodes);
        } else {
            *out = aligned_alloc(LODE_DEVICE_ALIGN, padded);
            if (*out)
                memset(*out, 0, padded);
        }
    }
    if (!*out)
        return lode_fail(
            error, LODE_ERR_MEMORY,
            "cannot allocate %zu bytes (%.1f GiB) of memory: free some, lower the context, or raise the "
            "limits of the process",
            bytes, (double)bytes / (double)(1 << 30));
    return LODE_OK;
}

int cpu_memory_alloc(void **out, size_t bytes, struct lode_error *error)
{
    static const struct cpu_memory_nodes anywhere;
    return cpu_memory_alloc_on(out, bytes, &anywhere, error);
}

void cpu_memory_free(void *memory, size_t bytes)
{
    uint64_t padded;
    if (!memory || !padded_bytes(&padded, bytes))
        return;
    if (padded >= HUGE_PAGE_BYTES)
        munmap(memory, padded);
    else
        free(memory);
}

// All choices stand there, the one that is made in brackets.
void cpu_memory_huge_pages(char *out, size_t capacity, const char *path)
{
    char line[128] = "";
    FILE *file = fopen(path, "re");
    if (file) {
        if (!fgets(line, sizeof line, file))
            line[0] = 0;
        fclose(file);
    }
    const char *open = strchr(line, '[');
    const char *close = open ? strchr(open, ']') : NULL;
    snprintf(out, capacity, "%.*s", close ? (int)(close - open - 1) : 0, close ? open + 1 : "");
}
