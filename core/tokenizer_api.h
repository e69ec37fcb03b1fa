// The public tokenizer object, for the files of the room that hand it out.
#ifndef LODE_TOKENIZER_API_H
#define LODE_TOKENIZER_API_H

#include "core/lode.h"
#include "core/tokenizer.h"

struct lode_tokenizer {
    struct tokenizer *tokenizer;
};

// Loads the tokenizer section of an open file; released by lode_tokenizer_close.
int lode_tokenizer_wrap(struct lode_tokenizer **out, const struct gguf *gguf, struct lode_error *error);

#endif
