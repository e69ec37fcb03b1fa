// `lode info --cpu`: the processor, and what an engine would use of it.
#ifndef LODE_TOOLS_INFO_CPU_H
#define LODE_TOOLS_INFO_CPU_H

#include <stdbool.h>
#include <stdint.h>

// Prints to stdout, as text or as one JSON object; threads 0: those of the default. Returns the exit code.
int info_cpu(const char *command, uint32_t threads, bool json);

#endif
