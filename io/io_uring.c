// The io_uring engine: pieces of the queue become entries of a ring, at most queue_depth at a time.
//
// Whoever has the lock fills the ring: the submitting thread at once, and whoever takes completions with the
// pieces that come next. Completions are taken by the thread of the engine, so that reading goes on while the
// caller computes, except while the caller itself waits for some: then it takes them, which saves the way
// through another thread, and the engine's thread stands aside until the caller leaves.
//
// Both sleep in poll on the ring's descriptor rather than in io_uring_enter: older kernels wake only one of
// two threads that wait in io_uring_enter, which may be the wrong one, and register no buffers while one
// waits there.
//
// The ring is set up without flags. A thread that computes must not hold back the completions of what it
// submitted, which excludes IORING_SETUP_COOP_TASKRUN and DEFER_TASKRUN; two threads submit, which excludes
// SINGLE_ISSUER.
#include "base/clock.h"
#include "io/io_internal.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000

// What the kernel takes as one registered buffer.
#define REGISTERED_BYTES_MAX ((size_t)1 << 30)

// A read in flight.
struct io_slot {
    struct io_piece piece;
    bool begun; // the hook was asked
    bool waits; // for what the hook said, before it is read
    struct io_delay delay;
    struct __kernel_timespec delay_time;
};

struct io_ring {
    struct io_engine base;
    const struct io_hooks *hooks;
    struct io_hooks hooks_copy;
    struct io_uring ring;
    bool has_fixed_files;

    pthread_t thread;
    pthread_cond_t resume; // the engine's thread may go on
    bool thread_stands_aside;
    bool caller_takes; // the caller takes completions
    bool is_taking;    // somebody takes completions, and may have given up the lock to copy

    struct iovec *registered;
    uint32_t n_registered;

    uint32_t n_slots, n_free;
    uint32_t *free_slots;
    struct io_slot slots[];
};

static struct io_ring *ring_of(struct io_engine *engine)
{
    return (struct io_ring *)engine;
}

// ---- entries

static int registered_index(const struct io_ring *engine, const struct io_read *read)
{
    for (uint32_t i = 0; i < engine->n_registered; i++) {
        const char *start = engine->registered[i].iov_base;
        if (read->buffer >= start && read->buffer + read->length <= start + engine->registered[i].iov_len)
            return (int)i;
    }
    return -1;
}

static int fixed_file_index(const struct io_read *read)
{
    return (int)((read->file * IO_COPIES_MAX + read->copy) * IO_FDS_PER_COPY + read->descriptor);
}

static void prepare_read(const struct io_ring *engine, struct io_uring_sqe *sqe, const struct io_read *read)
{
    int fd = engine->has_fixed_files ? fixed_file_index(read) : read->fd;
    int buffer = registered_index(engine, read);
    if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, fd, read->buffer, (unsigned)read->length, read->offset, buffer);
    else
        io_uring_prep_read(sqe, fd, read->buffer, (unsigned)read->length, read->offset);
    // A read through the page cache is finished by a thread of the kernel: else copying the pages would
    // interrupt the thread that submitted.
    unsigned flags = engine->has_fixed_files ? IOSQE_FIXED_FILE : 0;
    if (read->descriptor == IO_FD_BUFFERED)
        flags |= IOSQE_ASYNC;
    io_uring_sqe_set_flags(sqe, flags);
}

static void ask_hook(const struct io_ring *engine, struct io_slot *slot)
{
    const struct io_read *read = &slot->piece.read;
    slot->delay = (struct io_delay){.until_readable_fd = -1};
    engine->hooks->begin(engine->hooks->user, &slot->delay, read->fd, read->length, read->offset);
    slot->begun = true;
    slot->waits = slot->delay.until_readable_fd >= 0 || slot->delay.delay_ns > 0;
}

static void prepare_wait(struct io_uring_sqe *sqe, struct io_slot *slot)
{
    if (slot->delay.until_readable_fd >= 0) {
        io_uring_prep_poll_add(sqe, slot->delay.until_readable_fd, POLLIN);
        return;
    }
    slot->delay_time.tv_sec = slot->delay.delay_ns / NS_PER_S;
    slot->delay_time.tv_nsec = slot->delay.delay_ns % NS_PER_S;
    io_uring_prep_timeout(sqe, &slot->delay_time, 0, 0);
}

