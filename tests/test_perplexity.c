// Trained models on a text they have never seen: the perplexity that llama-perplexity reports for the same
// files.
#include "core/lode.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK 512

static char *read_text(size_t *out_len)
{
    char path[512];
    cr_assert(test_data_find(path, sizeof path, "tiny/heldout.txt"));
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    *out_len = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*out_len);
    cr_assert_eq(fread(text, 1, *out_len, file), *out_len);
    fclose(file);
    return text;
}

static double nll(const float *logits, size_t vocab, int32_t id)
{
    double largest = logits[0], sum = 0;
    for (size_t i = 1; i < vocab; i++)
        largest = fmax(largest, logits[i]);
    for (size_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - largest);
    return largest + log(sum) - logits[id];
}

// Second halves of chunks that start with <bos>, as llama-perplexity scores them.
static double perplexity(const char *model)
{
    struct lode_error error = {0};
    struct lode_engine *engine;
    cr_assert_eq(lode_engine_open(&engine, model, NULL, &error), 0, "%s", error.text);
    const struct lode_session_options options = {.context = CHUNK};
    struct lode_session *session;
    cr_assert_eq(lode_session_open(&session, engine, &options, &error), 0, "%s", error.text);
    const size_t vocab = lode_engine_shape(engine)->vocab, first = CHUNK / 2;
    size_t len, count;
    char *text = read_text(&len);
    int32_t *ids;
    cr_assert_eq(lode_encode(lode_engine_tokenizer(engine), text, len, LODE_ENCODE_BOS, &ids, &count, &error),
                 0);
    float *logits = malloc(first * vocab * sizeof *logits);
    double sum = 0;
    size_t scored = 0;
    for (size_t begin = 0; begin + CHUNK <= count; begin += CHUNK) {
        ids[begin] = ids[0];
        lode_session_rewind(session, 0);
        cr_assert_eq(lode_session_eval(session, ids + begin, CHUNK, first, logits, &error), 0, "%s",
                     error.text);
        for (size_t j = first; j + 1 < CHUNK; j++, scored++)
            sum += nll(logits + (j - first) * vocab, vocab, ids[begin + j + 1]);
    }
    free(logits);
    free(ids);
    free(text);
    lode_session_close(session);
    lode_engine_close(engine);
    return exp(sum / (double)scored);
}

static void expect_perplexity(const char *model, double expected)
{
    double found = perplexity(model);
    fprintf(stderr, "  %s: %.4f, llama.cpp %.4f\n", model, found, expected);
    cr_expect_float_eq(found, expected, 0.005 * expected, "%s: %.4f instead of %.4f", model, found, expected);
}

static void expect_shared(const char *name, double expected)
{
    char path[512];
    if (!test_data_find(path, sizeof path, name))
        cr_skip_test("%s is not here", name);
    expect_perplexity(path, expected);
}

Test(perplexity, demo_model_q4_0)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    expect_perplexity(path, 35.8147);
}

Test(perplexity, tiny_moe_q8_0)
{
    expect_shared("tiny/tiny-moe-q8_0.gguf", 35.6545);
}

Test(perplexity, tiny_moe_f16)
{
    expect_shared("tiny/tiny-moe-f16.gguf", 35.6282);
}

Test(perplexity, tiny_ple_q4_0)
{
    expect_shared("tiny/tiny-ple-q4_0.gguf", 129.8379);
}

Test(perplexity, tiny_ple_q8_0)
{
    expect_shared("tiny/tiny-ple-q8_0.gguf", 129.3089);
}

Test(perplexity, tiny_ple_f16)
{
    expect_shared("tiny/tiny-ple-f16.gguf", 129.3214);
}
