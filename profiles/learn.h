// What runs teach about a machine profile: where a part of a pass takes 10% longer than its curves say in one
// run after the other, the next prediction takes that into account.
//
// A factor is bounded and slow, for a single run may have shared the machine with anything: it moves a
// quarter of the way, in the logarithm, so that a part that is twice as fast weighs as much as one that is
// twice as slow. What is more than three times off is no error of a curve but something else that happened.
#ifndef LODE_LEARN_H
#define LODE_LEARN_H

#include "profiles/machine_profile.h"

#include <stdbool.h>
#include <stdint.h>

#define LEARN_SHARE 0.25       // of the way, for each run
#define LEARN_OUTLIER 3.0      // times off, to either side: left out
#define LEARN_LEAST_SHARE 0.03 // of a pass; shorter parts are mostly the error of measuring them
#define LEARN_DECODE_TOKENS 32 // or
#define LEARN_DECODE_SECONDS 2.0
#define LEARN_PREFILL_TOKENS 64
#define LEARN_STALLED 4.0 // p99 over p50 of the tokens

enum learn_phase { LEARN_DECODE, LEARN_PREFILL };

// Seconds.
struct learn_parts {
    double kernels_s, attention_s, operations_s, drive_s;
};

// Of one run; starts as {0}. Where both are 0, it teaches nothing about the part.
struct learn_sample {
    double measured_s[PROFILE_PARTS];
    double predicted_s[PROFILE_PARTS]; // by the curves alone
};

// Whether a phase was long enough to learn from.
bool learn_is_enough(enum learn_phase phase, uint64_t tokens, double seconds);

// Whether something else held the process up: some tokens took several times as long as the usual one, though
// none had to wait for a read.
bool learn_is_stalled(double token_ms_p50, double token_ms_p99, uint64_t read_bytes);

// Adds a phase: what was measured, and what was predicted for the same passes with the factors `learned`.
// Parts that are short in either are left out; operations and the drive are the same part in both phases.
void learn_add(struct learn_sample *sample, enum learn_phase phase, const struct learn_parts *measured,
               const struct learn_parts *predicted, const struct profile_learned learned[PROFILE_PARTS]);

// Moves the factors by what the run teaches and counts it; returns how many were taught.
uint32_t learn_update(struct profile_learned learned[PROFILE_PARTS], const struct learn_sample *sample);

#endif
