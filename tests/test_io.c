// Reads through the pool of threads, sound and with scripted faults.
#include "base/lode_error.h"
#include "io/io.h"
#include "io/io_fault.h"
#include "io/io_internal.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define MS ((int64_t)1000000)
#define FILE_BYTES (12 * MIB + 345)

static unsigned char content_at(uint64_t offset, uint32_t file)
{
    return (unsigned char)(((offset + 1) * 0x9e3779b97f4a7c15u + file * 77) >> 37);
}

// A fresh io over one or two files of known content, with or without faults.
struct fixture {
    char paths[2][64];
    uint64_t size_bytes;
    struct io_fault *fault;
    struct io *io;
    struct lode_error error;
};

static void write_file(char path[64], uint32_t file, size_t size_bytes)
{
    snprintf(path, 64, "/tmp/lode-test-io-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    unsigned char *data = malloc(size_bytes);
    for (size_t i = 0; i < size_bytes; i++)
        data[i] = content_at(i, file);
    cr_assert_eq(write(fd, data, size_bytes), (ssize_t)size_bytes);
    free(data);
    close(fd);
}

static void set_up_with(struct fixture *f, uint32_t queue_depth, size_t size_bytes,
                        const struct io_fault_rule *rules, uint32_t n_rules)
{
    *f = (struct fixture){.size_bytes = size_bytes};
    const char *paths[2] = {f->paths[0], f->paths[1]};
    struct io_options options = {.queue_depth = queue_depth};
    for (uint32_t file = 0; file < 2; file++)
        write_file(f->paths[file], file, size_bytes);
    cr_assert_eq(io_fault_new(&f->fault, rules, n_rules, &f->error), 0);
    cr_assert_eq(io_open_with(&f->io, paths, 2, &options, io_fault_read, f->fault, &f->error), 0, "%s",
                 f->error.text);
}

static void set_up(struct fixture *f, uint32_t queue_depth, struct io_fault_rule rule)
{
    set_up_with(f, queue_depth, FILE_BYTES, &rule, 1);
}

static void tear_down(struct fixture *f)
{
    io_fault_release(f->fault);
    io_close(f->io);
    io_fault_free(f->fault);
    for (uint32_t file = 0; file < 2; file++)
        unlink(f->paths[file]);
}

static void submit(struct fixture *f, void *buffer, uint64_t offset, size_t length, uint64_t tag,
                   enum io_priority priority)
{
    struct io_request request = {0, offset, length, buffer, tag, priority};
    cr_assert_eq(io_submit(f->io, &request, &f->error), 0, "%s", f->error.text);
}

static struct io_completion reap_one(struct fixture *f)
{
    struct io_completion completion;
    cr_assert_eq(io_reap(f->io, &completion, 1, 1, -1), 1);
    return completion;
}

static bool has_content(const unsigned char *data, uint64_t offset, size_t length, uint32_t file)
{
    for (size_t i = 0; i < length; i++) {
        if (data[i] != content_at(offset + i, file))
            return false;
    }
    return true;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

static int count_entries(const char *directory)
{
    DIR *dir = opendir(directory);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    closedir(dir);
    return n;
}

// ---- sound reads
// ---------------------------------------------------------------------------------------------

struct range {
    uint32_t queue_depth;
    uint64_t offset;
    size_t length;
};

ParameterizedTestParameters(io, reads_exactly_the_range)
{
    static struct range ranges[] = {
        {1, 0, 1},        {1, FILE_BYTES - 1, 1}, {4, 4095, 2},
        {4, 4096, 4096},  {1, 17, 65537},         {4, 1, MIB - 1},
        {4, 1, MIB},      {1, 4097, MIB + 1},     {8, 12345, 3 * MIB + 7},
        {1, 0, 10000000}, {8, 777, 10000000},     {16, 0, FILE_BYTES},
    };
    return cr_make_param_array(struct range, ranges, sizeof ranges / sizeof ranges[0]);
}

ParameterizedTest(struct range *range, io, reads_exactly_the_range)
{
    struct fixture f;
    set_up_with(&f, range->queue_depth, FILE_BYTES, NULL, 0);
    unsigned char *buffer = malloc(range->length + 2);
    buffer[0] = buffer[range->length + 1] = 0xa5;
    submit(&f, buffer + 1, range->offset, range->length, 9, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_DONE);
    cr_assert_eq(completion.tag, 9);
    cr_assert(has_content(buffer + 1, range->offset, range->length, 0));
    cr_assert_eq(buffer[0], 0xa5);
    cr_assert_eq(buffer[range->length + 1], 0xa5);
    free(buffer);
    tear_down(&f);
}

Test(io, completes_thousands_of_requests_over_several_files)
{
    enum { N = 5000, LENGTH_MAX = 700 };
    struct fixture f;
    set_up_with(&f, 4, FILE_BYTES, NULL, 0);
    unsigned char *buffers = malloc((size_t)N * LENGTH_MAX);
    struct io_request *requests = malloc(N * sizeof *requests);
    bool seen[N] = {0};
    uint32_t random = 1;
    for (uint32_t i = 0; i < N; i++) {
        random = random * 1664525 + 1013904223;
        requests[i] = (struct io_request){
            .file = random >> 31,
            .offset = (random >> 8) % (FILE_BYTES - LENGTH_MAX),
            .length = 1 + (random >> 4) % LENGTH_MAX,
            .buffer = buffers + (size_t)i * LENGTH_MAX,
            .tag = i,
            .priority = random >> 30 & 1,
        };
        cr_assert_eq(io_submit(f.io, &requests[i], &f.error), 0);
    }
    cr_assert_eq(io_pending(f.io), N);
    struct io_completion completions[50];
    for (uint32_t n_total = 0, n; n_total < N; n_total += n) {
        n = io_reap(f.io, completions, 50, 7, -1);
        cr_assert(n >= 7 || n_total + n == N);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t tag = completions[i].tag;
            cr_assert(tag < N && !seen[tag] && completions[i].status == IO_DONE);
            seen[tag] = true;
            cr_assert(has_content(requests[tag].buffer, requests[tag].offset, requests[tag].length,
                                  requests[tag].file));
        }
    }
    cr_assert_eq(io_pending(f.io), 0);
    free(requests);
    free(buffers);
    tear_down(&f);
}

Test(io, tells_the_sizes_of_its_files)
{
    struct fixture f;
    set_up_with(&f, 1, 4321, NULL, 0);
    cr_assert_eq(io_file_size_bytes(f.io, 0), 4321);
    cr_assert_eq(io_file_size_bytes(f.io, 1), 4321);
    cr_assert_eq(io_file_size_bytes(f.io, 2), 0);
    tear_down(&f);
}

Test(io, has_as_many_reads_in_flight_as_its_queue_is_deep)
{
    struct fixture f;
    unsigned char buffers[12][10];
    set_up(&f, 4, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = IO_FAULT_ALWAYS});
    for (uint32_t i = 0; i < 12; i++)
        submit(&f, buffers[i], i * 10, 10, i, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 4);
    struct io_completion completions[12];
    cr_assert_eq(io_reap(f.io, completions, 12, 1, 20 * MS), 0);
    cr_assert_eq(io_fault_most_reads_at_once(f.fault), 4);
    io_fault_release(f.fault);
    cr_assert_eq(io_reap(f.io, completions, 12, 12, -1), 12);
    tear_down(&f);
}