static struct io_uring_sqe *next_entry(struct io_ring *engine)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&engine->ring);
    assert(sqe); // the ring has more entries than there are slots
    return sqe;
}

static void prepare(struct io_ring *engine, struct io_slot *slot)
{
    struct io_uring_sqe *sqe = next_entry(engine);
    if (engine->hooks && !slot->begun)
        ask_hook(engine, slot);
    if (slot->waits)
        prepare_wait(sqe, slot);
    else
        prepare_read(engine, sqe, &slot->piece.read);
    io_uring_sqe_set_data(sqe, slot);
}

static void start_pieces(struct io_ring *engine)
{
    while (engine->n_free > 0) {
        uint32_t index = engine->free_slots[engine->n_free - 1];
        struct io_slot *slot = &engine->slots[index];
        if (!io_queue_start(engine->base.queue, &slot->piece, index))
            return;
        engine->n_free--;
        slot->begun = slot->waits = false;
        prepare(engine, slot);
    }
}

// The kernel refuses entries only while it has no memory for them, which passes.
static void push_entries(struct io_ring *engine)
{
    while (io_uring_sq_ready(&engine->ring) > 0) {
        if (io_uring_submit(&engine->ring) < 0)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
}

// Wakes the thread of the engine.
static void push_wake_up(struct io_ring *engine)
{
    struct io_uring_sqe *sqe = next_entry(engine);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, NULL); // an entry keeps what it had when it was used before
    push_entries(engine);
}

// ---- completions

// With the lock, which is given up to copy.
static void take_result(struct io_ring *engine, struct io_slot *slot, int64_t result)
{
    if (slot->waits) {
        slot->waits = false;
        prepare(engine, slot);
        return;
    }
    struct io_piece *piece = &slot->piece;
    if (engine->hooks)
        result = engine->hooks->end(engine->hooks->user, slot->delay.cookie, piece->read.buffer, result);
    bool gives_up_lock = !io_piece_is_quick_to_take(piece);
    if (gives_up_lock) {
        push_entries(engine);
        pthread_mutex_unlock(&engine->base.queue->lock);
    }
    io_piece_take(piece, result);
    if (gives_up_lock)
        pthread_mutex_lock(&engine->base.queue->lock);
    if (io_queue_continue(engine->base.queue, piece)) {
        slot->begun = false;
        prepare(engine, slot);
    } else {
        engine->free_slots[engine->n_free++] = (uint32_t)(slot - engine->slots);
    }
}

static void take_completions(struct io_ring *engine)
{
    struct io_uring_cqe *cqe;
    engine->is_taking = true;
    while (io_uring_peek_cqe(&engine->ring, &cqe) == 0) {
        struct io_slot *slot = io_uring_cqe_get_data(cqe);
        int64_t result = cqe->res;
        io_uring_cqe_seen(&engine->ring, cqe);
        if (slot)
            take_result(engine, slot, result);
        start_pieces(engine);
    }
    push_entries(engine);
    engine->is_taking = false;
}

// Without the lock. False when the deadline has passed.
static bool wait_for_completion(struct io_ring *engine, int64_t deadline_ns)
{
    struct pollfd ring = {.fd = engine->ring.ring_fd, .events = POLLIN};
    struct timespec rest, *timeout = NULL;
    if (deadline_ns >= 0) {
        int64_t rest_ns = deadline_ns - (int64_t)clock_now_ns();
        if (rest_ns < 0)
            rest_ns = 0;
        rest = (struct timespec){rest_ns / NS_PER_S, rest_ns % NS_PER_S};
        timeout = &rest;
    }
    return ppoll(&ring, 1, timeout, NULL) != 0;
}

