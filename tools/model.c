// Finding and opening models. The only place that reads $LODE_MODEL and knows where the demo model lies.
#include "tools/model.h"

#include "tools/message.h"
#include "tools/progress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef LODE_SOURCE_MODEL_DIR
#define LODE_SOURCE_MODEL_DIR "models"
#endif
#ifndef LODE_MODEL_DIR
#define LODE_MODEL_DIR "/usr/local/share/lode/models"
#endif

const char *const model_isa_choices[] = {"auto", "portable", "avx2", "avx512", NULL};
const char *const model_kv_choices[] = {"f16", "q8_0", "f32", NULL}; // in the order of enum lode_kv_type

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

int model_open(struct lode_engine **out, const struct model_options *options, struct lode_error *error)
{
    struct progress progress;
    progress_begin(&progress);
    struct lode_engine_options engine_options = lode_engine_options_default();
    engine_options.threads = options->threads;
    engine_options.isa = options->isa == 0 ? NULL : model_isa_choices[options->isa];
    engine_options.on_progress = progress_show;
    engine_options.user = &progress;
    int code = lode_engine_open(out, options->path, &engine_options, error);
    progress_end(&progress);
    return code;
}

int model_session_open(struct lode_session **out, struct lode_engine *engine,
                       const struct model_options *options, uint32_t context, struct lode_error *error)
{
    struct lode_session_options session_options = {
        .context = context, .batch = options->batch, .kv = (enum lode_kv_type)options->kv};
    return lode_session_open(out, engine, &session_options, error);
}

int model_feed(struct lode_session *session, const int32_t *ids, size_t count, struct lode_error *error)
{
    struct progress progress;
    progress_begin(&progress);
    int code = lode_session_feed(session, ids, count, progress_show, &progress, error);
    progress_end(&progress);
    return code;
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
