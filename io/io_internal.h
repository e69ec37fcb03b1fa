// Inside of the io room: what the common part (io.c) and the engines share.
//
// The common part makes jobs of requests, checks them and tells their outcome. The queue holds them. An
// engine takes pieces from the queue, reads them and gives them back to it; it goes on by itself, for the
// caller computes between submitting and reaping.
#ifndef LODE_IO_INTERNAL_H
#define LODE_IO_INTERNAL_H

#include "io/io.h"
#include "io/io_queue.h"

struct io_engine;

struct io_engine_ops {
    const char *name;
    // Waits for the reads in flight; the others are not started. Without the lock.
    void (*close)(struct io_engine *engine);
    // Says that pieces were queued. With the lock.
    void (*wake)(struct io_engine *engine);
    // Waits until n_wanted jobs of the queue have ended or the deadline (as io_queue_wait) has passed. With
    // the lock, which it gives up meanwhile.
    void (*wait)(struct io_engine *engine, int64_t deadline_ns);
    // Of an engine in virtual time, which does not go on by itself; NULL: the machine's clock. `catch_up`
    // does all that has happened until now, before anything else may happen; with the lock.
    uint64_t (*now_ns)(const struct io_engine *engine);
    void (*catch_up)(struct io_engine *engine);
    // As io_register and io_unregister; may be NULL. Without the lock.
    bool (*add_memory)(struct io_engine *engine, void *memory, size_t bytes);
    void (*drop_memory)(struct io_engine *engine);
};

struct io_engine {
    const struct io_engine_ops *ops;
    struct io_queue *queue;
};

// How threads read: as pread, with minus an errno for a failure. Called by several threads at once.
typedef int64_t (*io_read_fn)(void *user, int fd, void *buffer, size_t length, uint64_t offset);

int64_t io_pread(void *user, int fd, void *buffer, size_t length, uint64_t offset);

// What stands between the engines and the files in tests. Threads read with `read`. The ring cannot be read
// for: it asks `begin` before each read, which may make it wait, and passes the result through `end`.
struct io_delay {
    int until_readable_fd; // < 0: none
    int64_t delay_ns;
    uint64_t cookie; // handed to `end`
};

struct io_hooks {
    io_read_fn read;
    void (*begin)(void *user, struct io_delay *out, int fd, size_t length, uint64_t offset);
    int64_t (*end)(void *user, uint64_t cookie, void *buffer, int64_t result);
    void *user;
};

// Engines have the queue and the hooks (NULL: none) only as long as they are open.
int io_threads_open(struct io_engine **out, struct io_queue *queue, uint32_t n_threads,
                    const struct io_hooks *hooks, struct lode_error *error);

// Fails with LODE_ERR_UNSUPPORTED and the reason where io_uring cannot be used.
int io_ring_open(struct io_engine **out, struct io_queue *queue, uint32_t queue_depth,
                 const struct io_hooks *hooks, struct lode_error *error);

// An io over files that it takes over, also when it fails, with an engine that `open` makes.
typedef int (*io_engine_open_fn)(struct io_engine **out, struct io_queue *queue, uint32_t queue_depth,
                                 const void *user, struct lode_error *error);

int io_open_over(struct io **out, struct io_files *files, uint32_t queue_depth, io_engine_open_fn open,
                 const void *user, struct lode_error *error);

// io_open with hooks below the engine. IO_ENGINE_AUTO means threads when the hooks have no `begin`.
int io_open_hooked(struct io **out, const char *const *paths, uint32_t n_paths,
                   const struct io_options *options, const struct io_hooks *hooks, struct lode_error *error);

// io_open on threads that read with a function of the caller's.
int io_open_with(struct io **out, const char *const *paths, uint32_t n_paths,
                 const struct io_options *options, io_read_fn read, void *user, struct lode_error *error);

#endif
