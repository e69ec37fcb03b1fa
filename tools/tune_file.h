// Records as JSON files in the config folder: read strictly, written under a temporary name and renamed.
#ifndef LODE_TOOLS_TUNE_FILE_H
#define LODE_TOOLS_TUNE_FILE_H

#include "core/lode.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tune_field_kind {
    TUNE_FIELD_COUNT,  // uint32_t in [min, max]
    TUNE_FIELD_BYTES,  // uint64_t in [min, max]
    TUNE_FIELD_NUMBER, // double in [min, max]
    TUNE_FIELD_FLAG,   // bool
    TUNE_FIELD_TEXT,   // char [size], printable ASCII
};

// A member of a JSON object and of a struct, of the same name.
struct tune_field {
    const char *name;
    enum tune_field_kind kind;
    size_t offset, size; // size: of a text
    double min, max;
};

#define TUNE_COUNT(record, member, low, high)                                                                \
    {                                                                                                        \
        .name = #member, .kind = TUNE_FIELD_COUNT, .offset = offsetof(record, member), .min = (low),         \
        .max = (high)                                                                                        \
    }
#define TUNE_BYTES(record, member, high)                                                                     \
    {                                                                                                        \
        .name = #member, .kind = TUNE_FIELD_BYTES, .offset = offsetof(record, member), .max = (high)         \
    }
#define TUNE_NUMBER(record, member, low, high)                                                               \
    {                                                                                                        \
        .name = #member, .kind = TUNE_FIELD_NUMBER, .offset = offsetof(record, member), .min = (low),        \
        .max = (high)                                                                                        \
    }
#define TUNE_FLAG(record, member)                                                                            \
    {                                                                                                        \
        .name = #member, .kind = TUNE_FIELD_FLAG, .offset = offsetof(record, member)                         \
    }
#define TUNE_TEXT(record, member)                                                                            \
    {                                                                                                        \
        .name = #member, .kind = TUNE_FIELD_TEXT, .offset = offsetof(record, member),                        \
        .size = sizeof(((record *)0)->member)                                                                \
    }

// What settings may be, the same in every file that holds them.
enum {
    TUNE_MOST_THREADS = 1024,
    TUNE_MOST_BATCH = 64 << 10,
    TUNE_MOST_QUEUE_DEPTH = 256,
    TUNE_MOST_RANKS = 4096
};
#define TUNE_MOST_RING_BYTES 0x1p50
#define TUNE_SETTINGS_FIELDS(record)                                                                         \
    TUNE_COUNT(record, threads, 0, TUNE_MOST_THREADS), TUNE_COUNT(record, batch, 0, TUNE_MOST_BATCH),        \
        TUNE_COUNT(record, queue_depth, 0, TUNE_MOST_QUEUE_DEPTH),                                           \
        TUNE_COUNT(record, prefetch_ranks, 0, TUNE_MOST_RANKS),                                              \
        TUNE_BYTES(record, ring_bytes, TUNE_MOST_RING_BYTES), TUNE_FLAG(record, no_prefetch),                \
        TUNE_TEXT(record, policy)

// Every field must be there, and nothing else but the `n_others` members that the caller reads itself. `name`
// is what an error begins with: the file, and where in it.
int tune_fields_read(void *record, const json_t *object, const struct tune_field *fields, size_t n,
                     const char *const *others, size_t n_others, const char *name, struct lode_error *error);

// A new object; NULL without memory.
json_t *tune_fields_json(const void *record, const struct tune_field *fields, size_t n);

// *out is NULL where there is no file; else an object. A file that is none, or is no JSON, is an error.
int tune_file_read(json_t **out, const char *path, struct lode_error *error);

// Makes the folders, 0700; the file is 0600.
int tune_file_write(const json_t *object, const char *path, struct lode_error *error);
int tune_file_remove(bool *out_removed, const char *path, struct lode_error *error);

#endif
