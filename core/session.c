// A session: a timeline on an engine, its memory plan, and feeding it tokens.
#include "core/session_internal.h"

#include "base/bytes_text.h"
#include "base/clock.h"
#include "core/kv_cache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_BATCH 512
#define MAX_BATCH 65536

// Of the host's memory.
static uint64_t needed_bytes(const struct lode_engine *engine, uint32_t context, uint32_t batch,
                             enum lode_kv_format format)
{
    const struct gemma_model *model = &engine->model;
    return engine_host_kv_bytes(engine, context, batch, format) +
           forward_scratch_needed_bytes(model, batch, engine->gpus.n > 0) + context * sizeof(int32_t) +
           model->hparams.vocab * sizeof(float);
}

// The longest context that fits, and, where nobody asked for one, takes little of GPUs; 0 where none does.
static uint32_t longest_context(const struct lode_engine *engine, uint32_t limit, uint32_t batch,
                                enum lode_kv_format format, uint64_t available, bool asked)
{
    uint32_t fits = 0, beyond = limit + 1;
    while (beyond - fits > 1) {
        uint32_t middle = fits + (beyond - fits) / 2;
        if (needed_bytes(engine, middle, batch, format) <= available &&
            (asked || middle <= batch || engine_gpus_are_roomy(engine, middle, batch, format)))
            fits = middle;
        else
            beyond = middle;
    }
    return fits;
}

static int plan_context(uint32_t *out, const struct lode_engine *engine, uint32_t asked, uint32_t batch,
                        enum lode_kv_format format, struct lode_error *error)
{
    const uint32_t limit = engine->model.hparams.context_limit;
    if (asked > limit)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "a context of %" PRIu32 " tokens is beyond the model's limit of %" PRIu32, asked,
                         limit);
    const struct session_room room = engine_session_room(engine);
    const uint64_t most = asked ? room.at_most_bytes : room.comfortable_bytes;
    const uint32_t longest = longest_context(engine, limit, batch, format, most, asked != 0);
    *out = asked ? asked : longest;
    if (*out && *out <= longest)
        return 0;
    const uint32_t wanted = asked ? asked : 1;
    const uint64_t needed = needed_bytes(engine, wanted, batch, format);
    if (!longest && !engine->residency) { // not the context's fault: the floor is
        const uint64_t kv_bytes = engine_host_kv_bytes(engine, wanted, batch, format);
        const struct session_needs needs = {.kv_bytes = kv_bytes,
                                            .scratch_bytes = needed - kv_bytes,
                                            .context = wanted,
                                            .batch = batch,
                                            .format = format};
        uint64_t budget;
        int rc = engine_weights_budget(&budget, engine, &needs, error);
        if (rc)
            return rc;
    }
    return lode_fail(error, LODE_ERR_MEMORY,
                     "a context of %" PRIu32 " tokens takes %s (KV cache and scratch for steps of %" PRIu32
                     "), but %s are left beside what the weights need at least; at most %" PRIu32
                     " tokens fit. A smaller context, a smaller batch or a Q8_0 cache take less",
                     wanted, bytes_text(needed).text, batch, bytes_text(most).text, longest);
}

static int cache_format(enum lode_kv_format *out, enum lode_kv_type kv, struct lode_error *error)
{
    switch (kv) {
    case LODE_KV_F16:
        *out = LODE_CACHE_F16;
        return 0;
    case LODE_KV_Q8_0:
        *out = LODE_CACHE_Q8_0;
        return 0;
    case LODE_KV_F32:
        *out = LODE_CACHE_F32;
        return 0;
    }
    return lode_fail(error, LODE_ERR_ARGUMENT, "there is no KV cache type %d", (int)kv);
}

