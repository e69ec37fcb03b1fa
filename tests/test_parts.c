// Where the time of a session goes: the parts add up, each grows by what it is about, and sessions count
// apart.
#include "backends/cpu/cpu.h"
#include "core/session_internal.h"
#include "tests/demo.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static void expect_parts(const struct lode_parts *parts, double total_s, const char *what)
{
    const double sum_s = parts->kernels_s + parts->attention_s + parts->operations_s + parts->drive_s;
    cr_expect(fabs(sum_s - total_s) <= 1e-12 + 1e-9 * total_s, "%s: parts of %g s take %g s", what, sum_s,
              total_s);
    cr_expect(parts->kernels_s > 0, "%s: kernels", what);
    cr_expect(parts->attention_s > 0, "%s: attention", what);
    cr_expect(parts->operations_s > 0, "%s: operations", what);
    cr_expect(parts->drive_s >= 0, "%s: drive", what);
}

static void generate(struct lode_session *session, uint32_t max_tokens)
{
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = 0;
    options.max_tokens = max_tokens;
    options.ignore_end = true;
    struct lode_error error = {0};
    cr_assert_eq(lode_session_generate(session, &options, NULL, &error), 0, "%s", error.text);
}

static void feed_story(struct lode_session *session, const struct lode_engine *engine)
{
    int32_t *ids;
    const size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n);
    free(ids);
}

Test(parts, add_up_to_the_time_of_prefill_and_decode)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 256, 0);
    feed_story(session, engine);
    generate(session, 100);
    generate(session, 50); // goes on with a token that has not been through the model yet
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    expect_parts(&stats.prefill_parts, stats.prefill_s, "prefill");
    expect_parts(&stats.decode_parts, stats.decode_s, "decode");
    cr_expect_eq(stats.prefill_parts.drive_s, 0);
    cr_expect_eq(stats.decode_parts.drive_s, 0);
    // Few of the passes are counted by their operations. Were the others left out, 1/16 would be left.
    cr_expect_gt(stats.decode_parts.kernels_s, 0.2 * stats.decode_s);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(parts, start_at_nothing)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 64, 0);
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    const struct lode_parts *both[] = {&stats.prefill_parts, &stats.decode_parts};
    for (size_t i = 0; i < 2; i++)
        cr_expect(both[i]->kernels_s == 0 && both[i]->attention_s == 0 && both[i]->operations_s == 0 &&
                  both[i]->drive_s == 0);
    lode_session_close(session);
    lode_engine_close(engine);
}

// The least of some tries: another process may take the processor for a while.
static double attention_at(struct lode_session *session, uint32_t depth)
{
    double least_s = INFINITY;
    for (int try = 0; try < 5; try++) {
        struct lode_stats before, after;
        struct lode_error error = {0};
        lode_session_rewind(session, 0);
        cr_assert_eq(lode_session_fill(session, depth, 7, &error), 0, "%s", error.text);
        lode_session_stats(session, &before);
        for (int32_t i = 0; i < 40; i++)
            demo_feed(session, &(int32_t){1000 + i}, 1);
        lode_session_stats(session, &after);
        const double s = after.prefill_parts.attention_s - before.prefill_parts.attention_s;
        least_s = s < least_s ? s : least_s;
    }
    return least_s;
}

Test(parts, attention_grows_with_depth)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, 500, 0);
    const double shallow_s = attention_at(session, 4), deep_s = attention_at(session, 450);
    cr_expect_gt(deep_s, 1.5 * shallow_s);
    lode_session_close(session);
    lode_engine_close(engine);
}

// The sanitizers' own memory grows with each engine: a ceiling that one session fits into holds all of it.
static bool memory_is_ours(void)
{
#ifdef __has_feature
#if __has_feature(address_sanitizer)
    return false;
#endif
#endif
    return true;
}

// Waits are the residency's own count. Not all experts fit under the ceiling.
Test(parts, the_drive_is_what_was_waited_for)
{
    if (!memory_is_ours())
        cr_skip_test("a ceiling means nothing under the address sanitizer");
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = 1;
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_session *session = NULL;
    struct lode_engine *engine = NULL;
    struct lode_offload_stats offload = {0};
    struct lode_error error = {0};
    for (uint64_t mib = 16; !session && mib < 400; mib += 2) { // the least that works; programs differ
        options.ram_bytes = mib << 20;
        if (!lode_engine_open(&engine, path, &options, &error) &&
            lode_session_open(&session, engine, &(struct lode_session_options){.context = 200, .batch = 32},
                              &error)) {
            lode_engine_close(engine);
            engine = NULL;
        }
    }
    cr_assert_not_null(session, "%s", error.text);
    feed_story(session, engine);
    generate(session, 64);
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    lode_session_offload(session, &offload);
    cr_assert(offload.offloaded, "everything fits into %llu bytes", (unsigned long long)options.ram_bytes);
    expect_parts(&stats.prefill_parts, stats.prefill_s, "prefill");
    expect_parts(&stats.decode_parts, stats.decode_s, "decode");
    cr_expect_gt(stats.decode_parts.drive_s, 0);
    cr_expect_float_eq(stats.decode_parts.drive_s, offload.stall_s, 1e-9);
    cr_expect_float_eq(stats.prefill_parts.drive_s, offload.prefill_stall_s, 1e-9);
    lode_session_close(session);
    lode_engine_close(engine);
}

