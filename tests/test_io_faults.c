// Reads that fail, come short or come late, at every engine.
#include "tests/test_io_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TEST_EVERY_WAY(io_faults, a_read_that_fails_once_is_retried)
{
    struct fixture f;
    unsigned char buffer[1000];
    set_up(&f, way, 2, (struct io_fault_rule){.kind = IO_FAULT_ERROR, .times = 1, .error_number = EIO});
    submit(&f, buffer, 50, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 50, 1000, 0));
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    cr_assert_eq(counters_of(&f).retried_reads, 1);
    cr_assert_eq(counters_of(&f).reads, 2);
    cr_assert_eq(counters_of(&f).failed_requests, 0);
    tear_down(&f);
}

TEST_EVERY_WAY(io_faults, a_read_that_fails_twice_is_reported_with_file_offset_and_reason)
{
    struct fixture f;
    unsigned char buffer[1000], sound[1000];
    set_up(&f, way, 2,
           (struct io_fault_rule){
               .kind = IO_FAULT_ERROR, .offset = 5000, .end = 5001, .times = 2, .error_number = EIO});
    submit(&f, buffer, 4500, 1000, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert_eq(completion.error.code, LODE_ERR_IO);
    cr_assert(strstr(completion.error.text, f.paths[0]), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, "4500"), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, strerror(EIO)), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, "tried twice"), "%s", completion.error.text);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    cr_assert_eq(counters_of(&f).failed_requests, 1);
    cr_assert_eq(counters_of(&f).retried_reads, 1);
    submit(&f, sound, 4500, 1000, 2, IO_DEMAND);
    completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_DONE);
    cr_assert_eq(completion.error.code, LODE_OK);
    cr_assert(has_content(&f, sound, 4500, 1000, 0));
    tear_down(&f);
}

TEST_EVERY_WAY(io_faults, a_large_request_fails_once_and_what_lies_behind_is_not_read)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    struct io_completion completions[2];
    set_up(&f, way, 1,
           (struct io_fault_rule){.kind = IO_FAULT_ERROR,
                                  .offset = 3 * MIB,
                                  .end = 3 * MIB + 1,
                                  .times = IO_FAULT_ALWAYS,
                                  .error_number = ENXIO});
    submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, completions, 2, 2, -1), 1);
    cr_assert_eq(completions[0].status, IO_FAILED);
    cr_assert(strstr(completions[0].error.text, strerror(ENXIO)), "%s", completions[0].error.text);
    uint64_t n = io_fault_read_count(f.fault), last = io_fault_started_at(f.fault, n - 1);
    cr_assert_leq(last, 3 * MIB);
    cr_assert_eq(io_fault_started_at(f.fault, n - 2), last, "the bad piece was tried twice");
    char offset[32];
    snprintf(offset, sizeof offset, "at offset %lu:", (unsigned long)last);
    cr_assert(strstr(completions[0].error.text, offset), "%s", completions[0].error.text);
    cr_assert(memcmp(buffer, f.content[0], last) == 0);
    cr_assert_eq(io_pending(f.io), 0);
    tear_down(&f);
    free(buffer);
}

TEST_EVERY_WAY(io_faults, a_large_request_whose_pieces_all_fail_completes_once)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    struct io_completion completions[2];
    set_up(&f, way, 4,
           (struct io_fault_rule){.kind = IO_FAULT_ERROR, .times = IO_FAULT_ALWAYS, .error_number = EIO});
    for (int round = 0; round < 50; round++) {
        submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
        cr_assert_eq(io_reap(f.io, completions, 2, 2, -1), 1);
        cr_assert_eq(completions[0].status, IO_FAILED);
    }
    cr_assert_eq(counters_of(&f).failed_requests, 50);
    tear_down(&f);
    free(buffer);
}

