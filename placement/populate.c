// The thread that populates memory; see populate.h.
#include "placement/populate.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// Between two looks at whether to stop; a few milliseconds.
#define CHUNK_BYTES ((uint64_t)8 << 20)
#define PAGE_BYTES ((uint64_t)4096)

struct populate {
    pthread_t thread;
    atomic_bool stop;
    uint32_t n;
    struct populate_range ranges[];
};

#ifdef MADV_POPULATE_WRITE
// False when the kernel cannot, or has no memory left: what follows would not do better.
static bool populate_range(struct populate *populate, struct populate_range range)
{
    char *start = (char *)(((uintptr_t)range.memory + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    char *end = range.memory + range.bytes;
    while (start + PAGE_BYTES <= end) {
        const uint64_t left = (uint64_t)(end - start) & ~(PAGE_BYTES - 1);
        const uint64_t bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        if (atomic_load_explicit(&populate->stop, memory_order_relaxed))
            return false;
        if (madvise(start, bytes, MADV_POPULATE_WRITE) != 0 && errno != EINTR && errno != EAGAIN)
            return false;
        start += bytes;
    }
    return true;
}

static void *run(void *argument)
{
    struct populate *populate = argument;
    for (uint32_t i = 0; i < populate->n && populate_range(populate, populate->ranges[i]); i++)
        continue;
    return NULL;
}

struct populate *populate_start(const struct populate_range *ranges, uint32_t n)
{
    struct populate *populate = calloc(1, sizeof *populate + n * sizeof *ranges);
    if (!populate)
        return NULL;
    populate->n = n;
    memcpy(populate->ranges, ranges, n * sizeof *ranges);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failure = pthread_create(&populate->thread, NULL, run, populate);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) {
        free(populate);
        return NULL;
    }
    return populate;
}
#else
struct populate *populate_start(const struct populate_range *ranges, uint32_t n)
{
    (void)ranges, (void)n;
    return NULL;
}
#endif

void populate_stop(struct populate *populate)
{
    if (!populate)
        return;
    atomic_store_explicit(&populate->stop, true, memory_order_relaxed);
    pthread_join(populate->thread, NULL);
    free(populate);
}
