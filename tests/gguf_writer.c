// Key-value pairs, tensor descriptions and data are built in three growing buffers and joined at the end.
// Tensors are kept as a list besides, so that they can be dealt out to the parts of a split model.
#include "tests/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_ALIGNMENT 32

struct buffer {
    char *bytes;
    size_t len, capacity;
};

struct written_tensor {
    char *name;
    uint32_t type, n_dims;
    uint64_t ne[8];
    bool has_offset;
    uint64_t offset_bytes; // when has_offset
    char *data;
    size_t size_bytes;
};

struct gguf_writer {
    uint32_t version, alignment;
    struct buffer pairs;
    uint64_t n_pairs;
    struct written_tensor *tensors;
    size_t n_tensors;
    bool has_claim;
    uint64_t claimed_tensors, claimed_pairs;
};

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

static void put(struct buffer *buffer, const void *bytes, size_t len)
{
    if (buffer->len + len > buffer->capacity) {
        buffer->capacity = 2 * (buffer->len + len) + 64;
        buffer->bytes = must(realloc(buffer->bytes, buffer->capacity));
    }
    if (bytes && len)
        memcpy(buffer->bytes + buffer->len, bytes, len);
    else if (len)
        memset(buffer->bytes + buffer->len, 0, len);
    buffer->len += len;
}

static void put_u32(struct buffer *buffer, uint32_t value)
{
    put(buffer, &value, sizeof value);
}

static void put_u64(struct buffer *buffer, uint64_t value)
{
    put(buffer, &value, sizeof value);
}

static void put_string(struct buffer *buffer, const void *data, size_t len)
{
    put_u64(buffer, len);
    put(buffer, data, len);
}

static void pad(struct buffer *buffer, size_t alignment)
{
    put(buffer, NULL, (alignment - buffer->len % alignment) % alignment);
}

static size_t kind_bytes(enum gguf_kind kind)
{
    switch (kind) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32:
        return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    default:
        abort();
    }
}

struct gguf_writer *gguf_writer_new(uint32_t version)
{
    struct gguf_writer *writer = must(calloc(1, sizeof *writer));
    writer->version = version;
    writer->alignment = DEFAULT_ALIGNMENT;
    return writer;
}

void gguf_writer_free(struct gguf_writer *writer)
{
    if (!writer)
        return;
    for (size_t i = 0; i < writer->n_tensors; i++) {
        free(writer->tensors[i].name);
        free(writer->tensors[i].data);
    }
    free(writer->tensors);
    free(writer->pairs.bytes);
    free(writer);
}

static struct buffer *start_pair(struct gguf_writer *writer, const char *key, uint32_t kind)
{
    put_string(&writer->pairs, key, strlen(key));
    put_u32(&writer->pairs, kind);
    writer->n_pairs++;
    return &writer->pairs;
}

void gguf_writer_number(struct gguf_writer *writer, const char *key, enum gguf_kind kind, const void *bytes)
{
    put(start_pair(writer, key, kind), bytes, kind_bytes(kind));
}

void gguf_writer_u16(struct gguf_writer *writer, const char *key, uint16_t value)
{
    gguf_writer_number(writer, key, GGUF_U16, &value);
}

void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    gguf_writer_number(writer, key, GGUF_U32, &value);
}

void gguf_writer_i32(struct gguf_writer *writer, const char *key, int32_t value)
{
    gguf_writer_number(writer, key, GGUF_I32, &value);
}

void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value)
{
    gguf_writer_number(writer, key, GGUF_F32, &value);
}

void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value)
{
    gguf_writer_number(writer, key, GGUF_BOOL, &(uint8_t){value});
}

void gguf_writer_bytes(struct gguf_writer *writer, const char *key, const void *data, size_t len)
{
    put_string(start_pair(writer, key, GGUF_STRING), data, len);
}

void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value)
{
    gguf_writer_bytes(writer, key, value, strlen(value));
}

static struct buffer *start_array(struct gguf_writer *writer, const char *key, uint32_t item_kind,
                                  size_t count)
{
    struct buffer *pairs = start_pair(writer, key, GGUF_ARRAY);
    put_u32(pairs, item_kind);
    put_u64(pairs, count);
    return pairs;
}

void gguf_writer_array(struct gguf_writer *writer, const char *key, enum gguf_kind item_kind, size_t count,
                       const void *items)
{
    put(start_array(writer, key, item_kind, count), items, count * kind_bytes(item_kind));
}

