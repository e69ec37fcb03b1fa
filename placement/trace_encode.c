// From the records of the steering thread to the bytes of the format.
#include "base/half.h"
#include "placement/trace_format.h"

#include <math.h>

static uint8_t *put_varint(uint8_t *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *at++ = (uint8_t)(value | 0x80);
    *at++ = (uint8_t)value;
    return at;
}

// Times as steps from the time before; the first is where the trace begins.
static uint8_t *put_time(struct trace_encoder *encoder, uint8_t *at, uint64_t t_ns)
{
    if (!(encoder->header->known & TRACE_HAS_TIMES))
        return at;
    if (!encoder->has_time)
        encoder->last_ns = t_ns;
    encoder->has_time = true;
    at = put_varint(at, trace_zigzag((int64_t)(t_ns - encoder->last_ns)));
    encoder->last_ns = t_ns;
    return at;
}

static uint8_t *put_experts(const struct trace_encoder *encoder, uint8_t *at, const struct trace_raw *raw)
{
    const uint16_t *experts = (const uint16_t *)(raw + 1);
    const bool wide = encoder->header->layers[raw->layer].n_experts > 256;
    at = put_varint(at, raw->layer);
    at = put_varint(at, raw->token);
    at = put_varint(at, raw->n);
    for (uint32_t i = 0; i < raw->n; i++) {
        *at++ = (uint8_t)experts[i];
        if (wide)
            *at++ = (uint8_t)(experts[i] >> 8);
    }
    return at;
}

static uint16_t finite_half(float weight)
{
    if (!isfinite(weight))
        return 0;
    return lode_f32_to_f16(fminf(fmaxf(weight, -65504.0f), 65504.0f));
}

static uint8_t *put_choice(struct trace_encoder *encoder, uint8_t *at, const struct trace_raw *raw)
{
    at = put_experts(encoder, at, raw);
    if (encoder->header->known & TRACE_HAS_WEIGHTS) {
        const size_t experts_bytes = ((size_t)raw->n * 2 + 3) & ~(size_t)3;
        const float *weights = (const float *)((const uint8_t *)(raw + 1) + experts_bytes);
        for (uint32_t i = 0; i < raw->n; i++, at += 2)
            trace_put_u16(at, finite_half(weights[i]));
    }
    if (encoder->header->known & TRACE_HAS_RESIDENCY)
        for (uint32_t i = 0; i < raw->n; i += 8)
            *at++ = (uint8_t)(raw->a >> i);
    return put_time(encoder, at, raw->t_ns);
}

static uint8_t *put_record(struct trace_encoder *encoder, uint8_t *at, const struct trace_raw *raw)
{
    *at++ = raw->tag;
    switch ((enum trace_tag)raw->tag) {
    case TAG_PASS:
        *at++ = raw->small;
        at = put_varint(at, raw->layer);
        at = put_varint(at, raw->token);
        return put_time(encoder, at, raw->t_ns);
    case TAG_CHOICE:
        return put_choice(encoder, at, raw);
    case TAG_GUESS:
        return put_experts(encoder, at, raw);
    case TAG_READ:
        *at++ = raw->small;
        at = put_varint(at, raw->layer);
        at = put_varint(at, raw->token);
        at = put_varint(at, raw->b);
        at = put_time(encoder, at, raw->t_ns);
        return put_time(encoder, at, raw->a);
    case TAG_PASS_END:
        at = put_varint(at, raw->a);
        return put_varint(at, raw->b);
    case TAG_CONVERSATION:
        *at++ = raw->small;
        at = put_varint(at, raw->n);
        memcpy(at, raw + 1, raw->n);
        return at + raw->n;
    case TAG_WAITED:
        return put_varint(at, raw->a);
    case TAG_END:
        break;
    }
    return at;
}

size_t trace_encode(struct trace_encoder *encoder, uint8_t *out, const uint8_t *raw, size_t raw_bytes)
{
    uint8_t *at = out;
    for (size_t i = 0; i < raw_bytes;) {
        const struct trace_raw *record = (const struct trace_raw *)(raw + i);
        at = put_record(encoder, at, record);
        i += record->bytes;
    }
    return (size_t)(at - out);
}

size_t trace_encode_end(uint8_t *out, const struct trace_totals *totals)
{
    uint8_t *at = out;
    *at++ = TAG_END;
    at = put_varint(at, totals->n_passes);
    at = put_varint(at, totals->n_tokens);
    at = put_varint(at, totals->n_choices);
    at = put_varint(at, totals->waited_ns);
    return (size_t)(at - out);
}
