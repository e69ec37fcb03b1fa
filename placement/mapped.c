// Mapping model files; see mapped.h.
//
// What the kernel is told is what llama.cpp tells it: reads of the descriptor are sequential
// (POSIX_FADV_SEQUENTIAL), which doubles the window that a page fault reads around it, and the mapping itself
// gets no advice. Advice of random access would be worse for the baseline: an expert is megabytes in a row,
// and without a window each 4 KiB of it were a read of their own.
#include "placement/mapped.h"

#include "backends/backend.h"
#include "base/checked.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES IO_ALIGN_BYTES
// Between two looks at whether to stop: 30 ms at 2 GB/s.
#define CHUNK_BYTES ((uint64_t)64 << 20)

_Static_assert(LODE_DEVICE_SLACK <= PAGE_BYTES,
               "the page behind a file holds what a device reads beyond a part");

struct file {
    char *memory, *path;
    uint64_t bytes, mapped_bytes; // mapped: whole pages, and one behind
};

struct mapped {
    uint32_t n_files;
    struct file files[];
};

// ---- mapping
// -------------------------------------------------------------------------------------------------

static int fail_at(const struct file *file, const char *what, struct lode_error *error)
{
    return lode_fail(error, errno == ENOMEM ? LODE_ERR_MEMORY : LODE_ERR_IO, "cannot %s %s: %s", what,
                     file->path, strerror(errno));
}

// The file lies over the beginning of a larger stretch of zeros, so that what is read beyond its end is
// there.
static int map_descriptor(struct file *file, int fd, struct lode_error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_at(file, "look at", error);
    if (!S_ISREG(status.st_mode) || status.st_size <= 0)
        return lode_fail(error, LODE_ERR_IO, "cannot map %s: it is no regular file, or empty", file->path);
    file->bytes = (uint64_t)status.st_size;
    if (!checked_align(&file->mapped_bytes, file->bytes, PAGE_BYTES) ||
        !checked_add(&file->mapped_bytes, file->mapped_bytes, PAGE_BYTES) || file->mapped_bytes > SIZE_MAX)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot map %s: it is larger than addresses reach",
                         file->path);
    void *memory =
        mmap(NULL, (size_t)file->mapped_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return fail_at(file, "map", error);
    file->memory = memory;
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); // a refusal costs speed only
    if (mmap(memory, (size_t)file->bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return fail_at(file, "map", error);
    return 0;
}

static int map_file(struct file *file, const char *path, struct lode_error *error)
{
    file->path = strdup(path);
    if (!file->path)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to map %s", path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_at(file, "open", error);
    const int code = map_descriptor(file, fd, error);
    close(fd); // the mapping keeps the file, and the advice with it
    return code;
}

int mapped_open(struct mapped **out, const char *const *paths, uint32_t n_paths, struct lode_error *error)
{
    *out = NULL;
    struct mapped *mapped = calloc(1, sizeof *mapped + n_paths * sizeof mapped->files[0]);
    if (!mapped)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to map %" PRIu32 " files", n_paths);
    int code = 0;
    for (uint32_t i = 0; i < n_paths && code == 0; i++) {
        mapped->n_files++;
        code = map_file(&mapped->files[i], paths[i], error);
    }
    if (code != 0) {
        mapped_close(mapped);
        return code;
    }
    *out = mapped;
    return 0;
}

void mapped_close(struct mapped *mapped)
{
    if (!mapped)
        return;
    for (uint32_t i = 0; i < mapped->n_files; i++) {
        struct file *file = &mapped->files[i];
        if (file->memory)
            munmap(file->memory, (size_t)file->mapped_bytes);
        free(file->path);
    }
    free(mapped);
}

uint64_t mapped_bytes(const struct mapped *mapped)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < mapped->n_files; i++)
        sum += mapped->files[i].bytes;
    return sum;
}

// ---- units
// ---------------------------------------------------------------------------------------------------

static int place_part(void **out, const struct mapped *mapped, const struct unit_table *table, uint32_t unit,
                      const struct extent *part, struct lode_error *error)
{
    uint64_t end;
    if (part->file < mapped->n_files && checked_add(&end, part->offset, part->bytes) &&
        end <= mapped->files[part->file].bytes) {
        *out = mapped->files[part->file].memory + part->offset;
        return 0;
    }
    char name[128];
    return lode_fail(error, LODE_ERR_FORMAT,
                     "%s: %" PRIu64 " bytes at offset %" PRIu64
                     " end beyond file %u; the file is incomplete, "
                     "fetch it again",
                     unit_table_name(table, unit, name, sizeof name), part->bytes, part->offset, part->file);
}

int mapped_place(struct homes *out, void **parts, const struct mapped *mapped, const struct unit_table *table,
                 struct lode_error *error)
{
    *out = (struct homes){.home = calloc(table->n_units + 1, 1)}; // all HOME_PINNED
    if (!out->home)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the homes of %u units", table->n_units);
    int code = 0;
    for (uint32_t u = 0; u < table->n_units && code == 0; u++) {
        const struct unit *unit = &table->units[u];
        out->home[u] = HOME_PINNED;
        for (uint32_t i = unit->first_part; i < unit->first_part + unit->n_parts && code == 0; i++)
            code = place_part(&parts[i], mapped, table, u, &table->parts[i], error);
    }
    if (code != 0)
        homes_free(out);
    return code;
}

// ---- loading
// -------------------------------------------------------------------------------------------------

// Unlike touching, the call tells of a page that cannot be read; a kernel before 5.14 does not know it.
static int populate(char *memory, uint64_t bytes)
{
#ifdef MADV_POPULATE_READ
    int refused = 0;
    do
        refused = madvise(memory, (size_t)bytes, MADV_POPULATE_READ) != 0 ? errno : 0;
    while (refused == EINTR || refused == EAGAIN);
    if (refused != EINVAL) {
        errno = refused;
        return refused ? -1 : 0;
    }
#endif
    for (uint64_t at = 0; at < bytes; at += PAGE_BYTES)
        (void)*(volatile char *)(memory + at);
    return 0;
}

int mapped_load(const struct mapped *mapped, bool (*on_progress)(void *user, uint64_t done, uint64_t total),
                void *user, struct lode_error *error)
{
    const uint64_t total_bytes = mapped_bytes(mapped);
    uint64_t done_bytes = 0;
    for (uint32_t i = 0; i < mapped->n_files; i++) {
        const struct file *file = &mapped->files[i];
        for (uint64_t at = 0; at < file->bytes; at += CHUNK_BYTES) {
            const uint64_t left = file->bytes - at, bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;
            if (on_progress && !on_progress(user, done_bytes, total_bytes))
                return lode_fail(error, LODE_ERR_CANCELLED, "loading was cancelled");
            if (populate(file->memory + at, bytes) != 0)
                return fail_at(file, "read", error);
            done_bytes += bytes;
        }
    }
    if (on_progress && !on_progress(user, total_bytes, total_bytes))
        return lode_fail(error, LODE_ERR_CANCELLED, "loading was cancelled");
    return 0;
}
