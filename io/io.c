// The common part of the io room: choosing the engine, the checks of requests, their memory, and the texts of
// failures. Memory of requests is kept for the next ones, so that a steady load allocates nothing.
#include "io/io.h"
#include "base/checked.h"
#include "base/clock.h"
#include "io/io_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_QUEUE_DEPTH 1024
#define JOBS_PER_CHUNK 64

struct io_chunk {
    struct io_chunk *next;
    struct io_job jobs[JOBS_PER_CHUNK];
};

struct io {
    struct io_files *files;
    struct io_queue *queue;
    struct io_engine *engine;
    char why_threads[256];
    uint32_t queue_depth;
    struct io_chunk *chunks;
    struct io_job_list unused;
    struct io_job *pending; // linked by pending_next
    uint32_t n_pending;
};

// ---- open and close

static int open_engine(struct io *io, enum io_engine_kind kind, const struct io_hooks *hooks,
                       struct lode_error *error)
{
    bool ring_is_hookable = !hooks || hooks->begin;
    if (kind == IO_ENGINE_URING && !ring_is_hookable)
        return lode_fail(error, LODE_ERR_ARGUMENT, "io_uring cannot read with a function of the caller's");
    if (kind == IO_ENGINE_THREADS || !ring_is_hookable)
        return io_threads_open(&io->engine, io->queue, io->queue_depth, hooks, error);
    struct lode_error refusal;
    int code = io_ring_open(&io->engine, io->queue, io->queue_depth, hooks, &refusal);
    if (code == 0)
        return 0;
    if (kind == IO_ENGINE_URING)
        return lode_fail(error, code,
                         "%s; let threads read, or allow it (kernel.io_uring_disabled, the filter of system "
                         "calls of the container)",
                         refusal.text);
    snprintf(io->why_threads, sizeof io->why_threads, "%.255s", refusal.text);
    return io_threads_open(&io->engine, io->queue, io->queue_depth, hooks, error);
}

static int check_options(const struct io_options *options, uint32_t n_paths, struct lode_error *error)
{
    if (options->queue_depth > MAX_QUEUE_DEPTH)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a queue depth of %u is too large; at most %u",
                         options->queue_depth, MAX_QUEUE_DEPTH);
    if ((unsigned)options->engine > IO_ENGINE_THREADS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "no known engine (%d)", (int)options->engine);
    if ((unsigned)options->cache > IO_CACHE_POPULATE)
        return lode_fail(error, LODE_ERR_ARGUMENT, "no known use of the page cache (%d)",
                         (int)options->cache);
    if (n_paths == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "no files were given to read from");
    return 0;
}

int io_open_hooked(struct io **out, const char *const *paths, uint32_t n_paths,
                   const struct io_options *options, const struct io_hooks *hooks, struct lode_error *error)
{
    static const struct io_options default_options = {0};
    if (!options)
        options = &default_options;
    int code = check_options(options, n_paths, error);
    if (code != 0)
        return code;
    struct io *io = calloc(1, sizeof *io);
    if (!io)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read from %u files", n_paths);
    io->queue_depth = options->queue_depth ? options->queue_depth : IO_QUEUE_DEPTH;
    code = io_files_open(&io->files, paths, options->mirrors, n_paths, options->cache, error);
    if (code == 0)
        code = io_queue_open(&io->queue, io->files, io->queue_depth, error);
    if (code == 0)
        code = open_engine(io, options->engine, hooks, error);
    if (code != 0) {
        io_close(io);
        return code;
    }
    *out = io;
    return 0;
}

int io_open_over(struct io **out, struct io_files *files, uint32_t queue_depth, io_engine_open_fn open,
                 const void *user, struct lode_error *error)
{
    const struct io_options options = {.queue_depth = queue_depth};
    int code = check_options(&options, files->n_files, error);
    struct io *io = code == 0 ? calloc(1, sizeof *io) : NULL;
    if (!io) {
        io_files_close(files);
        return code != 0 ? code : lode_fail(error, LODE_ERR_MEMORY, "no memory to read");
    }
    io->files = files;
    io->queue_depth = queue_depth ? queue_depth : IO_QUEUE_DEPTH;
    code = io_queue_open(&io->queue, files, io->queue_depth, error);
    if (code == 0)
        code = open(&io->engine, io->queue, io->queue_depth, user, error);
    if (code != 0) {
        io_close(io);
        return code;
    }
    *out = io;
    return 0;
}

