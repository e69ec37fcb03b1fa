// The file that is read: the user's own, or a nameless one beside it. Without a name nothing is left behind,
// however the program ends.
#include "profiles/probe_internal.h"

#include "base/bytes_text.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define LEAST_FILE_BYTES (16 * MIB)
#define OWN_FILE_RECORDS 64 // of a smaller file the drive would remember most
#define CHUNK_BYTES (4 * MIB)
#define FLUSH_BYTES (64 * MIB) // what the system may hold back at most

#define TMPFS_TYPE 0x01021994
#define RAMFS_TYPE 0x858458f6

static int fail(struct lode_error *error, const char *what, const char *path)
{
    return lode_fail(error, LODE_ERR_IO, "cannot %s %s: %s", what, path, strerror(errno));
}

static uint64_t wanted_bytes(const struct probe *probe)
{
    if (probe->options->file_bytes)
        return probe->options->file_bytes;
    return probe->options->mode == PROBE_QUICK  ? 256 * MIB
           : probe->options->mode == PROBE_FULL ? 1024 * MIB
                                                : 2048 * MIB;
}

// At most a tenth of what is free, for others write here, too.
static int choose_size(uint64_t *out, const struct probe *probe, const char *folder, struct lode_error *error)
{
    struct statvfs status;
    if (statvfs(folder, &status) != 0)
        return fail(error, "look at the file system of", folder);
    const uint64_t free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    *out = wanted_bytes(probe);
    if (*out > free_bytes / 10)
        *out = free_bytes / 10 / CHUNK_BYTES * CHUNK_BYTES;
    if (*out >= LEAST_FILE_BYTES)
        return LODE_OK;
    return lode_fail(error, LODE_ERR_IO,
                     "only %s are free in %s, too few to measure the drive; name another folder of it",
                     bytes_text(free_bytes).text, folder);
}

static int check_kind(const char *folder, struct lode_error *error)
{
    struct statfs status;
    if (statfs(folder, &status) == 0 &&
        ((uint32_t)status.f_type == TMPFS_TYPE || (uint32_t)status.f_type == RAMFS_TYPE))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s lies in memory, not on a drive; name a folder or a file on the drive", folder);
    return LODE_OK;
}

static int open_nameless(int *out, const char *folder, struct lode_error *error)
{
    *out = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*out >= 0)
        return LODE_OK;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
        return fail(error, "make a file for measuring in", folder);
    char name[PATH_MAX];
    const int len = snprintf(name, sizeof name, "%s/.lode-probe-XXXXXX", folder);
    if (len < 0 || len >= (int)sizeof name)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", folder);
    *out = mkostemp(name, O_CLOEXEC);
    if (*out < 0)
        return fail(error, "make a file for measuring in", folder);
    unlink(name);
    return LODE_OK;
}

// Other bytes in each chunk, for drives and file systems that compress or share what is equal.
static void draw_chunk(uint64_t *words, uint64_t chunk)
{
    uint64_t state = chunk * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < CHUNK_BYTES / sizeof *words; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
}

static int write_chunk(int fd, const void *chunk, uint64_t offset)
{
    for (uint64_t done = 0; done < CHUNK_BYTES;) {
        const ssize_t written =
            pwrite(fd, (const char *)chunk + done, CHUNK_BYTES - done, (off_t)(offset + done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        done += (uint64_t)written;
    }
    return 0;
}

static int flush(const struct probe_file *file)
{
    if (fdatasync(file->fd) != 0)
        return -1;
    probe_file_drop(file);
    return 0;
}

// As much as can be written in this time: less of a file is better than a probe that does not end.
static int fill(struct probe_file *file, struct probe *probe, uint64_t bytes, double seconds,
                const char *folder, struct lode_error *error)
{
    const uint64_t start_ns = clock_now_ns();
    uint64_t *chunk = malloc(CHUNK_BYTES);
    if (!chunk)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write a file for measuring");
    int code = LODE_OK;
    while (file->bytes < bytes && !code &&
           (file->bytes < LEAST_FILE_BYTES || clock_seconds_since(start_ns) < seconds)) {
        draw_chunk(chunk, file->bytes);
        if (!probe_goes_on(probe))
            code = probe_cancelled(error);
        else if (write_chunk(file->fd, chunk, file->bytes) != 0)
            code = fail(error, "write a file for measuring in", folder);
        else if ((file->bytes += CHUNK_BYTES) % FLUSH_BYTES == 0 && flush(file) != 0)
            code = fail(error, "write a file for measuring in", folder);
    }
    free(chunk);
    if (!code && flush(file) != 0)
        code = fail(error, "write a file for measuring in", folder);
    return code;
}

static int make_file(struct probe_file *out, struct probe *probe, const char *folder, double seconds,
                     struct lode_error *error)
{
    uint64_t bytes = 0;
    int code = check_kind(folder, error);
    if (!code)
        code = choose_size(&bytes, probe, folder, error);
    if (!code)
        code = open_nameless(&out->fd, folder, error);
    if (code)
        return code;
    snprintf(out->path, sizeof out->path, "/proc/self/fd/%d", out->fd);
    return fill(out, probe, bytes, seconds, folder, error);
}

static void folder_of(char *out, size_t capacity, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, capacity, ".");
    else
        snprintf(out, capacity, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

int probe_file_open(struct probe_file *out, struct probe *probe, double seconds, struct lode_error *error)
{
    const char *path = probe->options->drive_path;
    struct stat status;
    *out = (struct probe_file){.fd = -1};
    if (strlen(path) >= sizeof out->path)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    if (stat(path, &status) != 0)
        return fail(error, "look at", path);
    if (S_ISDIR(status.st_mode))
        return make_file(out, probe, path, seconds, error);
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s is neither a folder nor a regular file", path);
    snprintf(out->path, sizeof out->path, "%s", path);
    out->bytes = (uint64_t)status.st_size;
    int code = check_kind(path, error);
    if (code || out->bytes >= OWN_FILE_RECORDS * PROBE_RECORD_BYTES ||
        (probe->options->file_bytes && out->bytes >= probe->options->file_bytes))
        return code;
    char folder[PATH_MAX];
    folder_of(folder, sizeof folder, path);
    out->bytes = 0;
    return make_file(out, probe, folder, seconds, error);
}

void probe_file_drop(const struct probe_file *file)
{
    int fd = file->fd >= 0 ? file->fd : open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (fd != file->fd)
        close(fd);
}

void probe_file_close(struct probe_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}
