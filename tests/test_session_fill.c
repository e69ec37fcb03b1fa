// Contexts of noise, and the figures that tell what a decoded token reads.
#include "core/forward_internal.h"
#include "core/session_internal.h"
#include "tests/demo.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct lode_session *open_session(struct lode_engine *engine, uint32_t context, uint32_t batch,
                                         enum lode_kv_type kv)
{
    const struct lode_session_options options = {.context = context, .batch = batch, .kv = kv};
    struct lode_session *session;
    struct lode_error error = {0};
    cr_assert_eq(lode_session_open(&session, engine, &options, &error), 0, "%s", error.text);
    return session;
}

static void fill(struct lode_session *session, uint32_t count, uint64_t seed)
{
    struct lode_error error = {0};
    cr_assert_eq(lode_session_fill(session, count, seed, &error), 0, "%s", error.text);
}

static void feed_words(struct lode_session *session, size_t count)
{
    int32_t ids[512];
    for (size_t i = 0; i < count; i++)
        ids[i] = i || lode_session_position(session) ? 424 + (int32_t)i * 7 : 2;
    demo_feed(session, ids, count);
}

// A row of an F32 cache.
static const float *row_of(const struct lode_kv *kv, const void *memory, uint32_t head, uint32_t position)
{
    cr_assert_eq(kv->format, LODE_CACHE_F32);
    return (const float *)memory + ((size_t)head * kv->capacity + position % kv->capacity) * kv->head_size;
}

static double rms(const float *row, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)row[i] * row[i];
    return sqrt(sum / n);
}

// ---- what is in the cache
// -------------------------------------------------------------------------------------

Test(session_fill, what_follows_is_finite_in_every_format_and_batch)
{
    static const enum lode_kv_type kinds[] = {LODE_KV_F16, LODE_KV_Q8_0, LODE_KV_F32};
    static const uint32_t batches[] = {512, 33, 1};
    struct lode_engine *engine = demo_engine(2);
    const uint32_t vocab = lode_engine_shape(engine)->vocab;
    for (int i = 0; i < 9; i++) {
        struct lode_session *session = open_session(engine, 400, batches[i % 3], kinds[i / 3]);
        feed_words(session, 5);
        fill(session, 300, 1);
        cr_expect_eq(lode_session_position(session), 305);
        cr_expect_null(lode_session_logits(session));
        feed_words(session, 20);
        cr_expect_eq(lode_session_position(session), 325);
        const float *logits = lode_session_logits(session);
        cr_assert_not_null(logits);
        for (uint32_t j = 0; j < vocab; j++)
            cr_assert(isfinite(logits[j]), "case %d, logit %u", i, j);
        lode_session_close(session);
    }
    lode_engine_close(engine);
}

// Mean RMS of the rows of a layer that are still there at the end.
static void row_sizes(const struct lode_session *session, uint32_t layer, double *out_k, double *out_v)
{
    const struct lode_kv *kv = &session->forward->kv.layers[layer];
    const uint32_t end = lode_session_position(session), from = end > kv->capacity ? end - kv->capacity : 0;
    *out_k = *out_v = 0;
    for (uint32_t head = 0; head < kv->n_heads; head++)
        for (uint32_t p = from; p < end; p++) {
            const double k = rms(row_of(kv, kv->k, head, p), kv->head_size);
            const double v = rms(row_of(kv, kv->v, head, p), kv->head_size);
            cr_assert_gt(k, 0, "layer %u, position %u", layer, p);
            cr_assert_gt(v, 0, "layer %u, position %u", layer, p);
            *out_k += k / (kv->n_heads * (end - from));
            *out_v += v / (kv->n_heads * (end - from));
        }
}

Test(session_fill, every_row_has_the_size_of_a_real_one)
{
    struct lode_engine *engine = demo_engine(2);
    struct lode_session *real = open_session(engine, 400, 16, LODE_KV_F32),
                        *noise = open_session(engine, 400, 16, LODE_KV_F32);
    feed_words(real, 400); // longer than the rings
    fill(noise, 400, 3);
    for (uint32_t l = 0; l < lode_engine_shape(engine)->n_layers; l++) {
        double real_k, real_v, noise_k, noise_v;
        row_sizes(real, l, &real_k, &real_v);
        row_sizes(noise, l, &noise_k, &noise_v);
        cr_expect_float_eq(noise_v, real_v, 0.02 * real_v, "V of layer %u: %g, real %g", l, noise_v, real_v);
        cr_expect_float_eq(noise_k, real_k, 0.3 * real_k, "K of layer %u: %g, real %g", l, noise_k, real_k);
    }
    lode_session_close(real);
    lode_session_close(noise);
    lode_engine_close(engine);
}

