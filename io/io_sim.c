// The simulated drive; see io_sim.h.
//
// Between two events (the last byte of a read has come; its latency is over) rates do not change, so reading
// is followed from event to event. Bytes are counted down at events alone, not when somebody looks: how often
// the clock is looked at does not show in the times. An event that falls between two nanoseconds is at the
// later one. Where others slow the drive, waiting for it begins and ends with an event, too.
#include "io/io_sim.h"

#include "io/io_internal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is left of a read when it has been transferred, by the rounding of its rate.
#define LEAST_BYTES 1e-3

// Bounds of what can be a drive: the slowest reads a piece in 9 minutes, or 1024 of them in 6 days.
#define LEAST_GBPS 1e-6
#define MOST_GBPS 1e6
#define MOST_LATENCY_NS ((uint64_t)60 * 1000000000)

struct sim_read {
    struct io_piece piece;
    uint64_t came_bytes; // in all, when it has ended
    double left_bytes;   // at the last event
    uint64_t earliest_ns;
};

struct io_sim {
    struct io_engine base;
    struct sim_clock *clock;
    uint64_t at_ns;    // how far reading has been followed; the present of the queue
    uint64_t event_ns; // when a read began, ended or had come last
    uint64_t next_ns;  // when the next one ends or has come; UINT64_MAX: none is in flight
    uint64_t latency_ns;
    double share_beside, share; // of the rate while others move the clock on, and now
    double *bytes_per_ns;       // [n_slots + 1] by the reads in flight
    double each_bytes_per_ns;   // since the last event, of each read whose bytes are still on their way
    uint32_t n_slots, n_reads;
    struct sim_read reads[]; // in flight, in the order of their start
};

static struct io_sim *sim_of(struct io_engine *engine)
{
    return (struct io_sim *)engine;
}

// ---- what happens
// ------------------------------------------------------------------------------------------------

// Counts down what has come since the last event. To be followed by find_next_event.
static void settle(struct io_sim *sim)
{
    const double came_bytes = sim->each_bytes_per_ns * (double)(sim->at_ns - sim->event_ns);
    for (uint32_t i = 0; i < sim->n_reads; i++) {
        double *left = &sim->reads[i].left_bytes;
        *left -= *left > 0 ? came_bytes : 0;
        *left = *left < LEAST_BYTES ? 0 : *left;
    }
    sim->event_ns = sim->at_ns;
}

// After every change of what is in flight and of the rate.
static void find_next_event(struct io_sim *sim)
{
    uint64_t next_ns = UINT64_MAX;
    double least_bytes = INFINITY;
    uint32_t n = 0; // whose bytes are still on their way
    for (uint32_t i = 0; i < sim->n_reads; i++) {
        const struct sim_read *read = &sim->reads[i];
        if (read->left_bytes > 0) {
            n++;
            least_bytes = read->left_bytes < least_bytes ? read->left_bytes : least_bytes;
        } else if (read->earliest_ns < next_ns) {
            next_ns = read->earliest_ns;
        }
    }
    sim->each_bytes_per_ns = n ? sim->bytes_per_ns[sim->n_reads] * sim->share / n : 0;
    if (n) {
        const uint64_t come_ns = sim->event_ns + (uint64_t)ceil(least_bytes / sim->each_bytes_per_ns);
        next_ns = come_ns < next_ns ? come_ns : next_ns;
    }
    sim->next_ns = next_ns;
}

static void set_share(struct io_sim *sim, double share)
{
    if (sim->share == share)
        return;
    settle(sim);
    sim->share = share;
    find_next_event(sim);
}

// At the end of a file there is no whole block.
static uint64_t bytes_that_come(const struct io_piece *piece)
{
    const uint64_t there = piece->job->file->size_bytes - piece->read.offset;
    return piece->read.length < there ? piece->read.length : there;
}

static void start_reads(struct io_sim *sim)
{
    struct io_queue *queue = sim->base.queue;
    if (sim->n_reads == sim->n_slots || !io_queue_can_start(queue))
        return;
    settle(sim);
    while (sim->n_reads < sim->n_slots && io_queue_start(queue, &sim->reads[sim->n_reads].piece, 0)) {
        struct sim_read *read = &sim->reads[sim->n_reads++];
        read->came_bytes = bytes_that_come(&read->piece);
        read->left_bytes = (double)read->came_bytes;
        read->earliest_ns = sim->at_ns + sim->latency_ns;
    }
    find_next_event(sim);
}

