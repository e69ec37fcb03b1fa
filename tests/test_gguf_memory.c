// What happens when memory runs out at any point: an error that says so, and nothing left behind.
//
// The allocator of the C library is replaced by one that fails on request and counts what is alive. A
// sanitiser brings its own allocator; the tests are skipped there.
#include "tests/gguf_writer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_OWN_ALLOCATOR 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) || __has_feature(thread_sanitizer)
#define HAVE_OWN_ALLOCATOR 0
#endif
#endif
#if !defined(HAVE_OWN_ALLOCATOR) && defined(__GLIBC__)
#define HAVE_OWN_ALLOCATOR 1
#endif

#if HAVE_OWN_ALLOCATOR

void *__libc_malloc(size_t size_bytes);
void *__libc_calloc(size_t count, size_t size_bytes);
void *__libc_realloc(void *memory, size_t size_bytes);
void __libc_free(void *memory);

static bool is_counting;
static long n_until_failure; // 0: none fails
static long n_alive;

static bool must_fail(void)
{
    return is_counting && n_until_failure > 0 && --n_until_failure == 0;
}

static void *count_alive(void *memory)
{
    n_alive += is_counting && memory;
    return memory;
}

void *malloc(size_t size_bytes)
{
    return must_fail() ? NULL : count_alive(__libc_malloc(size_bytes));
}

void *calloc(size_t count, size_t size_bytes)
{
    return must_fail() ? NULL : count_alive(__libc_calloc(count, size_bytes));
}

void *realloc(void *memory, size_t size_bytes)
{
    if (must_fail())
        return NULL;
    void *moved = __libc_realloc(memory, size_bytes);
    return memory ? moved : count_alive(moved);
}

void free(void *memory)
{
    n_alive -= is_counting && memory;
    __libc_free(memory);
}

typedef int open_function(struct gguf **out, struct lode_error *error);

// Lets the first allocation fail, then the second, and so on until none is left to fail.
static void expect_error_at_every_allocation(open_function *open)
{
    int n_failed = 0;
    for (long nth = 1;; nth++) {
        struct gguf *gguf;
        struct lode_error error = {0};
        n_alive = 0;
        n_until_failure = nth;
        is_counting = true;
        int code = open(&gguf, &error);
        bool was_reached = n_until_failure == 0;
        gguf_close(gguf);
        is_counting = false;
        cr_assert(code == 0 || (code == LODE_ERR_MEMORY && !gguf), "%d: %s", code, error.text);
        cr_assert(code == 0 || strstr(error.text, "no memory"), "%s", error.text);
        cr_assert_eq(n_alive, 0, "%ld blocks left after allocation %ld failed: %s", n_alive, nth, error.text);
        n_failed += code != 0;
        if (!was_reached)
            break;
    }
    cr_assert_gt(n_failed, 5);
}

static struct gguf_writer *make_sample(void)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "general.architecture", "gemma4");
    gguf_writer_strings(writer, "tokens", 2, (const char *const[]){"a", "b"});
    gguf_writer_tensor(writer, "a", LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    gguf_writer_tensor(writer, "b", LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    gguf_writer_tensor(writer, "c", LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    return writer;
}

static char path[128];

static int open_sample(struct gguf **out, struct lode_error *error)
{
    return gguf_open(out, path, error);
}

static void *sample;
static size_t sample_bytes;

static int parse_sample(struct gguf **out, struct lode_error *error)
{
    return gguf_parse(out, sample, sample_bytes, sample_bytes, "memory.gguf", error);
}

Test(gguf_memory, reports_every_failed_allocation_of_a_parse)
{
    struct gguf_writer *writer = make_sample();
    sample = gguf_writer_finish(writer, &sample_bytes);
    gguf_writer_free(writer);
    expect_error_at_every_allocation(parse_sample);
    free(sample);
}

Test(gguf_memory, reports_every_failed_allocation_of_an_open)
{
    char folder[] = "/tmp/lode-gguf-XXXXXX", prefix[64];
    cr_assert(mkdtemp(folder));
    snprintf(prefix, sizeof prefix, "%s/m", folder);
    struct gguf_writer *writer = make_sample();
    cr_assert(gguf_writer_save_split(writer, prefix, 3));
    gguf_writer_free(writer);
    gguf_writer_part_path(path, sizeof path, prefix, 0, 3);
    expect_error_at_every_allocation(open_sample);
    for (uint16_t part = 0; part < 3; part++) {
        gguf_writer_part_path(path, sizeof path, prefix, part, 3);
        cr_assert_eq(unlink(path), 0);
    }
    cr_assert_eq(rmdir(folder), 0);
}

#else

Test(gguf_memory, reports_every_failed_allocation)
{
    cr_skip_test("the allocator cannot be replaced in this build");
}

#endif
