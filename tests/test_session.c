// Engines and sessions: timelines, rewinding, generation, limits.
#include "tests/demo.h"
#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct collected {
    int32_t ids[1024];
    size_t n, stop_after;
    char text[16384];
    size_t len;
};

static bool collect(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    struct collected *to = user;
    (void)part;
    if (id >= 0)
        to->ids[to->n++] = id;
    memcpy(to->text + to->len, text, len);
    to->len += len;
    return !to->stop_after || to->n < to->stop_after;
}

static enum lode_stop greedy(struct lode_session *session, struct collected *out, uint32_t max_tokens)
{
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = 0;
    options.max_tokens = max_tokens;
    options.ignore_end = true;
    options.on_token = collect;
    options.user = out;
    enum lode_stop stop;
    struct lode_error error = {0};
    cr_assert_eq(lode_session_generate(session, &options, &stop, &error), 0, "%s", error.text);
    return stop;
}

Test(session, greedy_text_is_the_same_for_any_threads_batch_and_repeat)
{
    struct collected first = {0};
    for (int run = 0; run < 6; run++) {
        struct lode_engine *engine = demo_engine(run % 2 + 1);
        struct lode_session *session = demo_session(engine, 256, run < 3 ? 512 : 5);
        int32_t *ids;
        size_t n = demo_encode(engine, demo_story, &ids);
        demo_feed(session, ids, n);
        struct collected text = {0};
        cr_assert_eq(greedy(session, &text, 64), LODE_STOP_LENGTH);
        cr_assert_eq(text.n, 64);
        if (run == 0)
            first = text;
        cr_expect_arr_eq(first.ids, text.ids, 64 * sizeof *text.ids, "run %d", run);
        free(ids);
        lode_session_close(session);
        lode_engine_close(engine);
    }
}

Test(session, generation_goes_on_where_it_stopped)
{
    struct lode_engine *engine = demo_engine(2);
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    struct lode_session *whole = demo_session(engine, 256, 0), *pieces = demo_session(engine, 256, 0);
    struct collected a = {0}, b = {0};
    demo_feed(whole, ids, n);
    greedy(whole, &a, 60);
    demo_feed(pieces, ids, n);
    greedy(pieces, &b, 20);
    cr_expect_eq(lode_session_position(pieces), n + 20);
    greedy(pieces, &b, 1);
    greedy(pieces, &b, 39);
    cr_expect_eq(b.n, 60);
    cr_expect_arr_eq(a.ids, b.ids, 60 * sizeof *a.ids);
    free(ids);
    lode_session_close(whole);
    lode_session_close(pieces);
    lode_engine_close(engine);
}

Test(session, rewinding_gives_the_logits_of_a_fresh_timeline)
{
    struct lode_engine *engine = demo_engine(2);
    const size_t vocab = lode_engine_shape(engine)->vocab;
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    struct lode_session *fresh = demo_session(engine, 256, 16), *rewound = demo_session(engine, 256, 16);
    demo_feed(fresh, ids, n);
    demo_feed(rewound, ids, n);
    struct collected text = {0};
    greedy(rewound, &text, 30);
    cr_assert_eq(lode_session_rewind(rewound, 7), 7);
    cr_expect_null(lode_session_logits(rewound));
    demo_feed(rewound, ids + 7, n - 7);
    float *a = demo_copy_logits(fresh, vocab), *b = demo_copy_logits(rewound, vocab);
    for (size_t i = 0; i < vocab; i++)
        cr_assert_float_eq(a[i], b[i], 1e-3, "logit %zu: %g and %g", i, a[i], b[i]);
    free(a);
    free(b);
    free(ids);
    lode_session_close(fresh);
    lode_session_close(rewound);
    lode_engine_close(engine);
}

