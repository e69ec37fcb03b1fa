// The gemma4 tokenizer: byte-fallback BPE with ranked merges over Unicode characters, special tokens, and
// back.
//
// encode: special tokens are cut out first (leftmost, longest), spaces become U+2581, each piece is merged by
// the lowest rank, what is no token becomes byte tokens. Invalid UTF-8 is kept, byte by byte. decode: ids to
// bytes; decode(encode(x)) == x for any bytes, except that U+2581 comes back as a space.
#ifndef LODE_TOKENIZER_H
#define LODE_TOKENIZER_H

#include "base/lode_error.h"
#include "core/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer; // immutable once loaded; may be shared by threads

// Loads the tokenizer section of a file; the file may hold nothing else. The gguf may be closed afterwards.
int tokenizer_load(struct tokenizer **out, const struct gguf *gguf, struct lode_error *error);
void tokenizer_free(struct tokenizer *tokenizer);

size_t tokenizer_memory_bytes(const struct tokenizer *tokenizer);
uint32_t tokenizer_vocab_size(const struct tokenizer *tokenizer);
int32_t tokenizer_bos(const struct tokenizer *tokenizer);             // -1 if the vocabulary has none
bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t id); // <eos>, <turn|>, <|tool_response>
bool tokenizer_is_control(const struct tokenizer *tokenizer,
                          int32_t id); // invisible unless asked for; ends included
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id); // recognised in text as a whole

// The id of a token by its text ("<turn|>"), -1 if there is none.
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t len);

// A range of bytes in which no special token is recognised: what a user typed must not open a turn.
struct tokenizer_span {
    size_t begin, end;
};

enum tokenizer_flags {
    TOKENIZER_SPECIAL = 1, // recognise special tokens in the text (outside `plain` spans)
    TOKENIZER_BOS = 2,     // put <bos> in front unless the ids already start with it
};

// Encodes len bytes (any bytes, zeros included). *out_ids is allocated with malloc; the caller frees it.
// `plain` lists n_plain spans, ascending and disjoint; may be NULL.
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     const struct tokenizer_span *plain, size_t n_plain, int32_t **out_ids, size_t *out_count,
                     struct lode_error *error);

// Bytes of one token, valid as long as the tokenizer. Control tokens have none unless `show_special`.
// An id outside the vocabulary has none.
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, bool show_special,
                            size_t *out_len);

// Streaming decoder: holds back an incomplete UTF-8 character (at most 3 bytes) until it is complete or
// proves invalid, so that what is emitted never ends in half a character. Invalid bytes pass through
// unchanged.
struct tokenizer_stream {
    char pending[4];
    unsigned n_pending;
};

// Appends the piece of `id` and writes what is complete to `out`. Returns the bytes written. `out_capacity`
// must be at least tokenizer_stream_capacity().
size_t tokenizer_stream_push(const struct tokenizer *tokenizer, struct tokenizer_stream *stream, int32_t id,
                             bool show_special, char *out, size_t out_capacity);
// The same for bytes that need not be a piece; `out_capacity` is at least len + 4.
size_t tokenizer_stream_bytes(struct tokenizer_stream *stream, const char *bytes, size_t len, char *out,
                              size_t out_capacity);
size_t tokenizer_stream_flush(struct tokenizer_stream *stream, char *out, size_t out_capacity);
size_t tokenizer_stream_capacity(const struct tokenizer *tokenizer); // longest piece + 4

#endif
