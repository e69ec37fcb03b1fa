// Sound reads: what arrives where, how many at a time, reaping, refused requests, closing.
#include "base/clock.h"
#include "tests/test_io_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CANARY 0xa5

// ---- what arrives

TEST_EVERY_WAY(io, reads_exactly_the_range)
{
    static const struct {
        uint64_t offset;
        size_t length;
    } ranges[] = {
        {0, 1},
        {FILE_BYTES - 1, 1},
        {4095, 2},
        {4096, 4096},
        {511, 2},
        {512, 512},
        {17, 65537},
        {1, 256 * KIB},
        {4096, 256 * KIB},
        {5000, 1 * MIB - 1},
        {4097, MIB + 1},
        {12345, 3 * MIB + 7},
        {FILE_BYTES - 300000, 300000},
        {0, FILE_BYTES},
    };
    struct fixture f;
    set_up_sound(&f, way, 5);
    unsigned char *buffer = malloc(FILE_BYTES + 2);
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        size_t length = ranges[i].length;
        memset(buffer, CANARY, length + 2);
        submit(&f, buffer + 1, ranges[i].offset, length, i, IO_DEMAND);
        struct io_completion completion = reap_one(&f);
        cr_assert_eq(completion.status, IO_DONE, "%s", completion.error.text);
        cr_assert_eq(completion.tag, i);
        cr_assert(has_content(&f, buffer + 1, ranges[i].offset, length, 0));
        cr_assert_eq(buffer[0], CANARY);
        cr_assert_eq(buffer[length + 1], CANARY);
    }
    free(buffer);
    tear_down(&f);
}

// Requests in slots of one memory, so that whatever one writes beyond its own is seen by a neighbour or a
// canary.
#define ARENA_SLOTS 48
#define SLOT_BYTES (320 * KIB)

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

static struct io_request draw_request(const struct fixture *f, unsigned char *slot, uint32_t *random)
{
    size_t length = 1 + next_random(random) % (next_random(random) % 8 ? 9000 : 300 * KIB);
    uint64_t offset = next_random(random) % (f->size_bytes - length + 1);
    uint32_t kind = next_random(random) % 4;
    if (kind == 0) {
        offset -= offset % 512;
        length = length > 512 ? length - length % 512 : length;
    }
    bool congruent = kind < 3;
    return (struct io_request){
        .file = next_random(random) % IO_N_FILES,
        .offset = offset,
        .length = length,
        .buffer = slot + (congruent ? offset % IO_ALIGN_BYTES : next_random(random) % IO_ALIGN_BYTES),
        .priority = next_random(random) % IO_PRIORITIES,
        .padded = kind == 1 || next_random(random) % 2,
    };
}

// The request's bytes in the slot, padding included where it has some.
static void own_range(const struct io_request *request, const unsigned char *slot, size_t *start, size_t *end)
{
    *start = (size_t)((unsigned char *)request->buffer - slot);
    *end = *start + request->length;
    if (request->padded) {
        *start = *start / IO_ALIGN_BYTES * IO_ALIGN_BYTES;
        *end = (*end + IO_ALIGN_BYTES - 1) / IO_ALIGN_BYTES * IO_ALIGN_BYTES;
    }
}

static bool is_canary(const unsigned char *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (data[i] != CANARY)
            return false;
    }
    return true;
}

static void check_and_clear(const struct fixture *f, const struct io_request *request, unsigned char *slot)
{
    size_t start, end;
    own_range(request, slot, &start, &end);
    cr_assert(has_content(f, request->buffer, request->offset, request->length, request->file),
              "offset %lu, length %zu, padded %d", (unsigned long)request->offset, request->length,
              request->padded);
    cr_assert(is_canary(slot, start) && is_canary(slot + end, SLOT_BYTES - end),
              "offset %lu, length %zu, buffer %zu, padded %d", (unsigned long)request->offset,
              request->length, (size_t)((unsigned char *)request->buffer - slot), request->padded);
    memset(slot + start, CANARY, end - start);
}

