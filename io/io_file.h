// The files of an io: descriptors, what direct reads need, second copies.
#ifndef LODE_IO_FILE_H
#define LODE_IO_FILE_H

#include "io/io.h"
#include "io/io_drive.h"

#include <stdatomic.h>

#define IO_COPIES_MAX 2

enum io_descriptor { IO_FD_BUFFERED = 0, IO_FD_DIRECT = 1 };
#define IO_FDS_PER_COPY 2

struct io_copy {
    char *path;
    int fds[IO_FDS_PER_COPY]; // -1 when not open
    uint32_t align_bytes;     // of offsets, lengths and addresses of direct reads: a power of two
    // Whether to read directly. Falls to false once, when a file system takes O_DIRECT and refuses the read.
    atomic_bool direct;
    struct io_drive *drive;
};

struct io_file {
    uint64_t size_bytes; // when it was opened
    bool drops_pages;    // that reads through the page cache have left there
    uint32_t n_copies;
    struct io_copy copies[IO_COPIES_MAX];
};

struct io_files {
    uint32_t n_files, n_drives;
    struct io_drive *drives;
    char why_cached[512]; // empty when every file is read as was asked for
    struct io_file list[];
};

int io_files_open(struct io_files **out, const char *const *paths, const char *const *mirrors,
                  uint32_t n_paths, enum io_cache_use cache, struct lode_error *error);
void io_files_close(struct io_files *files);

// Whether every copy, or any, is read directly.
bool io_files_all_direct(const struct io_files *files);
bool io_files_any_direct(const struct io_files *files);

// Puts down why a file that could be opened for direct reads is not read directly any more.
void io_files_note_refusals(struct io_files *files);

// Fails unless a second copy has the size and, at samples, the content of the first.
int io_mirror_check(const struct io_file *file, uint64_t copy_size_bytes, struct lode_error *error);

#endif
