// A greedy run has the same tokens, and the same bits in its logits, with any number of threads and each
// time: the demo model and all golden models that are here, one of each type of weights among them.
#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_TOKENS 64

// Too large for the project: these lie beside it, or are absent.
static const char *const large_models[] = {"golden/m-e2b-f32.gguf",     "golden/m-e4b-f32.gguf",
                                           "golden/m-26b-a4b-f32.gguf", "golden/m-31b-f32.gguf",
                                           "golden/k-31b-f32.gguf",     "golden/k-moe-Q6_K.gguf"};

static const int32_t prompt[] = {2, 105, 107, 300, 301, 302, 303, 304, 210, 211, 212};
#define N_PROMPT (sizeof prompt / sizeof *prompt)

struct greedy_run {
    int32_t ids[N_TOKENS];
    uint64_t logits_hash; // FNV-1a of all bytes of all logits
};

static void hash_bytes(uint64_t *hash, const void *data, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        *hash = (*hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3;
}

static int32_t largest(const float *logits, size_t vocab)
{
    size_t best = 0;
    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static struct greedy_run run_greedily(const char *path, uint32_t threads, size_t n_prompt)
{
    struct greedy_run run = {.logits_hash = 0xcbf29ce484222325};
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = threads;
    const struct lode_session_options session_options = {.context = 128};
    struct lode_engine *engine;
    struct lode_session *session;
    struct lode_error error;
    cr_assert_eq(lode_engine_open(&engine, path, &options, &error), 0, "%s", error.text);
    cr_assert_eq(lode_session_open(&session, engine, &session_options, &error), 0, "%s", error.text);
    const size_t vocab = lode_engine_shape(engine)->vocab;
    float *logits = malloc(vocab * sizeof *logits);
    cr_assert_eq(lode_session_eval(session, prompt, n_prompt, 1, logits, &error), 0, "%s", error.text);
    for (int i = 0; i < N_TOKENS; i++) {
        hash_bytes(&run.logits_hash, logits, vocab * sizeof *logits);
        run.ids[i] = largest(logits, vocab);
        cr_assert_eq(lode_session_eval(session, &run.ids[i], 1, 1, logits, &error), 0, "%s", error.text);
    }
    free(logits);
    lode_session_close(session);
    lode_engine_close(engine);
    return run;
}

static void check_model(const char *path)
{
    static const uint32_t threads[] = {2, 2, 3};
    const struct greedy_run first = run_greedily(path, 1, N_PROMPT);
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        const struct greedy_run again = run_greedily(path, threads[i], N_PROMPT);
        cr_expect_arr_eq(again.ids, first.ids, sizeof first.ids, "%s, %u threads", path, threads[i]);
        cr_expect_eq(again.logits_hash, first.logits_hash, "%s, %u threads: other bits", path, threads[i]);
    }
}

Test(determinism, demo_model)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    check_model(path);
}

Test(determinism, golden_models_of_the_project)
{
    char pattern[512];
    test_project_path(pattern, sizeof pattern, "tests/data/golden/*.gguf");
    glob_t found;
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0, "there are no golden models");
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_model(found.gl_pathv[i]);
    globfree(&found);
}

Test(determinism, golden_models_beside_the_project)
{
    size_t done = 0;
    for (size_t i = 0; i < sizeof large_models / sizeof *large_models; i++) {
        char path[512];
        if (!test_data_find(path, sizeof path, large_models[i]))
            continue;
        check_model(path);
        done++;
    }
    if (!done)
        cr_skip_test("the F32 golden models are not here (each is above 2 MB)");
}

// What the others compare does depend on what was computed.
Test(determinism, another_prompt_gives_other_bits)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    const struct greedy_run a = run_greedily(path, 1, N_PROMPT), b = run_greedily(path, 1, N_PROMPT - 1);
    cr_expect_neq(a.logits_hash, b.logits_hash);
    cr_expect_neq(memcmp(a.ids, b.ids, sizeof a.ids), 0);
}
