// Draws weights of any tensor type straight as they lie in a file, with a given mean and standard deviation.
//
// Nothing is quantised: a block is filled with random bytes, which makes its codes uniform, and the bytes of
// its scales are then replaced by f16 numbers from a table of 256, chosen by what was drawn there. The scales
// of blocks are uniform between 0.5 and 1.5 times the fitting one, so that a kernel that takes the wrong
// block's scale is found out.
#ifndef LODE_SYNTH_DRAW_H
#define LODE_SYNTH_DRAW_H

#include "base/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SYNTH_QUANTILES = 4096, SYNTH_SCALES = 256, SYNTH_LANE = 32 };

struct synth_random { // splitmix64
    uint64_t state;
};

static inline uint64_t synth_random_next(struct synth_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// The generator of one stripe of one tensor, whoever draws it.
struct synth_random synth_random_of(uint64_t seed, const char *name, uint64_t stripe);

// A normal distribution as equally likely values with mean 0 and mean square 1.
struct synth_quantiles {
    float values[SYNTH_QUANTILES];
};

void synth_quantiles_init(struct synth_quantiles *quantiles);

struct synth_draw {
    enum lode_type type;
    bool signs;                       // floats: a random sign
    bool lanes;                       // element 0 of each 32 is alike in all rows
    float lane;                       // what it is on average
    float values[SYNTH_QUANTILES];    // F32
    uint16_t halves[SYNTH_QUANTILES]; // F16, BF16
    uint16_t scales[SYNTH_SCALES], minimums[SYNTH_SCALES];
    uint8_t exponent; // MXFP4: this one, or the next with probability exponent_odds / 256
    unsigned exponent_odds;
};

// `mean` is for floats; quantised weights have mean 0.
void synth_draw_init(struct synth_draw *draw, const struct synth_quantiles *quantiles, enum lode_type type,
                     float mean, float deviation, bool signs, bool lanes);

// Draws n weights, a multiple of the type's block, that begin a lane.
void synth_draw_fill(const struct synth_draw *draw, uint8_t *out, size_t n, struct synth_random *random);

#endif
