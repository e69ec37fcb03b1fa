// The header of a trace: what it may say, how it lies in the file, and whether two are of one model.
#include "placement/trace_format.h"

#include <inttypes.h>
#include <stdlib.h>

const char trace_magic[TRACE_MAGIC_BYTES] = "lodetrc";

enum { FRAME_BYTES = 8, FIXED_BYTES = 24, LAYER_BYTES = 16, SUM_BYTES = 8 };
enum { BODY_AT = FRAME_BYTES + TRACE_MAGIC_BYTES + 4 };

// Control characters of names would go to terminals.
static bool is_plain(const char *text, size_t capacity)
{
    const size_t n = strnlen(text, capacity);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return false;
    return n < capacity;
}

static int check_layer(const struct trace_layer *layer, uint32_t index, struct lode_error *error)
{
    if (layer->n_experts > TRACE_MAX_EXPERTS || layer->n_used > TRACE_MAX_USED ||
        layer->n_used > layer->n_experts || (layer->n_experts && !layer->n_used))
        return lode_fail(
            error, LODE_ERR_FORMAT,
            "the header says of layer %u that a token chooses %u of %u experts; at most %u of %u "
            "are possible",
            index, layer->n_used, layer->n_experts, TRACE_MAX_USED, TRACE_MAX_EXPERTS);
    return 0;
}

int trace_header_check(const struct trace_header *header, struct lode_error *error)
{
    if (header->n_layers == 0 || header->n_layers > TRACE_MAX_LAYERS)
        return lode_fail(error, LODE_ERR_FORMAT, "the header says %u layers; 1 to %u are possible",
                         header->n_layers, TRACE_MAX_LAYERS);
    if (header->known & ~TRACE_HAS_ALL)
        return lode_fail(error, LODE_ERR_FORMAT, "the header's mask of what is known, %#x, has unknown bits",
                         header->known);
    bool any = false;
    for (uint32_t l = 0; l < header->n_layers; l++) {
        const int code = check_layer(&header->layers[l], l, error);
        if (code)
            return code;
        any |= header->layers[l].n_experts > 0;
    }
    if (!any)
        return lode_fail(error, LODE_ERR_FORMAT, "the header says that no layer has experts");
    if (!is_plain(header->model, sizeof header->model) ||
        !is_plain(header->machine, sizeof header->machine) ||
        !is_plain(header->lode_version, sizeof header->lode_version) ||
        !is_plain(header->options, sizeof header->options))
        return lode_fail(error, LODE_ERR_FORMAT, "the header's text has control characters or no end");
    return 0;
}

// ---- the frame
// ------------------------------------------------------------------------------------------------

static uint8_t *put_text(uint8_t *at, const char *text)
{
    const size_t n = strlen(text);
    trace_put_u16(at, (uint16_t)n);
    memcpy(at + 2, text, n);
    return at + 2 + n;
}

size_t trace_header_encode(uint8_t *out, const struct trace_header *header)
{
    memcpy(out + FRAME_BYTES, trace_magic, TRACE_MAGIC_BYTES);
    trace_put_u32(out + FRAME_BYTES + TRACE_MAGIC_BYTES, TRACE_VERSION);
    uint8_t *at = out + BODY_AT;
    trace_put_u64(at, header->fingerprint);
    trace_put_u64(at + 8, header->plan_hash);
    trace_put_u32(at + 16, header->known);
    trace_put_u32(at + 20, header->n_layers);
    at += FIXED_BYTES;
    for (uint32_t l = 0; l < header->n_layers; l++, at += LAYER_BYTES) {
        trace_put_u32(at, header->layers[l].n_experts);
        trace_put_u32(at + 4, header->layers[l].n_used);
        trace_put_u64(at + 8, header->layers[l].expert_bytes);
    }
    at = put_text(at, header->model);
    at = put_text(at, header->machine);
    at = put_text(at, header->lode_version);
    at = put_text(at, header->options);
    trace_put_u32(out, TRACE_HEADER_FRAME);
    trace_put_u32(out + 4, (uint32_t)(at + SUM_BYTES - out - FRAME_BYTES));
    trace_put_u64(at, trace_sum(TRACE_SUM_START, out, (size_t)(at - out)));
    return (size_t)(at + SUM_BYTES - out);
}

