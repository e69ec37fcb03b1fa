// Opening: what is refused, and how files and engines are chosen: direct reads, the page cache, second
// copies, systems without io_uring.
#include "tests/test_io_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- opening

TEST_EVERY_WAY(io_files, opens_and_closes_many_times)
{
    struct fixture f;
    unsigned char buffer[5000];
    make_files(&f, 100000);
    const char *paths[] = {f.paths[0]};
    struct io_options options = {.engine = way->engine, .cache = way->cache};
    for (int round = 0; round < 50; round++) {
        int code = io_open(&f.io, paths, 1, &options, &f.error);
        if (code == LODE_ERR_UNSUPPORTED)
            cr_skip_test("%s", f.error.text);
        cr_assert_eq(code, 0, "%s", f.error.text);
        submit(&f, buffer, 999, 5000, 1, IO_DEMAND);
        if (round % 2) {
            cr_assert_eq(reap_one(&f).status, IO_DONE);
            cr_assert(has_content(&f, buffer, 999, 5000, 0));
        }
        io_close(f.io);
    }
    f.io = NULL;
    tear_down(&f);
}

Test(io_files, refuses_paths_that_are_no_files_and_leaks_no_descriptor)
{
    struct lode_error error;
    struct io *io = NULL;
    struct fixture f;
    make_files(&f, 100);
    int n_descriptors = count_entries("/proc/self/fd");
    const char *missing[] = {f.paths[0], "/nonexistent/model.gguf"};
    cr_assert_eq(io_open(&io, missing, 2, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "/nonexistent/model.gguf") && strstr(error.text, strerror(ENOENT)), "%s",
              error.text);
    const char *directory[] = {f.paths[0], "/tmp"};
    cr_assert_eq(io_open(&io, directory, 2, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "/tmp is a directory"), "%s", error.text);
    const char *device[] = {"/dev/null"};
    cr_assert_eq(io_open(&io, device, 1, NULL, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "no regular file"), "%s", error.text);
    cr_assert_null(io);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
    tear_down(&f);
}

