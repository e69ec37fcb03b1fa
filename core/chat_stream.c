// A reply while it is being generated: which part each token belongs to, and what of it is shown.
//
// A marker is one token of the vocabulary, so it is recognised by a piece that equals it; only "thought\n",
// which opens a channel and is ordinary text, may come in several pieces and is held back until it is
// decided.
#include "core/chat_internal.h"

#include <string.h>

static bool is_marker(const char *piece, size_t len, const char *marker)
{
    return len == strlen(marker) && !memcmp(piece, marker, len);
}

static void enter(struct chat_stream *stream, enum lode_part part, bool in_lead)
{
    stream->part = part;
    stream->in_lead = in_lead;
    stream->n_held = 0;
}

static bool change_part(struct chat_stream *stream, const char *piece, size_t len)
{
    if (is_marker(piece, len, CHAT_CHANNEL))
        enter(stream, LODE_PART_REASONING, true);
    else if (is_marker(piece, len, CHAT_TOOL_CALL))
        enter(stream, LODE_PART_TOOL_CALL, false);
    else if (is_marker(piece, len, CHAT_CHANNEL_END))
        enter(stream, LODE_PART_CONTENT, false);
    else if (is_marker(piece, len, CHAT_TOOL_CALL_END)) // a stray one does not end a thought
        enter(stream, stream->part == LODE_PART_REASONING ? LODE_PART_REASONING : LODE_PART_CONTENT, false);
    else
        return false;
    return true;
}

// Bytes of the piece that go on with the lead; all of them, unless the lead is complete or proves to be text.
static size_t match_lead(const struct chat_stream *stream, const char *piece, size_t len)
{
    size_t n = 0;
    while (n < len && stream->n_held + n < strlen(CHAT_CHANNEL_LEAD) &&
           piece[n] == CHAT_CHANNEL_LEAD[stream->n_held + n])
        n++;
    return n;
}

void chat_stream_begin(struct chat_stream *stream, bool starts_thinking)
{
    enter(stream, starts_thinking ? LODE_PART_REASONING : LODE_PART_CONTENT, false);
}

void chat_stream_push(struct chat_stream *stream, const char *piece, size_t len, bool is_special,
                      enum lode_part *out_part, const char **out_text, size_t *out_len)
{
    const bool is_shown =
        !change_part(stream, piece, len) && (!is_special || is_marker(piece, len, CHAT_QUOTE));
    *out_part = stream->part;
    *out_text = piece;
    *out_len = is_shown ? len : 0;
    if (!is_shown || !stream->in_lead)
        return;
    const size_t matched = match_lead(stream, piece, len), held = stream->n_held;
    if (held + matched == strlen(CHAT_CHANNEL_LEAD)) {
        stream->in_lead = false;
        *out_text += matched;
        *out_len -= matched;
    } else if (matched == len) {
        stream->n_held += (unsigned)len;
        *out_len = 0;
    } else {
        stream->in_lead = false;
        if (!held || len > CHAT_STREAM_PIECE_BYTES)
            return;
        memcpy(stream->joined, CHAT_CHANNEL_LEAD, held);
        memcpy(stream->joined + held, piece, len);
        *out_text = stream->joined;
        *out_len = held + len;
    }
}
