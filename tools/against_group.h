// A memory control group for one process and what it starts, version 1 or 2 of the kernel's interface: the
// only ceiling that binds pages of the page cache too.
#ifndef LODE_TOOLS_AGAINST_GROUP_H
#define LODE_TOOLS_AGAINST_GROUP_H

#include "core/lode.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct memory_group {
    int version;      // 1 or 2; 0: none is open
    char path[3200];  // its folder
    char procs[3328]; // where a process enters
};

// The folder that groups can be made in, from the texts of /proc/self/mountinfo and /proc/self/cgroup, and
// the version; 0 where there is none. For version 2 it is the nearest folder above the process that gives
// groups in it the memory controller: `gives_memory` tells of one (its cgroup.subtree_control).
int memory_group_place(char *out, size_t capacity, const char *mountinfo, const char *own,
                       bool (*gives_memory)(const char *folder));

// Makes a group with a limit for memory, and for swap where the kernel counts it, so that nothing leaves for
// there. LODE_ERR_UNSUPPORTED where groups cannot be made; its text says what to do.
int memory_group_open(struct memory_group *out, uint64_t limit_bytes, struct lode_error *error);

// Moves the calling process into it; between fork and exec: makes system calls only.
bool memory_group_enter(const struct memory_group *group);

// The most memory that it has had, 0 where the kernel does not tell, and whether a process of it was killed
// for want of memory.
uint64_t memory_group_peak_bytes(const struct memory_group *group);
bool memory_group_was_killed(const struct memory_group *group);

// Removes it; what ran in it must have ended.
void memory_group_close(struct memory_group *group);

#endif
