// The public face of the tokenizer.
#include "core/tokenizer_api.h"

#include <stdlib.h>

int lode_tokenizer_wrap(struct lode_tokenizer **out, const struct gguf *gguf, struct lode_error *error)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the tokenizer");
    int rc = tokenizer_load(&(*out)->tokenizer, gguf, error);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

int lode_tokenizer_open(struct lode_tokenizer **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    struct gguf *gguf;
    int rc = gguf_open(&gguf, path, error);
    if (rc)
        return rc;
    rc = lode_tokenizer_wrap(out, gguf, error);
    if (rc)
        lode_fail_in(error, "%s", path);
    gguf_close(gguf);
    return rc;
}

void lode_tokenizer_close(struct lode_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    tokenizer_free(tokenizer->tokenizer);
    free(tokenizer);
}

int lode_encode(const struct lode_tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                int32_t **out_ids, size_t *out_count, struct lode_error *error)
{
    unsigned inner = 0;
    if (flags & LODE_ENCODE_SPECIAL)
        inner |= TOKENIZER_SPECIAL;
    if (flags & LODE_ENCODE_BOS)
        inner |= TOKENIZER_BOS;
    return tokenizer_encode(tokenizer->tokenizer, text, len, inner, NULL, 0, out_ids, out_count, error);
}

const char *lode_piece(const struct lode_tokenizer *tokenizer, int32_t id, bool show_special, size_t *out_len)
{
    return tokenizer_piece(tokenizer->tokenizer, id, show_special, out_len);
}

uint32_t lode_vocab_size(const struct lode_tokenizer *tokenizer)
{
    return tokenizer_vocab_size(tokenizer->tokenizer);
}
