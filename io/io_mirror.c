// Tells a second copy of a file from a file that is not one.
//
// Reading all of both would take seconds to minutes, so size and samples must do: a download that broke off,
// another quantisation or another version of the model differ in them.
#include "io/io_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_SAMPLES 64
#define SAMPLE_BYTES ((uint64_t)4096)

static int read_sample(char *out, const struct io_copy *copy, uint64_t offset, uint64_t length,
                       struct lode_error *error)
{
    for (uint64_t got = 0; got < length;) {
        ssize_t n = pread(copy->fds[IO_FD_BUFFERED], out + got, length - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return lode_fail(error, LODE_ERR_IO, "%s: cannot read at offset %" PRIu64 " to compare: %s",
                             copy->path, offset + got,
                             n < 0 ? strerror(errno) : "the file has become shorter");
        got += (uint64_t)n;
    }
    posix_fadvise(copy->fds[IO_FD_BUFFERED], (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
    return 0;
}

static int compare_sample(char *memory, const struct io_file *file, uint64_t offset, struct lode_error *error)
{
    const struct io_copy *first = &file->copies[0], *second = &file->copies[1];
    uint64_t length = file->size_bytes - offset;
    if (length > SAMPLE_BYTES)
        length = SAMPLE_BYTES;
    char *other = memory + SAMPLE_BYTES;
    int code = read_sample(memory, first, offset, length, error);
    if (code == 0)
        code = read_sample(other, second, offset, length, error);
    if (code != 0)
        return code;
    for (uint64_t i = 0; i < length; i++) {
        if (memory[i] != other[i])
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s is no copy of %s: they differ at offset %" PRIu64 "; copy the file anew",
                             second->path, first->path, offset + i);
    }
    return 0;
}

// The first sample lies at the start of the file, the last one at its end.
static uint64_t sample_offset(const struct io_file *file, uint64_t i)
{
    uint64_t last = file->size_bytes > SAMPLE_BYTES ? file->size_bytes - SAMPLE_BYTES : 0;
    return last / (N_SAMPLES - 1) * i + last % (N_SAMPLES - 1) * i / (N_SAMPLES - 1);
}

int io_mirror_check(const struct io_file *file, uint64_t copy_size_bytes, struct lode_error *error)
{
    if (copy_size_bytes != file->size_bytes)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s is no copy of %s: it has %" PRIu64 " bytes instead of %" PRIu64
                         "; copy the file anew",
                         file->copies[1].path, file->copies[0].path, copy_size_bytes, file->size_bytes);
    char *memory = malloc(2 * SAMPLE_BYTES);
    if (!memory)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to compare %s", file->copies[1].path);
    int code = 0;
    for (uint64_t i = 0; code == 0 && i < N_SAMPLES; i++)
        code = compare_sample(memory, file, sample_offset(file, i), error);
    free(memory);
    return code;
}
