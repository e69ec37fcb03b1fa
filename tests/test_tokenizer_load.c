// Tokenizer sections that are broken, incomplete or of another model: each is an error that says what is
// wrong.
#include "core/tokenizer.h"
#include "tests/test_data.h"
#include "tests/test_vocabulary.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect_failure(const struct test_vocabulary *vocabulary, int code, const char *words)
{
    struct lode_error error = {0};
    struct tokenizer *tokenizer = (struct tokenizer *)&error;
    cr_expect_eq(test_vocabulary_try(&tokenizer, vocabulary, &error), code, "%s: %s", words, error.text);
    cr_expect_eq(error.code, code);
    cr_expect(strstr(error.text, words), "\"%s\" does not say: %s", error.text, words);
    cr_expect(strstr(error.text, "made.gguf"), "%s", error.text);
    cr_expect_null(tokenizer);
}

#define EXPECT_FAILURE(code, words, ...)                                                                     \
    do {                                                                                                     \
        struct test_vocabulary broken = test_vocabulary;                                                     \
        __VA_ARGS__;                                                                                         \
        expect_failure(&broken, code, words);                                                                \
    } while (0)

Test(tokenizer_load, rejects_files_without_a_gemma4_tokenizer)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no tokenizer.ggml.model", broken.model = NULL);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokenizer.ggml.model is no string", broken.model_is_a_number = true);
    EXPECT_FAILURE(LODE_ERR_UNSUPPORTED, "not gemma4", broken.model = "llama");
    EXPECT_FAILURE(LODE_ERR_UNSUPPORTED, "not gemma4", broken.model = "gemma4x");
    EXPECT_FAILURE(LODE_ERR_UNSUPPORTED, "not gemma4", broken.model = "");
}

Test(tokenizer_load, rejects_arrays_that_are_missing_or_of_another_kind)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no tokenizer.ggml.tokens", broken.tokens = TEST_ARRAY_MISSING);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no tokenizer.ggml.token_type", broken.types = TEST_ARRAY_MISSING);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no tokenizer.ggml.merges", broken.merges = TEST_ARRAY_MISSING);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokenizer.ggml.tokens is no array", broken.tokens = TEST_ARRAY_SCALAR);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokenizer.ggml.token_type is no array",
                   broken.types = TEST_ARRAY_SCALAR);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokenizer.ggml.merges is no array", broken.merges = TEST_ARRAY_SCALAR);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokens[0] is no string", broken.tokens = TEST_ARRAY_OTHER_ITEMS);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "token_type[0] is no kind", broken.types = TEST_ARRAY_OTHER_ITEMS);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "merges[0] is no string", broken.merges = TEST_ARRAY_OTHER_ITEMS);
}

Test(tokenizer_load, rejects_arrays_of_the_wrong_length)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "tokenizer.ggml.tokens is empty", broken.tokens = TEST_ARRAY_EMPTY);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "of tokenizer.ggml.token_type", broken.types = TEST_ARRAY_EMPTY);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "of tokenizer.ggml.token_type", broken.types = TEST_ARRAY_SHORT);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "of tokenizer.ggml.token_type", broken.tokens = TEST_ARRAY_SHORT);
}

Test(tokenizer_load, rejects_more_tokens_or_merges_than_its_tables_can_name)
{
    EXPECT_FAILURE(LODE_ERR_UNSUPPORTED, "4194304 tokens", broken.tokens = TEST_ARRAY_HUGE);
    EXPECT_FAILURE(LODE_ERR_UNSUPPORTED, "4194304 merges", broken.merges = TEST_ARRAY_HUGE);
}

Test(tokenizer_load, accepts_a_vocabulary_without_merges)
{
    struct test_vocabulary bare = test_vocabulary;
    bare.merges = TEST_ARRAY_EMPTY;
    struct tokenizer *tokenizer = test_vocabulary_load(&bare);
    struct lode_error error;
    int32_t *ids;
    size_t count;
    cr_assert_eq(tokenizer_encode(tokenizer, "abc", 3, 0, NULL, 0, &ids, &count, &error), 0);
    cr_expect_eq(count, 3);
    free(ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer_load, rejects_vocabularies_that_cannot_write_every_text)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no token <0x0A>", broken.drop = "<0x0A>");
    EXPECT_FAILURE(LODE_ERR_FORMAT, "no token for the space", broken.drop = "\xe2\x96\x81");
}

Test(tokenizer_load, rejects_tokens_that_contradict_each_other)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "same text", broken.extra_token = "ab", broken.extra_type = 1);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "typed as bytes", broken.extra_token = "<0xab>", broken.extra_type = 6);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "is no kind of token", broken.extra_token = "q", broken.extra_type = 7);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "is no kind of token", broken.extra_token = "q", broken.extra_type = -1);
}

