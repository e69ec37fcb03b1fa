// The CPU quota of control groups, read from their files. More threads than a quota pays for are stopped for
// the rest of every scheduling period, all others waiting for them: the number of threads must know it.
#include "backends/cpu/cgroup_quota.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double processors_of(double quota_us, double period_us)
{
    return quota_us > 0 && period_us > 0 ? quota_us / period_us : INFINITY;
}

static bool read_text(char *out, size_t capacity, const char *folder, const char *name)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return false;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t got = fread(out, 1, capacity - 1, file);
    out[got] = 0;
    fclose(file);
    return got > 0;
}

// cgroup v2: "cpu.max" holds "quota period", or "max period".
static double quota_v2(const char *folder)
{
    char text[128];
    double quota_us, period_us;
    if (!read_text(text, sizeof text, folder, "cpu.max") ||
        sscanf(text, "%lf %lf", &quota_us, &period_us) != 2)
        return INFINITY;
    return processors_of(quota_us, period_us);
}

// cgroup v1: two files; a quota of -1 is none.
static double quota_v1(const char *folder)
{
    char quota[64], period[64];
    if (!read_text(quota, sizeof quota, folder, "cpu.cfs_quota_us") ||
        !read_text(period, sizeof period, folder, "cpu.cfs_period_us"))
        return INFINITY;
    return processors_of(strtod(quota, NULL), strtod(period, NULL));
}

// A group is bound by the quotas of all groups above it as well. Inside a container the path may be one of
// the host that is not there: then only its existing ancestors count, at least the mount itself.
static double quota_of_path(const char *mount, const char *path, double (*quota_of)(const char *folder))
{
    char folder[4096];
    int length = snprintf(folder, sizeof folder, "%s%s", mount, path);
    if (length < 0 || (size_t)length >= sizeof folder)
        return INFINITY;
    double least = INFINITY;
    size_t mount_length = strlen(mount);
    for (;;) {
        least = fmin(least, quota_of(folder));
        char *slash = strrchr(folder + mount_length, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

static bool names_cpu(const char *controllers)
{
    char list[256];
    snprintf(list, sizeof list, ",%s,", controllers);
    return strstr(list, ",cpu,") != NULL;
}

// A line is "number:controllers:path"; v2's has no controllers. v1 mounts a hierarchy under the names of its
// controllers, often with a link for each of them.
static double quota_of_line(char *line, const char *mount)
{
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return INFINITY;
    controllers++;
    *path++ = 0;
    if (!*controllers)
        return quota_of_path(mount, path, quota_v2);
    if (!names_cpu(controllers))
        return INFINITY;

    char root[1024];
    snprintf(root, sizeof root, "%s/%s", mount, controllers);
    double under_list = quota_of_path(root, path, quota_v1);
    snprintf(root, sizeof root, "%s/cpu", mount);
    return fmin(under_list, quota_of_path(root, path, quota_v1));
}

double cgroup_quota_processors(const char *membership, const char *mount)
{
    FILE *file = fopen(membership, "re");
    if (!file)
        return INFINITY;
    double least = INFINITY;
    char line[4096];
    while (fgets(line, sizeof line, file))
        least = fmin(least, quota_of_line(line, mount));
    fclose(file);
    return least;
}
