// From logits to the next token: greedy, or temperature with top-k, top-p and min-p; repetition penalty;
// logit bias.
//
// The order is that of the field's other engines: bias, repetition penalty, then (temperature 0: the largest
// logit, lowest id on ties) top-k, top-p, min-p, temperature, draw. The generator is our own (xoshiro256**),
// so that a seed gives the same text everywhere.
#ifndef LODE_SAMPLER_H
#define LODE_SAMPLER_H

#include "base/lode_error.h"
#include "core/lode.h"

#include <stddef.h>
#include <stdint.h>

struct sampler;

// Checks every option (ranges, NaN) and allocates all that sampling will need for a vocabulary of this size.
int sampler_create(struct sampler **out, const struct lode_sampling *options, uint32_t vocab_size,
                   struct lode_error *error);
void sampler_free(struct sampler *sampler);

// Chooses a token from `logits` (vocab_size floats, left unchanged). Allocates nothing. NaN logits count as
// -inf.
int32_t sampler_next(struct sampler *sampler, const float *logits);

// Tells the repetition penalty of a token that entered the timeline: prompt tokens and accepted ones.
void sampler_accept(struct sampler *sampler, int32_t id);

// Forgets accepted tokens and restarts the generator from the seed.
void sampler_reset(struct sampler *sampler);

#endif
