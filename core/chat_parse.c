// A complete reply, special tokens shown, to a message: what was thought, what is called, what is said.
//
// Models forget markers and repeat them, so none is insisted on: a channel that is not closed is reasoning to
// its end or to a call, stray closing markers vanish, a broken call is repaired if its name can be read and
// is content if not. Nothing of a reply is lost but its markers.

#include "core/chat_internal.h"

#include <stdlib.h>
#include <string.h>

enum marker { MARK_CHANNEL, MARK_CHANNEL_END, MARK_CALL, MARK_CALL_END, MARK_END, MARK_NONE };

static const struct {
    const char *text;
    enum marker marker;
} markers[] = {
    {CHAT_CHANNEL, MARK_CHANNEL},   {CHAT_CHANNEL_END, MARK_CHANNEL_END},
    {CHAT_TOOL_CALL, MARK_CALL},    {CHAT_TOOL_CALL_END, MARK_CALL_END},
    {CHAT_TURN_END, MARK_END},      {CHAT_EOS, MARK_END},
    {CHAT_TOOL_RESPONSE, MARK_END},
};

struct parse {
    const char *text, *end;
    bool in_channel;
    size_t thought_begin; // of the open channel, in `reasoning`
    struct chat_builder content, reasoning;
    json_t *calls;
};

static enum marker marker_at(const char *text, const char *end, size_t *out_len)
{
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        *out_len = strlen(markers[i].text);
        if ((size_t)(end - text) >= *out_len && !memcmp(text, markers[i].text, *out_len))
            return markers[i].marker;
    }
    *out_len = 0;
    return MARK_NONE;
}

static const char *next_marker(const char *text, const char *end)
{
    size_t len;
    while ((text = memchr(text, '<', (size_t)(end - text)))) {
        if (marker_at(text, end, &len) != MARK_NONE)
            return text;
        text++;
    }
    return end;
}

static void begin_thought(struct parse *p)
{
    if (p->reasoning.len)
        chat_put(&p->reasoning, "\n");
    p->thought_begin = p->reasoning.len;
    p->in_channel = true;
}

static void end_thought(struct parse *p)
{
    struct chat_builder *reasoning = &p->reasoning;
    while (p->in_channel && reasoning->len > p->thought_begin &&
           chat_is_space(reasoning->text[reasoning->len - 1]))
        reasoning->len--;
    if (p->in_channel && p->thought_begin && reasoning->len == p->thought_begin)
        reasoning->len--; // the newline before an empty thought
    p->in_channel = false;
}

// "thought\n" after the marker, also if the channel or the reply ends within it.
static void skip_lead(struct parse *p)
{
    const size_t len = (size_t)(next_marker(p->text, p->end) - p->text), lead_len = strlen(CHAT_CHANNEL_LEAD);
    const size_t common = len < lead_len ? len : lead_len;
    if (!memcmp(p->text, CHAT_CHANNEL_LEAD, common))
        p->text += common;
}

static bool append_call(struct parse *p, json_t *call)
{
    if (!p->calls)
        p->calls = json_array();
    return p->calls && !json_array_append_new(p->calls, call);
}

static bool call_may_end_at(const char *text, const char *end)
{
    size_t len;
    while (text < end && chat_is_space(*text))
        text++;
    const enum marker marker = marker_at(text, end, &len);
    return text == end || marker == MARK_CALL_END || marker == MARK_CALL || marker == MARK_END;
}

static bool only_closes(const char *text, const char *end)
{
    while (text < end && (chat_is_space(*text) || *text == '}' || *text == ']'))
        text++;
    return text == end;
}

// First as it should be, where a string may hold the text of a marker; then up to the next marker, mended. A
// good call that runs on into other text is taken too.
static json_t *read_call(const struct parse *p, const char **out_end)
{
    size_t used = 0, mended_used = 0;
    json_t *call = chat_read_call(p->text, (size_t)(p->end - p->text), false, &used);
    *out_end = p->text + used;
    if (call && call_may_end_at(*out_end, p->end))
        return call;
    const char *end = next_marker(p->text, p->end);
    json_t *mended = chat_read_call(p->text, (size_t)(end - p->text), true, &mended_used);
    if (mended && only_closes(p->text + mended_used, end)) {
        json_decref(call);
        *out_end = end;
        return mended;
    }
    json_decref(mended);
    if (!call)
        *out_end = end;
    return call;
}

static void take_call(struct parse *p)
{
    const char *begin = p->text, *end;
    size_t len;
    end_thought(p);
    p->text += strlen(CHAT_TOOL_CALL);
    json_t *call = read_call(p, &end);
    if (!call) { // shown as it is, marker and all
        if (marker_at(end, p->end, &len) == MARK_CALL_END)
            end += len;
        chat_put_bytes(&p->content, begin, (size_t)(end - begin));
    } else if (!append_call(p, call)) {
        p->content.failed = true;
    }
    p->text = end;
    while (call && p->text < p->end && chat_is_space(*p->text) && call_may_end_at(p->text, p->end))
        p->text++;
}

static void parse_reply(struct parse *p)
{
    for (;;) {
        const char *stop = next_marker(p->text, p->end);
        size_t len;
        chat_put_bytes(p->in_channel ? &p->reasoning : &p->content, p->text, (size_t)(stop - p->text));
        p->text = stop;
        switch (marker_at(stop, p->end, &len)) {
        case MARK_CHANNEL:
            end_thought(p);
            p->text += len;
            begin_thought(p);
            skip_lead(p);
            break;
        case MARK_CHANNEL_END:
            end_thought(p);
            p->text += len;
            break;
        case MARK_CALL:
            take_call(p);
            break;
        case MARK_CALL_END:
            p->text += len;
            break;
        default: // the end of the text, or an end token
            end_thought(p);
            return;
        }
    }
}

static bool has_text(const struct chat_builder *builder)
{
    for (size_t i = 0; i < builder->len; i++)
        if (!chat_is_space(builder->text[i]))
            return true;
    return false;
}

// Text of nothing but white space between other parts is no part.
static json_t *build_message(struct parse *p)
{
    const bool only_content = !p->calls && !p->reasoning.len;
    json_t *message = json_pack("{s:s}", "role", "assistant");
    bool ok = message && !p->content.failed && !p->reasoning.failed;
    if (ok && p->content.len && (only_content || has_text(&p->content)))
        ok = !json_object_set_new(message, "content", chat_json_text(p->content.text, p->content.len));
    if (ok && p->reasoning.len)
        ok = !json_object_set_new(message, "reasoning", chat_json_text(p->reasoning.text, p->reasoning.len));
    if (ok && p->calls)
        ok = !json_object_set(message, "tool_calls", p->calls);
    if (ok)
        return message;
    json_decref(message);
    return NULL;
}

int chat_parse(char **out_json, const char *reply, size_t len, bool starts_thinking, struct lode_error *error)
{
    struct parse p = {.text = reply, .end = reply + len, .in_channel = starts_thinking};
    parse_reply(&p);
    json_t *message = build_message(&p);
    *out_json = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    json_decref(p.calls);
    chat_builder_free(&p.content);
    chat_builder_free(&p.reasoning);
    return *out_json ? 0 : lode_fail(error, LODE_ERR_MEMORY, "no memory to parse a reply of %zu bytes", len);
}
