#include "tests/tokenizer_checks.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static uint32_t random_state = 1;

uint32_t test_random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return (uint32_t)((uint64_t)random_state * limit >> 32);
}

int32_t *test_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     size_t *out_count)
{
    struct lode_error error;
    int32_t *ids;
    cr_assert_eq(tokenizer_encode(tokenizer, text, len, flags, NULL, 0, &ids, out_count, &error), 0, "%s",
                 error.text);
    return ids;
}

static char *decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *out_len)
{
    size_t capacity = tokenizer_stream_capacity(tokenizer);
    char *text = malloc(count * capacity + capacity);
    size_t len = 0;
    struct tokenizer_stream stream = {0};
    for (size_t i = 0; i < count; i++)
        len += tokenizer_stream_push(tokenizer, &stream, ids[i], true, text + len, capacity);
    len += tokenizer_stream_flush(&stream, text + len, capacity);
    *out_len = len;
    return text;
}

void test_round_trip(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags)
{
    size_t count, decoded_len;
    int32_t *ids = test_encode(tokenizer, text, len, flags, &count);
    char *decoded = decode(tokenizer, ids, count, &decoded_len);
    cr_assert(decoded_len == len && memcmp(decoded, text, len) == 0, "%zu bytes came back as %zu others", len,
              decoded_len);
    free(decoded);
    free(ids);
}

// Bytes of all sorts: raw, ASCII, pieces of characters, special tokens; never a whole U+2581, which becomes a
// space.
size_t test_random_text(char *out, size_t capacity)
{
    static const char *const scraps[] = {
        "<|turn>", "<turn|>", "<bos>", "<eos>", "</s>", "<0x41>", "<|",   "\xe2\x96", "\xf0\x9f\x98", "\xc3",
        "é",       "日本",    "😀",     "the ",  "\r\n", "    ",   "\n\n", "\t",       "aaaa"};
    size_t len = 0, target = test_random_below((uint32_t)capacity - 16);
    while (len < target) {
        uint32_t sort = test_random_below(4);
        if (sort == 0) {
            out[len++] = (char)test_random_below(256);
        } else if (sort == 1) {
            out[len++] = (char)(32 + test_random_below(95));
        } else {
            const char *scrap = scraps[test_random_below(sizeof scraps / sizeof *scraps)];
            memcpy(out + len, scrap, strlen(scrap));
            len += strlen(scrap);
        }
    }
    for (size_t i = 0; i + 2 < len; i++)
        if (memcmp(out + i, "\xe2\x96\x81", 3) == 0)
            out[i + 2] = '!';
    return len;
}

void test_random_round_trips(const struct tokenizer *tokenizer, unsigned rounds)
{
    char text[600];
    for (unsigned i = 0; i < rounds; i++) {
        size_t len = test_random_text(text, sizeof text);
        test_round_trip(tokenizer, text, len, i & 1 ? TOKENIZER_SPECIAL : 0);
    }
}
