// The bytes of a trace: a stream, unpacked on the way when it is compressed with zstd.
#ifndef LODE_TRACE_BYTES_H
#define LODE_TRACE_BYTES_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct trace_bytes;

// Takes the stream over and closes it in any case. `name` is for messages and must outlive it.
int trace_bytes_open(struct trace_bytes **out, FILE *stream, const char *name, struct lode_error *error);
void trace_bytes_close(struct trace_bytes *bytes);

// The next n bytes (at most 64 KiB) without taking them; fewer at the end. They stay until the next call.
int trace_bytes_peek(struct trace_bytes *bytes, size_t n, const uint8_t **out, size_t *out_n,
                     struct lode_error *error);

// Takes n bytes; fewer at the end.
int trace_bytes_take(struct trace_bytes *bytes, void *to, size_t n, size_t *out_n, struct lode_error *error);

// Where the next byte is, in what comes out.
uint64_t trace_bytes_offset(const struct trace_bytes *bytes);

// True when the compressed stream broke off.
bool trace_bytes_cut(const struct trace_bytes *bytes);

#endif
