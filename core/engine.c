// A model: opens its file, makes the device ready, reads the weights for the first session, keeps the heat.
#include "core/engine.h"

#include "backends/cpu/cpu.h"
#include "backends/cpu/threads.h"
#include "base/bytes_text.h"
#include "base/clock.h"
#include "core/fingerprint.h"
#include "core/shape.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LODE_VERSION
#define LODE_VERSION "0.0.0"
#endif

#define HEAT_INTERVAL_NS ((uint64_t)600 * 1000000000)

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

// ---- files
// ---------------------------------------------------------------------------------------------------

static bool is_mapped(const struct lode_engine *engine)
{
    return engine->options.io && strcmp(engine->options.io, "mmap") == 0;
}

// Pages of the page cache are the kernel's, and a ceiling for them can only be a control group's.
static int check_mapped(const struct lode_engine *engine, struct lode_error *error)
{
    const struct lode_engine_options *options = &engine->options;
    struct host_memory memory;
    if (!is_mapped(engine))
        return 0;
    if (options->mirror)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "mapped files are read from one copy: leave out the mirror");
    if (!options->ram_bytes ||
        (host_memory_read(&memory, "/", NULL) == 0 && memory.limit_bytes <= options->ram_bytes))
        return 0;
    return lode_fail(
        error, LODE_ERR_UNSUPPORTED,
        "a ceiling of %s does not bind the page cache that mapped files are read through: start the "
        "program in a control group with that limit (systemd-run --user --scope -p MemoryMax=%" PRIu64
        "), or leave out the ceiling",
        bytes_text(options->ram_bytes).text, options->ram_bytes);
}

static int choose_io(enum io_engine_kind *out, const char *name, struct lode_error *error)
{
    static const char *const names[] = {
        [IO_ENGINE_AUTO] = "auto", [IO_ENGINE_URING] = "uring", [IO_ENGINE_THREADS] = "threads"};
    for (int kind = IO_ENGINE_AUTO; kind <= IO_ENGINE_THREADS; kind++)
        if (!name || strcmp(name, names[kind]) == 0) {
            *out = (enum io_engine_kind)kind;
            return 0;
        }
    return lode_fail(error, LODE_ERR_ARGUMENT,
                     "there is no way of reading called '%s'; there are auto, uring, threads and mmap", name);
}

// The second copy of each file: of a split model, the files of the same names beside the mirror.
static char *mirror_path(const char *mirror, const char *path, uint32_t n_files)
{
    const char *name = strrchr(path, '/'), *slash = strrchr(mirror, '/');
    char *out = NULL;
    if (n_files == 1)
        return strdup(mirror);
    if (asprintf(&out, "%.*s%s", slash ? (int)(slash - mirror + 1) : 0, mirror, name ? name + 1 : path) < 0)
        return NULL;
    return out;
}

// A model that is kept in memory as a whole is read through the page cache where there is room for it too:
// the next start finds it there. Otherwise the page cache is left alone.
static enum io_cache_use choose_cache(const struct lode_engine *engine)
{
    const uint64_t weights = unit_table_bytes(&engine->model.units), available = engine_available_bytes();
    const bool roomy = available && weights < available / 2 && available - 2 * weights > available / 16;
    return !engine->options.ram_bytes && roomy ? IO_CACHE_POPULATE : IO_CACHE_AUTO;
}

static int open_io(struct lode_engine *engine, const struct gguf *gguf, struct lode_error *error)
{
    const uint32_t n = gguf_file_count(gguf);
    const char **paths = calloc(n, sizeof *paths);
    char **mirrors = calloc(n, sizeof *mirrors);
    struct io_options options = {.cache = choose_cache(engine), .queue_depth = engine->options.queue_depth};
    int rc = is_mapped(engine) ? 0 : choose_io(&options.engine, engine->options.io, error);
    if (!rc && (!paths || !mirrors))
        rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for the paths of %" PRIu32 " files", n);
    for (uint32_t i = 0; i < n && !rc; i++) {
        paths[i] = gguf_file_path(gguf, i);
        if (engine->options.mirror && !(mirrors[i] = mirror_path(engine->options.mirror, paths[i], n)))
            rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for the path of a mirror");
    }
    if (engine->options.mirror)
        options.mirrors = (const char *const *)mirrors;
    if (!rc)
        rc = io_open(&engine->io, paths, n, &options, error);
    if (!rc && is_mapped(engine))
        rc = mapped_open(&engine->mapped, paths, n, error);
    for (uint32_t i = 0; mirrors && i < n; i++)
        free(mirrors[i]);
    free(mirrors);
    free(paths);
    if (rc)
        return rc;
    if (engine->mapped)
        return 0; // nothing is read through the io, so what it is does not matter
    struct io_choice choice;
    io_describe(engine->io, &choice);
    if (choice.why_threads)
        engine_note(engine, "reading with threads: %s", choice.why_threads);
    if (choice.why_cached && options.cache == IO_CACHE_AUTO)
        engine_note(engine, "reading through the page cache: %s", choice.why_cached);
    return 0;
}

static int read_suppressed(struct lode_engine *engine, const struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_value *list = gguf_find(gguf, "tokenizer.ggml.suppress_tokens");
    const size_t n = list ? gguf_value_count(list) : 0;
    if (!n)
        return 0;
    engine->suppressed = calloc(n, sizeof *engine->suppressed);
    if (!engine->suppressed)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %zu suppressed tokens", n);
    for (size_t i = 0; i < n; i++) {
        uint64_t id;
        if (!gguf_value_u64(list, i, &id) || id >= engine->shape.vocab)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "key tokenizer.ggml.suppress_tokens, value %zu: no token id", i);
        engine->suppressed[engine->n_suppressed++] = (struct lode_logit_bias){(int32_t)id, -INFINITY};
    }
    return 0;
}