static void expect_texts(const struct tokenizer *tokenizer, const char *text, size_t n,
                         const char *const *expected)
{
    struct lode_error error;
    int32_t *ids;
    size_t count;
    cr_assert_eq(tokenizer_encode(tokenizer, text, strlen(text), 0, NULL, 0, &ids, &count, &error), 0);
    cr_assert_eq(count, n, "%s: %zu", text, count);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(ids[i], tokenizer_find(tokenizer, expected[i], strlen(expected[i])), "%s: %zu", text, i);
    free(ids);
}

Test(tokenizer_load, passes_over_merges_that_name_no_token)
{
    static const char *const strangers[] = {"q a", "a q", "c d"};
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        struct test_vocabulary odd = test_vocabulary;
        odd.extra_merge = strangers[i];
        struct tokenizer *tokenizer = test_vocabulary_load(&odd);
        expect_texts(tokenizer, "cdabqa", 5, (const char *const[]){"c", "d", "ab", "<0x71>", "a"});
        tokenizer_free(tokenizer);
    }
    struct test_vocabulary cut_down = test_vocabulary;
    cut_down.drop = "b"; // "a b" and "b c" can never apply, and "a a" is still before "aa aa"
    struct tokenizer *tokenizer = test_vocabulary_load(&cut_down);
    expect_texts(tokenizer, "aaaab", 2, (const char *const[]){"aaaa", "<0x62>"});
    tokenizer_free(tokenizer);
}

Test(tokenizer_load, rejects_merges_that_are_no_text_in_two_parts)
{
    static const char *const shapeless[] = {"", " ", "a", "ab", "a ", " a", "  "};
    for (size_t i = 0; i < sizeof shapeless / sizeof *shapeless; i++)
        EXPECT_FAILURE(LODE_ERR_FORMAT, "merges[7] is not of the form", broken.extra_merge = shapeless[i]);
    EXPECT_FAILURE(LODE_ERR_FORMAT, "none of the 1 tokenizer.ggml.merges", broken.merges = TEST_ARRAY_ALIEN);
}

Test(tokenizer_load, rejects_a_merge_that_is_there_already)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "merges[7] repeats", broken.extra_merge = "b c");
}

Test(tokenizer_load, rejects_merges_by_which_plain_text_becomes_a_special_token)
{
    EXPECT_FAILURE(LODE_ERR_FORMAT, "merges[7] makes a special token", broken.extra_token = "<|turn",
                   broken.extra_type = 1, broken.extra_merge = "<|turn >");
    EXPECT_FAILURE(LODE_ERR_FORMAT, "merges[7] makes a special token", broken.extra_token = "<0x41",
                   broken.extra_type = 1, broken.extra_merge = "<0x41 >");
}

Test(tokenizer_load, keeps_a_special_character_out_of_plain_text)
{
    struct test_vocabulary odd = test_vocabulary;
    odd.extra_token = "Q";
    odd.extra_type = 3;
    struct tokenizer *tokenizer = test_vocabulary_load(&odd);
    int32_t special = tokenizer_find(tokenizer, "Q", 1), *ids;
    size_t count;
    struct lode_error error;
    cr_assert_eq(tokenizer_encode(tokenizer, "Q", 1, 0, NULL, 0, &ids, &count, &error), 0);
    cr_expect_eq(count, 1);
    cr_expect_eq(ids[0], tokenizer_find(tokenizer, "<0x51>", 6));
    free(ids);
    cr_assert_eq(tokenizer_encode(tokenizer, "Q", 1, TOKENIZER_SPECIAL, NULL, 0, &ids, &count, &error), 0);
    cr_expect_eq(ids[0], special);
    free(ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer_load, writes_spaces_as_u2581_though_a_real_space_is_a_token)
{
    struct test_vocabulary odd = test_vocabulary;
    odd.extra_token = " ";
    odd.extra_type = 1;
    struct tokenizer *tokenizer = test_vocabulary_load(&odd);
    struct lode_error error;
    int32_t *ids;
    size_t count;
    cr_assert_eq(tokenizer_encode(tokenizer, " ", 1, 0, NULL, 0, &ids, &count, &error), 0);
    cr_expect_eq(count, 1);
    cr_expect_eq(ids[0], tokenizer_find(tokenizer, "▁", 3));
    free(ids);
    tokenizer_free(tokenizer);
}

Test(tokenizer_load, tolerates_a_token_without_text)
{
    static const int32_t types[] = {1, 3, 4};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct test_vocabulary odd = test_vocabulary;
        odd.extra_token = "";
        odd.extra_type = types[i];
        struct tokenizer *tokenizer = test_vocabulary_load(&odd);
        struct lode_error error;
        int32_t *ids;
        size_t count;
        cr_assert_eq(tokenizer_encode(tokenizer, "ab", 2, TOKENIZER_SPECIAL, NULL, 0, &ids, &count, &error),
                     0);
        cr_expect_eq(count, 1);
        free(ids);
        tokenizer_free(tokenizer);
    }
}
