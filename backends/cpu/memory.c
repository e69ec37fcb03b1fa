// Memory of the CPU device. Large blocks come from the kernel directly, so that untouched pages stay unbacked
// and huge pages can be asked for (a decode step walks gigabytes of weights: with 4 KiB pages every one is a
// TLB miss).
#include "backends/cpu/memory.h"

#include "backends/backend.h"
#include "base/checked.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

int cpu_memory_alloc(void **out, size_t bytes, struct lode_error *error)
{
    *out = NULL;
    uint64_t padded = 0;
    if (padded_bytes(&padded, bytes)) {
        if (padded >= HUGE_PAGE_BYTES) {
            *out = map_pages(padded);
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
