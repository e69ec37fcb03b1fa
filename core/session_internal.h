// The inside of a session, shared by feeding and generating.
#ifndef LODE_SESSION_INTERNAL_H
#define LODE_SESSION_INTERNAL_H

#include "core/engine.h"

struct session_lanes {
    uint64_t kernels_ns, attention_ns, drive_ns, gpu_ns;
};

struct session_parts {
    struct session_lanes lanes, mark; // of all passes, and up to the last mark
    struct session_lanes prefill, decode;
    struct lode_device_times times; // of the running pass
    uint64_t pass_start_ns, last_decode_ns;
    uint64_t gpu_wait_ns;                  // of the timeline when the running pass began
    bool decodes, counts;                  // the running pass
    bool known;                            // a decode pass has been counted at this depth, and
    double kernels_share, attention_share; // so much of its computing was that
    uint32_t uncounted;                    // decode passes since then
};

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
    struct residency_gpu_figures gpus_before[HOME_GPUS];
    struct session_parts parts;
};

// One step of at most a batch; the caller has checked the ids and the room in the context.
int session_step(struct lode_session *session, const int32_t *ids, size_t count, size_t want,
                 float *out_logits, struct lode_error *error);

// Runs the pending token, if there is one.
int session_flush_pending(struct lode_session *session, size_t want, struct lode_error *error);

// ---- session_gpu.c

// Where a turn begins, brings experts that have become hot to the GPUs, in bounded time.
int session_exchange_experts(struct lode_session *session, struct lode_error *error);

void session_count_gpus(const struct lode_session *session, struct residency_gpu_figures *out);

// ---- session_parts.c

// Around each pass of `count` tokens.
void session_parts_pass_begin(struct lode_session *session, size_t count);
void session_parts_pass_end(struct lode_session *session, bool complete);

// The timeline has jumped: the next pass may be unlike the last.
void session_parts_moved(struct lode_session *session);

// What passes take from a mark on, added to `to`; which is a mark as well.
void session_parts_mark(struct lode_session *session);
void session_parts_add(struct lode_session *session, struct session_lanes *to);

// The parts of a time that the lanes are of.
struct lode_parts session_parts_of(const struct session_lanes *lanes, double total_s);

#endif
