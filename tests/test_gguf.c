// What well-formed GGUF files give: values, tensors, split models, and the golden models. Broken files:
// test_gguf_broken.c.
#include "tests/gguf_writer.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PATH 4096

static struct gguf *parse(struct gguf_writer *writer)
{
    size_t size_bytes;
    void *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_parse(&gguf, bytes, size_bytes, size_bytes, "memory.gguf", &error);
    cr_assert_eq(code, 0, "%s", error.text);
    free(bytes); // nothing may point into it
    return gguf;
}

static struct gguf *open_path(const char *path)
{
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_open(&gguf, path, &error);
    cr_assert_eq(code, 0, "%s", error.text);
    return gguf;
}

static void expect_text(const struct gguf_value *value, size_t index, const char *data, size_t len)
{
    struct gguf_string text;
    cr_assert(gguf_value_string(value, index, &text));
    cr_assert_eq(text.len, len);
    cr_assert_eq(memcmp(text.data, data, len), 0);
}

Test(gguf, reads_every_kind_of_number)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_number(writer, "u8", GGUF_U8, &(uint8_t){200});
    gguf_writer_number(writer, "i8", GGUF_I8, &(int8_t){-100});
    gguf_writer_u16(writer, "u16", 60000);
    gguf_writer_number(writer, "i16", GGUF_I16, &(int16_t){-30000});
    gguf_writer_u32(writer, "u32", 4000000000u);
    gguf_writer_i32(writer, "i32", -2000000000);
    gguf_writer_f32(writer, "f32", 1e-6f);
    gguf_writer_bool(writer, "bool", true);
    gguf_writer_number(writer, "u64", GGUF_U64, &(uint64_t){UINT64_MAX});
    gguf_writer_number(writer, "i64", GGUF_I64, &(int64_t){INT64_MIN});
    gguf_writer_number(writer, "f64", GGUF_F64, &(double){M_PI});
    struct gguf *gguf = parse(writer);

    static const struct {
        const char *key;
        enum gguf_kind kind;
        int64_t integer;
    } integers[] = {{"u8", GGUF_U8, 200},      {"i8", GGUF_I8, -100},         {"u16", GGUF_U16, 60000},
                    {"i16", GGUF_I16, -30000}, {"u32", GGUF_U32, 4000000000}, {"i32", GGUF_I32, -2000000000},
                    {"bool", GGUF_BOOL, 1},    {"i64", GGUF_I64, INT64_MIN}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        const struct gguf_value *value = gguf_find(gguf, integers[i].key);
        int64_t integer;
        cr_assert(value && gguf_value_i64(value, 0, &integer), "%s", integers[i].key);
        cr_assert_eq(integer, integers[i].integer, "%s", integers[i].key);
        cr_assert_eq(gguf_value_kind(value), integers[i].kind);
        cr_assert_eq(gguf_value_item_kind(value), integers[i].kind);
        cr_assert_eq(gguf_value_count(value), 1);
    }
    uint64_t natural;
    cr_assert(gguf_value_u64(gguf_find(gguf, "u64"), 0, &natural));
    cr_assert_eq(natural, UINT64_MAX);
    double real;
    cr_assert(gguf_value_f64(gguf_find(gguf, "f32"), 0, &real));
    cr_assert_eq(real, (double)1e-6f);
    cr_assert(gguf_value_f64(gguf_find(gguf, "f64"), 0, &real));
    cr_assert_eq(real, M_PI);
    cr_assert(gguf_value_f64(gguf_find(gguf, "i8"), 0, &real));
    cr_assert_eq(real, -100.0);
    cr_assert(gguf_value_f64(gguf_find(gguf, "u64"), 0, &real));
    cr_assert_eq(real, 0x1p64);
    gguf_close(gguf);
}

