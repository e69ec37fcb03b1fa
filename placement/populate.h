// Gives memory its pages ahead of use, in a thread of its own.
//
// Pages come zeroed, at a few GB/s, and on a virtual machine the host may have to find them first, at less
// than one. Without this the thread that submits a read pays for it, with the whole layer waiting.
#ifndef LODE_POPULATE_H
#define LODE_POPULATE_H

#include <stdint.h>

struct populate;

struct populate_range {
    char *memory;
    uint64_t bytes;
};

// Goes through the ranges in their order. Contents do not change, so that the memory may be in use meanwhile.
// NULL where it cannot be done: pages then come with the first use. The memory must stay until the stop.
struct populate *populate_start(const struct populate_range *ranges, uint32_t n);
void populate_stop(struct populate *populate); // at once, complete or not; NULL does nothing

#endif
