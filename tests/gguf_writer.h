// Writes GGUF files for tests: valid ones of any content, and broken ones to order.
//
//     struct gguf_writer *writer = gguf_writer_new(3);
//     gguf_writer_string(writer, "general.architecture", "gemma4");
//     gguf_writer_u32(writer, "gemma4.block_count", 2);
//     gguf_writer_tensor(writer, "output_norm.weight", LODE_F32, 1, (uint64_t[]){4}, weights, sizeof
//     weights); gguf_writer_save(writer, path); gguf_writer_free(writer);
//
// Keys and tensors appear in the order of the calls. Everything is in memory until it is saved; writers are
// for files of some MB. Running out of memory aborts the test. Nothing that is asked for is checked, for that
// is the reader's work: a name, kind, shape or offset goes into the file as it is given.
#ifndef LODE_GGUF_WRITER_H
#define LODE_GGUF_WRITER_H

#include "core/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf_writer;

struct gguf_writer *gguf_writer_new(uint32_t version);
void gguf_writer_free(struct gguf_writer *writer);

// ---- metadata

// A number or bool: `bytes` are those of its kind, little-endian.
void gguf_writer_number(struct gguf_writer *writer, const char *key, enum gguf_kind kind, const void *bytes);
void gguf_writer_u16(struct gguf_writer *writer, const char *key, uint16_t value);
void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_i32(struct gguf_writer *writer, const char *key, int32_t value);
void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value);
void gguf_writer_bytes(struct gguf_writer *writer, const char *key, const void *data, size_t len); // a string

void gguf_writer_array(struct gguf_writer *writer, const char *key, enum gguf_kind item_kind, size_t count,
                       const void *items);
void gguf_writer_strings(struct gguf_writer *writer, const char *key, size_t count,
                         const char *const *strings);

// Writes the key general.alignment and lays the data out by it. For an alignment that is no power of two,
// write the key as a number instead.
void gguf_writer_alignment(struct gguf_writer *writer, uint32_t alignment);

// The three keys of part `part` (from 0) of a split model.
void gguf_writer_split(struct gguf_writer *writer, uint16_t part, uint16_t n_parts, int32_t n_tensors);

// A value of an open file under the same or another key.
void gguf_writer_value(struct gguf_writer *writer, const char *key, const struct gguf_value *value);

// One key-value pair as raw bytes: key length, key, kind, value.
void gguf_writer_raw_pair(struct gguf_writer *writer, const void *bytes, size_t size_bytes);

// ---- tensors

// `data` of `size_bytes` lands behind the tensors before it, padded to the alignment; NULL writes zeros.
void gguf_writer_tensor(struct gguf_writer *writer, const char *name, uint32_t type, uint32_t n_dims,
                        const uint64_t *ne, const void *data, size_t size_bytes);

// A description alone, with an offset of the caller's choice and no data.
void gguf_writer_tensor_at(struct gguf_writer *writer, const char *name, uint32_t type, uint32_t n_dims,
                           const uint64_t *ne, uint64_t offset_bytes);

// All keys and tensors of an open model, with their data, but for keys that start with `skip_prefix` (NULL:
// none) and those of its split and alignment. False when its files cannot be read or a type's size is not
// known.
bool gguf_writer_copy(struct gguf_writer *writer, const struct gguf *gguf, const char *skip_prefix);

// ---- files

// Makes the counts in the file's head say something else than what was written.
void gguf_writer_claim(struct gguf_writer *writer, uint64_t n_tensors, uint64_t n_pairs);

// The whole file, for the caller to free.
void *gguf_writer_finish(const struct gguf_writer *writer, size_t *out_size_bytes);

bool gguf_writer_save(const struct gguf_writer *writer, const char *path);

// Writes the same model as `n_parts` files PREFIX-00001-of-0000N.gguf …, the tensors in even shares, the
// metadata in the first.
bool gguf_writer_save_split(const struct gguf_writer *writer, const char *prefix, uint16_t n_parts);

// Path of part `part` (from 0).
void gguf_writer_part_path(char *out, size_t capacity, const char *prefix, uint16_t part, uint16_t n_parts);

#endif
