#include "tests/gpu_mix.h"

#include "core/gemma4.h"
#include "profiles/machine_profile.h"
#include "tests/weights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define BOTH "simt0,simt1,cpu"

const struct gpu_mix gpu_mixes[] = {
    {.name = "all on one GPU", .devices = "simt0", .spread = GPU_SPREAD_ALL},
    {.name = "all on one GPU by rule", .devices = "simt0,cpu"},
    {.name = "dense units on a GPU, experts in RAM",
     .devices = "simt0,cpu",
     .spread = GPU_SPREAD_DENSE,
     .slots = GPU_MIX_NO_SLOTS},
    {.name = "dense units on a GPU, experts in RAM and files",
     .devices = "simt0,cpu",
     .spread = GPU_SPREAD_DENSE,
     .slots = GPU_MIX_NO_SLOTS,
     .tight_ram = true},
    {.name = "few slots", .devices = "simt0,cpu", .spread = GPU_SPREAD_DENSE, .slots = 16},
    {.name = "few slots, RAM and files",
     .devices = "simt0,cpu",
     .spread = GPU_SPREAD_DENSE,
     .slots = 16,
     .tight_ram = true},
    {.name = "experts on two GPUs, in RAM and files",
     .devices = BOTH,
     .spread = GPU_SPREAD_TURNS,
     .slots = 20,
     .tight_ram = true},
    {.name = "experts on two GPUs, the rest on the CPU", .devices = BOTH, .spread = GPU_SPREAD_EXPERTS},
    {.name = "whole layers on one GPU", .devices = "simt0,cpu", .placement = "by-layer", .share = 0.6},
    {.name = "whole layers on two GPUs", .devices = BOTH, .placement = "by-layer", .share = 0.4},
    {.name = "whole layers on a GPU, RAM and files",
     .devices = "simt0,cpu",
     .placement = "by-layer",
     .share = 0.4,
     .tight_ram = true},
    {.name = "layers in turns", .devices = BOTH, .spread = GPU_SPREAD_TURNS},
    {.name = "random units", .devices = BOTH, .spread = GPU_SPREAD_RANDOM, .seed = 1},
    {.name = "random units, F32 cache, steps of 7",
     .devices = BOTH,
     .spread = GPU_SPREAD_RANDOM,
     .seed = 2,
     .kv = LODE_KV_F32,
     .batch = 7},
    {.name = "random units, Q8_0 cache, RAM and files",
     .devices = BOTH,
     .spread = GPU_SPREAD_RANDOM,
     .seed = 3,
     .slots = 30,
     .tight_ram = true,
     .kv = LODE_KV_Q8_0},
    {.name = "all on one GPU, Q8_0 cache, steps of 1",
     .devices = "simt0",
     .spread = GPU_SPREAD_ALL,
     .kv = LODE_KV_Q8_0,
     .batch = 1},
    {.name = "all on one GPU, F32 cache, steps of 3",
     .devices = "simt0",
     .spread = GPU_SPREAD_ALL,
     .kv = LODE_KV_F32,
     .batch = 3},
    {.name = "experts copied for prefill",
     .devices = "simt0,cpu",
     .spread = GPU_SPREAD_DENSE,
     .slots = 16,
     .uploads = true},
    {.name = "experts copied for prefill from a small pool",
     .devices = "simt0,cpu",
     .spread = GPU_SPREAD_DENSE,
     .slots = 16,
     .tight_ram = true,
     .uploads = true},
    {.name = "all on one GPU, prompts by a library",
     .devices = "simt0",
     .spread = GPU_SPREAD_ALL,
     .library = true},
    {.name = "layers in turns, prompts by a library on one GPU of two",
     .devices = BOTH,
     .spread = GPU_SPREAD_TURNS,
     .library = true},
};
const size_t gpu_n_mixes = sizeof gpu_mixes / sizeof *gpu_mixes;

struct gpu_mix gpu_mix_of_cpu(const struct gpu_mix *mix)
{
    return (struct gpu_mix){.name = "the CPU alone", .devices = "cpu", .kv = mix->kv, .batch = mix->batch};
}

// ---- who gets which units

// 1 + g, or 0 for the CPU.
static uint8_t place_of_group(const struct gpu_mix *mix, uint32_t n_gpus, uint32_t group,
                              struct test_random *random)
{
    switch (mix->spread) {
    case GPU_SPREAD_ALL:
    case GPU_SPREAD_DENSE:
        return 1;
    case GPU_SPREAD_TURNS:
        return (uint8_t)((group + 1) % (n_gpus + 1));
    case GPU_SPREAD_RANDOM:
        return (uint8_t)(test_random_u32(random) % (n_gpus + 1));
    default:
        return 0;
    }
}