static void end_read(struct io_sim *sim, struct sim_read *read)
{
    read->piece.read.bounced = false; // there is nothing to copy
    io_piece_take(&read->piece, (int64_t)read->came_bytes);
    const bool again = io_queue_continue(sim->base.queue, &read->piece);
    assert(!again); // all that was wanted has come
    (void)again;
}

static void end_reads(struct io_sim *sim)
{
    uint32_t n_left = 0;
    for (uint32_t i = 0; i < sim->n_reads; i++) {
        struct sim_read *read = &sim->reads[i];
        if (read->left_bytes <= 0 && read->earliest_ns <= sim->at_ns)
            end_read(sim, read);
        else if (n_left++ < i)
            sim->reads[n_left - 1] = *read;
    }
    sim->n_reads = n_left;
}

// Does all that happens up to a time.
static void follow(struct io_sim *sim, uint64_t until_ns)
{
    while (sim->next_ns <= until_ns && sim->n_reads > 0) {
        sim->at_ns = sim->next_ns;
        settle(sim);
        end_reads(sim);
        find_next_event(sim);
        start_reads(sim);
    }
    sim->at_ns = until_ns > sim->at_ns ? until_ns : sim->at_ns;
}

uint32_t io_sim_reads(struct io_sim *sim)
{
    if (sim->n_reads > 0)
        follow(sim, sim->clock->now_ns);
    return sim->n_reads;
}

// ---- the engine
// --------------------------------------------------------------------------------------------------

static uint64_t sim_now_ns(const struct io_engine *base)
{
    return ((const struct io_sim *)base)->clock->now_ns;
}

static void sim_catch_up(struct io_engine *base)
{
    struct io_sim *sim = sim_of(base);
    follow(sim, sim->clock->now_ns);
}

static void sim_wake(struct io_engine *base)
{
    start_reads(sim_of(base));
}

static void sim_wait(struct io_engine *base, int64_t deadline_ns)
{
    struct io_sim *sim = sim_of(base);
    const struct io_queue *queue = base->queue;
    set_share(sim, 1);
    while (queue->n_ended < queue->n_wanted && sim->n_reads > 0) {
        const uint64_t next_ns = sim->next_ns;
        const bool late = deadline_ns >= 0 && next_ns > (uint64_t)deadline_ns;
        follow(sim, late ? (uint64_t)deadline_ns : next_ns);
        if (late)
            break;
    }
    set_share(sim, sim->share_beside);
    if (sim->clock->now_ns < sim->at_ns)
        sim->clock->now_ns = sim->at_ns;
}

static void sim_close(struct io_engine *base)
{
    struct io_sim *sim = sim_of(base);
    free(sim->bytes_per_ns);
    free(sim);
}

static const struct io_engine_ops sim_ops = {
    .name = "simulated",
    .close = sim_close,
    .wake = sim_wake,
    .wait = sim_wait,
    .now_ns = sim_now_ns,
    .catch_up = sim_catch_up,
};

// ---- opening
// -----------------------------------------------------------------------------------------------------

static double gbps_at(const struct io_sim_drive *drive, double reads)
{
    const struct io_sim_point *p = drive->points;
    if (reads <= p[0].reads)
        return p[0].gbps;
    for (uint32_t i = 1; i < drive->n_points; i++)
        if (reads < p[i].reads) {
            const double share = log(reads / p[i - 1].reads) / log(p[i].reads / p[i - 1].reads);
            return p[i - 1].gbps + share * (p[i].gbps - p[i - 1].gbps);
        }
    return p[drive->n_points - 1].gbps;
}

