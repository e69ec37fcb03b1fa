// Loads the tokenizer section of a GGUF file: texts, kinds, special tokens, byte tokens, characters.
//
// The section comes from strangers: every array's kind and length is checked, and what encoding and decoding
// rely on (a token for every byte and for the space, no text twice) is checked here once, so that they need
// no error for it. Special tokens are found by their text, for small vocabularies have them at other ids.
#include "core/tokenizer_internal.h"

#include "base/checked.h"

#include <stdio.h>
#include <stdlib.h>

#define KEY_MODEL "tokenizer.ggml.model"
#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"

enum token_type { // values of the file
    TYPE_UNDEFINED = 0,
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6,
};

// What Gemma 4's own tokens are, whatever the file says: early files call <eos> a normal token, and the
// user-defined
// <|tool_response> ends a generation, so it is never shown.
static const struct special_name {
    const char *text;
    uint8_t flags;
} special_names[] = {
    {"<pad>", TOKEN_CONTROL},
    {"<eos>", TOKEN_CONTROL | TOKEN_END},
    {"<bos>", TOKEN_CONTROL},
    {"<unk>", TOKEN_CONTROL},
    {"<mask>", TOKEN_CONTROL},
    {"<|tool>", TOKEN_CONTROL},
    {"<tool|>", TOKEN_CONTROL},
    {"<|tool_call>", 0},
    {"<tool_call|>", 0},
    {"<|tool_response>", TOKEN_CONTROL | TOKEN_END},
    {"<tool_response|>", 0},
    {"<|\"|>", 0},
    {"<|think|>", TOKEN_CONTROL},
    {"<|channel>", 0},
    {"<channel|>", 0},
    {"<|turn>", TOKEN_CONTROL},
    {"<turn|>", TOKEN_CONTROL | TOKEN_END},
    {"<|image>", TOKEN_CONTROL},
    {"<|image|>", TOKEN_CONTROL},
    {"<image|>", TOKEN_CONTROL},
    {"<|audio>", TOKEN_CONTROL},
    {"<|audio|>", TOKEN_CONTROL},
    {"<audio|>", TOKEN_CONTROL},
    {"<|video|>", TOKEN_CONTROL},
};

static int fail_memory(const struct tokenizer *tokenizer, struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the tokenizer's %u tokens", tokenizer->n_tokens);
}

static int check_model(const struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_value *value = gguf_find(gguf, KEY_MODEL);
    if (!value)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: no " KEY_MODEL ": the file holds no tokenizer; use a complete model file",
                         gguf_file_path(gguf, 0));
    struct gguf_string model;
    if (gguf_value_kind(value) != GGUF_STRING || !gguf_value_string(value, 0, &model))
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: " KEY_MODEL " is no string; the file is damaged, get it again",
                         gguf_file_path(gguf, 0));
    if (model.len != 6 || memcmp(model.data, "gemma4", 6) != 0)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s: " KEY_MODEL " is not gemma4; only tokenizers of Gemma 4 models can be read",
                         gguf_file_path(gguf, 0));
    return 0;
}

int tokenizer_find_array(const struct gguf_value **out, const struct gguf *gguf, const char *key,
                         struct lode_error *error)
{
    *out = gguf_find(gguf, key);
    if (!*out)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: no %s: the tokenizer is incomplete; use a complete model file",
                         gguf_file_path(gguf, 0), key);
    if (gguf_value_kind(*out) != GGUF_ARRAY)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: %s is no array; the file is damaged, get it again",
                         gguf_file_path(gguf, 0), key);
    return 0;
}

static int check_token_count(struct tokenizer *tokenizer, const struct gguf *gguf,
                             const struct gguf_value *tokens, struct lode_error *error)
{
    size_t count = gguf_value_count(tokens);
    if (count == 0)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: " KEY_TOKENS " is empty; use a complete model file",
                         gguf_file_path(gguf, 0));
    if (count > BPE_MAX_TOKENS)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s: %zu tokens; this program reads vocabularies of up to %u",
                         gguf_file_path(gguf, 0), count, BPE_MAX_TOKENS);
    tokenizer->n_tokens = (uint32_t)count;
    return 0;
}

static int measure_texts(uint64_t *out_bytes, const struct gguf *gguf, const struct gguf_value *tokens,
                         struct lode_error *error)
{
    *out_bytes = 0;
    for (size_t i = 0; i < gguf_value_count(tokens); i++) {
        struct gguf_string text;
        if (!gguf_value_string(tokens, i, &text))
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s: " KEY_TOKENS "[%zu] is no string; the file is damaged, get it again",
                             gguf_file_path(gguf, 0), i);
        if (!checked_add(out_bytes, *out_bytes, text.len) || *out_bytes > UINT32_MAX)
            return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s: " KEY_TOKENS " holds more than 4 GiB of text",
                             gguf_file_path(gguf, 0));
    }
    return 0;
}

