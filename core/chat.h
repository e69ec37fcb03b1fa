// Gemma 4's chat format: a conversation to the text the model was trained on, and the model's reply back.
//
// A conversation is the JSON of the usual chat APIs. Rendering follows the canonical template (turns, system role,
// thinking channel, tool declarations, calls and responses); parsing undoes it and tolerates what models really emit.
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
    struct tokenizer_span *plain; // the parts that came from messages: no special token may be recognised there
    size_t n_plain;
    bool opens_thinking; // the prompt ends inside an open thinking channel: the reply starts in it
};

// Renders {"messages":[…], "tools":[…]}. Errors name the message by index.
int chat_render(struct chat_text *out, const char *conversation_json, const struct lode_chat_options *options,
                struct lode_error *error);
void chat_text_free(struct chat_text *text);

// Parses a complete reply (special tokens shown) into
// {"role":"assistant","content":"…","reasoning":"…","tool_calls":[{"name":…,"arguments":{…}}]}; absent parts are
// left out. *out_json is malloc'ed. Never fails on odd replies: what cannot be understood is content.
int chat_parse(char **out_json, const char *reply, size_t len, bool starts_thinking, struct lode_error *error);

#endif
