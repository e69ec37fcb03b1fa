// The bytes of a header, fetched as the parser asks for them, and the errors that say where it stood.
//
// The file is read with pread and never mapped: a mapped file that another process truncates kills the
// reader. What a file announces is held against its size before anything is read or allocated, so an absurd
// length costs nothing.
#include "core/gguf_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// One read. Small files are done in one; 16 MB of vocabulary take 16.
#define CHUNK_BYTES ((size_t)1 << 20)

#define MAX_PATH_IN_ERROR 400

const char *gguf_short_path(const char *path)
{
    size_t len = strlen(path);
    return len > MAX_PATH_IN_ERROR ? path + len - MAX_PATH_IN_ERROR : path;
}

void gguf_quote(char out[GGUF_QUOTED_BYTES], const char *data, size_t len)
{
    const size_t longest_item = 4, tail = sizeof "...\"";
    size_t used = 0;
    out[used++] = '"';
    for (size_t i = 0; i < len; i++) {
        if (used + longest_item + tail > GGUF_QUOTED_BYTES) {
            snprintf(out + used, GGUF_QUOTED_BYTES - used, "...\"");
            return;
        }
        unsigned char c = (unsigned char)data[i];
        if (c == '"' || c == '\\')
            used += (size_t)snprintf(out + used, GGUF_QUOTED_BYTES - used, "\\%c", c);
        else if (c >= 0x20 && c < 0x7f)
            out[used++] = (char)c;
        else
            used += (size_t)snprintf(out + used, GGUF_QUOTED_BYTES - used, "\\x%02x", c);
    }
    snprintf(out + used, GGUF_QUOTED_BYTES - used, "\"");
}

static void describe_noun(char *out, size_t capacity, const struct gguf_reader *reader)
{
    *out = '\0';
    if (!reader->noun)
        return;
    if (!reader->noun_named) {
        snprintf(out, capacity, "%s %llu of %llu, ", reader->noun, (unsigned long long)reader->number + 1,
                 (unsigned long long)reader->total);
        return;
    }
    char quoted[GGUF_QUOTED_BYTES];
    gguf_quote(quoted, reader->bytes + reader->noun_name_at, reader->noun_name_len);
    snprintf(out, capacity, "%s %s, ", reader->noun, quoted);
}

int gguf_reject(struct gguf_reader *reader, int code, uint64_t at, const char *format, ...)
{
    char noun[GGUF_QUOTED_BYTES + 64], text[400];
    describe_noun(noun, sizeof noun, reader);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return lode_fail(reader->error, code, "%s: %sat byte %llu: %s", reader->name, noun,
                     (unsigned long long)at, text);
}

static uint64_t limit_bytes(const struct gguf_reader *reader)
{
    return reader->given_bytes < GGUF_MAX_HEADER_BYTES ? reader->given_bytes : GGUF_MAX_HEADER_BYTES;
}

static int reject_end(struct gguf_reader *reader, uint64_t count, const char *what)
{
    unsigned long long n = count;
    if (reader->given_bytes > GGUF_MAX_HEADER_BYTES)
        return gguf_reject(reader, LODE_ERR_UNSUPPORTED, reader->at,
                           "%llu %s should follow, but a header may not be longer than %u MiB", n, what,
                           GGUF_MAX_HEADER_BYTES >> 20);
    if (reader->given_bytes < reader->file_size_bytes)
        return gguf_reject(reader, LODE_ERR_ARGUMENT, reader->at,
                           "%llu %s should follow, but only the first %llu bytes of the file were given", n,
                           what, (unsigned long long)reader->given_bytes);
    return gguf_reject(
        reader, LODE_ERR_FORMAT, reader->at,
        "%llu %s should follow, but the file ends at byte %llu; it is damaged or was not downloaded "
        "completely",
        n, what, (unsigned long long)reader->file_size_bytes);
}

int gguf_reader_expect(struct gguf_reader *reader, uint64_t count, uint64_t item_bytes, const char *what)
{
    if (count > (limit_bytes(reader) - reader->at) / item_bytes)
        return reject_end(reader, count, what);
    return 0;
}

static int read_file(struct gguf_reader *reader, size_t end)
{
    while (reader->filled_bytes < end) {
        ssize_t got = pread(reader->fd, reader->bytes + reader->filled_bytes, end - reader->filled_bytes,
                            (off_t)reader->filled_bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gguf_reject(reader, LODE_ERR_IO, reader->filled_bytes, "cannot read: %s", strerror(errno));
        if (got == 0)
            return gguf_reject(reader, LODE_ERR_IO, reader->filled_bytes,
                               "the file became shorter while it was read");
        reader->filled_bytes += (size_t)got;
    }
    return 0;
}

static int fetch(struct gguf_reader *reader, size_t needed_end)
{
    size_t limit = (size_t)limit_bytes(reader);
    size_t end = limit - reader->filled_bytes > CHUNK_BYTES ? reader->filled_bytes + CHUNK_BYTES : limit;
    if (end < needed_end)
        end = needed_end;
    char *bytes = gguf_grow(reader->bytes, &reader->capacity_bytes, end, 1);
    if (!bytes)
        return gguf_reject(reader, LODE_ERR_MEMORY, reader->at, "no memory for a header of %zu bytes", end);
    reader->bytes = bytes;
    if (reader->fd >= 0)
        return read_file(reader, end);
    memcpy(bytes + reader->filled_bytes, reader->memory + reader->filled_bytes, end - reader->filled_bytes);
    reader->filled_bytes = end;
    return 0;
}

int gguf_reader_need(struct gguf_reader *reader, uint64_t n_bytes)
{
    if (n_bytes <= reader->filled_bytes - reader->at)
        return 0;
    if (n_bytes > limit_bytes(reader) - reader->at)
        return reject_end(reader, n_bytes, "bytes");
    return fetch(reader, reader->at + (size_t)n_bytes);
}

int gguf_reader_u32(struct gguf_reader *reader, uint32_t *out)
{
    int code = gguf_reader_need(reader, sizeof *out);
    if (code)
        return code;
    memcpy(out, reader->bytes + reader->at, sizeof *out);
    reader->at += sizeof *out;
    return 0;
}

int gguf_reader_u64(struct gguf_reader *reader, uint64_t *out)
{
    int code = gguf_reader_need(reader, sizeof *out);
    if (code)
        return code;
    memcpy(out, reader->bytes + reader->at, sizeof *out);
    reader->at += sizeof *out;
    return 0;
}

int gguf_reader_string(struct gguf_reader *reader, uint32_t *out_at, uint32_t *out_len)
{
    uint64_t len;
    int code = gguf_reader_u64(reader, &len);
    if (code)
        return code;
    code = gguf_reader_need(reader, len);
    if (code)
        return code;
    *out_at = (uint32_t)reader->at;
    *out_len = (uint32_t)len;
    reader->at += (size_t)len;
    return 0;
}

void *gguf_grow(void *items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (count <= *capacity)
        return items;
    size_t larger = *capacity > count / 2 ? *capacity * 2 : count;
    void *grown = realloc(items, larger * item_bytes);
    if (grown)
        *capacity = larger;
    return grown;
}
