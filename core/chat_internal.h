// What the files of the chat format share: the markers, the text under construction, the value syntax.
#ifndef LODE_CHAT_INTERNAL_H
#define LODE_CHAT_INTERNAL_H

#include "core/chat.h"

#include <jansson.h>

#define CHAT_CHANNEL "<|channel>"
#define CHAT_CHANNEL_END "<channel|>"
#define CHAT_CHANNEL_LEAD "thought\n"
#define CHAT_TOOL_CALL "<|tool_call>"
#define CHAT_TOOL_CALL_END "<tool_call|>"
#define CHAT_TOOL_RESPONSE "<|tool_response>"
#define CHAT_TOOL_RESPONSE_END "<tool_response|>"
#define CHAT_TURN_END "<turn|>"
#define CHAT_EOS "<eos>"
#define CHAT_QUOTE "<|\"|>"

// A text that grows, with the spans that came from messages. A failed allocation is remembered in `failed`
// and makes the functions below do nothing, so that it is checked once, at the end.
struct chat_builder {
    char *text; // zero-terminated once something was put
    size_t len, capacity;
    struct tokenizer_span *plain;
    size_t n_plain, plain_capacity;
    bool failed;
};

void chat_builder_free(struct chat_builder *builder);
void chat_put_bytes(struct chat_builder *builder, const char *bytes, size_t len);
void chat_put(struct chat_builder *builder, const char *markup);
void chat_put_plain(struct chat_builder *builder, const char *bytes, size_t len); // bytes from a message
void chat_put_text(struct chat_builder *builder, const json_t *string); // the same; nothing if no string
void chat_put_quoted(struct chat_builder *builder, const json_t *string);

// A value in the format's syntax: <|"|>text<|"|>, [a,b], {k:v}; `quote_keys` puts keys in quotes too.
void chat_put_value(struct chat_builder *builder, const json_t *value, bool quote_keys);

struct chat_member {
    const char *key;
    json_t *value;
    size_t position;
};

// The members of an object, sorted as the templates do: ASCII letters alike, else by bytes, equal ones in the
// order they stand. *out_count is 0 and NULL is returned for what is no object or has no members. The caller
// frees.
struct chat_member *chat_sorted_members(struct chat_builder *builder, const json_t *object,
                                        size_t *out_count);

// White space as the templates' `trim` sees it: Unicode's, and the ASCII separators 0x1c to 0x1f.
void chat_trim(const char **text, size_t *len);

// A JSON string of any bytes: what is not UTF-8 becomes U+FFFD. NULL without memory.
json_t *chat_json_text(const char *bytes, size_t len);

// Reads "call:NAME{…}" at the start of `text` into {"name","arguments"}; NULL if there is none. *out_used is
// how far it goes. Strict: the syntax as the model learnt it, everything closed; the text may go on behind
// the call. Lenient: the text ends where the call must end; what is unclosed is closed there, other
// languages' quotes are quotes, unquoted text is a string.
json_t *chat_read_call(const char *text, size_t len, bool lenient, size_t *out_used);

// The function of a call or of a tool: clients send {"function":{…}}, chat_parse makes the bare form.
json_t *chat_function_of(const json_t *entry);

// <|tool>declaration:NAME{…}<tool|> of {"name","description","parameters","response"}.
void chat_put_declaration(struct chat_builder *builder, const json_t *function);

static inline bool chat_is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

#endif
