// Vocabularies for tests: a small one made here, which can be broken to order, and the full one of Gemma 4.
#ifndef LODE_TEST_VOCABULARY_H
#define LODE_TEST_VOCABULARY_H

#include "core/tokenizer.h"

enum test_array {
    TEST_ARRAY_RIGHT = 0,
    TEST_ARRAY_MISSING,
    TEST_ARRAY_SCALAR,      // a number instead of an array
    TEST_ARRAY_OTHER_ITEMS, // an array of floats of the right length
    TEST_ARRAY_EMPTY,
    TEST_ARRAY_SHORT, // the last item is not there
    TEST_ARRAY_HUGE,  // 2^22 empty strings
    TEST_ARRAY_ALIEN, // the string "q q", which has nothing to do with the tokens
};

// About 300 tokens: the special tokens of Gemma 4 that matter, with <eos> typed as a normal token and </s> as
// a control token; a byte token for every byte; a few characters; and merges of a b c x y z, the space and
// '>'.
struct test_vocabulary {
    const char *model; // NULL: the key is missing
    bool model_is_a_number;
    enum test_array tokens, types, merges;
    const char *drop;        // text of a token that is left out
    const char *extra_token; // one more token at the end
    int32_t extra_type;
    const char *extra_merge; // one more merge at the end
};

extern const struct test_vocabulary test_vocabulary; // the sound one

uint32_t test_vocabulary_size(const struct test_vocabulary *vocabulary);

// Writes the vocabulary as a GGUF file and loads its tokenizer; the file is gone when it returns.
int test_vocabulary_try(struct tokenizer **out, const struct test_vocabulary *vocabulary,
                        struct lode_error *error);
struct tokenizer *test_vocabulary_load(const struct test_vocabulary *vocabulary); // it must load

// The vocabulary of the small model tiny/tiny-moe-q4_0.gguf; skips the test when it is not there. *out_gguf
// is the file, for the caller to close.
struct tokenizer *test_tiny_vocabulary_load(struct gguf **out_gguf);

// The full vocabulary: the file $LODE_TEST_VOCABULARY, or vocab/gemma4-vocab.gguf or .gguf.zst of the test
// data. Skips the test, saying why, when none is there or zstd is not.
struct tokenizer *test_full_vocabulary_load(void);

#endif
