// Opens files: for direct reads where their file system can, and for reads through the page cache in any
// case, because a file system may take O_DIRECT at open and refuse the read.
#include "io/io_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Logical blocks are never smaller, and hardly a drive reads less at once.
#define LEAST_ALIGN_BYTES 512

static int open_buffered(struct io_copy *copy, struct stat *status, enum io_cache_use cache,
                         struct lode_error *error)
{
    int fd = open(copy->path, O_RDONLY | O_CLOEXEC);
    copy->fds[IO_FD_BUFFERED] = fd;
    if (fd < 0)
        return lode_fail(error, LODE_ERR_IO, "cannot open %s: %s", copy->path, strerror(errno));
    if (fstat(fd, status) != 0)
        return lode_fail(error, LODE_ERR_IO, "cannot read the size of %s: %s", copy->path, strerror(errno));
    if (!S_ISREG(status->st_mode))
        return lode_fail(error, LODE_ERR_IO, "%s is %s; give the path of a regular file", copy->path,
                         S_ISDIR(status->st_mode) ? "a directory" : "no regular file");
    // Cold reads into the page cache on a virtual disk, 4 and 16 threads, pieces of 1 MiB: 1.9 GB/s with
    // SEQUENTIAL, 1.4 without. Where pages are dropped behind, a read-ahead would be dropped unread: RANDOM.
    posix_fadvise(fd, 0, 0, cache == IO_CACHE_POPULATE ? POSIX_FADV_SEQUENTIAL : POSIX_FADV_RANDOM);
    return 0;
}

// What the kernel says of direct reads of a file: false when it says that there are none. Kernels before 6.1
// and some file systems say nothing.
static bool ask_alignment(int fd, uint64_t *align_bytes)
{
    *align_bytes = IO_ALIGN_BYTES;
#ifdef STATX_DIOALIGN
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0 || !(status.stx_mask & STATX_DIOALIGN))
        return true;
    uint64_t align = status.stx_dio_offset_align;
    if (align == 0)
        return false;
    if (align < status.stx_dio_mem_align)
        align = status.stx_dio_mem_align;
    if (align < LEAST_ALIGN_BYTES)
        align = LEAST_ALIGN_BYTES;
    *align_bytes = align;
    return align <= IO_ALIGN_BYTES && (align & (align - 1)) == 0;
#else
    (void)fd;
    return true;
#endif
}

static bool can_read_directly(int fd, uint64_t align_bytes)
{
    void *memory;
    if (posix_memalign(&memory, IO_ALIGN_BYTES, IO_ALIGN_BYTES) != 0)
        return false;
    bool works = pread(fd, memory, align_bytes, 0) >= 0 || errno != EINVAL;
    free(memory);
    return works;
}

static bool open_direct(struct io_copy *copy)
{
    uint64_t align_bytes;
    if (!ask_alignment(copy->fds[IO_FD_BUFFERED], &align_bytes))
        return false;
    int fd = open(copy->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0)
        return false;
    if (!can_read_directly(fd, align_bytes)) {
        close(fd);
        return false;
    }
    copy->fds[IO_FD_DIRECT] = fd;
    copy->align_bytes = (uint32_t)align_bytes;
    atomic_store(&copy->direct, true);
    return true;
}

static void note_cached(struct io_files *files, const struct io_copy *copy)
{
    if (!files->why_cached[0])
        snprintf(files->why_cached, sizeof files->why_cached, "the file system of %s has no direct reads",
                 copy->path);
}

static struct io_drive *find_drive(struct io_files *files, dev_t device, uint32_t copy)
{
    for (uint32_t i = 0; i < files->n_drives; i++) {
        if (files->drives[i].device == device && files->drives[i].copy == copy)
            return &files->drives[i];
    }
    struct io_drive *drive = &files->drives[files->n_drives++];
    io_drive_init(drive, device, copy);
    return drive;
}

static int open_copy(struct io_files *files, struct io_file *file, const char *path, enum io_cache_use cache,
                     struct lode_error *error)
{
    struct io_copy *copy = &file->copies[file->n_copies++];
    copy->fds[IO_FD_BUFFERED] = copy->fds[IO_FD_DIRECT] = -1;
    copy->path = strdup(path);
    if (!copy->path)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open %s", path);
    struct stat status = {0};
    int code = open_buffered(copy, &status, cache, error);
    if (code != 0)
        return code;
    uint64_t size_bytes = (uint64_t)status.st_size;
    if (file->n_copies == 1)
        file->size_bytes = size_bytes;
    else if ((code = io_mirror_check(file, size_bytes, error)) != 0)
        return code;
    copy->drive = find_drive(files, status.st_dev, file->n_copies - 1);
    if ((cache == IO_CACHE_AUTO || cache == IO_CACHE_BYPASS) && !open_direct(copy)) {
        note_cached(files, copy);
        if (cache == IO_CACHE_BYPASS)
            return lode_fail(error, LODE_ERR_UNSUPPORTED,
                             "%s; read the file through the page cache, or move it to another file system",
                             files->why_cached);
    }
    return 0;
}

int io_files_open(struct io_files **out, const char *const *paths, const char *const *mirrors,
                  uint32_t n_paths, enum io_cache_use cache, struct lode_error *error)
{
    struct io_files *files = calloc(1, sizeof *files + n_paths * sizeof files->list[0]);
    struct io_drive *drives = calloc((size_t)n_paths * IO_COPIES_MAX, sizeof *drives);
    if (!files || !drives) {
        free(files);
        free(drives);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of %u files", n_paths);
    }
    files->drives = drives;
    int code = 0;
    while (code == 0 && files->n_files < n_paths) {
        uint32_t i = files->n_files++;
        struct io_file *file = &files->list[i];
        file->drops_pages = cache != IO_CACHE_POPULATE;
        code = open_copy(files, file, paths[i], cache, error);
        if (code == 0 && mirrors && mirrors[i])
            code = open_copy(files, file, mirrors[i], cache, error);
    }
    if (code != 0) {
        io_files_close(files);
        return code;
    }
    *out = files;
    return 0;
}

static void close_copy(struct io_copy *copy)
{
    for (int i = 0; i < IO_FDS_PER_COPY; i++) {
        if (copy->fds[i] >= 0)
            close(copy->fds[i]);
    }
    free(copy->path);
}

void io_files_close(struct io_files *files)
{
    if (!files)
        return;
    for (uint32_t i = 0; i < files->n_files; i++) {
        for (uint32_t copy = 0; copy < files->list[i].n_copies; copy++)
            close_copy(&files->list[i].copies[copy]);
    }
    free(files->drives);
    free(files);
}

static uint32_t count_copies(const struct io_files *files, bool direct)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < files->n_files; i++) {
        for (uint32_t copy = 0; copy < files->list[i].n_copies; copy++)
            n += atomic_load(&files->list[i].copies[copy].direct) == direct;
    }
    return n;
}

bool io_files_all_direct(const struct io_files *files)
{
    return count_copies(files, false) == 0;
}

bool io_files_any_direct(const struct io_files *files)
{
    return count_copies(files, true) > 0;
}

void io_files_note_refusals(struct io_files *files)
{
    for (uint32_t i = 0; i < files->n_files; i++) {
        for (uint32_t c = 0; c < files->list[i].n_copies; c++) {
            const struct io_copy *copy = &files->list[i].copies[c];
            if (copy->fds[IO_FD_DIRECT] >= 0 && !atomic_load(&copy->direct))
                note_cached(files, copy);
        }
    }
}
