// Encoding and decoding: against a vocabulary made here, against a plain reimplementation over the small
// model's vocabulary, and against recorded ids of the full vocabulary where that is at hand.
#include "core/tokenizer.h"
#include "core/utf8.h"
#include "tests/test_vocabulary.h"
#include "tests/tokenizer_checks.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- helpers

// The texts of the tokens, joined by '.': "a.bc.<0x0A>".
static void describe(char *out, size_t capacity, const struct tokenizer *tokenizer, const int32_t *ids,
                     size_t count)
{
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < count; i++) {
        size_t len;
        const char *piece = tokenizer_piece(tokenizer, ids[i], true, &len);
        char byte_name[8];
        if (len == 1 && tokenizer_find(tokenizer, piece, 1) != ids[i] && *piece != ' ') {
            snprintf(byte_name, sizeof byte_name, "<%02X>", (unsigned char)*piece);
            piece = byte_name;
            len = 4;
        }
        used += (size_t)snprintf(out + used, capacity - used, "%s%.*s", i ? "." : "", (int)len, piece);
    }
}

static void expect_spans(const struct tokenizer *tokenizer, const char *text, unsigned flags,
                         const struct tokenizer_span *plain, size_t n_plain, const char *expected)
{
    struct lode_error error;
    int32_t *ids;
    size_t count;
    cr_assert_eq(tokenizer_encode(tokenizer, text, strlen(text), flags, plain, n_plain, &ids, &count, &error),
                 0, "%s", error.text);
    char got[512];
    describe(got, sizeof got, tokenizer, ids, count);
    cr_expect_str_eq(got, expected, "\"%s\" became %s, not %s", text, got, expected);
    free(ids);
}

static void expect(const struct tokenizer *tokenizer, const char *text, unsigned flags, const char *expected)
{
    expect_spans(tokenizer, text, flags, NULL, 0, expected);
}

// ---- a vocabulary made here

Test(tokenizer, merges_the_lowest_rank_first_and_the_leftmost_of_equals)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    expect(tokenizer, "abc", 0, "a.bc"); // "b c" comes before "a b"
    expect(tokenizer, "ab", 0, "ab");
    expect(tokenizer, "aaa", 0, "aa.a");
    expect(tokenizer, "aaaaa", 0, "aaaa.a"); // aa.aa.a first: "aa a" is no merge
    expect(tokenizer, "cabab", 0, "c.ab.ab");
    tokenizer_free(tokenizer);
}

Test(tokenizer, merges_only_listed_pairs_though_the_joined_text_is_a_token)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    cr_assert_geq(tokenizer_find(tokenizer, "xy", 2), 0);
    expect(tokenizer, "xy", 0, "x.y");
    expect(tokenizer, "xyz", 0, "x.yz");
    tokenizer_free(tokenizer);
}

Test(tokenizer, writes_spaces_as_u2581_and_puts_none_in_front)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    expect(tokenizer, "a b", 0, "a. b");
    expect(tokenizer, "a▁b", 0, "a. b");
    expect(tokenizer, "", 0, "");
    expect(tokenizer, " ", 0, " ");
    expect(tokenizer, "> b", 0, "> b"); // a merge that reaches over a space is not cut off
    expect(tokenizer, "c> b b", 0, "c.> b. b");
    tokenizer_free(tokenizer);
}

