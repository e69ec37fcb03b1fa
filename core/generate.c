// Generation: sample, tell the caller, append, until the model ends, the caller stops or the context is full.
#include "base/clock.h"
#include "core/chat.h"
#include "core/sampler.h"
#include "core/session_internal.h"

#include <stdlib.h>
#include <string.h>

struct lode_sampling lode_sampling_default(void)
{
    return (struct lode_sampling){
        .temperature = 1.0f, .top_k = 64, .top_p = 0.95f, .min_p = 0.0f, .repetition_penalty = 1.0f};
}

struct lode_generate_options lode_generate_options_default(void)
{
    return (struct lode_generate_options){.sampling = lode_sampling_default()};
}

// How a token's bytes become the caller's text: whole characters, split by part where that was asked for.
struct output {
    const struct tokenizer *tokenizer;
    const struct lode_generate_options *options;
    struct tokenizer_stream stream;
    struct chat_stream chat;
    enum lode_part part;
    char *text;
    size_t capacity;
};

static bool tell(const struct output *out, int32_t id, size_t len)
{
    return !out->options->on_token ||
           out->options->on_token(out->options->user, id, out->part, out->text, len);
}

// A special token ends what came before it: half a character is given as it is, under the old part.
static bool emit_split(struct output *out, int32_t id)
{
    size_t len, shown;
    const char *piece = tokenizer_piece(out->tokenizer, id, true, &len), *text;
    enum lode_part part;
    chat_stream_push(&out->chat, piece, len, tokenizer_is_special(out->tokenizer, id), &part, &text, &shown);
    if (part != out->part) {
        const size_t rest = tokenizer_stream_flush(&out->stream, out->text, out->capacity);
        if (rest && !tell(out, -1, rest))
            return false;
        out->part = part;
    }
    return tell(out, id, tokenizer_stream_bytes(&out->stream, text, shown, out->text, out->capacity));
}

static bool emit(struct output *out, int32_t id)
{
    if (out->options->split_reply)
        return emit_split(out, id);
    const bool show = out->options->show_special;
    size_t len = tokenizer_stream_push(out->tokenizer, &out->stream, id, show, out->text, out->capacity);
    return tell(out, id, len);
}

// Half a character at the end of the text is given as it is.
static void finish(struct output *out)
{
    size_t len = tokenizer_stream_flush(&out->stream, out->text, out->capacity);
    if (len)
        tell(out, -1, len);
}

static int open_sampler(struct sampler **out, const struct lode_session *session,
                        const struct lode_sampling *asked, struct lode_error *error)
{
    const struct lode_engine *engine = session->engine;
    struct lode_sampling sampling = *asked;
    struct lode_logit_bias *biases = NULL;
    if (engine->n_suppressed) {
        sampling.n_biases = engine->n_suppressed + asked->n_biases;
        biases = malloc(sampling.n_biases * sizeof *biases);
        if (!biases)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for %zu logit biases", sampling.n_biases);
        memcpy(biases, engine->suppressed, engine->n_suppressed * sizeof *biases);
        if (asked->n_biases)
            memcpy(biases + engine->n_suppressed, asked->biases, asked->n_biases * sizeof *biases);
        sampling.biases = biases;
    }
    int rc = sampler_create(out, &sampling, engine->shape.vocab, error);
    free(biases);
    if (rc)
        return rc;
    const uint32_t done = forward_position(session->forward);
    for (uint32_t i = 0; i < done; i++)
        sampler_accept(*out, session->timeline[i]);
    if (session->has_pending)
        sampler_accept(*out, session->pending);
    return 0;
}

