// What the files of the GGUF reader share: the reader of header bytes, the parsed header of one file, and the
// whole.
//
// Positions in a header are 32-bit offsets into its buffer and never pointers, because the buffer moves while
// it grows; GGUF_MAX_HEADER_BYTES keeps them in range.
#ifndef LODE_GGUF_INTERNAL_H
#define LODE_GGUF_INTERNAL_H

#include "core/gguf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF integers are read as they lie in the file");

// Gemma 4's header is 16 MB, nearly all of it vocabulary. The limit keeps a damaged length in a file of 20 GB
// from taking all memory before the damage shows.
#define GGUF_MAX_HEADER_BYTES (128u << 20)

// Room for a name in an error, escaped, quoted and cut.
#define GGUF_QUOTED_BYTES 112

struct gguf_value {
    const struct gguf_header *header;
    uint32_t at; // of the number, the length of a string, or the first element of an array
    uint32_t count;
    uint32_t first_string; // in header->strings, for an array of strings
    uint8_t kind;
    uint8_t item_kind;
};

struct gguf_pair {
    uint32_t key_at;
    uint32_t key_len;
    struct gguf_value value;
};

struct gguf_tensor_info {
    struct gguf_tensor tensor;
    uint32_t info_at; // where its description lies in the header of its file
};

// One file's header. Values point at it, so it must stay where it was parsed to.
struct gguf_header {
    char *bytes;
    size_t size_bytes;
    uint32_t version;
    struct gguf_pair *pairs;
    size_t n_pairs, pairs_capacity;
    struct gguf_tensor_info *tensors;
    size_t n_tensors, tensors_capacity;
    uint32_t *strings; // position of every string that is an array's element, so that element i needs no walk
    size_t n_strings, strings_capacity;
};

struct gguf_file {
    char *path;
    uint64_t size_bytes;
};

struct gguf_name {
    struct gguf_string text;
    uint32_t item; // index of the pair or tensor
};

struct gguf {
    struct gguf_header header; // of the first file; its tensors are those of all files
    struct gguf_file *files;
    uint32_t n_files;
    struct gguf_name *key_names; // sorted
    struct gguf_name *tensor_names;
};

// ---- gguf_reader.c: bytes of a header, fetched as they are needed, and errors that say where

struct gguf_reader {
    const char *name; // of the file, for errors
    int fd;           // -1 when `memory` holds the bytes
    const char *memory;
    uint64_t given_bytes; // that can be read; fewer than file_size_bytes only in memory
    uint64_t file_size_bytes;
    struct lode_error *error;

    char *bytes;
    size_t filled_bytes, capacity_bytes;
    size_t at;

    // What is being read, for errors: "tensor 3 of 20" until its name is known.
    const char *noun;
    uint64_t number, total;
    uint32_t noun_name_at, noun_name_len;
    bool noun_named;
};

// The end of an error's path: what follows must still fit into the text.
const char *gguf_short_path(const char *path);

// Writes `data` between quotes, with anything but printable ASCII escaped, cut where `out` ends.
void gguf_quote(char out[GGUF_QUOTED_BYTES], const char *data, size_t len);

int gguf_reject(struct gguf_reader *reader, int code, uint64_t at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// Fails at once when `count` things of at least `item_bytes` cannot follow in what the file has left.
int gguf_reader_expect(struct gguf_reader *reader, uint64_t count, uint64_t item_bytes, const char *what);

// Makes the next `n_bytes` present at reader->bytes + reader->at.
int gguf_reader_need(struct gguf_reader *reader, uint64_t n_bytes);

int gguf_reader_u32(struct gguf_reader *reader, uint32_t *out);
int gguf_reader_u64(struct gguf_reader *reader, uint64_t *out);

// Steps over a string and says where its bytes lie.
int gguf_reader_string(struct gguf_reader *reader, uint32_t *out_at, uint32_t *out_len);

// realloc to at least `count` items, by doubling; NULL when there is no memory.
void *gguf_grow(void *items, size_t *capacity, size_t count, size_t item_bytes);

// ---- gguf_parse.c

// Parses the header that `reader` delivers; `file` is written into its tensors. `header` takes the reader's
// buffer. On failure the header is empty.
int gguf_parse_header(struct gguf_header *header, struct gguf_reader *reader, uint32_t file);

void gguf_header_free(struct gguf_header *header);

// By linear search: for the few keys that the reader itself needs.
const struct gguf_value *gguf_header_find(const struct gguf_header *header, const char *key);

// ---- gguf.c

// The keys of a header, sorted, for the caller to free; an error when one is there twice. *out is NULL on
// failure.
int gguf_index_keys(struct gguf_name **out, const struct gguf_header *header, const char *path,
                    struct lode_error *error);

// ---- gguf_split.c

// Opens `path`, parses its header and adds it to the files of `gguf`.
int gguf_add_file(struct gguf *gguf, struct gguf_header *header, const char *path, struct lode_error *error);

// With the first file parsed: adds the tensors of the other parts, if there are any, and checks that all
// belong together.
int gguf_add_parts(struct gguf *gguf, struct lode_error *error);

#endif
