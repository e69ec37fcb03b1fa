// Writes a GGUF file of any size front to back: metadata, tensor descriptions, data in that order.
//
// Memory does not grow with the data. The file grows under a temporary name beside its target and takes the
// target's name when it is complete, so that a half-written model never looks like a model. Metadata
// functions remember the first failure and do nothing after it; the next function that returns a code reports
// it.
#ifndef LODE_GGUF_WRITE_H
#define LODE_GGUF_WRITE_H

#include "base/lode_error.h"
#include "core/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf_write;

// Begins a file. A target that exists and is no regular file (a device) is written in place. With path NULL
// nothing is written, only counted: gguf_write_size_bytes tells what the file would take.
int gguf_write_create(struct gguf_write **out, const char *path, struct lode_error *error);

// ---- metadata, before the first tensor

void gguf_write_u32(struct gguf_write *file, const char *key, uint32_t value);
void gguf_write_i32(struct gguf_write *file, const char *key, int32_t value);
void gguf_write_f32(struct gguf_write *file, const char *key, float value);
void gguf_write_bool(struct gguf_write *file, const char *key, bool value);
void gguf_write_string(struct gguf_write *file, const char *key, const char *value);

// An array; its `count` elements follow, each by one call of the function for its kind.
void gguf_write_array(struct gguf_write *file, const char *key, enum gguf_kind item_kind, uint64_t count);
void gguf_write_item_i32(struct gguf_write *file, int32_t value);
void gguf_write_item_f32(struct gguf_write *file, float value);
void gguf_write_item_bool(struct gguf_write *file, bool value);
void gguf_write_item_string(struct gguf_write *file, const char *bytes, size_t len);

// ---- tensors

// Describes the next tensor. Fails for a name beyond GGUF_MAX_NAME and for rows that are no whole blocks.
int gguf_write_tensor(struct gguf_write *file, const char *name, enum lode_type type, uint32_t n_dims,
                      const uint64_t *ne, struct lode_error *error);

// Ends the descriptions and reserves the whole file on the disk, so that a full disk is told before the first
// GB.
int gguf_write_begin_data(struct gguf_write *file, struct lode_error *error);

// Appends to the data of the tensors, which are padded where one ends. One call stays within one tensor.
int gguf_write_data(struct gguf_write *file, const void *bytes, size_t size_bytes, struct lode_error *error);

// Of the whole file, known from gguf_write_begin_data on.
uint64_t gguf_write_size_bytes(const struct gguf_write *file);

// Completes the file and gives it its name; `sync`: it is on the disk when this returns. Releases `file` and
// removes what was written where it fails.
int gguf_write_finish(struct gguf_write *file, bool sync, struct lode_error *error);

// Releases `file` and removes what was written.
void gguf_write_abort(struct gguf_write *file);

#endif
