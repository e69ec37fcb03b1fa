// What a plan predicted for the turns of a session, beside what was measured.
#ifndef LODE_TOOLS_PREDICTION_H
#define LODE_TOOLS_PREDICTION_H

#include "core/lode.h"
#include "profiles/learn.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

// Predicted for so many tokens (of decode: passes), in seconds.
struct prediction_sum {
    double tokens, seconds, slow_s, fast_s;
    struct learn_parts parts;
    double gpu_s; // of GPUs and the way to them, beyond the parts
};

// Starts as {0}, which predicts nothing.
struct prediction {
    const struct lode_plan *plan;                  // NULL: there is none
    struct profile_learned learned[PROFILE_PARTS]; // the factors that it was made with
    struct prediction_sum decode, prefill;         // of all turns
    struct learn_sample sample;                    // of the turns that were long enough
    // Of the turn that is under way.
    struct lode_stats before;
    uint32_t position; // tokens that were there before its prompt
};

// Around a prompt and what is generated after it. A turn that was interrupted is counted, but teaches
// nothing.
void prediction_begin_turn(struct prediction *prediction, const struct lode_session *session);
void prediction_end_turn(struct prediction *prediction, const struct lode_session *session, bool interrupted);

// Of one decoded token, or of one token of a prompt as long as the plan's, after so many tokens.
struct prediction_sum prediction_decode(const struct lode_plan *plan, double context);
struct prediction_sum prediction_prefill(const struct lode_plan *plan, double context);

// Tokens a second; 0 where nothing was counted.
double prediction_rate(const struct prediction_sum *sum);

// The object "predicted", or null without a plan; and "measured_parts".
json_t *prediction_json(const struct prediction *prediction);
json_t *prediction_measured_json(const struct lode_stats *stats);

#endif
