// GGUF files: metadata and tensor index of a model, also of one that is split over several files.
//
// The file is data from strangers. Every count, offset, length and alignment is checked before use; an error
// names the key or tensor and the offset in the file. Memory taken is bounded by a small multiple of the
// bytes really present in the file's header. Tensor data is never touched here: the index says where it lies.
#ifndef LODE_GGUF_H
#define LODE_GGUF_H

#include "base/lode_error.h"
#include "base/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_kind {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

// Bytes inside the gguf object, not terminated, valid until gguf_close.
struct gguf_string {
    const char *data;
    size_t len;
};

#define GGUF_MAX_DIMS 4
#define GGUF_MAX_NAME 64 // with the terminator; longer names are an error, as in the format

struct gguf_tensor {
    char name[GGUF_MAX_NAME];
    uint32_t type;   // enum lode_type where it is one that we read; any other value is kept for the report
    uint32_t n_dims; // 1..4
    uint64_t ne[GGUF_MAX_DIMS]; // ne[0] is contiguous; unused ones are 1
    uint32_t file;              // index of the file that holds the data
    uint64_t offset_bytes;      // in that file, absolute
    uint64_t size_bytes;        // 0 for a type that we cannot read
};

struct gguf;
struct gguf_value; // a metadata value: a scalar, a string or an array

// Opens `path`. A first part of a split ("-00001-of-0000N.gguf") opens its siblings too; any other part is an
// error that names the first. Checks that every tensor of a readable type lies inside its file.
int gguf_open(struct gguf **out, const char *path, struct lode_error *error);

// The same for one file that is in memory already; `name` stands in the errors. Data beyond the header need
// not be there: `file_size_bytes` is what the tensors are checked against. A part of a split is taken by
// itself.
int gguf_parse(struct gguf **out, const void *data, size_t size_bytes, uint64_t file_size_bytes,
               const char *name, struct lode_error *error);

void gguf_close(struct gguf *gguf);

uint32_t gguf_version(const struct gguf *gguf);
uint32_t gguf_file_count(const struct gguf *gguf);
const char *gguf_file_path(const struct gguf *gguf, uint32_t file);
uint64_t gguf_file_size_bytes(const struct gguf *gguf, uint32_t file);

size_t gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index); // in file order
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf,
                                           const char *name); // NULL if absent; O(log n)
size_t gguf_tensor_index(const struct gguf *gguf, const struct gguf_tensor *tensor); // of one found

size_t gguf_key_count(const struct gguf *gguf);
struct gguf_string gguf_key_at(const struct gguf *gguf, size_t index, const struct gguf_value **out_value);
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key); // NULL if absent

enum gguf_kind gguf_value_kind(const struct gguf_value *value);
enum gguf_kind
gguf_value_item_kind(const struct gguf_value *value);    // element kind of an array, else its own kind
size_t gguf_value_count(const struct gguf_value *value); // elements of an array; 1 for a scalar or string

// Element `index` read liberally: any integer kind or bool as an integer, any number as a float. False when
// the kind does not convert, the value does not fit, or the index is out of range. A scalar is element 0;
// NULL (the value of an absent key) has none.
bool gguf_value_u64(const struct gguf_value *value, size_t index, uint64_t *out);
bool gguf_value_i64(const struct gguf_value *value, size_t index, int64_t *out);
bool gguf_value_f64(const struct gguf_value *value, size_t index, double *out);
bool gguf_value_string(const struct gguf_value *value, size_t index, struct gguf_string *out);

#endif
