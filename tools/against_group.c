// Making and removing memory control groups; see against_group.h. bench/offload_machine.py does the same for
// runs of other programs.
#include "tools/against_group.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REMOVE_TRIES = 200, REMOVE_WAIT_MS = 20, TEXT_BYTES = 64 << 10 };

// ---- files
// ---------------------------------------------------------------------------------------------------

static bool read_text(char *out, size_t capacity, const char *path)
{
    FILE *file = fopen(path, "re");
    size_t n = 0;
    if (file) {
        n = fread(out, 1, capacity - 1, file);
        fclose(file);
    }
    out[n] = '\0';
    return file != NULL;
}

// One write and no buffer: the kernel takes a value as it comes.
static bool write_number(const char *folder, const char *name, uint64_t value)
{
    char path[3456], text[24];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int n = snprintf(text, sizeof text, "%" PRIu64, value);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const bool done = write(fd, text, (size_t)n) == n;
    const int saved = errno;
    close(fd);
    errno = saved;
    return done;
}

static bool is_there(const char *folder, const char *name)
{
    char path[3456];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

// The number behind a word at the beginning of a line of a group's file, or the file's first number where the
// word is NULL; 0 where there is none.
static uint64_t number_in(const char *folder, const char *name, const char *word)
{
    char path[3456], text[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!read_text(text, sizeof text, path))
        return 0;
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        const size_t len = word ? strlen(word) : 0;
        if (!word || (strncmp(line, word, len) == 0 && line[len] == ' '))
            return strtoull(line + len, NULL, 10);
    }
    return 0;
}

// ---- where
// ---------------------------------------------------------------------------------------------------

static bool has_word(const char *list, const char *word, const char *separators)
{
    const size_t len = strlen(word);
    for (const char *at = list; *at;) {
        const size_t n = strcspn(at, separators);
        if (n == len && memcmp(at, word, len) == 0)
            return true;
        at += n + (at[n] != '\0');
    }
    return false;
}

// The path of the process in the hierarchy with this controller, "" being that of version 2; "/" where there
// is none. Lines are "ID:CONTROLLERS:PATH".
static void own_path(char *out, size_t capacity, const char *own, const char *controller)
{
    snprintf(out, capacity, "/");
    for (const char *line = own; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        char controllers[256] = "", path[2048] = "";
        if (sscanf(line, "%*d::%2047[^\n]", path) != 1 &&
            sscanf(line, "%*d:%255[^:]:%2047[^\n]", controllers, path) != 2)
            continue;
        if (controller[0] ? has_word(controllers, controller, ",") : !controllers[0]) {
            snprintf(out, capacity, "%s", path);
            return;
        }
    }
}

// The point of the first mount of a type, of version 1 with this controller among its options.
static bool find_mount(char *out, size_t capacity, const char *mountinfo, const char *type,
                       const char *controller)
{
    for (const char *line = mountinfo; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        char point[1024], kind[64], options[1024];
        const char *end = strchr(line, '\n'), *right = strstr(line, " - ");
        if (!right || (end && right > end) || sscanf(line, "%*s %*s %*s %*s %1023s", point) != 1 ||
            sscanf(right, " - %63s %*s %1023s", kind, options) != 2 || strcmp(kind, type) != 0)
            continue;
        if (controller && !has_word(options, controller, ","))
            continue;
        snprintf(out, capacity, "%s", point);
        return true;
    }
    return false;
}

static void join(char *out, size_t capacity, const char *point, const char *path)
{
    snprintf(out, capacity, "%s%s", point, strcmp(path, "/") == 0 ? "" : path);
}

