// What broken and hostile GGUF files give: an error with its code, the place and the name, and nothing else.
#include "core/gguf_internal.h"
#include "tests/gguf_writer.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifndef HAVE_ASAN
#define HAVE_ASAN 0
#endif

static int parse_bytes(const void *bytes, size_t size_bytes, struct lode_error *error)
{
    struct gguf *gguf;
    *error = (struct lode_error){0};
    int code = gguf_parse(&gguf, bytes, size_bytes, size_bytes, "broken.gguf", error);
    cr_assert_eq(gguf != NULL, code == 0);
    cr_assert_eq(error->code, code);
    gguf_close(gguf);
    return code;
}

// The text must name the file, and hold `text`.
static void expect_bytes_refused(const void *bytes, size_t size_bytes, int expected, const char *text)
{
    struct lode_error error;
    int code = parse_bytes(bytes, size_bytes, &error);
    cr_assert_eq(code, expected, "%d: %s (wanted \"%s\")", code, error.text, text);
    cr_assert_eq(strncmp(error.text, "broken.gguf: ", 13), 0, "%s", error.text);
    cr_assert(strstr(error.text, text), "\"%s\" is not in: %s", text, error.text);
}

static void expect_refused(struct gguf_writer *writer, int expected, const char *text)
{
    size_t size_bytes;
    void *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    expect_bytes_refused(bytes, size_bytes, expected, text);
    free(bytes);
}

static void expect_path_refused(const char *path, int expected, const char *text)
{
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_open(&gguf, path, &error);
    cr_assert_eq(code, expected, "%d: %s", code, error.text);
    cr_assert_null(gguf);
    cr_assert(strstr(error.text, text), "\"%s\" is not in: %s", text, error.text);
}

static struct gguf_writer *writer_of_tensor(uint32_t type, uint32_t n_dims, const uint64_t *ne)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "x.weight", type, n_dims, ne, NULL, 256);
    return writer;
}

// A small file with something of everything.
static void *make_sample(size_t *out_size_bytes)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "general.architecture", "gemma4");
    gguf_writer_u32(writer, "gemma4.block_count", 2);
    gguf_writer_alignment(writer, 16);
    gguf_writer_bool(writer, "flag", true);
    gguf_writer_array(writer, "numbers", GGUF_I32, 3, (int32_t[]){1, -2, 3});
    gguf_writer_strings(writer, "tokens", 3, (const char *const[]){"<pad>", "", "ab"});
    gguf_writer_tensor(writer, "a.weight", LODE_Q8_0, 2, (uint64_t[]){32, 2}, NULL, 68);
    gguf_writer_tensor(writer, "b.weight", LODE_F32, 1, (uint64_t[]){4}, NULL, 16);
    void *bytes = gguf_writer_finish(writer, out_size_bytes);
    gguf_writer_free(writer);
    return bytes;
}

// ---- the file's head

Test(gguf_broken, refuses_what_is_no_gguf_file)
{
    expect_bytes_refused("", 0, LODE_ERR_FORMAT,
                         "at byte 0: 4 bytes should follow, but the file ends at byte 0");
    expect_bytes_refused("GGU", 3, LODE_ERR_FORMAT, "the file ends at byte 3");
    expect_bytes_refused("<!DOCTYPE html>", 15, LODE_ERR_FORMAT, "not a GGUF file: it begins with \"<!DO\"");
    expect_bytes_refused("version https://git-lfs", 23, LODE_ERR_FORMAT, "Git LFS pointer");
    expect_bytes_refused("\0\n\xff\"", 4, LODE_ERR_FORMAT, "it begins with \"\\x00\\x0a\\xff\\\"\"");
}

Test(gguf_broken, refuses_versions_that_it_does_not_read)
{
    expect_refused(gguf_writer_new(1), LODE_ERR_UNSUPPORTED, "at byte 4: GGUF version 1 is not read");
    expect_refused(gguf_writer_new(0), LODE_ERR_UNSUPPORTED, "GGUF version 0 is not known");
    expect_refused(gguf_writer_new(4), LODE_ERR_UNSUPPORTED, "GGUF version 4 is not known");
    expect_refused(gguf_writer_new(0x03000000), LODE_ERR_UNSUPPORTED, "big-endian");
    expect_refused(gguf_writer_new(0x02000000), LODE_ERR_UNSUPPORTED, "big-endian");
}

