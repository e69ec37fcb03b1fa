// Feeds headers to all that reads them after the GGUF parser: the tensor table, the shape, the tokenizer. The
// file is taken to be as large as its tensors need, so that inputs need no weights.
#include "core/gemma4.h"
#include "core/shape.h"
#include "core/tokenizer.h"

#include <stdlib.h>

static void use_model(const struct gguf *gguf)
{
    struct gemma_model model;
    struct lode_error error;
    if (gemma_model_load(&model, gguf, &error))
        return;
    struct lode_shape shape;
    shape_describe(&shape, &model, gguf);
    gemma_model_free(&model);
}

static void use_tokenizer(const struct gguf *gguf, const uint8_t *data, size_t size)
{
    struct tokenizer *tokenizer;
    struct lode_error error;
    if (tokenizer_load(&tokenizer, gguf, &error))
        return;
    int32_t *ids;
    size_t count, text_len = size < 256 ? size : 256;
    if (tokenizer_encode(tokenizer, (const char *)data, text_len, TOKENIZER_SPECIAL, NULL, 0, &ids, &count,
                         &error) == 0)
        free(ids);
    tokenizer_free(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf;
    struct lode_error error;
    if (gguf_parse(&gguf, data, size, UINT64_C(1) << 40, "fuzz", &error))
        return 0;
    use_model(gguf);
    use_tokenizer(gguf, data, size);
    gguf_close(gguf);
    return 0;
}
