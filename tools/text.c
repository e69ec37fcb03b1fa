// Growing bytes, reading files and stdin wholly, human numbers.
#include "tools/text.h"

#include "tools/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool text_reserve(struct text *text, size_t extra)
{
    if (extra < text->capacity - text->len)
        return true;
    if (extra > SIZE_MAX / 2 - text->len - 64)
        return false;
    size_t capacity = text->len + extra + 64;
    if (capacity < 2 * text->capacity)
        capacity = 2 * text->capacity;
    char *bytes = realloc(text->bytes, capacity);
    if (!bytes)
        return false;
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

bool text_append(struct text *text, const char *bytes, size_t len)
{
    if (!text_reserve(text, len))
        return false;
    if (len)
        memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
    text->bytes[text->len] = 0;
    return true;
}

void text_clear(struct text *text)
{
    text->len = 0;
    if (text->bytes)
        text->bytes[0] = 0;
}

void text_free(struct text *text)
{
    free(text->bytes);
    *text = (struct text){0};
}

static int read_all(struct text *out, int fd, const char *name, struct lode_error *error)
{
    for (;;) {
        if (!text_reserve(out, 64 << 10))
            return lode_fail(error, LODE_ERR_MEMORY, "%s: not enough memory after %zu bytes", name, out->len);
        if (!interrupt_wait_readable(fd))
            return lode_fail(error, LODE_ERR_CANCELLED, "%s: interrupted", name);
        ssize_t got = read(fd, out->bytes + out->len, 64 << 10);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lode_fail(error, LODE_ERR_IO, "cannot read %s: %s", name, strerror(errno));
        out->len += (size_t)got;
        out->bytes[out->len] = 0;
        if (got == 0)
            return LODE_OK;
    }
}

int text_read(struct text *out, const char *path, struct lode_error *error)
{
    text_clear(out);
    if (strcmp(path, "-") == 0)
        return read_all(out, STDIN_FILENO, "stdin", error);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lode_fail(error, LODE_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int code = read_all(out, fd, path, error);
    close(fd);
    return code;
}

// One digit behind the point while it matters: 9.9 MiB, 16.2 GiB, but 512 B.
static const char *scaled(char *out, uint64_t value, double step, const char *const *units, size_t n_units)
{
    double shown = (double)value;
    size_t unit = 0;
    for (; shown >= step && unit + 1 < n_units; unit++)
        shown /= step;
    if (unit == 0)
        snprintf(out, TEXT_NUMBER_SIZE, "%" PRIu64 "%s%s", value, *units[0] ? " " : "", units[0]);
    else
        snprintf(out, TEXT_NUMBER_SIZE, "%.1f %s", shown, units[unit]);
    return out;
}

const char *text_bytes(char out[TEXT_NUMBER_SIZE], uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    return scaled(out, bytes, 1024, units, sizeof units / sizeof *units);
}

const char *text_count(char out[TEXT_NUMBER_SIZE], uint64_t count)
{
    static const char *const units[] = {"", "K", "M", "B", "T"};
    return scaled(out, count, 1000, units, sizeof units / sizeof *units);
}

const char *text_printable(char *out, size_t capacity, const char *text)
{
    size_t used = 0;
    for (; text[used] && used + 1 < capacity; used++)
        out[used] = (unsigned char)text[used] < 0x20 || text[used] == 0x7f ? '?' : text[used];
    out[used] = 0;
    return out;
}