int io_open_with(struct io **out, const char *const *paths, uint32_t n_paths,
                 const struct io_options *options, io_read_fn read, void *user, struct lode_error *error)
{
    struct io_hooks hooks = {.read = read, .user = user};
    return io_open_hooked(out, paths, n_paths, options, &hooks, error);
}

int io_open(struct io **out, const char *const *paths, uint32_t n_paths, const struct io_options *options,
            struct lode_error *error)
{
    return io_open_hooked(out, paths, n_paths, options, NULL, error);
}

void io_close(struct io *io)
{
    if (!io)
        return;
    if (io->engine)
        io->engine->ops->close(io->engine);
    io_queue_close(io->queue);
    io_files_close(io->files);
    while (io->chunks) {
        struct io_chunk *chunk = io->chunks;
        io->chunks = chunk->next;
        free(chunk);
    }
    free(io);
}

// ---- what is known

static void lock(const struct io *io)
{
    pthread_mutex_lock(&io->queue->lock);
}

static void unlock(const struct io *io)
{
    pthread_mutex_unlock(&io->queue->lock);
}

uint64_t io_now_ns(const struct io *io)
{
    return io->engine->ops->now_ns ? io->engine->ops->now_ns(io->engine) : clock_now_ns();
}

// With the lock.
static void catch_up(const struct io *io)
{
    if (io->engine->ops->catch_up)
        io->engine->ops->catch_up(io->engine);
}

void io_describe(const struct io *io, struct io_choice *out)
{
    lock(io);
    io_files_note_refusals(io->files);
    *out = (struct io_choice){
        .engine = io->engine->ops->name,
        .why_threads = io->why_threads[0] ? io->why_threads : NULL,
        .direct = io_files_all_direct(io->files),
        .why_cached = io->files->why_cached[0] ? io->files->why_cached : NULL,
        .queue_depth = io->queue_depth,
    };
    unlock(io);
}

uint64_t io_file_size_bytes(const struct io *io, uint32_t file)
{
    return file < io->files->n_files ? io->files->list[file].size_bytes : 0;
}

uint32_t io_pending(const struct io *io)
{
    return io->n_pending;
}

void io_count(const struct io *io, struct io_counters *out)
{
    lock(io);
    catch_up(io);
    io_queue_count(io->queue, out);
    unlock(io);
}

bool io_register(struct io *io, void *memory, size_t bytes)
{
    const struct io_engine_ops *ops = io->engine->ops;
    if (io->n_pending > 0 || bytes == 0 || !ops->add_memory)
        return false;
    return ops->add_memory(io->engine, memory, bytes);
}

void io_unregister(struct io *io)
{
    if (io->engine->ops->drop_memory)
        io->engine->ops->drop_memory(io->engine);
}

void io_tell_timeline(struct io *io, struct lode_timeline *timeline, uint32_t lane)
{
    lock(io);
    io->queue->timeline = timeline;
    io->queue->timeline_lane = lane;
    unlock(io);
}

// ---- requests

static int check_request(const struct io *io, const struct io_request *request, struct lode_error *error)
{
    if (request->file >= io->files->n_files)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a read of file %u, but there are %u files", request->file,
                         io->files->n_files);
    const struct io_file *file = &io->files->list[request->file];
    const char *path = file->copies[0].path;
    if (request->length == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: a read of no bytes at offset %" PRIu64, path,
                         request->offset);
    uint64_t end;
    if (!checked_add(&end, request->offset, request->length) || end > file->size_bytes)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s: a read of %zu bytes at offset %" PRIu64 " ends beyond the file of %" PRIu64
                         " bytes",
                         path, request->length, request->offset, file->size_bytes);
    if (!request->buffer)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: a read at offset %" PRIu64 " without a buffer", path,
                         request->offset);
    if ((unsigned)request->priority >= IO_PRIORITIES)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s: a read at offset %" PRIu64 " of no known priority (%d)", path, request->offset,
                         (int)request->priority);
    return 0;
}

static struct io_job *take_unused_job(struct io *io)
{
    if (!io->unused.first) {
        struct io_chunk *chunk = calloc(1, sizeof *chunk);
        if (!chunk)
            return NULL;
        chunk->next = io->chunks;
        io->chunks = chunk;
        for (int i = 0; i < JOBS_PER_CHUNK; i++)
            io_job_list_append(&io->unused, &chunk->jobs[i]);
    }
    return io_job_list_take(&io->unused);
}

