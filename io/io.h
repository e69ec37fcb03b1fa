// Asynchronous reads of byte ranges from a set of files.
//
// The caller submits requests and reaps completions; it needs no alignment. Every completion carries a
// status: a failed or short read is retried once and then reported with the file, the offset and the reason.
// A buffer whose completion is not a success must not be used. One thread submits and reaps; reading goes on
// by itself while that thread computes.
//
// Two engines do the reading: io_uring, and threads that pread where the kernel or a container does not allow
// io_uring. Files are read past the page cache (O_DIRECT) where their file system can, else through it with
// the pages dropped behind.
#ifndef LODE_IO_H
#define LODE_IO_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io;
struct lode_timeline;

// What a direct read needs of offsets, lengths and addresses, at most.
#define IO_ALIGN_BYTES ((uint64_t)4096)

enum io_priority {
    IO_DEMAND = 0,   // somebody waits for it
    IO_AHEAD = 1,    // certain to be needed: at full queue depth while no demand waits
    IO_PREFETCH = 2, // a guess: a few reads at a time, and only while nothing else waits
};
#define IO_PRIORITIES 3

struct io_request {
    uint32_t file; // index in the list given to io_open
    uint64_t offset;
    size_t length; // at least 1
    void *buffer;
    uint64_t tag; // the caller's; several requests may share one
    enum io_priority priority;
    // The memory around the buffer, out to multiples of IO_ALIGN_BYTES on both sides, is the request's too.
    // If besides buffer and offset are equal modulo IO_ALIGN_BYTES, a direct read goes straight into the
    // buffer; else it goes through memory of the room and is copied.
    bool padded;
    uint32_t told_layer; // of the caller's, for a timeline: 1 + the layer that it is of; 0: none
};

// Bytes that a buffer takes whose address is equal to the offset modulo IO_ALIGN_BYTES, with its padding.
static inline uint64_t io_padded_bytes(uint64_t offset, uint64_t length)
{
    uint64_t head_bytes = offset % IO_ALIGN_BYTES;
    return (head_bytes + length + IO_ALIGN_BYTES - 1) / IO_ALIGN_BYTES * IO_ALIGN_BYTES;
}

enum io_status { IO_DONE = 0, IO_FAILED = 1, IO_CANCELLED = 2 };

struct io_completion {
    uint64_t tag;
    enum io_status status;
    uint64_t begun_bytes;    // of the request, that had been begun to be read: all when it is done
    struct lode_error error; // filled when the status is IO_FAILED
};

enum io_engine_kind {
    IO_ENGINE_AUTO, // io_uring where it is allowed, else threads
    IO_ENGINE_URING,
    IO_ENGINE_THREADS,
};

enum io_cache_use {
    IO_CACHE_AUTO,     // as IO_CACHE_BYPASS where the file system can, else as IO_CACHE_DROP
    IO_CACHE_BYPASS,   // O_DIRECT; io_open fails where the file system cannot
    IO_CACHE_DROP,     // through the page cache, dropping pages behind
    IO_CACHE_POPULATE, // through the page cache, for the next program that reads the files
};

// Long requests are cut into pieces, each of which is a read in flight.
// Small, so that a demand waits behind little (16 reads in flight are 4 ms at 2 GB/s) and one request is
// spread over both copies; large enough to cost little. Requests of 3.3 MB in pieces of 256 KiB, 512 KiB, 1
// MiB and whole, with 4, 16 and 32 reads in flight, read a virtual disk equally fast: 0.8 to 1.0 GB/s, as fio
// did, with a spread of 0.2 between runs; they took 11, 9, 9 and 7% of a core.
#define IO_PIECE_BYTES ((size_t)512 << 10)
#define IO_QUEUE_DEPTH 16

struct io_options {
    uint32_t queue_depth; // reads in flight at once; 0: IO_QUEUE_DEPTH
    enum io_engine_kind engine;
    enum io_cache_use cache;
    // NULL, or for each file NULL or the path of a second copy, on another drive: reads go to whichever copy
    // is expected to deliver first. io_open fails when the size or a sample of the content differs.
    const char *const *mirrors;
};

// Opens the files for reading. `paths` is copied.
int io_open(struct io **out, const char *const *paths, uint32_t n_paths, const struct io_options *options,
            struct lode_error *error);

// Waits for what is in flight, drops what is not, closes the files.
void io_close(struct io *io);

// What io_open chose. Texts are valid as long as the io.
struct io_choice {
    const char *engine;      // "io_uring" or "threads"; "simulated"
    const char *why_threads; // set when AUTO wanted io_uring: "io_uring is not permitted here (EPERM)"
    bool direct;             // all files
    const char *why_cached;  // set when AUTO wanted O_DIRECT: "the file system of FILE has no direct reads"
    uint32_t queue_depth;
};

void io_describe(const struct io *io, struct io_choice *out);

// When it was opened; 0 for an index that has no file.
uint64_t io_file_size_bytes(const struct io *io, uint32_t file);

// Tells that many buffers will lie in this memory: an engine that can makes it known to the kernel, which
// then need not look its pages up for each read. Where that is refused (a limit on locked memory) reads work
// as before: false is returned. No request may be pending.
bool io_register(struct io *io, void *memory, size_t bytes);
void io_unregister(struct io *io); // all of it; before the memory is freed

// Queues a request; the buffer belongs to the room until its completion is reaped. Requests are cut into
// pieces as the engine likes and complete as one. Fails only for a request outside its file or without
// memory.
int io_submit(struct io *io, const struct io_request *request, struct lode_error *error);

// Raises what has not been read yet of the requests with this tag to a priority.
void io_promote(struct io *io, uint64_t tag, enum io_priority priority);

// Drops the requests with this tag that have not started; they complete as IO_CANCELLED. A request of
// IO_PREFETCH that has started is not continued, and completes as IO_CANCELLED too when pieces are missing;
// others run to their end.
void io_cancel(struct io *io, uint64_t tag);

// Waits until at least `min` completions are there or the time is over (timeout_ns < 0: for ever; 0: poll),
// then takes at most `max`. Returns how many; fewer than `min` when the time is over or nothing is pending.
uint32_t io_reap(struct io *io, struct io_completion *out, uint32_t max, uint32_t min, int64_t timeout_ns);

// Requests that were submitted and not reaped.
uint32_t io_pending(const struct io *io);

// The present, in the time that this io reads in: the machine's monotonic clock, or the virtual one of a
// simulated drive (io_sim.h). Only differences mean something; never 0.
uint64_t io_now_ns(const struct io *io);

// From now on requests are told as spans on a lane of rows of the timeline, until it is NULL: from when the
// first piece was handed to the drive until the last one was back, with the bytes that were asked for. The
// span's name is the request's priority at its end. The lane is this io's alone.
void io_tell_timeline(struct io *io, struct lode_timeline *timeline, uint32_t lane);

struct io_counters {
    uint64_t read_bytes;    // that came from the files, alignment included
    uint64_t reads;         // system reads, or entries of the ring
    uint64_t retried_reads; // after an error or a short read
    uint64_t failed_requests;
    uint64_t busy_ns;      // time with at least one read in flight
    uint64_t mirror_bytes; // of read_bytes, from second copies
};

// May be called at any time.
void io_count(const struct io *io, struct io_counters *out);

#endif
