// The inside of a session, shared by feeding and generating.
#ifndef LODE_SESSION_INTERNAL_H
#define LODE_SESSION_INTERNAL_H

#include "core/engine.h"

struct lode_session {
    struct lode_engine *engine;
    struct forward *forward;
    uint32_t context, batch;
    float *logits; // [vocab] of the last token
    bool has_logits;
    bool has_pending;  // the last sampled token belongs to the timeline, but has not been through the model:
    int32_t pending;   // a pass whose logits nobody may want is put off until something follows
    int32_t *timeline; // [context] ids, for the repetition penalty
    uint64_t feed_start_ns; // of the last feed
    struct lode_stats stats;
    float *latency_ms;              // of the generated tokens; grows between generations only
    struct residency_stall *stalls; // of the same tokens
    size_t n_latencies, latency_capacity;
    struct session_needs needs;
    struct residency_figures before; // when the session was opened
};

// One step of at most a batch; the caller has checked the ids and the room in the context.
int session_step(struct lode_session *session, const int32_t *ids, size_t count, size_t want,
                 float *out_logits, struct lode_error *error);

// Runs the pending token, if there is one.
int session_flush_pending(struct lode_session *session, size_t want, struct lode_error *error);

#endif
