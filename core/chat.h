// Gemma 4's chat format: a conversation to the text the model was trained on, and the model's reply back.
//
// A conversation is the JSON of the usual chat APIs. Rendering follows the canonical template (turns, system
// role, thinking channel, tool declarations, calls and responses); parsing undoes it and tolerates what
// models really emit.
#ifndef LODE_CHAT_H
#define LODE_CHAT_H

#include "base/lode_error.h"
#include "core/lode.h"
#include "core/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

struct chat_text {
    char *text; // malloc'ed, zero-terminated
    size_t len;
    struct tokenizer_span *plain; // what came from messages: no special token may be recognised there
    size_t n_plain;
    bool opens_thinking; // the prompt ends inside an open thinking channel: the reply starts in it
};

// Renders {"messages":[…], "tools":[…]}. Errors name the message by index.
int chat_render(struct chat_text *out, const char *conversation_json, const struct lode_chat_options *options,
                struct lode_error *error);
void chat_text_free(struct chat_text *text);

// Parses a complete reply (special tokens shown) into
// {"role":"assistant","content":"…","reasoning":"…","tool_calls":[{"name":…,"arguments":{…}}]}; absent parts
// are left out. *out_json is malloc'ed. Never fails on odd replies: what cannot be understood is content. The
// reply ends at its first end token; invalid UTF-8 becomes U+FFFD.
int chat_parse(char **out_json, const char *reply, size_t len, bool starts_thinking,
               struct lode_error *error);

// Tells the parts of a live reply apart, token by token. Plain data, no allocation.
#define CHAT_STREAM_HELD_BYTES 8    // "thought\n", which opens a channel and is not shown
#define CHAT_STREAM_PIECE_BYTES 512 // longer pieces are no tokens of this family; see chat_stream_push

struct chat_stream {
    enum lode_part part;
    bool in_lead;    // the channel has just been opened, "thought\n" may come
    unsigned n_held; // bytes of it that came so far
    char joined[CHAT_STREAM_HELD_BYTES + CHAT_STREAM_PIECE_BYTES];
};

// `starts_thinking`: the prompt has opened the channel, and its "thought\n" stands in the prompt.
void chat_stream_begin(struct chat_stream *stream, bool starts_thinking);

// Takes the piece of one token, special tokens shown. *out_text (inside the piece or the stream, valid until
// the next call) holds the *out_len bytes to show, at most len + CHAT_STREAM_HELD_BYTES; *out_part says what
// they are. Markers and other special tokens are not shown, the string quote <|"|> is. Calls of tools are
// shown raw. What is held back when a reply ends is part of a marker and never shown. If a piece beyond
// CHAT_STREAM_PIECE_BYTES proves held bytes to be text, these (at most 7) are lost.
void chat_stream_push(struct chat_stream *stream, const char *piece, size_t len, bool is_special,
                      enum lode_part *out_part, const char **out_text, size_t *out_len);

#endif
