// Bytes that grow, files read wholly, and numbers the way people read them.
#ifndef LODE_TOOLS_TEXT_H
#define LODE_TOOLS_TEXT_H

#include "core/lode.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Any bytes, zeros included; a zero always follows the last. Starts as {0}.
struct text {
    char *bytes;
    size_t len, capacity;
};

bool text_append(struct text *text, const char *bytes, size_t len); // false: out of memory, text unchanged
void text_clear(struct text *text);
void text_free(struct text *text);

// Reads a whole file, or stdin where the path is "-". LODE_ERR_CANCELLED when a signal ended the reading.
int text_read(struct text *out, const char *path, struct lode_error *error);

enum { TEXT_NUMBER_SIZE = 32 };
const char *text_bytes(char out[TEXT_NUMBER_SIZE], uint64_t bytes); // "9.9 MiB"
const char *text_count(char out[TEXT_NUMBER_SIZE], uint64_t count); // "17.1 M"

// A copy for a terminal: control characters of names that a file brought along become '?'.
const char *text_printable(char *out, size_t capacity, const char *text);

#endif
