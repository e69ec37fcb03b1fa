// How an engine is set up: in words, for traces, and as a number that tells one set-up from another.
#include "core/engine.h"

#include "backends/cpu/cpu.h"
#include "placement/homes.h"
#include "placement/trace_format.h"

#include <stdio.h>
#include <string.h>

static void describe_gpus(struct trace_settings *out, const struct lode_engine *engine)
{
    const struct engine_gpus *gpus = &engine->gpus;
    const struct lode_engine_options *options = &engine->options;
    size_t used = 0;
    snprintf(out->devices, sizeof out->devices, "cpu");
    for (uint32_t g = 0; g < gpus->n && used < sizeof out->devices; g++) {
        used += (size_t)snprintf(out->devices + used, sizeof out->devices - used, "%s%s", g ? "+" : "",
                                 gpus->devices[g]->name);
        out->vram_bytes[out->n_vram++] = gpus->ceiling_bytes[g];
    }
    if (gpus->n)
        snprintf(out->placement, sizeof out->placement, "%s",
                 options->unit_gpu    ? "plan"
                 : options->placement ? options->placement
                                      : "auto");
}

struct trace_settings engine_settings(const struct lode_engine *engine, const struct session_needs *needs,
                                      uint64_t budget_bytes)
{
    static const char *const formats[] = {
        [LODE_CACHE_F16] = "f16", [LODE_CACHE_Q8_0] = "q8_0", [LODE_CACHE_F32] = "f32"};
    const struct lode_engine_options *options = &engine->options;
    struct io_choice io;
    io_describe(engine->io, &io);
    struct trace_settings out = {
        .weights_bytes = budget_bytes,
        .ring_bytes = options->ring_bytes,
        .context = needs->context,
        .batch = needs->batch,
        .threads = cpu_threads(engine->device),
        .queue_depth = io.queue_depth,
        .prefetch_ranks = options->prefetch_ranks,
        .warm = engine->heat_path && engine->heat.n_tokens > 0,
        .direct = io.direct,
    };
    const char *policy = options->policy ? options->policy : policy_table[0]->name;
    const char *predictor = options->no_prefetch ? "none" : engine_predictor_name(engine);
    snprintf(out.kv, sizeof out.kv, "%s", formats[needs->format]);
    if (strlen(policy) < sizeof out.policy)
        strcpy(out.policy, policy);
    if (strlen(predictor) < sizeof out.predictor)
        strcpy(out.predictor, predictor);
    describe_gpus(&out, engine);
    return out;
}

// The exact budget is left out: it changes by some KB from run to run with the size of the program. So are
// ceilings of GPUs, which are what was free: what lies there tells enough.
int engine_find_plan(struct lode_engine *engine, const struct session_needs *needs, uint64_t budget_bytes,
                     struct lode_error *error)
{
    const struct unit_table *units = &engine->model.units;
    const struct homes_request request = {
        .budget_bytes = budget_bytes ? budget_bytes : engine_host_bounds(engine).full_bytes,
        .host_memory = engine->device->host_memory,
        .ring_bytes = engine->options.ring_bytes,
        .gpu = engine->gpus.unit_gpu,
        .gpu_has_copies = true,
    };
    struct trace_settings settings = engine_settings(engine, needs, 0);
    settings.n_vram = 0;
    char words[sizeof((struct trace_header *)0)->options];
    struct homes homes;
    const int rc = homes_divide(&homes, units, &request, error);
    if (rc)
        return rc;
    trace_settings_write(words, sizeof words, &settings);
    const uint8_t mapped = engine->mapped != NULL;
    uint64_t hash = trace_sum(TRACE_SUM_START, homes.home, units->n_units * sizeof *homes.home);
    hash = trace_sum(hash, (const uint8_t *)words, strlen(words));
    hash = trace_sum(hash, &mapped, sizeof mapped);
    if (engine->gpus.unit_gpu)
        hash = trace_sum(hash, engine->gpus.unit_gpu, units->n_units);
    engine->plan_hash = hash ? hash : 1;
    homes_free(&homes);
    return 0;
}

uint64_t lode_engine_plan_hash(const struct lode_engine *engine)
{
    return engine->plan_hash;
}
