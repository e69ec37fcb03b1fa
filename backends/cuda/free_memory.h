// How much memory of a GPU is free, before it is opened.
#ifndef LODE_CUDA_FREE_MEMORY_H
#define LODE_CUDA_FREE_MEMORY_H

#include <stdint.h>

// Bytes; 0: not known without asking the runtime. pci: "0000:01:00.0".
uint64_t cuda_free_memory(const char *pci);

#endif