void gguf_writer_strings(struct gguf_writer *writer, const char *key, size_t count,
                         const char *const *strings)
{
    struct buffer *pairs = start_array(writer, key, GGUF_STRING, count);
    for (size_t i = 0; i < count; i++)
        put_string(pairs, strings[i], strlen(strings[i]));
}

void gguf_writer_alignment(struct gguf_writer *writer, uint32_t alignment)
{
    gguf_writer_u32(writer, "general.alignment", alignment);
    writer->alignment = alignment;
}

void gguf_writer_split(struct gguf_writer *writer, uint16_t part, uint16_t n_parts, int32_t n_tensors)
{
    gguf_writer_u16(writer, "split.no", part);
    gguf_writer_u16(writer, "split.count", n_parts);
    gguf_writer_i32(writer, "split.tensors.count", n_tensors);
}

static void put_item(struct buffer *pairs, const struct gguf_value *value, size_t index)
{
    enum gguf_kind kind = gguf_value_item_kind(value);
    struct gguf_string text;
    double real;
    int64_t integer;
    uint64_t natural;
    if (gguf_value_string(value, index, &text)) {
        put_string(pairs, text.data, text.len);
    } else if (kind == GGUF_F32 && gguf_value_f64(value, index, &real)) {
        put(pairs, &(float){(float)real}, sizeof(float));
    } else if (kind == GGUF_F64 && gguf_value_f64(value, index, &real)) {
        put(pairs, &real, sizeof real);
    } else if (gguf_value_i64(value, index, &integer)) {
        put(pairs, &integer, kind_bytes(kind));
    } else if (gguf_value_u64(value, index, &natural)) {
        put(pairs, &natural, kind_bytes(kind));
    } else {
        abort();
    }
}

void gguf_writer_value(struct gguf_writer *writer, const char *key, const struct gguf_value *value)
{
    size_t count = gguf_value_count(value);
    bool is_array = gguf_value_kind(value) == GGUF_ARRAY;
    struct buffer *pairs = is_array ? start_array(writer, key, gguf_value_item_kind(value), count)
                                    : start_pair(writer, key, gguf_value_kind(value));
    for (size_t i = 0; i < count; i++)
        put_item(pairs, value, i);
}

void gguf_writer_raw_pair(struct gguf_writer *writer, const void *bytes, size_t size_bytes)
{
    put(&writer->pairs, bytes, size_bytes);
    writer->n_pairs++;
}

static struct written_tensor *add_tensor(struct gguf_writer *writer, const char *name, uint32_t type,
                                         uint32_t n_dims, const uint64_t *ne)
{
    writer->tensors = must(realloc(writer->tensors, (writer->n_tensors + 1) * sizeof *writer->tensors));
    struct written_tensor *tensor = &writer->tensors[writer->n_tensors++];
    *tensor = (struct written_tensor){.name = must(strdup(name)), .type = type, .n_dims = n_dims};
    if (n_dims > sizeof tensor->ne / sizeof *tensor->ne)
        abort();
    memcpy(tensor->ne, ne, n_dims * sizeof *ne);
    return tensor;
}

void gguf_writer_tensor(struct gguf_writer *writer, const char *name, uint32_t type, uint32_t n_dims,
                        const uint64_t *ne, const void *data, size_t size_bytes)
{
    struct written_tensor *tensor = add_tensor(writer, name, type, n_dims, ne);
    tensor->data = must(calloc(1, size_bytes + 1));
    tensor->size_bytes = size_bytes;
    if (data)
        memcpy(tensor->data, data, size_bytes);
}

void gguf_writer_tensor_at(struct gguf_writer *writer, const char *name, uint32_t type, uint32_t n_dims,
                           const uint64_t *ne, uint64_t offset_bytes)
{
    struct written_tensor *tensor = add_tensor(writer, name, type, n_dims, ne);
    tensor->has_offset = true;
    tensor->offset_bytes = offset_bytes;
}

static bool copy_tensor(struct gguf_writer *writer, const struct gguf *gguf, const struct gguf_tensor *tensor)
{
    FILE *file = fopen(gguf_file_path(gguf, tensor->file), "rb");
    if (!file)
        return false;
    size_t size_bytes = (size_t)tensor->size_bytes;
    char *data = must(malloc(size_bytes + 1));
    bool read = size_bytes > 0 && fseeko(file, (off_t)tensor->offset_bytes, SEEK_SET) == 0 &&
                fread(data, 1, size_bytes, file) == size_bytes;
    fclose(file);
    if (read)
        gguf_writer_tensor(writer, tensor->name, tensor->type, tensor->n_dims, tensor->ne, data, size_bytes);
    free(data);
    return read;
}

