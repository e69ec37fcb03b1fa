// Files and engines for the tests of reading; see test_io_fixture.h.
#include "tests/test_io_fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000

struct criterion_test_params every_way(void)
{
    static struct way ways[] = {
        {IO_ENGINE_URING, IO_CACHE_BYPASS},
        {IO_ENGINE_URING, IO_CACHE_DROP},
        {IO_ENGINE_THREADS, IO_CACHE_BYPASS},
        {IO_ENGINE_THREADS, IO_CACHE_DROP},
    };
    return cr_make_param_array(struct way, ways, sizeof ways / sizeof ways[0]);
}

static unsigned char *make_content(size_t size_bytes, uint32_t file)
{
    size_t n_words = size_bytes / sizeof(uint64_t) + 1;
    uint64_t *words = malloc(n_words * sizeof *words);
    cr_assert(words);
    for (size_t i = 0; i < n_words; i++) {
        uint64_t mixed = (i + 1 + file * 1000003) * 0x9e3779b97f4a7c15u;
        words[i] = mixed ^ mixed >> 29;
    }
    return (unsigned char *)words;
}

static void write_file(char path[64], const void *data, size_t size_bytes)
{
    snprintf(path, 64, "/tmp/lode-test-io-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, data, size_bytes), (ssize_t)size_bytes);
    close(fd);
}

void make_files(struct fixture *f, size_t size_bytes)
{
    *f = (struct fixture){.size_bytes = size_bytes};
    for (uint32_t file = 0; file < IO_N_FILES; file++) {
        f->content[file] = make_content(size_bytes, file);
        write_file(f->paths[file], f->content[file], size_bytes);
    }
}

void make_mirror(struct fixture *f)
{
    write_file(f->mirror_path, f->content[0], f->size_bytes);
}

void open_with_rules(struct fixture *f, const struct way *way, uint32_t queue_depth,
                     const struct io_fault_rule *rules, uint32_t n_rules)
{
    const char *paths[IO_N_FILES] = {f->paths[0], f->paths[1]};
    const char *mirrors[IO_N_FILES] = {f->mirror_path, NULL};
    struct io_options options = {
        .queue_depth = queue_depth,
        .engine = way->engine,
        .cache = way->cache,
        .mirrors = f->mirror_path[0] ? mirrors : NULL,
    };
    cr_assert_eq(io_fault_new(&f->fault, rules, n_rules, &f->error), 0, "%s", f->error.text);
    struct io_hooks hooks = io_fault_hooks(f->fault);
    int code = io_open_hooked(&f->io, paths, IO_N_FILES, &options, &hooks, &f->error);
    if (code == LODE_ERR_UNSUPPORTED) {
        tear_down(f);
        cr_skip_test("%s", f->error.text);
    }
    cr_assert_eq(code, 0, "%s", f->error.text);
}

void set_up(struct fixture *f, const struct way *way, uint32_t queue_depth, struct io_fault_rule rule)
{
    make_files(f, FILE_BYTES);
    open_with_rules(f, way, queue_depth, &rule, 1);
}

void set_up_sound(struct fixture *f, const struct way *way, uint32_t queue_depth)
{
    make_files(f, FILE_BYTES);
    open_with_rules(f, way, queue_depth, NULL, 0);
}

void tear_down(struct fixture *f)
{
    if (f->fault)
        io_fault_release(f->fault);
    io_close(f->io);
    io_fault_free(f->fault);
    for (uint32_t file = 0; file < IO_N_FILES; file++) {
        unlink(f->paths[file]);
        free(f->content[file]);
    }
    if (f->mirror_path[0])
        unlink(f->mirror_path);
}

void submit(struct fixture *f, void *buffer, uint64_t offset, size_t length, uint64_t tag,
            enum io_priority priority)
{
    struct io_request request = {0, offset, length, buffer, tag, priority, false, 0};
    cr_assert_eq(io_submit(f->io, &request, &f->error), 0, "%s", f->error.text);
}

struct io_completion reap_one(struct fixture *f)
{
    struct io_completion completion;
    cr_assert_eq(io_reap(f->io, &completion, 1, 1, -1), 1);
    return completion;
}

bool has_content(const struct fixture *f, const void *data, uint64_t offset, size_t length, uint32_t file)
{
    return memcmp(data, f->content[file] + offset, length) == 0;
}

bool is_direct(const struct fixture *f)
{
    struct io_choice choice;
    io_describe(f->io, &choice);
    return choice.direct;
}

struct io_counters counters_of(const struct fixture *f)
{
    struct io_counters counters;
    io_count(f->io, &counters);
    return counters;
}

void sleep_ns(int64_t ns)
{
    nanosleep(&(struct timespec){ns / NS_PER_S, ns % NS_PER_S}, NULL);
}

int count_entries(const char *directory)
{
    DIR *dir = opendir(directory);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    closedir(dir);
    return n;
}