// The positions that both still hold.
static size_t count_differences(const struct lode_session *a, const struct lode_session *b, uint32_t from,
                                uint32_t end)
{
    size_t differences = 0;
    for (uint32_t l = 0; l < a->forward->kv.n_layers; l++) {
        const struct lode_kv *x = &a->forward->kv.layers[l], *y = &b->forward->kv.layers[l];
        const uint32_t held = x->capacity < y->capacity ? x->capacity : y->capacity;
        for (uint32_t p = end > held + from ? end - held : from; p < end; p++)
            for (uint32_t head = 0; head < x->n_heads; head++) {
                const size_t bytes = x->head_size * sizeof(float);
                differences += memcmp(row_of(x, x->k, head, p), row_of(y, y->k, head, p), bytes) != 0;
                differences += memcmp(row_of(x, x->v, head, p), row_of(y, y->v, head, p), bytes) != 0;
            }
    }
    return differences;
}

Test(session_fill, the_noise_depends_on_seed_and_position_alone)
{
    struct lode_engine *engine = demo_engine(2);
    struct lode_session *a = open_session(engine, 400, 400, LODE_KV_F32),
                        *b = open_session(engine, 400, 7, LODE_KV_F32),
                        *c = open_session(engine, 400, 400, LODE_KV_F32);
    fill(a, 350, 9);
    fill(b, 101, 9);
    fill(b, 249, 9);
    fill(c, 350, 10);
    cr_expect_eq(count_differences(a, b, 0, 350), 0);
    cr_expect_eq(count_differences(a, c, 0, 350), 8u * 2 * 350 * 2 - 2u * 2 * 350, "other noise everywhere");
    lode_session_close(a);
    lode_session_close(b);
    lode_session_close(c);
    lode_engine_close(engine);
}

Test(session_fill, tokens_before_the_noise_stay)
{
    struct lode_engine *engine = demo_engine(2);
    struct lode_session *plain = open_session(engine, 400, 64, LODE_KV_F32),
                        *filled = open_session(engine, 400, 64, LODE_KV_F32);
    feed_words(plain, 60);
    feed_words(filled, 60);
    fill(filled, 80, 1);
    cr_expect_eq(count_differences(plain, filled, 0, 60), 0);
    lode_session_close(plain);
    lode_session_close(filled);
    lode_engine_close(engine);
}

// ---- as a part of the timeline
// ----------------------------------------------------------------------------------

Test(session_fill, a_timeline_can_be_taken_back_to_the_noise)
{
    struct lode_engine *engine = demo_engine(2);
    struct lode_session *session = open_session(engine, 512, 32, LODE_KV_F16);
    fill(session, 400, 1);
    feed_words(session, 32);
    float *first = demo_copy_logits(session, lode_engine_shape(engine)->vocab);
    cr_expect_eq(lode_session_rewind(session, 400), 400);
    feed_words(session, 32);
    cr_expect_arr_eq(first, lode_session_logits(session), lode_engine_shape(engine)->vocab * sizeof *first);
    feed_words(session, 32);
    cr_expect_eq(lode_session_rewind(session, 400), 0, "the windows before are gone");
    free(first);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(session_fill, a_token_that_waits_for_its_pass_comes_before_the_noise)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = open_session(engine, 64, 0, LODE_KV_F16);
    feed_words(session, 4);
    struct lode_generate_options options = lode_generate_options_default();
    options.max_tokens = 2;
    options.ignore_end = true;
    cr_assert_eq(lode_session_generate(session, &options, NULL, NULL), 0);
    cr_expect(session->has_pending);
    cr_expect_eq(lode_session_position(session), 6);
    fill(session, 10, 1);
    cr_expect_not(session->has_pending);
    cr_expect_eq(lode_session_position(session), 16);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(session_fill, more_than_the_context_holds_is_refused)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = open_session(engine, 100, 0, LODE_KV_F16);
    struct lode_error error = {0};
    feed_words(session, 20);
    cr_expect_eq(lode_session_fill(session, 81, 0, &error), LODE_ERR_CONTEXT);
    cr_expect_not_null(strstr(error.text, "100"), "%s", error.text);
    cr_expect_eq(lode_session_fill(session, UINT32_MAX, 0, &error), LODE_ERR_CONTEXT);
    cr_expect_eq(lode_session_position(session), 20);
    fill(session, 0, 0);
    cr_expect_not_null(lode_session_logits(session), "nothing was appended");
    fill(session, 80, 0);
    cr_expect_eq(lode_session_position(session), 100);
    lode_session_close(session);
    lode_engine_close(engine);
}

static bool goes_on_for_a_while(void *user)
{
    int *left = user;
    return (*left)-- > 0;
}

