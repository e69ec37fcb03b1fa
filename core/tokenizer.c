// Text to ids and back, over a vocabulary that tokenizer_load.c has made.
//
// Ids of characters are written straight into the result. Where no merge can reach over the border between
// two characters the piece before it is merged in place: pieces are words, so the work stays in the nearest
// cache and a line of a megabyte costs no more than its words.
#include "core/tokenizer_internal.h"

#include <assert.h>
#include <stdlib.h>

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    free(tokenizer->texts.bytes);
    free(tokenizer->texts.begin);
    free(tokenizer->pieces.bytes);
    free(tokenizer->pieces.begin);
    free(tokenizer->flags);
    free(tokenizer->index.slots);
    free(tokenizer->characters.others);
    free(tokenizer->specials);
    bpe_free(&tokenizer->bpe);
    free(tokenizer);
}

size_t tokenizer_memory_bytes(const struct tokenizer *tokenizer)
{
    size_t n = tokenizer->n_tokens;
    size_t texts_bytes = 2 * (tokenizer->texts.begin[n] + (n + 1) * sizeof(uint32_t));
    size_t index_bytes = ((size_t)1 << (64 - tokenizer->index.slot_shift)) * sizeof *tokenizer->index.slots;
    size_t characters_bytes =
        ((size_t)1 << (64 - tokenizer->characters.slot_shift)) * sizeof *tokenizer->characters.others;
    size_t specials_bytes = tokenizer->special_begin[256] * sizeof *tokenizer->specials;
    return sizeof *tokenizer + texts_bytes + n + index_bytes + characters_bytes + specials_bytes +
           bpe_memory_bytes(&tokenizer->bpe);
}

uint32_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

static bool has_flag(const struct tokenizer *tokenizer, int32_t id, enum token_flags flag)
{
    return (uint32_t)id < tokenizer->n_tokens && tokenizer->flags[id] & flag;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t id)
{
    return has_flag(tokenizer, id, TOKEN_END);
}

bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id)
{
    return has_flag(tokenizer, id, TOKEN_CONTROL);
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return has_flag(tokenizer, id, TOKEN_SPECIAL);
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t len)
{
    uint64_t hash = text_hash_end(text_hash_add(TEXT_HASH_START, text, len));
    return text_index_find(&tokenizer->index, &tokenizer->texts, hash, text, len, "", 0);
}

// The result grows behind `ids`, which has room for one id per byte of the text and <bos>.
struct encoder {
    const struct tokenizer *tokenizer;
    const char *text;
    size_t len;
    const struct tokenizer_span *plain;
    size_t n_plain;
    int32_t *ids;
    size_t count;
    size_t piece_begin; // ids from here on are characters that are not merged yet
    struct bpe_scratch scratch;
};

static bool close_piece(struct encoder *encoder)
{
    size_t n = encoder->count - encoder->piece_begin;
    if (!bpe_apply(&encoder->tokenizer->bpe, encoder->ids + encoder->piece_begin, &n, &encoder->scratch))
        return false;
    encoder->count = encoder->piece_begin += n;
    return true;
}

static void append_closed(struct encoder *encoder, int32_t id)
{
    encoder->ids[encoder->count++] = id;
    encoder->piece_begin = encoder->count;
}

static bool append_bytes(struct encoder *encoder, const char *bytes, size_t n)
{
    if (!close_piece(encoder))
        return false;
    for (size_t i = 0; i < n; i++)
        append_closed(encoder, encoder->tokenizer->byte_ids[(unsigned char)bytes[i]]);
    return true;
}

// Text without special tokens, from `begin` to `end`.
static bool encode_ordinary(struct encoder *encoder, size_t begin, size_t end)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    uint32_t previous = 0;
    for (size_t at = begin; at < end;) {
        const char *character = encoder->text + at;
        unsigned n = utf8_character_bytes(character, end - at);
        uint32_t key = character_key(character, n);
        int32_t id = n ? character_find(&tokenizer->characters, key) : -1;
        at += n ? n : 1;
        if (id < 0) {
            if (!append_bytes(encoder, character, n ? n : 1))
                return false;
            continue;
        }
        if (encoder->count > encoder->piece_begin && !bpe_may_join(&tokenizer->bpe, previous, key) &&
            !close_piece(encoder))
            return false;
        encoder->ids[encoder->count++] = id;
        previous = key;
    }
    return close_piece(encoder);
}

// Whether any byte of [begin, end) lies in a plain span. *first_span skips spans that end before `begin`.
static bool touches_plain(const struct encoder *encoder, size_t *first_span, size_t begin, size_t end)
{
    while (*first_span < encoder->n_plain && encoder->plain[*first_span].end <= begin)
        ++*first_span;
    for (size_t i = *first_span; i < encoder->n_plain && encoder->plain[i].begin < end; i++)
        if (encoder->plain[i].begin < encoder->plain[i].end)
            return true;
    return false;
}