static uint8_t place_of_expert(const struct gpu_mix *mix, uint32_t n_gpus, uint32_t index,
                               struct test_random *random)
{
    switch (mix->spread) {
    case GPU_SPREAD_ALL:
        return 1;
    case GPU_SPREAD_EXPERTS:
        return (uint8_t)(1 + index % n_gpus);
    case GPU_SPREAD_TURNS:
        return (uint8_t)(n_gpus - index % (n_gpus + 1));
    case GPU_SPREAD_RANDOM:
        return (uint8_t)(test_random_u32(random) % (n_gpus + 1));
    default:
        return 0;
    }
}

static uint8_t *spread_units(const struct gemma_model *model, const struct gpu_mix *mix, uint32_t n_gpus)
{
    const uint32_t n_layers = model->hparams.n_layers;
    struct test_random random = {mix->seed * 1000003};
    uint8_t *unit_gpu = calloc(model->units.n_units, 1), *of_group = calloc(n_layers + 1, 1);
    cr_assert(unit_gpu && of_group);
    for (uint32_t group = 0; group <= n_layers; group++) // by the layer that owns K and V; the last: outside
        of_group[group] = place_of_group(mix, n_gpus, group, &random);
    for (uint32_t u = 0; u < model->units.n_units; u++) {
        const struct unit *unit = &model->units.units[u];
        if (unit->class == UNIT_EXPERT)
            unit_gpu[u] = place_of_expert(mix, n_gpus, unit->index, &random);
        else if (unit->class != UNIT_ROWS)
            unit_gpu[u] =
                of_group[unit->layer == UNIT_NO_LAYER ? n_layers : model->layers[unit->layer].kv_layer];
    }
    free(of_group);
    return unit_gpu;
}

static uint32_t count_gpus(const char *devices)
{
    uint32_t n = 0;
    for (const char *at = devices; (at = strstr(at, "simt")); at++)
        n++;
    return n;
}

// $LODE_TEST_GPU, a real one, stands for simt0 where it is set.
static const char *real_devices(char *out, size_t capacity, const char *devices)
{
    const char *gpu = getenv("LODE_TEST_GPU"), *at = strstr(devices, "simt0");
    if (!gpu || !at)
        return devices;
    snprintf(out, capacity, "%.*s%s%s", (int)(at - devices), devices, gpu, at + strlen("simt0"));
    return out;
}

static uint8_t *make_units(const char *path, const struct gpu_mix *mix, uint32_t *out_n)
{
    struct gguf *gguf;
    struct gemma_model model;
    struct lode_error error = {0};
    if (mix->spread == GPU_SPREAD_RULE)
        return NULL;
    cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_model_load(&model, gguf, &error), 0, "%s", error.text);
    uint8_t *unit_gpu = spread_units(&model, mix, count_gpus(mix->devices));
    *out_n = model.units.n_units;
    gemma_model_free(&model);
    gguf_close(gguf);
    return unit_gpu;
}

// ---- ceilings

static int try_open(struct gpu_mix_run *out, const char *path, const struct lode_engine_options *options,
                    const struct gpu_mix *mix, uint32_t context, struct lode_error *error)
{
    const struct lode_session_options session = {.context = context, .batch = mix->batch, .kv = mix->kv};
    int code = lode_engine_open(&out->engine, path, options, error);
    if (code)
        return code;
    code = lode_session_open(&out->session, out->engine, &session, error);
    if (code)
        lode_engine_close(out->engine);
    return code;
}

static void open_with(struct gpu_mix_run *out, const char *path, const struct lode_engine_options *options,
                      const struct gpu_mix *mix, uint32_t context)
{
    struct lode_error error = {0};
    cr_assert_eq(try_open(out, path, options, mix, context, &error), 0, "%s: %s: %s", path, mix->name,
                 error.text);
}

// What each GPU holds without a ceiling says how much it needs with so many slots, or for a share of all.
static uint64_t find_vram(const char *path, const struct lode_engine_options *options,
                          const struct gpu_mix *mix, uint32_t context)
{
    if (!mix->slots && mix->share == 0)
        return 0;
    struct gpu_mix_run roomy;
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    open_with(&roomy, path, options, mix, context);
    const size_t n = lode_session_gpus(roomy.session, gpus, LODE_PLAN_GPUS);
    cr_assert_eq(n, count_gpus(mix->devices));
    uint64_t most = 0;
    for (size_t g = 0; g < n; g++) {
        const uint64_t slot_bytes = gpus[g].pool_slots ? gpus[g].pool_bytes / gpus[g].pool_slots : 0;
        const uint64_t slots = mix->slots == GPU_MIX_NO_SLOTS ? 0 : mix->slots;
        const uint64_t fixed = gpus[g].kv_bytes + gpus[g].scratch_bytes;
        const uint64_t weights = gpus[g].pinned_bytes + slots * slot_bytes;
        const uint64_t whole = gpus[g].pinned_bytes + gpus[g].pool_used * slot_bytes + gpus[g].kv_bytes;
        const uint64_t bytes =
            mix->share > 0 ? gpus[g].scratch_bytes + (uint64_t)(mix->share * (double)whole) : fixed + weights;
        most = bytes > most ? bytes : most;
    }
    lode_session_close(roomy.session);
    lode_engine_close(roomy.engine);
    return most + MIB + MIB / 64; // what the engine sets aside for what nobody counts, and rounding up
}

