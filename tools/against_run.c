// One run of an arm: a fresh engine, a prompt, greedy tokens.
#include "tools/against.h"

#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/model_settings.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DRAWS = 100 };

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// ---- tokens
// --------------------------------------------------------------------------------------------------

static uint64_t scramble(uint64_t x) // splitmix64
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Tokens that have a text: control tokens lead a model astray.
static void draw_ids(int32_t *out, uint32_t count, const struct lode_tokenizer *tokenizer, uint64_t seed)
{
    const uint32_t vocab = lode_vocab_size(tokenizer);
    uint64_t state = scramble(seed);
    for (uint32_t i = 0; i < count; i++) {
        size_t len = 0;
        for (int draw = 0; draw < DRAWS && !len; draw++) {
            state = scramble(state);
            out[i] = (int32_t)(state % vocab);
            lode_piece(tokenizer, out[i], false, &len);
        }
    }
}

struct collector {
    struct against_run *run;
    uint32_t room;
};

static bool on_token(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    (void)part, (void)text, (void)len;
    struct collector *c = user;
    if (id >= 0 && c->run->n_ids < c->room)
        c->run->ids[c->run->n_ids++] = id;
    return true;
}

// ---- what the kernel counts
// ---------------------------------------------------------------------------------

// The number behind a word in a file of /proc/self; 0 where there is none.
static uint64_t own_number(const char *path, const char *word)
{
    char line[256];
    unsigned long long value = 0;
    const size_t len = strlen(word);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, word, len) == 0 && line[len] == ':') {
            value = strtoull(line + len + 1, NULL, 10);
            break;
        }
    if (file)
        fclose(file);
    return value;
}

// From drives, for this process, page faults included.
static uint64_t own_read_bytes(void)
{
    return own_number("/proc/self/io", "read_bytes");
}

// ---- running
// -------------------------------------------------------------------------------------------------

// All but what is compared stays as the command line has it: ceiling, context, steps, threads, cache, drive.
static void apply_arm(struct model_options *options, enum against_arm arm)
{
    if (arm == AGAINST_CHOSEN)
        return;
    if (arm == AGAINST_GPU_LAYERS) {
        options->gpus.placement = MODEL_PLACEMENT_BY_LAYER;
        return;
    }
    options->no_prefetch = true;
    options->prefetch_ranks = 0;
    options->predictor = NULL;
    options->policy = arm == AGAINST_MMAP ? NULL : against_arm_name(arm);
    if (arm != AGAINST_MMAP)
        return;
    options->io = 0;
    while (model_io_choices[options->io] && strcmp(model_io_choices[options->io], "mmap") != 0)
        options->io++;
}

static void take_figures(struct against_run *run, const struct model_options *options,
                         const struct lode_engine *engine, const struct lode_session *session,
                         enum against_arm arm)
{
    struct lode_stats stats;
    struct lode_offload_stats offload;
    lode_session_stats(session, &stats);
    lode_session_offload(session, &offload);
    const bool mapped = arm == AGAINST_MMAP;
    if (!mapped) {
        run->prefill_bytes = offload.prefill_bytes;
        run->decode_bytes = offload.decode_bytes;
        run->weights_bytes = stats.weight_bytes;
        run->expert_bytes = offload.pool_slots ? offload.pool_bytes / offload.pool_slots : 0;
    } else if (options->ram_bytes) {
        const uint64_t own_bytes = own_number("/proc/self/status", "RssAnon") << 10; // in KiB
        run->weights_bytes = options->ram_bytes > own_bytes ? options->ram_bytes - own_bytes : 0;
    }
    run->counts_hits = !mapped && offload.choices > 0;
    run->hit_rate = offload.hit_rate;
    run->offloaded = offload.offloaded;
    run->peak_bytes = stats.peak_rss_bytes;
    snprintf(run->policy, sizeof run->policy, "%s", mapped ? "none" : offload.policy);
    snprintf(run->io, sizeof run->io, "%s", offload.io);
    const int n = snprintf(run->settings, sizeof run->settings, "arm=%s ", against_arm_name(arm));
    model_settings_write(run->settings + n, sizeof run->settings - (size_t)n, options, engine, session);
    run->plan_hash = lode_engine_plan_hash(engine);
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    run->n_gpus = (uint32_t)lode_session_gpus(session, gpus, LODE_PLAN_GPUS);
}

static int generate(struct against_run *run, struct lode_session *session, uint32_t count,
                    struct lode_error *error)
{
    struct collector collector = {run, count};
    enum lode_stop stop;
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = 0;
    options.max_tokens = count;
    options.ignore_end = true;
    options.on_token = on_token;
    options.user = &collector;
    int code = lode_session_generate(session, &options, &stop, error);
    if (!code && run->n_ids != count)
        code = interrupt_pending()
                   ? lode_fail(error, LODE_ERR_CANCELLED, "interrupted")
                   : lode_fail(error, LODE_ERR_CONTEXT, "%" PRIu32 " of %" PRIu32 " tokens were generated",
                               run->n_ids, count);
    return code;
}

static int run_turn(struct against_run *run, const struct against *against, struct lode_engine *engine,
                    struct lode_session *session, const struct against_turn *turn, struct lode_error *error)
{
    int32_t *ids = calloc(against->prefill, sizeof *ids);
    run->ids = calloc(against->decode, sizeof *run->ids);
    if (!ids || !run->ids) {
        free(ids);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the tokens");
    }
    draw_ids(ids, against->prefill, lode_engine_tokenizer(engine), against->seed + turn->round);
    const uint64_t start_bytes = own_read_bytes();
    const double start_s = now_s();
    int code = lode_session_feed(session, ids, against->prefill, NULL, NULL, error);
    const double fed_s = now_s();
    const uint64_t fed_bytes = own_read_bytes();
    if (!code)
        code = generate(run, session, against->decode, error);
    run->prefill_s = fed_s - start_s;
    run->decode_s = now_s() - fed_s;
    run->prefill_bytes = fed_bytes - start_bytes;
    run->decode_bytes = own_read_bytes() - fed_bytes;
    free(ids);
    return code;
}

static int check_length(const struct against *against, const struct lode_engine *engine,
                        struct lode_error *error)
{
    const uint32_t limit = lode_engine_shape(engine)->context_limit;
    if ((uint64_t)against->prefill + against->decode <= limit)
        return LODE_OK;
    return lode_fail(error, LODE_ERR_CONTEXT,
                     "a prompt of %" PRIu32 " tokens and %" PRIu32
                     " generated go beyond the model's limit of %" PRIu32 "; take smaller numbers",
                     against->prefill, against->decode, limit);
}

// ---- the child's part
// --------------------------------------------------------------------------------------

int against_make_run(struct model_options *options, const struct against *against,
                     const struct against_turn *turn, const char *command)
{
    struct lode_engine *engine = NULL;
    struct lode_session *session = NULL;
    struct against_run run = {0};
    struct lode_error error = {0};
    apply_arm(options, turn->arm);
    options->keeps_heat = against->warm;
    int code = model_open(&engine, options, command, &error);
    if (!code)
        code = check_length(against, engine, &error);
    if (!code)
        code = model_session_open(&session, engine, options, against->prefill + against->decode, &error);
    if (!code)
        code = run_turn(&run, against, engine, session, turn, &error);
    if (!code)
        take_figures(&run, options, engine, session, turn->arm);
    lode_session_close(session);
    lode_engine_close(engine);
    int exit_code = code ? message_failed(command, &error) : EXIT_OK;
    if (!code && against_write_run(stdout, &run) != 0)
        exit_code = EXIT_FAILED;
    free(run.ids);
    return exit_code;
}
