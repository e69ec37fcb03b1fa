// The options that choose a model and how it runs, common to the subcommands, and opening it with them.
#ifndef LODE_TOOLS_MODEL_H
#define LODE_TOOLS_MODEL_H

#include "core/lode.h"
#include "tools/model_gpus.h"
#include "tools/options.h"
#include "tools/progress.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_LEAST_RAM_BYTES = 64 << 20, MODEL_NOTES = 32, MODEL_PATH_SIZE = 4096 };

// What the engine calls back with while it lives: progress of loading, and notes, each told once.
struct model_listener {
    const char *command;
    struct progress progress;
    bool quiet;
    uint64_t told[MODEL_NOTES]; // hashes of the notes
    size_t n_told;
};

struct model_options {
    const char *path; // NULL until model_find
    uint32_t threads, context, batch;
    int isa, kv, io;    // indices of the choices below; kv is also the enum lode_kv_type
    uint64_t ram_bytes; // 0: what the machine has
    const char *policy, *mirror;
    const char *predictor, *trace; // of the commands that take ROUTING_OPTIONS
    bool no_prefetch, no_repack, cold;
    uint32_t prefetch_ranks, queue_depth; // 0: the engine's own; these and ring_bytes
    uint64_t ring_bytes;
    struct model_gpus gpus; // of the commands that take MODEL_GPU_OPTIONS
    bool keeps_heat;        // of the command, not of the command line
    bool quiet;             // likewise: the engine's notes are not told
    // The batch is not the command line's, but of earlier measurements or a plan: where it does not fit, the
    // default does.
    bool batch_is_tuned;
    struct model_plan *plan; // NULL: the command runs as the command line says, not as planned or tuned

    struct model_listener listener;
    char heat_dir[MODEL_PATH_SIZE];
};

extern const char *const model_isa_choices[]; // the first, "auto", leaves the choice to the engine
extern const char *const model_kv_choices[];
extern const char *const model_io_choices[];

// Entries of an option table; `m` is a struct model_options.
#define MODEL_OPTIONS(m)                                                                                     \
    OPTION_IS_TEXT("model", 'm', &(m).path), OPTION_IS_COUNT("threads", 't', &(m).threads, 1, 1024),         \
        OPTION_IS_CHOICE("isa", &(m).isa, model_isa_choices),                                                \
        OPTION_IS_BYTES("ram", &(m).ram_bytes, MODEL_LEAST_RAM_BYTES),                                       \
        OPTION_IS_PLUGIN("policy", &(m).policy, lode_policy_name, ".so"),                                    \
        OPTION_IS_CHOICE("io", &(m).io, model_io_choices), OPTION_IS_TEXT("mirror", 0, &(m).mirror),         \
        OPTION_IS_FLAG("no-prefetch", 0, &(m).no_prefetch), OPTION_IS_FLAG("cold", 0, &(m).cold),            \
        OPTION_IS_COUNT("prefetch-ranks", 0, &(m).prefetch_ranks, 1, 4096),                                  \
        OPTION_IS_COUNT("queue-depth", 0, &(m).queue_depth, 1, 256),                                         \
        OPTION_IS_BYTES("ring", &(m).ring_bytes, 4096), OPTION_IS_FLAG("no-repack", 0, &(m).no_repack)
#define ROUTING_OPTIONS(m)                                                                                   \
    OPTION_IS_PLUGIN("predict", &(m).predictor, lode_predictor_name, ".so"),                                 \
        OPTION_IS_TEXT("trace", 0, &(m).trace)
#define SESSION_OPTIONS(m)                                                                                   \
    OPTION_IS_COUNT("context", 'c', &(m).context, 1, 16 << 20),                                              \
        OPTION_IS_COUNT("batch", 'b', &(m).batch, 1, 64 << 10),                                              \
        OPTION_IS_CHOICE("kv", &(m).kv, model_kv_choices)

// How the help pages tell of them.
#define ROUTING_USAGE                                                                                        \
    "  --predict NAME|none|help  how experts are guessed; --trace FILE  record their choices (lode trace)\n"
#define MODEL_USAGE                                                                                          \
    "  --ram SIZE|auto  ceiling for all memory; reading what is beyond: --ring SIZE  --queue-depth N\n"      \
    "  --policy NAME|help  --io auto|uring|threads|mmap  --mirror FILE --no-prefetch --prefetch-ranks N\n"   \
    "  --cold  -t, --threads N  --isa auto|avx2|avx512|…  -b, --batch N  --kv f16|q8_0|f32  --no-repack\n"

// Settles which model file is meant: the option or operand if given, $LODE_MODEL, else the demo model, of
// which a note tells. Returns the exit code; the path is valid as long as the program.
int model_find(struct model_options *options, const char *command);

// Finds the GPUs of the run where the command line says something of them, and refuses what cannot act
// (model_gpus_check). Returns a lode_code.
int model_check_gpus(struct model_options *options, struct lode_error *error);

// Opens the model, as planned where the command plans (model_plan.h). The options must outlive the engine.
// Returns a lode_code.
int model_open(struct lode_engine **out, struct model_options *options, const char *command,
               struct lode_error *error);

// Loads the weights, with a progress bar. `context` is passed on as it is, whatever the options say. Ctrl-C
// and SIGTERM end the session's calls with LODE_ERR_CANCELLED.
int model_session_open(struct lode_session **out, struct lode_engine *engine, struct model_options *options,
                       uint32_t context, struct lode_error *error);

// Appends ids with a progress bar.
int model_feed(struct lode_session *session, const int32_t *ids, size_t count, struct lode_error *error);

// As lode_session_generate, but a signal in the middle of a token is a stop of the caller, like one between
// two.
int model_generate(struct lode_session *session, const struct lode_generate_options *options,
                   enum lode_stop *out_stop, struct lode_error *error);

// How this model was trained to see a conversation.
struct lode_chat_options model_chat_options(const struct lode_engine *engine, bool thinking);

#endif
