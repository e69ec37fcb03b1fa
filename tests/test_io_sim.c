// The simulated drive: how long reads take, in closed form; which come first; and that the outcome of any
// requests is that of the threads, which share its queue but not its way of going on.
#include "base/clock.h"
#include "base/timeline.h"
#include "io/io_sim.h"
#include "tests/test_io_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define START SIM_CLOCK_START_NS
#define GIB ((uint64_t)1 << 30)
#define DEMAND IO_DEMAND

struct sim {
    struct sim_clock clock;
    struct io *io;
    struct lode_error error;
};

// 1 GB/s is a byte a nanosecond.
static struct io_sim_drive steady(double gbps)
{
    return (struct io_sim_drive){.n_points = 1, .points = {{1, gbps}}};
}

static void open_sim(struct sim *s, struct io_sim_drive drive, uint32_t queue_depth)
{
    const uint64_t file_bytes[] = {GIB, GIB + 345};
    *s = (struct sim){.clock = {START}};
    const struct io_sim_options options = {.drive = drive, .clock = &s->clock, .queue_depth = queue_depth};
    cr_assert_eq(io_sim_open(&s->io, file_bytes, 2, &options, &s->error), 0, "%s", s->error.text);
}

// There is no memory behind the buffer.
static void ask_at(struct sim *s, uint64_t offset, size_t length, uint64_t tag, enum io_priority priority)
{
    const struct io_request request = {1, offset, length, (void *)4096, tag, priority, false, 0};
    cr_assert_eq(io_submit(s->io, &request, &s->error), 0, "%s", s->error.text);
}

static void ask(struct sim *s, size_t length, uint64_t tag, enum io_priority priority)
{
    ask_at(s, 0, length, tag, priority);
}

static uint64_t passed_ns(const struct sim *s)
{
    return s->clock.now_ns - START;
}

// Waits for one, which must be this.
static void expect_next(struct sim *s, uint64_t tag, enum io_status status, uint64_t at_ns)
{
    struct io_completion completion;
    cr_assert_eq(io_reap(s->io, &completion, 1, 1, -1), 1);
    cr_assert_eq(completion.tag, tag, "%lu instead of %lu", (unsigned long)completion.tag,
                 (unsigned long)tag);
    cr_assert_eq(completion.status, status);
    cr_assert_eq(passed_ns(s), at_ns, "%lu ns instead of %lu", (unsigned long)passed_ns(s),
                 (unsigned long)at_ns);
}

static struct io_counters counters(const struct sim *s)
{
    struct io_counters out;
    io_count(s->io, &out);
    return out;
}

// ---- how long it takes

Test(io_sim, a_read_takes_its_bytes_by_the_rate)
{
    struct sim s;
    open_sim(&s, steady(0.5), 16);
    ask(&s, 200000, 1, DEMAND);
    cr_assert_eq(io_pending(s.io), 1);
    cr_assert_eq(passed_ns(&s), 0, "submitting takes no time");
    expect_next(&s, 1, IO_DONE, 400000);
    ask(&s, 1, 2, DEMAND);
    expect_next(&s, 2, IO_DONE, 400002);
    cr_assert_eq(io_now_ns(s.io), START + 400002);
    cr_assert_eq(counters(&s).read_bytes, 200001);
    cr_assert_eq(counters(&s).busy_ns, 400002);
    io_close(s.io);
}

Test(io_sim, a_short_read_takes_the_latency_and_a_long_one_does_not_notice_it)
{
    struct sim s;
    struct io_sim_drive drive = steady(1);
    drive.latency_ns = 80000;
    open_sim(&s, drive, 16);
    ask(&s, 4096, 1, DEMAND);
    expect_next(&s, 1, IO_DONE, 80000);
    ask(&s, 300000, 2, DEMAND);
    expect_next(&s, 2, IO_DONE, 380000);
    for (uint64_t i = 0; i < 16; i++) // at once: as many in the time of one
        ask(&s, 4096, 10 + i, DEMAND);
    struct io_completion completions[16];
    cr_assert_eq(io_reap(s.io, completions, 16, 16, -1), 16);
    cr_assert_eq(passed_ns(&s), 460000);
    io_close(s.io);
}

