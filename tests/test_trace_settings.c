// The settings of a trace: what is written is read, and nothing else is believed.
#include "placement/trace_settings.h"

#include <criterion/criterion.h>
#include <string.h>

static struct trace_settings read_of(const char *text)
{
    struct trace_settings out;
    struct lode_error error = {0};
    cr_assert_eq(trace_settings_read(&out, text, &error), 0, "%s", error.text);
    return out;
}

static void expect_equal(const struct trace_settings *a, const struct trace_settings *b)
{
    cr_expect_eq(a->weights_bytes, b->weights_bytes);
    cr_expect_eq(a->ring_bytes, b->ring_bytes);
    cr_expect_eq(a->context, b->context);
    cr_expect_eq(a->batch, b->batch);
    cr_expect_eq(a->threads, b->threads);
    cr_expect_eq(a->queue_depth, b->queue_depth);
    cr_expect_eq(a->prefetch_ranks, b->prefetch_ranks);
    cr_expect_eq(a->warm, b->warm);
    cr_expect_eq(a->direct, b->direct);
    cr_expect_str_eq(a->kv, b->kv);
    cr_expect_str_eq(a->policy, b->policy);
    cr_expect_str_eq(a->predictor, b->predictor);
    cr_expect_str_eq(a->devices, b->devices);
    cr_expect_str_eq(a->placement, b->placement);
    cr_expect_eq(a->n_vram, b->n_vram);
    for (uint32_t i = 0; i < a->n_vram; i++)
        cr_expect_eq(a->vram_bytes[i], b->vram_bytes[i]);
    cr_expect_eq(trace_settings_have_gpus(a), trace_settings_have_gpus(b));
}

Test(trace_settings, come_back_as_they_were_written)
{
    const struct trace_settings all[] = {
        {0},
        {.weights_bytes = UINT64_MAX,
         .ring_bytes = 1,
         .context = UINT32_MAX,
         .batch = 512,
         .threads = 8,
         .queue_depth = 16,
         .kv = "q8_0",
         .policy = "./my=own.so",
         .predictor = "gate",
         .prefetch_ranks = 12,
         .warm = true,
         .direct = true,
         .devices = "cpu"},
        {.devices = "cuda0", .vram_bytes = {0}, .n_vram = 1, .placement = "plan"},
        {.policy = "lru",
         .devices = "cuda0+cuda1+cuda2+cuda3+hip0+hip1+hip2+hip3",
         .vram_bytes = {UINT64_MAX, 1, 2, 3, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX},
         .n_vram = TRACE_MAX_GPUS,
         .placement = "by-layer"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char text[1024];
        trace_settings_write(text, sizeof text, &all[i]);
        const struct trace_settings back = read_of(text);
        expect_equal(&all[i], &back);
    }
}

Test(trace_settings, words_that_are_unknown_or_missing_do_not_matter)
{
    const struct trace_settings some =
        read_of("  turbo=yes context=5   -b policy=lru weightsy=3 weights x= =4 batch=6 ");
    const struct trace_settings expected = {.context = 5, .batch = 6, .policy = "lru"};
    expect_equal(&some, &expected);
    const struct trace_settings none = read_of(""), zero = {0};
    expect_equal(&none, &zero);
    cr_expect_not(trace_settings_have_gpus(&none)); // of a version that had none
}

Test(trace_settings, tell_whether_gpus_computed)
{
    const struct trace_settings alone = read_of("devices=cpu"), beside = read_of("devices=cuda0 vram=7");
    cr_expect_not(trace_settings_have_gpus(&alone));
    cr_expect(trace_settings_have_gpus(&beside));
}

Test(trace_settings, numbers_that_are_none_are_refused)
{
    static const char *const wrong[] = {"context=",
                                        "context=4294967296",
                                        "context=-1",
                                        "batch=1k",
                                        "weights=18446744073709551616",
                                        "weights=99999999999999999999999",
                                        "ring=0x10",
                                        "warm=2",
                                        "direct=yes",
                                        "vram=",
                                        "vram=8G",
                                        "vram=1+",
                                        "vram=+1",
                                        "vram=1++2",
                                        "vram=1+18446744073709551616",
                                        "vram=1+2+3+4+5+6+7+8+9",
                                        "threads= 3"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct trace_settings out;
        struct lode_error error = {0};
        cr_expect_eq(trace_settings_read(&out, wrong[i], &error), LODE_ERR_FORMAT, "%s", wrong[i]);
        cr_expect_neq(error.text[0], '\0');
    }
}

Test(trace_settings, names_that_would_be_read_as_something_else_are_left_out)
{
    char text[1024];
    struct trace_settings settings = {.policy = "my policy.so", .predictor = "a\nb", .kv = "f16"};
    trace_settings_write(text, sizeof text, &settings);
    const struct trace_settings back = read_of(text);
    cr_expect_str_empty(back.policy);
    cr_expect_str_empty(back.predictor);
    cr_expect_str_eq(back.kv, "f16");
    memset(settings.policy, 'x', sizeof settings.policy); // no end
    trace_settings_write(text, sizeof text, &settings);
    cr_expect_null(strstr(text, "policy="));
    char long_name[200] = "predictor=";
    memset(long_name + 10, 'x', 100);
    cr_expect_str_empty(read_of(long_name).predictor);
}

Test(trace_settings, fit_into_any_room)
{
    const struct trace_settings settings = {.weights_bytes = 123456, .policy = "lru", .kv = "f16"};
    char whole[1024];
    trace_settings_write(whole, sizeof whole, &settings);
    for (size_t capacity = 0; capacity <= strlen(whole) + 1; capacity++) {
        char text[1024];
        memset(text, '#', sizeof text);
        trace_settings_write(text, capacity, &settings);
        cr_assert_eq(text[capacity], '#', "beyond %zu bytes", capacity);
        if (capacity)
            read_of(text);
    }
}