Test(io, shares_a_large_request_between_the_threads)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    set_up(&f, 4, (struct io_fault_rule){.kind = IO_FAULT_HOLD, .times = 4});
    submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 4);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(buffer, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(buffer);
}

// ---- order and cancel
// ----------------------------------------------------------------------------------------

static const struct io_fault_rule hold_first_read = {.kind = IO_FAULT_HOLD, .times = 1};

Test(io, demand_overtakes_prefetch_that_has_not_started)
{
    struct fixture f;
    unsigned char buffers[5][100];
    static const uint64_t expected[] = {0, 3, 4, 1, 2};
    set_up(&f, 1, hold_first_read);
    submit(&f, buffers[0], 0, 100, 0, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 1);
    submit(&f, buffers[1], 100, 100, 1, IO_PREFETCH);
    submit(&f, buffers[2], 200, 100, 2, IO_PREFETCH);
    submit(&f, buffers[3], 300, 100, 3, IO_DEMAND);
    submit(&f, buffers[4], 400, 100, 4, IO_DEMAND);
    io_fault_release(f.fault);
    for (uint32_t i = 0; i < 5; i++)
        cr_assert_eq(reap_one(&f).tag, expected[i]);
    tear_down(&f);
}

Test(io, demand_overtakes_the_rest_of_a_large_prefetch)
{
    struct fixture f;
    unsigned char *large = malloc(FILE_BYTES), small[100];
    set_up(&f, 1, hold_first_read);
    submit(&f, large, 0, FILE_BYTES, 1, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 1);
    submit(&f, small, 5000, 100, 2, IO_DEMAND);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).tag, 2);
    cr_assert(has_content(small, 5000, 100, 0));
    cr_assert_eq(reap_one(&f).tag, 1);
    cr_assert(has_content(large, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(large);
}

Test(io, cancel_drops_only_what_has_the_tag_and_has_not_started)
{
    struct fixture f;
    unsigned char buffers[4][100] = {{0}};
    set_up(&f, 1, hold_first_read);
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
    cr_assert(has_content(buffers[0], 0, 100, 0) && has_content(buffers[3], 300, 100, 0));
    cr_assert_eq(buffers[1][0] | buffers[1][99] | buffers[2][0] | buffers[2][99], 0);
    tear_down(&f);
}

Test(io, cancel_lets_a_started_large_request_run_to_its_end)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    set_up(&f, 1, hold_first_read);
    submit(&f, buffer, 0, FILE_BYTES, 7, IO_PREFETCH);
    io_fault_wait_until_held(f.fault, 1);
    io_cancel(f.io, 7);
    io_fault_release(f.fault);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(buffer, 0, FILE_BYTES, 0));
    tear_down(&f);
    free(buffer);
}