Test(tokenizer, falls_back_to_bytes_for_unknown_characters_and_invalid_utf8)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    expect(tokenizer, "aé", 0, "a.é");
    expect(tokenizer, "aè", 0, "a.<C3>.<A8>");
    expect(tokenizer, "a\xc3", 0, "a.<C3>");
    expect(tokenizer,
           "a\xc3"
           "b",
           0, "a.<C3>.b");
    expect(tokenizer, "\xed\xa0\x80", 0, "<ED>.<A0>.<80>"); // a surrogate
    expect(tokenizer, "\xc0\x80", 0, "<C0>.<80>");          // overlong
    expect(tokenizer, "\xf4\x90\x80\x80", 0, "<F4>.<90>.<80>.<80>");
    size_t count;
    int32_t *ids = test_encode(tokenizer, "a\0b", 3, 0, &count);
    cr_expect_eq(count, 3);
    cr_expect_eq(ids[1], tokenizer_find(tokenizer, "<0x00>", 6));
    free(ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer, recognises_the_leftmost_and_longest_special_token)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    unsigned flags = TOKENIZER_SPECIAL;
    cr_assert_neq(tokenizer_find(tokenizer, "<|turn>", 7), -1);
    size_t count;
    int32_t *ids = test_encode(tokenizer, "<|turn>ab<turn|>", 16, flags, &count);
    cr_expect_eq(count, 3);
    cr_expect_eq(ids[0], tokenizer_find(tokenizer, "<|turn>", 7));
    cr_expect_eq(ids[2], tokenizer_find(tokenizer, "<turn|>", 7));
    free(ids);
    ids = test_encode(tokenizer, "<|turn><|turn>b", 15, flags, &count);
    cr_expect_eq(count, 2, "the user-defined <|turn>b is longer");
    cr_expect_eq(ids[1], tokenizer_find(tokenizer, "<|turn>b", 8));
    free(ids);
    expect(tokenizer, "<|turn>", 0, "<.|.t.<75>.<72>.<6E>.>"); // not asked for
    expect(tokenizer, "<|turn", flags, "<.|.t.<75>.<72>.<6E>");
    expect(tokenizer, "a<eos>b<|channel>", flags, "a.<eos>.b.<|channel>");
    tokenizer_free(tokenizer);
}

Test(tokenizer, treats_the_strike_tag_as_text_whatever_its_type)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary); // where it is typed as control
    int32_t strike = tokenizer_find(tokenizer, "</s>", 4);
    cr_assert_geq(strike, 0);
    cr_expect(!tokenizer_is_end(tokenizer, strike));
    cr_expect(!tokenizer_is_control(tokenizer, strike));
    expect(tokenizer, "x</s>", TOKENIZER_SPECIAL, "x.<./.s.>");
    tokenizer_free(tokenizer);
}

Test(tokenizer, knows_the_ends_by_text_and_hides_control_tokens)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary); // <eos> is typed as normal there
    static const struct {
        const char *text;
        bool is_end, is_control;
    } cases[] = {{"<eos>", true, true},        {"<turn|>", true, true},   {"<|tool_response>", true, true},
                 {"<|turn>", false, true},     {"<bos>", false, true},    {"<unk>", false, true},
                 {"<|channel>", false, false}, {"<|\"|>", false, false},  {"a", false, false},
                 {"<0x41>", false, false},     {"<unused0>", false, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t id = tokenizer_find(tokenizer, cases[i].text, strlen(cases[i].text));
        cr_assert_geq(id, 0, "%s", cases[i].text);
        cr_expect_eq(tokenizer_is_end(tokenizer, id), cases[i].is_end, "%s", cases[i].text);
        cr_expect_eq(tokenizer_is_control(tokenizer, id), cases[i].is_control, "%s", cases[i].text);
        size_t len;
        tokenizer_piece(tokenizer, id, false, &len);
        cr_expect_eq(len == 0, cases[i].is_control, "%s", cases[i].text);
        tokenizer_piece(tokenizer, id, true, &len);
        cr_expect_gt(len, 0, "%s", cases[i].text);
    }
    tokenizer_free(tokenizer);
}

Test(tokenizer, answers_for_ids_and_texts_outside_the_vocabulary)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    int32_t outside[] = {-1, INT32_MIN, INT32_MAX, (int32_t)tokenizer_vocab_size(tokenizer)};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        size_t len = 1;
        cr_expect(tokenizer_piece(tokenizer, outside[i], true, &len));
        cr_expect_eq(len, 0);
        cr_expect(!tokenizer_is_end(tokenizer, outside[i]));
        cr_expect(!tokenizer_is_control(tokenizer, outside[i]));
    }
    cr_expect_eq(tokenizer_find(tokenizer, "no such token", 13), -1);
    cr_expect_eq(tokenizer_find(tokenizer, "", 0), -1);
    cr_expect_eq(tokenizer_find(tokenizer, "abx", 2), tokenizer_find(tokenizer, "ab", 2));
    cr_expect_eq(tokenizer_vocab_size(tokenizer), test_vocabulary_size(&test_vocabulary));
    cr_expect_gt(tokenizer_memory_bytes(tokenizer), 64u << 10);
    cr_expect_lt(tokenizer_memory_bytes(tokenizer), 1u << 20);
    tokenizer_free(tokenizer);
    tokenizer_free(NULL);
}

