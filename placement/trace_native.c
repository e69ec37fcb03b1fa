// The reader of lode's own traces: blocks, and the records in them.
#include "base/half.h"
#include "placement/trace_reader.h"

#include <inttypes.h>
#include <stdlib.h>
#include <zstd.h>

struct native {
    ZSTD_DCtx *zstd;
    uint8_t *frame, *records; // [ZSTD_compressBound(TRACE_MAX_BLOCK_BYTES)], [TRACE_MAX_BLOCK_BYTES]
    uint64_t block_offset;
    uint32_t serial;
    size_t at, n, record_at; // of records
    int64_t last_ns;
    bool end_told;
};

static void native_where(const struct trace_reader *reader, char *out, size_t capacity)
{
    const struct native *s = reader->state;
    snprintf(out, capacity, "block %u at byte %" PRIu64 ", byte %zu of its records",
             s->serial ? s->serial - 1 : 0, s->block_offset, s->record_at);
}

static int refuse_block(const struct trace_reader *reader, const char *text, struct lode_error *error)
{
    const struct native *s = reader->state;
    return lode_fail(error, LODE_ERR_FORMAT, "the trace %s is damaged: the block at byte %" PRIu64 " %s",
                     reader->name, s->block_offset, text);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int read_header(struct trace_reader *reader, struct lode_error *error)
{
    uint8_t *frame = malloc(TRACE_MAX_HEADER_BYTES);
    if (!frame)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for its header");
    size_t n, more = 0;
    int code = trace_bytes_take(reader->bytes, frame, 8, &n, error);
    const uint32_t length = n == 8 ? trace_get_u32(frame + 4) : 0;
    if (!code && length > TRACE_MAX_HEADER_BYTES - 8)
        code =
            lode_fail(error, LODE_ERR_FORMAT, "its header (byte 4) claims %u bytes; at most %d are possible",
                      length, TRACE_MAX_HEADER_BYTES - 8);
    if (!code)
        code = trace_bytes_take(reader->bytes, frame + 8, length, &more, error);
    if (!code && (n < 8 || more < length))
        code = lode_fail(error, LODE_ERR_FORMAT, "it ends within its header, at byte %zu", n + more);
    if (!code)
        code = trace_header_decode(&reader->header, frame, 8 + (size_t)length, error);
    free(frame);
    return code;
}

static int native_open(struct trace_reader *reader, struct lode_error *error)
{
    struct native *s = calloc(1, sizeof *s);
    reader->state = s;
    if (s) {
        s->zstd = ZSTD_createDCtx();
        s->frame = malloc(ZSTD_compressBound(TRACE_MAX_BLOCK_BYTES));
        s->records = malloc(TRACE_MAX_BLOCK_BYTES);
    }
    if (!s || !s->zstd || !s->frame || !s->records)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read a trace");
    return read_header(reader, error);
}

static void native_close(struct trace_reader *reader)
{
    struct native *s = reader->state;
    if (!s)
        return;
    ZSTD_freeDCtx(s->zstd);
    free(s->frame);
    free(s->records);
    free(s);
}

// ---- blocks
// --------------------------------------------------------------------------------------------------

static int unpack(struct trace_reader *reader, const uint8_t *head, uint32_t frame_bytes,
                  struct lode_error *error)
{
    struct native *s = reader->state;
    if (trace_get_u64(head + 20) != trace_sum(TRACE_SUM_START, s->frame, frame_bytes))
        return refuse_block(reader, "has a wrong checksum", error);
    const size_t n = ZSTD_decompressDCtx(s->zstd, s->records, TRACE_MAX_BLOCK_BYTES, s->frame, frame_bytes);
    if (ZSTD_isError(n) || n != trace_get_u32(head + 12))
        return refuse_block(reader, "cannot be unpacked", error);
    s->n = n;
    s->at = 0;
    return 0;
}

// The next block; *out_any is false at the end of the file.
static int read_block(struct trace_reader *reader, bool *out_any, struct lode_error *error)
{
    struct native *s = reader->state;
    uint8_t head[TRACE_BLOCK_HEADER_BYTES];
    size_t n;
    *out_any = false;
    s->block_offset = trace_bytes_offset(reader->bytes);
    int code = trace_bytes_take(reader->bytes, head, sizeof head, &n, error);
    if (code)
        return code;
    if (n == 0) {
        if (!s->end_told)
            trace_set_cut(reader, "without its last block", s->block_offset);
        return 0;
    }
    if (s->end_told)
        return refuse_block(reader, "lies behind the end", error);
    if (n < sizeof head) {
        trace_set_cut(reader, "in the middle of a block", s->block_offset + n);
        return 0;
    }
    const uint32_t frame_bytes = trace_get_u32(head + 16);
    if (trace_get_u32(head) != TRACE_BLOCK_FRAME || trace_get_u32(head + 4) != TRACE_BLOCK_HEADER_BYTES - 8 ||
        trace_get_u32(head + 28) != (uint32_t)trace_sum(TRACE_SUM_START, head, 28))
        return refuse_block(reader, "has a wrong checksum in its header", error);
    if (trace_get_u32(head + 8) != s->serial)
        return refuse_block(reader, "is not the one that should follow: blocks are missing", error);
    if (frame_bytes > ZSTD_compressBound(TRACE_MAX_BLOCK_BYTES) ||
        trace_get_u32(head + 12) > TRACE_MAX_BLOCK_BYTES)
        return refuse_block(reader, "claims to be larger than a block can be", error);
    code = trace_bytes_take(reader->bytes, s->frame, frame_bytes, &n, error);
    if (code)
        return code;
    if (n < frame_bytes) {
        trace_set_cut(reader, "in the middle of a block", s->block_offset + sizeof head + n);
        return 0;
    }
    s->serial++;
    *out_any = true;
    return unpack(reader, head, frame_bytes, error);
}

// ---- records
// -------------------------------------------------------------------------------------------------

// Takes a number; false beyond the block's end or 64 bits.
static bool get_varint(struct native *s, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && s->at < s->n; shift += 7) {
        const uint8_t byte = s->records[s->at++];
        if (shift == 63 && byte > 1)
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool get_u32(struct native *s, uint32_t *out)
{
    uint64_t value;
    if (!get_varint(s, &value) || value > UINT32_MAX)
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool get_byte(struct native *s, uint8_t *out)
{
    if (s->at == s->n)
        return false;
    *out = s->records[s->at++];
    return true;
}

static bool get_time(struct trace_reader *reader, int64_t *out)
{
    struct native *s = reader->state;
    *out = 0;
    if (!(reader->header.known & TRACE_HAS_TIMES))
        return true;
    uint64_t step;
    if (!get_varint(s, &step))
        return false;
    s->last_ns =
        (int64_t)((uint64_t)s->last_ns + (uint64_t)trace_unzigzag(step)); // may wrap if it is damaged
    *out = s->last_ns;
    return true;
}

static bool get_experts(struct trace_reader *reader, struct trace_event *out)
{
    struct native *s = reader->state;
    if (!get_u32(s, &out->layer) || !get_u32(s, &out->token) || !get_u32(s, &out->n))
        return false;
    if (out->layer >= reader->header.n_layers || out->n > TRACE_MAX_RANKS)
        return false;
    const size_t width = reader->header.layers[out->layer].n_experts > 256 ? 2 : 1;
    if (s->n - s->at < out->n * width)
        return false;
    for (uint32_t i = 0; i < out->n; i++, s->at += width)
        out->experts[i] = width == 2 ? trace_get_u16(s->records + s->at) : s->records[s->at];
    return true;
}

static bool get_choice(struct trace_reader *reader, struct trace_event *out)
{
    struct native *s = reader->state;
    if (!get_experts(reader, out) || out->n > TRACE_MAX_USED)
        return false;
    if (reader->header.known & TRACE_HAS_WEIGHTS) {
        if (s->n - s->at < (size_t)out->n * 2)
            return false;
        for (uint32_t i = 0; i < out->n; i++, s->at += 2)
            out->weights[i] = lode_f16_to_f32(trace_get_u16(s->records + s->at));
    } else {
        memset(out->weights, 0, out->n * sizeof *out->weights);
    }
    out->resident = 0;
    if (reader->header.known & TRACE_HAS_RESIDENCY) {
        uint8_t bits;
        for (uint32_t i = 0; i < out->n; i += 8) {
            if (!get_byte(s, &bits))
                return false;
            out->resident |= (uint64_t)bits << i;
        }
        if (out->n < 64 && out->resident >> out->n)
            return false;
    }
    return get_time(reader, &out->t_ns);
}

static bool get_conversation(struct native *s, struct trace_event *out)
{
    uint8_t part;
    uint32_t n;
    if (!get_byte(s, &part) || !get_u32(s, &n) || n >= TRACE_DOMAIN_SIZE || s->n - s->at < n ||
        memchr(s->records + s->at, 0, n))
        return false;
    out->part = part;
    memcpy(out->domain, s->records + s->at, n);
    out->domain[n] = '\0';
    s->at += n;
    return true;
}

static bool get_record(struct trace_reader *reader, struct trace_event *out, uint8_t tag)
{
    struct native *s = reader->state;
    uint8_t small;
    switch ((enum trace_tag)tag) {
    case TAG_PASS:
        out->kind = TRACE_EVENT_PASS;
        if (!get_byte(s, &small))
            return false;
        out->phase = small;
        return get_u32(s, &out->first_position) && get_u32(s, &out->n_tokens) && get_time(reader, &out->t_ns);
    case TAG_CHOICE:
        out->kind = TRACE_EVENT_CHOICE;
        return get_choice(reader, out);
    case TAG_GUESS:
        out->kind = TRACE_EVENT_GUESS;
        return get_experts(reader, out);
    case TAG_READ:
        out->kind = TRACE_EVENT_READ;
        if (!get_byte(s, &small))
            return false;
        out->read = small;
        return get_u32(s, &out->layer) && get_u32(s, &out->expert) && get_varint(s, &out->bytes) &&
               get_time(reader, &out->t_ns) && get_time(reader, &out->t_done_ns);
    case TAG_PASS_END:
        out->kind = TRACE_EVENT_PASS_END;
        return get_varint(s, &out->pass_ns) && get_varint(s, &out->stall_ns);
    case TAG_CONVERSATION:
        out->kind = TRACE_EVENT_CONVERSATION;
        return get_conversation(s, out);
    case TAG_WAITED:
        out->kind = TRACE_EVENT_WAITED;
        return get_varint(s, &out->waited_ns);
    case TAG_END:
        break;
    }
    return false;
}

static int read_end(struct trace_reader *reader, struct lode_error *error)
{
    struct native *s = reader->state;
    struct trace_totals told;
    if (!get_varint(s, &told.n_passes) || !get_varint(s, &told.n_tokens) || !get_varint(s, &told.n_choices) ||
        !get_varint(s, &told.waited_ns) || s->at < s->n)
        return trace_refuse(reader, error, "the record of the end is broken, or not the last");
    const struct trace_totals *seen = &reader->totals;
    if (told.n_passes != seen->n_passes || told.n_tokens != seen->n_tokens ||
        told.n_choices != seen->n_choices || told.waited_ns != seen->waited_ns)
        return trace_refuse(reader, error,
                            "the end tells of %" PRIu64 " passes, %" PRIu64 " tokens and %" PRIu64
                            " choices, but %" PRIu64 ", %" PRIu64 " and %" PRIu64 " were there",
                            told.n_passes, told.n_tokens, told.n_choices, seen->n_passes, seen->n_tokens,
                            seen->n_choices);
    s->end_told = true;
    return 0;
}

static int native_next(struct trace_reader *reader, struct trace_event *out, struct lode_error *error)
{
    struct native *s = reader->state;
    while (s->at == s->n) {
        bool any;
        const int code = read_block(reader, &any, error);
        if (code)
            return code;
        if (!any) {
            out->kind = TRACE_EVENT_END;
            return 0;
        }
    }
    s->record_at = s->at;
    const uint8_t tag = s->records[s->at++];
    if (tag == TAG_END) {
        const int code = read_end(reader, error);
        return code ? code : native_next(reader, out, error);
    }
    if (!get_record(reader, out, tag))
        return trace_refuse(reader, error, "a record of kind %u is none, or does not fit", tag);
    return 0;
}

const struct trace_reader_ops trace_native_ops = {
    .name = "lode",
    .open = native_open,
    .next = native_next,
    .close = native_close,
    .where = native_where,
};
