#include "placement/trace_bytes.h"

#include "placement/trace_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <zstd.h>

enum { PACKED_BYTES = 64 << 10, BUFFER_BYTES = 128 << 10 };

// A stream may ask for a window of this power of two, as the zstd program allows without being asked.
enum { WINDOW_LOG = 27 };

struct trace_bytes {
    FILE *stream;
    const char *name;
    ZSTD_DStream *zstd; // NULL: not compressed
    ZSTD_inBuffer packed;
    uint64_t packed_bytes; // read from the stream so far
    uint64_t offset;
    size_t at, n; // of buffer
    bool ended, within_frame, cut;
    uint8_t input[PACKED_BYTES];
    uint8_t buffer[BUFFER_BYTES];
};

static int read_stream(struct trace_bytes *b, uint8_t *to, size_t n, size_t *out_n, struct lode_error *error)
{
    *out_n = fread(to, 1, n, b->stream);
    b->packed_bytes += *out_n;
    if (*out_n < n && ferror(b->stream))
        return lode_fail(error, LODE_ERR_IO, "cannot read %s: %s", b->name, strerror(errno));
    return 0;
}

static int unpack(struct trace_bytes *b, struct lode_error *error)
{
    ZSTD_outBuffer out = {b->buffer, BUFFER_BYTES, b->n};
    while (out.pos == b->n) {
        if (b->packed.pos == b->packed.size) {
            size_t n;
            const int code = read_stream(b, b->input, PACKED_BYTES, &n, error);
            if (code)
                return code;
            b->packed = (ZSTD_inBuffer){b->input, n, 0};
            if (n == 0) {
                b->ended = true;
                b->cut = b->within_frame;
                return 0;
            }
        }
        const size_t rc = ZSTD_decompressStream(b->zstd, &out, &b->packed);
        if (ZSTD_isError(rc))
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s is damaged at byte %" PRIu64 " or a little before: %s", b->name,
                             b->packed_bytes - (b->packed.size - b->packed.pos), ZSTD_getErrorName(rc));
        b->within_frame = rc != 0;
    }
    b->n = out.pos;
    return 0;
}

// Until there are n bytes at `at`, or the end.
static int fill(struct trace_bytes *b, size_t n, struct lode_error *error)
{
    if (b->n - b->at < n && b->at > 0) {
        memmove(b->buffer, b->buffer + b->at, b->n - b->at);
        b->n -= b->at;
        b->at = 0;
    }
    while (b->n - b->at < n && !b->ended) {
        size_t got = 0;
        int code;
        if (b->zstd)
            code = unpack(b, error);
        else {
            code = read_stream(b, b->buffer + b->n, BUFFER_BYTES - b->n, &got, error);
            b->n += got;
            b->ended = got == 0;
        }
        if (code)
            return code;
    }
    return 0;
}

static int open_zstd(struct trace_bytes *b, struct lode_error *error)
{
    memcpy(b->input, b->buffer, b->n);
    b->packed = (ZSTD_inBuffer){b->input, b->n, 0};
    b->n = 0;
    b->ended = false;
    b->zstd = ZSTD_createDStream();
    if (!b->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(b->zstd, ZSTD_d_windowLogMax, WINDOW_LOG)))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to unpack %s", b->name);
    return 0;
}

int trace_bytes_open(struct trace_bytes **out, FILE *stream, const char *name, struct lode_error *error)
{
    *out = NULL;
    struct trace_bytes *b = malloc(sizeof *b);
    if (!b) {
        fclose(stream);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read %s", name);
    }
    memset(b, 0, offsetof(struct trace_bytes, input));
    b->stream = stream;
    b->name = name;
    int code = read_stream(b, b->buffer, 4, &b->n, error);
    if (!code && b->n == 4 && trace_get_u32(b->buffer) == TRACE_ZSTD_FRAME)
        code = open_zstd(b, error);
    if (code) {
        trace_bytes_close(b);
        return code;
    }
    *out = b;
    return 0;
}

void trace_bytes_close(struct trace_bytes *b)
{
    if (!b)
        return;
    ZSTD_freeDStream(b->zstd);
    fclose(b->stream);
    free(b);
}

int trace_bytes_peek(struct trace_bytes *b, size_t n, const uint8_t **out, size_t *out_n,
                     struct lode_error *error)
{
    const int code = fill(b, n, error);
    *out = b->buffer + b->at;
    *out_n = b->n - b->at < n ? b->n - b->at : n;
    return code;
}

int trace_bytes_take(struct trace_bytes *b, void *to, size_t n, size_t *out_n, struct lode_error *error)
{
    *out_n = 0;
    while (*out_n < n) {
        const int code = fill(b, 1, error);
        if (code)
            return code;
        size_t part = b->n - b->at;
        if (part == 0)
            return 0;
        if (part > n - *out_n)
            part = n - *out_n;
        memcpy((uint8_t *)to + *out_n, b->buffer + b->at, part);
        b->at += part;
        b->offset += part;
        *out_n += part;
    }
    return 0;
}

uint64_t trace_bytes_offset(const struct trace_bytes *b)
{
    return b->offset;
}

bool trace_bytes_cut(const struct trace_bytes *b)
{
    return b->cut;
}
