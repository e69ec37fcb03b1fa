// Whole models against logits that a double-precision reference computed from the same files.
//
// The yardstick for a quantised file is the distance of another engine's 8-bit activations from the same
// reference: ours may be a quarter larger, no more.
#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const f32_models[] = {"m-e2b-f32", "m-e4b-f32", "m-26b-a4b-f32", "m-31b-f32", "k-31b-f32"};

static struct distance measure(const struct golden *golden, const struct golden_run *run)
{
    size_t vocab;
    float *ours = golden_logits(golden->model, golden->ids, golden->count, run, &vocab);
    float *reference = golden_read_floats(golden->exact, golden->count * vocab);
    struct distance d = golden_distance(reference, ours, golden->count, vocab);
    free(ours);
    free(reference);
    return d;
}

static void report(const char *name, const struct golden_run *run, struct distance d)
{
    fprintf(stderr, "  %-16s %-9s max %.5f  mean KL %.3e  top-1 %.3f\n", name, run->isa ? run->isa : "best",
            d.max_difference, d.mean_kl, d.same_top1);
}

// Skips the test where this processor lacks the instruction set.
static void needs_isa(const char *isa)
{
    struct lode_engine_options options = {.isa = isa, .threads = 1};
    struct lode_engine *engine;
    struct lode_error error;
    char model[512];
    cr_assert(test_data_find(model, sizeof model, "golden/m-e2b-q4_0.gguf"));
    if (lode_engine_open(&engine, model, &options, &error))
        cr_skip_test("%s", error.text);
    lode_engine_close(engine);
}

static void check_f32_files(const char *isa)
{
    needs_isa(isa);
    const struct golden_run run = {.threads = 2, .isa = isa, .kv = LODE_KV_F32};
    size_t done = 0;
    for (size_t m = 0; m < sizeof f32_models / sizeof *f32_models; m++) {
        struct golden golden;
        if (!golden_find(&golden, f32_models[m]))
            continue;
        struct distance d = measure(&golden, &run);
        report(f32_models[m], &run, d);
        cr_expect_leq(d.max_difference, 5e-3, "%s, %s", f32_models[m], isa);
        cr_expect_leq(d.mean_kl, 1e-6, "%s, %s", f32_models[m], isa);
        cr_expect_eq(d.same_top1, 1.0, "%s, %s", f32_models[m], isa);
        free(golden.ids);
        done++;
    }
    if (!done)
        cr_skip_test("the F32 golden models are not here (each is above 2 MB)");
}

static void check_quantised_files(const char *isa)
{
    needs_isa(isa);
    const struct golden_run run = {.threads = 2, .isa = isa, .kv = LODE_KV_F32};
    for (size_t m = 0; m < golden_n_quantised; m++) {
        const char *name = golden_quantised[m].name;
        struct golden golden;
        if (!golden_find(&golden, name)) {
            fprintf(stderr, "  %-16s is not here\n", name);
            continue;
        }
        struct distance d = measure(&golden, &run);
        report(name, &run, d);
        cr_expect_leq(d.mean_kl, 1.25 * golden_quantised[m].llama_cpp_kl + 1e-4, "%s, %s", name, isa);
        free(golden.ids);
    }
}

Test(golden, f32_files_match_the_exact_logits_portable)
{
    check_f32_files("portable");
}

Test(golden, f32_files_match_the_exact_logits_avx2)
{
    check_f32_files("avx2");
}

Test(golden, f32_files_match_the_exact_logits_avx2_vnni)
{
    check_f32_files("avx2-vnni");
}

Test(golden, f32_files_match_the_exact_logits_avx512)
{
    check_f32_files("avx512");
}

Test(golden, f32_files_match_the_exact_logits_amx)
{
    check_f32_files("amx");
}

Test(golden, quantised_files_are_as_near_as_llama_cpp_portable)
{
    check_quantised_files("portable");
}

Test(golden, quantised_files_are_as_near_as_llama_cpp_avx2)
{
    check_quantised_files("avx2");
}

Test(golden, quantised_files_are_as_near_as_llama_cpp_avx2_vnni)
{
    check_quantised_files("avx2-vnni");
}

Test(golden, quantised_files_are_as_near_as_llama_cpp_avx512)
{
    check_quantised_files("avx512");
}

Test(golden, quantised_files_are_as_near_as_llama_cpp_amx)
{
    check_quantised_files("amx");
}

Test(golden, batch_sizes_agree)
{
    size_t done = 0;
    for (size_t m = 0; m < sizeof f32_models / sizeof *f32_models; m++) {
        struct golden golden;
        if (!golden_find(&golden, f32_models[m]))
            continue;
        static const uint32_t batches[] = {48, 1, 7};
        float *logits[3];
        size_t vocab;
        for (int b = 0; b < 3; b++) {
            const struct golden_run run = {.threads = 2, .batch = batches[b], .kv = LODE_KV_F32};
            logits[b] = golden_logits(golden.model, golden.ids, golden.count, &run, &vocab);
        }
        for (int b = 1; b < 3; b++) {
            struct distance d = golden_distance(logits[0], logits[b], golden.count, vocab);
            fprintf(stderr, "  %-16s batch %u against 48: max %.6f\n", f32_models[m], batches[b],
                    d.max_difference);
            cr_expect_leq(d.max_difference, 2e-3, "%s, batch %u", f32_models[m], batches[b]);
        }
        for (int b = 0; b < 3; b++)
            free(logits[b]);
        free(golden.ids);
        done++;
    }
    if (!done)
        cr_skip_test("the F32 golden models are not here (each is above 2 MB)");
}

Test(golden, threads_agree_bit_for_bit)
{
    static const char *const names[] = {"m-e2b-q4_0", "m-26b-a4b-q8_0", "m-31b-q4_0", "k-moe-Q4_K_S",
                                        "m-26b-a4b-f32"};
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        struct golden golden;
        if (!golden_find(&golden, names[m]))
            continue;
        for (uint32_t batch = 1; batch <= 48; batch += 47) {
            const struct golden_run one = {.threads = 1, .batch = batch},
                                    two = {.threads = 2, .batch = batch};
            size_t vocab;
            float *a = golden_logits(golden.model, golden.ids, golden.count, &one, &vocab);
            float *b = golden_logits(golden.model, golden.ids, golden.count, &two, &vocab);
            cr_expect_arr_eq(a, b, golden.count * vocab * sizeof *a, "%s, batch %u", names[m], batch);
            free(a);
            free(b);
        }
        free(golden.ids);
    }
}

Test(golden, smaller_caches_stay_near)
{
    static const struct {
        enum lode_kv_type kv;
        const char *name;
        double mean_kl;
    } caches[] = {{LODE_KV_F16, "F16", 1e-5}, {LODE_KV_Q8_0, "Q8_0", 2e-2}};
    struct golden golden;
    cr_assert(golden_find(&golden, "k-31b-F16"));
    for (size_t c = 0; c < 2; c++) {
        const struct golden_run run = {.threads = 2, .kv = caches[c].kv};
        struct distance d = measure(&golden, &run);
        fprintf(stderr, "  KV %-5s mean KL %.3e  max %.4f\n", caches[c].name, d.mean_kl, d.max_difference);
        cr_expect_leq(d.mean_kl, caches[c].mean_kl, "KV %s", caches[c].name);
    }
    free(golden.ids);
}
