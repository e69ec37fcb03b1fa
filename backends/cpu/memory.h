// Memory of the CPU device: zero-filled, LODE_DEVICE_ALIGN aligned, with LODE_DEVICE_SLACK bytes behind, in
// huge pages where it is large, and of no cost until it is touched.
#ifndef LODE_CPU_MEMORY_H
#define LODE_CPU_MEMORY_H

#include "base/lode_error.h"

#include <stddef.h>

int cpu_memory_alloc(void **out, size_t bytes, struct lode_error *error);
void cpu_memory_free(void *memory, size_t bytes); // bytes as they were asked for; NULL does nothing

#endif
