#include "tests/test_vocabulary.h"
#include "tests/gguf_writer.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define MAX_TOKENS 400
#define SPACE "\xe2\x96\x81"

const struct test_vocabulary test_vocabulary = {.model = "gemma4"};

struct token {
    const char *text;
    int32_t type;
};

static const struct token first_tokens[] = {
    {"<pad>", 3},
    {"<eos>", 1},
    {"<bos>", 3},
    {"<unk>", 2},
    {"<|turn>", 3},
    {"<turn|>", 3},
    {"<|tool_response>", 4},
    {"<|channel>", 4},
    {"<|\"|>", 4},
    {"</s>", 3},
    {"<unused0>", 3},
    {"<|turn>b", 4},
};

static const struct token last_tokens[] = {
    {SPACE, 1}, {"a", 1},  {"b", 1},       {"c", 1},           {"d", 1},  {"o", 1},  {"s", 1},
    {"t", 1},   {"x", 1},  {"y", 1},       {"z", 1},           {"\n", 1}, {"<", 1},  {">", 1},
    {"/", 1},   {"|", 1},  {"é", 1},       {"bc", 1},          {"ab", 1}, {"aa", 1}, {"aaaa", 1},
    {"yz", 1},  {"xy", 1}, {SPACE "b", 1}, {">" SPACE "b", 1},
};

static const char *const merges[] = {"b c", "a b", "a a", "aa aa", "y z", SPACE " b", "> " SPACE "b"};

struct columns {
    char byte_texts[256][8];
    const char *texts[MAX_TOKENS];
    int32_t types[MAX_TOKENS];
    size_t n_tokens;
    const char *merges[16];
    size_t n_merges;
};

static void add_token(struct columns *columns, const struct test_vocabulary *vocabulary, const char *text,
                      int32_t type)
{
    if (vocabulary->drop && strcmp(vocabulary->drop, text) == 0)
        return;
    columns->texts[columns->n_tokens] = text;
    columns->types[columns->n_tokens++] = type;
}

static void fill(struct columns *columns, const struct test_vocabulary *vocabulary)
{
    columns->n_tokens = columns->n_merges = 0;
    for (size_t i = 0; i < sizeof first_tokens / sizeof *first_tokens; i++)
        add_token(columns, vocabulary, first_tokens[i].text, first_tokens[i].type);
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(columns->byte_texts[byte], sizeof *columns->byte_texts, "<0x%02X>", byte);
        add_token(columns, vocabulary, columns->byte_texts[byte], 6);
    }
    for (size_t i = 0; i < sizeof last_tokens / sizeof *last_tokens; i++)
        add_token(columns, vocabulary, last_tokens[i].text, last_tokens[i].type);
    if (vocabulary->extra_token)
        add_token(columns, vocabulary, vocabulary->extra_token, vocabulary->extra_type);
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        columns->merges[columns->n_merges++] = merges[i];
    if (vocabulary->extra_merge)
        columns->merges[columns->n_merges++] = vocabulary->extra_merge;
}

uint32_t test_vocabulary_size(const struct test_vocabulary *vocabulary)
{
    struct columns columns;
    fill(&columns, vocabulary);
    return (uint32_t)columns.n_tokens;
}

static void write_huge_array(struct gguf_writer *writer, const char *key)
{
    size_t count = (size_t)1 << 22;
    const char **strings = malloc(count * sizeof *strings);
    for (size_t i = 0; i < count; i++)
        strings[i] = "";
    gguf_writer_strings(writer, key, count, strings);
    free(strings);
}

// Writes the array `key`; `strings` or `numbers` are its items.
static void write_array(struct gguf_writer *writer, const char *key, enum test_array state, size_t count,
                        const char *const *strings, const int32_t *numbers)
{
    static const float floats[MAX_TOKENS];
    if (state == TEST_ARRAY_MISSING)
        return;
    if (state == TEST_ARRAY_SCALAR) {
        gguf_writer_u32(writer, key, (uint32_t)count);
        return;
    }
    if (state == TEST_ARRAY_OTHER_ITEMS) {
        gguf_writer_array(writer, key, GGUF_F32, count, floats);
        return;
    }
    if (state == TEST_ARRAY_ALIEN) {
        gguf_writer_strings(writer, key, 1, (const char *const[]){"q q"});
        return;
    }
    if (state == TEST_ARRAY_HUGE) {
        write_huge_array(writer, key);
        return;
    }
    count = state == TEST_ARRAY_EMPTY ? 0 : state == TEST_ARRAY_SHORT ? count - 1 : count;
    if (strings)
        gguf_writer_strings(writer, key, count, strings);
    else
        gguf_writer_array(writer, key, GGUF_I32, count, numbers);
}