// The session's memory comes first: what is left is for weights.
static int allocate(struct lode_session *session, const struct forward_options *options,
                    struct lode_error *error)
{
    struct lode_engine *engine = session->engine;
    const size_t logits_bytes = (size_t)engine->shape.vocab * sizeof *session->logits;
    const size_t timeline_bytes = (size_t)options->context * sizeof *session->timeline;
    session->logits = malloc(logits_bytes);
    session->timeline = malloc(timeline_bytes);
    if (!session->logits || !session->timeline)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the logits of %" PRIu32 " tokens",
                         engine->shape.vocab);
    int rc = forward_open(&session->forward, &engine->weights, options, error);
    if (rc)
        return rc;
    session->needs = (struct session_needs){
        .kv_bytes = forward_kv_bytes(session->forward),
        .scratch_bytes = forward_scratch_bytes(session->forward) + logits_bytes + timeline_bytes,
        .context = options->context,
        .batch = options->batch,
        .format = options->format,
    };
    return 0;
}

int lode_session_open(struct lode_session **out, struct lode_engine *engine,
                      const struct lode_session_options *options, struct lode_error *error)
{
    *out = NULL;
    const struct lode_session_options defaults = {0};
    if (!options)
        options = &defaults;
    enum lode_kv_format format = LODE_CACHE_F16;
    int rc = cache_format(&format, options->kv, error);
    if (rc)
        return rc;
    const uint32_t limit = engine->model.hparams.context_limit;
    uint32_t batch = options->batch ? options->batch : DEFAULT_BATCH, context = 0;
    if (batch > MAX_BATCH)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a batch of %" PRIu32 " tokens is beyond %d", batch,
                         MAX_BATCH);
    if (options->context && batch > options->context)
        batch = options->context;
    if (batch > limit)
        batch = limit;
    // What lies on GPUs depends on the context, whose default depends on what lies on GPUs.
    rc = engine_gpus_place(engine, options->context ? options->context : batch, batch, format, error);
    if (!rc)
        rc = plan_context(&context, engine, options->context, batch, format, error);
    if (!rc && context != options->context)
        rc = engine_gpus_place(engine, context, batch, format, error);
    if (!rc)
        rc = engine_gpus_make_room(engine, context, batch, format, error);
    if (rc)
        return rc;
    struct lode_session *session = calloc(1, sizeof *session);
    if (!session)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a session");
    session->engine = engine;
    session->context = context;
    session->batch = batch < context ? batch : context;
    const struct forward_options forward = {.context = context,
                                            .batch = session->batch,
                                            .format = format,
                                            .keep_going = options->keep_going,
                                            .user = options->user};
    rc = allocate(session, &forward, error);
    if (!rc)
        rc = engine_load(engine, &session->needs, error);
    if (rc) {
        session->needs = (struct session_needs){0}; // not counted
        lode_session_close(session);
        return rc;
    }
    residency_count(engine->residency, &session->before);
    session_count_gpus(session, session->gpus_before);
    *out = session;
    return 0;
}

void lode_session_close(struct lode_session *session)
{
    if (!session)
        return;
    session->engine->sessions_bytes -= session->needs.kv_bytes + session->needs.scratch_bytes;
    forward_close(session->forward);
    free(session->logits);
    free(session->timeline);
    free(session->latency_ms);
    free(session->stalls);
    free(session);
}

uint32_t lode_session_context(const struct lode_session *session)
{
    return session->context;
}

uint32_t lode_session_position(const struct lode_session *session)
{
    return forward_position(session->forward) + session->has_pending;
}

uint64_t lode_session_kv_bytes(const struct lode_session *session)
{
    return forward_kv_bytes(session->forward);
}

const float *lode_session_logits(const struct lode_session *session)
{
    return session->has_logits ? session->logits : NULL;
}

static int check_room(const struct lode_session *session, size_t count, struct lode_error *error)
{
    const uint32_t position = lode_session_position(session);
    if (count <= session->context - position)
        return 0;
    return lode_fail(error, LODE_ERR_CONTEXT,
                     "%zu tokens do not fit after the %" PRIu32 " that are there: the context holds %" PRIu32
                     " (the model's limit is %" PRIu32 ")",
                     count, position, session->context, session->engine->shape.context_limit);
}

static int check_tokens(const struct lode_session *session, const int32_t *ids, size_t count,
                        struct lode_error *error)
{
    const uint32_t vocab = session->engine->shape.vocab;
    int rc = check_room(session, count, error);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "token %zu is %" PRId32 ", outside the vocabulary of %" PRIu32, i, ids[i],
                             vocab);
    return 0;
}

