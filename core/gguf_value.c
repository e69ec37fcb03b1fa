// Metadata values, read liberally: writers differ in the integer kinds they choose for the same key.
#include "core/gguf_internal.h"

#include <string.h>

enum gguf_kind gguf_value_kind(const struct gguf_value *value)
{
    return (enum gguf_kind)value->kind;
}

enum gguf_kind gguf_value_item_kind(const struct gguf_value *value)
{
    return (enum gguf_kind)value->item_kind;
}

size_t gguf_value_count(const struct gguf_value *value)
{
    return value->count;
}

// The element's bits, zero-extended.
static uint64_t load(const struct gguf_value *value, size_t index, size_t item_bytes)
{
    uint64_t bits = 0;
    memcpy(&bits, value->header->bytes + value->at + index * item_bytes, item_bytes);
    return bits;
}

// Wide enough for both 64-bit kinds.
static bool integer_at(const struct gguf_value *value, size_t index, __int128 *out)
{
    if (!value || index >= value->count)
        return false;
    switch (value->item_kind) {
    case GGUF_U8:
        *out = (uint8_t)load(value, index, 1);
        return true;
    case GGUF_I8:
        *out = (int8_t)load(value, index, 1);
        return true;
    case GGUF_BOOL:
        *out = load(value, index, 1) != 0;
        return true;
    case GGUF_U16:
        *out = (uint16_t)load(value, index, 2);
        return true;
    case GGUF_I16:
        *out = (int16_t)load(value, index, 2);
        return true;
    case GGUF_U32:
        *out = (uint32_t)load(value, index, 4);
        return true;
    case GGUF_I32:
        *out = (int32_t)load(value, index, 4);
        return true;
    case GGUF_U64:
        *out = load(value, index, 8);
        return true;
    case GGUF_I64:
        *out = (int64_t)load(value, index, 8);
        return true;
    default:
        return false;
    }
}

bool gguf_value_u64(const struct gguf_value *value, size_t index, uint64_t *out)
{
    __int128 integer;
    if (!integer_at(value, index, &integer) || integer < 0)
        return false;
    *out = (uint64_t)integer;
    return true;
}

bool gguf_value_i64(const struct gguf_value *value, size_t index, int64_t *out)
{
    __int128 integer;
    if (!integer_at(value, index, &integer) || integer > INT64_MAX)
        return false;
    *out = (int64_t)integer;
    return true;
}

bool gguf_value_f64(const struct gguf_value *value, size_t index, double *out)
{
    if (!value || index >= value->count || value->item_kind == GGUF_BOOL)
        return false;
    const char *items = value->header->bytes + value->at;
    if (value->item_kind == GGUF_F32) {
        float single;
        memcpy(&single, items + index * sizeof single, sizeof single);
        *out = single;
        return true;
    }
    if (value->item_kind == GGUF_F64) {
        memcpy(out, items + index * sizeof *out, sizeof *out);
        return true;
    }
    __int128 integer;
    if (!integer_at(value, index, &integer))
        return false;
    *out = (double)integer;
    return true;
}

bool gguf_value_string(const struct gguf_value *value, size_t index, struct gguf_string *out)
{
    if (!value || index >= value->count || value->item_kind != GGUF_STRING)
        return false;
    const struct gguf_header *header = value->header;
    uint32_t at = value->kind == GGUF_ARRAY ? header->strings[value->first_string + index] : value->at;
    uint64_t len;
    memcpy(&len, header->bytes + at, sizeof len);
    *out = (struct gguf_string){.data = header->bytes + at + sizeof len, .len = (size_t)len};
    return true;
}