static void *drive_ring(void *argument)
{
    struct io_ring *engine = argument;
    struct io_queue *queue = engine->base.queue;
    pthread_mutex_lock(&queue->lock);
    while (!queue->closing || engine->n_free < engine->n_slots) {
        if (engine->caller_takes) {
            engine->thread_stands_aside = true;
            pthread_cond_wait(&engine->resume, &queue->lock);
            engine->thread_stands_aside = false;
            continue;
        }
        pthread_mutex_unlock(&queue->lock);
        wait_for_completion(engine, -1);
        pthread_mutex_lock(&queue->lock);
        if (engine->caller_takes)
            continue;
        take_completions(engine);
        if (queue->n_wanted > 0)
            pthread_cond_signal(&queue->enough); // the caller waits there while this thread copies
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

// ---- for the caller's thread

static void resume_thread(struct io_ring *engine)
{
    if (engine->thread_stands_aside)
        pthread_cond_signal(&engine->resume);
}

static void ring_wake(struct io_engine *base)
{
    struct io_ring *engine = ring_of(base);
    start_pieces(engine);
    push_entries(engine);
    resume_thread(engine);
}

static void ring_wait(struct io_engine *base, int64_t deadline_ns)
{
    struct io_ring *engine = ring_of(base);
    struct io_queue *queue = base->queue;
    bool in_time = true;
    while (queue->n_ended < queue->n_wanted && in_time) {
        if (engine->is_taking) {
            in_time = io_queue_wait(queue, deadline_ns);
            continue;
        }
        engine->caller_takes = true;
        take_completions(engine);
        if (queue->n_ended >= queue->n_wanted)
            break;
        pthread_mutex_unlock(&queue->lock);
        in_time = wait_for_completion(engine, deadline_ns);
        pthread_mutex_lock(&queue->lock);
        take_completions(engine);
    }
    engine->caller_takes = false;
    if (engine->n_free < engine->n_slots)
        resume_thread(engine);
}

static void unregister_memory(struct io_ring *engine)
{
    if (engine->n_registered > 0)
        io_uring_unregister_buffers(&engine->ring);
    engine->n_registered = 0;
}

// The kernel knows one list of buffers, so the whole list is given again.
static bool ring_add_memory(struct io_engine *base, void *memory, size_t bytes)
{
    struct io_ring *engine = ring_of(base);
    uint32_t n_before = engine->n_registered;
    size_t n_more = (bytes + REGISTERED_BYTES_MAX - 1) / REGISTERED_BYTES_MAX;
    struct iovec *list = realloc(engine->registered, (n_before + n_more) * sizeof *list);
    if (!list)
        return false;
    engine->registered = list;
    uint32_t n = n_before;
    for (size_t start = 0; start < bytes; start += REGISTERED_BYTES_MAX) {
        size_t rest = bytes - start;
        list[n++] = (struct iovec){
            .iov_base = (char *)memory + start,
            .iov_len = rest < REGISTERED_BYTES_MAX ? rest : REGISTERED_BYTES_MAX,
        };
    }
    unregister_memory(engine);
    if (io_uring_register_buffers(&engine->ring, list, n) == 0) {
        engine->n_registered = n;
        return true;
    }
    if (n_before > 0 && io_uring_register_buffers(&engine->ring, list, n_before) == 0)
        engine->n_registered = n_before;
    return false;
}

static void ring_drop_memory(struct io_engine *base)
{
    unregister_memory(ring_of(base));
}

// ---- open and close

static void destroy(struct io_ring *engine)
{
    io_uring_queue_exit(&engine->ring);
    pthread_cond_destroy(&engine->resume);
    free(engine->registered);
    free(engine->free_slots);
    free(engine);
}

static void ring_close(struct io_engine *base)
{
    struct io_ring *engine = ring_of(base);
    pthread_mutex_lock(&base->queue->lock);
    base->queue->closing = true;
    push_wake_up(engine);
    resume_thread(engine);
    pthread_mutex_unlock(&base->queue->lock);
    pthread_join(engine->thread, NULL);
    destroy(engine);
}

static const struct io_engine_ops ring_ops = {
    .name = "io_uring",
    .close = ring_close,
    .wake = ring_wake,
    .wait = ring_wait,
    .add_memory = ring_add_memory,
    .drop_memory = ring_drop_memory,
};

static int describe_refusal(int failure, struct lode_error *error)
{
    const char *name = strerrorname_np(failure);
    if (failure == EPERM || failure == EACCES)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "io_uring is not permitted here (%s)", name);
    if (failure == ENOSYS)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "this kernel has no io_uring (%s)", name);
    if (failure == ENOMEM)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "there is no memory for io_uring, or none may be locked (%s)", name);
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "io_uring cannot be set up (%s)", name ? name : "?");
}

