// A loaded model: opens the file, checks that it fits, reads the weights, makes the device ready.
#include "core/engine.h"

#include "backends/cpu/cpu.h"
#include "core/clock.h"
#include "core/shape.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef LODE_VERSION
#define LODE_VERSION "0.0.0"
#endif

// What stays free: the system, other programs, and our own small allocations.
#define HEADROOM_BYTES (256ull << 20)
#define GIB (1024.0 * 1024 * 1024)

const char *lode_version(void)
{
    return LODE_VERSION;
}

struct lode_engine_options lode_engine_options_default(void)
{
    return (struct lode_engine_options){0};
}

uint64_t engine_available_bytes(void)
{
    struct host_memory memory;
    if (host_memory_read(&memory, "/", NULL))
        return 0;
    return memory.available_bytes > HEADROOM_BYTES ? memory.available_bytes - HEADROOM_BYTES : 1;
}

static int check_memory(const struct lode_engine *engine, const char *path, struct lode_error *error)
{
    const uint64_t needed = residency_needed_bytes(&engine->model.units),
                   available = engine_available_bytes();
    if (!available || needed <= available)
        return 0;
    return lode_fail(
        error, LODE_ERR_MEMORY,
        "%s: the weights take %.2f GiB, but %.2f GiB of memory are available (%.2f GiB are kept free); "
        "close other programs, or use a smaller model or a smaller quantisation",
        path, (double)needed / GIB, (double)available / GIB, (double)HEADROOM_BYTES / GIB);
}

static int open_io(struct lode_engine *engine, const struct gguf *gguf, struct lode_error *error)
{
    const uint32_t n = gguf_file_count(gguf);
    const char **paths = calloc(n, sizeof *paths);
    if (!paths)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the paths of %" PRIu32 " files", n);
    for (uint32_t i = 0; i < n; i++)
        paths[i] = gguf_file_path(gguf, i);
    const struct io_options options = {0};
    int rc = io_open(&engine->io, paths, n, &options, error);
    free(paths);
    return rc;
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

static int read_file(struct lode_engine *engine, const char *path, struct lode_error *error)
{
    struct gguf *gguf;
    int rc = gguf_open(&gguf, path, error);
    if (rc)
        return rc;
    rc = gemma_model_load(&engine->model, gguf, error);
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
    if (rc)
        lode_fail_in(error, "%s", path);
    if (!rc)
        rc = open_io(engine, gguf, error);
    gguf_close(gguf);
    return rc;
}

struct progress {
    lode_progress_fn fn;
    void *user;
};

static bool on_read(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct progress *progress = user;
    return !progress->fn || progress->fn(progress->user, "loading", done_bytes, total_bytes);
}

int lode_engine_open(struct lode_engine **out, const char *path, const struct lode_engine_options *options,
                     struct lode_error *error)
{
    *out = NULL;
    const uint64_t start_ns = clock_now_ns();
    const struct lode_engine_options defaults = lode_engine_options_default();
    if (!options)
        options = &defaults;
    struct lode_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open %s", path);
    const struct cpu_options cpu = {.threads = options->threads, .isa = options->isa};
    struct progress progress = {options->on_progress, options->user};
    int rc = read_file(engine, path, error);
    if (!rc)
        rc = check_memory(engine, path, error);
    if (!rc)
        rc = cpu_open(&engine->device, &cpu, error);
    if (!rc)
        rc = residency_open(&engine->residency, &engine->model.units, engine->io, engine->device, on_read,
                            &progress, error);
    if (!rc)
        rc = forward_weights_open(&engine->weights, &engine->model, engine->device, engine->residency, error);
    if (rc) {
        lode_engine_close(engine);
        return rc;
    }
    engine->load_s = clock_seconds_since(start_ns);
    *out = engine;
    return 0;
}

void lode_engine_close(struct lode_engine *engine)
{
    if (!engine)
        return;
    forward_weights_close(&engine->weights);
    residency_close(engine->residency);
    if (engine->device)
        engine->device->ops->close(engine->device);
    io_close(engine->io);
    lode_tokenizer_close(engine->tokenizer);
    gemma_model_free(&engine->model);
    free(engine->suppressed);
    free(engine);
}

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
    return engine->load_s;
}