// The first ceiling under which the model opens, and a little more: some experts stay, most come and go.
static void open_tight(struct gpu_mix_run *out, const char *path, struct lode_engine_options *options,
                       const struct gpu_mix *mix, uint32_t context)
{
    struct lode_error error = {0};
    int code = LODE_ERR_MEMORY;
    for (uint64_t mib = 48; mib < 4096 && code == LODE_ERR_MEMORY; mib++) {
        options->ram_bytes = mib * MIB;
        code = try_open(out, path, options, mix, context, &error);
    }
    cr_assert_eq(code, 0, "%s: %s: %s", path, mix->name, error.text);
}

// A link and a GPU so fast, and a CPU so slow, that copying always wins; or the other way round, with a
// library that is twice as fast as the GPU's own kernels from 9 rows on.
static void write_profile(struct gpu_mix_run *run, const struct gpu_mix *mix)
{
    struct machine_profile *profile = malloc(sizeof *profile);
    struct lode_error error = {0};
    cr_assert(profile);
    cr_assert_eq(machine_profile_parse(profile,
                                       mix->uploads ? "ram=8G@1,cores=1,gpu=8G@2000@100,link=500"
                                                    : "ram=8G@1000,cores=64,gpu=8G@10@1,link=0.1",
                                       &error),
                 0, "%s", error.text);
    for (uint32_t type = 0; type < LODE_TYPE_END && mix->library; type++) {
        struct profile_kernels *kernels = &profile->gpus[0].kernels[type];
        if (kernels->known)
            kernels->library_gbps =
                (struct profile_curve){1, {{9, 2 * profile_curve_at(&kernels->dense_gbps, 9), 0}}};
    }
    const char *gpu = getenv("LODE_TEST_GPU") ? getenv("LODE_TEST_GPU") : "simt0";
    snprintf(profile->gpus[0].backend, sizeof profile->gpus[0].backend, "%.*s",
             (int)strcspn(gpu, "0123456789"), gpu);
    strcpy(run->profile_path, "/tmp/lode-test-profile-XXXXXX");
    const int fd = mkstemp(run->profile_path);
    cr_assert_geq(fd, 0);
    close(fd);
    cr_assert_eq(machine_profile_write(profile, run->profile_path, &error), 0, "%s", error.text);
    free(profile);
}

static void on_note(void *user, const char *text)
{
    struct gpu_mix_run *run = user;
    run->told_library |= strstr(text, "prefill by ") != NULL;
}

void gpu_mix_open(struct gpu_mix_run *out, const char *path, const struct gpu_mix *mix, uint32_t context)
{
    *out = (struct gpu_mix_run){.engine = NULL};
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = 2;
    char devices[128], whole_devices[128];
    options.devices = real_devices(devices, sizeof devices, mix->devices);
    options.placement = mix->placement;
    uint32_t n_units = 0;
    options.unit_gpu = out->unit_gpu = make_units(path, mix, &n_units);
    options.n_unit_gpu = n_units;
    if (mix->uploads || mix->library)
        write_profile(out, mix);
    options.profile_path = out->profile_path[0] ? out->profile_path : NULL;
    options.on_note = on_note;
    options.user = out;
    struct gpu_mix whole = *mix;
    struct lode_engine_options whole_options = options;
    if (mix->share > 0) {
        whole.devices = "simt0";
        whole_options.devices = real_devices(whole_devices, sizeof whole_devices, whole.devices);
        whole_options.placement = NULL;
    }
    options.vram_bytes = find_vram(path, &whole_options, &whole, context);
    if (mix->tight_ram)
        open_tight(out, path, &options, mix, context);
    else
        open_with(out, path, &options, mix, context);
}

void gpu_mix_close(struct gpu_mix_run *run)
{
    lode_session_close(run->session);
    lode_engine_close(run->engine);
    free(run->unit_gpu);
    if (run->profile_path[0])
        unlink(run->profile_path);
}