Test(gguf, converts_only_what_fits)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_i32(writer, "negative", -1);
    gguf_writer_number(writer, "large", GGUF_U64, &(uint64_t){1ull << 63});
    gguf_writer_f32(writer, "real", 2.0f);
    gguf_writer_bool(writer, "bool", true);
    gguf_writer_string(writer, "text", "5");
    struct gguf *gguf = parse(writer);
    uint64_t natural;
    int64_t integer;
    double real;
    struct gguf_string text;
    cr_expect_not(gguf_value_u64(gguf_find(gguf, "negative"), 0, &natural));
    cr_expect_not(gguf_value_i64(gguf_find(gguf, "large"), 0, &integer));
    cr_expect_not(gguf_value_u64(gguf_find(gguf, "real"), 0, &natural));
    cr_expect_not(gguf_value_i64(gguf_find(gguf, "real"), 0, &integer));
    cr_expect_not(gguf_value_f64(gguf_find(gguf, "bool"), 0, &real));
    cr_expect_not(gguf_value_u64(gguf_find(gguf, "text"), 0, &natural));
    cr_expect_not(gguf_value_f64(gguf_find(gguf, "text"), 0, &real));
    cr_expect_not(gguf_value_string(gguf_find(gguf, "real"), 0, &text));
    cr_expect_not(gguf_value_i64(gguf_find(gguf, "negative"), 1, &integer), "a scalar has one element");
    cr_expect_not(gguf_value_f64(gguf_find(gguf, "real"), 1, &real));
    cr_expect_not(gguf_value_string(gguf_find(gguf, "text"), 1, &text));
    const struct gguf_value *absent = gguf_find(gguf, "absent");
    cr_expect_null(absent);
    cr_expect_not(gguf_value_u64(absent, 0, &natural));
    cr_expect_not(gguf_value_f64(absent, 0, &real));
    cr_expect_not(gguf_value_string(absent, 0, &text));
    gguf_close(gguf);
}

Test(gguf, reads_arrays_of_numbers)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_array(writer, "i16", GGUF_I16, 3, (int16_t[]){-1, 0, 300});
    gguf_writer_array(writer, "bool", GGUF_BOOL, 3, (uint8_t[]){1, 0, 5});
    gguf_writer_array(writer, "f32", GGUF_F32, 2, (float[]){-1000, 0.25f});
    gguf_writer_array(writer, "empty", GGUF_U64, 0, NULL);
    struct gguf *gguf = parse(writer);
    const struct gguf_value *value = gguf_find(gguf, "i16");
    cr_assert_eq(gguf_value_kind(value), GGUF_ARRAY);
    cr_assert_eq(gguf_value_item_kind(value), GGUF_I16);
    cr_assert_eq(gguf_value_count(value), 3);
    const int64_t expected[] = {-1, 0, 300};
    int64_t integer;
    for (size_t i = 0; i < 3; i++) {
        cr_assert(gguf_value_i64(value, i, &integer));
        cr_assert_eq(integer, expected[i]);
    }
    cr_assert_not(gguf_value_i64(value, 3, &integer));
    const uint64_t flags[] = {1, 0, 1};
    uint64_t flag;
    for (size_t i = 0; i < 3; i++) {
        cr_assert(gguf_value_u64(gguf_find(gguf, "bool"), i, &flag));
        cr_assert_eq(flag, flags[i]);
    }
    double real;
    cr_assert(gguf_value_f64(gguf_find(gguf, "f32"), 1, &real));
    cr_assert_eq(real, 0.25);
    cr_assert_eq(gguf_value_count(gguf_find(gguf, "empty")), 0);
    cr_assert_not(gguf_value_u64(gguf_find(gguf, "empty"), 0, &flag));
    gguf_close(gguf);
}

Test(gguf, reads_strings_of_any_bytes)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_bytes(writer, "bytes", "a\0\xff\n", 4);
    gguf_writer_string(writer, "empty", "");
    gguf_writer_strings(writer, "first", 3, (const char *const[]){"<pad>", "", "\xe2\x96\x81"});
    gguf_writer_u32(writer, "between", 7);
    gguf_writer_strings(writer, "second", 2, (const char *const[]){"a b", "c d"});
    struct gguf *gguf = parse(writer);
    expect_text(gguf_find(gguf, "bytes"), 0, "a\0\xff\n", 4);
    expect_text(gguf_find(gguf, "empty"), 0, "", 0);
    const struct gguf_value *first = gguf_find(gguf, "first"), *second = gguf_find(gguf, "second");
    cr_assert_eq(gguf_value_count(first), 3);
    expect_text(first, 0, "<pad>", 5);
    expect_text(first, 1, "", 0);
    expect_text(first, 2, "\xe2\x96\x81", 3);
    cr_assert_eq(gguf_value_count(second), 2);
    expect_text(second, 0, "a b", 3);
    expect_text(second, 1, "c d", 3);
    struct gguf_string text;
    cr_assert_not(gguf_value_string(first, 3, &text));
    gguf_close(gguf);
}

