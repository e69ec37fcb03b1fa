// An engine of threads that pread: for systems that do not allow io_uring.
//
// Each thread reads one piece at a time, so a large job is read by several threads and demand overtakes by at
// most one piece a thread. The queue depth is the number of threads.
#include "io/io_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct io_threads;

struct io_thread {
    struct io_threads *engine;
    pthread_t id;
};

struct io_threads {
    struct io_engine base;
    io_read_fn read;
    void *user;
    pthread_cond_t work; // pieces were queued, or the engine stops
    uint32_t n_threads;
    struct io_thread threads[];
};

int64_t io_pread(void *user, int fd, void *buffer, size_t length, uint64_t offset)
{
    (void)user;
    ssize_t n = pread(fd, buffer, length, (off_t)offset);
    return n < 0 ? -errno : n;
}

// With the lock, which is given up while reading.
static void read_piece(struct io_threads *engine, struct io_piece *piece)
{
    struct io_queue *queue = engine->base.queue;
    do {
        const struct io_read *read = &piece->read;
        pthread_mutex_unlock(&queue->lock);
        int64_t result = engine->read(engine->user, read->fd, read->buffer, read->length, read->offset);
        io_piece_take(piece, result);
        pthread_mutex_lock(&queue->lock);
    } while (io_queue_continue(queue, piece));
}

static void *read_pieces(void *argument)
{
    struct io_thread *thread = argument;
    struct io_threads *engine = thread->engine;
    struct io_queue *queue = engine->base.queue;
    uint32_t slot = (uint32_t)(thread - engine->threads);
    struct io_piece piece;
    pthread_mutex_lock(&queue->lock);
    while (!queue->closing) {
        if (!io_queue_start(queue, &piece, slot)) {
            pthread_cond_wait(&engine->work, &queue->lock);
            continue;
        }
        // A sleeping thread is not told when the last demand is under way and prefetch may start.
        if (io_queue_can_start(queue))
            pthread_cond_signal(&engine->work);
        read_piece(engine, &piece);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

static struct io_threads *threads_of(struct io_engine *engine)
{
    return (struct io_threads *)engine;
}

static void threads_wake(struct io_engine *base)
{
    pthread_cond_broadcast(&threads_of(base)->work);
}

static void threads_wait(struct io_engine *base, int64_t deadline_ns)
{
    struct io_queue *queue = base->queue;
    while (queue->n_ended < queue->n_wanted && io_queue_wait(queue, deadline_ns))
        continue;
}

static void threads_close(struct io_engine *base)
{
    struct io_threads *engine = threads_of(base);
    pthread_mutex_lock(&base->queue->lock);
    base->queue->closing = true;
    pthread_cond_broadcast(&engine->work);
    pthread_mutex_unlock(&base->queue->lock);
    for (uint32_t i = 0; i < engine->n_threads; i++)
        pthread_join(engine->threads[i].id, NULL);
    pthread_cond_destroy(&engine->work);
    free(engine);
}

static const struct io_engine_ops threads_ops = {
    .name = "threads",
    .close = threads_close,
    .wake = threads_wake,
    .wait = threads_wait,
};

// Signals are the caller's business: a handler must not run on a thread that it does not know of.
static int start_threads(struct io_threads *engine, uint32_t n_threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    while (failure == 0 && engine->n_threads < n_threads) {
        struct io_thread *thread = &engine->threads[engine->n_threads];
        thread->engine = engine;
        failure = pthread_create(&thread->id, NULL, read_pieces, thread);
        if (failure == 0)
            engine->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

int io_threads_open(struct io_engine **out, struct io_queue *queue, uint32_t n_threads,
                    const struct io_hooks *hooks, struct lode_error *error)
{
    struct io_threads *engine = calloc(1, sizeof *engine + n_threads * sizeof engine->threads[0]);
    if (!engine)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u reading threads", n_threads);
    engine->base.ops = &threads_ops;
    engine->base.queue = queue;
    engine->read = hooks ? hooks->read : io_pread;
    engine->user = hooks ? hooks->user : NULL;
    pthread_cond_init(&engine->work, NULL);
    int failure = start_threads(engine, n_threads);
    if (failure) {
        uint32_t started = engine->n_threads;
        threads_close(&engine->base);
        return lode_fail(
            error, LODE_ERR_MEMORY,
            "could start only %u of %u reading threads: %s; raise the limit of processes (ulimit -u)",
            started, n_threads, strerror(failure));
    }
    *out = &engine->base;
    return 0;
}
