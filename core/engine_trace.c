// What a run chooses, guesses and reads, recorded to a file: the header that says what ran and how, and the
// life of its writer.
#include "core/engine.h"

#include "backends/cpu/cpu_topology.h"

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

// "AMD Ryzen 7, NVIDIA GeForce RTX 4060": the processor and the GPUs of the run, as far as they fit.
static void describe_machine(char *out, size_t capacity, const struct lode_engine *engine)
{
    const struct engine_gpus *gpus = &engine->gpus;
    struct cpu_topology topology = {0};
    char text[512] = "";
    if (cpu_topology_open(&topology, NULL) == 0) {
        snprintf(text, sizeof text, "%s", topology.model);
        cpu_topology_close(&topology);
    }
    for (uint32_t g = 0; g < gpus->n; g++)
        for (uint32_t i = 0; i < gpus->list->n; i++) {
            const struct device_found *found = &gpus->list->found[i];
            const size_t used = strlen(text);
            if (strcmp(found->name, gpus->devices[g]->name) == 0)
                snprintf(text + used, sizeof text - used, "%s%s", used ? ", " : "", found->gpu.name);
        }
    set_text(out, capacity, text);
}

int engine_trace_open(struct lode_engine *engine, const struct session_needs *needs, uint64_t budget_bytes,
                      struct lode_error *error)
{
    if (!engine->options.trace_path)
        return 0;
    struct trace_header *header = calloc(1, sizeof *header);
    if (!header)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the header of a trace");
    header->fingerprint = engine->fingerprint;
    header->known = TRACE_HAS_ALL;
    if (engine->mapped) // the kernel reads, and knows what is in memory
        header->known &= ~(uint32_t)(TRACE_HAS_RESIDENCY | TRACE_HAS_READS);
    describe_layers(header, &engine->model);
    set_text(header->model, sizeof header->model, engine->shape.name);
    describe_machine(header->machine, sizeof header->machine, engine);
    set_text(header->lode_version, sizeof header->lode_version, lode_version());
    const struct trace_settings settings = engine_settings(engine, needs, budget_bytes);
    trace_settings_write(header->options, sizeof header->options, &settings);
    header->plan_hash = engine->plan_hash;
    const int rc = trace_writer_open(&engine->trace, engine->options.trace_path, header, error);
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