static int reserve_latencies(struct lode_session *session, size_t more, struct lode_error *error)
{
    if (session->n_latencies + more <= session->latency_capacity)
        return 0;
    float *grown = realloc(session->latency_ms, (session->n_latencies + more) * sizeof *grown);
    if (!grown)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the latencies of %zu tokens", more);
    session->latency_ms = grown;
    struct residency_stall *stalls =
        realloc(session->stalls, (session->n_latencies + more) * sizeof *session->stalls);
    if (!stalls)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the latencies of %zu tokens", more);
    session->stalls = stalls;
    session->latency_capacity = session->n_latencies + more;
    return 0;
}

static void count_token(struct lode_session *session, uint64_t *last_ns, bool first)
{
    const uint64_t now_ns = clock_now_ns();
    if (first) {
        session->stats.ttft_s = (double)(now_ns - session->feed_start_ns) * 1e-9;
        session_parts_mark(session);
    } else {
        session_parts_add(session, &session->parts.decode);
        session->stalls[session->n_latencies] = residency_last_stall(session->engine->residency);
        session->latency_ms[session->n_latencies++] = (float)((double)(now_ns - *last_ns) * 1e-6);
    }
    *last_ns = now_ns;
    session->stats.generated_tokens++;
}

// The loop allocates nothing.
static int generate(struct lode_session *session, struct sampler *sampler, struct output *out,
                    uint32_t max_tokens, enum lode_stop *out_stop, struct lode_error *error)
{
    uint64_t last_ns = clock_now_ns();
    for (uint32_t n = 0; n < max_tokens; n++) {
        int rc = session_flush_pending(session, 1, error);
        if (rc)
            return rc;
        const int32_t id = sampler_next(sampler, session->logits);
        sampler_accept(sampler, id);
        count_token(session, &last_ns, n == 0);
        const bool goes_on = emit(out, id);
        const bool full = lode_session_position(session) == session->context;
        session->pending = id;
        session->has_pending = !full;
        session->has_logits = false;
        if (tokenizer_is_end(out->tokenizer, id) && !out->options->ignore_end)
            *out_stop = LODE_STOP_END;
        else if (!goes_on)
            *out_stop = LODE_STOP_CALLER;
        else if (full)
            *out_stop = LODE_STOP_CONTEXT;
        else
            continue;
        return 0;
    }
    *out_stop = LODE_STOP_LENGTH;
    return 0;
}

int lode_session_generate(struct lode_session *session, const struct lode_generate_options *options,
                          enum lode_stop *out_stop, struct lode_error *error)
{
    const struct lode_generate_options defaults = lode_generate_options_default();
    if (!options)
        options = &defaults;
    if (!session->has_logits && !session->has_pending)
        return lode_fail(error, LODE_ERR_ARGUMENT, "nothing to generate from: feed the session tokens first");
    const uint32_t room = session->context - lode_session_position(session);
    // One more token than there is room for can be sampled; it is told, but has no place in the timeline.
    const uint32_t limit =
        options->max_tokens && options->max_tokens < room + 1 ? options->max_tokens : room + 1;
    struct output out = {.tokenizer = session->engine->tokenizer->tokenizer, .options = options};
    chat_stream_begin(&out.chat, options->starts_thinking);
    out.capacity = tokenizer_stream_capacity(out.tokenizer) + CHAT_STREAM_HELD_BYTES;
    struct sampler *sampler = NULL;
    enum lode_stop stop = LODE_STOP_LENGTH;
    int rc = reserve_latencies(session, limit, error);
    if (!rc && !(out.text = malloc(out.capacity)))
        rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for a token's text");
    if (!rc)
        rc = open_sampler(&sampler, session, &options->sampling, error);
    if (!rc) {
        const size_t before = session->n_latencies;
        rc = generate(session, sampler, &out, limit, &stop, error);
        finish(&out);
        for (size_t i = before; i < session->n_latencies; i++)
            session->stats.decode_s += session->latency_ms[i] * 1e-3;
        engine_keep_heat(session->engine, false);
    }
    sampler_free(sampler);
    free(out.text);
    if (out_stop)
        *out_stop = stop;
    return rc;
}