// A read that only waits for its latency leaves the rate to the others, and is in flight all the same.
Test(io_sim, latency_and_rate_go_together)
{
    struct sim s;
    struct io_sim_drive drive = {.n_points = 2, .points = {{1, 1}, {2, 2}}, .latency_ns = 100000};
    open_sim(&s, drive, 16);
    ask(&s, 10000, 1, DEMAND);  // has come at 10 us, at a rate of 1 each
    ask(&s, 200000, 2, DEMAND); // 190,000 left, of which 180,000 until 100 us, at a rate of 2
    expect_next(&s, 1, IO_DONE, 100000);
    expect_next(&s, 2, IO_DONE, 110000);
    io_close(s.io);
}

Test(io_sim, reads_in_flight_share_the_rate_of_their_number)
{
    struct sim s;
    struct io_sim_drive drive = {.n_points = 2, .points = {{1, 1}, {4, 2}}};
    open_sim(&s, drive, 16);
    for (uint64_t i = 0; i < 4; i++)
        ask(&s, 300000, i, DEMAND);
    for (uint64_t i = 0; i < 4; i++)
        expect_next(&s, i, IO_DONE, 600000);
    // Between the points: linear in log reads, so that two have 1.5.
    ask(&s, 300000, 4, DEMAND);
    ask(&s, 300000, 5, DEMAND);
    expect_next(&s, 4, IO_DONE, 1000000);
    expect_next(&s, 5, IO_DONE, 1000000);
    // Beyond the last they share what it has.
    for (uint64_t i = 0; i < 8; i++)
        ask(&s, 100000, i, DEMAND);
    struct io_completion completions[8];
    cr_assert_eq(io_reap(s.io, completions, 8, 8, -1), 8);
    cr_assert_eq(passed_ns(&s), 1400000);
    io_close(s.io);
}

Test(io_sim, a_read_that_comes_later_slows_the_one_before)
{
    struct sim s;
    open_sim(&s, steady(1), 16);
    ask(&s, 300000, 1, DEMAND);
    s.clock.now_ns += 100000; // somebody computes
    ask(&s, 100000, 2, DEMAND);
    expect_next(&s, 2, IO_DONE, 300000);
    expect_next(&s, 1, IO_DONE, 400000);
    io_close(s.io);
}

Test(io_sim, no_more_reads_are_in_flight_than_the_queue_is_deep)
{
    struct sim s;
    struct io_sim_drive drive = {.n_points = 2, .points = {{1, 1}, {2, 1.6}}};
    open_sim(&s, drive, 2);
    for (uint64_t i = 0; i < 10; i++)
        ask(&s, 80000, i, DEMAND);
    cr_assert_eq(counters(&s).reads, 2);
    for (uint64_t i = 0; i < 10; i++)
        expect_next(&s, i, IO_DONE, (i / 2 + 1) * 100000);
    io_close(s.io);
}

Test(io_sim, a_long_request_is_read_in_pieces)
{
    struct sim s;
    struct io_sim_drive drive = {.n_points = 2, .points = {{1, 1}, {4, 2}}};
    open_sim(&s, drive, 16);
    ask(&s, 4 * IO_PIECE_BYTES, 1, DEMAND);
    expect_next(&s, 1, IO_DONE, 2 * IO_PIECE_BYTES);
    cr_assert_eq(counters(&s).reads, 4);
    cr_assert_eq(counters(&s).read_bytes, 4 * IO_PIECE_BYTES);
    io_close(s.io);
}

Test(io_sim, direct_reads_cover_whole_blocks_within_the_file)
{
    struct sim s;
    struct io_sim_drive drive = steady(1);
    struct io_choice choice;
    drive.align_bytes = 4096;
    open_sim(&s, drive, 16);
    io_describe(s.io, &choice);
    cr_assert(choice.direct);
    cr_assert_str_eq(choice.engine, "simulated");
    ask_at(&s, 5000, 100, 1, DEMAND);
    expect_next(&s, 1, IO_DONE, 4096);
    ask_at(&s, 8191, 2, 2, DEMAND); // of two blocks
    expect_next(&s, 2, IO_DONE, 3 * 4096);
    ask_at(&s, GIB + 340, 5, 3, DEMAND); // the last, which is not whole
    expect_next(&s, 3, IO_DONE, 3 * 4096 + 345);
    cr_assert_eq(counters(&s).read_bytes, 3 * 4096 + 345);
    io_close(s.io);
    drive.align_bytes = 0;
    open_sim(&s, drive, 16);
    ask_at(&s, 5000, 100, 1, DEMAND);
    expect_next(&s, 1, IO_DONE, 100);
    io_close(s.io);
}

// ---- whose time it is

