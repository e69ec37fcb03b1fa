// The header of one GGUF file: magic and version, key-value pairs, tensor descriptions, and where the data
// lies.
//
// The order of the checks follows the order of the bytes; only what needs the alignment (a key) and the end
// of the header (the start of the data) waits until all tensors are described.
#include "core/gguf_internal.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_ALIGNMENT 32
#define MIN_ALIGNMENT 8
#define MAX_ALIGNMENT (1u << 24)

// The least that a pair and a tensor can take: an empty name; one byte of value; one dimension.
#define MIN_PAIR_BYTES (8 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 4 + 8 + 4 + 8)

static const uint8_t number_bytes[] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static void start_noun(struct gguf_reader *reader, const char *noun, uint64_t number, uint64_t total)
{
    reader->noun = noun;
    reader->number = number;
    reader->total = total;
    reader->noun_named = false;
}

static void name_noun(struct gguf_reader *reader, uint32_t at, uint32_t len)
{
    reader->noun_name_at = at;
    reader->noun_name_len = len;
    reader->noun_named = true;
}

static int reject_memory(struct gguf_reader *reader)
{
    return gguf_reject(reader, LODE_ERR_MEMORY, reader->at, "no memory for the index of the header");
}

static int parse_magic(struct gguf_reader *reader)
{
    int code = gguf_reader_need(reader, 4);
    if (code)
        return code;
    const char *magic = reader->bytes + reader->at;
    if (memcmp(magic, "GGUF", 4) != 0) {
        char quoted[GGUF_QUOTED_BYTES];
        gguf_quote(quoted, magic, 4);
        bool is_lfs_pointer = memcmp(magic, "vers", 4) == 0;
        return gguf_reject(reader, LODE_ERR_FORMAT, reader->at, "not a GGUF file: it begins with %s%s",
                           quoted,
                           is_lfs_pointer ? "; it may be a Git LFS pointer in place of the model" : "");
    }
    reader->at += 4;
    return 0;
}

static int parse_version(struct gguf_header *header, struct gguf_reader *reader)
{
    size_t at = reader->at;
    int code = gguf_reader_u32(reader, &header->version);
    if (code)
        return code;
    uint32_t version = header->version;
    if (version == 2 || version == 3)
        return 0;
    if (version == 1)
        return gguf_reject(reader, LODE_ERR_UNSUPPORTED, at,
                           "GGUF version 1 is not read; get a file of version 3 or convert the model again");
    if (version && (version & 0xffff) == 0)
        return gguf_reject(reader, LODE_ERR_UNSUPPORTED, at,
                           "big-endian GGUF files are not read; get a little-endian one");
    return gguf_reject(reader, LODE_ERR_UNSUPPORTED, at, "GGUF version %u is not known; 2 and 3 are read",
                       version);
}

static int parse_string_array(struct gguf_header *header, struct gguf_reader *reader,
                              struct gguf_value *value, uint64_t count)
{
    int code = gguf_reader_expect(reader, count, sizeof(uint64_t), "strings");
    if (code)
        return code;
    value->first_string = (uint32_t)header->n_strings;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t *strings =
            gguf_grow(header->strings, &header->strings_capacity, header->n_strings + 1, sizeof *strings);
        if (!strings)
            return reject_memory(reader);
        header->strings = strings;
        strings[header->n_strings++] = (uint32_t)reader->at;
        uint32_t at, len;
        code = gguf_reader_string(reader, &at, &len);
        if (code)
            return code;
    }
    return 0;
}

static int parse_numbers(struct gguf_reader *reader, uint32_t kind, uint64_t count)
{
    int code = gguf_reader_expect(reader, count, number_bytes[kind], "values");
    if (code)
        return code;
    uint64_t size_bytes = count * number_bytes[kind];
    code = gguf_reader_need(reader, size_bytes);
    if (code)
        return code;
    reader->at += (size_t)size_bytes;
    return 0;
}