static bool starts_with(struct gguf_string text, const char *prefix)
{
    size_t len = strlen(prefix);
    return text.len >= len && memcmp(text.data, prefix, len) == 0;
}

bool gguf_writer_copy(struct gguf_writer *writer, const struct gguf *gguf, const char *skip_prefix)
{
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        const struct gguf_value *value;
        struct gguf_string key = gguf_key_at(gguf, i, &value);
        if ((skip_prefix && starts_with(key, skip_prefix)) || starts_with(key, "split.") ||
            starts_with(key, "general.alignment"))
            continue;
        char *text = must(strndup(key.data, key.len));
        gguf_writer_value(writer, text, value);
        free(text);
    }
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++)
        if (!copy_tensor(writer, gguf, gguf_tensor_at(gguf, i)))
            return false;
    return true;
}

void gguf_writer_claim(struct gguf_writer *writer, uint64_t n_tensors, uint64_t n_pairs)
{
    writer->has_claim = true;
    writer->claimed_tensors = n_tensors;
    writer->claimed_pairs = n_pairs;
}

// Writes the description of a tensor to `infos` and its data to `data`.
static void put_tensor(struct buffer *infos, struct buffer *data, const struct written_tensor *tensor,
                       uint32_t alignment)
{
    put_string(infos, tensor->name, strlen(tensor->name));
    put_u32(infos, tensor->n_dims);
    put(infos, tensor->ne, tensor->n_dims * sizeof *tensor->ne);
    put_u32(infos, tensor->type);
    put_u64(infos, tensor->has_offset ? tensor->offset_bytes : data->len);
    put(data, tensor->data, tensor->size_bytes);
    pad(data, alignment);
}

void *gguf_writer_finish(const struct gguf_writer *writer, size_t *out_size_bytes)
{
    struct buffer infos = {0}, data = {0}, file = {0};
    for (size_t i = 0; i < writer->n_tensors; i++)
        put_tensor(&infos, &data, &writer->tensors[i], writer->alignment);
    put(&file, "GGUF", 4);
    put_u32(&file, writer->version);
    put_u64(&file, writer->has_claim ? writer->claimed_tensors : writer->n_tensors);
    put_u64(&file, writer->has_claim ? writer->claimed_pairs : writer->n_pairs);
    put(&file, writer->pairs.bytes, writer->pairs.len);
    put(&file, infos.bytes, infos.len);
    if (data.len) {
        pad(&file, writer->alignment);
        put(&file, data.bytes, data.len);
    }
    free(infos.bytes);
    free(data.bytes);
    *out_size_bytes = file.len;
    return file.bytes;
}

bool gguf_writer_save(const struct gguf_writer *writer, const char *path)
{
    size_t size_bytes;
    void *bytes = gguf_writer_finish(writer, &size_bytes);
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(bytes, 1, size_bytes, file) == size_bytes;
    if (file && fclose(file) != 0)
        written = false;
    free(bytes);
    return written;
}

void gguf_writer_part_path(char *out, size_t capacity, const char *prefix, uint16_t part, uint16_t n_parts)
{
    snprintf(out, capacity, "%s-%05u-of-%05u.gguf", prefix, part + 1u, (unsigned)n_parts);
}

bool gguf_writer_save_split(const struct gguf_writer *writer, const char *prefix, uint16_t n_parts)
{
    bool written = true;
    for (uint16_t i = 0; i < n_parts; i++) {
        struct gguf_writer part = {.version = writer->version, .alignment = DEFAULT_ALIGNMENT};
        if (i == 0) {
            put(&part.pairs, writer->pairs.bytes, writer->pairs.len);
            part.n_pairs = writer->n_pairs;
            part.alignment = writer->alignment;
        }
        gguf_writer_split(&part, i, n_parts, (int32_t)writer->n_tensors);
        size_t first = writer->n_tensors * i / n_parts;
        part.tensors = writer->tensors + first;
        part.n_tensors = writer->n_tensors * (i + 1u) / n_parts - first;
        char path[4096];
        gguf_writer_part_path(path, sizeof path, prefix, i, n_parts);
        written = gguf_writer_save(&part, path) && written;
        free(part.pairs.bytes);
    }
    return written;
}
