// Reading traces of any format: telling them apart, and the checks that all of them pass through.
#include "placement/trace_reader.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

int trace_refuse(const struct trace_reader *reader, struct lode_error *error, const char *format, ...)
{
    char text[384], where[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    reader->ops->where(reader, where, sizeof where);
    return lode_fail(error, LODE_ERR_FORMAT, "the trace %s is damaged: %s: %s", reader->name, where, text);
}

void trace_set_cut(struct trace_reader *reader, const char *what, uint64_t offset)
{
    snprintf(reader->cut, sizeof reader->cut,
             "the trace %s ends %s (byte %" PRIu64 "): %" PRIu64 " tokens are read", reader->name, what,
             offset, reader->totals.n_tokens);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static const struct trace_reader_ops *tell_format(const uint8_t *bytes, size_t n)
{
    static const char comment[] = "# ", columns[] = "turn,", other_columns[] = "phase,";
    if (n >= 4 && trace_get_u32(bytes) == TRACE_HEADER_FRAME)
        return &trace_native_ops;
    if ((n >= sizeof comment - 1 && memcmp(bytes, comment, sizeof comment - 1) == 0) ||
        (n >= sizeof columns - 1 && memcmp(bytes, columns, sizeof columns - 1) == 0) ||
        (n >= sizeof other_columns - 1 && memcmp(bytes, other_columns, sizeof other_columns - 1) == 0))
        return &trace_csv_ops;
    if (n >= 5 && bytes[4] == '{')
        return &trace_tiny_ops;
    return NULL;
}

static int open_format(struct trace_reader *reader, struct lode_error *error)
{
    const uint8_t *bytes;
    size_t n;
    int code = trace_bytes_peek(reader->bytes, 8, &bytes, &n, error);
    if (code)
        return code;
    if (n == 0)
        return lode_fail(error, LODE_ERR_FORMAT, "the trace %s is empty", reader->name);
    reader->ops = tell_format(bytes, n);
    if (!reader->ops)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s is no trace: it begins neither as one of lode, nor as a CSV of route_trace, nor "
                         "as a trace of the tiny models",
                         reader->name);
    struct lode_error cause = {0};
    code = reader->ops->open(reader, &cause);
    if (!code)
        code = trace_header_check(&reader->header, &cause);
    return code ? lode_fail(error, code, "the trace %s: %s", reader->name, cause.text) : 0;
}

int trace_reader_open_stream(struct trace_reader **out, FILE *stream, const char *name,
                             struct lode_error *error)
{
    *out = NULL;
    struct trace_reader *reader = calloc(1, sizeof *reader);
    if (!reader) {
        fclose(stream);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read the trace %s", name);
    }
    snprintf(reader->name, sizeof reader->name, "%s", name);
    int code = trace_bytes_open(&reader->bytes, stream, reader->name, error);
    if (!code)
        code = open_format(reader, error);
    if (code) {
        trace_reader_close(reader);
        return code;
    }
    *out = reader;
    return 0;
}

int trace_reader_open(struct trace_reader **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    FILE *stream = fopen(path, "rbe");
    if (!stream)
        return lode_fail(error, LODE_ERR_IO, "cannot read the trace %s: %s", path, strerror(errno));
    return trace_reader_open_stream(out, stream, path, error);
}

void trace_reader_close(struct trace_reader *reader)
{
    if (!reader)
        return;
    if (reader->ops)
        reader->ops->close(reader);
    trace_bytes_close(reader->bytes);
    free(reader);
}

const struct trace_header *trace_reader_header(const struct trace_reader *reader)
{
    return &reader->header;
}

const char *trace_reader_format(const struct trace_reader *reader)
{
    return reader->ops->name;
}

const char *trace_reader_cut(const struct trace_reader *reader)
{
    return reader->cut[0] ? reader->cut : NULL;
}

// ---- checks
// --------------------------------------------------------------------------------------------------

static int check_pass(struct trace_reader *r, struct trace_event *event, struct lode_error *error)
{
    if (event->n_tokens == 0 || event->n_tokens > TRACE_MAX_PASS_TOKENS ||
        event->first_position > UINT32_MAX - event->n_tokens)
        return trace_refuse(r, error, "a pass of %u tokens at position %u", event->n_tokens,
                            event->first_position);
    if ((uint32_t)event->phase >= N_TRACE_PHASES)
        return trace_refuse(r, error, "phase %d is none", (int)event->phase);
    r->in_pass = true;
    r->pass_tokens = event->n_tokens;
    const bool begins = !r->conversation_told && (event->first_position == 0 || !r->any_pass);
    r->conversation_told = false;
    r->any_pass = true;
    if (!begins)
        return 0;
    r->pending = *event;
    r->has_pending = true;
    *event = (struct trace_event){.kind = TRACE_EVENT_CONVERSATION, .conversation = r->n_conversations++};
    return 0;
}

static int check_conversation(struct trace_reader *r, struct trace_event *event, struct lode_error *error)
{
    r->in_pass = false; // a pass that was given up
    if ((uint32_t)event->part >= N_TRACE_PARTS)
        return trace_refuse(r, error, "part %d of a set is none", (int)event->part);
    for (const char *c = event->domain; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return trace_refuse(r, error, "a domain's name has control characters");
    if (r->conversation_told)
        return trace_refuse(r, error, "two conversations begin at once");
    event->conversation = r->n_conversations++;
    r->conversation_told = true;
    return 0;
}

static int check_layer(const struct trace_reader *r, const struct trace_event *event,
                       struct lode_error *error)
{
    if (event->layer >= r->header.n_layers || r->header.layers[event->layer].n_experts == 0)
        return trace_refuse(r, error, "layer %u has no experts or is beyond the %u of the header",
                            event->layer, r->header.n_layers);
    return 0;
}

static int check_experts(const struct trace_reader *r, const struct trace_event *event, uint32_t most,
                         struct lode_error *error)
{
    int code = check_layer(r, event, error);
    if (code)
        return code;
    const uint32_t n_experts = r->header.layers[event->layer].n_experts;
    if (!r->in_pass || event->token >= r->pass_tokens)
        return trace_refuse(r, error, "token %u is not one of the %u of the pass", event->token,
                            r->in_pass ? r->pass_tokens : 0);
    if (event->n == 0 || event->n > most || event->n > n_experts)
        return trace_refuse(r, error, "layer %u: %u experts; at most %u are possible", event->layer, event->n,
                            most < n_experts ? most : n_experts);
    uint64_t seen[TRACE_MAX_EXPERTS / 64];
    memset(seen, 0, (n_experts + 63) / 64 * sizeof *seen);
    for (uint32_t i = 0; i < event->n; i++) {
        const uint32_t e = event->experts[i];
        if (e >= n_experts)
            return trace_refuse(r, error, "layer %u: expert %u of %u", event->layer, e, n_experts);
        if (seen[e / 64] >> e % 64 & 1)
            return trace_refuse(r, error, "layer %u: expert %u twice for one token", event->layer, e);
        seen[e / 64] |= UINT64_C(1) << e % 64;
    }
    return 0;
}

static int check_choice(struct trace_reader *r, const struct trace_event *event, struct lode_error *error)
{
    const uint32_t layer = event->layer < r->header.n_layers ? event->layer : 0;
    const int code = check_experts(r, event, r->header.layers[layer].n_used, error);
    if (code)
        return code;
    if (r->header.known & TRACE_HAS_WEIGHTS)
        for (uint32_t i = 0; i < event->n; i++)
            if (!isfinite(event->weights[i]))
                return trace_refuse(r, error, "layer %u: the weight of rank %u is not a number", event->layer,
                                    i);
    r->totals.n_choices++;
    return 0;
}

static int check_read(const struct trace_reader *r, const struct trace_event *event, struct lode_error *error)
{
    const int code = check_layer(r, event, error);
    if (code)
        return code;
    if (event->expert >= r->header.layers[event->layer].n_experts)
        return trace_refuse(r, error, "layer %u: a read of expert %u of %u", event->layer, event->expert,
                            r->header.layers[event->layer].n_experts);
    if ((uint32_t)event->read >= N_TRACE_READS)
        return trace_refuse(r, error, "a read of kind %d, which is none", (int)event->read);
    return 0;
}

static int check(struct trace_reader *r, struct trace_event *event, struct lode_error *error)
{
    switch (event->kind) {
    case TRACE_EVENT_PASS:
        return check_pass(r, event, error);
    case TRACE_EVENT_CHOICE:
        return check_choice(r, event, error);
    case TRACE_EVENT_GUESS:
        return check_experts(r, event, TRACE_MAX_RANKS, error);
    case TRACE_EVENT_READ:
        return check_read(r, event, error);
    case TRACE_EVENT_PASS_END:
        if (!r->in_pass)
            return trace_refuse(r, error, "a pass ends that has not begun");
        r->in_pass = false;
        r->totals.n_passes++;
        r->totals.n_tokens += r->pass_tokens;
        return 0;
    case TRACE_EVENT_CONVERSATION:
        return check_conversation(r, event, error);
    case TRACE_EVENT_WAITED:
        r->totals.waited_ns += event->waited_ns;
        return 0;
    case TRACE_EVENT_END:
        r->ended = true;
        return 0;
    }
    return 0;
}

int trace_reader_next(struct trace_reader *reader, struct trace_event *out, struct lode_error *error)
{
    if (reader->ended) {
        out->kind = TRACE_EVENT_END;
        return 0;
    }
    if (reader->has_pending) {
        *out = reader->pending;
        reader->has_pending = false;
        return 0;
    }
    const int code = reader->ops->next(reader, out, error);
    return code ? code : check(reader, out, error);
}
