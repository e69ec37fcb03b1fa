// Temporary names, and what to do about a disk that is full.
#include "tools/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TEMPORARY_NAMES = 16 };

static int fail_write(const char *path, int cause, struct lode_error *error)
{
    const char *advice = cause == ENOSPC || cause == EDQUOT || cause == EFBIG
                             ? "make room there, or name a file on another disk"
                             : "name a file in a folder that is there and may be written to";
    return lode_fail(error, LODE_ERR_IO, "cannot write %s: %s; %s", path, strerror(cause), advice);
}

static int open_temporary(struct new_file *file)
{
    int fd = -1;
    for (int attempt = 0; attempt < MAX_TEMPORARY_NAMES && fd < 0; attempt++) {
        const int len = snprintf(file->temporary, sizeof file->temporary, "%s.partial-%ld-%d", file->path,
                                 (long)getpid(), attempt);
        if (len < 0 || (size_t)len >= sizeof file->temporary) {
            errno = ENAMETOOLONG;
            return -1;
        }
        fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    return fd;
}

int new_file_open(struct new_file *out, const char *path, struct lode_error *error)
{
    struct stat status;
    *out = (struct new_file){0};
    const bool is_there = stat(path, &status) == 0;
    if (is_there && S_ISDIR(status.st_mode))
        return lode_fail(error, LODE_ERR_IO, "cannot write %s: it is a folder; name a file in it", path);
    if (strlen(path) >= sizeof out->path)
        return fail_write(path, ENAMETOOLONG, error);
    // Where a link leads the file is replaced, not the link.
    if (!is_there || !S_ISREG(status.st_mode) || !realpath(path, out->path))
        strcpy(out->path, path);
    const int fd = is_there && !S_ISREG(status.st_mode) ? open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY)
                                                        : open_temporary(out);
    out->stream = fd < 0 ? NULL : fdopen(fd, "w");
    if (out->stream)
        return 0;
    const int cause = errno;
    if (fd >= 0) {
        close(fd);
        if (out->temporary[0])
            unlink(out->temporary);
    }
    return fail_write(path, cause, error);
}

int new_file_close(struct new_file *file, struct lode_error *error)
{
    errno = 0;
    bool failed = fflush(file->stream) != 0 || ferror(file->stream);
    int cause = errno;
    if (fclose(file->stream) != 0 && !failed) {
        failed = true;
        cause = errno;
    }
    file->stream = NULL;
    if (!failed && file->temporary[0] && rename(file->temporary, file->path) != 0) {
        failed = true;
        cause = errno;
    }
    if (failed && file->temporary[0])
        unlink(file->temporary);
    // A write that failed before the last flush has left no cause behind: it is nearly always the room.
    return failed ? fail_write(file->path, cause ? cause : ENOSPC, error) : 0;
}

void new_file_discard(struct new_file *file)
{
    fclose(file->stream);
    file->stream = NULL;
    if (file->temporary[0])
        unlink(file->temporary);
}
