// Finding and opening models. The only place that reads $LODE_MODEL and knows where the demo model lies.
#include "tools/model.h"

#include "tools/cache_dir.h"
#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/model_plan.h"
#include "tools/tuned.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef LODE_SOURCE_MODEL_DIR
#define LODE_SOURCE_MODEL_DIR "models"
#endif
#ifndef LODE_MODEL_DIR
#define LODE_MODEL_DIR "/usr/local/share/lode/models"
#endif

const char *const model_isa_choices[] = {"auto", "portable", "avx2", "avx2-vnni", "avx512", "amx", NULL};
const char *const model_kv_choices[] = {"f16", "q8_0", "f32", NULL}; // in the order of enum lode_kv_type
const char *const model_io_choices[] = {"auto", "uring", "threads", "mmap", NULL};

// The source tree first: a fresh build beside an older installation shall use its own files.
static const char *demo_model(void)
{
    static const char *const places[] = {
        LODE_SOURCE_MODEL_DIR "/tiny-moe-q4_0.gguf",
        LODE_MODEL_DIR "/tiny-moe-q4_0.gguf",
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (access(places[i], R_OK) == 0)
            return places[i];
    return NULL;
}

int model_find(struct model_options *options, const char *command)
{
    if (options->path && options->path[0])
        return EXIT_OK;
    if (options->path)
        return message_usage(command, "the name of the model is empty");
    options->path = getenv("LODE_MODEL");
    if (options->path && options->path[0])
        return EXIT_OK;
    options->path = demo_model();
    if (!options->path)
        return message_usage(command, "no model given, and the demo model is not in " LODE_MODEL_DIR
                                      "; name a GGUF file or set LODE_MODEL");
    message_note(command, "no model given; using the demo model %s", options->path);
    return EXIT_OK;
}

// ---- what the engine tells
// -----------------------------------------------------------------------------------

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct model_listener *listener = user;
    return progress_show(&listener->progress, what, done, total);
}