static int check_drive(const struct io_sim_drive *drive, struct lode_error *error)
{
    if (drive->n_points < 1 || drive->n_points > IO_SIM_POINTS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a simulated drive with %u rates; 1 to %d are possible",
                         drive->n_points, IO_SIM_POINTS);
    double before = 0;
    for (uint32_t i = 0; i < drive->n_points; i++) {
        const struct io_sim_point *point = &drive->points[i];
        if (!(point->reads > before) || !isfinite(point->reads))
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "rate %u of a simulated drive is at %g reads in flight; they must ascend", i,
                             point->reads);
        if (!(point->gbps >= LEAST_GBPS && point->gbps <= MOST_GBPS))
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "rate %u of a simulated drive is %g GB/s; %g to %g are possible", i, point->gbps,
                             LEAST_GBPS, MOST_GBPS);
        before = point->reads;
    }
    if (drive->latency_ns > MOST_LATENCY_NS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a simulated drive with a latency of %g s; at most %g",
                         (double)drive->latency_ns * 1e-9, (double)MOST_LATENCY_NS * 1e-9);
    if (drive->align_bytes > IO_ALIGN_BYTES || (drive->align_bytes & (drive->align_bytes - 1)) != 0)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a simulated drive with blocks of %u bytes; powers of two up to %llu are possible",
                         drive->align_bytes, (unsigned long long)IO_ALIGN_BYTES);
    return 0;
}

static int open_engine(struct io_engine **out, struct io_queue *queue, uint32_t queue_depth, const void *user,
                       struct lode_error *error)
{
    const struct io_sim_options *options = user;
    struct io_sim *sim = calloc(1, sizeof *sim + queue_depth * sizeof sim->reads[0]);
    double *bytes_per_ns = calloc(queue_depth + 1, sizeof *bytes_per_ns);
    if (!sim || !bytes_per_ns) {
        free(sim);
        free(bytes_per_ns);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u simulated reads in flight", queue_depth);
    }
    sim->base = (struct io_engine){.ops = &sim_ops, .queue = queue};
    sim->clock = options->clock;
    sim->at_ns = sim->event_ns = options->clock->now_ns;
    sim->next_ns = UINT64_MAX;
    sim->latency_ns = options->drive.latency_ns;
    sim->share_beside = sim->share = options->share_beside > 0 ? options->share_beside : 1;
    sim->n_slots = queue_depth;
    sim->bytes_per_ns = bytes_per_ns;
    for (uint32_t n = 1; n <= queue_depth; n++)
        bytes_per_ns[n] = gbps_at(&options->drive, n);
    queue->virtual_now_ns = &sim->at_ns;
    *out = &sim->base;
    if (options->out_drive)
        *options->out_drive = sim;
    return 0;
}

static int make_files(struct io_files **out, const uint64_t *file_bytes, uint32_t n_files,
                      uint32_t align_bytes, struct lode_error *error)
{
    struct io_files *files = calloc(1, sizeof *files + n_files * sizeof files->list[0]);
    if (!files || !(files->drives = calloc(1, sizeof *files->drives))) {
        free(files);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of %u simulated files", n_files);
    }
    io_drive_init(&files->drives[files->n_drives++], 0, 0);
    while (files->n_files < n_files) {
        struct io_file *file = &files->list[files->n_files++];
        struct io_copy *copy = &file->copies[file->n_copies++];
        file->size_bytes = file_bytes[files->n_files - 1];
        copy->fds[IO_FD_BUFFERED] = copy->fds[IO_FD_DIRECT] = -1;
        copy->align_bytes = align_bytes;
        copy->drive = files->drives;
        atomic_store(&copy->direct, align_bytes > 0);
        if (asprintf(&copy->path, "simulated file %u", files->n_files - 1) < 0) {
            copy->path = NULL;
            io_files_close(files);
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of %u simulated files", n_files);
        }
    }
    *out = files;
    return 0;
}

int io_sim_open(struct io **out, const uint64_t *file_bytes, uint32_t n_files,
                const struct io_sim_options *options, struct lode_error *error)
{
    int code = check_drive(&options->drive, error);
    if (code == 0 && !(options->share_beside >= 0 && options->share_beside <= 1))
        code = lode_fail(error, LODE_ERR_ARGUMENT, "a simulated drive with %g of its rate; at most 1",
                         options->share_beside);
    if (code == 0 && (!options->clock || options->clock->now_ns == 0))
        code =
            lode_fail(error, LODE_ERR_ARGUMENT, "a simulated drive needs a clock that does not stand at 0");
    struct io_files *files = NULL;
    if (code == 0)
        code = make_files(&files, file_bytes, n_files, options->drive.align_bytes, error);
    return code == 0 ? io_open_over(out, files, options->queue_depth, open_engine, options, error) : code;
}
