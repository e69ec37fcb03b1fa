// The streaming writer of gguf_write.h: one buffer in front of one file descriptor. The counts in the file's
// head are not known when it is written; they are put in place at the end, which also keeps an unfinished
// file from being taken for a whole one.
#include "core/gguf_write.h"

#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define ALIGNMENT 32
#define BUFFER_BYTES (1u << 20)
#define COUNTS_OFFSET 8 // behind magic and version: tensors, then pairs
#define MAX_TEMPORARY_NAMES 1000

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF integers are written as they lie in memory");

enum phase { METADATA, TENSORS, DATA };

struct gguf_write {
    char *path, *temporary; // both NULL: counting only; temporary NULL: written in place
    int fd;
    enum phase phase;
    uint8_t *buffer;
    size_t buffered_bytes;
    uint64_t flushed_bytes;
    uint64_t n_tensors, n_pairs, n_items_due;
    uint64_t data_bytes, total_bytes; // the data described so far; the file
    uint64_t *tensor_bytes;
    size_t tensor_capacity, tensor_at;
    uint64_t tensor_done_bytes;
    struct lode_error failure;
};

// ---- bytes --------------------------------------------------------------------------------------

static int fail_full(struct gguf_write *file, int reason)
{
    char missing[64] = "", have[64] = "";
    struct statvfs disk;
    if (file->total_bytes)
        snprintf(missing, sizeof missing, "; %" PRIu64 " bytes are still to be written",
                 file->total_bytes - file->flushed_bytes);
    if (file->temporary && fstatvfs(file->fd, &disk) == 0)
        snprintf(have, sizeof have, ", %" PRIu64 " are free", (uint64_t)disk.f_bavail * disk.f_frsize);
    return lode_fail(&file->failure, LODE_ERR_IO,
                     "cannot write %s: %s%s%s. Free some space, or write to another disk", file->path,
                     strerror(reason), missing, file->total_bytes ? have : "");
}

static int fail_write(struct gguf_write *file, int reason)
{
    if (reason == ENOSPC || reason == EDQUOT || reason == EFBIG)
        return fail_full(file, reason);
    return lode_fail(&file->failure, LODE_ERR_IO, "cannot write %s: %s", file->path, strerror(reason));
}

static void write_through(struct gguf_write *file, const uint8_t *bytes, size_t size_bytes)
{
    while (size_bytes && !file->failure.code) {
        ssize_t written = file->path ? write(file->fd, bytes, size_bytes) : (ssize_t)size_bytes;
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            fail_write(file, written < 0 ? errno : EIO);
            return;
        }
        bytes += written;
        size_bytes -= (size_t)written;
        file->flushed_bytes += (uint64_t)written;
    }
}

static void flush(struct gguf_write *file)
{
    write_through(file, file->buffer, file->buffered_bytes);
    file->buffered_bytes = 0;
}

static void put(struct gguf_write *file, const void *bytes, size_t size_bytes)
{
    if (file->buffered_bytes + size_bytes > BUFFER_BYTES)
        flush(file);
    if (size_bytes > BUFFER_BYTES) {
        write_through(file, bytes, size_bytes);
        return;
    }
    if (size_bytes)
        memcpy(file->buffer + file->buffered_bytes, bytes, size_bytes);
    file->buffered_bytes += size_bytes;
}

static uint64_t position(const struct gguf_write *file)
{
    return file->flushed_bytes + file->buffered_bytes;
}

static void put_padding(struct gguf_write *file)
{
    static const uint8_t zeros[ALIGNMENT];
    put(file, zeros, (size_t)(-position(file) & (ALIGNMENT - 1)));
}

static void put_u32(struct gguf_write *file, uint32_t value)
{
    put(file, &value, sizeof value);
}

static void put_u64(struct gguf_write *file, uint64_t value)
{
    put(file, &value, sizeof value);
}

static void put_text(struct gguf_write *file, const char *bytes, size_t len)
{
    put_u64(file, len);
    put(file, bytes, len);
}

// ---- metadata -----------------------------------------------------------------------------------

static void put_key(struct gguf_write *file, const char *key, enum gguf_kind kind)
{
    assert(file->phase == METADATA && file->n_items_due == 0);
    put_text(file, key, strlen(key));
    put_u32(file, kind);
    file->n_pairs++;
}

static void put_item(struct gguf_write *file, const void *bytes, size_t size_bytes)
{
    assert(file->n_items_due > 0);
    file->n_items_due--;
    put(file, bytes, size_bytes);
}

void gguf_write_u32(struct gguf_write *file, const char *key, uint32_t value)
{
    put_key(file, key, GGUF_U32);
    put(file, &value, sizeof value);
}

void gguf_write_i32(struct gguf_write *file, const char *key, int32_t value)
{
    put_key(file, key, GGUF_I32);
    put(file, &value, sizeof value);
}

void gguf_write_f32(struct gguf_write *file, const char *key, float value)
{
    put_key(file, key, GGUF_F32);
    put(file, &value, sizeof value);
}

