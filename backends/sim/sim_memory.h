// Memory of the simulated device: address space that nothing has to stand behind.
//
// Weights, caches and activations have addresses and sizes, but no contents: nobody computes with them. Pages
// are given to a block only when something is written to it that will be read again, which a router's choices
// and small tables are.
#ifndef LODE_SIM_MEMORY_H
#define LODE_SIM_MEMORY_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_block {
    char *memory;
    size_t bytes; // whole pages
    bool written;
};

// All zero is empty.
struct sim_memory {
    struct sim_block *blocks; // by address
    uint32_t n_blocks, capacity;
};

int sim_memory_alloc(struct sim_memory *memory, void **out, size_t bytes, struct lode_error *error);
void sim_memory_free(struct sim_memory *memory, void *block); // NULL, or what is none of its blocks: nothing
void sim_memory_close(struct sim_memory *memory);             // all that is left

bool sim_memory_holds(const struct sim_memory *memory, const void *address);

// Before writing there: makes it real memory where it is the device's.
int sim_memory_touch(struct sim_memory *memory, void *address, struct lode_error *error);

// Copies what has been written there. What never was reads as ones (floats): scales and divisors that change
// nothing.
void sim_memory_read(const struct sim_memory *memory, void *out, const void *address, size_t bytes);

#endif
