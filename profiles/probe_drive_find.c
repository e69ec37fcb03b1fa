// Which drive lies under a path: the whole device, not a partition of it, as /sys knows it. What a volume
// manager or an encryption lays over one drive is followed down to it; over several, the volume is the drive.
#include "profiles/probe_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEEPEST_STACK 8

// The first line of a file without the blanks around it; false when there is none.
static bool read_line(char *out, size_t capacity, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char line[256];
    const bool got = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    if (!got)
        return false;
    char *begin = line;
    while (isspace((unsigned char)*begin))
        begin++;
    size_t len = strlen(begin);
    while (len && isspace((unsigned char)begin[len - 1]))
        len--;
    snprintf(out, capacity, "%.*s", (int)len, begin);
    return out[0] != '\0';
}

// btrfs and the like number their own devices: the mount tells where they lie.
static bool find_source(dev_t *out, dev_t device)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return false;
    char *line = NULL;
    size_t capacity = 0;
    bool found = false;
    while (!found && getline(&line, &capacity, file) > 0) {
        unsigned major_number, minor_number;
        const char *right = strstr(line, " - ");
        char source[PATH_MAX];
        struct stat status;
        found = right && sscanf(line, "%*d %*d %u:%u", &major_number, &minor_number) == 2 &&
                makedev(major_number, minor_number) == device &&
                sscanf(right, " - %*s %4095s", source) == 1 && source[0] == '/' &&
                stat(source, &status) == 0 && S_ISBLK(status.st_mode);
        if (found)
            *out = status.st_rdev;
    }
    free(line);
    fclose(file);
    return found;
}

// The only entry of a folder, "" when there are none or several.
static void only_entry(char *out, size_t capacity, const char *path)
{
    out[0] = '\0';
    DIR *folder = opendir(path);
    if (!folder)
        return;
    uint32_t n = 0;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && ++n == 1)
            snprintf(out, capacity, "%s", entry->d_name);
    closedir(folder);
    if (n != 1)
        out[0] = '\0';
}

// From the folder in /sys of a device, or of its partition, to that of the drive below.
static void go_down(char folder[PATH_MAX])
{
    char path[PATH_MAX + 512], name[NAME_MAX + 1], next[PATH_MAX];
    for (int i = 0; i < DEEPEST_STACK; i++) {
        snprintf(path, sizeof path, "%s/partition", folder);
        if (access(path, F_OK) == 0) {
            *strrchr(folder, '/') = '\0';
            continue;
        }
        snprintf(path, sizeof path, "%s/slaves", folder);
        only_entry(name, sizeof name, path);
        snprintf(path, sizeof path, "%s/slaves/%s", folder, name);
        if (!name[0] || !realpath(path, next))
            return;
        memcpy(folder, next, sizeof next);
    }
}

static void describe(struct profile_drive *out, const char *folder)
{
    char path[PATH_MAX + 32];
    const char *slash = strrchr(folder, '/');
    snprintf(out->device, sizeof out->device, "%.*s", (int)sizeof out->device - 1,
             slash ? slash + 1 : folder);
    snprintf(path, sizeof path, "%s/device/model", folder);
    if (!read_line(out->name, sizeof out->name, path)) // of a virtual machine
        snprintf(out->name, sizeof out->name, "%s", out->device);
}

int probe_drive_find(struct profile_drive *out, const char *path, struct lode_error *error)
{
    char name[64], folder[PATH_MAX];
    struct stat status;
    *out = (struct profile_drive){0};
    if (stat(path, &status) != 0)
        return lode_fail(error, LODE_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    dev_t device = status.st_dev;
    snprintf(name, sizeof name, "/sys/dev/block/%u:%u", major(device), minor(device));
    if (access(name, F_OK) != 0 && find_source(&device, device))
        snprintf(name, sizeof name, "/sys/dev/block/%u:%u", major(device), minor(device));
    if (!realpath(name, folder)) {
        snprintf(out->name, sizeof out->name, "no block device");
        return LODE_OK;
    }
    go_down(folder);
    describe(out, folder);
    return LODE_OK;
}

bool probe_drive_named(struct profile_drive *out, const char *device)
{
    char name[128], folder[PATH_MAX];
    *out = (struct profile_drive){0};
    if (!device[0] || strchr(device, '/') || device[0] == '.')
        return false;
    snprintf(name, sizeof name, "/sys/block/%s", device);
    if (!realpath(name, folder))
        return false;
    describe(out, folder);
    return true;
}