static bool get_text(char *out, size_t capacity, const uint8_t **at, const uint8_t *end)
{
    if (end - *at < 2)
        return false;
    const size_t n = trace_get_u16(*at);
    *at += 2;
    if ((size_t)(end - *at) < n || n >= capacity || memchr(*at, 0, n))
        return false;
    memcpy(out, *at, n);
    out[n] = '\0';
    *at += n;
    return true;
}

static bool decode_body(struct trace_header *out, const uint8_t *at, const uint8_t *end)
{
    if (end - at < FIXED_BYTES)
        return false;
    out->fingerprint = trace_get_u64(at);
    out->plan_hash = trace_get_u64(at + 8);
    out->known = trace_get_u32(at + 16);
    out->n_layers = trace_get_u32(at + 20);
    at += FIXED_BYTES;
    if (out->n_layers > TRACE_MAX_LAYERS || (size_t)(end - at) < (size_t)out->n_layers * LAYER_BYTES)
        return false;
    for (uint32_t l = 0; l < out->n_layers; l++, at += LAYER_BYTES)
        out->layers[l] =
            (struct trace_layer){trace_get_u32(at), trace_get_u32(at + 4), trace_get_u64(at + 8)};
    return get_text(out->model, sizeof out->model, &at, end) &&
           get_text(out->machine, sizeof out->machine, &at, end) &&
           get_text(out->lode_version, sizeof out->lode_version, &at, end) &&
           get_text(out->options, sizeof out->options, &at, end) && at == end;
}

int trace_header_decode(struct trace_header *out, const uint8_t *frame, size_t n, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    if (n < BODY_AT + SUM_BYTES || memcmp(frame + FRAME_BYTES, trace_magic, TRACE_MAGIC_BYTES) != 0)
        return lode_fail(error, LODE_ERR_FORMAT, "does not begin as a trace does");
    const uint32_t version = trace_get_u32(frame + FRAME_BYTES + TRACE_MAGIC_BYTES);
    if (version != TRACE_VERSION)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "is a trace of version %u; this program reads version %u", version, TRACE_VERSION);
    if (trace_get_u64(frame + n - SUM_BYTES) != trace_sum(TRACE_SUM_START, frame, n - SUM_BYTES))
        return lode_fail(error, LODE_ERR_FORMAT,
                         "its header (bytes 0 to %zu) is damaged: the checksum is wrong", n - 1);
    if (!decode_body(out, frame + BODY_AT, frame + n - SUM_BYTES))
        return lode_fail(error, LODE_ERR_FORMAT, "its header (bytes 0 to %zu) has counts that do not fit it",
                         n - 1);
    return trace_header_check(out, error);
}

// ---- one model
// ------------------------------------------------------------------------------------------------

int trace_same_model(const struct trace_header *a, const char *name_a, const struct trace_header *b,
                     const char *name_b, struct lode_error *error)
{
    const bool both_known = a->fingerprint && b->fingerprint;
    if (both_known && a->fingerprint != b->fingerprint)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s and %s are of different models: their fingerprints are %016" PRIx64
                         " and %016" PRIx64,
                         name_a, name_b, a->fingerprint, b->fingerprint);
    if (a->n_layers != b->n_layers)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s and %s are of different models: %u layers and %u",
                         name_a, name_b, a->n_layers, b->n_layers);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct trace_layer *x = &a->layers[l], *y = &b->layers[l];
        if (x->n_experts != y->n_experts || x->n_used != y->n_used)
            return lode_fail(
                error, LODE_ERR_ARGUMENT,
                "%s and %s are of different models: layer %u chooses %u of %u experts in one, %u "
                "of %u in the other",
                name_a, name_b, l, x->n_used, x->n_experts, y->n_used, y->n_experts);
        if (x->expert_bytes && y->expert_bytes && x->expert_bytes != y->expert_bytes)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "%s and %s are of different models: an expert of layer %u has %" PRIu64
                             " bytes in one, %" PRIu64 " in the other",
                             name_a, name_b, l, x->expert_bytes, y->expert_bytes);
    }
    if (!a->fingerprint && !b->fingerprint && strcmp(a->model, b->model) != 0)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%s and %s are of different models: '%s' and '%s', and neither has a fingerprint",
                         name_a, name_b, a->model, b->model);
    return 0;
}