Test(io_files, refuses_options_that_make_no_sense)
{
    struct lode_error error;
    struct io *io = NULL;
    const char *paths[] = {"/dev/null"};
    const struct io_options cases[] = {
        {.queue_depth = 1000000},
        {.engine = (enum io_engine_kind)3},
        {.cache = (enum io_cache_use)4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_eq(io_open(&io, paths, 1, &cases[i], &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(io_open(&io, NULL, 0, NULL, &error), LODE_ERR_ARGUMENT);
    struct io_options ring = {.engine = IO_ENGINE_URING};
    struct fixture f;
    make_files(&f, 100);
    const char *sound_paths[] = {f.paths[0]};
    cr_assert_eq(io_open_with(&io, sound_paths, 1, &ring, io_pread, NULL, &error), LODE_ERR_ARGUMENT);
    cr_assert_null(io);
    tear_down(&f);
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

Test(io_files, reports_threads_that_cannot_be_started_and_stops_the_others)
{
    if (!LIMITS_CAN_BE_LOWERED)
        cr_skip_test("sanitizers need the address space");
    struct lode_error error;
    struct io *io = NULL;
    struct fixture f;
    make_files(&f, 100);
    const char *paths[] = {f.paths[0]};
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    struct io_options options = {.queue_depth = 1024, .engine = IO_ENGINE_THREADS, .cache = IO_CACHE_DROP};
    cr_assert_eq(io_open(&io, paths, 1, &options, &error), LODE_ERR_MEMORY);
    cr_assert(strstr(error.text, "of 1024 reading threads"), "%s", error.text);
    tear_down(&f);
}

// ---- the page cache

// How many pages of a file the page cache holds.
static size_t count_cached_pages(const char *path, size_t size_bytes)
{
    size_t n_pages = (size_bytes + 4095) / 4096, n = 0;
    unsigned char *in_core = malloc(n_pages);
    int fd = open(path, O_RDONLY);
    void *map = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_neq(map, MAP_FAILED);
    cr_assert_eq(mincore(map, size_bytes, in_core), 0);
    for (size_t i = 0; i < n_pages; i++)
        n += in_core[i] & 1;
    munmap(map, size_bytes);
    close(fd);
    free(in_core);
    return n;
}

static void drop_cached_pages(const struct fixture *f)
{
    int fd = open(f->paths[0], O_RDONLY);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    if (count_cached_pages(f->paths[0], f->size_bytes) > 0)
        cr_skip_test("this file system cannot drop cached pages");
}

static void read_in_steps(struct fixture *f, uint32_t n)
{
    unsigned char buffer[10000];
    for (uint32_t i = 0; i < n; i++) {
        submit(f, buffer, i * 50000 + 77, sizeof buffer, i, IO_DEMAND);
        cr_assert_eq(reap_one(f).status, IO_DONE);
        cr_assert(has_content(f, buffer, i * 50000 + 77, sizeof buffer, 0));
    }
}

TEST_EVERY_WAY(io_files, leaves_no_pages_in_the_page_cache)
{
    struct fixture f;
    set_up_sound(&f, way, 4);
    drop_cached_pages(&f);
    read_in_steps(&f, 50);
    cr_assert_eq(count_cached_pages(f.paths[0], f.size_bytes), 0);
    tear_down(&f);
}

TEST_EVERY_WAY(io_files, populates_the_page_cache_when_asked_to)
{
    struct fixture f;
    struct way populating = {way->engine, IO_CACHE_POPULATE};
    set_up_sound(&f, &populating, 4);
    drop_cached_pages(&f);
    read_in_steps(&f, 50);
    cr_assert_geq(count_cached_pages(f.paths[0], f.size_bytes), 50 * 10000 / 4096);
    cr_assert_not(is_direct(&f));
    struct io_choice choice;
    io_describe(f.io, &choice);
    cr_assert_null(choice.why_cached, "nobody asked for direct reads");
    tear_down(&f);
}

// Files of sysfs are regular files that cannot be opened for direct reads.
#define FILE_WITHOUT_DIRECT_READS "/sys/kernel/mm/transparent_hugepage/enabled"

static bool has_no_direct_reads(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECT);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EINVAL;
}

Test(io_files, a_file_system_without_direct_reads_is_read_through_the_page_cache_and_says_so)
{
    if (!has_no_direct_reads(FILE_WITHOUT_DIRECT_READS))
        cr_skip_test("no file without direct reads");
    struct lode_error error;
    struct io *io;
    const char *paths[] = {FILE_WITHOUT_DIRECT_READS};
    cr_assert_eq(io_open(&io, paths, 1, NULL, &error), 0, "%s", error.text);
    struct io_choice choice;
    io_describe(io, &choice);
    cr_assert_not(choice.direct);
    cr_assert_str_eq(choice.why_cached,
                     "the file system of " FILE_WITHOUT_DIRECT_READS " has no direct reads");
    char buffer[4] = "";
    struct io_request request = {0, 0, 3, buffer, 1, IO_DEMAND, false, 0};
    cr_assert_eq(io_submit(io, &request, &error), 0);
    struct io_completion completion;
    cr_assert_eq(io_reap(io, &completion, 1, 1, -1), 1);
    cr_assert_eq(completion.status, IO_DONE, "%s", completion.error.text);
    io_close(io);
    struct io_options bypass = {.cache = IO_CACHE_BYPASS};
    cr_assert_eq(io_open(&io, paths, 1, &bypass, &error), LODE_ERR_UNSUPPORTED);
    cr_assert(strstr(error.text, FILE_WITHOUT_DIRECT_READS), "%s", error.text);
}

// ---- second copies

static void read_all(struct fixture *f, uint32_t n_rounds)
{
    unsigned char *buffer = malloc(f->size_bytes);
    for (uint32_t i = 0; i < n_rounds; i++) {
        memset(buffer, 0, f->size_bytes);
        submit(f, buffer, 0, f->size_bytes, i, IO_DEMAND);
        struct io_completion completion = reap_one(f);
        cr_assert_eq(completion.status, IO_DONE, "%s", completion.error.text);
        cr_assert(has_content(f, buffer, 0, f->size_bytes, 0));
    }
    free(buffer);
}

static void set_up_mirror(struct fixture *f, const struct way *way, struct io_fault_rule rule)
{
    make_files(f, FILE_BYTES);
    make_mirror(f);
    if (rule.path)
        rule.path = rule.path[0] == 'm' ? f->mirror_path : f->paths[0];
    open_with_rules(f, way, 4, &rule, 1);
}

TEST_EVERY_WAY(io_files, reads_from_both_copies)
{
    struct fixture f;
    set_up_mirror(
        &f, way,
        (struct io_fault_rule){.kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 3 * MS});
    read_all(&f, 10);
    struct io_counters counters = counters_of(&f);
    cr_assert_gt(counters.mirror_bytes, counters.read_bytes / 10);
    cr_assert_lt(counters.mirror_bytes, counters.read_bytes / 10 * 9);
    unsigned char buffer[1000];
    struct io_request request = {1, 5, 1000, buffer, 2, IO_DEMAND, false, 0};
    cr_assert_eq(io_submit(f.io, &request, &f.error), 0);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 5, 1000, 1), "a file without a second copy");
    tear_down(&f);
}

TEST_EVERY_WAY(io_files, reads_less_from_the_slower_copy)
{
    static const char *const slow_ones[] = {"first", "mirror"};
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        set_up_mirror(
            &f, way,
            (struct io_fault_rule){
                .kind = IO_FAULT_DELAY, .times = IO_FAULT_ALWAYS, .delay_ns = 20 * MS, .path = slow_ones[i]});
        read_all(&f, 10);
        struct io_counters counters = counters_of(&f);
        uint64_t slow_bytes = i == 1 ? counters.mirror_bytes : counters.read_bytes - counters.mirror_bytes;
        cr_assert_lt(slow_bytes, counters.read_bytes / 3, "%s: %lu of %lu", slow_ones[i],
                     (unsigned long)slow_bytes, (unsigned long)counters.read_bytes);
        tear_down(&f);
    }
}

TEST_EVERY_WAY(io_files, a_copy_that_fails_is_survived)
{
    static const char *const bad_ones[] = {"first", "mirror"};
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        set_up_mirror(
            &f, way,
            (struct io_fault_rule){
                .kind = IO_FAULT_ERROR, .times = IO_FAULT_ALWAYS, .error_number = EIO, .path = bad_ones[i]});
        read_all(&f, 10);
        cr_assert_eq(counters_of(&f).failed_requests, 0);
        cr_assert_gt(counters_of(&f).retried_reads, 0);
        tear_down(&f);
    }
}