static int load_texts(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_value *tokens;
    uint64_t size_bytes;
    int code = tokenizer_find_array(&tokens, gguf, KEY_TOKENS, error);
    if (!code)
        code = check_token_count(tokenizer, gguf, tokens, error);
    if (!code)
        code = measure_texts(&size_bytes, gguf, tokens, error);
    if (code)
        return code;
    struct text_list *texts = &tokenizer->texts;
    texts->bytes = malloc(size_bytes + 1);
    texts->begin = malloc((tokenizer->n_tokens + (size_t)1) * sizeof *texts->begin);
    if (!texts->bytes || !texts->begin)
        return fail_memory(tokenizer, error);
    texts->begin[0] = 0;
    for (uint32_t i = 0; i < tokenizer->n_tokens; i++) {
        struct gguf_string text = {"", 0};
        gguf_value_string(tokens, i, &text);
        memcpy(texts->bytes + texts->begin[i], text.data, text.len);
        texts->begin[i + 1] = texts->begin[i] + (uint32_t)text.len;
    }
    return 0;
}

static int index_texts(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    if (!text_index_init(&tokenizer->index, tokenizer->n_tokens))
        return fail_memory(tokenizer, error);
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++) {
        int32_t same = text_index_add(&tokenizer->index, &tokenizer->texts, id);
        if (same >= 0)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s: tokens %d and %u have the same text; the file is damaged, get it again",
                             gguf_file_path(gguf, 0), same, id);
    }
    return 0;
}

static uint8_t flags_of_type(int64_t type)
{
    switch (type) {
    case TYPE_UNKNOWN:
        return TOKEN_CONTROL | TOKEN_PROTECTED;
    case TYPE_CONTROL:
        return TOKEN_CONTROL | TOKEN_PROTECTED | TOKEN_SPECIAL;
    case TYPE_USER_DEFINED: // files may have runs of newlines here, which merges make as well: not protected
        return TOKEN_SPECIAL;
    case TYPE_BYTE:
        return TOKEN_BYTE | TOKEN_PROTECTED;
    default:
        return 0;
    }
}

static int load_types(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_value *types;
    int code = tokenizer_find_array(&types, gguf, KEY_TYPES, error);
    if (code)
        return code;
    if (gguf_value_count(types) != tokenizer->n_tokens)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: %u tokens but %zu of " KEY_TYPES "; the file is damaged",
                         gguf_file_path(gguf, 0), tokenizer->n_tokens, gguf_value_count(types));
    tokenizer->flags = malloc(tokenizer->n_tokens);
    if (!tokenizer->flags)
        return fail_memory(tokenizer, error);
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++) {
        int64_t type;
        if (!gguf_value_i64(types, id, &type) || type < TYPE_UNDEFINED || type > TYPE_BYTE)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s: " KEY_TYPES
                             "[%u] is no kind of token (0 to 6); the file is damaged, get it again",
                             gguf_file_path(gguf, 0), id);
        tokenizer->flags[id] = flags_of_type(type);
    }
    return 0;
}

static void name_specials(struct tokenizer *tokenizer)
{
    for (size_t i = 0; i < sizeof special_names / sizeof *special_names; i++) {
        const struct special_name *name = &special_names[i];
        int32_t id = tokenizer_find(tokenizer, name->text, strlen(name->text));
        if (id >= 0)
            tokenizer->flags[id] = name->flags | TOKEN_SPECIAL | TOKEN_PROTECTED;
    }
    int32_t strike =
        tokenizer_find(tokenizer, "</s>", 4); // HTML's end of strike-through, whatever its type says
    if (strike >= 0)
        tokenizer->flags[strike] = 0;
    tokenizer->bos = tokenizer_find(tokenizer, "<bos>", 5);
}

static int find_byte_tokens(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    uint32_t n_typed = 0;
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++)
        n_typed += (tokenizer->flags[id] & TOKEN_BYTE) != 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        int32_t id = tokenizer_find(tokenizer, text, 6);
        if (id < 0)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "%s: the vocabulary has no token %s; use a complete model file",
                             gguf_file_path(gguf, 0), text);
        n_typed -= (tokenizer->flags[id] & TOKEN_BYTE) != 0;
        tokenizer->flags[id] = TOKEN_BYTE | TOKEN_PROTECTED;
        tokenizer->byte_ids[byte] = id;
    }
    if (n_typed)
        return lode_fail(
            error, LODE_ERR_FORMAT,
            "%s: %u tokens are typed as bytes but have no text <0x00> to <0xFF>; the file is damaged",
            gguf_file_path(gguf, 0), n_typed);
    return 0;
}

// Bytes of the text if it is one whole character that plain text may become, else 0.
static unsigned character_of_token(const struct tokenizer *tokenizer, uint32_t id)
{
    size_t len;
    const char *text = text_at(&tokenizer->texts, id, &len);
    if (len == 0 || len > 4 || tokenizer->flags[id] & TOKEN_PROTECTED || text[0] == ' ')
        return 0;
    return utf8_character_bytes(text, len) == len ? (unsigned)len : 0;
}