static int parse_array(struct gguf_header *header, struct gguf_reader *reader, struct gguf_value *value)
{
    size_t kind_at = reader->at;
    uint32_t kind;
    int code = gguf_reader_u32(reader, &kind);
    if (code)
        return code;
    if (kind == GGUF_ARRAY)
        return gguf_reject(reader, LODE_ERR_UNSUPPORTED, kind_at, "arrays of arrays are not read");
    if (kind > GGUF_F64)
        return gguf_reject(reader, LODE_ERR_FORMAT, kind_at, "array elements of unknown kind %u", kind);
    uint64_t count;
    code = gguf_reader_u64(reader, &count);
    if (code)
        return code;
    value->item_kind = (uint8_t)kind;
    value->at = (uint32_t)reader->at;
    code = kind == GGUF_STRING ? parse_string_array(header, reader, value, count)
                               : parse_numbers(reader, kind, count);
    value->count = (uint32_t)count;
    return code;
}

static int parse_value(struct gguf_header *header, struct gguf_reader *reader, struct gguf_value *value)
{
    size_t kind_at = reader->at;
    uint32_t kind;
    int code = gguf_reader_u32(reader, &kind);
    if (code)
        return code;
    if (kind > GGUF_F64)
        return gguf_reject(reader, LODE_ERR_FORMAT, kind_at, "value of unknown kind %u", kind);
    *value = (struct gguf_value){.header = header,
                                 .at = (uint32_t)reader->at,
                                 .count = 1,
                                 .kind = (uint8_t)kind,
                                 .item_kind = (uint8_t)kind};
    if (kind == GGUF_ARRAY)
        return parse_array(header, reader, value);
    if (kind != GGUF_STRING)
        return parse_numbers(reader, kind, 1);
    uint32_t at, len;
    return gguf_reader_string(reader, &at, &len);
}

static int parse_pairs(struct gguf_header *header, struct gguf_reader *reader, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct gguf_pair *pairs =
            gguf_grow(header->pairs, &header->pairs_capacity, header->n_pairs + 1, sizeof *pairs);
        if (!pairs)
            return reject_memory(reader);
        header->pairs = pairs;
        struct gguf_pair *pair = &pairs[header->n_pairs++];
        start_noun(reader, "key", i, count);
        int code = gguf_reader_string(reader, &pair->key_at, &pair->key_len);
        if (code)
            return code;
        name_noun(reader, pair->key_at, pair->key_len);
        code = parse_value(header, reader, &pair->value);
        if (code)
            return code;
    }
    return 0;
}

static int parse_tensor_name(struct gguf_tensor *tensor, struct gguf_reader *reader)
{
    size_t name_at = reader->at;
    uint32_t at, len;
    int code = gguf_reader_string(reader, &at, &len);
    if (code)
        return code;
    name_noun(reader, at, len);
    if (len >= GGUF_MAX_NAME)
        return gguf_reject(reader, LODE_ERR_FORMAT, name_at, "a name of %u bytes; the longest is %d", len,
                           GGUF_MAX_NAME - 1);
    if (memchr(reader->bytes + at, '\0', len))
        return gguf_reject(reader, LODE_ERR_FORMAT, name_at, "a zero byte in the name");
    memcpy(tensor->name, reader->bytes + at, len);
    tensor->name[len] = '\0';
    return 0;
}

static int parse_shape(struct gguf_tensor *tensor, struct gguf_reader *reader)
{
    size_t shape_at = reader->at;
    int code = gguf_reader_u32(reader, &tensor->n_dims);
    if (code)
        return code;
    if (tensor->n_dims < 1 || tensor->n_dims > GGUF_MAX_DIMS)
        return gguf_reject(reader, LODE_ERR_FORMAT, shape_at, "%u dimensions; 1 to %d are possible",
                           tensor->n_dims, GGUF_MAX_DIMS);
    uint64_t n_elems = 1;
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++)
        tensor->ne[i] = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        size_t ne_at = reader->at;
        code = gguf_reader_u64(reader, &tensor->ne[i]);
        if (code)
            return code;
        if (tensor->ne[i] == 0 || tensor->ne[i] > INT64_MAX)
            return gguf_reject(reader, LODE_ERR_FORMAT, ne_at, "dimension %u has the impossible size %lld", i,
                               (long long)tensor->ne[i]);
        if (!checked_mul(&n_elems, n_elems, tensor->ne[i]) || n_elems > INT64_MAX)
            return gguf_reject(reader, LODE_ERR_FORMAT, ne_at, "the number of elements overflows 63 bits");
    }
    return 0;
}