static uint64_t fnv1a(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

static bool was_told(struct model_listener *listener, const char *text)
{
    const uint64_t hash = fnv1a(text);
    for (size_t i = 0; i < listener->n_told; i++)
        if (listener->told[i] == hash)
            return true;
    if (listener->n_told < MODEL_NOTES)
        listener->told[listener->n_told++] = hash;
    return false;
}

static void on_note(void *user, const char *text)
{
    struct model_listener *listener = user;
    if (listener->quiet || was_told(listener, text))
        return;
    progress_end(&listener->progress); // or the note would stand behind the bar
    message_note(listener->command, "%s", text);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static struct lode_engine_options engine_options(struct model_options *options)
{
    struct lode_engine_options engine = lode_engine_options_default();
    engine.threads = options->threads;
    engine.isa = options->isa == 0 ? NULL : model_isa_choices[options->isa];
    engine.ram_bytes = options->ram_bytes;
    engine.policy = options->policy;
    engine.predictor = options->predictor;
    engine.trace_path = options->trace;
    engine.io = options->io == 0 ? NULL : model_io_choices[options->io];
    engine.mirror = options->mirror;
    engine.no_prefetch = options->no_prefetch;
    engine.prefetch_ranks = options->prefetch_ranks;
    engine.queue_depth = options->queue_depth;
    engine.ring_bytes = options->ring_bytes;
    engine.no_repack = options->no_repack;
    engine.cold = options->cold;
    engine.devices = options->gpus.devices;
    engine.vram_bytes = options->gpus.vram_bytes;
    engine.placement = options->gpus.placement == MODEL_PLACEMENT_AUTO
                           ? NULL
                           : model_placement_choices[options->gpus.placement];
    engine.timeline_path = options->gpus.timeline;
    if (options->plan && options->plan->made && options->gpus.n)
        engine.profile_path = options->plan->machine.file;
    if (options->plan) {
        engine.unit_gpu = options->plan->unit_gpu;
        engine.n_unit_gpu = options->plan->n_unit_gpu;
    }
    engine.heat_dir = options->heat_dir[0] ? options->heat_dir : NULL;
    engine.on_progress = on_progress;
    engine.on_note = on_note;
    engine.user = &options->listener;
    return engine;
}

static void find_heat(struct model_options *options)
{
    if (!options->keeps_heat || options->cold || !cache_dir_heat(options->heat_dir, sizeof options->heat_dir))
        options->heat_dir[0] = '\0';
}

// What the command line leaves open is as it was tuned, and what that leaves open as it is planned.
static int settle_open(struct model_options *options, const char *command, struct lode_error *error)
{
    if (!options->plan || options->plan->mode == MODEL_PLAN_OFF || options->plan->is_settled)
        return LODE_OK;
    tuned_apply(options, command);
    return model_plan_begin(options, command, error);
}

int model_check_gpus(struct model_options *options, struct lode_error *error)
{
    // Mapped files stay in the memory of the host, and no GPU is used unless it is asked for.
    if (!options->gpus.devices && options->io && strcmp(model_io_choices[options->io], "mmap") == 0)
        options->gpus.found = true;
    const int code = model_gpus_check(&options->gpus, error);
    if (!code && options->gpus.n && options->io && strcmp(model_io_choices[options->io], "mmap") == 0)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "--io mmap leaves the weights where the files are mapped, which %s cannot use; leave "
            "it out, or take --devices cpu",
            options->gpus.info[0].name);
    return code;
}

int model_open(struct lode_engine **out, struct model_options *options, const char *command,
               struct lode_error *error)
{
    options->listener = (struct model_listener){.command = command, .quiet = options->quiet};
    *out = NULL;
    find_heat(options);
    if (options->predictor && strcmp(options->predictor, "none") == 0) {
        options->predictor = NULL;
        options->no_prefetch = true;
    }
    int code = model_check_gpus(options, error);
    if (!code && model_gpus_omit_cpu(&options->gpus) && !options->quiet)
        message_note(command,
                     "--devices names no cpu, which computes all the same with what the GPUs have no "
                     "room for");
    if (!code)
        code = settle_open(options, command, error);
    if (code)
        return code;
    const struct lode_engine_options engine = engine_options(options);
    progress_begin(&options->listener.progress);
    code = lode_engine_open(out, options->path, &engine, error);
    progress_end(&options->listener.progress);
    return code;
}

static bool keep_going(void *user)
{
    (void)user;
    return !interrupt_pending();
}

int model_session_open(struct lode_session **out, struct lode_engine *engine, struct model_options *options,
                       uint32_t context, struct lode_error *error)
{
    model_plan_settle(options, context);
    struct lode_session_options session = {.context = context,
                                           .batch = options->batch,
                                           .kv = (enum lode_kv_type)options->kv,
                                           .keep_going = keep_going};
    progress_begin(&options->listener.progress);
    int code = lode_session_open(out, engine, &session, error);
    if (code == LODE_ERR_MEMORY &&
        options->batch_is_tuned) { // this context is longer than that which it was tuned for
        session.batch = options->batch = 0;
        code = lode_session_open(out, engine, &session, error);
    }
    progress_end(&options->listener.progress);
    if (!code)
        model_plan_tell(options, options->listener.command, lode_session_context(*out));
    return code;
}

// ---- running
// -------------------------------------------------------------------------------------------------

int model_feed(struct lode_session *session, const int32_t *ids, size_t count, struct lode_error *error)
{
    struct progress progress;
    progress_begin(&progress);
    int code = lode_session_feed(session, ids, count, progress_show, &progress, error);
    progress_end(&progress);
    return code;
}

int model_generate(struct lode_session *session, const struct lode_generate_options *options,
                   enum lode_stop *out_stop, struct lode_error *error)
{
    int code = lode_session_generate(session, options, out_stop, error);
    if (code != LODE_ERR_CANCELLED)
        return code;
    *out_stop = LODE_STOP_CALLER;
    return LODE_OK;
}

struct lode_chat_options model_chat_options(const struct lode_engine *engine, bool thinking)
{
    static const char *const large[] = {"12B", "26B-A4B", "31B"};
    struct lode_chat_options options = {.thinking = thinking, .add_generation_prompt = true};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        if (strcmp(lode_engine_shape(engine)->size, large[i]) == 0)
            options.empty_thought = true;
    return options;
}