// ---- cut and flipped

Test(gguf_broken, refuses_every_prefix_of_a_file)
{
    size_t size_bytes;
    char *bytes = make_sample(&size_bytes);
    struct lode_error error;
    cr_assert_eq(parse_bytes(bytes, size_bytes, &error), 0, "%s", error.text);
    for (size_t n = 0; n < size_bytes; n++) {
        char *prefix = malloc(n + 1); // exact, so that the sanitiser sees a step beyond
        memcpy(prefix, bytes, n);
        char text[128];
        snprintf(text, sizeof text, "the file ends at byte %zu; it is damaged", n);
        expect_bytes_refused(prefix, n, LODE_ERR_FORMAT, text);
        free(prefix);
    }
    free(bytes);
}

Test(gguf_broken, refuses_every_prefix_on_disk)
{
    size_t size_bytes;
    char *bytes = make_sample(&size_bytes);
    char path[] = "/tmp/lode-gguf-prefix-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, bytes, size_bytes) == (ssize_t)size_bytes);
    free(bytes);
    for (size_t n = size_bytes; n-- > 0;) {
        cr_assert_eq(ftruncate(fd, (off_t)n), 0);
        char text[128];
        snprintf(text, sizeof text, "but the file ends at byte %zu;", n);
        expect_path_refused(path, LODE_ERR_FORMAT, text);
    }
    close(fd);
    unlink(path);
}

static size_t walk(const struct gguf *gguf)
{
    size_t sum = 0;
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        const struct gguf_value *value;
        sum += gguf_key_at(gguf, i, &value).len;
        for (size_t j = 0; j < gguf_value_count(value); j++) {
            struct gguf_string text;
            double real;
            if (gguf_value_string(value, j, &text))
                for (size_t c = 0; c < text.len; c++)
                    sum += (unsigned char)text.data[c];
            else if (gguf_value_f64(value, j, &real))
                sum += real > 0;
        }
    }
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        cr_assert(tensor->size_bytes == 0 ||
                  tensor->offset_bytes + tensor->size_bytes <= gguf_file_size_bytes(gguf, 0));
        sum += tensor->name[0];
    }
    return sum;
}

Test(gguf_broken, survives_any_changed_byte)
{
    size_t size_bytes, n_accepted = 0, n_refused = 0;
    unsigned char *bytes = make_sample(&size_bytes);
    for (size_t i = 0; i < size_bytes; i++) {
        unsigned char original = bytes[i];
        for (int changed = 0; changed < 256; changed++) {
            bytes[i] = (unsigned char)changed;
            struct gguf *gguf;
            struct lode_error error = {0};
            int code = gguf_parse(&gguf, bytes, size_bytes, size_bytes, "flipped.gguf", &error);
            cr_assert_eq(gguf == NULL, code < 0);
            cr_assert_eq(error.text[0] != '\0', code < 0);
            if (gguf)
                walk(gguf);
            n_accepted += code == 0;
            n_refused += code < 0;
            gguf_close(gguf);
        }
        bytes[i] = original;
    }
    cr_assert(n_accepted > 1000 && n_refused > 1000, "%zu accepted, %zu refused", n_accepted, n_refused);
    free(bytes);
}

// ---- claims

// Leaves little address space beyond what is in use, so that a large allocation must fail.
static bool limit_memory(size_t spare_bytes)
{
    if (HAVE_ASAN)
        return false;
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    bool known = file && fscanf(file, "%lu", &pages) == 1;
    if (file)
        fclose(file);
    rlim_t limit_bytes = pages * (rlim_t)sysconf(_SC_PAGESIZE) + spare_bytes;
    return known && setrlimit(RLIMIT_AS, &(struct rlimit){limit_bytes, limit_bytes}) == 0;
}