static void read_at_random(struct fixture *f, unsigned char *arena, uint32_t n_requests, uint32_t random)
{
    struct io_request requests[ARENA_SLOTS];
    struct io_completion completions[ARENA_SLOTS];
    uint32_t n_submitted = 0, n_reaped = 0, n_free = ARENA_SLOTS, free_slots[ARENA_SLOTS];
    memset(arena, CANARY, ARENA_SLOTS * SLOT_BYTES);
    for (uint32_t i = 0; i < ARENA_SLOTS; i++)
        free_slots[i] = i;
    while (n_reaped < n_requests) {
        while (n_free > 0 && n_submitted < n_requests) {
            uint32_t slot = free_slots[--n_free];
            requests[slot] = draw_request(f, arena + slot * SLOT_BYTES, &random);
            requests[slot].tag = slot;
            cr_assert_eq(io_submit(f->io, &requests[slot], &f->error), 0, "%s", f->error.text);
            n_submitted++;
        }
        uint32_t n = io_reap(f->io, completions, ARENA_SLOTS, 1 + random % 9, -1);
        cr_assert_gt(n, 0);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t slot = completions[i].tag;
            cr_assert_eq(completions[i].status, IO_DONE, "%s", completions[i].error.text);
            check_and_clear(f, &requests[slot], arena + slot * SLOT_BYTES);
            free_slots[n_free++] = (uint32_t)slot;
        }
        n_reaped += n;
    }
    cr_assert_eq(io_pending(f->io), 0);
}

static unsigned char *map_arena(void)
{
    void *arena =
        mmap(NULL, ARENA_SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(arena, MAP_FAILED);
    return arena;
}

TEST_EVERY_WAY(io, thousands_of_random_reads_arrive_whole_and_touch_nothing_else)
{
    struct fixture f;
    set_up_sound(&f, way, 8);
    unsigned char *arena = map_arena();
    read_at_random(&f, arena, 3000, 1);
    munmap(arena, ARENA_SLOTS * SLOT_BYTES);
    tear_down(&f);
}

TEST_EVERY_WAY(io, reads_arrive_in_registered_memory_as_in_any_other)
{
    struct fixture f;
    set_up_sound(&f, way, 8);
    unsigned char *arena = map_arena();
    // Two parts that leave memory between and behind them, and one that lies across a border.
    bool first = io_register(f.io, arena, 10 * SLOT_BYTES + 100 * KIB);
    bool second = io_register(f.io, arena + 10 * SLOT_BYTES + 100 * KIB, 20 * SLOT_BYTES);
    if (way->engine == IO_ENGINE_THREADS)
        cr_assert(!first && !second);
    cr_assert_eq(first, second);
    read_at_random(&f, arena, 600, 7);
    io_unregister(f.io);
    read_at_random(&f, arena, 200, 8);
    cr_assert_eq(io_register(f.io, arena, SLOT_BYTES), first);
    io_unregister(f.io);
    io_unregister(f.io);
    munmap(arena, ARENA_SLOTS * SLOT_BYTES);
    tear_down(&f);
}

TEST_EVERY_WAY(io, registers_no_memory_while_requests_are_pending)
{
    struct fixture f;
    static unsigned char buffer[100];
    set_up_sound(&f, way, 1);
    submit(&f, buffer, 0, 100, 1, IO_DEMAND);
    cr_assert_not(io_register(f.io, buffer, sizeof buffer));
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert_not(io_register(f.io, buffer, 0));
    tear_down(&f);
}

// Where reads land: inside of the request's own memory, or in memory of the room.
struct landing {
    const unsigned char *start, *end;
    uint32_t n_inside, n_outside;
};

static void note_landing(struct landing *landing, const unsigned char *buffer)
{
    bool inside = buffer >= landing->start && buffer < landing->end;
    __atomic_add_fetch(inside ? &landing->n_inside : &landing->n_outside, 1, __ATOMIC_SEQ_CST);
}

static int64_t noting_read(void *user, int fd, void *buffer, size_t length, uint64_t offset)
{
    note_landing(user, buffer);
    return io_pread(NULL, fd, buffer, length, offset);
}

static void no_delay(void *user, struct io_delay *out, int fd, size_t length, uint64_t offset)
{
    (void)user, (void)fd, (void)length, (void)offset;
    *out = (struct io_delay){.until_readable_fd = -1};
}

static int64_t noting_end(void *user, uint64_t cookie, void *buffer, int64_t result)
{
    (void)cookie;
    note_landing(user, buffer);
    return result;
}

TEST_EVERY_WAY(io, a_padded_read_goes_straight_into_its_buffer)
{
    struct fixture f;
    set_up_sound(&f, way, 4);
    unsigned char *arena = map_arena();
    struct landing landing = {.start = arena, .end = arena + ARENA_SLOTS * SLOT_BYTES};
    struct io_hooks hooks = {noting_read, no_delay, noting_end, &landing};
    struct io_options options = {.engine = way->engine, .cache = way->cache};
    const char *paths[] = {f.paths[0]};
    io_close(f.io);
    cr_assert_eq(io_open_hooked(&f.io, paths, 1, &options, &hooks, &f.error), 0, "%s", f.error.text);
    uint64_t offset = 4096 * 3 + 77;
    struct io_request request = {0, offset, 3 * MIB, arena + 77, 1, IO_DEMAND, true, 0};
    cr_assert_eq(io_submit(f.io, &request, &f.error), 0);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, arena + 77, offset, 3 * MIB, 0));
    cr_assert_eq(landing.n_outside, 0);
    cr_assert_gt(landing.n_inside, 1);
    landing.n_inside = 0;
    request.padded = false;
    cr_assert_eq(io_submit(f.io, &request, &f.error), 0);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert_eq(landing.n_outside > 0, is_direct(&f), "the ends have no padding");
    munmap(arena, ARENA_SLOTS * SLOT_BYTES);
    tear_down(&f);
}

