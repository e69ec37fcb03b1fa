// Asynchronous reads of byte ranges from a set of files.
//
// The caller submits requests and reaps completions; it needs no alignment. Every completion carries a
// status: a failed or short read is retried once and then reported with the file, the offset and the reason.
// A buffer whose completion is not a success must not be used. One thread submits and reaps.
#ifndef LODE_IO_H
#define LODE_IO_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io;

enum io_priority { IO_DEMAND = 0, IO_PREFETCH = 1 }; // demand overtakes prefetch that has not started

struct io_request {
    uint32_t file; // index in the list given to io_open
    uint64_t offset;
    size_t length; // at least 1
    void *buffer;
    uint64_t tag; // the caller's; several requests may share one
    enum io_priority priority;
};

enum io_status { IO_DONE = 0, IO_FAILED = 1, IO_CANCELLED = 2 };

struct io_completion {
    uint64_t tag;
    enum io_status status;
    struct lode_error error; // filled when the status is IO_FAILED
};

struct io_options {
    uint32_t queue_depth; // reads in flight at once; 0: 8
};

// Opens the files for reading. `paths` is copied.
int io_open(struct io **out, const char *const *paths, uint32_t n_paths, const struct io_options *options,
            struct lode_error *error);

// Waits for what is in flight, drops what is not, closes the files.
void io_close(struct io *io);

// When it was opened; 0 for an index that has no file.
uint64_t io_file_size_bytes(const struct io *io, uint32_t file);

// Queues a request; the buffer belongs to the room until its completion is reaped. Requests are cut into
// pieces as the engine likes and complete as one. Fails only for a request outside its file or without
// memory.
int io_submit(struct io *io, const struct io_request *request, struct lode_error *error);

// Drops the requests with this tag that have not started; they complete as IO_CANCELLED. Others run to their
// end.
void io_cancel(struct io *io, uint64_t tag);

// Waits until at least `min` completions are there or the time is over (timeout_ns < 0: for ever; 0: poll),
// then takes at most `max`. Returns how many; fewer than `min` when the time is over or nothing is pending.
uint32_t io_reap(struct io *io, struct io_completion *out, uint32_t max, uint32_t min, int64_t timeout_ns);

// Requests that were submitted and not reaped.
uint32_t io_pending(const struct io *io);

#endif