int session_step(struct lode_session *session, const int32_t *ids, size_t count, size_t want,
                 float *out_logits, struct lode_error *error)
{
    const uint32_t position = forward_position(session->forward);
    session->has_logits = false;
    session_parts_pass_begin(session, count);
    int rc = forward_step(session->forward, ids, (uint32_t)count, (uint32_t)want, out_logits, error);
    session_parts_pass_end(session, rc == 0);
    engine_trace_check(session->engine);
    engine_tell_notices(session->engine);
    if (rc)
        return rc;
    memcpy(session->timeline + position, ids, count * sizeof *ids);
    session->has_logits = want > 0;
    if (want && out_logits != session->logits)
        memcpy(session->logits, out_logits + (want - 1) * (size_t)session->engine->shape.vocab,
               session->engine->shape.vocab * sizeof *session->logits);
    return 0;
}

int session_flush_pending(struct lode_session *session, size_t want, struct lode_error *error)
{
    if (!session->has_pending)
        return 0;
    const int32_t id = session->pending;
    int rc = session_step(session, &id, 1, want, session->logits, error);
    session->has_pending = rc != 0;
    return rc;
}

int lode_session_feed(struct lode_session *session, const int32_t *ids, size_t count,
                      lode_progress_fn on_progress, void *user, struct lode_error *error)
{
    int rc = check_tokens(session, ids, count, error);
    const uint64_t start_ns = clock_now_ns();
    session->feed_start_ns = start_ns;
    session_parts_mark(session);
    size_t done = 0;
    if (!rc && count)
        rc = session_flush_pending(session, 0, error);
    if (!rc && count)
        rc = session_exchange_experts(session, error);
    while (!rc && done < count) {
        if (on_progress && !on_progress(user, "prefill", done, count)) {
            rc = lode_fail(error, LODE_ERR_CANCELLED, "stopped after %zu of %zu prompt tokens", done, count);
            break;
        }
        size_t n = count - done < session->batch ? count - done : session->batch;
        rc = session_step(session, ids + done, n, done + n == count, session->logits, error);
        if (!rc)
            done += n;
    }
    if (!rc && on_progress)
        on_progress(user, "prefill", count, count);
    session->stats.prompt_tokens += done;
    session->stats.prefill_s += clock_seconds_since(start_ns);
    session_parts_add(session, &session->parts.prefill);
    return rc;
}

int lode_session_eval(struct lode_session *session, const int32_t *ids, size_t count, size_t want,
                      float *out_logits, struct lode_error *error)
{
    if (count == 0 || count > session->batch || want > count)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%zu tokens with logits of %zu: the batch holds 1 to %" PRIu32, count, want,
                         session->batch);
    int rc = check_tokens(session, ids, count, error);
    if (rc)
        return rc;
    const uint64_t start_ns = clock_now_ns();
    session_parts_mark(session);
    rc = session_flush_pending(session, 0, error);
    if (!rc)
        rc = session_step(session, ids, count, want, out_logits, error);
    if (rc)
        return rc;
    session->stats.prompt_tokens += count;
    session->stats.prefill_s += clock_seconds_since(start_ns);
    session_parts_add(session, &session->parts.prefill);
    return 0;
}

// The positions have no tokens; what looks back at them (the repetition penalty) sees token 0.
int lode_session_fill(struct lode_session *session, uint32_t count, uint64_t seed, struct lode_error *error)
{
    int rc = check_room(session, count, error);
    if (rc || !count)
        return rc;
    rc = session_flush_pending(session, 0, error);
    if (rc)
        return rc;
    session->has_logits = false;
    session_parts_moved(session);
    memset(session->timeline + forward_position(session->forward), 0, count * sizeof *session->timeline);
    return forward_fill(session->forward, count, seed, error);
}

uint64_t lode_session_kv_read_bytes(const struct lode_session *session, uint32_t position)
{
    return kv_cache_read_bytes(&session->engine->model, position, session->needs.format);
}

uint32_t lode_session_rewind(struct lode_session *session, uint32_t keep)
{
    if (keep >= lode_session_position(session))
        return lode_session_position(session);
    session->has_logits = session->has_pending = false;
    session_parts_moved(session);
    return forward_rewind(session->forward, keep);
}