static void append_u64(char **end, uint64_t value)
{
    memcpy(*end, &value, sizeof value);
    *end += sizeof value;
}

static void append_u32(char **end, uint32_t value)
{
    memcpy(*end, &value, sizeof value);
    *end += sizeof value;
}

static struct gguf_writer *writer_of_string_claim(uint64_t len)
{
    char raw[32], *end = raw;
    append_u64(&end, 1);
    *end++ = 's';
    append_u32(&end, GGUF_STRING);
    append_u64(&end, len);
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_raw_pair(writer, raw, (size_t)(end - raw));
    return writer;
}

static struct gguf_writer *writer_of_array_claim(enum gguf_kind item_kind, uint64_t count)
{
    char raw[256] = {0}, *end = raw;
    append_u64(&end, 1);
    *end++ = 'a';
    append_u32(&end, GGUF_ARRAY);
    append_u32(&end, item_kind);
    append_u64(&end, count);
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_raw_pair(writer, raw, sizeof raw);
    return writer;
}

static struct gguf_writer *writer_of_name_claim(uint64_t len)
{
    char raw[200] = {0}, *end = raw;
    append_u64(&end, len);
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_raw_pair(writer, raw, sizeof raw);
    return writer;
}

static const uint64_t false_claims[] = {1000,      1ull << 32, 1ull << 60, (1ull << 61) + 1,
                                        INT64_MAX, UINT64_MAX};

Test(gguf_broken, refuses_claims_at_once_and_without_memory)
{
    limit_memory(4 << 20);
    for (size_t i = 0; i < sizeof false_claims / sizeof *false_claims; i++) {
        uint64_t claim = false_claims[i];
        char text[128];
        snprintf(text, sizeof text, "at byte 24: %llu tensor descriptions should follow",
                 (unsigned long long)claim);
        struct gguf_writer *writer = writer_of_array_claim(GGUF_U8, 0);
        gguf_writer_claim(writer, claim, 1);
        expect_refused(writer, LODE_ERR_FORMAT, text);
        snprintf(text, sizeof text, "at byte 24: %llu keys should follow", (unsigned long long)claim);
        writer = writer_of_array_claim(GGUF_U8, 0);
        gguf_writer_claim(writer, 0, claim);
        expect_refused(writer, LODE_ERR_FORMAT, text);
        snprintf(text, sizeof text, "key \"s\", at byte 45: %llu bytes should follow",
                 (unsigned long long)claim);
        expect_refused(writer_of_string_claim(claim), LODE_ERR_FORMAT, text);
        snprintf(text, sizeof text, "key 1 of 1, at byte 32: %llu bytes should follow",
                 (unsigned long long)claim);
        expect_refused(writer_of_name_claim(claim), LODE_ERR_FORMAT, text);
        snprintf(text, sizeof text, "key \"a\", at byte 49: %llu values should follow",
                 (unsigned long long)claim);
        expect_refused(writer_of_array_claim(GGUF_U8, claim), LODE_ERR_FORMAT, text);
        expect_refused(writer_of_array_claim(GGUF_F64, claim), LODE_ERR_FORMAT, text);
        snprintf(text, sizeof text, "key \"a\", at byte 49: %llu strings should follow",
                 (unsigned long long)claim);
        expect_refused(writer_of_array_claim(GGUF_STRING, claim), LODE_ERR_FORMAT, text);
    }
}

// A file on disk that is mostly a hole, `size_bytes` long.
static void save_with_hole(struct gguf_writer *writer, char *path_template, off_t size_bytes)
{
    int fd = mkstemp(path_template);
    cr_assert(fd >= 0);
    close(fd);
    cr_assert(gguf_writer_save(writer, path_template));
    gguf_writer_free(writer);
    cr_assert_eq(truncate(path_template, size_bytes), 0);
}

Test(gguf_broken, reads_no_header_beyond_the_limit)
{
    limit_memory(16 << 20);
    char path[] = "/tmp/lode-gguf-huge-XXXXXX";
    save_with_hole(writer_of_string_claim(1ull << 30), path, (off_t)1 << 32);
    expect_path_refused(path, LODE_ERR_UNSUPPORTED, "a header may not be longer than 128 MiB");
    unlink(path);
}