static void add_pending(struct io *io, struct io_job *job)
{
    job->pending_previous = NULL;
    job->pending_next = io->pending;
    if (io->pending)
        io->pending->pending_previous = job;
    io->pending = job;
    io->n_pending++;
}

static void remove_pending(struct io *io, struct io_job *job)
{
    if (job->pending_previous)
        job->pending_previous->pending_next = job->pending_next;
    else
        io->pending = job->pending_next;
    if (job->pending_next)
        job->pending_next->pending_previous = job->pending_previous;
    io->n_pending--;
}

int io_submit(struct io *io, const struct io_request *request, struct lode_error *error)
{
    int code = check_request(io, request, error);
    if (code != 0)
        return code;
    struct io_job *job = take_unused_job(io);
    if (!job)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for one more read; %u are waiting",
                         io->n_pending);
    io_job_init(job, request, &io->files->list[request->file]);
    add_pending(io, job);
    lock(io);
    catch_up(io);
    io_queue_add(io->queue, job);
    io->engine->ops->wake(io->engine);
    unlock(io);
    return 0;
}

void io_promote(struct io *io, uint64_t tag, enum io_priority priority)
{
    lock(io);
    catch_up(io);
    for (struct io_job *job = io->pending; job; job = job->pending_next) {
        if (job->request.tag == tag)
            io_queue_promote(io->queue, job, priority);
    }
    io->engine->ops->wake(io->engine);
    unlock(io);
}

void io_cancel(struct io *io, uint64_t tag)
{
    lock(io);
    catch_up(io);
    for (struct io_job *job = io->pending; job; job = job->pending_next) {
        if (job->request.tag == tag)
            io_queue_cancel(io->queue, job);
    }
    unlock(io);
}

// ---- completions

static void describe_failure(struct lode_error *error, const struct io_job *job)
{
    const struct io_file *file = job->file;
    const char *path = file->copies[job->fault_copy].path;
    uint64_t end = job->request.offset + job->request.length;
    if (job->error_number)
        lode_fail(error, LODE_ERR_IO,
                  "%s: cannot read at offset %" PRIu64 ": %s; tried %s; check the disk that holds the file",
                  path, job->fault_offset, strerror(job->error_number),
                  file->n_copies > 1 ? "both copies" : "twice");
    else
        lode_fail(error, LODE_ERR_IO,
                  "%s: the read at offset %" PRIu64 " ended at byte %" PRIu64 ", expected %" PRIu64
                  ": the file was truncated while in use",
                  path, job->request.offset, job->fault_offset, end);
}

static void complete(struct io *io, struct io_completion *out, struct io_job *job)
{
    out->tag = job->request.tag;
    out->status = job->status;
    out->begun_bytes = job->request.length - job->given_up_bytes;
    out->error.code = LODE_OK;
    out->error.text[0] = '\0';
    if (out->status == IO_FAILED)
        describe_failure(&out->error, job);
    remove_pending(io, job);
    io_job_list_append(&io->unused, job);
}

static int64_t deadline_after(const struct io *io, int64_t timeout_ns)
{
    int64_t deadline_ns;
    bool over = timeout_ns < 0 || __builtin_add_overflow((int64_t)io_now_ns(io), timeout_ns, &deadline_ns);
    return over ? -1 : deadline_ns;
}

uint32_t io_reap(struct io *io, struct io_completion *out, uint32_t max, uint32_t min, int64_t timeout_ns)
{
    if (io->n_pending == 0)
        return 0;
    struct io_queue *queue = io->queue;
    struct io_job_list ended = {0};
    uint32_t wanted = min < max ? min : max, n = 0;
    lock(io);
    catch_up(io);
    if (timeout_ns != 0) {
        queue->n_wanted = wanted < io->n_pending ? wanted : io->n_pending;
        io->engine->ops->wait(io->engine, deadline_after(io, timeout_ns));
        queue->n_wanted = 0;
    }
    for (; n < max && queue->n_ended > 0; n++, queue->n_ended--)
        io_job_list_append(&ended, io_job_list_take(&queue->ended));
    unlock(io);
    for (uint32_t i = 0; i < n; i++)
        complete(io, &out[i], io_job_list_take(&ended));
    return n;
}
