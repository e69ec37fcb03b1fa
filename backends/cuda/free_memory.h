// How much memory of a GPU is free, before it is opened.
#ifndef LODE_CUDA_FREE_MEMORY_H
#define LODE_CUDA_FREE_MEMORY_H

#include <stdint.h>

// Bytes; 0: not known. pci: "0000:01:00.0".
uint64_t cuda_free_memory(uint32_t index, const char *pci);

#endif