// The offset stays relative to the data section until that is known.
static int parse_tensor(struct gguf_tensor_info *info, struct gguf_reader *reader)
{
    info->info_at = (uint32_t)reader->at;
    int code = parse_tensor_name(&info->tensor, reader);
    if (!code)
        code = parse_shape(&info->tensor, reader);
    if (!code)
        code = gguf_reader_u32(reader, &info->tensor.type);
    if (!code)
        code = gguf_reader_u64(reader, &info->tensor.offset_bytes);
    return code;
}

static int parse_tensors(struct gguf_header *header, struct gguf_reader *reader, uint64_t count,
                         uint32_t file)
{
    for (uint64_t i = 0; i < count; i++) {
        struct gguf_tensor_info *tensors =
            gguf_grow(header->tensors, &header->tensors_capacity, header->n_tensors + 1, sizeof *tensors);
        if (!tensors)
            return reject_memory(reader);
        header->tensors = tensors;
        struct gguf_tensor_info *info = &tensors[header->n_tensors++];
        *info = (struct gguf_tensor_info){.tensor.file = file};
        start_noun(reader, "tensor", i, count);
        int code = parse_tensor(info, reader);
        if (code)
            return code;
    }
    return 0;
}

static int read_alignment(const struct gguf_header *header, struct gguf_reader *reader,
                          uint64_t *out_alignment)
{
    *out_alignment = DEFAULT_ALIGNMENT;
    const char key[] = "general.alignment";
    const struct gguf_value *value = gguf_header_find(header, key);
    if (!value)
        return 0;
    uint64_t alignment;
    bool is_number = value->kind != GGUF_ARRAY && gguf_value_u64(value, 0, &alignment);
    if (is_number && alignment >= MIN_ALIGNMENT && alignment <= MAX_ALIGNMENT &&
        !(alignment & (alignment - 1))) {
        *out_alignment = alignment;
        return 0;
    }
    reader->noun = NULL;
    return gguf_reject(reader, LODE_ERR_FORMAT, value->at, "key \"%s\" must be a power of two from %d to %u",
                       key, MIN_ALIGNMENT, MAX_ALIGNMENT);
}

static int size_tensor(struct gguf_tensor *tensor, struct gguf_reader *reader, uint64_t at)
{
    const struct lode_type_traits *traits = lode_type_find(tensor->type);
    if (!traits)
        return 0;
    if (tensor->ne[0] % traits->block_elems)
        return gguf_reject(reader, LODE_ERR_FORMAT, at,
                           "rows of %llu elements; a row of %s is a multiple of %u",
                           (unsigned long long)tensor->ne[0], traits->name, traits->block_elems);
    uint64_t size_bytes;
    bool fits = lode_type_row_bytes(&size_bytes, tensor->type, tensor->ne[0]);
    for (uint32_t i = 1; fits && i < GGUF_MAX_DIMS; i++)
        fits = checked_mul(&size_bytes, size_bytes, tensor->ne[i]);
    if (!fits)
        return gguf_reject(reader, LODE_ERR_FORMAT, at, "the size in bytes overflows 64 bits");
    tensor->size_bytes = size_bytes;
    return 0;
}

