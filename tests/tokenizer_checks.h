// Steps that the suites of the tokenizer share.
#ifndef LODE_TOKENIZER_CHECKS_H
#define LODE_TOKENIZER_CHECKS_H

#include "core/tokenizer.h"

// From 0 to limit - 1; the same sequence in every run of a test.
uint32_t test_random_below(uint32_t limit);

// Bytes of all sorts: raw, ASCII, pieces of characters, special tokens; never a whole U+2581, which becomes a
// space. Returns the length, below `capacity`.
size_t test_random_text(char *out, size_t capacity);

// Encodes, which must succeed; the caller frees the ids.
int32_t *test_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     size_t *out_count);

// The text must come back when its ids are decoded by a stream.
void test_round_trip(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags);
void test_random_round_trips(const struct tokenizer *tokenizer, unsigned rounds);

#endif