Test(io, says_how_many_bytes_a_padded_buffer_takes)
{
    cr_assert_eq(io_padded_bytes(0, 1), 4096);
    cr_assert_eq(io_padded_bytes(0, 4096), 4096);
    cr_assert_eq(io_padded_bytes(4095, 1), 4096);
    cr_assert_eq(io_padded_bytes(4095, 2), 8192);
    cr_assert_eq(io_padded_bytes(4096 * 9 + 1, 4096), 8192);
}

TEST_EVERY_WAY(io, tells_sizes_and_what_it_chose)
{
    struct fixture f;
    make_files(&f, 4321);
    open_with_rules(&f, way, 3, NULL, 0);
    cr_assert_eq(io_file_size_bytes(f.io, 0), 4321);
    cr_assert_eq(io_file_size_bytes(f.io, 1), 4321);
    cr_assert_eq(io_file_size_bytes(f.io, 2), 0);
    struct io_choice choice;
    io_describe(f.io, &choice);
    cr_assert_str_eq(choice.engine, way->engine == IO_ENGINE_URING ? "io_uring" : "threads");
    cr_assert_eq(choice.direct, way->cache == IO_CACHE_BYPASS);
    cr_assert_null(choice.why_threads);
    cr_assert_null(choice.why_cached);
    cr_assert_eq(choice.queue_depth, 3);
    tear_down(&f);
}

// ---- how many at a time

TEST_EVERY_WAY(io, has_as_many_reads_in_flight_as_its_queue_is_deep)
{
    struct fixture f;
    unsigned char buffers[12][10];
    set_up(&f, way, 4, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS});
    for (uint32_t i = 0; i < 12; i++)
        submit(&f, buffers[i], i * 10, 10, i, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 4);
    struct io_completion completions[12];
    cr_assert_eq(io_reap(f.io, completions, 12, 1, 20 * MS), 0);
    cr_assert_eq(io_fault_most_reads_at_once(f.fault), 4);
    io_fault_release(f.fault);
    cr_assert_eq(io_reap(f.io, completions, 12, 12, -1), 12);
    cr_assert_eq(io_fault_most_reads_at_once(f.fault), 4);
    tear_down(&f);
}

TEST_EVERY_WAY(io, reads_a_large_request_in_several_pieces_at_once)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    set_up(&f, way, 4, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = 4});
    submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 4);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(buffer);
}

TEST_EVERY_WAY(io, reads_on_while_the_caller_is_busy_elsewhere)
{
    enum { N = 40 };
    struct fixture f;
    unsigned char buffers[N][100];
    set_up_sound(&f, way, 2);
    for (uint32_t i = 0; i < N; i++)
        submit(&f, buffers[i], i * 8192, 100, i, IO_DEMAND);
    // Without a system call: what the thread has submitted must not wait for one.
    uint64_t end_ns = clock_now_ns() + 100 * (uint64_t)MS;
    while (clock_now_ns() < end_ns)
        continue;
    struct io_completion completions[N];
    cr_assert_eq(io_reap(f.io, completions, N, 0, 0), N);
    tear_down(&f);
}