Test(gguf, keeps_keys_in_file_order_and_finds_them)
{
    const char *keys[] = {"b", "ab", "a", "abc", "", "general.architecture"};
    size_t n_keys = sizeof keys / sizeof *keys;
    struct gguf_writer *writer = gguf_writer_new(3);
    for (size_t i = 0; i < n_keys; i++)
        gguf_writer_u32(writer, keys[i], (uint32_t)i);
    struct gguf *gguf = parse(writer);
    cr_assert_eq(gguf_key_count(gguf), n_keys);
    for (size_t i = 0; i < n_keys; i++) {
        const struct gguf_value *value;
        struct gguf_string key = gguf_key_at(gguf, i, &value);
        cr_assert(key.len == strlen(keys[i]) && memcmp(key.data, keys[i], key.len) == 0);
        cr_assert_eq(gguf_find(gguf, keys[i]), value);
        uint64_t number;
        cr_assert(gguf_value_u64(value, 0, &number));
        cr_assert_eq(number, i);
    }
    cr_assert_null(gguf_find(gguf, "abcd"));
    cr_assert_null(gguf_find(gguf, "general"));
    gguf_close(gguf);
}

static const uint32_t tested_alignments[] = {8, 32, 64, 4096};

Test(gguf, says_where_tensors_lie)
{
    for (size_t a = 0; a < sizeof tested_alignments / sizeof *tested_alignments; a++) {
        char q4[2 * 3 * 18], f32[20];
        memset(q4, 'q', sizeof q4);
        memset(f32, 'f', sizeof f32);
        struct gguf_writer *writer = gguf_writer_new(3);
        if (tested_alignments[a] != 32)
            gguf_writer_alignment(writer, tested_alignments[a]);
        gguf_writer_tensor(writer, "z.weight", LODE_F32, 1, (uint64_t[]){5}, f32, sizeof f32);
        gguf_writer_tensor(writer, "a.weight", LODE_Q4_0, 2, (uint64_t[]){64, 3}, q4, sizeof q4);
        size_t size_bytes;
        char *bytes = gguf_writer_finish(writer, &size_bytes);
        struct gguf *gguf = parse(writer);
        cr_assert_eq(gguf_tensor_count(gguf), 2);
        const struct gguf_tensor *first = gguf_tensor_at(gguf, 0), *second = gguf_tensor_at(gguf, 1);
        cr_assert_str_eq(first->name, "z.weight");
        cr_assert(first->n_dims == 1 && first->ne[0] == 5 && first->ne[1] == 1 && first->ne[3] == 1);
        cr_assert(second->n_dims == 2 && second->ne[0] == 64 && second->ne[1] == 3 && second->ne[2] == 1);
        cr_assert(first->type == LODE_F32 && second->type == LODE_Q4_0 && second->file == 0);
        cr_assert(first->size_bytes == sizeof f32 && second->size_bytes == sizeof q4);
        cr_assert_eq(memcmp(bytes + first->offset_bytes, f32, sizeof f32), 0);
        cr_assert_eq(memcmp(bytes + second->offset_bytes, q4, sizeof q4), 0);
        cr_assert_eq(gguf_tensor_find(gguf, "a.weight"), second);
        cr_assert_null(gguf_tensor_find(gguf, "a"));
        gguf_close(gguf);
        free(bytes);
    }
}

Test(gguf, reads_version_2_and_files_without_content)
{
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf *gguf = parse(gguf_writer_new(version));
        cr_assert_eq(gguf_version(gguf), version);
        cr_assert(gguf_key_count(gguf) == 0 && gguf_tensor_count(gguf) == 0);
        cr_assert_null(gguf_find(gguf, "a"));
        cr_assert_null(gguf_tensor_find(gguf, "a"));
        gguf_close(gguf);
    }
}

