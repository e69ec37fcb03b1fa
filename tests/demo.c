#include "tests/demo.h"

#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

const char demo_story[] =
    "Once upon a time there was a king who had three sons, and the youngest of them was";

struct lode_engine *demo_engine(uint32_t threads)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = threads;
    struct lode_engine *engine;
    struct lode_error error = {0};
    cr_assert_eq(lode_engine_open(&engine, path, &options, &error), 0, "%s", error.text);
    return engine;
}

struct lode_session *demo_session(struct lode_engine *engine, uint32_t context, uint32_t batch)
{
    const struct lode_session_options options = {.context = context, .batch = batch};
    struct lode_session *session;
    struct lode_error error = {0};
    cr_assert_eq(lode_session_open(&session, engine, &options, &error), 0, "%s", error.text);
    return session;
}

size_t demo_encode(const struct lode_engine *engine, const char *text, int32_t **ids)
{
    size_t count;
    struct lode_error error = {0};
    int rc =
        lode_encode(lode_engine_tokenizer(engine), text, strlen(text), LODE_ENCODE_BOS, ids, &count, &error);
    cr_assert_eq(rc, 0, "%s", error.text);
    return count;
}

void demo_feed(struct lode_session *session, const int32_t *ids, size_t count)
{
    struct lode_error error = {0};
    cr_assert_eq(lode_session_feed(session, ids, count, NULL, NULL, &error), 0, "%s", error.text);
}

float *demo_copy_logits(const struct lode_session *session, size_t vocab)
{
    const float *logits = lode_session_logits(session);
    cr_assert_not_null(logits);
    float *copy = malloc(vocab * sizeof *copy);
    memcpy(copy, logits, vocab * sizeof *copy);
    return copy;
}
