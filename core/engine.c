// A model: takes its options, makes the devices ready, reads the weights for the first session.
#include "core/engine.h"

#include "backends/cpu/cpu.h"
#include "backends/cpu/threads.h"
#include "base/bytes_text.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LODE_VERSION
#define LODE_VERSION "0.0.0"
#endif

// Beyond it no drive gets faster, and a demand waits behind what is in flight.
#define MOST_QUEUE_DEPTH 256

#define NO_PREDICTOR "none"

const char *lode_version(void)
{
    return LODE_VERSION;
}

struct lode_engine_options lode_engine_options_default(void)
{
    return (struct lode_engine_options){0};
}

void engine_note(const struct lode_engine *engine, const char *format, ...)
{
    if (!engine->options.on_note)
        return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    engine->options.on_note(engine->options.user, text);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static char *copy(const char *text)
{
    return text ? strdup(text) : NULL;
}

static int choose_predictor(struct lode_engine *engine, struct lode_error *error)
{
    struct lode_engine_options *options = &engine->options;
    const bool none = options->predictor && strcmp(options->predictor, NO_PREDICTOR) == 0;
    if (options->predictor && !none && options->no_prefetch)
        return lode_fail(error, LODE_ERR_ARGUMENT, "no prefetch and the predictor '%s' contradict each other",
                         options->predictor);
    options->no_prefetch = options->no_prefetch || none;
    if (options->no_prefetch)
        return 0;
    const char *name = options->predictor ? options->predictor : predictor_table[0]->name;
    return predictor_plugin_open_named(&engine->predictor_ops, &engine->predictor_plugin, name, error);
}

static int take_options(struct lode_engine *engine, const char *path,
                        const struct lode_engine_options *options, struct lode_error *error)
{
    struct lode_engine_options *own = &engine->options;
    *own = *options;
    engine->path = strdup(path);
    own->isa = copy(options->isa);
    own->policy = copy(options->policy);
    own->io = copy(options->io);
    own->mirror = copy(options->mirror);
    own->heat_dir = copy(options->heat_dir);
    own->predictor = copy(options->predictor);
    own->trace_path = copy(options->trace_path);
    own->devices = copy(options->devices);
    own->placement = copy(options->placement);
    own->profile_path = copy(options->profile_path);
    own->timeline_path = copy(options->timeline_path);
    own->unit_gpu = NULL;
    if (options->unit_gpu) {
        uint8_t *unit_gpu = malloc(options->n_unit_gpu + 1);
        if (unit_gpu)
            memcpy(unit_gpu, options->unit_gpu, options->n_unit_gpu);
        own->unit_gpu = unit_gpu;
    }
    if (!engine->path || (options->isa && !own->isa) || (options->policy && !own->policy) ||
        (options->io && !own->io) || (options->mirror && !own->mirror) ||
        (options->heat_dir && !own->heat_dir) || (options->predictor && !own->predictor) ||
        (options->trace_path && !own->trace_path) || (options->devices && !own->devices) ||
        (options->placement && !own->placement) || (options->profile_path && !own->profile_path) ||
        (options->timeline_path && !own->timeline_path) || (options->unit_gpu && !own->unit_gpu))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open %s", path);
    if (options->queue_depth > MOST_QUEUE_DEPTH)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a queue of %" PRIu32 " reads is beyond %d",
                         options->queue_depth, MOST_QUEUE_DEPTH);
    int rc = choose_predictor(engine, error);
    if (rc)
        return rc;
    if (own->no_prefetch && options->prefetch_ranks)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "no prefetch and prefetch of %" PRIu32 " ranks contradict each other",
                         options->prefetch_ranks);
    return options->policy ? policy_open_named(&engine->policy, &engine->plugin, options->policy, error) : 0;
}

static int open_predictor(struct lode_engine *engine, struct lode_error *error)
{
    const struct gemma_model *model = &engine->model;
    const uint32_t n_layers = model->hparams.n_layers;
    if (!engine->predictor_ops || !model->hparams.n_experts)
        return 0;
    uint32_t *n_experts = calloc(n_layers, sizeof *n_experts);
    if (!n_experts)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open the predictor");
    for (uint32_t l = 0; l < n_layers; l++)
        n_experts[l] = model->layers[l].moe ? model->hparams.n_experts : 0;
    const struct predictor_setup setup = {
        .n_layers = n_layers,
        .n_experts = n_experts,
        .n_used = model->hparams.n_experts_used,
        .heat = engine->heat_path && engine->heat.n_tokens ? engine->heat.mean : NULL,
    };
    struct lode_error cause = {0};
    const int rc = engine->predictor_ops->open(&engine->predictor, &setup, &cause);
    free(n_experts);
    if (rc && !cause.text[0]) // a shared object's author may have forgotten it
        return lode_fail(error, rc, "the predictor '%s' does not open and does not say why",
                         engine->predictor_ops->name);
    if (rc && error)
        *error = cause;
    return rc;
}

