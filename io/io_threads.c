// An engine of threads that pread: for systems without io_uring, and for files that the page cache holds.
//
// Each thread takes the next piece of the first demand job, or of the first prefetch job when no demand
// waits, so a large job is read by several threads and demand overtakes by at most one piece a thread. The
// queue depth is the number of threads. One lock guards all of it; it is taken twice for a piece of about a
// MiB.
#include "io/io_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000

struct io_threads {
    struct io_engine base;
    io_read_fn read;
    void *user;

    pthread_mutex_t lock;
    pthread_cond_t work;   // a job was queued, or the engine stops
    pthread_cond_t enough; // the collector has what it waits for
    struct io_job_list queued[IO_PREFETCH + 1];
    struct io_job_list ended;
    uint32_t n_ended, n_wanted; // n_wanted: what the collector waits for, 0 when nobody waits
    bool stopping;

    uint32_t n_threads;
    pthread_t threads[];
};

int64_t io_pread(void *user, int fd, void *buffer, size_t length, uint64_t offset)
{
    (void)user;
    ssize_t n = pread(fd, buffer, length, (off_t)offset);
    return n < 0 ? -errno : n;
}

static bool claim_piece(struct io_threads *engine, struct io_piece *out)
{
    for (int priority = IO_DEMAND; priority <= IO_PREFETCH; priority++) {
        struct io_job *job = engine->queued[priority].first;
        if (!job)
            continue;
        io_job_claim(job, out);
        if (!io_job_has_more(job))
            io_job_list_remove(&engine->queued[priority], job);
        return true;
    }
    return false;
}

static void end_piece(struct io_threads *engine, const struct io_piece *piece)
{
    struct io_job *job = piece->job;
    bool queued = io_job_has_more(job);
    bool over = io_job_end_piece(job, piece);
    if (queued && !io_job_has_more(job))
        io_job_list_remove(&engine->queued[job->request.priority], job);
    if (!over)
        return;
    io_job_list_append(&engine->ended, job);
    engine->n_ended++;
    if (engine->n_wanted && engine->n_ended >= engine->n_wanted)
        pthread_cond_signal(&engine->enough);
}

static void *read_pieces(void *argument)
{
    struct io_threads *engine = argument;
    struct io_piece piece;
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping) {
        if (!claim_piece(engine, &piece)) {
            pthread_cond_wait(&engine->work, &engine->lock);
            continue;
        }
        int fd = piece.job->fd;
        pthread_mutex_unlock(&engine->lock);
        while (io_piece_continues(&piece,
                                  engine->read(engine->user, fd, piece.buffer, piece.length, piece.offset)))
            continue;
        pthread_mutex_lock(&engine->lock);
        end_piece(engine, &piece);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

static struct io_threads *threads_of(struct io_engine *engine)
{
    return (struct io_threads *)engine;
}

static void threads_submit(struct io_engine *base, struct io_job *job)
{
    struct io_threads *engine = threads_of(base);
    pthread_mutex_lock(&engine->lock);
    io_job_list_append(&engine->queued[job->request.priority], job);
    if (job->request.length > job->piece_bytes)
        pthread_cond_broadcast(&engine->work);
    else
        pthread_cond_signal(&engine->work);
    pthread_mutex_unlock(&engine->lock);
}

static bool threads_withdraw(struct io_engine *base, struct io_job *job)
{
    struct io_threads *engine = threads_of(base);
    pthread_mutex_lock(&engine->lock);
    bool untouched = job->claimed_bytes == 0;
    if (untouched)
        io_job_list_remove(&engine->queued[job->request.priority], job);
    pthread_mutex_unlock(&engine->lock);
    return untouched;
}

static struct timespec deadline_after(int64_t timeout_ns)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ns / NS_PER_S;
    deadline.tv_nsec += timeout_ns % NS_PER_S;
    if (deadline.tv_nsec >= NS_PER_S) {
        deadline.tv_sec++;
        deadline.tv_nsec -= NS_PER_S;
    }
    return deadline;
}

static void wait_for_ended(struct io_threads *engine, uint32_t min, int64_t timeout_ns)
{
    if (engine->n_ended >= min || timeout_ns == 0)
        return;
    struct timespec deadline = {0};
    if (timeout_ns > 0)
        deadline = deadline_after(timeout_ns);
    engine->n_wanted = min;
    int over = 0;
    while (engine->n_ended < min && over == 0) {
        if (timeout_ns < 0)
            pthread_cond_wait(&engine->enough, &engine->lock);
        else
            over = pthread_cond_timedwait(&engine->enough, &engine->lock, &deadline);
    }
    engine->n_wanted = 0;
}

static uint32_t threads_collect(struct io_engine *base, struct io_job_list *out, uint32_t max, uint32_t min,
                                int64_t timeout_ns)
{
    struct io_threads *engine = threads_of(base);
    uint32_t n = 0;
    pthread_mutex_lock(&engine->lock);
    wait_for_ended(engine, min, timeout_ns);
    for (; n < max && engine->n_ended > 0; n++, engine->n_ended--)
        io_job_list_append(out, io_job_list_take(&engine->ended));
    pthread_mutex_unlock(&engine->lock);
    return n;
}

static void threads_close(struct io_engine *base)
{
    struct io_threads *engine = threads_of(base);
    pthread_mutex_lock(&engine->lock);
    engine->stopping = true;
    pthread_cond_broadcast(&engine->work);
    pthread_mutex_unlock(&engine->lock);
    for (uint32_t i = 0; i < engine->n_threads; i++)
        pthread_join(engine->threads[i], NULL);
    pthread_cond_destroy(&engine->enough);
    pthread_cond_destroy(&engine->work);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

static const struct io_engine_ops threads_ops = {
    .close = threads_close,
    .submit = threads_submit,
    .withdraw = threads_withdraw,
    .collect = threads_collect,
};

static void init_locks(struct io_threads *engine)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->work, NULL);
    pthread_cond_init(&engine->enough, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

// Signals are the caller's business: a handler must not run on a thread that it does not know of.
static int start_threads(struct io_threads *engine, uint32_t n_threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    while (failure == 0 && engine->n_threads < n_threads) {
        failure = pthread_create(&engine->threads[engine->n_threads], NULL, read_pieces, engine);
        if (failure == 0)
            engine->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

int io_threads_open(struct io_engine **out, uint32_t n_threads, io_read_fn read, void *user,
                    struct lode_error *error)
{
    struct io_threads *engine = calloc(1, sizeof *engine + n_threads * sizeof engine->threads[0]);
    if (!engine)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u reading threads", n_threads);
    engine->base.ops = &threads_ops;
    engine->read = read;
    engine->user = user;
    init_locks(engine);
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
