// How much processor time the control groups of this process pay for.
#ifndef LODE_CGROUP_QUOTA_H
#define LODE_CGROUP_QUOTA_H

// Processors, 1.5 for 150 ms in periods of 100 ms; INFINITY without a quota. The least of the group and all
// those above it, of version 1 and of version 2. `membership` is a file like /proc/self/cgroup, `mount` a
// folder like /sys/fs/cgroup; what is missing or broken counts as no quota.
double cgroup_quota_processors(const char *membership, const char *mount);

#endif