const char *engine_predictor_name(const struct lode_engine *engine)
{
    return engine->options.predictor ? engine->options.predictor : engine->predictor_ops->name;
}

// More threads than processors are what was asked for, so they act; but operations wait for tasks of threads
// that wait for their turn.
static void note_turns(const struct lode_engine *engine)
{
    struct cpu_allowance allowance;
    const uint32_t threads = engine->options.threads;
    if (!threads || cpu_threads_allowance(&allowance, NULL) != LODE_OK)
        return;
    const uint32_t processors = cpu_allowance_processors(&allowance);
    if (threads <= processors)
        return;
    engine_note(
        engine,
        "%" PRIu32 " threads on %" PRIu32 " processor%s take turns; as many threads as processors are "
        "usually faster (%s)",
        threads, processors, processors == 1 ? "" : "s",
        processors < allowance.hardware_threads ? "the CPU quota of the control group pays for no more"
                                                : "the affinity of the process allows no more");
}

// A session's memory is taken before there are weights.
static void describe_weights(struct lode_engine *engine)
{
    engine->weights = (struct forward_weights){.model = &engine->model,
                                               .device = engine->device,
                                               .unit_gpu = engine->gpus.unit_gpu,
                                               .n_gpus = engine->gpus.unit_gpu ? engine->gpus.n : 0};
    memcpy(engine->weights.gpus, engine->gpus.devices, sizeof engine->weights.gpus);
}

int lode_engine_open(struct lode_engine **out, const char *path, const struct lode_engine_options *options,
                     struct lode_error *error)
{
    *out = NULL;
    const uint64_t start_ns = clock_now_ns();
    const struct lode_engine_options defaults = lode_engine_options_default();
    struct lode_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open %s", path);
    int rc = take_options(engine, path, options ? options : &defaults, error);
    if (!rc)
        rc = engine_files_check(engine, error);
    const struct cpu_options cpu = {.threads = engine->options.threads, .isa = engine->options.isa};
    if (!rc)
        rc = engine_files_open(engine, error);
    if (!rc)
        rc = cpu_open(&engine->device, &cpu, error);
    if (!rc)
        note_turns(engine);
    if (!rc)
        rc = engine_gpus_open(engine, error);
    if (!rc)
        rc = engine_timeline_open(engine, error);
    if (!rc)
        rc = weight_matrices_open(&engine->matrices, &engine->model, engine->device, error);
    if (!rc)
        rc = engine_heat_open(engine, error);
    if (!rc)
        rc = open_predictor(engine, error);
    if (rc) {
        lode_engine_close(engine);
        return rc;
    }
    describe_weights(engine);
    engine_settle_ceiling(engine);
    if (engine->options.trace_path && engine->base_bytes)
        engine->base_bytes += trace_writer_most_bytes();
    engine->open_s = clock_seconds_since(start_ns);
    *out = engine;
    return 0;
}

static bool on_read(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct lode_engine *engine = user;
    const struct lode_engine_options *options = &engine->options;
    return !options->on_progress || options->on_progress(options->user, "loading", done_bytes, total_bytes);
}

static void note_offload(const struct lode_engine *engine, uint64_t budget)
{
    struct residency_figures figures;
    residency_count(engine->residency, &figures);
    if (!figures.pool_bytes && !figures.streamed_bytes)
        return;
    char experts[96] = "", streamed[96] = "";
    if (figures.pool_bytes)
        snprintf(experts, sizeof experts, ", room for %" PRIu32 " of %" PRIu32 " experts", figures.pool_slots,
                 figures.n_experts);
    if (figures.streamed_bytes)
        snprintf(streamed, sizeof streamed, ", %s read in each pass",
                 bytes_text(figures.streamed_bytes).text);
    if (engine->gpus.n)
        engine_note(engine, "beside the GPUs, %s of memory for weights: %s stay%s%s", bytes_text(budget).text,
                    bytes_text(figures.pinned_bytes).text, experts, streamed);
    else
        engine_note(engine, "%s of weights in %s of memory: %s stay%s%s",
                    bytes_text(unit_table_bytes(&engine->model.units)).text, bytes_text(budget).text,
                    bytes_text(figures.pinned_bytes).text, experts, streamed);
}