Test(session, rewinding_past_the_ring_empties_the_timeline)
{
    struct lode_engine *engine = demo_engine(2);
    const uint32_t window = lode_engine_shape(engine)->window;
    struct lode_session *session = demo_session(engine, 4 * window, 8);
    int32_t ids[512];
    for (int i = 0; i < 512; i++)
        ids[i] = i ? 500 + i : 2;
    demo_feed(session, ids, 3 * window);
    cr_expect_eq(lode_session_rewind(session, 3 * window - 4), 3 * window - 4, "within the ring's slack");
    cr_expect_eq(lode_session_rewind(session, window + 3), 0, "the window before that point is gone");
    cr_expect_eq(lode_session_position(session), 0);
    demo_feed(session, ids, 20);
    struct lode_session *fresh = demo_session(engine, 4 * window, 8);
    demo_feed(fresh, ids, 20);
    cr_expect_arr_eq(lode_session_logits(session), lode_session_logits(fresh),
                     lode_engine_shape(engine)->vocab * sizeof(float));
    lode_session_close(session);
    lode_session_close(fresh);
    lode_engine_close(engine);
}

// Local layers keep a window only: with rings that have wrapped several times, any batch size must see the
// same.
Test(session, wrapped_rings_agree_for_any_batch)
{
    struct lode_engine *engine = demo_engine(2);
    const size_t vocab = lode_engine_shape(engine)->vocab;
    static const uint32_t batches[] = {480, 1, 37, 200};
    int32_t ids[480];
    for (int i = 0; i < 480; i++)
        ids[i] = i ? 424 + i * 7 : 2;
    float *first = NULL;
    for (int b = 0; b < 4; b++) {
        struct lode_session_options options = {.context = 480, .batch = batches[b], .kv = LODE_KV_F32};
        struct lode_session *session;
        cr_assert_eq(lode_session_open(&session, engine, &options, NULL), 0);
        demo_feed(session, ids, 480);
        float *logits = demo_copy_logits(session, vocab);
        lode_session_close(session);
        if (!first) {
            first = logits;
            continue;
        }
        // Attention rounds by batch, and the 8-bit activations behind it turn some of that into a step.
        struct distance d = golden_distance(first, logits, 1, vocab);
        cr_expect_leq(d.mean_kl, 1e-3, "batch %u: KL %g", batches[b], d.mean_kl);
        free(logits);
    }
    free(first);
    lode_engine_close(engine);
}