static int check_ranks(const struct lode_engine *engine, struct lode_error *error)
{
    const uint32_t ranks = engine->options.prefetch_ranks, n_experts = engine->model.hparams.n_experts;
    if (ranks <= n_experts)
        return 0;
    if (!n_experts)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "prefetch of %" PRIu32 " ranks: this model has no experts to guess", ranks);
    return lode_fail(error, LODE_ERR_ARGUMENT,
                     "prefetch of %" PRIu32 " ranks: a layer of this model has %" PRIu32 " experts", ranks,
                     n_experts);
}

static int read_header(struct lode_engine *engine, const struct gguf *gguf, struct lode_error *error)
{
    int rc = gemma_model_load(&engine->model, gguf, error);
    if (!rc) {
        shape_describe(&engine->shape, &engine->model, gguf);
        rc = lode_tokenizer_wrap(&engine->tokenizer, gguf, error);
    }
    if (!rc && lode_vocab_size(engine->tokenizer) > engine->shape.vocab)
        rc = lode_fail(error, LODE_ERR_FORMAT,
                       "the tokenizer has %" PRIu32 " tokens, the embedding table only %" PRIu32 " rows",
                       lode_vocab_size(engine->tokenizer), engine->shape.vocab);
    if (!rc)
        rc = read_suppressed(engine, gguf, error);
    if (!rc)
        rc = check_ranks(engine, error);
    if (!rc && engine->options.trace_path && !engine->model.hparams.n_experts)
        rc = lode_fail(error, LODE_ERR_ARGUMENT,
                       "a trace records which experts are chosen; this model has none");
    const bool keeps_heat = engine->options.heat_dir && !engine->options.cold;
    if (!rc && engine->model.hparams.n_experts && (keeps_heat || engine->options.trace_path))
        rc = fingerprint_model(&engine->fingerprint, gguf, error);
    return rc;
}

static int read_file(struct lode_engine *engine, struct lode_error *error)
{
    struct gguf *gguf;
    int rc = gguf_open(&gguf, engine->path, error);
    if (rc)
        return rc;
    rc = read_header(engine, gguf, error);
    if (rc)
        lode_fail_in(error, "%s", engine->path);
    if (!rc)
        rc = open_io(engine, gguf, error);
    gguf_close(gguf);
    return rc;
}

// ---- heat
// ----------------------------------------------------------------------------------------------------

static uint32_t moe_layers(const struct gemma_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        n += model->layers[l].moe;
    return n;
}

// Heat that cannot be used is told and done without: it is a matter of speed only.
static int open_heat(struct lode_engine *engine, struct lode_error *error)
{
    const uint32_t n_layers = moe_layers(&engine->model);
    if (!n_layers || !engine->options.heat_dir || engine->options.cold)
        return 0;
    char path[4096];
    if (!heat_file_path(path, sizeof path, engine->options.heat_dir, engine->fingerprint)) {
        engine_note(engine, "heat is not kept: the path of its folder is too long");
        return 0;
    }
    int rc = heat_open(&engine->heat, n_layers, n_layers * engine->model.hparams.n_experts,
                       engine->fingerprint, error);
    if (rc)
        return rc;
    engine->heat_path = strdup(path);
    if (!engine->heat_path)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the path of the heat file");
    struct lode_error cause;
    if (heat_read(&engine->heat, path, &cause))
        engine_note(engine, "starting without heat: %s", cause.text);
    engine->heat_written_ns = clock_now_ns();
    return 0;
}

void engine_keep_heat(struct lode_engine *engine, bool end)
{
    const uint64_t now_ns = clock_now_ns();
    if (!engine->heat_path || !engine->residency)
        return;
    if (!end && now_ns - engine->heat_written_ns < HEAT_INTERVAL_NS)
        return;
    engine->heat_written_ns = now_ns;
    struct lode_error cause;
    if (heat_write(&engine->heat, engine->heat_path, &cause))
        engine_note(engine, "heat is not kept: %s", cause.text);
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
    if (!engine->path || (options->isa && !own->isa) || (options->policy && !own->policy) ||
        (options->io && !own->io) || (options->mirror && !own->mirror) ||
        (options->heat_dir && !own->heat_dir) || (options->predictor && !own->predictor) ||
        (options->trace_path && !own->trace_path))
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
    engine->weights = (struct forward_weights){.model = &engine->model, .device = engine->device};
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
        rc = check_mapped(engine, error);
    const struct cpu_options cpu = {.threads = engine->options.threads, .isa = engine->options.isa};
    if (!rc)
        rc = read_file(engine, error);
    if (!rc)
        rc = cpu_open(&engine->device, &cpu, error);
    if (!rc)
        note_turns(engine);
    if (!rc)
        rc = weight_matrices_open(&engine->matrices, &engine->model, engine->device, error);
    if (!rc)
        rc = open_heat(engine, error);
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
    struct residency_options options = {
        .policy = engine->policy,
        .used_per_layer = engine->model.hparams.n_experts_used,
        .heat = engine->heat_path ? &engine->heat : NULL,
        .no_prefetch = engine->options.no_prefetch,
        .prefetch_ranks = engine->options.prefetch_ranks,
        .ring_bytes = engine->options.ring_bytes,
        .mapped = engine->mapped,
        .on_part = engine->options.no_repack ? NULL : weight_matrices_arrange,
        .part_user = &engine->matrices,
        .on_progress = on_read,
        .user = engine,
    };
    int rc = engine_weights_budget(&options.budget_bytes, engine, needs, error);
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
