#include "tools/tune_run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Before a turn is timed: wakes threads, touches scratch and cache.
enum { WARM_UP_TOKENS = 32, WARM_UP_DECODES = 2, DRAWS = 100 };

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
static void draw_ids(struct tune_runner *r)
{
    const struct lode_tokenizer *tokenizer = lode_engine_tokenizer(r->engine);
    const uint32_t vocab = lode_vocab_size(tokenizer);
    uint64_t state = scramble(r->seed);
    for (uint32_t i = 0; i < r->prompt_tokens; i++) {
        size_t len = 0;
        for (int draw = 0; draw < DRAWS && !len; draw++) {
            state = scramble(state);
            r->ids[i] = (int32_t)(state % vocab);
            lode_piece(tokenizer, r->ids[i], false, &len);
        }
    }
}

static int take_memory(struct tune_runner *r, struct lode_error *error)
{
    if (r->ids)
        return 0;
    r->reference = calloc(r->decode_tokens, sizeof *r->reference);
    r->generated = calloc(r->decode_tokens, sizeof *r->generated);
    r->ids = calloc(r->prompt_tokens, sizeof *r->ids);
    if (!r->reference || !r->generated || !r->ids)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %" PRIu32 " tokens",
                         r->prompt_tokens + r->decode_tokens);
    draw_ids(r);
    return 0;
}

static bool on_token(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    (void)part, (void)text, (void)len;
    struct tune_runner *r = user;
    if (id >= 0 && r->n_generated < r->decode_tokens)
        r->generated[r->n_generated++] = id;
    return true;
}

// The first turn says what the right tokens are.
static bool are_other_tokens(struct tune_runner *r)
{
    const size_t bytes = r->n_generated * sizeof *r->generated;
    if (!r->n_reference) {
        memcpy(r->reference, r->generated, bytes);
        r->n_reference = r->n_generated;
    }
    return !r->base->gpus.n &&
           (r->n_generated != r->n_reference || memcmp(r->reference, r->generated, bytes) != 0);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static void close_session(struct tune_runner *r)
{
    lode_session_close(r->session);
    r->session = NULL;
}

static void close_engine(struct tune_runner *r)
{
    close_session(r);
    lode_engine_close(r->engine);
    r->engine = NULL;
}

static void apply(struct model_options *options, const struct tune_settings *settings)
{
    options->threads = settings->threads ? settings->threads : options->threads;
    options->batch = settings->batch ? settings->batch : options->batch;
    options->queue_depth = settings->queue_depth ? settings->queue_depth : options->queue_depth;
    options->ring_bytes = settings->ring_bytes ? settings->ring_bytes : options->ring_bytes;
    options->prefetch_ranks = settings->prefetch_ranks ? settings->prefetch_ranks : options->prefetch_ranks;
    options->no_prefetch = settings->no_prefetch || (options->no_prefetch && !settings->prefetch_ranks);
    options->policy = settings->policy[0] ? settings->policy : options->policy;
}

static int open_engine(struct tune_runner *r, struct lode_error *error)
{
    close_engine(r); // two do not fit into memory
    const bool again = r->ids != NULL;
    r->model = *r->base;
    r->model.quiet = again; // its notes have been told
    apply(&r->model, &r->settings);
    int code = model_open(&r->engine, &r->model, r->command, error);
    return code ? code : take_memory(r, error);
}

static int open_session(struct tune_runner *r, struct lode_error *error)
{
    close_session(r);
    apply(&r->model, &r->settings);
    const uint32_t context = r->base->context;
    if (context < r->prompt_tokens + r->decode_tokens)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "a turn of %" PRIu32 " and %" PRIu32 " tokens is beyond a context of %" PRIu32,
                         r->prompt_tokens, r->decode_tokens, context);
    return model_session_open(&r->session, r->engine, &r->model, context, error);
}

static int warm_up(struct tune_runner *r, struct lode_error *error)
{
    const uint32_t n = r->prompt_tokens < WARM_UP_TOKENS ? r->prompt_tokens : WARM_UP_TOKENS;
    int code = lode_session_feed(r->session, r->ids, n, NULL, NULL, error);
    for (int i = 0; i < WARM_UP_DECODES && !code; i++)
        code = lode_session_feed(r->session, r->ids, 1, NULL, NULL, error);
    lode_session_rewind(r->session, 0);
    return code;
}

static bool engine_fits(const struct tune_runner *r, const struct tune_settings *settings)
{
    struct tune_settings same = r->settings;
    same.batch = settings->batch;
    return r->engine && r->session && !r->offload.offloaded && tune_settings_equal(&same, settings) &&
           (!r->base->gpus.n || !lode_engine_shape(r->engine)->n_experts);
}

static int make_ready(struct tune_runner *r, const struct tune_settings *settings, struct lode_error *error)
{
    const bool keeps_engine = engine_fits(r, settings);
    const bool keeps_session = keeps_engine && r->settings.batch == settings->batch;
    const double start_s = now_s();
    r->settings = *settings;
    int code = keeps_engine ? 0 : open_engine(r, error);
    if (!code && !keeps_session) {
        if (keeps_engine)
            r->model.batch = r->base->batch;
        code = open_session(r, error);
        r->load_s = now_s() - start_s;
        if (!code)
            code = warm_up(r, error);
    }
    return code;
}

// ---- a turn
// --------------------------------------------------------------------------------------------------

struct telling {
    struct tune_runner *runner;
    const char *what;
};

static bool on_feed(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    const struct telling *t = user;
    return t->runner->on_progress(t->runner->user, t->what, done, total);
}

static int run_turn(struct tune_runner *r, struct tune_run *out, const char *what, struct lode_error *error)
{
    struct telling telling = {r, what};
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = 0;
    options.max_tokens = r->decode_tokens;
    options.ignore_end = true;
    options.on_token = on_token;
    options.user = r;
    struct lode_offload_stats before;
    lode_session_offload(r->session, &before);
    lode_session_rewind(r->session, 0);
    r->n_generated = 0;
    const double start_s = now_s();
    int code = lode_session_feed(r->session, r->ids, r->prompt_tokens, on_feed, &telling, error);
    const double fed_s = now_s();
    enum lode_stop stop;
    if (!code)
        code = lode_session_generate(r->session, &options, &stop, error);
    if (code)
        return code;
    out->prefill_s = fed_s - start_s;
    out->decode_s = now_s() - fed_s;
    out->other_tokens = are_other_tokens(r);
    lode_session_offload(r->session, &r->offload);
    r->reads =
        r->offload.prefill_bytes + r->offload.decode_bytes > before.prefill_bytes + before.decode_bytes;
    return 0;
}

int tune_runner_measure(struct tune_runner *r, struct tune_run *out, const struct tune_settings *settings,
                        const char *what, struct lode_error *error)
{
    const double start_s = now_s();
    if (!r->on_progress(r->user, what, 0, r->prompt_tokens))
        return lode_fail(error, LODE_ERR_CANCELLED, "interrupted");
    int code = make_ready(r, settings, error);
    if (!code)
        code = run_turn(r, out, what, error);
    out->cost_s = now_s() - start_s;
    if (code)
        close_engine(r);
    return code;
}

void tune_runner_close(struct tune_runner *r)
{
    close_engine(r);
    free(r->ids);
    free(r->reference);
    free(r->generated);
    r->ids = r->reference = r->generated = NULL;
}