TEST_EVERY_WAY(io_faults, a_short_read_is_continued)
{
    static const size_t short_bytes[] = {0, 100, 123, 512, 4096, 5000, 100000};
    for (size_t i = 0; i < sizeof short_bytes / sizeof short_bytes[0]; i++) {
        struct fixture f;
        unsigned char *buffer = malloc(200000);
        set_up(&f, way, 1,
               (struct io_fault_rule){.kind = IO_FAULT_SHORT, .times = 1, .short_bytes = short_bytes[i]});
        submit(&f, buffer, 10, 200000, 1, IO_DEMAND);
        cr_assert_eq(reap_one(&f).status, IO_DONE);
        cr_assert(has_content(&f, buffer, 10, 200000, 0), "%zu bytes", short_bytes[i]);
        cr_assert_eq(io_fault_read_count(f.fault), 2);
        cr_assert_eq(counters_of(&f).retried_reads, 1);
        tear_down(&f);
        free(buffer);
    }
}

TEST_EVERY_WAY(io_faults, a_short_read_into_padded_or_aligned_memory_is_continued)
{
    static const size_t short_bytes[] = {100, 1000, 4096, 100001, 300000};
    unsigned char *memory = aligned_alloc(IO_ALIGN_BYTES, 2 * MIB);
    for (size_t i = 0; i < 2 * sizeof short_bytes / sizeof short_bytes[0]; i++) {
        bool padded = i % 2;
        uint64_t offset = 8192 + (padded ? 700 : 0);
        size_t length = padded ? MIB : 800 * KIB;
        struct fixture f;
        set_up(&f, way, 1,
               (struct io_fault_rule){.kind = IO_FAULT_SHORT, .times = 1, .short_bytes = short_bytes[i / 2]});
        unsigned char *buffer = memory + offset % IO_ALIGN_BYTES;
        struct io_request request = {0, offset, length, buffer, 1, IO_DEMAND, padded, 0};
        cr_assert_eq(io_submit(f.io, &request, &f.error), 0);
        cr_assert_eq(reap_one(&f).status, IO_DONE);
        cr_assert(has_content(&f, buffer, offset, length, 0), "%zu bytes, padded %d", short_bytes[i / 2],
                  padded);
        tear_down(&f);
    }
    free(memory);
}

TEST_EVERY_WAY(io_faults, a_read_that_stays_short_is_reported)
{
    struct fixture f;
    unsigned char buffer[20000];
    set_up(&f, way, 1, (struct io_fault_rule){.kind = IO_FAULT_SHORT, .times = 2, .short_bytes = 4096});
    submit(&f, buffer, 8192, 20000, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert(strstr(completion.error.text, "ended at byte 16384, expected 28192"), "%s",
              completion.error.text);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    tear_down(&f);
}

TEST_EVERY_WAY(io_faults, an_interrupted_read_goes_on_without_costing_the_retry)
{
    struct fixture f;
    unsigned char buffer[1000];
    struct io_fault_rule rules[] = {{.kind = IO_FAULT_ERROR, .times = 5, .error_number = EINTR},
                                    {.kind = IO_FAULT_ERROR, .times = 1, .error_number = EIO},
                                    {.kind = IO_FAULT_ERROR, .times = 5, .error_number = EINTR}};
    make_files(&f, FILE_BYTES);
    open_with_rules(&f, way, 1, rules, 3);
    submit(&f, buffer, 10, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 10, 1000, 0));
    cr_assert_eq(counters_of(&f).reads, 12);
    cr_assert_eq(counters_of(&f).retried_reads, 1);
    tear_down(&f);
}

TEST_EVERY_WAY(io_faults, a_file_truncated_while_in_use_is_reported)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    set_up_sound(&f, way, 2);
    cr_assert_eq(truncate(f.paths[0], 3000), 0);
    submit(&f, buffer, 1000, 5000, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert(strstr(completion.error.text, f.paths[0]), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, "ended at byte 3000, expected 6000"), "%s",
              completion.error.text);
    cr_assert(strstr(completion.error.text, "truncated while in use"), "%s", completion.error.text);
    submit(&f, buffer, 8000, 5000, 2, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_FAILED);
    submit(&f, buffer, 0, 3000, 3, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 0, 3000, 0));
    tear_down(&f);
    free(buffer);
}