static int place_tensor(struct gguf_tensor_info *info, struct gguf_reader *reader, uint64_t data_at,
                        uint64_t alignment)
{
    struct gguf_tensor *tensor = &info->tensor;
    name_noun(reader, info->info_at + sizeof(uint64_t), (uint32_t)strlen(tensor->name));
    if (tensor->offset_bytes % alignment)
        return gguf_reject(reader, LODE_ERR_FORMAT, info->info_at,
                           "the data offset %llu is no multiple of the alignment %llu",
                           (unsigned long long)tensor->offset_bytes, (unsigned long long)alignment);
    int code = size_tensor(tensor, reader, info->info_at);
    if (code)
        return code;
    uint64_t end;
    bool fits = checked_add(&tensor->offset_bytes, tensor->offset_bytes, data_at) &&
                checked_add(&end, tensor->offset_bytes, tensor->size_bytes);
    if (!fits)
        return gguf_reject(reader, LODE_ERR_FORMAT, info->info_at, "the end of the data overflows 64 bits");
    if (end > reader->file_size_bytes && lode_type_find(tensor->type))
        return gguf_reject(
            reader, LODE_ERR_FORMAT, info->info_at,
            "its data lies from byte %llu to %llu, but the file ends at byte %llu; it is damaged or "
            "was not downloaded completely",
            (unsigned long long)tensor->offset_bytes, (unsigned long long)end,
            (unsigned long long)reader->file_size_bytes);
    return 0;
}

static int place_tensors(struct gguf_header *header, struct gguf_reader *reader)
{
    uint64_t alignment;
    int code = read_alignment(header, reader, &alignment);
    if (code)
        return code;
    uint64_t data_at = (reader->at + alignment - 1) & ~(alignment - 1);
    for (size_t i = 0; i < header->n_tensors; i++) {
        start_noun(reader, "tensor", i, header->n_tensors);
        code = place_tensor(&header->tensors[i], reader, data_at, alignment);
        if (code)
            return code;
    }
    return 0;
}

static int parse_all(struct gguf_header *header, struct gguf_reader *reader, uint32_t file)
{
    uint64_t n_tensors, n_pairs;
    int code = parse_magic(reader);
    if (!code)
        code = parse_version(header, reader);
    if (!code)
        code = gguf_reader_u64(reader, &n_tensors);
    if (!code)
        code = gguf_reader_u64(reader, &n_pairs);
    if (!code)
        code = gguf_reader_expect(reader, n_pairs, MIN_PAIR_BYTES, "keys");
    if (!code)
        code = gguf_reader_expect(reader, n_tensors, MIN_TENSOR_BYTES, "tensor descriptions");
    if (!code)
        code = parse_pairs(header, reader, n_pairs);
    if (!code)
        code = parse_tensors(header, reader, n_tensors, file);
    return code;
}

// The buffer reaches into the data section, by up to a chunk: only the header is kept.
static void shrink_to_header(struct gguf_header *header)
{
    char *shrunk = realloc(header->bytes, header->size_bytes);
    if (shrunk)
        header->bytes = shrunk;
}

int gguf_parse_header(struct gguf_header *header, struct gguf_reader *reader, uint32_t file)
{
    *header = (struct gguf_header){0};
    int code = parse_all(header, reader, file);
    header->bytes = reader->bytes;
    header->size_bytes = reader->at;
    if (!code)
        code = place_tensors(header, reader);
    reader->bytes = NULL;
    if (code)
        gguf_header_free(header);
    else
        shrink_to_header(header);
    return code;
}

void gguf_header_free(struct gguf_header *header)
{
    free(header->bytes);
    free(header->pairs);
    free(header->tensors);
    free(header->strings);
    *header = (struct gguf_header){0};
}

const struct gguf_value *gguf_header_find(const struct gguf_header *header, const char *key)
{
    size_t len = strlen(key);
    for (size_t i = 0; i < header->n_pairs; i++) {
        const struct gguf_pair *pair = &header->pairs[i];
        if (pair->key_len == len && memcmp(header->bytes + pair->key_at, key, len) == 0)
            return &pair->value;
    }
    return NULL;
}
