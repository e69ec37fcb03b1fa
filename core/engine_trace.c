// What a run chooses, guesses and reads, recorded to a file: the header that says what ran and how, and the
// life of its writer.
#include "core/engine.h"

#include "backends/cpu/cpu.h"
#include "backends/cpu/cpu_topology.h"
#include "placement/homes.h"
#include "placement/trace_format.h"
#include "placement/trace_settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Text of files may hold anything; a trace's header has no control characters.
static void set_text(char *out, size_t capacity, const char *text)
{
    snprintf(out, capacity, "%s", text);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
}

static void describe_layers(struct trace_header *out, const struct gemma_model *model)
{
    out->n_layers = model->hparams.n_layers;
    for (uint32_t l = 0; l < out->n_layers && l < TRACE_MAX_LAYERS; l++)
        if (model->layers[l].moe)
            out->layers[l] = (struct trace_layer){
                .n_experts = model->hparams.n_experts,
                .n_used = model->hparams.n_experts_used,
                .expert_bytes = model->units.units[model->layers[l].first_expert_unit].bytes};
}

static struct trace_settings settings_of(const struct lode_engine *engine, const struct session_needs *needs,
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
    return out;
}

// Of where every unit has its home, and of how the run is set.
static int hash_plan(struct trace_header *out, const struct lode_engine *engine, uint64_t budget_bytes,
                     struct lode_error *error)
{
    const struct unit_table *units = &engine->model.units;
    const struct homes_request request = {
        .budget_bytes = budget_bytes ? budget_bytes : residency_full_bytes(units, engine->device),
        .host_memory = engine->device->host_memory,
        .ring_bytes = engine->options.ring_bytes,
    };
    struct homes homes;
    const int rc = homes_divide(&homes, units, &request, error);
    if (rc)
        return rc;
    out->plan_hash = trace_sum(TRACE_SUM_START, homes.home, units->n_units * sizeof *homes.home);
    out->plan_hash = trace_sum(out->plan_hash, (const uint8_t *)out->options, strlen(out->options));
    homes_free(&homes);
    return 0;
}

int engine_trace_open(struct lode_engine *engine, const struct session_needs *needs, uint64_t budget_bytes,
                      struct lode_error *error)
{
    if (!engine->options.trace_path)
        return 0;
    struct trace_header *header = calloc(1, sizeof *header);
    struct cpu_topology topology = {0};
    if (!header)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the header of a trace");
    header->fingerprint = engine->fingerprint;
    header->known = TRACE_HAS_ALL;
    if (engine->mapped) // the kernel reads, and knows what is in memory
        header->known &= ~(uint32_t)(TRACE_HAS_RESIDENCY | TRACE_HAS_READS);
    describe_layers(header, &engine->model);
    set_text(header->model, sizeof header->model, engine->shape.name);
    if (cpu_topology_open(&topology, NULL) == 0) {
        set_text(header->machine, sizeof header->machine, topology.model);
        cpu_topology_close(&topology);
    }
    set_text(header->lode_version, sizeof header->lode_version, lode_version());
    const struct trace_settings settings = settings_of(engine, needs, budget_bytes);
    trace_settings_write(header->options, sizeof header->options, &settings);
    int rc = hash_plan(header, engine, budget_bytes, error);
    if (!rc)
        rc = trace_writer_open(&engine->trace, engine->options.trace_path, header, error);
    free(header);
    return rc;
}

void engine_trace_check(struct lode_engine *engine)
{
    if (!engine->trace || engine->trace_failed)
        return;
    const char *why = trace_writer_failure(engine->trace);
    if (!why)
        return;
    engine->trace_failed = true;
    engine_note(engine, "%s; the run goes on, what it does from here on is not recorded", why);
}

void engine_trace_close(struct lode_engine *engine)
{
    struct lode_error cause;
    if (trace_writer_close(engine->trace, &cause) && !engine->trace_failed)
        engine_note(engine, "%s", cause.text);
    engine->trace = NULL;
}
