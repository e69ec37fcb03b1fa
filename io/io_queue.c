// The common queue of the engines; see io_queue.h.
#include "io/io_queue.h"
#include "base/clock.h"
#include "base/timeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define NS_PER_S 1000000000

// Guesses keep a drive from sleeping but must not fill its queue: a demand waits behind what is in flight.
#define PREFETCH_READS_MAX 2

static int map_bounces(struct io_queue *queue, uint32_t queue_depth, struct lode_error *error)
{
    queue->bounces_bytes = queue_depth * IO_BOUNCE_BYTES;
    void *memory =
        mmap(NULL, queue->bounces_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u reads in flight (%zu bytes)", queue_depth,
                         queue->bounces_bytes);
    queue->bounces = memory;
    return 0;
}

int io_queue_open(struct io_queue **out, struct io_files *files, uint32_t queue_depth,
                  struct lode_error *error)
{
    struct io_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a queue of reads");
    queue->files = files;
    if (io_files_any_direct(files) && map_bounces(queue, queue_depth, error) != 0) {
        free(queue);
        return LODE_ERR_MEMORY;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->enough, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = queue;
    return 0;
}

void io_queue_close(struct io_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->enough);
    pthread_mutex_destroy(&queue->lock);
    if (queue->bounces)
        munmap(queue->bounces, queue->bounces_bytes);
    free(queue);
}

void io_queue_add(struct io_queue *queue, struct io_job *job)
{
    io_job_list_append(&queue->queued[job->request.priority], job);
}

static void leave_queued(struct io_queue *queue, struct io_job *job)
{
    io_job_list_remove(&queue->queued[job->request.priority], job);
}

static void tell_job(const struct io_queue *queue, const struct io_job *job)
{
    static const char *const names[IO_PRIORITIES] = {
        [IO_DEMAND] = "read", [IO_AHEAD] = "read ahead", [IO_PREFETCH] = "read on a guess"};
    const struct io_request *request = &job->request;
    if (queue->timeline && job->begun_ns)
        lode_timeline_span(queue->timeline, queue->timeline_lane, names[request->priority],
                           request->told_layer ? request->told_layer - 1 : UINT32_MAX,
                           request->length - job->given_up_bytes, job->begun_ns, job->read_ns);
}

static void end_job(struct io_queue *queue, struct io_job *job)
{
    tell_job(queue, job);
    io_job_list_append(&queue->ended, job);
    queue->n_ended++;
    queue->counters.failed_requests += job->status == IO_FAILED;
    if (queue->n_wanted && queue->n_ended >= queue->n_wanted)
        pthread_cond_signal(&queue->enough);
}

// ---- reads

static uint64_t now_ns(const struct io_queue *queue)
{
    return queue->virtual_now_ns ? *queue->virtual_now_ns : clock_now_ns();
}

static struct io_copy *copy_of(const struct io_piece *piece)
{
    return &piece->job->file->copies[piece->copy];
}

static void begin_read(struct io_queue *queue, struct io_piece *piece)
{
    uint64_t start_ns = now_ns(queue);
    io_piece_aim(piece);
    io_drive_begin(copy_of(piece)->drive, piece->read.length, start_ns);
    if (queue->n_in_flight++ == 0)
        queue->busy_since_ns = start_ns;
    if (!piece->job->begun_ns)
        piece->job->begun_ns = start_ns;
    queue->counters.reads++;
}

static void end_read(struct io_queue *queue, const struct io_piece *piece)
{
    uint64_t end_ns = now_ns(queue);
    io_drive_end(copy_of(piece)->drive, piece->read.length, piece->came_bytes > 0, end_ns);
    piece->job->read_ns = end_ns;
    if (--queue->n_in_flight == 0)
        queue->counters.busy_ns += end_ns - queue->busy_since_ns;
    queue->counters.read_bytes += piece->came_bytes;
    if (piece->copy > 0)
        queue->counters.mirror_bytes += piece->came_bytes;
}

