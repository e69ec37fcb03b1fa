// Profiles in files. A file to read may be anything, and one to write takes the place of the old one as a
// whole.
#include "profiles/machine_profile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail_io(struct lode_error *error, const char *what, const char *path)
{
    return lode_fail(error, LODE_ERR_IO, "cannot %s %s: %s", what, path, strerror(errno));
}

// ---- reading
// -------------------------------------------------------------------------------------------------

// One byte more than is allowed tells that there is too much.
static int read_bytes(char *out, size_t *out_len, int fd, const char *path, struct lode_error *error)
{
    *out_len = 0;
    while (*out_len <= PROFILE_MAX_BYTES) {
        const ssize_t got = read(fd, out + *out_len, PROFILE_MAX_BYTES + 1 - *out_len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_io(error, "read", path);
        if (got == 0)
            break;
        *out_len += (size_t)got;
    }
    return 0;
}

static int read_open_file(struct machine_profile *out, int fd, const char *path, struct lode_error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_io(error, "read", path);
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: is no regular file", path);
    char *text = malloc(PROFILE_MAX_BYTES + 1);
    if (!text)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read %s", path);
    size_t len;
    int rc = read_bytes(text, &len, fd, path, error);
    if (!rc)
        rc = machine_profile_read_text(out, text, len, path, error);
    free(text);
    return rc;
}

int machine_profile_read(struct machine_profile *out, const char *path, struct lode_error *error)
{
    machine_profile_clear(out);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // of a pipe nobody may ever write to
    if (fd < 0)
        return fail_io(error, "open", path);
    const int rc = read_open_file(out, fd, path, error);
    close(fd);
    return rc;
}

// ---- writing
// -------------------------------------------------------------------------------------------------

static int make_folders(const char *path, struct lode_error *error)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(folder, 0700) != 0 && errno != EEXIST)
            return fail_io(error, "make the folder", folder);
        *slash = '/';
    }
    return 0;
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len) {
        const ssize_t written = write(fd, text, len);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        text += written;
        len -= (size_t)written;
    }
    return 0;
}

// Each writer has a temporary file of its own, and the last one to rename wins: profiles are made seldom.
static int write_file(const char *path, const char *text, size_t len, struct lode_error *error)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    const int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return fail_io(error, "write beside", path);
    int rc = write_all(fd, text, len) != 0 || fsync(fd) != 0 ? -1 : 0;
    if (!rc)
        rc = rename(temporary, path);
    if (rc) {
        rc = fail_io(error, "write", path);
        unlink(temporary);
    }
    close(fd);
    return rc;
}

// What `path` is a link to takes its place, and is `buffer`; something like /dev/stdout is refused, for a
// rename would replace it.
static int find_target(const char **out, char buffer[PATH_MAX], const char *path, struct lode_error *error)
{
    struct stat status;
    *out = path;
    if (!path[0])
        return lode_fail(error, LODE_ERR_ARGUMENT, "a profile cannot be written to an empty path");
    if (strlen(path) >= PATH_MAX)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    if (stat(path, &status) != 0)
        return 0; // a new file, or what is wrong shows when it is made
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_IO, "cannot write %s: it is no regular file", path);
    if (realpath(path, buffer))
        *out = buffer;
    return 0;
}

int machine_profile_write(const struct machine_profile *profile, const char *path, struct lode_error *error)
{
    char buffer[PATH_MAX], *text;
    const char *target;
    size_t len;
    int rc = find_target(&target, buffer, path, error);
    if (!rc)
        rc = make_folders(target, error);
    if (!rc)
        rc = machine_profile_write_text(&text, &len, profile, path, error);
    if (rc)
        return rc;
    rc = write_file(target, text, len, error);
    free(text);
    return rc;
}