int memory_group_place(char *out, size_t capacity, const char *mountinfo, const char *own,
                       bool (*gives_memory)(const char *folder))
{
    char point[1024], path[2048];
    if (find_mount(point, sizeof point, mountinfo, "cgroup", "memory")) {
        struct stat status;
        own_path(path, sizeof path, own, "memory");
        join(out, capacity, point, path);
        if (stat(out, &status) != 0 || !S_ISDIR(status.st_mode)) // the path is that of another namespace
            snprintf(out, capacity, "%s", point);
        return 1;
    }
    if (!find_mount(point, sizeof point, mountinfo, "cgroup2", NULL))
        return 0;
    own_path(path, sizeof path, own, "");
    join(out, capacity, point, path);
    // A group with processes of its own gives no controllers to groups in it, so the new one goes beside it.
    while (strlen(out) >= strlen(point)) {
        if (gives_memory(out))
            return 2;
        char *slash = strrchr(out, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
    return 0;
}

static bool gives_memory(const char *folder)
{
    char path[3456], text[1024];
    snprintf(path, sizeof path, "%s/cgroup.subtree_control", folder);
    return read_text(text, sizeof text, path) && has_word(text, "memory", " \n");
}

// ---- the group
// ------------------------------------------------------------------------------------------------

static int refuse(const char *what, const char *path, const char *why, struct lode_error *error)
{
    return lode_fail(
        error, LODE_ERR_UNSUPPORTED,
        "cannot %s a memory control group%s%s: %s. The page cache has no other ceiling: start this as "
        "root, or in a group with the limit of --ram: systemd-run --user --scope -p MemoryMax=SIZE "
        "-p MemorySwapMax=0 lode bench …",
        what, path[0] ? " at " : "", path, why);
}

static bool set_limits(const struct memory_group *group, uint64_t limit_bytes)
{
    if (group->version == 2)
        return write_number(group->path, "memory.max", limit_bytes) &&
               (!is_there(group->path, "memory.swap.max") || write_number(group->path, "memory.swap.max", 0));
    return write_number(group->path, "memory.limit_in_bytes", limit_bytes) &&
           (!is_there(group->path, "memory.memsw.limit_in_bytes") ||
            write_number(group->path, "memory.memsw.limit_in_bytes", limit_bytes));
}

int memory_group_open(struct memory_group *out, uint64_t limit_bytes, struct lode_error *error)
{
    char *texts = malloc(2 * TEXT_BYTES), folder[3100];
    *out = (struct memory_group){0};
    if (!texts)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to find the control groups");
    read_text(texts, TEXT_BYTES, "/proc/self/mountinfo");
    read_text(texts + TEXT_BYTES, TEXT_BYTES, "/proc/self/cgroup");
    const int version = memory_group_place(folder, sizeof folder, texts, texts + TEXT_BYTES, gives_memory);
    free(texts);
    if (!version)
        return refuse("make", "", "there is no memory controller that groups can be made with", error);
    snprintf(out->path, sizeof out->path, "%s/lode-bench-XXXXXX", folder);
    if (!mkdtemp(out->path))
        return refuse("make", folder, strerror(errno), error);
    snprintf(out->procs, sizeof out->procs, "%s/cgroup.procs", out->path);
    out->version = version;
    if (set_limits(out, limit_bytes))
        return LODE_OK;
    const int cause = errno;
    const struct memory_group made = *out;
    memory_group_close(out);
    return refuse("limit", made.path, strerror(cause), error);
}

bool memory_group_enter(const struct memory_group *group)
{
    const int fd = open(group->procs, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, "0", 1) == 1; // 0: whoever writes
}

uint64_t memory_group_peak_bytes(const struct memory_group *group)
{
    if (group->version == 2)
        return number_in(group->path, "memory.peak", NULL); // since Linux 5.19
    return number_in(group->path, "memory.max_usage_in_bytes", NULL);
}

bool memory_group_was_killed(const struct memory_group *group)
{
    return number_in(group->path, group->version == 2 ? "memory.events" : "memory.oom_control", "oom_kill") >
           0;
}

void memory_group_close(struct memory_group *group)
{
    if (!group->version)
        return;
    // Of version 1, pages in the page cache would keep the dead group in the kernel.
    if (group->version == 1)
        write_number(group->path, "memory.force_empty", 0);
    for (int i = 0; i < REMOVE_TRIES && rmdir(group->path) != 0 && errno == EBUSY; i++) {
        const struct timespec wait = {.tv_nsec = REMOVE_WAIT_MS * 1000000L};
        nanosleep(&wait, NULL);
    }
    group->version = 0;
}