// The longest special token that the text has at `at`, -1 if there is none.
static int32_t special_at(const struct encoder *encoder, size_t at, size_t *first_span, size_t *out_len)
{
    const struct tokenizer *tokenizer = encoder->tokenizer;
    unsigned char first = (unsigned char)encoder->text[at];
    for (uint32_t i = tokenizer->special_begin[first]; i < tokenizer->special_begin[first + 1]; i++) {
        const char *special = text_at(&tokenizer->texts, (uint32_t)tokenizer->specials[i], out_len);
        if (*out_len <= encoder->len - at && memcmp(encoder->text + at, special, *out_len) == 0 &&
            !touches_plain(encoder, first_span, at, at + *out_len))
            return tokenizer->specials[i];
    }
    return -1;
}

static bool encode_with_specials(struct encoder *encoder)
{
    const uint32_t *special_begin = encoder->tokenizer->special_begin;
    size_t ordinary_begin = 0, first_span = 0;
    for (size_t at = 0; at < encoder->len;) {
        unsigned char byte = (unsigned char)encoder->text[at];
        size_t special_len;
        int32_t special = -1;
        if (special_begin[byte] < special_begin[byte + 1])
            special = special_at(encoder, at, &first_span, &special_len);
        if (special < 0) {
            at++;
            continue;
        }
        if (!encode_ordinary(encoder, ordinary_begin, at))
            return false;
        append_closed(encoder, special);
        at = ordinary_begin = at + special_len;
    }
    return encode_ordinary(encoder, ordinary_begin, encoder->len);
}

static int check_request(const struct encoder *encoder, unsigned flags, struct lode_error *error)
{
    if (encoder->len >= UINT32_MAX)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a text of %zu bytes is too long to tokenize; cut it below 4 GiB", encoder->len);
    if (flags & TOKENIZER_BOS && encoder->tokenizer->bos < 0)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the vocabulary has no <bos> token to put in front of a text");
    size_t previous_end = 0;
    for (size_t i = 0; i < encoder->n_plain; i++) {
        const struct tokenizer_span *span = &encoder->plain[i];
        if (span->begin < previous_end || span->end < span->begin || span->end > encoder->len)
            return lode_fail(
                error, LODE_ERR_ARGUMENT,
                "plain span %zu (%zu to %zu) is not in order or not inside the text of %zu bytes", i,
                span->begin, span->end, encoder->len);
        previous_end = span->end;
    }
    return 0;
}

// Gives back what the result does not need: it was sized for one id per byte.
static int32_t *shrink(int32_t *ids, size_t count)
{
    int32_t *smaller = realloc(ids, (count + !count) * sizeof *ids);
    return smaller ? smaller : ids;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     const struct tokenizer_span *plain, size_t n_plain, int32_t **out_ids, size_t *out_count,
                     struct lode_error *error)
{
    *out_ids = NULL;
    *out_count = 0;
    struct encoder encoder = {
        .tokenizer = tokenizer, .text = text, .len = len, .plain = plain, .n_plain = plain ? n_plain : 0};
    int code = check_request(&encoder, flags, error);
    if (code)
        return code;
    int32_t *result = malloc((len + 1) * sizeof *result);
    if (!result)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the tokens of a text of %zu bytes", len);
    encoder.ids = result + 1; // the first place is for <bos>
    bool complete =
        flags & TOKENIZER_SPECIAL ? encode_with_specials(&encoder) : encode_ordinary(&encoder, 0, len);
    free(encoder.scratch.memory);
    if (!complete) {
        free(result);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to tokenize a text of %zu bytes", len);
    }
    bool add_bos = flags & TOKENIZER_BOS && !(encoder.count && encoder.ids[0] == tokenizer->bos);
    if (add_bos)
        result[0] = tokenizer->bos;
    else
        memmove(result, encoder.ids, encoder.count * sizeof *result);
    *out_count = encoder.count + add_bos;
    *out_ids = shrink(result, *out_count);
    return 0;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, bool show_special, size_t *out_len)
{
    *out_len = 0;
    if ((uint32_t)id >= tokenizer->n_tokens || (!show_special && tokenizer->flags[id] & TOKEN_CONTROL))
        return "";
    return text_at(&tokenizer->pieces, (uint32_t)id, out_len);
}

size_t tokenizer_stream_capacity(const struct tokenizer *tokenizer)
{
    return tokenizer->longest_piece_bytes + sizeof((struct tokenizer_stream *)0)->pending;
}

size_t tokenizer_stream_push(const struct tokenizer *tokenizer, struct tokenizer_stream *stream, int32_t id,
                             bool show_special, char *out, size_t out_capacity)
{
    size_t len;
    const char *piece = tokenizer_piece(tokenizer, id, show_special, &len);
    return tokenizer_stream_bytes(stream, piece, len, out, out_capacity);
}

size_t tokenizer_stream_bytes(struct tokenizer_stream *stream, const char *bytes, size_t len, char *out,
                              size_t out_capacity)
{
    size_t n = stream->n_pending + len;
    assert(n <= out_capacity);
    memcpy(out, stream->pending, stream->n_pending);
    memcpy(out + stream->n_pending, bytes, len);
    stream->n_pending = utf8_incomplete_bytes(out, n);
    n -= stream->n_pending;
    memcpy(stream->pending, out + n, stream->n_pending);
    return n;
}

size_t tokenizer_stream_flush(struct tokenizer_stream *stream, char *out, size_t out_capacity)
{
    size_t n = stream->n_pending;
    assert(n <= out_capacity);
    memcpy(out, stream->pending, n);
    stream->n_pending = 0;
    return n;
}