Test(tokenizer, puts_bos_in_front_once)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    cr_expect_eq(tokenizer_bos(tokenizer), tokenizer_find(tokenizer, "<bos>", 5));
    unsigned both = TOKENIZER_BOS | TOKENIZER_SPECIAL;
    expect(tokenizer, "a", TOKENIZER_BOS, "<bos>.a");
    expect(tokenizer, "", TOKENIZER_BOS, "<bos>");
    expect(tokenizer, "<bos>a", both, "<bos>.a");
    expect(tokenizer, "a<bos>", both, "<bos>.a.<bos>");
    struct tokenizer_span all = {0, 5};
    expect_spans(tokenizer, "<bos>a", both, &all, 1,
                 "<bos>.<.b.o.s.>.a"); // typed by a user: it does not count
    tokenizer_free(tokenizer);
}

Test(tokenizer, recognises_no_special_token_that_a_plain_span_touches)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    static const struct {
        struct tokenizer_span spans[3];
        size_t n;
        const char *expected;
    } cases[] = {
        {{{0, 12}}, 1, "a.<.b.o.s.>.<.b.o.s.>.c"}, // a text of 12 bytes: a<bos><bos>c
        {{{1, 2}}, 1, "a.<.b.o.s.>.<bos>.c"},
        {{{5, 6}}, 1, "a.<.b.o.s.>.<bos>.c"},
        {{{6, 7}}, 1, "a.<bos>.<.b.o.s.>.c"},
        {{{5, 7}}, 1, "a.<.b.o.s.>.<.b.o.s.>.c"},
        {{{0, 1}, {11, 12}}, 2, "a.<bos>.<bos>.c"},
        {{{0, 1}, {3, 3}, {7, 8}}, 3, "a.<bos>.<.b.o.s.>.c"}, // an empty span holds no byte
        {{{3, 3}, {4, 5}, {5, 6}}, 3, "a.<.b.o.s.>.<bos>.c"},
        {{{6, 6}, {12, 12}}, 2, "a.<bos>.<bos>.c"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_spans(tokenizer, "a<bos><bos>c", TOKENIZER_SPECIAL, cases[i].spans, cases[i].n,
                     cases[i].expected);
    struct tokenizer_span tail = {7, 8};
    size_t count;
    int32_t *ids;
    struct lode_error error;
    cr_assert_eq(
        tokenizer_encode(tokenizer, "<|turn>b", 8, TOKENIZER_SPECIAL, &tail, 1, &ids, &count, &error), 0);
    cr_expect_eq(count, 2, "the shorter token does not touch the span");
    cr_expect_eq(ids[0], tokenizer_find(tokenizer, "<|turn>", 7));
    free(ids);
    struct tokenizer_span half = {1, 2};
    expect_spans(tokenizer, "aaaa", TOKENIZER_SPECIAL, &half, 1, "aaaa"); // merges run across the border
    tokenizer_free(tokenizer);
}

Test(tokenizer, refuses_spans_and_flags_that_make_no_sense)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    static const struct tokenizer_span bad[][2] = {
        {{0, 5}, {5, 5}}, {{2, 1}, {3, 3}}, {{0, 2}, {1, 3}}, {{2, 3}, {0, 1}}};
    struct lode_error error = {0};
    int32_t *ids;
    size_t count;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        error.text[0] = 0;
        cr_expect_eq(tokenizer_encode(tokenizer, "abcd", 4, 0, bad[i], 2, &ids, &count, &error),
                     LODE_ERR_ARGUMENT);
        cr_expect(strstr(error.text, "span"), "%s", error.text);
        cr_expect_null(ids);
    }
    cr_expect_eq(tokenizer_encode(tokenizer, "", UINT32_MAX, 0, NULL, 0, &ids, &count, &error),
                 LODE_ERR_ARGUMENT);
    tokenizer_free(tokenizer);

    struct test_vocabulary nameless = test_vocabulary;
    nameless.drop = "<bos>";
    tokenizer = test_vocabulary_load(&nameless);
    cr_expect_eq(tokenizer_bos(tokenizer), -1);
    cr_expect_eq(tokenizer_encode(tokenizer, "a", 1, TOKENIZER_BOS, NULL, 0, &ids, &count, &error),
                 LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "<bos>"), "%s", error.text);
    tokenizer_free(tokenizer);
}

