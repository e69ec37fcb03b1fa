// Whole models divided between GPUs, RAM and files in many ways (gpu_mix.c) say what the CPU alone says: the
// same greedy tokens, logits as near to the exact ones as those of the CPU have to be.
#include "core/engine.h"
#include "tests/demo.h"
#include "tests/golden.h"
#include "tests/gpu_mix.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 96
#define N_GREEDY 32

// ---- the demo model

static const char demo_path_name[] = "models/tiny-moe-q4_0.gguf";

// After others a router chooses between two experts that are equal but for rounding, and even the CPU's
// kernels for different instruction sets go on differently; after this one they do not, with any cache.
static const char prompt[] = "There was once a miller who had a daughter, and";

struct told {
    int32_t ids[N_GREEDY];
    size_t n;
    float *logits; // after the prompt
};

static bool collect(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    struct told *told = user;
    (void)part;
    (void)text;
    (void)len;
    if (id >= 0)
        told->ids[told->n++] = id;
    return true;
}

static void tell(struct told *out, const struct gpu_mix_run *run)
{
    struct lode_generate_options options = lode_generate_options_default();
    struct lode_error error = {0};
    int32_t *ids;
    const size_t n = demo_encode(run->engine, prompt, &ids);
    *out = (struct told){.n = 0};
    demo_feed(run->session, ids, n);
    out->logits = demo_copy_logits(run->session, lode_engine_shape(run->engine)->vocab);
    options.sampling.temperature = 0;
    options.max_tokens = N_GREEDY;
    options.ignore_end = true;
    options.on_token = collect;
    options.user = out;
    cr_assert_eq(lode_session_generate(run->session, &options, NULL, &error), 0, "%s", error.text);
    free(ids);
}

static struct gpu_mix_figures {
    uint64_t pinned, kv, hits, uploads;
    uint32_t slots, used;
} add_up(const struct lode_session *session)
{
    struct gpu_mix_figures sum = {0};
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    const size_t n = lode_session_gpus(session, gpus, LODE_PLAN_GPUS);
    for (size_t g = 0; g < n; g++) {
        sum.pinned += gpus[g].pinned_bytes;
        sum.kv += gpus[g].kv_bytes;
        sum.hits += gpus[g].hits;
        sum.uploads += gpus[g].uploads;
        sum.slots += gpus[g].pool_slots;
        sum.used += gpus[g].pool_used;
    }
    return sum;
}

// That the mix was what its name says.
static void check_figures(const struct gpu_mix *mix, const struct lode_session *session)
{
    const struct gpu_mix_figures sum = add_up(session);
    struct lode_offload_stats offload;
    lode_session_offload(session, &offload);
    fprintf(stderr, "  %-48s %.1f MB of dense units there, %u of %u slots, %llu hits, %llu copies; RAM %s\n",
            mix->name, (double)sum.pinned / 1e6, sum.used, sum.slots, (unsigned long long)sum.hits,
            (unsigned long long)sum.uploads, offload.offloaded ? "and files" : "");
    const bool has_dense = mix->spread != GPU_SPREAD_EXPERTS;
    cr_expect_eq(sum.pinned > 0, has_dense, "%s", mix->name);
    cr_expect_eq(sum.kv > 0, has_dense, "%s", mix->name);
    if (mix->slots == GPU_MIX_NO_SLOTS) {
        cr_expect_lt(sum.slots, 4, "%s: rounding up leaves room for %u", mix->name, sum.slots);
    } else {
        cr_expect_gt(sum.used, 0, "%s", mix->name);
        cr_expect_gt(sum.hits, 0, "%s", mix->name);
    }
    if (mix->slots && mix->slots != GPU_MIX_NO_SLOTS)
        cr_expect(sum.slots < offload.experts / 2, "%s: %u slots", mix->name, sum.slots);
    if (mix->tight_ram) {
        cr_expect(offload.offloaded, "%s: everything fits", mix->name);
        cr_expect_lt(offload.pool_slots, offload.experts, "%s", mix->name);
        cr_expect_gt(offload.decode_bytes + offload.prefill_bytes, 0, "%s", mix->name);
    }
    cr_expect_eq(sum.uploads > 0, mix->uploads, "%s: %llu experts copied", mix->name,
                 (unsigned long long)sum.uploads);
}

