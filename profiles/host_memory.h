// How much memory this process may use: that of the machine, within the limits of its control groups.
#ifndef LODE_HOST_MEMORY_H
#define LODE_HOST_MEMORY_H

#include "base/lode_error.h"

#include <stdint.h>

#define HOST_MEMORY_NO_LIMIT UINT64_MAX

struct host_memory {
    uint64_t total_bytes;     // of the machine
    uint64_t available_bytes; // without swapping, within all limits; cached files count as available
    uint64_t limit_bytes;     // the tightest of the control groups (v1 and v2); HOST_MEMORY_NO_LIMIT if none
};

// `root` is the directory under which proc and the control groups are found: "/", or a captured tree. Fails
// when proc/meminfo is missing or broken, or when a limit is there but cannot be understood.
int host_memory_read(struct host_memory *out, const char *root, struct lode_error *error);

// The resident size of this process, and the largest that it has had; 0 where the system does not tell.
uint64_t host_rss_bytes(void);
uint64_t host_peak_rss_bytes(void);

#endif