Test(session, a_full_context_stops_the_generation)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 24, 0);
    int32_t *ids;
    size_t n = demo_encode(engine, "Once upon a time", &ids);
    demo_feed(session, ids, n);
    struct collected text = {0};
    cr_expect_eq(greedy(session, &text, 100), LODE_STOP_CONTEXT);
    cr_expect_eq(text.n, 24 - n + 1, "one token beyond the context can be sampled, got %zu", text.n);
    cr_expect_eq(lode_session_position(session), 24);
    struct lode_error error;
    cr_expect_eq(lode_session_feed(session, ids, 1, NULL, NULL, &error), LODE_ERR_CONTEXT);
    cr_expect_not_null(strstr(error.text, "24"), "%s", error.text);
    free(ids);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(session, impossible_wishes_are_refused_with_numbers)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_error error;
    struct lode_session *session;
    struct lode_session_options options = {.context = lode_engine_shape(engine)->context_limit + 1};
    cr_expect_eq(lode_session_open(&session, engine, &options, &error), LODE_ERR_CONTEXT);
    cr_expect_null(session);
    options = (struct lode_session_options){.kv = 7};
    cr_expect_eq(lode_session_open(&session, engine, &options, &error), LODE_ERR_ARGUMENT);
    session = demo_session(engine, 16, 0);
    int32_t ids[32] = {2};
    cr_expect_eq(lode_session_feed(session, ids, 17, NULL, NULL, &error), LODE_ERR_CONTEXT);
    ids[1] = (int32_t)lode_engine_shape(engine)->vocab;
    cr_expect_eq(lode_session_feed(session, ids, 2, NULL, NULL, &error), LODE_ERR_ARGUMENT);
    ids[1] = -1;
    cr_expect_eq(lode_session_feed(session, ids, 2, NULL, NULL, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(lode_session_position(session), 0);
    struct lode_generate_options generate = lode_generate_options_default();
    cr_expect_eq(lode_session_generate(session, &generate, NULL, &error), LODE_ERR_ARGUMENT);
    float logits[1];
    cr_expect_eq(lode_session_eval(session, ids, 0, 0, logits, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(lode_session_eval(session, ids, 1, 2, logits, &error), LODE_ERR_ARGUMENT);
    lode_session_close(session);
    struct lode_engine_options engine_options = {.isa = "altivec"};
    struct lode_engine *other;
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    cr_expect_lt(lode_engine_open(&other, path, &engine_options, &error), 0);
    cr_expect_not_null(strstr(error.text, "altivec"), "%s", error.text);
    cr_expect_lt(lode_engine_open(&other, "/nonexistent/model.gguf", NULL, &error), 0);
    cr_expect_not_null(strstr(error.text, "/nonexistent/model.gguf"), "%s", error.text);
    lode_engine_close(engine);
}

static bool cancel_later(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)total;
    return done < *(uint64_t *)user;
}

Test(session, a_cancelled_prefill_keeps_its_complete_steps)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 64, 4);
    int32_t ids[20] = {2, 500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510};
    uint64_t limit = 8;
    struct lode_error error;
    cr_expect_eq(lode_session_feed(session, ids, 20, cancel_later, &limit, &error), LODE_ERR_CANCELLED);
    cr_expect_eq(lode_session_position(session), 8);
    uint64_t none = 0;
    struct lode_engine_options options = {.on_progress = cancel_later, .user = &none};
    struct lode_engine *other;
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    cr_assert_eq(lode_engine_open(&other, path, &options, &error), 0);
    struct lode_session *unloaded;
    cr_expect_eq(lode_session_open(&unloaded, other, NULL, &error), LODE_ERR_CANCELLED);
    cr_expect_null(unloaded);
    none = UINT64_MAX;
    cr_expect_eq(lode_session_open(&unloaded, other, NULL, &error), 0, "%s", error.text);
    lode_session_close(unloaded);
    lode_engine_close(other);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(session, the_caller_stops_and_biases_ban)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 128, 0);
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n);
    struct collected text = {.stop_after = 3};
    cr_expect_eq(greedy(session, &text, 50), LODE_STOP_CALLER);
    cr_expect_eq(text.n, 3);
    cr_expect_eq(lode_session_position(session), n + 3);

    lode_session_rewind(session, 0);
    demo_feed(session, ids, n);
    const struct lode_logit_bias ban = {text.ids[0], -INFINITY};
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = 0;
    options.sampling.biases = &ban;
    options.sampling.n_biases = 1;
    options.max_tokens = 20;
    struct collected other = {0};
    options.on_token = collect;
    options.user = &other;
    cr_assert_eq(lode_session_generate(session, &options, NULL, NULL), 0);
    for (size_t i = 0; i < other.n; i++)
        cr_expect_neq(other.ids[i], text.ids[0]);
    free(ids);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(session, sessions_of_one_engine_take_turns)
{
    struct lode_engine *engine = demo_engine(2);
    const size_t vocab = lode_engine_shape(engine)->vocab;
    struct lode_session *small = demo_session(engine, 64, 4), *large = demo_session(engine, 256, 64);
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(small, ids, 6);
    demo_feed(large, ids, n);
    float *alone = demo_copy_logits(large, vocab);
    demo_feed(small, ids + 6, n - 6);
    for (size_t i = 0; i < vocab; i++)
        cr_assert_float_eq(alone[i], lode_session_logits(small)[i], 1e-3);
    cr_expect_arr_eq(alone, lode_session_logits(large), vocab * sizeof *alone);
    free(alone);
    free(ids);
    lode_session_close(small);
    lode_session_close(large);
    lode_engine_close(engine);
}

Test(session, statistics_add_up)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 128, 0);
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n);
    struct collected text = {0};
    greedy(session, &text, 20);
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    cr_expect_eq(stats.prompt_tokens, n);
    cr_expect_eq(stats.generated_tokens, 20);
    cr_expect_gt(stats.prefill_tok_s, 0);
    cr_expect_float_eq(stats.decode_tok_s, 19 / stats.decode_s, 1e-6 * stats.decode_tok_s);
    cr_expect_gt(stats.ttft_s, 0);
    cr_expect_leq(stats.token_ms_p50, stats.token_ms_p95);
    cr_expect_leq(stats.token_ms_p95, stats.token_ms_p99);
    cr_expect_geq(stats.weight_bytes, 10000000);
    cr_expect_geq(stats.peak_rss_bytes, stats.weight_bytes);
    free(ids);
    lode_session_close(session);
    lode_engine_close(engine);
}