static void choose_copy(struct io_piece *piece)
{
    struct io_file *file = piece->job->file;
    if (file->n_copies > 1)
        piece->copy = io_drive_choose(file->copies[0].drive, file->copies[1].drive, piece->length);
}

static struct io_job *next_job(const struct io_queue *queue)
{
    if (queue->closing)
        return NULL;
    for (int priority = IO_DEMAND; priority < IO_PREFETCH; priority++) {
        if (queue->queued[priority].first)
            return queue->queued[priority].first;
    }
    return queue->n_prefetch_in_flight < PREFETCH_READS_MAX ? queue->queued[IO_PREFETCH].first : NULL;
}

bool io_queue_can_start(const struct io_queue *queue)
{
    return next_job(queue) != NULL;
}

bool io_queue_start(struct io_queue *queue, struct io_piece *out, uint32_t slot)
{
    struct io_job *job = next_job(queue);
    if (!job)
        return false;
    io_job_claim(job, out, queue->bounces ? queue->bounces + slot * IO_BOUNCE_BYTES : NULL);
    if (!io_job_has_more(job))
        leave_queued(queue, job);
    queue->n_prefetch_in_flight += out->priority == IO_PREFETCH;
    choose_copy(out);
    begin_read(queue, out);
    return true;
}

// A read that failed or came short is tried once more, on the other copy where there is one.
static bool may_read_again(struct io_queue *queue, struct io_piece *piece)
{
    if (piece->length == 0 || queue->closing)
        return false;
    if (piece->error_number != EINTR)
        queue->counters.retried_reads += piece->again_at_once || !piece->retried;
    if (piece->again_at_once)
        return true;
    if (piece->retried)
        return false;
    piece->retried = true;
    if (piece->job->file->n_copies > 1)
        piece->copy = !piece->copy;
    return true;
}

static void end_piece(struct io_queue *queue, const struct io_piece *piece)
{
    struct io_job *job = piece->job;
    bool was_queued = io_job_has_more(job);
    bool over = io_job_end_piece(job, piece);
    queue->n_prefetch_in_flight -= piece->priority == IO_PREFETCH;
    if (was_queued && !io_job_has_more(job))
        leave_queued(queue, job);
    if (over)
        end_job(queue, job);
}

bool io_queue_continue(struct io_queue *queue, struct io_piece *piece)
{
    end_read(queue, piece);
    if (may_read_again(queue, piece)) {
        begin_read(queue, piece);
        return true;
    }
    end_piece(queue, piece);
    return false;
}

// ---- changes of mind

void io_queue_promote(struct io_queue *queue, struct io_job *job, enum io_priority priority)
{
    if (priority >= job->request.priority)
        return;
    bool queued = io_job_has_more(job);
    if (queued)
        leave_queued(queue, job);
    job->request.priority = priority;
    if (queued)
        io_job_list_append(&queue->queued[priority], job);
}

void io_queue_cancel(struct io_queue *queue, struct io_job *job)
{
    bool started = job->claimed_bytes > 0;
    if (!io_job_has_more(job) || (started && job->request.priority != IO_PREFETCH))
        return;
    leave_queued(queue, job);
    if (io_job_stop(job))
        end_job(queue, job);
}

// ---- the reaping thread

bool io_queue_wait(struct io_queue *queue, int64_t deadline_ns)
{
    if (deadline_ns < 0)
        return pthread_cond_wait(&queue->enough, &queue->lock) == 0;
    struct timespec deadline = {deadline_ns / NS_PER_S, deadline_ns % NS_PER_S};
    return pthread_cond_timedwait(&queue->enough, &queue->lock, &deadline) == 0;
}

void io_queue_count(const struct io_queue *queue, struct io_counters *out)
{
    *out = queue->counters;
    if (queue->n_in_flight > 0)
        out->busy_ns += now_ns(queue) - queue->busy_since_ns;
}