Test(gguf_broken, reports_that_memory_is_short)
{
    if (!limit_memory(16 << 20))
        cr_skip_test("the address space cannot be limited here");
    char path[] = "/tmp/lode-gguf-memory-XXXXXX";
    save_with_hole(writer_of_string_claim(100 << 20), path, 101 << 20);
    expect_path_refused(path, LODE_ERR_MEMORY, "key \"s\", at byte 45: no memory for a header of");
    unlink(path);
}

// ---- metadata

Test(gguf_broken, refuses_kinds_that_it_does_not_know)
{
    static const char kind_13[] = "\1\0\0\0\0\0\0\0k\x0d\0\0\0\0\0\0\0";
    static const char kind_negative[] = "\1\0\0\0\0\0\0\0k\xff\xff\xff\xff\0\0\0\0";
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_raw_pair(writer, kind_13, sizeof kind_13 - 1);
    expect_refused(writer, LODE_ERR_FORMAT, "key \"k\", at byte 33: value of unknown kind 13");
    writer = gguf_writer_new(3);
    gguf_writer_raw_pair(writer, kind_negative, sizeof kind_negative - 1);
    expect_refused(writer, LODE_ERR_FORMAT, "value of unknown kind 4294967295");
    expect_refused(writer_of_array_claim((enum gguf_kind)13, 1), LODE_ERR_FORMAT,
                   "key \"a\", at byte 37: array elements of unknown kind 13");
    expect_refused(writer_of_array_claim(GGUF_ARRAY, 1), LODE_ERR_UNSUPPORTED, "arrays of arrays");
}

Test(gguf_broken, refuses_a_key_that_is_there_twice)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_u32(writer, "twin", 1);
    gguf_writer_u32(writer, "other", 1);
    gguf_writer_string(writer, "twin", "");
    expect_refused(writer, LODE_ERR_FORMAT, "key \"twin\", at byte 73: the name is there a second time");
}

Test(gguf_broken, refuses_alignments_that_cannot_be)
{
    static const uint32_t alignments[] = {0, 1, 4, 12, 48, 1u << 25, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        struct gguf_writer *writer = gguf_writer_new(3);
        gguf_writer_u32(writer, "general.alignment", alignments[i]);
        expect_refused(writer, LODE_ERR_FORMAT,
                       "at byte 53: key \"general.alignment\" must be a power of two");
    }
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "general.alignment", "32");
    expect_refused(writer, LODE_ERR_FORMAT, "must be a power of two");
    writer = gguf_writer_new(3);
    gguf_writer_array(writer, "general.alignment", GGUF_U32, 1, (uint32_t[]){32});
    expect_refused(writer, LODE_ERR_FORMAT, "must be a power of two");
}

Test(gguf_broken, prints_hostile_names_escaped_and_cut)
{
    char key[600];
    memset(key, 'k', sizeof key);
    memcpy(key, "a\"\\\n\x1b[31m\xff", 10);
    key[sizeof key - 1] = '\0';
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_u32(writer, key, 1);
    gguf_writer_u32(writer, key, 1);
    size_t size_bytes;
    void *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    struct lode_error error;
    cr_assert_eq(parse_bytes(bytes, size_bytes, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "key \"a\\\"\\\\\\x0a\\x1b[31m\\xffkkkk"), "%s", error.text);
    cr_assert(strstr(error.text, "kkk...\", at byte"), "%s", error.text);
    for (const char *c = error.text; *c; c++)
        cr_assert(*c >= 0x20 && *c < 0x7f);
    cr_assert_lt(strlen(error.text), 250);
    free(bytes);
}

Test(gguf_broken, quotes_any_name_within_its_room)
{
    static const char alphabet[] = "k\"\xff";
    for (size_t len = 0; len < 2 * GGUF_QUOTED_BYTES; len++)
        for (size_t c = 0; c < 3; c++) {
            char name[2 * GGUF_QUOTED_BYTES], quoted[GGUF_QUOTED_BYTES];
            memset(name, alphabet[c], len);
            gguf_quote(quoted, name, len);
            size_t used = strlen(quoted);
            cr_assert(used >= 2 && quoted[0] == '"' && quoted[used - 1] == '"', "%s", quoted);
        }
}