int engine_load(struct lode_engine *engine, const struct session_needs *needs, struct lode_error *error)
{
    if (engine->residency) {
        engine->sessions_bytes += needs->kv_bytes + needs->scratch_bytes;
        return 0;
    }
    const uint64_t start_ns = clock_now_ns();
    struct residency_gpu gpus[HOME_GPUS];
    struct residency_options options = {
        .policy = engine->policy,
        .used_per_layer = engine->model.hparams.n_experts_used,
        .heat = engine->heat.n_units ? &engine->heat : NULL,
        .no_prefetch = engine->options.no_prefetch,
        .prefetch_ranks = engine->options.prefetch_ranks,
        .ring_bytes = engine->options.ring_bytes,
        .mapped = engine->mapped,
        .on_part = engine->options.no_repack ? NULL : weight_matrices_arrange,
        .copy_part = weight_matrices_restore,
        .part_user = &engine->matrices,
        .on_progress = on_read,
        .user = engine,
        .gpus = gpus,
        .n_gpus = engine->gpus.n,
        .unit_gpu = engine->gpus.unit_gpu,
    };
    for (uint32_t g = 0; g < engine->gpus.n; g++)
        gpus[g] = (struct residency_gpu){.device = engine->gpus.devices[g],
                                         .budget_bytes = engine->gpus.weights_bytes[g]};
    int rc = engine_rates_read(&options.host_rates, gpus, engine, error);
    if (!rc)
        rc = engine_weights_budget(&options.budget_bytes, engine, needs, error);
    if (!rc)
        rc = engine_find_plan(engine, needs, options.budget_bytes, error);
    if (!rc)
        rc = engine_trace_open(engine, needs, options.budget_bytes, error);
    options.trace = engine->trace;
    if (!rc)
        rc = residency_open(&engine->residency, &engine->model.units, engine->io, engine->device, &options,
                            error);
    if (!rc)
        rc = forward_weights_open(&engine->weights, &engine->model, &engine->matrices, engine->residency,
                                  error);
    if (rc) {
        residency_close(engine->residency);
        engine->residency = NULL;
        engine_trace_close(engine);
        describe_weights(engine);
        return rc;
    }
    engine->weights.trace = engine->trace;
    engine->weights.predictor = engine->predictor;
    engine->sessions_bytes += needs->kv_bytes + needs->scratch_bytes;
    engine->load_s = clock_seconds_since(start_ns);
    note_offload(engine, options.budget_bytes);
    engine_gpus_note(engine);
    return 0;
}

void lode_engine_close(struct lode_engine *engine)
{
    if (!engine)
        return;
    engine_keep_heat(engine, true);
    forward_weights_close(&engine->weights);
    residency_close(engine->residency);
    engine_trace_close(engine);
    if (engine->predictor)
        engine->predictor->ops->close(engine->predictor);
    predictor_plugin_close(engine->predictor_plugin);
    policy_plugin_close(engine->plugin);
    weight_matrices_close(&engine->matrices);
    heat_close(&engine->heat);
    engine_timeline_close(engine);
    engine_gpus_close(engine);
    if (engine->device)
        engine->device->ops->close(engine->device);
    io_close(engine->io);
    mapped_close(engine->mapped);
    lode_tokenizer_close(engine->tokenizer);
    gemma_model_free(&engine->model);
    free(engine->suppressed);
    free(engine->path);
    free(engine->heat_path);
    free((char *)engine->options.isa);
    free((char *)engine->options.policy);
    free((char *)engine->options.io);
    free((char *)engine->options.mirror);
    free((char *)engine->options.heat_dir);
    free((char *)engine->options.predictor);
    free((char *)engine->options.trace_path);
    free((char *)engine->options.devices);
    free((char *)engine->options.placement);
    free((char *)engine->options.profile_path);
    free((char *)engine->options.timeline_path);
    free((uint8_t *)engine->options.unit_gpu);
    free(engine);
}

// ---- what it is
// ----------------------------------------------------------------------------------------------

const struct lode_tokenizer *lode_engine_tokenizer(const struct lode_engine *engine)
{
    return engine->tokenizer;
}

const struct lode_shape *lode_engine_shape(const struct lode_engine *engine)
{
    return &engine->shape;
}

uint32_t lode_engine_threads(const struct lode_engine *engine)
{
    return cpu_threads(engine->device);
}

const char *lode_engine_isa(const struct lode_engine *engine)
{
    return cpu_isa(engine->device);
}

double lode_engine_load_seconds(const struct lode_engine *engine)
{
    return engine->open_s + engine->load_s;
}

const char *lode_policy_name(size_t index, const char **out_summary)
{
    size_t n = 0;
    while (policy_table[n] && n < index)
        n++;
    if (!policy_table[n])
        return NULL;
    if (out_summary)
        *out_summary = policy_table[n]->summary;
    return policy_table[n]->name;
}

const char *lode_predictor_name(size_t index, const char **out_summary)
{
    size_t n = 0;
    while (predictor_table[n] && n < index)
        n++;
    if (!predictor_table[n] && n < index)
        return NULL;
    if (out_summary)
        *out_summary = predictor_table[n] ? predictor_table[n]->summary : "nothing is guessed, or prefetched";
    return predictor_table[n] ? predictor_table[n]->name : NO_PREDICTOR;
}