Test(io, cancel_of_a_request_that_has_ended_keeps_its_outcome)
{
    struct fixture f;
    unsigned char buffer[100];
    set_up_with(&f, 1, 1000, NULL, 0);
    submit(&f, buffer, 0, 100, 7, IO_DEMAND);
    while (io_fault_read_count(f.fault) == 0)
        continue;
    io_cancel(f.io, 7);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    tear_down(&f);
}

// ---- reap
// ----------------------------------------------------------------------------------------------------

Test(io, reap_returns_at_once_when_nothing_is_pending)
{
    struct fixture f;
    struct io_completion completion;
    set_up_with(&f, 1, 1000, NULL, 0);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, -1), 0);
    tear_down(&f);
}

Test(io, reap_takes_at_most_max_and_waits_for_no_more_than_is_pending)
{
    struct fixture f;
    unsigned char buffers[3][10];
    struct io_completion completions[8];
    set_up_with(&f, 2, 1000, NULL, 0);
    for (uint32_t i = 0; i < 3; i++)
        submit(&f, buffers[i], i, 10, i, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, completions, 2, 5, -1), 2);
    cr_assert_eq(io_reap(f.io, completions, 8, 8, -1), 1);
    tear_down(&f);
}

Test(io, a_read_that_never_returns_leaves_the_others_alone_and_lets_reap_time_out)
{
    struct fixture f;
    unsigned char stuck[100], sound[100];
    struct io_completion completions[2];
    set_up(&f, 2,
           (struct io_fault_rule){.kind = IO_FAULT_HOLD, .offset = 0, .end = 1, .times = IO_FAULT_ALWAYS});
    submit(&f, stuck, 0, 100, 1, IO_DEMAND);
    submit(&f, sound, 500, 100, 2, IO_DEMAND);
    int64_t start_ns = now_ns();
    cr_assert_eq(io_reap(f.io, completions, 2, 2, 30 * MS), 1);
    cr_assert_geq(now_ns() - start_ns, 30 * MS);
    cr_assert_eq(completions[0].tag, 2);
    start_ns = now_ns();
    cr_assert_eq(io_reap(f.io, completions, 2, 1, 0), 0);
    cr_assert_lt(now_ns() - start_ns, 1000 * MS);
    cr_assert_eq(io_pending(f.io), 1);
    tear_down(&f);
}