TEST_EVERY_WAY(io_files, a_copy_that_comes_short_is_completed_from_the_other)
{
    struct fixture f;
    set_up_mirror(
        &f, way,
        (struct io_fault_rule){
            .kind = IO_FAULT_SHORT, .times = IO_FAULT_ALWAYS, .short_bytes = 5001, .path = "first"});
    read_all(&f, 5);
    cr_assert_gt(counters_of(&f).retried_reads, 0);
    tear_down(&f);
}

TEST_EVERY_WAY(io_files, a_failure_of_both_copies_is_reported)
{
    struct fixture f;
    unsigned char buffer[100];
    set_up_mirror(
        &f, way,
        (struct io_fault_rule){.kind = IO_FAULT_ERROR, .times = IO_FAULT_ALWAYS, .error_number = EIO});
    submit(&f, buffer, 0, 100, 1, IO_DEMAND);
    struct io_completion completion = reap_one(&f);
    cr_assert_eq(completion.status, IO_FAILED);
    cr_assert(strstr(completion.error.text, "tried both copies"), "%s", completion.error.text);
    cr_assert(strstr(completion.error.text, f.mirror_path), "%s", completion.error.text);
    cr_assert_eq(io_fault_read_count(f.fault), 2);
    tear_down(&f);
}

static void write_at(const char *path, uint64_t offset, const void *data, size_t length)
{
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, data, length, (off_t)offset), (ssize_t)length);
    close(fd);
}

static void expect_refused_mirror(struct fixture *f, const char *expected)
{
    const char *paths[] = {f->paths[0]}, *mirrors[] = {f->mirror_path};
    struct io_options options = {.mirrors = mirrors};
    int n_descriptors = count_entries("/proc/self/fd");
    cr_assert_eq(io_open(&f->io, paths, 1, &options, &f->error), LODE_ERR_FORMAT);
    cr_assert(strstr(f->error.text, expected), "%s", f->error.text);
    cr_assert(strstr(f->error.text, f->mirror_path) && strstr(f->error.text, f->paths[0]), "%s",
              f->error.text);
    cr_assert_null(f->io);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
}

Test(io_files, refuses_a_second_copy_that_differs)
{
    struct fixture f;
    make_files(&f, FILE_BYTES);
    make_mirror(&f);
    const uint64_t places[] = {0, 4095, FILE_BYTES - 1, FILE_BYTES - 4096};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        unsigned char other = (unsigned char)~f.content[0][places[i]];
        write_at(f.mirror_path, places[i], &other, 1);
        char expected[64];
        snprintf(expected, sizeof expected, "they differ at offset %lu;", (unsigned long)places[i]);
        expect_refused_mirror(&f, expected);
        write_at(f.mirror_path, places[i], &f.content[0][places[i]], 1);
    }
    unsigned char *zeros = calloc(1, MIB);
    write_at(f.mirror_path, 2 * MIB, zeros, MIB);
    expect_refused_mirror(&f, "they differ at offset ");
    free(zeros);
    cr_assert_eq(truncate(f.mirror_path, FILE_BYTES - 1), 0);
    expect_refused_mirror(&f, "instead of");
    unlink(f.mirror_path);
    const char *paths[] = {f.paths[0]}, *mirrors[] = {f.mirror_path};
    struct io_options options = {.mirrors = mirrors};
    cr_assert_eq(io_open(&f.io, paths, 1, &options, &f.error), LODE_ERR_IO);
    tear_down(&f);
}