Test(io_sim, reading_goes_on_while_somebody_computes)
{
    struct sim s;
    struct io_completion completions[4];
    open_sim(&s, steady(1), 1);
    for (uint64_t i = 0; i < 4; i++)
        ask(&s, 100000, i, DEMAND);
    s.clock.now_ns += 99999;
    cr_assert_eq(io_reap(s.io, completions, 4, 0, 0), 0);
    s.clock.now_ns += 150001;
    cr_assert_eq(io_reap(s.io, completions, 4, 0, 0), 2, "each began when the one before had ended");
    cr_assert_eq(completions[0].tag, 0);
    cr_assert_eq(completions[1].tag, 1);
    cr_assert_eq(passed_ns(&s), 250000, "looking takes no time");
    expect_next(&s, 2, IO_DONE, 300000);
    s.clock.now_ns += 1000000;
    expect_next(&s, 3, IO_DONE, 1300000); // it was there long ago
    cr_assert_eq(counters(&s).busy_ns, 400000);
    io_close(s.io);
}

Test(io_sim, a_read_begins_when_it_is_asked_for_not_when_the_drive_fell_idle)
{
    struct sim s;
    open_sim(&s, steady(1), 1);
    ask(&s, 100000, 1, DEMAND);
    s.clock.now_ns += 250000;
    ask(&s, 100000, 2, DEMAND);
    expect_next(&s, 1, IO_DONE, 250000);
    expect_next(&s, 2, IO_DONE, 350000);
    cr_assert_eq(counters(&s).busy_ns, 200000);
    io_close(s.io);
}

Test(io_sim, a_wait_ends_with_its_time)
{
    struct sim s;
    struct io_completion completion;
    open_sim(&s, steady(1), 1);
    cr_assert_eq(io_reap(s.io, &completion, 1, 1, -1), 0, "nothing is pending");
    cr_assert_eq(io_reap(s.io, &completion, 1, 1, 1000), 0);
    cr_assert_eq(passed_ns(&s), 0);
    ask(&s, 100000, 1, DEMAND);
    cr_assert_eq(io_reap(s.io, &completion, 1, 1, 30000), 0);
    cr_assert_eq(passed_ns(&s), 30000);
    cr_assert_eq(io_reap(s.io, &completion, 1, 1, 69999), 0);
    cr_assert_eq(passed_ns(&s), 99999);
    cr_assert_eq(io_reap(s.io, &completion, 1, 1, 5), 1);
    cr_assert_eq(passed_ns(&s), 100000);
    io_close(s.io);
}

Test(io_sim, looking_often_does_not_change_the_times)
{
    uint64_t ends[2];
    for (int often = 0; often < 2; often++) {
        struct sim s;
        struct io_sim_drive drive = {.n_points = 2, .points = {{1, 0.7}, {16, 3.1}}, .latency_ns = 70000};
        struct io_completion completions[32];
        open_sim(&s, drive, 5);
        for (uint64_t i = 0; i < 32; i++)
            ask(&s, 1000 + 3777 * i, i, (enum io_priority)(i % IO_PRIORITIES));
        uint32_t n = 0;
        while (often && n < 32) {
            s.clock.now_ns += 7;
            n += io_reap(s.io, completions, 32, 0, 0);
        }
        if (!often)
            cr_assert_eq(io_reap(s.io, completions, 32, 32, -1), 32);
        ends[often] = passed_ns(&s);
        io_close(s.io);
    }
    cr_assert_geq(ends[1], ends[0]);
    cr_assert_lt(ends[1] - ends[0], 7);
}

