// The binary trace of the tiny demo models: u32 length, a JSON header, then for each token a u16 id and for
// each layer the experts (u8, best first) and their weights (u8, of 255). Windows of tokens start anew. It
// has no phases, times, reads or sizes.
#include "placement/trace_reader.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

enum { MAX_JSON_BYTES = 16384, MAX_RECORD_BYTES = 2 + TRACE_MAX_LAYERS * 2 * TRACE_MAX_USED };

enum step { STEP_PASS, STEP_CHOICES, STEP_END };

struct tiny {
    uint64_t n_tokens, token, record_offset;
    uint32_t window, top_k, layer;
    enum step step;
    size_t record_bytes;
    uint8_t record[MAX_RECORD_BYTES];
};

static void tiny_where(const struct trace_reader *reader, char *out, size_t capacity)
{
    const struct tiny *s = reader->state;
    snprintf(out, capacity, "token %" PRIu64 " at byte %" PRIu64, s->token, s->record_offset);
}

static bool get_count(uint32_t *out, const json_t *object, const char *key, uint32_t most)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > most)
        return false;
    *out = (uint32_t)json_integer_value(value);
    return true;
}

static int read_object(struct trace_reader *reader, const json_t *object, struct lode_error *error)
{
    struct tiny *s = reader->state;
    struct trace_header *h = &reader->header;
    const char *magic = json_string_value(json_object_get(object, "magic"));
    if (!magic || strcmp(magic, "tiny-moe-trace") != 0)
        return lode_fail(error, LODE_ERR_FORMAT, "its header has another magic than \"tiny-moe-trace\"");
    uint32_t n_tokens, n_experts;
    if (!get_count(&n_tokens, object, "tokens", UINT32_MAX) ||
        !get_count(&h->n_layers, object, "layers", TRACE_MAX_LAYERS) ||
        !get_count(&s->top_k, object, "topk", TRACE_MAX_USED) ||
        !get_count(&n_experts, object, "experts", 256) || // a byte each
        !get_count(&s->window, object, "window", TRACE_MAX_PASS_TOKENS) || s->top_k > n_experts)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "its header lacks tokens, layers, topk, experts or window, or has impossible ones");
    s->n_tokens = n_tokens;
    h->known = TRACE_HAS_WEIGHTS;
    for (uint32_t l = 0; l < h->n_layers; l++)
        h->layers[l] = (struct trace_layer){n_experts, s->top_k, 0};
    strcpy(h->model, "tiny-moe");
    s->record_bytes = 2 + (size_t)h->n_layers * 2 * s->top_k;
    return 0;
}

static int tiny_open(struct trace_reader *reader, struct lode_error *error)
{
    struct tiny *s = calloc(1, sizeof *s);
    char *text = malloc(MAX_JSON_BYTES);
    reader->state = s;
    uint8_t length[4];
    size_t n = 0, bytes = 0;
    int code = s && text ? 0 : lode_fail(error, LODE_ERR_MEMORY, "no memory for its header");
    if (!code)
        code = trace_bytes_take(reader->bytes, length, sizeof length, &n, error);
    if (!code && (bytes = trace_get_u32(length)) > MAX_JSON_BYTES)
        code = lode_fail(error, LODE_ERR_FORMAT, "its header (byte 0) claims %zu bytes; at most %d are read",
                         bytes, MAX_JSON_BYTES);
    if (!code)
        code = trace_bytes_take(reader->bytes, text, bytes, &n, error);
    if (!code && n < bytes)
        code = lode_fail(error, LODE_ERR_FORMAT, "it ends within its header, at byte %zu", 4 + n);
    if (!code) {
        json_error_t cause;
        json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &cause);
        code = json_is_object(object)
                   ? read_object(reader, object, error)
                   : lode_fail(error, LODE_ERR_FORMAT, "its header (byte 4) is no JSON object");
        json_decref(object);
    }
    free(text);
    return code;
}

static void tiny_close(struct trace_reader *reader)
{
    free(reader->state);
}

static int read_token(struct trace_reader *reader, struct trace_event *out, struct lode_error *error)
{
    struct tiny *s = reader->state;
    size_t n;
    s->record_offset = trace_bytes_offset(reader->bytes);
    const int code = trace_bytes_take(reader->bytes, s->record, s->record_bytes, &n, error);
    if (code)
        return code;
    if (s->token == s->n_tokens && n > 0)
        return trace_refuse(reader, error, "there is more than the %" PRIu64 " tokens of its header",
                            s->n_tokens);
    if (n < s->record_bytes) {
        if (s->token < s->n_tokens)
            trace_set_cut(reader, "before its last token", s->record_offset + n);
        out->kind = TRACE_EVENT_END;
        return 0;
    }
    s->step = STEP_CHOICES;
    s->layer = 0;
    out->kind = TRACE_EVENT_PASS;
    out->phase = TRACE_PHASE_UNKNOWN;
    out->first_position = (uint32_t)(s->token % s->window);
    out->n_tokens = 1;
    out->t_ns = 0;
    return 0;
}

static int tiny_next(struct trace_reader *reader, struct trace_event *out, struct lode_error *error)
{
    struct tiny *s = reader->state;
    if (s->step == STEP_PASS)
        return read_token(reader, out, error);
    if (s->step == STEP_END) {
        s->step = STEP_PASS;
        s->token++;
        out->kind = TRACE_EVENT_PASS_END;
        out->pass_ns = out->stall_ns = 0;
        return 0;
    }
    const uint8_t *at = s->record + 2 + (size_t)s->layer * 2 * s->top_k;
    out->kind = TRACE_EVENT_CHOICE;
    out->layer = s->layer;
    out->token = 0;
    out->n = s->top_k;
    out->resident = 0;
    out->t_ns = 0;
    for (uint32_t i = 0; i < s->top_k; i++) {
        out->experts[i] = at[i];
        out->weights[i] = (float)at[s->top_k + i] / 255.0f;
    }
    if (++s->layer == reader->header.n_layers)
        s->step = STEP_END;
    return 0;
}

const struct trace_reader_ops trace_tiny_ops = {
    .name = "tiny",
    .open = tiny_open,
    .next = tiny_next,
    .close = tiny_close,
    .where = tiny_where,
};
