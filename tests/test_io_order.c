// Which reads come first: priorities, promotion, cancelling.
#include "tests/test_io_fixture.h"

#include <stdlib.h>

static const struct io_fault_rule hold_first_read = {.kind = IO_FAULT_HOLD, .times = 1};

// Requests lie apart, so that a rule or the log tells them from each other in direct reads too.
#define APART ((uint64_t)8192)

static void submit_small(struct fixture *f, unsigned char buffers[][100], uint32_t i,
                         enum io_priority priority)
{
    submit(f, buffers[i], i * APART, 100, i, priority);
}

static void expect_order(struct fixture *f, const uint64_t *expected, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct io_completion completion = reap_one(f);
        cr_assert_eq(completion.tag, expected[i], "completion %u is %lu", i, (unsigned long)completion.tag);
        cr_assert_eq(completion.status, IO_DONE);
        cr_assert_eq(io_fault_started_at(f->fault, i), expected[i] * APART);
    }
}

TEST_EVERY_WAY(io_order, demand_goes_before_ahead_and_ahead_before_prefetch)
{
    struct fixture f;
    unsigned char buffers[7][100];
    set_up(&f, way, 1, hold_first_read);
    submit_small(&f, buffers, 0, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 1);
    submit_small(&f, buffers, 1, IO_PREFETCH);
    submit_small(&f, buffers, 2, IO_AHEAD);
    submit_small(&f, buffers, 3, IO_PREFETCH);
    submit_small(&f, buffers, 4, IO_DEMAND);
    submit_small(&f, buffers, 5, IO_AHEAD);
    submit_small(&f, buffers, 6, IO_DEMAND);
    io_fault_release(f.fault);
    expect_order(&f, (uint64_t[]){0, 4, 6, 2, 5, 1, 3}, 7);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, demand_overtakes_the_rest_of_a_large_request)
{
    struct fixture f;
    unsigned char *large = malloc(FILE_BYTES), small[100];
    set_up(&f, way, 1, hold_first_read);
    submit(&f, large, 0, FILE_BYTES, 1, IO_AHEAD);
    io_fault_wait_until_held(f.fault, 1);
    submit(&f, small, 5000, 100, 2, IO_DEMAND);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).tag, 2);
    cr_assert(has_content(&f, small, 5000, 100, 0));
    cr_assert_eq(reap_one(&f).tag, 1);
    cr_assert(has_content(&f, large, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(large);
}

TEST_EVERY_WAY(io_order, two_reads_of_prefetch_are_in_flight_and_leave_room_for_demand)
{
    enum { N = 16 };
    struct fixture f;
    unsigned char buffers[N][100];
    struct io_completion completions[N];
    set_up(&f, way, 8, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS});
    for (uint32_t i = 0; i < 8; i++)
        submit_small(&f, buffers, i, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 2);
    cr_assert_eq(io_reap(f.io, completions, N, 1, 20 * MS), 0);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    for (uint32_t i = 8; i < 12; i++)
        submit_small(&f, buffers, i, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 6);
    for (uint32_t i = 12; i < 16; i++)
        submit_small(&f, buffers, i, IO_AHEAD);
    io_fault_wait_until_held(f.fault, 8);
    cr_assert_eq(io_reap(f.io, completions, N, 1, 10 * MS), 0);
    cr_assert_eq(io_fault_read_count(f.fault), 8);
    io_fault_release(f.fault);
    cr_assert_eq(io_reap(f.io, completions, N, N, -1), N);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, prefetch_alone_has_two_reads_in_flight_and_reaches_its_end)
{
    enum { N = 30 };
    struct fixture f;
    unsigned char buffers[N][100];
    struct io_completion completions[N];
    set_up(&f, way, 8,
           (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = MS});
    for (uint32_t i = 0; i < N; i++)
        submit_small(&f, buffers, i, IO_PREFETCH);
    cr_assert_eq(io_reap(f.io, completions, N, N, -1), N);
    cr_assert_eq(io_fault_most_reads_at_once(f.fault), 2);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, prefetch_goes_on_at_two_reads_when_demand_is_over)
{
    struct fixture f;
    unsigned char buffers[8][100];
    // The demand is held on its own, then the prefetch behind it.
    struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_DELAY, .offset = 0, .end = 1, .times = 1, .delay_ns = 20 * MS},
        {.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS}};
    make_files(&f, FILE_BYTES);
    open_with_rules(&f, way, 8, rules, 2);
    submit_small(&f, buffers, 0, IO_DEMAND);
    for (uint32_t i = 1; i < 8; i++)
        submit_small(&f, buffers, i, IO_PREFETCH);
    cr_assert_eq(reap_one(&f).tag, 0);
    io_fault_wait_until_held(f.fault, 2);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, promote_moves_what_waits_before_what_is_less_urgent)
{
    struct fixture f;
    unsigned char buffers[6][100];
    set_up(&f, way, 1, hold_first_read);
    submit_small(&f, buffers, 0, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    submit_small(&f, buffers, 1, IO_PREFETCH);
    submit_small(&f, buffers, 2, IO_PREFETCH);
    submit_small(&f, buffers, 3, IO_AHEAD);
    submit_small(&f, buffers, 4, IO_PREFETCH);
    submit_small(&f, buffers, 5, IO_DEMAND);
    io_promote(f.io, 4, IO_AHEAD);
    io_promote(f.io, 2, IO_DEMAND);
    io_promote(f.io, 5, IO_PREFETCH); // nothing is ever made less urgent
    io_promote(f.io, 0, IO_DEMAND);
    io_promote(f.io, 77, IO_DEMAND);
    io_fault_release(f.fault);
    expect_order(&f, (uint64_t[]){0, 5, 2, 3, 4, 1}, 6);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, promote_lets_the_rest_of_a_started_prefetch_use_the_whole_queue)
{
    struct fixture f;
    unsigned char *large = malloc(FILE_BYTES);
    set_up(&f, way, 5, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = 5});
    submit(&f, large, 0, FILE_BYTES, 1, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 2);
    io_promote(f.io, 1, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 5);
    io_cancel(f.io, 1); // no prefetch any more
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, large, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(large);
}