Test(gguf, keeps_tensors_of_types_that_it_cannot_read)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "nvfp4", 40, 1, (uint64_t[]){64}, NULL, 36);
    gguf_writer_tensor_at(writer, "negative", (uint32_t)-7, 1, (uint64_t[]){3}, 1 << 20);
    struct gguf *gguf = parse(writer);
    const struct gguf_tensor *known = gguf_tensor_find(gguf, "nvfp4"),
                             *unknown = gguf_tensor_find(gguf, "negative");
    cr_assert(known->type == 40 && known->size_bytes == 0);
    cr_assert(unknown->type == (uint32_t)-7 && unknown->size_bytes == 0);
    gguf_close(gguf);
}

Test(gguf, takes_the_longest_name)
{
    char name[GGUF_MAX_NAME];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, name, LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    struct gguf *gguf = parse(writer);
    cr_assert_str_eq(gguf_tensor_at(gguf, 0)->name, name);
    cr_assert(gguf_tensor_find(gguf, name));
    gguf_close(gguf);
}

Test(gguf, needs_only_the_header_in_memory)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "a", LODE_F32, 1, (uint64_t[]){1000}, NULL, 4000);
    size_t size_bytes;
    char *bytes = gguf_writer_finish(writer, &size_bytes);
    gguf_writer_free(writer);
    size_t header_bytes = 24 + 8 + 1 + 4 + 8 + 4 + 8;
    struct gguf *gguf;
    struct lode_error error = {0};
    cr_assert_eq(gguf_parse(&gguf, bytes, header_bytes, size_bytes, "head.gguf", &error), 0, "%s",
                 error.text);
    cr_assert_str_eq(gguf_file_path(gguf, 0), "head.gguf");
    cr_assert_eq(gguf_file_size_bytes(gguf, 0), size_bytes);
    cr_assert_eq(gguf_tensor_at(gguf, 0)->offset_bytes, 64);
    gguf_close(gguf);
    cr_assert_eq(gguf_parse(&gguf, bytes, header_bytes - 1, size_bytes, "head.gguf", &error),
                 LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "only the first 56 bytes of the file were given"), "%s", error.text);
    cr_assert_eq(gguf_parse(&gguf, bytes, size_bytes, size_bytes - 1, "head.gguf", &error),
                 LODE_ERR_ARGUMENT);
    free(bytes);
}

// Longer than one read, so that the buffer moves while values already lie in it.
Test(gguf, reads_a_long_header_from_disk)
{
    enum { N_NUMBERS = 400000, N_STRINGS = 100000 };
    char path[] = "/tmp/lode-gguf-long-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    uint64_t *numbers = calloc(N_NUMBERS, sizeof *numbers);
    char(*texts)[12] = calloc(N_STRINGS, sizeof *texts);
    const char **strings = calloc(N_STRINGS, sizeof *strings);
    for (size_t i = 0; i < N_NUMBERS; i++)
        numbers[i] = i * i;
    for (size_t i = 0; i < N_STRINGS; i++) {
        snprintf(texts[i], sizeof *texts, "%zu", i);
        strings[i] = texts[i];
    }
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "first", "at the start");
    gguf_writer_array(writer, "numbers", GGUF_U64, N_NUMBERS, numbers);
    gguf_writer_strings(writer, "strings", N_STRINGS, strings);
    gguf_writer_tensor(writer, "a", LODE_F32, 1, (uint64_t[]){1 << 20}, NULL, 4 << 20);
    cr_assert(gguf_writer_save(writer, path));
    gguf_writer_free(writer);

    struct gguf *gguf = open_path(path);
    cr_assert_str_eq(gguf_file_path(gguf, 0), path);
    expect_text(gguf_find(gguf, "first"), 0, "at the start", 12);
    const struct gguf_value *read = gguf_find(gguf, "numbers");
    for (size_t i = 0; i < N_NUMBERS; i++) {
        uint64_t number;
        cr_assert(gguf_value_u64(read, i, &number) && number == i * i);
    }
    for (size_t i = 0; i < N_STRINGS; i++)
        expect_text(gguf_find(gguf, "strings"), i, texts[i], strlen(texts[i]));
    cr_assert_eq(gguf_tensor_at(gguf, 0)->size_bytes, 4u << 20);
    gguf_close(gguf);
    free(numbers);
    free(texts);
    free(strings);
    unlink(path);
}