void gguf_write_bool(struct gguf_write *file, const char *key, bool value)
{
    put_key(file, key, GGUF_BOOL);
    put(file, &(uint8_t){value}, 1);
}

void gguf_write_string(struct gguf_write *file, const char *key, const char *value)
{
    put_key(file, key, GGUF_STRING);
    put_text(file, value, strlen(value));
}

void gguf_write_array(struct gguf_write *file, const char *key, enum gguf_kind item_kind, uint64_t count)
{
    put_key(file, key, GGUF_ARRAY);
    put_u32(file, item_kind);
    put_u64(file, count);
    file->n_items_due = count;
}

void gguf_write_item_i32(struct gguf_write *file, int32_t value)
{
    put_item(file, &value, sizeof value);
}

void gguf_write_item_f32(struct gguf_write *file, float value)
{
    put_item(file, &value, sizeof value);
}

void gguf_write_item_bool(struct gguf_write *file, bool value)
{
    put_item(file, &(uint8_t){value}, 1);
}

void gguf_write_item_string(struct gguf_write *file, const char *bytes, size_t len)
{
    uint64_t len_u64 = len;
    put_item(file, &len_u64, sizeof len_u64);
    put(file, bytes, len);
}

// ---- tensors ------------------------------------------------------------------------------------

// The first failure stays, whoever asks again.
static int report(const struct gguf_write *file, struct lode_error *error)
{
    return file->failure.code ? lode_fail(error, file->failure.code, "%s", file->failure.text) : 0;
}

static int measure(const struct gguf_write *file, const char *name, enum lode_type type, uint32_t n_dims,
                   const uint64_t *ne, uint64_t *out_bytes, struct lode_error *error)
{
    const char *path = file->path ? file->path : "a GGUF file";
    if (strlen(name) >= GGUF_MAX_NAME)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: tensor name %s is longer than %d bytes", path, name,
                         GGUF_MAX_NAME - 1);
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s: tensor %s has %" PRIu32 " dimensions; 1 to %d are possible", path, name, n_dims,
                         GGUF_MAX_DIMS);
    if (!lode_type_row_bytes(out_bytes, type, ne[0]))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s: tensor %s has rows of %" PRIu64 " elements, which are no whole blocks of %s",
                         path, name, ne[0], lode_type_name(type));
    uint64_t next;
    bool fits = true;
    for (uint32_t i = 1; i < n_dims; i++)
        fits = fits && checked_mul(out_bytes, *out_bytes, ne[i]);
    if (!fits || !checked_add(&next, file->data_bytes, *out_bytes) || next > INT64_MAX / 2)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: tensor %s is too large for a file", path, name);
    return 0;
}

static int remember_tensor(struct gguf_write *file, uint64_t bytes, struct lode_error *error)
{
    if (file->n_tensors == file->tensor_capacity) {
        size_t capacity = file->tensor_capacity ? 2 * file->tensor_capacity : 1024;
        uint64_t *grown = realloc(file->tensor_bytes, capacity * sizeof *grown);
        if (!grown)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for the index of %zu tensors", capacity);
        file->tensor_bytes = grown;
        file->tensor_capacity = capacity;
    }
    file->tensor_bytes[file->n_tensors++] = bytes;
    return 0;
}

int gguf_write_tensor(struct gguf_write *file, const char *name, enum lode_type type, uint32_t n_dims,
                      const uint64_t *ne, struct lode_error *error)
{
    assert(file->phase != DATA && file->n_items_due == 0);
    file->phase = TENSORS;
    uint64_t bytes;
    int rc = report(file, error);
    if (!rc)
        rc = measure(file, name, type, n_dims, ne, &bytes, error);
    if (!rc)
        rc = remember_tensor(file, bytes, error);
    if (rc)
        return rc;
    put_text(file, name, strlen(name));
    put_u32(file, n_dims);
    put(file, ne, n_dims * sizeof *ne);
    put_u32(file, type);
    put_u64(file, file->data_bytes);
    file->data_bytes = (file->data_bytes + bytes + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
    return report(file, error);
}

static void reserve(struct gguf_write *file)
{
    if (!file->path || !file->temporary || file->failure.code)
        return;
    while (fallocate(file->fd, 0, 0, (off_t)file->total_bytes) != 0) {
        if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
            fail_full(file, errno);
        if (errno != EINTR) // file systems that cannot reserve report a full disk when it is full
            return;
    }
}

// Tensors of no bytes are complete before anything is written to them.
static void skip_complete(struct gguf_write *file)
{
    while (file->tensor_at < file->n_tensors &&
           file->tensor_done_bytes == file->tensor_bytes[file->tensor_at]) {
        put_padding(file);
        file->tensor_at++;
        file->tensor_done_bytes = 0;
    }
}

int gguf_write_begin_data(struct gguf_write *file, struct lode_error *error)
{
    assert(file->phase != DATA && file->n_items_due == 0);
    file->phase = DATA;
    put_padding(file);
    file->total_bytes = position(file) + file->data_bytes;
    reserve(file);
    skip_complete(file);
    return report(file, error);
}

int gguf_write_data(struct gguf_write *file, const void *bytes, size_t size_bytes, struct lode_error *error)
{
    assert(file->phase == DATA && file->tensor_at < file->n_tensors);
    assert(size_bytes <= file->tensor_bytes[file->tensor_at] - file->tensor_done_bytes);
    put(file, bytes, size_bytes);
    file->tensor_done_bytes += size_bytes;
    skip_complete(file);
    return report(file, error);
}

uint64_t gguf_write_size_bytes(const struct gguf_write *file)
{
    return file->total_bytes;
}

// ---- the file -----------------------------------------------------------------------------------

static int create_temporary(struct gguf_write *file, struct lode_error *error)
{
    const size_t capacity = strlen(file->path) + 40;
    file->temporary = malloc(capacity);
    if (!file->temporary)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", file->path);
    file->fd = -1;
    for (int attempt = 0; attempt < MAX_TEMPORARY_NAMES && file->fd < 0; attempt++) {
        snprintf(file->temporary, capacity, "%s.partial-%ld-%d", file->path, (long)getpid(), attempt);
        file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->fd < 0 && errno != EEXIST)
            break;
    }
    if (file->fd >= 0)
        return 0;
    lode_fail(error, LODE_ERR_IO, "cannot create %s: %s", file->temporary, strerror(errno));
    free(file->temporary); // the name is another's
    file->temporary = NULL;
    return LODE_ERR_IO;
}