// From when its first piece is read, not from when it was asked for, until its last one is there; in the
// virtual time of the drive. What is cancelled before it is read is no span.
Test(io_sim, a_timeline_tells_when_requests_were_read)
{
    struct sim s;
    struct lode_timeline *timeline;
    struct lode_timeline_overlap overlap;
    open_sim(&s, steady(1), 1);
    cr_assert_eq(lode_timeline_open(&timeline, 16, &s.error), 0);
    const uint32_t drive = lode_timeline_lane_of_rows(timeline, "drive"),
                   marks = lode_timeline_lane(timeline, "marks");
    ask(&s, 1000, 9, DEMAND); // before anybody listens
    expect_next(&s, 9, IO_DONE, 1000);
    io_tell_timeline(s.io, timeline, drive);
    ask(&s, 2000, 1, DEMAND);
    ask(&s, 4000, 2, IO_AHEAD); // waits for the first
    ask(&s, 8000, 3, IO_PREFETCH);
    io_cancel(s.io, 3);
    expect_next(&s, 3, IO_CANCELLED, 1000);
    expect_next(&s, 1, IO_DONE, 3000);
    expect_next(&s, 2, IO_DONE, 7000);
    io_tell_timeline(s.io, NULL, 0);
    ask(&s, 3000, 4, DEMAND);
    expect_next(&s, 4, IO_DONE, 10000);
    // Busy from 1000 to 7000 of 0 to 12000, and never twice at once.
    lode_timeline_span(timeline, marks, "whole", 0, 0, START, START + 12000);
    overlap = lode_timeline_overlap(timeline, drive, marks);
    cr_expect_float_eq(overlap.both, 0.5, 1e-9);
    cr_expect_float_eq(overlap.only_b, 0.5, 1e-9);

    char path[] = "/tmp/lode-io-timeline-XXXXXX", text[4096] = "";
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(lode_timeline_write(timeline, path, &s.error), 0, "%s", s.error.text);
    close(fd);
    FILE *file = fopen(path, "r");
    cr_assert(file && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    unlink(path);
    cr_expect(strstr(text, "\"name\":\"read\",\"ts\":1.000,\"dur\":2.000,\"args\":{\"bytes\":2000}"), "%s",
              text);
    cr_expect(strstr(text, "\"name\":\"read ahead\",\"ts\":3.000,\"dur\":4.000,\"args\":{\"bytes\":4000}"),
              "%s", text);
    cr_expect_null(strstr(text, "guess"));
    cr_expect_null(strstr(text, "drive 2"));
    io_close(s.io);
    lode_timeline_close(timeline);
}

Test(io_sim, what_is_in_flight_is_dropped_at_the_end)
{
    struct sim s;
    open_sim(&s, steady(1), 2);
    for (uint64_t i = 0; i < 5; i++)
        ask(&s, 3 * MIB, i, (enum io_priority)(i % IO_PRIORITIES));
    s.clock.now_ns += 1000;
    io_close(s.io);
}

Test(io_sim, io_on_files_reads_in_the_time_of_the_machine)
{
    struct fixture f;
    const struct way way = {IO_ENGINE_THREADS, IO_CACHE_DROP};
    set_up_sound(&f, &way, 1);
    const uint64_t before_ns = clock_now_ns(), now_ns = io_now_ns(f.io);
    cr_assert(before_ns <= now_ns && now_ns <= clock_now_ns());
    tear_down(&f);
}

// ---- which come first

Test(io_sim, demand_goes_before_ahead_and_ahead_before_prefetch)
{
    static const enum io_priority priorities[] = {IO_PREFETCH, IO_PREFETCH, IO_AHEAD, IO_PREFETCH,
                                                  IO_DEMAND,   IO_AHEAD,    IO_DEMAND};
    static const uint64_t order[] = {0, 4, 6, 2, 5, 1, 3};
    struct sim s;
    open_sim(&s, steady(1), 1);
    for (uint64_t i = 0; i < 7; i++)
        ask(&s, 1000, i, priorities[i]);
    for (uint64_t i = 0; i < 7; i++)
        expect_next(&s, order[i], IO_DONE, (i + 1) * 1000);
    io_close(s.io);
}

Test(io_sim, a_demand_waits_behind_a_piece_not_behind_a_request)
{
    struct sim s;
    open_sim(&s, steady(1), 1);
    ask(&s, 10 * IO_PIECE_BYTES, 1, IO_AHEAD);
    s.clock.now_ns += 1000;
    ask(&s, 1000, 2, DEMAND);
    expect_next(&s, 2, IO_DONE, IO_PIECE_BYTES + 1000);
    expect_next(&s, 1, IO_DONE, 10 * IO_PIECE_BYTES + 1000);
    io_close(s.io);
}

Test(io_sim, two_reads_of_prefetch_are_in_flight)
{
    struct sim s;
    struct io_completion completions[10];
    open_sim(&s, steady(1), 8);
    for (uint64_t i = 0; i < 6; i++)
        ask(&s, 1000, i, IO_PREFETCH);
    cr_assert_eq(counters(&s).reads, 2);
    for (uint64_t i = 6; i < 10; i++)
        ask(&s, 1000, i, DEMAND);
    cr_assert_eq(counters(&s).reads, 6);
    cr_assert_eq(io_reap(s.io, completions, 10, 10, -1), 10);
    cr_assert_geq(passed_ns(&s), 10000);
    cr_assert_leq(passed_ns(&s), 10010, "the drive never idles; events are at whole nanoseconds");
    io_close(s.io);
}

Test(io_sim, promote_raises_what_has_not_been_read)
{
    struct sim s;
    open_sim(&s, steady(1), 1);
    ask(&s, 1000, 0, DEMAND);
    ask(&s, 1000, 1, IO_PREFETCH);
    ask(&s, 1000, 2, IO_PREFETCH);
    ask(&s, 1000, 3, IO_AHEAD);
    io_promote(s.io, 2, IO_DEMAND);
    expect_next(&s, 0, IO_DONE, 1000);
    expect_next(&s, 2, IO_DONE, 2000);
    expect_next(&s, 3, IO_DONE, 3000);
    expect_next(&s, 1, IO_DONE, 4000);
    io_close(s.io);
    // And fills places that prefetch had to leave.
    open_sim(&s, steady(1), 8);
    for (uint64_t i = 0; i < 6; i++)
        ask(&s, 1000, 7, IO_PREFETCH);
    cr_assert_eq(counters(&s).reads, 2);
    io_promote(s.io, 7, IO_AHEAD);
    cr_assert_eq(counters(&s).reads, 6);
    io_close(s.io);
}

Test(io_sim, cancel_drops_what_has_not_started_and_breaks_off_prefetch)
{
    struct sim s;
    open_sim(&s, steady(1), 1);
    ask(&s, 4 * IO_PIECE_BYTES, 1, IO_PREFETCH);
    ask(&s, 1000, 2, DEMAND);
    ask(&s, 1000, 3, IO_AHEAD);
    io_cancel(s.io, 3);
    expect_next(&s, 3, IO_CANCELLED, 0);
    io_cancel(s.io, 1); // its first piece is on its way
    expect_next(&s, 1, IO_CANCELLED, IO_PIECE_BYTES);
    expect_next(&s, 2, IO_DONE, IO_PIECE_BYTES + 1000);
    ask(&s, 2 * IO_PIECE_BYTES, 4, IO_AHEAD);
    io_cancel(s.io, 4); // others run to their end
    expect_next(&s, 4, IO_DONE, 3 * IO_PIECE_BYTES + 1000);
    cr_assert_eq(counters(&s).failed_requests, 0);
    io_close(s.io);
}

// ---- the same outcome as on threads

#define N_TAGS 10

struct outcome {
    uint32_t n[N_TAGS][3]; // by tag and status
    uint64_t order[256];   // tag and status
    uint32_t n_ended;
    struct io_counters counters;
};

static void reap_all(struct io *io, struct outcome *out)
{
    struct io_completion completion;
    while (io_pending(io) > 0) {
        cr_assert_eq(io_reap(io, &completion, 1, 1, -1), 1);
        out->n[completion.tag][completion.status]++;
        out->order[out->n_ended++] = completion.tag * 4 + completion.status;
    }
    io_count(io, &out->counters);
}

static uint32_t draw(uint32_t *random, uint32_t end)
{
    *random = *random * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(*random ^ *random >> 15) * end >> 32);
}

