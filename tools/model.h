// The options that choose a model and how it runs, common to the subcommands, and opening it with them.
#ifndef LODE_TOOLS_MODEL_H
#define LODE_TOOLS_MODEL_H

#include "core/lode.h"
#include "tools/options.h"

#include <stdbool.h>
#include <stdint.h>

struct model_options {
    const char *path; // NULL until model_find
    uint32_t threads, context, batch;
    int isa, kv; // indices of the choices below; kv is also the enum lode_kv_type
};

extern const char *const model_isa_choices[]; // the first, "auto", leaves the choice to the engine
extern const char *const model_kv_choices[];

// Entries of an option table; `m` is a struct model_options.
#define MODEL_OPTIONS(m)                                                                                     \
    OPTION_IS_TEXT("model", 'm', &(m).path), OPTION_IS_COUNT("threads", 't', &(m).threads, 1, 1024),         \
        OPTION_IS_CHOICE("isa", &(m).isa, model_isa_choices)
#define SESSION_OPTIONS(m)                                                                                   \
    OPTION_IS_COUNT("context", 'c', &(m).context, 1, 16 << 20),                                              \
        OPTION_IS_COUNT("batch", 'b', &(m).batch, 1, 64 << 10),                                              \
        OPTION_IS_CHOICE("kv", &(m).kv, model_kv_choices)

// Settles which model file is meant: the option or operand if given, $LODE_MODEL, else the demo model, of
// which a note tells. Returns the exit code; the path is valid as long as the program.
int model_find(struct model_options *options, const char *command);

// Loads the model, with a progress bar. Returns a lode_code.
int model_open(struct lode_engine **out, const struct model_options *options, struct lode_error *error);

// `context` is passed on as it is, whatever the options say.
int model_session_open(struct lode_session **out, struct lode_engine *engine,
                       const struct model_options *options, uint32_t context, struct lode_error *error);

// Appends ids with a progress bar.
int model_feed(struct lode_session *session, const int32_t *ids, size_t count, struct lode_error *error);

// How this model was trained to see a conversation.
struct lode_chat_options model_chat_options(const struct lode_engine *engine, bool thinking);

#endif
