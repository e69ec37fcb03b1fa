// libFuzzer target: whatever the bytes, the reader either refuses them with a text or gives an index whose
// every part can be walked and keeps its promises.
//
//     clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -I. -Ibase tests/fuzz/fuzz_gguf.c
//     core/gguf*.c base/*.c
//     ./fuzz_gguf -dict=tests/fuzz/gguf.dict -max_len=4096 CORPUS
#include "core/gguf.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static unsigned checksum; // so that no read is optimised away

static void touch(const void *data, size_t len)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < len; i++)
        checksum = checksum * 31 + bytes[i];
}

static void walk_value(const struct gguf_value *value)
{
    size_t count = gguf_value_count(value);
    enum gguf_kind item_kind = gguf_value_item_kind(value);
    REQUIRE(item_kind != GGUF_ARRAY);
    REQUIRE(gguf_value_kind(value) == GGUF_ARRAY || (gguf_value_kind(value) == item_kind && count == 1));
    for (size_t i = 0; i <= count; i++) {
        struct gguf_string text;
        uint64_t natural;
        int64_t integer;
        double real;
        bool is_text = gguf_value_string(value, i, &text);
        bool is_number = gguf_value_u64(value, i, &natural);
        is_number |= gguf_value_i64(value, i, &integer);
        is_number |= gguf_value_f64(value, i, &real);
        REQUIRE(is_text == (i < count && item_kind == GGUF_STRING));
        REQUIRE(is_number == (i < count && item_kind != GGUF_STRING));
        if (is_text)
            touch(text.data, text.len);
    }
}

static void walk_keys(const struct gguf *gguf)
{
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        const struct gguf_value *value;
        struct gguf_string key = gguf_key_at(gguf, i, &value);
        touch(key.data, key.len);
        walk_value(value);
        char *text = strndup(key.data, key.len);
        REQUIRE(text);
        REQUIRE(strlen(text) != key.len || gguf_find(gguf, text) == value);
        free(text);
    }
}

static void walk_tensors(const struct gguf *gguf, uint64_t file_size_bytes)
{
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        REQUIRE(gguf_tensor_find(gguf, tensor->name) == tensor);
        REQUIRE(tensor->n_dims >= 1 && tensor->n_dims <= GGUF_MAX_DIMS && tensor->file == 0);
        REQUIRE((tensor->size_bytes > 0) == (lode_type_find(tensor->type) != NULL));
        if (tensor->size_bytes)
            REQUIRE(tensor->offset_bytes <= file_size_bytes &&
                    tensor->size_bytes <= file_size_bytes - tensor->offset_bytes);
        for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++)
            REQUIRE(tensor->ne[d] > 0 && (d < tensor->n_dims || tensor->ne[d] == 1));
    }
}

static void try(const uint8_t *data, size_t size_bytes, uint64_t file_size_bytes)
{
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_parse(&gguf, data, size_bytes, file_size_bytes, "fuzz.gguf", &error);
    if (code) {
        REQUIRE(!gguf && code < 0 && error.code == code && strncmp(error.text, "fuzz.gguf: ", 11) == 0);
        REQUIRE(strlen(error.text) + 1 < sizeof error.text);
        return;
    }
    REQUIRE(gguf_version(gguf) == 2 || gguf_version(gguf) == 3);
    REQUIRE(gguf_file_count(gguf) == 1 && gguf_file_size_bytes(gguf, 0) == file_size_bytes);
    walk_keys(gguf);
    walk_tensors(gguf, file_size_bytes);
    gguf_close(gguf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    try(data, size_bytes, size_bytes);
    try(data, size_bytes, UINT64_MAX); // as if all tensor data were there: the arithmetic alone must refuse
    return 0;
}