Test(parts, sessions_count_apart)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *first = demo_session(engine, 128, 0), *second = demo_session(engine, 128, 0);
    struct lode_stats before, after;
    feed_story(first, engine);
    generate(first, 30);
    lode_session_stats(first, &before);
    lode_session_stats(second, &after);
    cr_expect_eq(after.prefill_parts.kernels_s, 0);
    feed_story(second, engine);
    generate(second, 20);
    lode_session_stats(first, &after);
    cr_expect_eq(after.prefill_parts.kernels_s, before.prefill_parts.kernels_s);
    cr_expect_eq(after.decode_parts.kernels_s, before.decode_parts.kernels_s);
    lode_session_stats(second, &after);
    expect_parts(&after.prefill_parts, after.prefill_s, "the second session, prefill");
    expect_parts(&after.decode_parts, after.decode_s, "the second session, decode");
    cr_expect_null(engine->device->times);
    lode_session_close(first);
    lode_session_close(second);
    lode_engine_close(engine);
}

// A device adds to where it is told, and to the right lane.
Test(parts, operations_count_in_their_lanes)
{
    enum { COLS = 256, ROWS = 512, HEADS = 4, HEAD_SIZE = 64 };
    struct lode_device *device;
    struct lode_error error = {0};
    cr_assert_eq(cpu_open(&device, &(struct cpu_options){.threads = 1}, &error), 0, "%s", error.text);
    const struct lode_limits limits = {.rows = 1,
                                       .cols = COLS,
                                       .ffn_width = ROWS,
                                       .n_heads = HEADS,
                                       .head_size = HEAD_SIZE,
                                       .expert_rows = 1};
    cr_assert_eq(device->ops->reserve(device, &limits, &error), 0, "%s", error.text);
    void *weights, *x, *out, *cache;
    cr_assert_eq(device->ops->alloc(device, &weights, ROWS * COLS * sizeof(float), &error), 0);
    cr_assert_eq(device->ops->alloc(device, &x, COLS * sizeof(float), &error), 0);
    cr_assert_eq(device->ops->alloc(device, &out, ROWS * sizeof(float), &error), 0);
    cr_assert_eq(device->ops->alloc(device, &cache, 2 * 128 * COLS * sizeof(float), &error), 0);
    const struct lode_matrix matrix = {weights, LODE_F32, ROWS, COLS, COLS * sizeof(float), LODE_LAYOUT_FILE};
    const struct lode_rows input = {x, 1, COLS, COLS}, output = {out, 1, ROWS, ROWS};
    const struct lode_rows heads = {out, 1, COLS, COLS};
    const struct lode_kv kv = {
        cache, (char *)cache + 128 * COLS * sizeof(float), LODE_CACHE_F32, HEADS, HEAD_SIZE, 128};

    device->ops->matmul(device, &output, &matrix, 1, input); // nobody wants to know
    struct lode_device_times times = {0};
    device->times = &times;
    device->ops->rms_norm(device, input, input, NULL, 1e-6f, 1);
    device->ops->add(device, input, input, input, 1);
    cr_expect(times.kernels_ns == 0 && times.attention_ns == 0);
    device->ops->matmul(device, &output, &matrix, 1, input);
    const uint64_t after_one_ns = times.kernels_ns;
    cr_expect(after_one_ns > 0 && times.attention_ns == 0);
    device->ops->matmul_geglu(device, output, &matrix, &matrix, input);
    cr_expect(times.kernels_ns > after_one_ns && times.attention_ns == 0);
    const uint64_t kernels_ns = times.kernels_ns;
    device->ops->attention(device, heads, input, HEADS, &kv, 100, 0);
    cr_expect(times.attention_ns > 0 && times.kernels_ns == kernels_ns);
    device->times = NULL;
    device->ops->matmul(device, &output, &matrix, 1, input);
    cr_expect_eq(times.kernels_ns, kernels_ns);

    device->ops->free(device, weights, ROWS * COLS * sizeof(float));
    device->ops->free(device, x, COLS * sizeof(float));
    device->ops->free(device, out, ROWS * sizeof(float));
    device->ops->free(device, cache, 2 * 128 * COLS * sizeof(float));
    device->ops->close(device);
}