// Reads of the threads are held, and in the simulation no time passes, until all is asked for.
static void compare_with_threads(uint32_t seed, uint32_t queue_depth)
{
    enum { STEPS = 40 };
    const struct way way = {IO_ENGINE_THREADS, IO_CACHE_DROP};
    struct outcome on_threads = {0}, simulated = {0};
    unsigned char *buffers[STEPS] = {0};
    struct fixture f;
    struct sim s = {.clock = {START}};
    uint32_t random = seed;
    set_up(&f, &way, queue_depth, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS});
    const struct io_sim_options options = {.drive = steady(1), .clock = &s.clock, .queue_depth = queue_depth};
    cr_assert_eq(io_sim_open(&s.io, (uint64_t[]){FILE_BYTES, FILE_BYTES}, 2, &options, &s.error), 0);
    for (int step = 0; step < STEPS; step++) {
        const uint64_t tag = draw(&random, N_TAGS);
        const enum io_priority priority = (enum io_priority)draw(&random, IO_PRIORITIES);
        const uint32_t what = draw(&random, 10);
        if (what < 6) {
            const uint64_t offset = draw(&random, FILE_BYTES - MIB);
            const size_t length = 1 + draw(&random, draw(&random, 2) ? 3000 : MIB);
            buffers[step] = malloc(length);
            struct io_request request = {what % 2, offset, length, buffers[step], tag, priority, false, 0};
            cr_assert_eq(io_submit(f.io, &request, &f.error), 0, "%s", f.error.text);
            request.buffer = (void *)4096;
            cr_assert_eq(io_submit(s.io, &request, &s.error), 0, "%s", s.error.text);
        } else if (what < 8) {
            io_promote(f.io, tag, priority);
            io_promote(s.io, tag, priority);
        } else {
            io_cancel(f.io, tag);
            io_cancel(s.io, tag);
        }
        cr_assert_eq(io_pending(f.io), io_pending(s.io));
        io_fault_wait_until_held(f.fault, (uint32_t)counters(&s).reads);
    }
    io_fault_release(f.fault);
    reap_all(f.io, &on_threads);
    reap_all(s.io, &simulated);
    cr_assert_arr_eq(on_threads.n, simulated.n, sizeof simulated.n, "seed %u, depth %u", seed, queue_depth);
    cr_assert_eq(on_threads.n_ended, simulated.n_ended);
    if (queue_depth == 1)
        cr_assert_arr_eq(on_threads.order, simulated.order, sizeof simulated.order, "seed %u", seed);
    cr_assert_eq(on_threads.counters.read_bytes, simulated.counters.read_bytes);
    cr_assert_eq(on_threads.counters.reads, simulated.counters.reads);
    for (int step = 0; step < STEPS; step++)
        free(buffers[step]);
    io_close(s.io);
    tear_down(&f);
}

