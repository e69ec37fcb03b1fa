// The public face of the chat format.
#include "core/chat.h"
#include "core/tokenizer_api.h"

#include <stdlib.h>

int lode_chat_render(char **out_text, const char *conversation_json, const struct lode_chat_options *options,
                     struct lode_error *error)
{
    struct chat_text rendered;
    *out_text = NULL;
    int rc = chat_render(&rendered, conversation_json, options, error);
    if (rc)
        return rc;
    *out_text = rendered.text;
    rendered.text = NULL;
    chat_text_free(&rendered);
    return 0;
}

int lode_chat_encode(const struct lode_tokenizer *tokenizer, const char *conversation_json,
                     const struct lode_chat_options *options, int32_t **out_ids, size_t *out_count,
                     bool *out_starts_thinking, struct lode_error *error)
{
    struct chat_text rendered;
    int rc = chat_render(&rendered, conversation_json, options, error);
    if (rc)
        return rc;
    if (out_starts_thinking)
        *out_starts_thinking = rendered.opens_thinking;
    rc =
        tokenizer_encode(tokenizer->tokenizer, rendered.text, rendered.len, TOKENIZER_SPECIAL | TOKENIZER_BOS,
                         rendered.plain, rendered.n_plain, out_ids, out_count, error);
    chat_text_free(&rendered);
    return rc;
}

int lode_chat_parse(char **out_json, const char *reply, size_t len, bool starts_thinking,
                    struct lode_error *error)
{
    return chat_parse(out_json, reply, len, starts_thinking, error);
}