Test(tokenizer, gives_any_bytes_back)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    test_random_round_trips(tokenizer, 2000);
    tokenizer_free(tokenizer);
}

// ---- streaming

static size_t push(const struct tokenizer *tokenizer, struct tokenizer_stream *stream, unsigned byte,
                   char *out)
{
    char name[8];
    snprintf(name, sizeof name, "<0x%02X>", byte);
    int32_t id = tokenizer_find(tokenizer, name, 6);
    return tokenizer_stream_push(tokenizer, stream, id, false, out, tokenizer_stream_capacity(tokenizer));
}

Test(tokenizer, streams_a_character_when_its_last_byte_has_come)
{
    struct tokenizer *tokenizer = test_vocabulary_load(&test_vocabulary);
    char out[64];
    struct tokenizer_stream stream = {0};
    cr_expect_eq(push(tokenizer, &stream, 0xf0, out), 0);
    cr_expect_eq(push(tokenizer, &stream, 0x9f, out), 0);
    cr_expect_eq(tokenizer_stream_push(tokenizer, &stream, tokenizer_bos(tokenizer), false, out, sizeof out),
                 0);
    cr_expect_eq(push(tokenizer, &stream, 0x98, out), 0);
    cr_assert_eq(push(tokenizer, &stream, 0x80, out), 4);
    cr_expect_arr_eq(out, "😀", 4);
    cr_expect_eq(push(tokenizer, &stream, 0xe4, out), 0);
    int32_t letter = tokenizer_find(tokenizer, "a", 1);
    cr_assert_eq(tokenizer_stream_push(tokenizer, &stream, letter, false, out, sizeof out), 2);
    cr_expect_arr_eq(out,
                     "\xe4"
                     "a",
                     2); // it can be no character any more, so it passes
    cr_expect_eq(push(tokenizer, &stream, 0xed, out), 0);
    cr_expect_eq(push(tokenizer, &stream, 0xa0, out), 2); // would be a surrogate
    cr_expect_eq(push(tokenizer, &stream, 0xc3, out), 0);
    cr_assert_eq(tokenizer_stream_flush(&stream, out, sizeof out), 1);
    cr_expect_arr_eq(out, "\xc3", 1);
    cr_expect_eq(tokenizer_stream_flush(&stream, out, sizeof out), 0);
    tokenizer_free(tokenizer);
}

// By trial: some completion by further bytes is well-formed.
static bool could_become_a_character(const char *text, size_t n)
{
    static const unsigned char next[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
    char longer[8];
    memcpy(longer, text, n);
    if (n > 0 && utf8_character_bytes(text, n) == n)
        return false;
    for (size_t i = 0; i < sizeof next; i++)
        for (size_t extra = 1; n + extra <= 4; extra++) {
            memset(longer + n, 0x80, extra);
            longer[n] = (char)next[i];
            if (utf8_character_bytes(longer, n + extra) == n + extra)
                return true;
        }
    return false;
}

Test(tokenizer, streams_random_bytes_without_ever_ending_in_half_a_character)
{
    struct gguf *gguf;
    struct tokenizer *tokenizer = test_tiny_vocabulary_load(&gguf);
    size_t capacity = tokenizer_stream_capacity(tokenizer);
    char *out = malloc(capacity);
    for (unsigned round = 0; round < 2000; round++) {
        char text[200], got[400];
        size_t len = test_random_text(text, sizeof text), n_got = 0, count;
        int32_t *ids = test_encode(tokenizer, text, len, 0, &count);
        struct tokenizer_stream stream = {0};
        for (size_t i = 0; i < count; i++) {
            size_t n = tokenizer_stream_push(tokenizer, &stream, ids[i], true, out, capacity);
            memcpy(got + n_got, out, n);
            n_got += n;
            cr_assert_leq(stream.n_pending, 3);
            // Bytes held back begin a character, so what comes before them is complete or invalid.
            for (size_t back = 1; back <= 3 && back <= n && !stream.n_pending; back++)
                cr_assert(!could_become_a_character(got + n_got - back, back));
            cr_assert(!stream.n_pending || could_become_a_character(stream.pending, stream.n_pending));
        }
        n_got += tokenizer_stream_flush(&stream, got + n_got, sizeof got - n_got);
        cr_assert(n_got == len && memcmp(got, text, len) == 0);
        free(ids);
    }
    free(out);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}