static int open_target(struct gguf_write *file, const char *path, struct lode_error *error)
{
    file->path = strdup(path);
    if (!file->path)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    struct stat target;
    if (stat(path, &target) == 0 && S_ISDIR(target.st_mode))
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s is a directory; name a file in it", path);
    if (stat(path, &target) != 0 || S_ISREG(target.st_mode))
        return create_temporary(file, error);
    file->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    return file->fd < 0 ? lode_fail(error, LODE_ERR_IO, "cannot open %s: %s", path, strerror(errno)) : 0;
}

int gguf_write_create(struct gguf_write **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    struct gguf_write *file = calloc(1, sizeof *file);
    if (!file || !(file->buffer = malloc(BUFFER_BYTES))) {
        free(file);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path ? path : "a GGUF file");
    }
    file->fd = -1;
    int rc = path ? open_target(file, path, error) : 0;
    if (rc) {
        gguf_write_abort(file);
        return rc;
    }
    put(file, "GGUF", 4);
    put_u32(file, 3);
    put_u64(file, 0);
    put_u64(file, 0);
    *out = file;
    return 0;
}

static void put_counts(struct gguf_write *file)
{
    const uint64_t counts[2] = {file->n_tensors, file->n_pairs};
    if (!file->path || file->failure.code)
        return;
    ssize_t written = pwrite(file->fd, counts, sizeof counts, COUNTS_OFFSET);
    if (written < 0)
        fail_write(file, errno);
    else if (written != sizeof counts)
        lode_fail(&file->failure, LODE_ERR_IO, "cannot write the head of %s completely", file->path);
}

static void sync_directory(struct gguf_write *file)
{
    const char *slash = strrchr(file->path, '/');
    size_t len = !slash ? 0 : slash == file->path ? 1 : (size_t)(slash - file->path);
    char *directory = len ? strndup(file->path, len) : strdup(".");
    int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0 || fsync(fd) != 0)
        lode_fail(&file->failure, LODE_ERR_IO, "cannot make the name %s last: %s", file->path,
                  strerror(errno));
    if (fd >= 0)
        close(fd);
    free(directory);
}

// close reports late failures of network file systems.
static void close_file(struct gguf_write *file, bool sync)
{
    if (file->fd < 0)
        return;
    if (sync && !file->failure.code && fsync(file->fd) != 0 && file->temporary)
        fail_write(file, errno);
    if (close(file->fd) != 0 && !file->failure.code)
        fail_write(file, errno);
    file->fd = -1;
}

static void give_name(struct gguf_write *file, bool sync)
{
    if (!file->temporary || file->failure.code)
        return;
    if (rename(file->temporary, file->path) != 0) {
        lode_fail(&file->failure, LODE_ERR_IO, "cannot rename %s to %s: %s", file->temporary, file->path,
                  strerror(errno));
        return;
    }
    free(file->temporary);
    file->temporary = NULL;
    if (sync)
        sync_directory(file);
}

int gguf_write_finish(struct gguf_write *file, bool sync, struct lode_error *error)
{
    assert(file->phase == DATA && file->tensor_at == file->n_tensors);
    flush(file);
    put_counts(file);
    close_file(file, sync);
    give_name(file, sync);
    int rc = report(file, error);
    gguf_write_abort(file);
    return rc;
}

void gguf_write_abort(struct gguf_write *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    if (file->temporary)
        unlink(file->temporary);
    free(file->temporary);
    free(file->path);
    free(file->tensor_bytes);
    free(file->buffer);
    free(file);
}
