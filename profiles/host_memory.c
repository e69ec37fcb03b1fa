// Reads /proc/meminfo and the memory controllers of the control groups that the process is in.
//
// A limit of any group between ours and the root counts, so the path is walked up to the mount point; groups
// that a container does not show (the path leaves the mount) are represented by the mount point itself. What
// a group may still take is its limit less its usage, where inactive file pages are not counted as used: the
// kernel drops them first, and after a look at a large model file they are most of the usage.
#include "profiles/host_memory.h"
#include "base/checked.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 8192

struct cgroup_files {
    const char *limits[2]; // the second may be NULL
    const char *usage, *reclaimable;
};

static const struct cgroup_files cgroup_v1 = {
    {"memory.limit_in_bytes", NULL}, "memory.usage_in_bytes", "total_inactive_file"};
static const struct cgroup_files cgroup_v2 = {
    {"memory.max", "memory.high"}, "memory.current", "inactive_file"};

// v1 writes "no limit" as the largest multiple of a page below 2^63; pages differ, so all that no machine can
// have is taken for it.
#define V1_NO_LIMIT ((uint64_t)1 << 62)

static bool parse_u64(uint64_t *out, const char *text, const char **out_rest)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *rest;
    errno = 0;
    unsigned long long value = strtoull(text, &rest, 10);
    if (errno != 0)
        return false;
    *out = value;
    *out_rest = rest;
    return true;
}

// The number behind "name" at the start of a line, as in meminfo ("MemTotal:  123 kB") and memory.stat.
static bool find_number(uint64_t *out, const char *path, const char *name)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char line[LINE_BYTES];
    size_t name_len = strlen(name);
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, name_len) != 0 || !isspace((unsigned char)line[name_len]))
            continue;
        const char *number = line + name_len, *rest;
        while (isspace((unsigned char)*number))
            number++;
        found = parse_u64(out, number, &rest);
    }
    fclose(file);
    return found;
}

static int read_meminfo(uint64_t *out_bytes, const char *path, const char *name, struct lode_error *error)
{
    uint64_t kib;
    if (!find_number(&kib, path, name) || !checked_mul(out_bytes, kib, 1024))
        return lode_fail(error, LODE_ERR_FORMAT, "%s has no usable line %s", path, name);
    return 0;
}

// ---- one control group
// ---------------------------------------------------------------------------------------

// A file with one number or "max". A file that is not there is no limit: the root group has none.
static int read_limit(uint64_t *out_bytes, const char *group, const char *name, struct lode_error *error)
{
    char path[PATH_MAX + 64], line[64];
    *out_bytes = HOST_MEMORY_NO_LIMIT;
    snprintf(path, sizeof path, "%s/%s", group, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    if (read && strncmp(line, "max", 3) == 0 && (line[3] == '\n' || line[3] == '\0'))
        return 0;
    const char *rest;
    if (!read || !parse_u64(out_bytes, line, &rest) || (*rest != '\n' && *rest != '\0'))
        return lode_fail(error, LODE_ERR_FORMAT, "cannot understand the memory limit in %s", path);
    return 0;
}

static int apply_group(struct host_memory *memory, const char *group, const struct cgroup_files *files,
                       struct lode_error *error)
{
    uint64_t limit_bytes = HOST_MEMORY_NO_LIMIT;
    for (int i = 0; i < 2 && files->limits[i]; i++) {
        uint64_t bytes;
        int code = read_limit(&bytes, group, files->limits[i], error);
        if (code != 0)
            return code;
        if (bytes < limit_bytes)
            limit_bytes = bytes;
    }
    if (limit_bytes >= V1_NO_LIMIT)
        return 0;
    uint64_t usage_bytes, reclaimable_bytes = 0;
    int code = read_limit(&usage_bytes, group, files->usage, error);
    if (code != 0)
        return code;
    if (usage_bytes == HOST_MEMORY_NO_LIMIT)
        usage_bytes = 0; // a group that does not tell its usage
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/memory.stat", group);
    find_number(&reclaimable_bytes, path, files->reclaimable);
    usage_bytes -= reclaimable_bytes < usage_bytes ? reclaimable_bytes : usage_bytes;
    uint64_t available_bytes = limit_bytes > usage_bytes ? limit_bytes - usage_bytes : 0;
    if (limit_bytes < memory->limit_bytes)
        memory->limit_bytes = limit_bytes;
    if (available_bytes < memory->available_bytes)
        memory->available_bytes = available_bytes;
    return 0;
}

// ---- the groups of this process
// ------------------------------------------------------------------------------

struct cgroup_mount {
    char root[PATH_MAX]; // the group that is seen at the mount point
    char point[PATH_MAX];
};

// mountinfo writes blanks in paths as \040.
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in; in++) {
        if (in[0] == '\\' && strspn(in + 1, "01234567") >= 3) {
            *out++ = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
            in += 3;
        } else {
            *out++ = *in;
        }
    }
    *out = '\0';
}