Test(io, a_slow_read_is_waited_for)
{
    struct fixture f;
    unsigned char buffer[100];
    struct io_completion completion;
    set_up(&f, 1, (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = 1, .delay_ns = 80 * MS});
    submit(&f, buffer, 0, 100, 1, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, 5 * MS), 0);
    cr_assert_eq(io_reap(f.io, &completion, 1, 1, INT64_MAX), 1);
    cr_assert(has_content(buffer, 0, 100, 0));
    tear_down(&f);
}

// ---- faults
// --------------------------------------------------------------------------------------------------

Test(io, a_read_that_fails_once_is_retried)
{
    struct fixture f;
    unsigned char buffer[1000];
    set_up(&f, 2, (struct io_fault_rule){.kind = IO_FAULT_ERROR, .times = 1, .error_number = EIO});
    submit(&f, buffer, 50, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(buffer, 50, 1000, 0));
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    tear_down(&f);
}

Test(io, a_read_that_fails_twice_is_reported_with_file_offset_and_reason)
{
    struct fixture f;
    unsigned char buffer[1000], sound[1000];
    set_up(&f, 2,
           (struct io_fault_rule){
               .kind = IO_FAULT_ERROR, .offset = 5000, .end = 5001, .times = 2, .error_number = EIO});
    submit(&f, buffer, 4500, 1000, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert_eq(completion.error.code, LODE_ERR_IO);
    cr_assert(strstr(completion.error.text, f.paths[0]), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, "4500"), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, strerror(EIO)), "%s", completion.error.text);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    submit(&f, sound, 4500, 1000, 2, IO_DEMAND);
    completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_DONE);
    cr_assert_eq(completion.error.code, LODE_OK);
    cr_assert(has_content(sound, 4500, 1000, 0));
    tear_down(&f);
}

Test(io, a_large_request_fails_once_with_the_place_of_its_bad_piece)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    struct io_completion completions[2];
    set_up(&f, 1,
           (struct io_fault_rule){.kind = IO_FAULT_ERROR,
                                  .offset = 5 * MIB,
                                  .end = 5 * MIB + 1,
                                  .times = IO_FAULT_ALWAYS,
                                  .error_number = ENXIO});
    submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
    cr_assert_eq(io_reap(f.io, completions, 2, 2, -1), 1);
    cr_assert_eq(completions[0].status, IO_FAILED);
    cr_assert(strstr(completions[0].error.text, "4194304"), "%s", completions[0].error.text);
    cr_assert(strstr(completions[0].error.text, strerror(ENXIO)), "%s", completions[0].error.text);
    cr_assert_eq(io_fault_read_count(f.fault), 3, "the pieces behind the bad one are not read");
    cr_assert_eq(io_pending(f.io), 0);
    tear_down(&f);
    free(buffer);
}

Test(io, a_large_request_whose_pieces_all_fail_completes_once)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    struct io_completion completions[2];
    set_up(&f, 4,
           (struct io_fault_rule){.kind = IO_FAULT_ERROR, .times = IO_FAULT_ALWAYS, .error_number = EIO});
    for (int round = 0; round < 50; round++) {
        submit(&f, buffer, 0, FILE_BYTES, 1, IO_DEMAND);
        cr_assert_eq(io_reap(f.io, completions, 2, 2, -1), 1);
        cr_assert_eq(completions[0].status, IO_FAILED);
    }
    tear_down(&f);
    free(buffer);
}