// ---- golden models

// Figures from the gguf package for Python.
static const struct {
    const char *name;
    size_t n_keys, n_tensors;
    const char *tensor;
    uint32_t type;
    uint64_t ne[GGUF_MAX_DIMS], offset_bytes, size_bytes;
} golden[] = {
    {"golden/m-e2b-q4_0.gguf", 37, 99, "blk.1.inp_gate.weight", 2, {128, 32, 1, 1}, 286368, 2304},
    {"golden/m-e4b-q8_0.gguf", 37, 102, "per_layer_token_embd.weight", 8, {384, 512, 1, 1}, 106528, 208896},
    {"golden/m-26b-a4b-q4_0.gguf", 40, 89, "blk.0.ffn_down_exps.weight", 2, {32, 128, 16, 1}, 191168, 36864},
    {"golden/m-31b-f32.gguf", 37, 85, "blk.1.attn_q.weight", 0, {128, 256, 1, 1}, 1267200, 131072},
    {"golden/k-31b-Q2_K.gguf", 37, 30, "blk.1.ffn_down.weight", 10, {256, 256, 1, 1}, 288704, 21504},
    {"golden/k-31b-Q6_K.gguf", 37, 30, "token_embd.weight", 14, {256, 480, 1, 1}, 15904, 100800},
    {"golden/k-31b-IQ4_XS.gguf", 37, 30, "blk.0.ffn_up.weight", 23, {256, 256, 1, 1}, 257824, 34816},
    {"golden/k-31b-BF16.gguf", 37, 30, "blk.0.ffn_up.weight", 30, {256, 256, 1, 1}, 919584, 131072},
    {"golden/k-moe-Q4_K_S.gguf",
     40,
     46,
     "blk.1.ffn_gate_up_exps.weight",
     12,
     {256, 512, 4, 1},
     1156864,
     294912},
    {"tiny/tiny-moe-q4_0.gguf", 45, 177, "blk.2.ffn_down_exps.weight", 2, {64, 256, 32, 1}, 3490944, 294912},
    {"tiny/tiny-ple-q8_0.gguf", 42, 99, "blk.0.proj.weight", 8, {32, 128, 1, 1}, 1777984, 4352},
};

Test(gguf, opens_the_golden_models)
{
    size_t n_found = 0;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        char path[MAX_PATH];
        if (!test_data_find(path, sizeof path, golden[i].name))
            continue;
        n_found++;
        struct gguf *gguf = open_path(path);
        cr_assert_eq(gguf_version(gguf), 3);
        cr_assert_eq(gguf_key_count(gguf), golden[i].n_keys);
        cr_assert_eq(gguf_tensor_count(gguf), golden[i].n_tensors);
        expect_text(gguf_find(gguf, "general.architecture"), 0, "gemma4", 6);
        uint64_t vocab_size;
        const struct gguf_value *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
        cr_assert(gguf_value_u64(gguf_find(gguf, "gemma4.vocab_size"), 0, &vocab_size));
        cr_assert_eq(gguf_value_count(tokens), vocab_size);
        cr_assert_eq(vocab_size, gguf_tensor_find(gguf, "token_embd.weight")->ne[1]);
        expect_text(tokens, 0, "<pad>", 5);
        const struct gguf_tensor *tensor = gguf_tensor_find(gguf, golden[i].tensor);
        cr_assert(tensor, "%s", golden[i].tensor);
        cr_assert_eq(tensor->type, golden[i].type);
        for (int d = 0; d < GGUF_MAX_DIMS; d++)
            cr_assert_eq(tensor->ne[d], golden[i].ne[d]);
        cr_assert_eq(tensor->offset_bytes, golden[i].offset_bytes);
        cr_assert_eq(tensor->size_bytes, golden[i].size_bytes);
        gguf_close(gguf);
    }
    if (!n_found)
        cr_skip_test("no golden models here");
}