static bool kernel_can_read(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool can = probe && io_uring_opcode_supported(probe, IORING_OP_READ) &&
               io_uring_opcode_supported(probe, IORING_OP_READ_FIXED);
    io_uring_free_probe(probe);
    return can;
}

// A filter of system calls may allow the set-up and refuse the use.
static int try_entry(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int result = io_uring_submit(ring);
    if (result >= 0)
        result = io_uring_wait_cqe(ring, &cqe);
    if (result == 0)
        io_uring_cqe_seen(ring, cqe);
    return result < 0 ? -result : 0;
}

static int set_up_ring(struct io_uring *ring, uint32_t n_entries, struct lode_error *error)
{
    int failure = -io_uring_queue_init(n_entries, ring, 0);
    if (failure)
        return describe_refusal(failure, error);
    failure = kernel_can_read(ring) ? try_entry(ring) : ENOSYS;
    if (failure) {
        io_uring_queue_exit(ring);
        return describe_refusal(failure, error);
    }
    return 0;
}

// A list of files saves the kernel the counting of their users with each read; reads work without it.
static void register_files(struct io_ring *engine)
{
    const struct io_files *files = engine->base.queue->files;
    uint32_t n = files->n_files * IO_COPIES_MAX * IO_FDS_PER_COPY;
    int *fds = malloc(n * sizeof *fds);
    if (!fds)
        return;
    for (uint32_t i = 0; i < n; i++) {
        const struct io_file *file = &files->list[i / IO_FDS_PER_COPY / IO_COPIES_MAX];
        uint32_t copy = i / IO_FDS_PER_COPY % IO_COPIES_MAX;
        fds[i] = copy < file->n_copies ? file->copies[copy].fds[i % IO_FDS_PER_COPY] : -1;
    }
    engine->has_fixed_files = io_uring_register_files(&engine->ring, fds, n) == 0;
    free(fds);
}

static int start_thread(struct io_ring *engine)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&engine->thread, NULL, drive_ring, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

static struct io_ring *make_engine(struct io_queue *queue, uint32_t queue_depth, const struct io_hooks *hooks)
{
    struct io_ring *engine = calloc(1, sizeof *engine + queue_depth * sizeof engine->slots[0]);
    uint32_t *free_slots = malloc(queue_depth * sizeof *free_slots);
    if (!engine || !free_slots) {
        free(engine);
        free(free_slots);
        return NULL;
    }
    engine->base = (struct io_engine){.ops = &ring_ops, .queue = queue};
    engine->n_slots = engine->n_free = queue_depth;
    engine->free_slots = free_slots;
    for (uint32_t i = 0; i < queue_depth; i++)
        free_slots[i] = queue_depth - 1 - i;
    if (hooks) {
        engine->hooks_copy = *hooks;
        engine->hooks = &engine->hooks_copy;
    }
    return engine;
}

int io_ring_open(struct io_engine **out, struct io_queue *queue, uint32_t queue_depth,
                 const struct io_hooks *hooks, struct lode_error *error)
{
    struct io_ring *engine = make_engine(queue, queue_depth, hooks);
    if (!engine)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u reads in flight", queue_depth);
    int code = set_up_ring(&engine->ring, queue_depth + 1, error);
    if (code != 0) {
        free(engine->free_slots);
        free(engine);
        return code;
    }
    register_files(engine);
    pthread_cond_init(&engine->resume, NULL);
    int failure = start_thread(engine);
    if (failure) {
        destroy(engine);
        return lode_fail(error, LODE_ERR_MEMORY, "cannot start a thread for io_uring: %s", strerror(failure));
    }
    *out = &engine->base;
    return 0;
}
