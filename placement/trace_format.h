// The file format of traces, for the files that read and write it; docs/trace-format.md explains it.
#ifndef LODE_TRACE_FORMAT_H
#define LODE_TRACE_FORMAT_H

#include "placement/trace.h"

#include <string.h>

// Everything but the blocks' content stands in skippable frames of zstd, so that `zstd -d` gives the records.
#define TRACE_HEADER_FRAME 0x184D2A5Eu
#define TRACE_BLOCK_FRAME 0x184D2A5Du
#define TRACE_ZSTD_FRAME 0xFD2FB528u
#define TRACE_VERSION 1u

enum {
    TRACE_MAGIC_BYTES = 8,
    TRACE_BLOCK_HEADER_BYTES = 32,   // with the 8 bytes of the skippable frame
    TRACE_MAX_BLOCK_BYTES = 1 << 20, // of records
    TRACE_MAX_HEADER_BYTES = 16384,
};
extern const char trace_magic[TRACE_MAGIC_BYTES];

enum trace_tag {
    TAG_PASS = 1,
    TAG_CHOICE,
    TAG_GUESS,
    TAG_READ,
    TAG_PASS_END,
    TAG_CONVERSATION,
    TAG_WAITED,
    TAG_END,
};

// What has been seen or written; the end of a trace repeats it.
struct trace_totals {
    uint64_t n_passes, n_tokens, n_choices, waited_ns; // of passes that ended
};

// ---- numbers, little-endian

static inline void trace_put_u16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static inline void trace_put_u32(uint8_t *out, uint32_t value)
{
    trace_put_u16(out, (uint16_t)value);
    trace_put_u16(out + 2, (uint16_t)(value >> 16));
}

static inline void trace_put_u64(uint8_t *out, uint64_t value)
{
    trace_put_u32(out, (uint32_t)value);
    trace_put_u32(out + 4, (uint32_t)(value >> 32));
}

static inline uint16_t trace_get_u16(const uint8_t *in)
{
    return (uint16_t)(in[0] | in[1] << 8);
}

static inline uint32_t trace_get_u32(const uint8_t *in)
{
    return trace_get_u16(in) | (uint32_t)trace_get_u16(in + 2) << 16;
}

static inline uint64_t trace_get_u64(const uint8_t *in)
{
    return trace_get_u32(in) | (uint64_t)trace_get_u32(in + 4) << 32;
}

// FNV-1a of 64 bits.
#define TRACE_SUM_START UINT64_C(14695981039346656037)
static inline uint64_t trace_sum(uint64_t sum, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(1099511628211);
    return sum;
}

static inline uint64_t trace_zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static inline int64_t trace_unzigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

// ---- the header, as a whole frame

// Returns its length; `out` has TRACE_MAX_HEADER_BYTES.
size_t trace_header_encode(uint8_t *out, const struct trace_header *header);

// Of the n bytes of a frame; the error is without the file's name.
int trace_header_decode(struct trace_header *out, const uint8_t *frame, size_t n, struct lode_error *error);

// ---- records

// A record as the steering thread leaves it. Behind it lie n experts (uint16_t, filled up to a multiple of
// four bytes) and, of a choice, n weights (float); of a conversation, n bytes of its domain.
struct trace_raw {
    uint32_t bytes;     // of all, a multiple of 8
    uint8_t tag, small; // small: the phase, the kind of the read, or the part
    uint16_t n;
    uint32_t layer, token; // PASS: first_position, n_tokens; READ: layer, expert
    uint64_t t_ns;
    uint64_t a, b; // CHOICE: resident; READ: t_done, bytes; PASS_END: pass, stall; WAITED: waited
};

struct trace_encoder {
    const struct trace_header *header;
    uint64_t last_ns; // the time told last
    bool has_time;
};

// Encodes the records of a block; what comes out is never longer than what goes in.
size_t trace_encode(struct trace_encoder *encoder, uint8_t *out, const uint8_t *raw, size_t raw_bytes);
size_t trace_encode_end(uint8_t *out, const struct trace_totals *totals); // at most 64 bytes

#endif