Test(gguf_broken, keeps_the_message_behind_a_long_path)
{
    char name[3000];
    memset(name, 'p', sizeof name);
    memcpy(name + sizeof name - 10, "tail.gguf", 10);
    struct gguf *gguf;
    struct lode_error error = {0};
    cr_assert_eq(gguf_parse(&gguf, "none", 4, 4, name, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "tail.gguf: at byte 0: not a GGUF file"), "%s", error.text);
    cr_assert_eq(gguf_parse(&gguf, "none", 4, 4, name, NULL), LODE_ERR_FORMAT, "an error is optional");
}

// ---- tensors

Test(gguf_broken, refuses_impossible_tensor_names)
{
    char name[GGUF_MAX_NAME + 1];
    memset(name, 'n', sizeof name);
    name[GGUF_MAX_NAME] = '\0';
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, name, LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    expect_refused(writer, LODE_ERR_FORMAT, "at byte 24: a name of 64 bytes; the longest is 63");

    size_t size_bytes;
    writer = writer_of_tensor(LODE_F32, 1, (uint64_t[]){1});
    char *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    bytes[24 + 8 + 1] = '\0';
    expect_bytes_refused(bytes, size_bytes, LODE_ERR_FORMAT,
                         "tensor \"x\\x00weight\", at byte 24: a zero byte in the name");
    free(bytes);

    writer = writer_of_tensor(LODE_F32, 1, (uint64_t[]){1});
    gguf_writer_tensor(writer, "x.weight", LODE_F16, 1, (uint64_t[]){2}, NULL, 4);
    expect_refused(writer, LODE_ERR_FORMAT,
                   "tensor \"x.weight\", at byte 64: the name is there a second time");
}

Test(gguf_broken, refuses_impossible_shapes)
{
    static const uint64_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const struct {
        uint32_t type, n_dims;
        uint64_t ne[4];
        const char *text;
    } shapes[] = {
        {LODE_F32, 1, {0}, "at byte 44: dimension 0 has the impossible size 0"},
        {LODE_F32, 2, {4, 0}, "at byte 52: dimension 1 has the impossible size 0"},
        {LODE_F32, 1, {UINT64_MAX}, "dimension 0 has the impossible size -1"},
        {LODE_F32, 1, {1ull << 63}, "dimension 0 has the impossible size -"},
        {LODE_F32, 2, {1ull << 32, 1ull << 32}, "at byte 52: the number of elements overflows"},
        {LODE_F32, 2, {1ull << 32, 1ull << 31}, "the number of elements overflows"},
        {40, 4, {1 << 16, 1 << 16, 1 << 16, 1 << 16}, "the number of elements overflows"},
        {LODE_F32, 1, {1ull << 62}, "at byte 24: the size in bytes overflows 64 bits"},
        {LODE_F32, 2, {1ull << 31, 1ull << 31}, "the size in bytes overflows 64 bits"},
        {LODE_F32, 2, {1ull << 31, (1ull << 31) - 1}, "but the file ends at byte"},
        {LODE_Q4_0, 1, {33}, "rows of 33 elements; a row of Q4_0 is a multiple of 32"},
        {LODE_Q4_0, 2, {16, 2}, "rows of 16 elements"},
        {LODE_Q6_K, 1, {128}, "rows of 128 elements; a row of Q6_K is a multiple of 256"},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct gguf_writer *writer = writer_of_tensor(shapes[i].type, shapes[i].n_dims, shapes[i].ne);
        expect_refused(writer, LODE_ERR_FORMAT, shapes[i].text);
    }
    expect_refused(writer_of_tensor(LODE_F32, 0, ones), LODE_ERR_FORMAT,
                   "tensor \"x.weight\", at byte 40: 0 dimensions; 1 to 4 are possible");
    expect_refused(writer_of_tensor(LODE_F32, 5, ones), LODE_ERR_FORMAT, "5 dimensions");
}