// What GPUs have of experts is as it is in the file, whichever order the CPU has put its own into.
static void check_copies(const char *path, const struct gpu_mix *mix, const struct lode_engine *engine)
{
    const struct unit_table *table = &engine->model.units;
    uint32_t n_copies = 0, n_arranged = 0;
    FILE *file = fopen(path, "rb");
    cr_assert(file);
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        for (uint32_t i = 0; unit->class == UNIT_EXPERT && i < unit->n_parts; i++) {
            const struct extent *extent = &table->parts[unit->first_part + i];
            unsigned char *want = malloc(2 * extent->bytes), *got = want + extent->bytes;
            n_arranged += engine->matrices.parts[unit->first_part + i].layout != LODE_LAYOUT_FILE;
            cr_assert_eq(fseek(file, (long)extent->offset, SEEK_SET), 0);
            cr_assert_eq(fread(want, 1, extent->bytes, file), extent->bytes);
            for (uint32_t g = 0; g < engine->gpus.n; g++) {
                struct lode_device *gpu = engine->gpus.devices[g];
                const void *copy = residency_gpu_part(engine->residency, g, u, i);
                if (!copy)
                    continue;
                cr_assert_eq(gpu->ops->download(gpu, got, copy, extent->bytes, NULL), 0);
                cr_assert_eq(memcmp(got, want, extent->bytes), 0, "%s: part %u of unit %u on %s", mix->name,
                             i, u, gpu->name);
                n_copies++;
            }
            free(want);
        }
    }
    fclose(file);
    cr_assert(n_copies > 0 || mix->slots == GPU_MIX_NO_SLOTS, "%s", mix->name);
    struct residency_figures figures;
    residency_count(engine->residency, &figures);
    const bool arranges = strcmp(lode_engine_isa(engine), "portable") != 0 && figures.pool_bytes == 0;
    cr_assert_eq(n_arranged > 0, arranges, "%s: %u parts are arranged", mix->name, n_arranged);
}

static void check_demo(const char *path, const struct gpu_mix *mix)
{
    const struct gpu_mix alone = gpu_mix_of_cpu(mix);
    struct gpu_mix_run run;
    struct told cpu, ours;
    gpu_mix_open(&run, path, &alone, CONTEXT);
    const size_t vocab = lode_engine_shape(run.engine)->vocab;
    tell(&cpu, &run);
    gpu_mix_close(&run);
    gpu_mix_open(&run, path, mix, CONTEXT);
    tell(&ours, &run);
    check_figures(mix, run.session);
    cr_expect_eq(run.told_library, mix->library, "%s: a library is%s told of", mix->name,
                 mix->library ? " not" : "");
    check_copies(path, mix, run.engine);
    gpu_mix_close(&run);
    const struct distance d = golden_distance(cpu.logits, ours.logits, 1, vocab);
    fprintf(stderr, "  %-48s max %.5f  KL %.2e\n", "", d.max_difference, d.mean_kl);
    cr_expect_leq(d.mean_kl, 1e-3, "%s: KL %g", mix->name, d.mean_kl);
    cr_expect_eq(ours.n, N_GREEDY);
    for (size_t i = 0; i < N_GREEDY; i++)
        if (cpu.ids[i] != ours.ids[i]) {
            cr_expect(false, "%s: token %zu is %d, alone it is %d", mix->name, i, ours.ids[i], cpu.ids[i]);
            break;
        }
    free(cpu.logits);
    free(ours.logits);
}

Test(gpu_mixes, greedy_tokens_are_those_of_the_cpu_alone, .timeout = 590)
{
    char path[512];
    test_project_path(path, sizeof path, demo_path_name);
    for (size_t m = 0; m < gpu_n_mixes; m++)
        check_demo(path, &gpu_mixes[m]);
}

// What one session leaves on the devices must not show in another; K and V of both lie there.
Test(gpu_mixes, sessions_of_one_engine_take_turns, .timeout = 300)
{
    char path[512];
    test_project_path(path, sizeof path, demo_path_name);
    struct gpu_mix mix = gpu_mixes[0];
    struct gpu_mix_run run;
    struct told first, second;
    gpu_mix_open(&run, path, &mix, CONTEXT);
    struct gpu_mix_run other = run;
    other.session = demo_session(run.engine, CONTEXT, 5);
    tell(&first, &run);
    tell(&second, &other);
    cr_expect_arr_eq(first.ids, second.ids, sizeof first.ids);
    lode_session_rewind(run.session, 0);
    free(second.logits);
    tell(&second, &run);
    cr_expect_arr_eq(first.ids, second.ids, sizeof first.ids, "after a rewind");
    free(first.logits);
    free(second.logits);
    lode_session_close(other.session);
    gpu_mix_close(&run);
}

// A timeline that has gone round its sliding windows several times, on the GPU and on both.
Test(gpu_mixes, wrapped_rings_agree, .timeout = 400)
{
    char path[512];
    test_project_path(path, sizeof path, demo_path_name);
    int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = i ? 424 + i * 7 : 2;
    static const struct gpu_mix mixes[] = {
        {.name = "CPU", .devices = "cpu", .kv = LODE_KV_F32, .batch = 100},
        {.name = "GPU", .devices = "simt0", .spread = GPU_SPREAD_ALL, .kv = LODE_KV_F32, .batch = 64},
        {.name = "both",
         .devices = "simt0,simt1,cpu",
         .spread = GPU_SPREAD_TURNS,
         .kv = LODE_KV_F32,
         .batch = 37}};
    float *logits[3];
    size_t vocab = 0;
    for (int i = 0; i < 3; i++) {
        struct gpu_mix_run run;
        gpu_mix_open(&run, path, &mixes[i], 304);
        vocab = lode_engine_shape(run.engine)->vocab;
        demo_feed(run.session, ids, 300);
        logits[i] = demo_copy_logits(run.session, vocab);
        gpu_mix_close(&run);
    }
    for (int i = 1; i < 3; i++) {
        const struct distance d = golden_distance(logits[0], logits[i], 1, vocab);
        fprintf(stderr, "  %s: max %.5f  KL %.2e\n", mixes[i].name, d.max_difference, d.mean_kl);
        cr_expect_leq(d.mean_kl, 1e-3, "%s", mixes[i].name);
    }
    for (int i = 0; i < 3; i++)
        free(logits[i]);
}