TEST_EVERY_WAY(io_faults, random_faults_never_spoil_what_is_reported_as_done)
{
    enum { N = 400, LENGTH_MAX = 40000 };
    struct fixture f;
    struct io_fault_rule rules[] = {
        {.kind = IO_FAULT_ERROR, .offset = MIB, .end = MIB + 50000, .times = 40, .error_number = EIO},
        {.kind = IO_FAULT_SHORT, .offset = 2 * MIB, .end = 3 * MIB, .times = 60, .short_bytes = 5001},
        {.kind = IO_FAULT_DELAY, .offset = 4 * MIB, .end = 4 * MIB + 90000, .times = 20, .delay_ns = MS},
        {.kind = IO_FAULT_SHORT, .offset = 5 * MIB, .end = FILE_BYTES, .skip = 5, .times = 30},
    };
    make_files(&f, FILE_BYTES);
    open_with_rules(&f, way, 6, rules, 4);
    unsigned char *buffers = malloc((size_t)N * LENGTH_MAX);
    struct io_request requests[N];
    struct io_completion completions[N];
    uint32_t random = 5;
    for (uint32_t i = 0; i < N; i++) {
        random = random * 1664525 + 1013904223;
        requests[i] = (struct io_request){
            .offset = (random >> 4) % (FILE_BYTES - LENGTH_MAX),
            .length = 1 + (random >> 7) % LENGTH_MAX,
            .buffer = buffers + (size_t)i * LENGTH_MAX,
            .tag = i,
            .priority = random >> 30 & 1,
        };
        cr_assert_eq(io_submit(f.io, &requests[i], &f.error), 0);
    }
    cr_assert_eq(io_reap(f.io, completions, N, N, -1), N);
    uint64_t n_failed = 0;
    for (uint32_t i = 0; i < N; i++) {
        const struct io_request *request = &requests[completions[i].tag];
        n_failed += completions[i].status == IO_FAILED;
        if (completions[i].status == IO_DONE)
            cr_assert(has_content(&f, request->buffer, request->offset, request->length, 0));
    }
    cr_assert_eq(counters_of(&f).failed_requests, n_failed);
    cr_assert_gt(counters_of(&f).retried_reads, 0);
    free(buffers);
    tear_down(&f);
}

TEST_EVERY_WAY(io_faults, a_file_system_that_refuses_a_direct_read_is_read_through_the_page_cache)
{
    struct fixture f;
    unsigned char buffer[3000];
    if (way->cache != IO_CACHE_BYPASS)
        cr_skip_test("only direct reads are refused");
    make_files(&f, FILE_BYTES);
    struct io_fault_rule rule = {
        .kind = IO_FAULT_ERROR, .times = 1, .error_number = EINVAL, .path = f.paths[0]};
    open_with_rules(&f, way, 1, &rule, 1);
    cr_assert(is_direct(&f));
    submit(&f, buffer, 77, 3000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 77, 3000, 0));
    struct io_choice choice;
    io_describe(f.io, &choice);
    cr_assert_not(choice.direct);
    cr_assert(choice.why_cached && strstr(choice.why_cached, f.paths[0]), "%s", choice.why_cached);
    uint64_t before_bytes = counters_of(&f).read_bytes;
    cr_assert_eq(before_bytes, 3000);
    submit(&f, buffer, 100, 3000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert_eq(counters_of(&f).read_bytes, before_bytes + 3000, "without asking again");
    struct io_request other = {1, 77, 1000, buffer, 2, IO_DEMAND, false, 0};
    cr_assert_eq(io_submit(f.io, &other, &f.error), 0);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 77, 1000, 1));
    cr_assert_gt(counters_of(&f).read_bytes, before_bytes + 3000 + 1000, "other files stay direct");
    tear_down(&f);
}
