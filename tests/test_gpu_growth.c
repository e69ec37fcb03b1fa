// A GPU whose memory is full: the KV cache grows and other sessions come, and copies of experts give way.
#include "tests/demo.h"
#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 512
#define BATCH 32
#define DEPTH 420 // of noise, beyond what the cache begins with

static struct lode_engine *open_engine(const char *devices, uint64_t vram_bytes)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = 1;
    options.devices = devices;
    options.vram_bytes = vram_bytes;
    struct lode_engine *engine;
    struct lode_error error = {0};
    cr_assert_eq(lode_engine_open(&engine, path, &options, &error), 0, "%s", error.text);
    return engine;
}

static struct lode_gpu_stats gpu_of(const struct lode_session *session)
{
    struct lode_gpu_stats stats;
    cr_assert_eq(lode_session_gpus(session, &stats, 1), 1);
    return stats;
}

// A ceiling under which everything fits as long as the cache is small, and little is left.
static uint64_t tight_ceiling(void)
{
    struct lode_engine *engine = open_engine("simt0", 0);
    struct lode_session *session = demo_session(engine, CONTEXT, BATCH);
    const struct lode_gpu_stats stats = gpu_of(session);
    const uint64_t bytes = stats.pinned_bytes + stats.pool_bytes + stats.kv_bytes + stats.scratch_bytes;
    lode_session_close(session);
    lode_engine_close(engine);
    return bytes + ((uint64_t)9 << 17); // tables of experts, rounding, and a part of what the cache will take
}

// The story, noise, the story again: logits of its last token.
static float *run(struct lode_engine *engine, struct lode_session *session)
{
    int32_t *ids;
    struct lode_error error = {0};
    const size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n);
    cr_assert_eq(lode_session_fill(session, DEPTH, 7, &error), 0, "%s", error.text);
    demo_feed(session, ids + 1, n - 1);
    free(ids);
    return demo_copy_logits(session, lode_engine_shape(engine)->vocab);
}

Test(gpu_growth, experts_give_way_to_a_cache_that_grows)
{
    struct lode_engine *cpu = open_engine("cpu", 0), *gpu = open_engine("simt0", tight_ceiling());
    struct lode_session *on_cpu = demo_session(cpu, CONTEXT, BATCH),
                        *on_gpu = demo_session(gpu, CONTEXT, BATCH);
    const struct lode_gpu_stats before = gpu_of(on_gpu);
    float *expected = run(cpu, on_cpu), *got = run(gpu, on_gpu);
    const struct lode_gpu_stats after = gpu_of(on_gpu);
    cr_expect_gt(after.kv_bytes, before.kv_bytes);
    cr_expect_gt(after.yielded_bytes, 0);
    cr_expect_lt(after.pool_used, before.pool_used);
    cr_expect_lt(after.pool_bytes, before.pool_bytes);
    const struct distance distance = golden_distance(expected, got, 1, lode_engine_shape(gpu)->vocab);
    cr_expect_lt(distance.mean_kl, 2e-2, "KL %g", distance.mean_kl);
    free(expected), free(got);
    lode_session_close(on_cpu), lode_session_close(on_gpu);
    lode_engine_close(cpu), lode_engine_close(gpu);
}

Test(gpu_growth, experts_give_way_to_another_session_and_both_go_on)
{
    struct lode_engine *gpu = open_engine("simt0", tight_ceiling());
    struct lode_session *first = demo_session(gpu, CONTEXT, BATCH);
    const struct lode_gpu_stats before = gpu_of(first);
    int32_t *ids;
    const size_t n = demo_encode(gpu, demo_story, &ids), vocab = lode_engine_shape(gpu)->vocab;
    demo_feed(first, ids, n);
    struct lode_session *second = demo_session(gpu, CONTEXT, BATCH);
    cr_expect_lt(gpu_of(first).pool_bytes, before.pool_bytes);
    demo_feed(second, ids, n);
    float *one = demo_copy_logits(first, vocab), *other = demo_copy_logits(second, vocab);
    const struct distance distance = golden_distance(one, other, 1, vocab);
    cr_expect_lt(distance.mean_kl, 2e-2, "KL %g", distance.mean_kl);
    free(ids), free(one), free(other);
    lode_session_close(first), lode_session_close(second);
    lode_engine_close(gpu);
}

Test(gpu_growth, a_session_for_which_nothing_can_give_way_is_refused_and_the_first_goes_on)
{
    struct lode_engine *gpu = open_engine("simt0", tight_ceiling());
    struct lode_session *first = demo_session(gpu, CONTEXT, BATCH), *second;
    const struct lode_session_options options = {.context = CONTEXT, .batch = 512};
    struct lode_error error = {0};
    cr_expect_eq(lode_session_open(&second, gpu, &options, &error), LODE_ERR_MEMORY, "%s", error.text);
    cr_expect(strstr(error.text, "simt0"), "%s", error.text);
    int32_t *ids;
    const size_t n = demo_encode(gpu, demo_story, &ids);
    demo_feed(first, ids, n);
    free(ids);
    lode_session_close(first);
    lode_engine_close(gpu);
}