Test(session_fill, a_cancelled_call_leaves_an_empty_timeline_that_works)
{
    struct lode_engine *engine = demo_engine(2);
    int left = 1000;
    const struct lode_session_options options = {
        .context = 400, .keep_going = goes_on_for_a_while, .user = &left};
    struct lode_session *session, *fresh = open_session(engine, 400, 0, LODE_KV_F16);
    cr_assert_eq(lode_session_open(&session, engine, &options, NULL), 0);
    feed_words(session, 10);
    left = 3;
    struct lode_error error = {0};
    cr_expect_eq(lode_session_fill(session, 300, 0, &error), LODE_ERR_CANCELLED);
    cr_expect_eq(lode_session_position(session), 0);
    cr_expect_null(lode_session_logits(session));
    left = 1000;
    feed_words(session, 40);
    feed_words(fresh, 40);
    cr_expect_arr_eq(lode_session_logits(session), lode_session_logits(fresh),
                     lode_engine_shape(engine)->vocab * sizeof(float));
    lode_session_close(session);
    lode_session_close(fresh);
    lode_engine_close(engine);
}

// ---- what a token reads
// ---------------------------------------------------------------------------------------

// Six local layers of 2 heads of 64 with a window of 128, two global ones of one head of 128.
Test(session_fill, the_cache_that_a_token_reads_is_that_of_its_windows)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *f16 = open_session(engine, 400, 0, LODE_KV_F16),
                        *q8_0 = open_session(engine, 400, 0, LODE_KV_Q8_0);
    cr_expect_eq(lode_session_kv_read_bytes(f16, 0), 2u * 2 * (6 * 2 * 64 + 2 * 128));
    cr_expect_eq(lode_session_kv_read_bytes(f16, 127), 128u * 2 * 2 * (6 * 2 * 64 + 2 * 128));
    cr_expect_eq(lode_session_kv_read_bytes(f16, 299), 2u * 2 * (128 * 6 * 2 * 64 + 300 * 2 * 128));
    cr_expect_eq(lode_session_kv_read_bytes(q8_0, 299), 2u * (128 * 6 * 2 * 64 + 300 * 2 * 128) / 32 * 34);
    lode_session_close(f16);
    lode_session_close(q8_0);
    lode_engine_close(engine);
}

// From the file's own list: all but the tables that give single rows, and the experts as far as they are
// used.
static uint64_t bytes_read_for_a_token(const char *path, const struct lode_shape *shape)
{
    struct lode_file *file;
    cr_assert_eq(lode_file_open(&file, path, NULL), 0);
    uint64_t bytes = 0;
    for (size_t t = 0; t < lode_file_tensor_count(file); t++) {
        struct lode_tensor_info info;
        lode_file_tensor(file, t, &info);
        if (strstr(info.name, "_exps.weight"))
            bytes += info.bytes / shape->n_experts * shape->n_experts_used;
        else if (info.unit_kind && strcmp(info.name, "per_layer_token_embd.weight") != 0)
            bytes += info.bytes;
    }
    lode_file_close(file);
    return bytes;
}

Test(session_fill, the_weights_that_a_token_reads_leave_out_experts_that_it_does_not_use)
{
    struct lode_engine *engine = demo_engine(1);
    const struct lode_shape *shape = lode_engine_shape(engine);
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    cr_expect_eq(shape->bytes_per_token, bytes_read_for_a_token(path, shape));
    cr_expect_lt(shape->bytes_per_token, shape->weight_bytes / 2);
    cr_expect_str_eq(shape->type, "Q4_0");
    lode_engine_close(engine);
}

// Layers that share a cache have none to fill, and read it all the same.
Test(session_fill, a_model_whose_layers_share_their_cache)
{
    char folder[] = "/tmp/lode-fill-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/e2b.gguf", folder);
    struct lode_synth_options synth = lode_synth_options_default();
    synth.shape = "tiny-e2b";
    synth.type = "q8_0";
    struct lode_error error = {0};
    cr_assert_eq(lode_synth_write(path, &synth, NULL, NULL, &error), 0, "%s", error.text);
    struct lode_engine *engine;
    cr_assert_eq(lode_engine_open(&engine, path, NULL, &error), 0, "%s", error.text);
    const struct lode_shape *s = lode_engine_shape(engine);
    cr_assert_gt(s->n_shared_kv_layers, 0);
    struct lode_session *session = open_session(engine, 300, 0, LODE_KV_F16);
    fill(session, 280, 1);
    feed_words(session, 3);
    cr_expect_eq(lode_session_position(session), 283);
    for (uint32_t i = 0; i < s->vocab; i++)
        cr_assert(isfinite(lode_session_logits(session)[i]), "logit %u", i);
    const uint64_t local_rows =
                       (uint64_t)(s->n_layers - s->n_global_layers) * (s->window < 283 ? s->window : 283),
                   global_rows = (uint64_t)s->n_global_layers * 283;
    cr_expect_eq(lode_session_kv_read_bytes(session, 282),
                 2 * 2 *
                     (local_rows * s->n_kv_heads_local * s->head_size_local +
                      global_rows * s->n_kv_heads_global * s->head_size_global));
    cr_expect_eq(s->bytes_per_token, bytes_read_for_a_token(path, s));
    cr_expect_str_eq(s->type, "Q8_0");
    lode_session_close(session);
    lode_engine_close(engine);
    unlink(path);
    rmdir(folder);
}
