// Blocks of address space; see sim_memory.h.
#include "backends/sim/sim_memory.h"

#include "backends/backend.h"
#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096

// How many blocks begin at or before an address.
static uint32_t count_up_to(const struct sim_memory *memory, const void *address)
{
    uint32_t begin = 0, end = memory->n_blocks;
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        if (memory->blocks[middle].memory <= (const char *)address)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

static struct sim_block *find(const struct sim_memory *memory, const void *address)
{
    const uint32_t n = count_up_to(memory, address);
    struct sim_block *block = n ? &memory->blocks[n - 1] : NULL;
    return block && (const char *)address < block->memory + block->bytes ? block : NULL;
}

static bool make_room(struct sim_memory *memory)
{
    if (memory->n_blocks < memory->capacity)
        return true;
    const uint32_t capacity = 2 * memory->capacity + 32;
    struct sim_block *blocks = realloc(memory->blocks, capacity * sizeof *blocks);
    if (!blocks)
        return false;
    memory->blocks = blocks;
    memory->capacity = capacity;
    return true;
}

// Without access the kernel counts it to nobody, whatever its rules for memory that is promised.
int sim_memory_alloc(struct sim_memory *memory, void **out, size_t bytes, struct lode_error *error)
{
    uint64_t total_bytes = 0;
    void *address = MAP_FAILED;
    *out = NULL;
    if (!make_room(memory))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list %u simulated blocks",
                         memory->n_blocks + 1);
    if (checked_add(&total_bytes, bytes, LODE_DEVICE_SLACK) &&
        checked_align(&total_bytes, total_bytes, PAGE_BYTES) && total_bytes <= PTRDIFF_MAX)
        address = mmap(NULL, total_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
        return lode_fail(error, LODE_ERR_MEMORY, "no address space for %zu bytes (%.1f GiB)", bytes,
                         (double)bytes / (double)(1 << 30));
    const uint32_t at = count_up_to(memory, address);
    memmove(&memory->blocks[at + 1], &memory->blocks[at], (memory->n_blocks - at) * sizeof *memory->blocks);
    memory->blocks[at] = (struct sim_block){.memory = address, .bytes = total_bytes};
    memory->n_blocks++;
    *out = address;
    return LODE_OK;
}

void sim_memory_free(struct sim_memory *memory, void *address)
{
    struct sim_block *block = address ? find(memory, address) : NULL;
    if (!block || block->memory != address)
        return;
    munmap(block->memory, block->bytes);
    const uint32_t at = (uint32_t)(block - memory->blocks);
    memory->n_blocks--;
    memmove(block, block + 1, (memory->n_blocks - at) * sizeof *block);
}

void sim_memory_close(struct sim_memory *memory)
{
    for (uint32_t i = 0; i < memory->n_blocks; i++)
        munmap(memory->blocks[i].memory, memory->blocks[i].bytes);
    free(memory->blocks);
    *memory = (struct sim_memory){0};
}

bool sim_memory_holds(const struct sim_memory *memory, const void *address)
{
    return find(memory, address) != NULL;
}

int sim_memory_touch(struct sim_memory *memory, void *address, struct lode_error *error)
{
    struct sim_block *block = find(memory, address);
    if (!block || block->written)
        return LODE_OK;
    if (mprotect(block->memory, block->bytes, PROT_READ | PROT_WRITE) != 0)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory behind %zu bytes of a simulated device: %s",
                         block->bytes, strerror(errno));
    block->written = true;
    return LODE_OK;
}

void sim_memory_read(const struct sim_memory *memory, void *out, const void *address, size_t bytes)
{
    const struct sim_block *block = find(memory, address);
    if (!block || block->written) {
        memcpy(out, address, bytes);
        return;
    }
    static const float one = 1.0f;
    memset(out, 0, bytes);
    for (size_t at = 0; at + sizeof one <= bytes; at += sizeof one)
        memcpy((char *)out + at, &one, sizeof one);
}