static void expect_offset_refused(uint32_t type, uint64_t offset_bytes, const char *text)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "first", LODE_F32, 1, (uint64_t[]){16}, NULL, 64);
    gguf_writer_tensor_at(writer, "second", type, 1, (uint64_t[]){16}, offset_bytes);
    expect_refused(writer, LODE_ERR_FORMAT, text);
}

Test(gguf_broken, refuses_impossible_offsets)
{
    expect_offset_refused(LODE_F32, 4,
                          "tensor \"second\", at byte 61: the data offset 4 is no multiple of the alignment");
    expect_offset_refused(LODE_F32, 16, "the data offset 16 is no multiple of the alignment 32");
    expect_offset_refused(40, 33, "the data offset 33 is no multiple");
    expect_offset_refused(LODE_F32, UINT64_MAX - 31, "the end of the data overflows 64 bits");
    expect_offset_refused(40, UINT64_MAX - 31, "the end of the data overflows 64 bits");
    expect_offset_refused(LODE_F32, UINT64_MAX - 191, "the end of the data overflows 64 bits");
    expect_offset_refused(LODE_F32, 32, "its data lies from byte 160 to 224, but the file ends at byte 192");
    expect_offset_refused(LODE_F32, 1ull << 40, "but the file ends at byte 192");
}

Test(gguf_broken, refuses_a_tensor_that_ends_a_byte_beyond_the_file)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "x", LODE_F32, 1, (uint64_t[]){8}, NULL, 32);
    size_t size_bytes;
    char *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    struct lode_error error;
    cr_assert_eq(parse_bytes(bytes, size_bytes, &error), 0, "%s", error.text);
    expect_bytes_refused(bytes, size_bytes - 1, LODE_ERR_FORMAT,
                         "tensor \"x\", at byte 24: its data lies from byte 64 to 96, "
                         "but the file ends at byte 95");
    free(bytes);
}

// ---- the file system

Test(gguf_broken, refuses_paths_that_are_no_files)
{
    expect_path_refused("/nonexistent/model.gguf", LODE_ERR_IO,
                        "/nonexistent/model.gguf: cannot open: No such file");
    expect_path_refused("/tmp", LODE_ERR_IO, "/tmp: not a regular file");
    char path[] = "/tmp/lode-gguf-pipe-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    unlink(path);
    cr_assert_eq(mkfifo(path, 0600), 0);
    expect_path_refused(path, LODE_ERR_IO, "not a regular file");
    unlink(path);
}

static int parse_descriptor(int fd, uint64_t size_bytes, struct lode_error *error)
{
    struct gguf_reader reader = {.name = "read.gguf",
                                 .fd = fd,
                                 .given_bytes = size_bytes,
                                 .file_size_bytes = size_bytes,
                                 .error = error};
    struct gguf_header header;
    int code = gguf_parse_header(&header, &reader, 0);
    if (!code)
        gguf_header_free(&header);
    return code;
}

Test(gguf_broken, reports_a_file_that_shrinks_or_fails_while_it_is_read)
{
    size_t size_bytes;
    char *bytes = make_sample(&size_bytes);
    char path[] = "/tmp/lode-gguf-shrink-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, bytes, size_bytes) == (ssize_t)size_bytes);
    free(bytes);
    struct lode_error error = {0};
    cr_assert_eq(parse_descriptor(fd, size_bytes, &error), 0, "%s", error.text);
    cr_assert_eq(ftruncate(fd, 100), 0);
    cr_assert_eq(parse_descriptor(fd, size_bytes, &error), LODE_ERR_IO);
    cr_assert_str_eq(error.text, "read.gguf: at byte 100: the file became shorter while it was read");
    int write_only = open(path, O_WRONLY);
    cr_assert_eq(parse_descriptor(write_only, size_bytes, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "read.gguf: at byte 0: cannot read: Bad file descriptor"), "%s", error.text);
    close(write_only);
    close(fd);
    unlink(path);
}
