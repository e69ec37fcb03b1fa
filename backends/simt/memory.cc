#include "backends/simt/memory.h"

#include "backends/backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILL 0xff
// Pages that cannot be touched, before and behind.
#define GUARD_BYTES (1024 * 1024)
// Device memory is handed out in such pieces, as far as its size is concerned.
#define GRANULE 256

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

void simt_memory_open(struct simt_memory *memory, const char *name, uint64_t total_bytes)
{
    memset(memory, 0, sizeof *memory);
    pthread_mutex_init(&memory->lock, NULL);
    memory->name = name;
    memory->total_bytes = total_bytes;
}

void simt_memory_close(struct simt_memory *memory)
{
    for (uint32_t i = 0; i < memory->n; i++)
        munmap(memory->allocations[i].map, memory->allocations[i].map_bytes);
    free(memory->allocations);
    pthread_mutex_destroy(&memory->lock);
}

// Allocations that begin at or below the address.
static uint32_t count_up_to(const struct simt_memory *memory, uintptr_t address)
{
    uint32_t low = 0, high = memory->n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (reinterpret_cast<uintptr_t>(memory->allocations[middle].at) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool grow(struct simt_memory *memory)
{
    if (memory->n < memory->capacity)
        return true;
    const uint32_t capacity = memory->capacity ? 2 * memory->capacity : 64;
    void *grown = realloc(memory->allocations, capacity * sizeof *memory->allocations);
    if (!grown)
        return false;
    memory->allocations = static_cast<struct simt_allocation *>(grown);
    memory->capacity = capacity;
    return true;
}

// Memory of the device ends where the guard begins, as far as its alignment lets it; pinned memory begins
// with a page, as direct reads of files want it.
static bool map_memory(struct simt_allocation *out, size_t bytes)
{
    const size_t used = round_up(bytes, LODE_DEVICE_ALIGN);
    const size_t inner = round_up(used, static_cast<size_t>(getpagesize()));
    out->bytes = bytes;
    out->map_bytes = inner + 2 * GUARD_BYTES;
    void *map = mmap(NULL, out->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return false;
    out->map = static_cast<char *>(map);
    if (inner && mprotect(out->map + GUARD_BYTES, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, out->map_bytes);
        return false;
    }
    out->at = out->map + GUARD_BYTES + (out->pinned ? 0 : inner - used);
    memset(out->map + GUARD_BYTES, FILL, inner);
    return true;
}

int simt_memory_alloc(struct simt_memory *memory, void **out, size_t bytes, bool pinned,
                      struct lode_error *error)
{
    *out = NULL;
    if (bytes > SIZE_MAX / 2)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for %zu bytes", memory->name, bytes);
    const uint64_t counted = pinned ? 0 : round_up(bytes, GRANULE);
    pthread_mutex_lock(&memory->lock);
    int result = 0;
    struct simt_allocation allocation = {};
    allocation.pinned = pinned;
    if (counted > memory->total_bytes - memory->used_bytes)
        result = lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for %zu bytes: %llu of %llu are free",
                           memory->name, bytes,
                           static_cast<unsigned long long>(memory->total_bytes - memory->used_bytes),
                           static_cast<unsigned long long>(memory->total_bytes));
    else if (!grow(memory) || !map_memory(&allocation, bytes))
        result = lode_fail(error, LODE_ERR_MEMORY, "%s: no memory of the host for %zu bytes: %s",
                           memory->name, bytes, strerror(errno));
    if (result == 0) {
        const uint32_t index = count_up_to(memory, reinterpret_cast<uintptr_t>(allocation.at));
        memmove(memory->allocations + index + 1, memory->allocations + index,
                (memory->n - index) * sizeof *memory->allocations);
        memory->allocations[index] = allocation;
        memory->n++;
        memory->used_bytes += counted;
        *out = allocation.at;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

bool simt_memory_free(struct simt_memory *memory, void *at, char *text, size_t text_bytes)
{
    if (!at)
        return true;
    pthread_mutex_lock(&memory->lock);
    const uint32_t index = count_up_to(memory, reinterpret_cast<uintptr_t>(at));
    if (!index || memory->allocations[index - 1].at != at) {
        pthread_mutex_unlock(&memory->lock);
        snprintf(text, text_bytes, "%s: freed %p, which is not allocated", memory->name, at);
        return false;
    }
    const struct simt_allocation allocation = memory->allocations[index - 1];
    memmove(memory->allocations + index - 1, memory->allocations + index,
            (memory->n - index) * sizeof *memory->allocations);
    memory->n--;
    if (!allocation.pinned)
        memory->used_bytes -= round_up(allocation.bytes, GRANULE);
    pthread_mutex_unlock(&memory->lock);

    const unsigned char *inner = reinterpret_cast<unsigned char *>(allocation.map) + GUARD_BYTES;
    const unsigned char *end = inner + allocation.map_bytes - 2 * GUARD_BYTES;
    const unsigned char *begin = static_cast<unsigned char *>(at);
    bool good = true;
    for (const unsigned char *byte = inner; good && byte < begin; byte++)
        good = *byte == FILL;
    if (!good)
        snprintf(text, text_bytes, "%s: memory before an allocation of %zu bytes was written", memory->name,
                 allocation.bytes);
    for (const unsigned char *byte = begin + allocation.bytes; good && byte < end; byte++) {
        good = *byte == FILL;
        if (!good)
            snprintf(text, text_bytes, "%s: byte %zu of an allocation of %zu bytes was written", memory->name,
                     static_cast<size_t>(byte - begin), allocation.bytes);
    }
    munmap(allocation.map, allocation.map_bytes);
    return good;
}

bool simt_memory_has(struct simt_memory *memory, const void *at, size_t bytes, bool device_only)
{
    pthread_mutex_lock(&memory->lock);
    const uint32_t index = count_up_to(memory, reinterpret_cast<uintptr_t>(at));
    bool has = false;
    if (index) {
        const struct simt_allocation *allocation = &memory->allocations[index - 1];
        const size_t offset = static_cast<size_t>(static_cast<const char *>(at) - allocation->at);
        has = offset <= allocation->bytes && bytes <= allocation->bytes - offset &&
              !(device_only && allocation->pinned);
    }
    pthread_mutex_unlock(&memory->lock);
    return has;
}

void simt_memory_near(struct simt_memory *memory, uintptr_t address, char *out, size_t out_bytes)
{
    pthread_mutex_lock(&memory->lock);
    const uint32_t index = count_up_to(memory, address);
    const struct simt_allocation *below = index ? &memory->allocations[index - 1] : NULL;
    const struct simt_allocation *above = index < memory->n ? &memory->allocations[index] : NULL;
    const uintptr_t behind =
        below ? address - (reinterpret_cast<uintptr_t>(below->at) + below->bytes) : UINTPTR_MAX;
    const uintptr_t before = above ? reinterpret_cast<uintptr_t>(above->at) - address : UINTPTR_MAX;
    if (below && address < reinterpret_cast<uintptr_t>(below->at) + below->bytes)
        snprintf(out, out_bytes, "at byte %zu of an allocation of %zu bytes",
                 static_cast<size_t>(address - reinterpret_cast<uintptr_t>(below->at)), below->bytes);
    else if (below && behind <= before)
        snprintf(out, out_bytes, "%zu bytes behind an allocation of %zu bytes", static_cast<size_t>(behind),
                 below->bytes);
    else if (above)
        snprintf(out, out_bytes, "%zu bytes before an allocation of %zu bytes", static_cast<size_t>(before),
                 above->bytes);
    else
        snprintf(out, out_bytes, "nothing is allocated");
    pthread_mutex_unlock(&memory->lock);
}