static int index_characters(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++)
        count += character_of_token(tokenizer, id) != 0;
    if (!character_index_init(&tokenizer->characters, count))
        return fail_memory(tokenizer, error);
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++) {
        unsigned n = character_of_token(tokenizer, id);
        const char *text = tokenizer->texts.bytes + tokenizer->texts.begin[id];
        if (n)
            character_index_add(&tokenizer->characters, character_key(text, n), (int32_t)id);
    }
    if (tokenizer->characters.ascii[' '] < 0)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: the vocabulary has no token for the space (U+2581); use a complete model file",
                         gguf_file_path(gguf, 0));
    return 0;
}

// Writes the text with spaces for U+2581; returns the bytes written.
static size_t decode_text(char *out, const char *text, size_t len)
{
    char *end = out;
    for (size_t at = 0; at < len;) {
        bool is_mark = len - at >= SPACE_MARK_BYTES && memcmp(text + at, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        *end++ = is_mark ? ' ' : text[at];
        at += is_mark ? SPACE_MARK_BYTES : 1;
    }
    return (size_t)(end - out);
}

static int decode_pieces(struct tokenizer *tokenizer, struct lode_error *error)
{
    const struct text_list *texts = &tokenizer->texts;
    struct text_list *pieces = &tokenizer->pieces;
    pieces->bytes = malloc(texts->begin[tokenizer->n_tokens] + (size_t)1);
    pieces->begin = malloc((tokenizer->n_tokens + (size_t)1) * sizeof *pieces->begin);
    if (!pieces->bytes || !pieces->begin)
        return fail_memory(tokenizer, error);
    uint32_t used = 0;
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++) {
        size_t len;
        const char *text = text_at(texts, id, &len);
        bool is_byte = tokenizer->flags[id] & TOKEN_BYTE;
        size_t piece_len = is_byte ? 1 : decode_text(pieces->bytes + used, text, len);
        pieces->begin[id] = used;
        used += (uint32_t)piece_len;
        if (piece_len > tokenizer->longest_piece_bytes)
            tokenizer->longest_piece_bytes = piece_len;
    }
    pieces->begin[tokenizer->n_tokens] = used;
    for (unsigned byte = 0; byte < 256; byte++)
        pieces->bytes[pieces->begin[tokenizer->byte_ids[byte]]] = (char)byte;
    return 0;
}

static int compare_specials(const void *a, const void *b, void *context)
{
    const struct tokenizer *tokenizer = context;
    size_t len_a, len_b;
    const char *text_a = text_at(&tokenizer->texts, *(const uint32_t *)a, &len_a);
    const char *text_b = text_at(&tokenizer->texts, *(const uint32_t *)b, &len_b);
    if (text_a[0] != text_b[0])
        return (unsigned char)text_a[0] < (unsigned char)text_b[0] ? -1 : 1;
    return len_a == len_b ? 0 : len_a > len_b ? -1 : 1;
}

static bool is_recognised(const struct tokenizer *tokenizer, uint32_t id)
{
    return tokenizer->flags[id] & TOKEN_SPECIAL &&
           tokenizer->texts.begin[id] < tokenizer->texts.begin[id + 1];
}

static int list_specials(struct tokenizer *tokenizer, struct lode_error *error)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++)
        count += is_recognised(tokenizer, id);
    tokenizer->specials = malloc((count + (size_t)1) * sizeof *tokenizer->specials);
    if (!tokenizer->specials)
        return fail_memory(tokenizer, error);
    count = 0;
    for (uint32_t id = 0; id < tokenizer->n_tokens; id++) {
        if (!is_recognised(tokenizer, id))
            continue;
        tokenizer->specials[count++] = (int32_t)id;
        unsigned char first = (unsigned char)tokenizer->texts.bytes[tokenizer->texts.begin[id]];
        tokenizer->special_begin[first + 1]++;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        tokenizer->special_begin[byte + 1] += tokenizer->special_begin[byte];
    qsort_r(tokenizer->specials, count, sizeof *tokenizer->specials, compare_specials, tokenizer);
    return 0;
}

static int load(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    int code = check_model(gguf, error);
    if (!code)
        code = load_texts(tokenizer, gguf, error);
    if (!code)
        code = index_texts(tokenizer, gguf, error);
    if (!code)
        code = load_types(tokenizer, gguf, error);
    if (code)
        return code;
    name_specials(tokenizer);
    code = find_byte_tokens(tokenizer, gguf, error);
    if (!code)
        code = index_characters(tokenizer, gguf, error);
    if (!code)
        code = decode_pieces(tokenizer, error);
    if (!code)
        code = list_specials(tokenizer, error);
    return code ? code : tokenizer_load_merges(tokenizer, gguf, error);
}

int tokenizer_load(struct tokenizer **out, const struct gguf *gguf, struct lode_error *error)
{
    *out = NULL;
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the tokenizer");
    int code = load(tokenizer, gguf, error);
    if (code)
        tokenizer_free(tokenizer);
    else
        *out = tokenizer;
    return code;
}