TEST_EVERY_WAY(io_order, cancel_drops_only_what_has_the_tag_and_has_not_started)
{
    struct fixture f;
    static unsigned char buffers[4][100];
    set_up(&f, way, 1, hold_first_read);
    submit(&f, buffers[0], 0, 100, 7, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    submit(&f, buffers[1], 100, 100, 7, IO_PREFETCH);
    submit(&f, buffers[2], 200, 100, 7, IO_DEMAND);
    submit(&f, buffers[3], 300, 100, 8, IO_PREFETCH);
    io_cancel(f.io, 7);
    io_cancel(f.io, 7);
    io_cancel(f.io, 99);
    cr_assert_eq(io_pending(f.io), 4);
    struct io_completion completions[4];
    cr_assert_eq(io_reap(f.io, completions, 4, 0, 0), 2);
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(completions[i].tag, 7);
        cr_assert_eq(completions[i].status, IO_CANCELLED);
    }
    io_fault_release(f.fault);
    cr_assert_eq(io_reap(f.io, completions, 4, 4, -1), 2);
    cr_assert_eq(completions[0].tag, 7);
    cr_assert_eq(completions[0].status, IO_DONE);
    cr_assert_eq(completions[1].tag, 8);
    cr_assert_eq(completions[1].status, IO_DONE);
    cr_assert(has_content(&f, buffers[0], 0, 100, 0) && has_content(&f, buffers[3], 300, 100, 0));
    cr_assert_eq(buffers[1][0] | buffers[1][99] | buffers[2][0] | buffers[2][99], 0);
    cr_assert_eq(counters_of(&f).failed_requests, 0);
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, cancel_lets_a_started_request_run_to_its_end_unless_it_is_prefetch)
{
    static const struct {
        enum io_priority priority;
        enum io_status expected;
    } cases[] = {{IO_DEMAND, IO_DONE}, {IO_AHEAD, IO_DONE}, {IO_PREFETCH, IO_CANCELLED}};
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        unsigned char *buffer = malloc(FILE_BYTES);
        set_up(&f, way, 1, hold_first_read);
        submit(&f, buffer, 0, FILE_BYTES, 7, cases[i].priority);
        io_fault_wait_until_held(f.fault, 1);
        io_cancel(f.io, 7);
        struct io_completion completion;
        cr_assert_eq(io_reap(f.io, &completion, 1, 1, 5 * MS), 0, "its read is in flight");
        io_fault_release(f.fault);
        cr_assert_eq(reap_one(&f).status, cases[i].expected);
        if (cases[i].expected == IO_DONE)
            cr_assert(has_content(&f, buffer, 0, FILE_BYTES, 0));
        else
            cr_assert_eq(io_fault_read_count(f.fault), 1);
        tear_down(&f);
        free(buffer);
    }
}

TEST_EVERY_WAY(io_order, cancel_of_a_prefetch_whose_pieces_have_all_started_keeps_its_outcome)
{
    struct fixture f;
    unsigned char buffer[100];
    set_up(&f, way, 1, hold_first_read);
    submit(&f, buffer, 0, 100, 7, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 1);
    io_cancel(f.io, 7);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 0, 100, 0));
    tear_down(&f);
}

TEST_EVERY_WAY(io_order, cancel_of_a_started_prefetch_with_nothing_in_flight_completes_at_once)
{
    struct fixture f;
    unsigned char *large = malloc(FILE_BYTES), small[100];
    // The first piece of the prefetch is slow; meanwhile a demand comes, which then holds the only place.
    uint64_t far = FILE_BYTES - 100;
    struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_DELAY, .times = 1, .delay_ns = 50 * MS},
        {.kind = IO_FAULT_HOLD, .offset = far, .end = far + 1, .times = IO_FAULT_ALWAYS}};
    make_files(&f, FILE_BYTES);
    open_with_rules(&f, way, 1, rules, 2);
    submit(&f, large, 0, FILE_BYTES - 10000, 1, IO_PREFETCH);
    while (io_fault_read_count(f.fault) == 0)
        continue;
    submit(&f, small, far, 100, 2, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    struct io_completion completion;
    cr_assert_eq(io_reap(f.io, &completion, 1, 0, 0), 0);
    io_cancel(f.io, 1);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, -1), 1);
    cr_assert_eq(completion.tag, 1);
    cr_assert_eq(completion.status, IO_CANCELLED);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).tag, 2);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    tear_down(&f);
    free(large);
}

TEST_EVERY_WAY(io_order, cancel_of_a_request_that_has_ended_keeps_its_outcome)
{
    struct fixture f;
    unsigned char buffer[100];
    set_up_sound(&f, way, 1);
    submit(&f, buffer, 0, 100, 7, IO_PREFETCH);
    while (io_fault_read_count(f.fault) == 0)
        continue;
    io_cancel(f.io, 7);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    tear_down(&f);
}