static void *write_vocabulary(const struct test_vocabulary *vocabulary, size_t *out_size_bytes)
{
    struct columns columns;
    fill(&columns, vocabulary);
    struct gguf_writer *writer = gguf_writer_new(3);
    if (vocabulary->model_is_a_number)
        gguf_writer_u32(writer, "tokenizer.ggml.model", 4);
    else if (vocabulary->model)
        gguf_writer_string(writer, "tokenizer.ggml.model", vocabulary->model);
    write_array(writer, "tokenizer.ggml.tokens", vocabulary->tokens, columns.n_tokens, columns.texts, NULL);
    write_array(writer, "tokenizer.ggml.token_type", vocabulary->types, columns.n_tokens, NULL,
                columns.types);
    write_array(writer, "tokenizer.ggml.merges", vocabulary->merges, columns.n_merges, columns.merges, NULL);
    void *bytes = gguf_writer_finish(writer, out_size_bytes);
    gguf_writer_free(writer);
    return bytes;
}

static int load(struct tokenizer **out, void *bytes, size_t size_bytes, const char *name,
                struct lode_error *error)
{
    struct gguf *gguf;
    cr_assert_eq(gguf_parse(&gguf, bytes, size_bytes, size_bytes, name, error), 0, "%s", error->text);
    int code = tokenizer_load(out, gguf, error);
    gguf_close(gguf);
    free(bytes);
    return code;
}

int test_vocabulary_try(struct tokenizer **out, const struct test_vocabulary *vocabulary,
                        struct lode_error *error)
{
    size_t size_bytes;
    void *bytes = write_vocabulary(vocabulary, &size_bytes);
    return load(out, bytes, size_bytes, "made.gguf", error);
}

struct tokenizer *test_vocabulary_load(const struct test_vocabulary *vocabulary)
{
    struct lode_error error;
    struct tokenizer *tokenizer;
    cr_assert_eq(test_vocabulary_try(&tokenizer, vocabulary, &error), 0, "%s", error.text);
    return tokenizer;
}

struct tokenizer *test_tiny_vocabulary_load(struct gguf **out_gguf)
{
    char path[512];
    if (!test_data_find(path, sizeof path, "tiny/tiny-moe-q4_0.gguf"))
        cr_skip_test("no tiny/tiny-moe-q4_0.gguf");
    struct lode_error error;
    struct tokenizer *tokenizer;
    cr_assert_eq(gguf_open(out_gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(tokenizer_load(&tokenizer, *out_gguf, &error), 0, "%s", error.text);
    return tokenizer;
}

static void *read_all(FILE *file, size_t *out_size_bytes)
{
    size_t capacity = (size_t)32 << 20;
    char *bytes = malloc(capacity);
    *out_size_bytes = 0;
    for (size_t n; (n = fread(bytes + *out_size_bytes, 1, capacity - *out_size_bytes, file)) > 0;) {
        *out_size_bytes += n;
        if (*out_size_bytes == capacity)
            bytes = realloc(bytes, capacity *= 2);
    }
    return bytes;
}

static void *decompress(const char *path, size_t *out_size_bytes)
{
    char command[600];
    snprintf(command, sizeof command, "zstd -dcq '%s' 2>/dev/null", path);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe);
    void *bytes = read_all(pipe, out_size_bytes);
    int status = pclose(pipe);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        cr_skip_test("zstd is not installed; $LODE_TEST_VOCABULARY may name the decompressed vocabulary");
    cr_assert_eq(status, 0, "zstd cannot decompress %s", path);
    return bytes;
}

struct tokenizer *test_full_vocabulary_load(void)
{
    char path[512];
    const char *given = getenv("LODE_TEST_VOCABULARY");
    size_t size_bytes;
    void *bytes;
    if (given)
        snprintf(path, sizeof path, "%s", given);
    if (given || test_data_find(path, sizeof path, "vocab/gemma4-vocab.gguf")) {
        FILE *file = fopen(path, "rb");
        cr_assert(file, "cannot open %s", path);
        bytes = read_all(file, &size_bytes);
        fclose(file);
    } else if (test_data_find(path, sizeof path, "vocab/gemma4-vocab.gguf.zst")) {
        bytes = decompress(path, &size_bytes);
    } else {
        cr_skip_test("no vocab/gemma4-vocab.gguf; $LODE_TEST_VOCABULARY may name it");
    }
    struct lode_error error;
    struct tokenizer *tokenizer;
    cr_assert_eq(load(&tokenizer, bytes, size_bytes, path, &error), 0, "%s", error.text);
    return tokenizer;
}