Test(io_sim, the_outcome_of_random_requests_is_that_of_the_threads)
{
    static const uint32_t depths[] = {1, 2, 5, 16};
    for (uint32_t i = 0; i < 16; i++)
        compare_with_threads(i + 1, depths[i % 4]);
}

// ---- what is refused

static void expect_refusal(const struct io_sim_options *options, const char *text)
{
    struct io *io = NULL;
    struct lode_error error = {0};
    cr_assert_eq(io_sim_open(&io, (uint64_t[]){1}, 1, options, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, text), "%s", error.text);
    cr_assert_null(io);
}

Test(io_sim, options_out_of_bounds_are_refused)
{
    struct sim_clock clock = {START}, at_zero = {0};
    const struct io_sim_options sound = {.drive = steady(1), .clock = &clock};
    static const double rates[] = {0, -1, NAN, INFINITY, 1e-9};
    struct io_sim_options o = sound;
    o.drive.n_points = 0;
    expect_refusal(&o, "0 rates");
    o.drive.n_points = IO_SIM_POINTS + 1;
    expect_refusal(&o, "17 rates");
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        o = sound;
        o.drive.points[0].gbps = rates[i];
        expect_refusal(&o, "GB/s");
    }
    o = sound;
    o.drive.n_points = 2;
    o.drive.points[1] = o.drive.points[0];
    expect_refusal(&o, "ascend");
    o.drive.points[1].reads = NAN;
    expect_refusal(&o, "ascend");
    o.drive.points[1].reads = INFINITY;
    expect_refusal(&o, "ascend");
    o = sound;
    o.drive.latency_ns = UINT64_MAX;
    expect_refusal(&o, "latency");
    o = sound;
    o.drive.align_bytes = 4095;
    expect_refusal(&o, "blocks");
    o.drive.align_bytes = 8192;
    expect_refusal(&o, "blocks");
    o = sound;
    o.queue_depth = 1u << 20;
    expect_refusal(&o, "queue depth");
    o = sound;
    o.clock = NULL;
    expect_refusal(&o, "clock");
    o.clock = &at_zero;
    expect_refusal(&o, "clock");
    struct io *io;
    struct lode_error error;
    cr_assert_eq(io_sim_open(&io, NULL, 0, &sound, &error), LODE_ERR_ARGUMENT);
}

Test(io_sim, a_request_outside_of_its_file_is_refused_by_the_file_s_name)
{
    struct sim s;
    open_sim(&s, steady(1), 1);
    const struct io_request request = {1, GIB, 346, (void *)4096, 1, DEMAND, false, 0};
    cr_assert_eq(io_submit(s.io, &request, &s.error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(s.error.text, "simulated file 1"), "%s", s.error.text);
    cr_assert_eq(io_file_size_bytes(s.io, 1), GIB + 345);
    cr_assert_eq(io_pending(s.io), 0);
    io_close(s.io);
}