static bool has_option(const char *options, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = options; (at = strstr(at, name)); at += len) {
        bool starts = at == options || at[-1] == ',';
        bool ends = at[len] == ',' || at[len] == '\0' || at[len] == '\n';
        if (starts && ends)
            return true;
    }
    return false;
}

// A line is: id parent device root point options [tags…] - type source super-options.
static bool parse_mount(struct cgroup_mount *out, char *line, bool v2)
{
    char type[32], options[1024];
    char *tail = strstr(line, " - ");
    if (!tail || sscanf(tail, " - %31s %*s %1023s", type, options) != 2)
        return false;
    if (v2 ? strcmp(type, "cgroup2") != 0 : strcmp(type, "cgroup") != 0 || !has_option(options, "memory"))
        return false;
    _Static_assert(PATH_MAX == 4096, "the widths in the format below");
    if (sscanf(line, "%*s %*s %*s %4095s %4095s", out->root, out->point) != 2)
        return false;
    unescape(out->root);
    unescape(out->point);
    return true;
}

static bool find_mount(struct cgroup_mount *out, const char *root, bool v2)
{
    char path[PATH_MAX], line[LINE_BYTES * 2];
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file))
        found = parse_mount(out, line, v2);
    if (file)
        fclose(file);
    return found;
}

// A line is: id:controllers:path, with "0::path" for v2.
static bool find_group(char out[PATH_MAX], const char *root, bool v2)
{
    char path[PATH_MAX], line[LINE_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *controllers++ = '\0';
        *group++ = '\0';
        found = v2 ? strcmp(line, "0") == 0 && *controllers == '\0' : has_option(controllers, "memory");
        found = found && snprintf(out, PATH_MAX, "%s", group) < PATH_MAX;
    }
    if (file)
        fclose(file);
    return found;
}

// The part of a group's path below the group that is mounted; "" when it lies outside.
static const char *path_below(const char *group, const char *mounted)
{
    size_t len = strlen(mounted);
    while (len > 0 && mounted[len - 1] == '/')
        len--;
    if (strncmp(group, mounted, len) != 0 || (group[len] != '/' && group[len] != '\0') ||
        strstr(group, "/.."))
        return "";
    return group + len;
}

static int apply_hierarchy(struct host_memory *memory, const char *root, bool v2, struct lode_error *error)
{
    struct cgroup_mount mount;
    char group[PATH_MAX], path[PATH_MAX];
    if (!find_mount(&mount, root, v2) || !find_group(group, root, v2))
        return 0;
    int top_len = snprintf(path, sizeof path, "%s%s", root, mount.point);
    int len = snprintf(path, sizeof path, "%s%s%s", root, mount.point, path_below(group, mount.root));
    if (len >= (int)sizeof path)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "the path of the control group %s is too long", group);
    for (;;) {
        int code = apply_group(memory, path, v2 ? &cgroup_v2 : &cgroup_v1, error);
        char *slash = strrchr(path, '/');
        if (code != 0 || !slash || slash - path < top_len)
            return code;
        *slash = '\0';
    }
}

int host_memory_read(struct host_memory *out, const char *root, struct lode_error *error)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/proc/meminfo", root) >= (int)sizeof path)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %s is too long", root);
    out->limit_bytes = HOST_MEMORY_NO_LIMIT;
    FILE *file = fopen(path, "re");
    if (!file)
        return lode_fail(error, LODE_ERR_IO, "cannot open %s: %s; is /proc mounted?", path, strerror(errno));
    fclose(file);
    int code = read_meminfo(&out->total_bytes, path, "MemTotal:", error);
    if (code == 0)
        code = read_meminfo(&out->available_bytes, path, "MemAvailable:", error);
    if (code == 0)
        code = apply_hierarchy(out, root, true, error);
    if (code == 0)
        code = apply_hierarchy(out, root, false, error);
    return code;
}

static uint64_t status_bytes(const char *key)
{
    uint64_t kib, bytes;
    if (!find_number(&kib, "/proc/self/status", key) || !checked_mul(&bytes, kib, 1024))
        return 0;
    return bytes;
}

uint64_t host_rss_bytes(void)
{
    return status_bytes("VmRSS:");
}

uint64_t host_peak_rss_bytes(void)
{
    return status_bytes("VmHWM:");
}
