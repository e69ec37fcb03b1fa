// The files of an engine: the model's header with its tokenizer, and how the weights are read.
#include "core/engine.h"

#include "base/bytes_text.h"
#include "core/fingerprint.h"
#include "core/shape.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_mapped(const struct lode_engine *engine)
{
    return engine->options.io && strcmp(engine->options.io, "mmap") == 0;
}

// Pages of the page cache are the kernel's, and a ceiling for them can only be a control group's.
int engine_files_check(const struct lode_engine *engine, struct lode_error *error)
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

int engine_files_open(struct lode_engine *engine, struct lode_error *error)
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