TEST_EVERY_WAY(io, counters_add_up)
{
    enum { N = 20, LENGTH = 3000 };
    struct fixture f;
    unsigned char buffers[N][LENGTH];
    set_up(&f, way, 4, (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = 1, .delay_ns = 30 * MS});
    cr_assert_eq(counters_of(&f).reads | counters_of(&f).read_bytes | counters_of(&f).busy_ns, 0);
    int64_t start_ns = (int64_t)clock_now_ns();
    for (uint32_t i = 0; i < N; i++)
        submit(&f, buffers[i], 100 + i * LENGTH, LENGTH, i, IO_DEMAND);
    struct io_completion completions[N];
    cr_assert_eq(io_reap(f.io, completions, N, N, -1), N);
    struct io_counters counters = counters_of(&f);
    cr_assert_eq(counters.reads, N);
    cr_assert_eq(counters.reads, io_fault_read_count(f.fault));
    if (is_direct(&f))
        cr_assert(counters.read_bytes > N * LENGTH && counters.read_bytes <= N * (LENGTH + 8192) &&
                  counters.read_bytes % 512 == 0);
    else
        cr_assert_eq(counters.read_bytes, N * LENGTH);
    cr_assert_eq(counters.retried_reads | counters.failed_requests | counters.mirror_bytes, 0);
    cr_assert_geq(counters.busy_ns, (uint64_t)(30 * MS));
    cr_assert_leq(counters.busy_ns, clock_now_ns() - (uint64_t)start_ns);
    sleep_ns(5 * MS);
    cr_assert_eq(counters_of(&f).busy_ns, counters.busy_ns, "nothing was in flight");
    tear_down(&f);
}

TEST_EVERY_WAY(io, time_with_a_read_in_flight_counts_before_it_ends)
{
    struct fixture f;
    unsigned char buffer[10];
    set_up(&f, way, 4, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = 1});
    submit(&f, buffer, 0, 10, 1, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    sleep_ns(5 * MS);
    cr_assert_geq(counters_of(&f).busy_ns, (uint64_t)(5 * MS));
    tear_down(&f);
}

// ---- reap

TEST_EVERY_WAY(io, reap_returns_at_once_when_nothing_is_pending)
{
    struct fixture f;
    struct io_completion completion;
    set_up_sound(&f, way, 1);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, -1), 0);
    tear_down(&f);
}

TEST_EVERY_WAY(io, reap_takes_at_most_max_and_waits_for_no_more_than_is_pending)
{
    struct fixture f;
    unsigned char buffers[3][10];
    struct io_completion completions[8];
    set_up_sound(&f, way, 2);
    for (uint32_t i = 0; i < 3; i++)
        submit(&f, buffers[i], i, 10, i, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, completions, 2, 5, -1), 2);
    cr_assert_eq(io_reap(f.io, completions, 8, 8, -1), 1);
    tear_down(&f);
}

TEST_EVERY_WAY(io, a_read_that_never_returns_leaves_the_others_alone_and_lets_reap_time_out)
{
    struct fixture f;
    unsigned char stuck[100], sound[100];
    struct io_completion completions[2];
    set_up(&f, way, 2,
           (struct io_fault_rule){.kind = IO_FAULT_HOLD, .offset = 0, .end = 1, .times = IO_FAULT_ALWAYS});
    submit(&f, stuck, 0, 100, 1, IO_DEMAND);
    submit(&f, sound, 50000, 100, 2, IO_DEMAND);
    int64_t start_ns = (int64_t)clock_now_ns();
    cr_assert_eq(io_reap(f.io, completions, 2, 2, 30 * MS), 1);
    cr_assert_geq((int64_t)clock_now_ns() - start_ns, 30 * MS);
    cr_assert_eq(completions[0].tag, 2);
    start_ns = (int64_t)clock_now_ns();
    cr_assert_eq(io_reap(f.io, completions, 2, 1, 0), 0);
    cr_assert_lt((int64_t)clock_now_ns() - start_ns, 1000 * MS);
    cr_assert_eq(io_pending(f.io), 1);
    tear_down(&f);
}

TEST_EVERY_WAY(io, a_slow_read_is_waited_for)
{
    struct fixture f;
    unsigned char buffer[100];
    struct io_completion completion;
    set_up(&f, way, 1, (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = 1, .delay_ns = 80 * MS});
    submit(&f, buffer, 0, 100, 1, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, 5 * MS), 0);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, INT64_MAX), 1);
    cr_assert(has_content(&f, buffer, 0, 100, 0));
    tear_down(&f);
}

TEST_EVERY_WAY(io, polling_finds_what_has_ended)
{
    struct fixture f;
    unsigned char buffer[100];
    struct io_completion completion;
    set_up_sound(&f, way, 1);
    for (int round = 0; round < 20; round++) {
        submit(&f, buffer, 0, 100, 1, IO_DEMAND);
        uint32_t n = 0;
        for (int i = 0; i < 2000 && n == 0; i++, sleep_ns(MS / 4))
            n = io_reap(f.io, &completion, 1, 0, 0);
        cr_assert_eq(n, 1);
    }
    tear_down(&f);
}

