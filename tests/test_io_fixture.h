// Files of known content, read through every engine and both ways past or through the page cache, sound or
// with scripted faults.
#ifndef LODE_TEST_IO_FIXTURE_H
#define LODE_TEST_IO_FIXTURE_H

#include "io/io.h"
#include "io/io_fault.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdbool.h>
#include <stdint.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define MS ((int64_t)1000000)
#define FILE_BYTES (6 * MIB + 345)
#define IO_N_FILES 2

struct way {
    enum io_engine_kind engine;
    enum io_cache_use cache;
};

// A test whose body runs with `way` set to each of the ways.
#define TEST_EVERY_WAY(suite, name)                                                                          \
    ParameterizedTestParameters(suite, name)                                                                 \
    {                                                                                                        \
        return every_way();                                                                                  \
    }                                                                                                        \
    ParameterizedTest(struct way *way, suite, name)

struct criterion_test_params every_way(void);

struct fixture {
    char paths[IO_N_FILES][64];
    char mirror_path[64]; // a copy of the first file; empty when there is none
    uint64_t size_bytes;  // of each file
    unsigned char *content[IO_N_FILES];
    struct io_fault *fault;
    struct io *io;
    struct lode_error error;
};

void make_files(struct fixture *f, size_t size_bytes);
void make_mirror(struct fixture *f);

// Opens the files with the rules, or skips the test where this way cannot be had.
void open_with_rules(struct fixture *f, const struct way *way, uint32_t queue_depth,
                     const struct io_fault_rule *rules, uint32_t n_rules);

// All of the above for one rule and files of FILE_BYTES; and without faults.
void set_up(struct fixture *f, const struct way *way, uint32_t queue_depth, struct io_fault_rule rule);
void set_up_sound(struct fixture *f, const struct way *way, uint32_t queue_depth);
void tear_down(struct fixture *f);

// From the first file, to memory without padding.
void submit(struct fixture *f, void *buffer, uint64_t offset, size_t length, uint64_t tag,
            enum io_priority priority);
struct io_completion reap_one(struct fixture *f);
bool has_content(const struct fixture *f, const void *data, uint64_t offset, size_t length, uint32_t file);
bool is_direct(const struct fixture *f);
struct io_counters counters_of(const struct fixture *f);

void sleep_ns(int64_t ns);
int count_entries(const char *directory);

#endif