Test(io, a_short_read_is_continued)
{
    struct fixture f;
    unsigned char buffer[1000];
    set_up(&f, 1, (struct io_fault_rule){.kind = IO_FAULT_SHORT, .times = 1, .short_bytes = 123});
    submit(&f, buffer, 10, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(buffer, 10, 1000, 0));
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    tear_down(&f);
}

Test(io, a_read_that_stays_short_is_reported)
{
    struct fixture f;
    unsigned char buffer[1000];
    set_up(&f, 1, (struct io_fault_rule){.kind = IO_FAULT_SHORT, .times = 2, .short_bytes = 100});
    submit(&f, buffer, 10, 1000, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert(strstr(completion.error.text, "ended at byte 210, expected 1010"), "%s", completion.error.text);
    tear_down(&f);
}

Test(io, an_interrupted_read_goes_on_without_costing_the_retry)
{
    struct fixture f;
    unsigned char buffer[1000];
    struct io_fault_rule rules[] = {{.kind = IO_FAULT_ERROR, .times = 5, .error_number = EINTR},
                                    {.kind = IO_FAULT_ERROR, .times = 1, .error_number = EIO},
                                    {.kind = IO_FAULT_ERROR, .times = 5, .error_number = EINTR}};
    set_up_with(&f, 1, FILE_BYTES, rules, 3);
    submit(&f, buffer, 10, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(buffer, 10, 1000, 0));
    tear_down(&f);
}

Test(io, a_file_truncated_while_in_use_is_reported)
{
    struct fixture f;
    unsigned char *buffer = malloc(FILE_BYTES);
    set_up_with(&f, 2, FILE_BYTES, NULL, 0);
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
    tear_down(&f);
    free(buffer);
}

// ---- what is refused
// -----------------------------------------------------------------------------------------

Test(io, refuses_requests_that_make_no_sense)
{
    struct fixture f;
    unsigned char buffer[100];
    set_up_with(&f, 1, 1000, NULL, 0);
    struct {
        struct io_request request;
        const char *expected;
    } cases[] = {
        {{0, 10, 0, buffer, 1, IO_DEMAND}, "no bytes"},
        {{0, 901, 100, buffer, 1, IO_DEMAND}, "beyond the file of 1000 bytes"},
        {{0, 1000, 1, buffer, 1, IO_DEMAND}, "beyond the file"},
        {{0, UINT64_MAX, 2, buffer, 1, IO_DEMAND}, "beyond the file"},
        {{0, 1, SIZE_MAX, buffer, 1, IO_DEMAND}, "beyond the file"},
        {{2, 0, 1, buffer, 1, IO_DEMAND}, "there are 2 files"},
        {{0, 0, 1, NULL, 1, IO_DEMAND}, "without a buffer"},
        {{0, 0, 1, buffer, 1, (enum io_priority)2}, "priority"},
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

Test(io, refuses_paths_that_are_no_files_and_leaks_no_descriptor)
{
    struct lode_error error;
    struct io *io = NULL;
    char path[64];
    write_file(path, 0, 100);
    int n_descriptors = count_entries("/proc/self/fd");
    const char *missing[] = {path, "/nonexistent/model.gguf"};
    cr_assert_eq(io_open(&io, missing, 2, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "/nonexistent/model.gguf") && strstr(error.text, strerror(ENOENT)), "%s",
              error.text);
    const char *directory[] = {path, "/tmp"};
    cr_assert_eq(io_open(&io, directory, 2, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "/tmp is a directory"), "%s", error.text);
    const char *device[] = {"/dev/null"};
    cr_assert_eq(io_open(&io, device, 1, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "no regular file"), "%s", error.text);
    cr_assert_eq(io_open(&io, NULL, 0, NULL, &error), LODE_ERR_ARGUMENT);
    struct io_options options = {.queue_depth = 1000000};
    cr_assert_eq(io_open(&io, missing, 1, &options, &error), LODE_ERR_ARGUMENT);
    cr_assert_null(io);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
    unlink(path);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMITS_CAN_BE_LOWERED false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LIMITS_CAN_BE_LOWERED false
#endif
#endif
#ifndef LIMITS_CAN_BE_LOWERED
#define LIMITS_CAN_BE_LOWERED true
#endif

Test(io, reports_threads_that_cannot_be_started_and_stops_the_others)
{
    if (!LIMITS_CAN_BE_LOWERED)
        cr_skip_test("sanitizers need the address space");
    struct lode_error error;
    struct io *io = NULL;
    char path[64];
    write_file(path, 0, 100);
    const char *paths[] = {path};
    struct rlimit limit = {(rlim_t)512 << 20, (rlim_t)512 << 20};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    struct io_options options = {.queue_depth = 1024};
    cr_assert_eq(io_open(&io, paths, 1, &options, &error), LODE_ERR_MEMORY);
    cr_assert(strstr(error.text, "of 1024 reading threads"), "%s", error.text);
    unlink(path);
}

// ---- close
// ---------------------------------------------------------------------------------------------------

Test(io, close_waits_for_reads_in_flight_drops_the_others_and_leaves_nothing)
{
    enum { N = 20 };
    struct fixture f;
    unsigned char buffers[N][100];
    memset(buffers, 0, sizeof buffers);
    int n_threads = count_entries("/proc/self/task"), n_descriptors = count_entries("/proc/self/fd");
    set_up(&f, 2,
           (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 60 * MS});
    for (uint32_t i = 0; i < N; i++)
        submit(&f, buffers[i], i * 100, 100, i, IO_PREFETCH);
    while (io_fault_read_count(f.fault) < 2)
        continue;
    io_close(f.io);
    f.io = NULL;
    uint64_t n_read = io_fault_read_count(f.fault);
    cr_assert_lt(n_read, N);
    for (uint32_t i = 0; i < N; i++)
        cr_assert_eq(has_content(buffers[i], i * 100, 100, 0), i < n_read);
    // A joined thread may be listed for a moment longer.
    for (int i = 0; i < 1000 && count_entries("/proc/self/task") != n_threads; i++)
        nanosleep(&(struct timespec){0, MS}, NULL);
    cr_assert_eq(count_entries("/proc/self/task"), n_threads);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
    tear_down(&f);
}

Test(io, close_forgets_completions_that_were_not_reaped)
{
    struct fixture f;
    unsigned char buffers[2][10];
    set_up(&f, 1, hold_first_read);
    submit(&f, buffers[0], 0, 10, 1, IO_DEMAND);
    submit(&f, buffers[1], 0, 10, 2, IO_DEMAND);
    io_fault_wait_until_held(f.fault, 1);
    io_cancel(f.io, 2);
    tear_down(&f);
    io_close(NULL);
}

Test(io, two_can_be_open_over_the_same_files)
{
    struct fixture f;
    struct io *other;
    set_up_with(&f, 2, 100000, NULL, 0);
    const char *paths[] = {f.paths[1]};
    cr_assert_eq(io_open(&other, paths, 1, NULL, &f.error), 0);
    unsigned char first[1000], second[1000];
    struct io_request request = {0, 99, 1000, second, 5, IO_DEMAND};
    submit(&f, first, 99, 1000, 4, IO_DEMAND);
    cr_assert_eq(io_submit(other, &request, &f.error), 0);
    struct io_completion completion;
    cr_assert_eq(io_reap(other, &completion, 1, 1, -1), 1);
    cr_assert_eq(completion.tag, 5);
    cr_assert_eq(reap_one(&f).tag, 4);
    cr_assert(has_content(first, 99, 1000, 0) && has_content(second, 99, 1000, 1));
    io_close(other);
    tear_down(&f);
}
