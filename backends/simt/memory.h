// Memory of a simulated device: every allocation is a mapping of its own between pages that cannot be
// touched, and ends, rounded up to LODE_DEVICE_ALIGN, where the pages behind begin. It is full of 0xff, which
// are NaNs. What is written into the rounding shows when it is freed.
#ifndef LODE_SIMT_MEMORY_H
#define LODE_SIMT_MEMORY_H

#include "base/lode_error.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct simt_allocation {
    char *at;
    size_t bytes; // that were asked for
    char *map;
    size_t map_bytes;
    bool pinned; // memory of the host, that kernels may use
};

struct simt_memory {
    pthread_mutex_t lock;
    struct simt_allocation *allocations; // by address
    uint32_t n, capacity;
    uint64_t total_bytes, used_bytes;
    const char *name; // of the device
};

void simt_memory_open(struct simt_memory *memory, const char *name, uint64_t total_bytes);
// Frees what is left.
void simt_memory_close(struct simt_memory *memory);

int simt_memory_alloc(struct simt_memory *memory, void **out, size_t bytes, bool pinned,
                      struct lode_error *error);
// False: it was not allocated, or bytes beside it have been written; the text says so.
bool simt_memory_free(struct simt_memory *memory, void *at, char *text, size_t text_bytes);

// Whether all these bytes are of one allocation. device_only: pinned memory does not count.
bool simt_memory_has(struct simt_memory *memory, const void *at, size_t bytes, bool device_only);

// "128 bytes behind the 4096 bytes at 0x..."
void simt_memory_near(struct simt_memory *memory, uintptr_t address, char *out, size_t out_bytes);

#endif