// ---- what is refused

TEST_EVERY_WAY(io, refuses_requests_that_make_no_sense)
{
    struct fixture f;
    unsigned char buffer[100];
    make_files(&f, 1000);
    open_with_rules(&f, way, 1, NULL, 0);
    struct {
        struct io_request request;
        const char *expected;
    } cases[] = {
        {{0, 10, 0, buffer, 1, IO_DEMAND, false, 0}, "no bytes"},
        {{0, 901, 100, buffer, 1, IO_DEMAND, false, 0}, "beyond the file of 1000 bytes"},
        {{0, 1000, 1, buffer, 1, IO_DEMAND, true, 0}, "beyond the file"},
        {{0, UINT64_MAX, 2, buffer, 1, IO_DEMAND, false, 0}, "beyond the file"},
        {{0, 1, SIZE_MAX, buffer, 1, IO_DEMAND, false, 0}, "beyond the file"},
        {{2, 0, 1, buffer, 1, IO_DEMAND, false, 0}, "there are 2 files"},
        {{0, 0, 1, NULL, 1, IO_DEMAND, false, 0}, "without a buffer"},
        {{0, 0, 1, buffer, 1, (enum io_priority)3, false, 0}, "priority"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(io_submit(f.io, &cases[i].request, &f.error), LODE_ERR_ARGUMENT);
        cr_assert(strstr(f.error.text, cases[i].expected), "%s", f.error.text);
    }
    cr_assert_eq(io_pending(f.io), 0);
    cr_assert_eq(io_fault_read_count(f.fault), 0);
    submit(&f, buffer, 900, 100, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    tear_down(&f);
}

// ---- close

TEST_EVERY_WAY(io, close_waits_for_reads_in_flight_drops_the_others_and_leaves_nothing)
{
    enum { N = 20 };
    struct fixture f;
    static unsigned char buffers[N][100];
    set_up_sound(&f, way, 2);
    tear_down(&f); // what is made once for a process is there now
    int n_threads = count_entries("/proc/self/task"), n_descriptors = count_entries("/proc/self/fd");
    set_up(&f, way, 2,
           (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 60 * MS});
    for (uint32_t i = 0; i < N; i++)
        submit(&f, buffers[i], i * 8192, 100, i, IO_AHEAD);
    while (io_fault_read_count(f.fault) < 2)
        continue;
    io_close(f.io);
    f.io = NULL;
    uint64_t n_read = io_fault_read_count(f.fault);
    cr_assert_lt(n_read, N);
    for (uint32_t i = 0; i < N; i++)
        cr_assert_eq(has_content(&f, buffers[i], i * 8192, 100, 0), i < n_read);
    tear_down(&f);
    // A joined thread may be listed for a moment longer, and so may the kernel's threads of a ring.
    for (int i = 0; i < 1000 && count_entries("/proc/self/task") != n_threads; i++)
        sleep_ns(MS);
    cr_assert_eq(count_entries("/proc/self/task"), n_threads);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
}

TEST_EVERY_WAY(io, close_forgets_completions_that_were_not_reaped)
{
    struct fixture f;
    unsigned char buffers[2][10];
    set_up(&f, way, 1, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = 1});
    submit(&f, buffers[0], 0, 10, 1, IO_DEMAND);
    submit(&f, buffers[1], 0, 10, 2, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    io_cancel(f.io, 2);
    tear_down(&f);
    io_close(NULL);
}

TEST_EVERY_WAY(io, two_can_be_open_over_the_same_files)
{
    struct fixture f;
    struct io *other;
    set_up_sound(&f, way, 2);
    const char *paths[] = {f.paths[1]};
    cr_assert_eq(io_open(&other, paths, 1, NULL, &f.error), 0);
    unsigned char first[1000], second[1000];
    struct io_request request = {0, 99, 1000, second, 5, IO_DEMAND, false, 0};
    submit(&f, first, 99, 1000, 4, IO_DEMAND);
    cr_assert_eq(io_submit(other, &request, &f.error), 0);
    struct io_completion completion;
    cr_assert_eq(io_reap(other, &completion, 1, 1, -1), 1);
    cr_assert_eq(completion.tag, 5);
    cr_assert_eq(reap_one(&f).tag, 4);
    cr_assert(has_content(&f, first, 99, 1000, 0) && has_content(&f, second, 99, 1000, 1));
    io_close(other);
    tear_down(&f);
}