// ---- golden models

static float *logits_of(const struct golden *golden, const struct gpu_mix *mix, size_t *out_vocab)
{
    struct gpu_mix_run run;
    struct lode_error error = {0};
    gpu_mix_open(&run, golden->model, mix, (uint32_t)golden->count);
    const size_t vocab = *out_vocab = lode_engine_shape(run.engine)->vocab;
    const size_t step = mix->batch ? mix->batch : golden->count;
    float *logits = malloc(golden->count * vocab * sizeof *logits);
    for (size_t at = 0; at < golden->count; at += step) {
        const size_t n = golden->count - at < step ? golden->count - at : step;
        cr_assert_eq(lode_session_eval(run.session, golden->ids + at, n, n, logits + at * vocab, &error), 0,
                     "%s: %s", mix->name, error.text);
    }
    gpu_mix_close(&run);
    return logits;
}

// Ours against the exact logits within the bound that the CPU has, and against the CPU within as much. A
// library rounds to halves, and leaves the CPU for the exact logits: all that the CPU is off lies between.
static void check_golden(const struct golden_model *model, const struct gpu_mix *mix)
{
    struct golden golden;
    if (!golden_find(&golden, model->name)) {
        fprintf(stderr, "  %-16s is not here\n", model->name);
        return;
    }
    struct gpu_mix exactly = *mix; // with the cache that the bounds were made for
    exactly.kv = LODE_KV_F32;
    const struct gpu_mix alone = gpu_mix_of_cpu(&exactly);
    size_t vocab;
    float *cpu = logits_of(&golden, &alone, &vocab), *ours = logits_of(&golden, &exactly, &vocab);
    float *exact = golden_read_floats(golden.exact, golden.count * vocab);
    const struct distance far = golden_distance(exact, ours, golden.count, vocab);
    const struct distance from_cpu = golden_distance(cpu, ours, golden.count, vocab);
    const double bound = 1.25 * model->llama_cpp_kl + 1e-4;
    fprintf(stderr, "  %-16s %-48s mean KL %.3e of %.3e, from the CPU %.3e, max %.4f, top-1 %.3f\n",
            model->name, mix->name, far.mean_kl, bound, from_cpu.mean_kl, from_cpu.max_difference,
            from_cpu.same_top1);
    cr_expect_leq(far.mean_kl, bound, "%s, %s", model->name, mix->name);
    cr_expect_leq(from_cpu.mean_kl, mix->library ? 2 * bound : bound, "%s, %s", model->name, mix->name);
    free(cpu);
    free(ours);
    free(exact);
    free(golden.ids);
}

// Models without experts have nothing to put into slots, and ceilings for them are those of whole layers.
static bool suits(const struct gpu_mix *mix, const char *name)
{
    const bool is_moe = strstr(name, "moe") || strstr(name, "26b");
    return is_moe || (!mix->slots && !mix->tight_ram && !mix->uploads && mix->spread != GPU_SPREAD_EXPERTS);
}

// Each type of weights on a GPU, and divided.
Test(gpu_mixes, golden_models_stay_near_the_exact_logits, .timeout = 590)
{
    for (size_t m = 0, mix = 0; m < golden_n_quantised; m++) {
        check_golden(&golden_quantised[m], &gpu_mixes[0]);
        do
            mix = mix % (gpu_n_mixes - 1) + 1;
        while (!suits(&gpu_mixes[mix], golden_quantised[m].name));
        check_golden(&golden_quantised[m], &gpu_mixes[mix]);
    }
}

// Each architecture in all ways that suit it: K and V that layers share, per-layer embeddings, experts.
Test(gpu_mixes, each_architecture_in_every_mix, .timeout = 590)
{
    static const char *const names[] = {"m-e2b-q4_0", "m-e4b-q4_0", "m-31b-q4_0", "m-26b-a4b-q4_0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t m = 0; m < golden_n_quantised; m++)
            for (size_t mix = 1; mix < gpu_n_mixes && strcmp(golden_quantised[m].name, names[i]) == 0; mix++)
                if (suits(&gpu_mixes[mix], names[i]) && !gpu_mixes[mix].tight_ram)
                    check_golden(&golden_quantised[m], &gpu_mixes[mix]);
}