Test(io_files, takes_small_and_empty_files_with_second_copies)
{
    const size_t sizes[] = {0, 1, 4096, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct fixture f;
        struct way way = {IO_ENGINE_AUTO, IO_CACHE_AUTO};
        make_files(&f, sizes[i]);
        make_mirror(&f);
        open_with_rules(&f, &way, 2, NULL, 0);
        tear_down(&f);
    }
}

// ---- systems without io_uring

static void refuse_system_call(long number, int error_number)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error_number),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        cr_skip_test("system calls cannot be filtered here");
}

struct refusal {
    long system_call;
    int error_number;
    char expected[64];
};

ParameterizedTestParameters(io_files, threads_read_where_io_uring_is_refused)
{
    static struct refusal refusals[] = {
        {SYS_io_uring_setup, EPERM, "io_uring is not permitted here (EPERM)"},
        {SYS_io_uring_setup, ENOSYS, "this kernel has no io_uring (ENOSYS)"},
        {SYS_io_uring_setup, ENOMEM, "no memory for io_uring"},
        {SYS_io_uring_setup, EMFILE, "io_uring cannot be set up (EMFILE)"},
        {SYS_io_uring_enter, EPERM, "io_uring is not permitted here (EPERM)"},
        {SYS_io_uring_register, EPERM, "this kernel has no io_uring"},
    };
    return cr_make_param_array(struct refusal, refusals, sizeof refusals / sizeof refusals[0]);
}

ParameterizedTest(struct refusal *refusal, io_files, threads_read_where_io_uring_is_refused)
{
    struct fixture f;
    unsigned char buffer[1000];
    make_files(&f, 100000);
    refuse_system_call(refusal->system_call, refusal->error_number);
    int n_descriptors = count_entries("/proc/self/fd");
    const char *paths[] = {f.paths[0]};
    struct io_options ring = {.engine = IO_ENGINE_URING};
    cr_assert_eq(io_open(&f.io, paths, 1, &ring, &f.error), LODE_ERR_UNSUPPORTED);
    cr_assert(strstr(f.error.text, refusal->expected), "%s", f.error.text);
    cr_assert_null(f.io);
    cr_assert_eq(count_entries("/proc/self/fd"), n_descriptors);
    cr_assert_eq(io_open(&f.io, paths, 1, NULL, &f.error), 0, "%s", f.error.text);
    struct io_choice choice;
    io_describe(f.io, &choice);
    cr_assert_str_eq(choice.engine, "threads");
    cr_assert(choice.why_threads && strstr(choice.why_threads, refusal->expected), "%s", choice.why_threads);
    submit(&f, buffer, 5, 1000, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, buffer, 5, 1000, 0));
    tear_down(&f);
}

TEST_EVERY_WAY(io_files, reads_work_where_memory_may_not_be_locked)
{
    struct fixture f;
    make_files(&f, FILE_BYTES);
    for (int i = 0; i < IO_N_FILES; i++)
        chmod(f.paths[i], 0666);
    struct rlimit limit = {MIB, MIB};
    setrlimit(RLIMIT_MEMLOCK, &limit);
    uid_t before = geteuid();
    if (before == 0 && seteuid(65534) != 0)
        cr_skip_test("cannot become a user without rights");
    prctl(PR_SET_DUMPABLE, 1); // else a sanitizer may not look at its own process
    open_with_rules(&f, way, 4, NULL, 0);
    void *memory = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_not(io_register(f.io, memory, 4 * MIB));
    submit(&f, memory, 1000, 3 * MIB, 1, IO_DEMAND);
    cr_assert_eq(reap_one(&f).status, IO_DONE);
    cr_assert(has_content(&f, memory, 1000, 3 * MIB, 0));
    munmap(memory, 4 * MIB);
    cr_assert_eq(seteuid(before), 0);
    prctl(PR_SET_DUMPABLE, 1);
    tear_down(&f);
}
