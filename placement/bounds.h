// What no policy and no predictor can beat on a trace: the fewest experts that must be read into a pool of so
// many slots, and from that the least time.
//
// Loads. The experts of a pass in a layer are needed together. With all choices known, the fewest are read
// when, after each such choice, those stay that are needed again first (L. Belady, 1966), among all that were
// there before or had to be read for the choice: what is not worth a slot passes through without one. Reading
// ahead of a choice saves none, for it could as well be read for the choice, and would take no slot till
// then. What is needed only after some pass is all the same up to that pass, and goes before what is needed
// sooner; so the rule reads the fewest up to the end of every pass at once, and each of the counts is a lower
// bound for any policy with any prefetch from the same start.
//
// Time. A drive that reads at most `rate` bytes a second has not read b bytes before b / rate, and passes
// follow one another, so that pass p ends no earlier than
//
//     end(p) = max( end(p - 1) + compute(p),  bytes(p) / rate )
//
// where bytes(p) must have been read up to its end, from the start of the first pass. This is the
// bandwidth-limited oracle: perfect prediction, real bandwidth. It reads ahead as far as it likes.
#ifndef LODE_BOUNDS_H
#define LODE_BOUNDS_H

#include "placement/trace.h"

#include <stdbool.h>
#include <stdint.h>

struct bound_request {
    uint32_t first_pass, n_passes; // of the trace
    uint32_t slots;                // of the pool that all layers share; 0: nothing can stay
    bool warm; // at the start the pool holds, for nothing, what suits it best; otherwise it is empty
};

// out_loads[p]: experts that must have been read from the start of first_pass up to the end of pass
// first_pass + p, [n_passes], each counted once for each time it is read. A pass of many tokens needs each
// expert of a layer once. LODE_ERR_ARGUMENT where the trace has no such passes; LODE_ERR_MEMORY: some five
// bytes a choice are allocated meanwhile.
int bound_loads(uint64_t *out_loads, const struct bound_request *request, const struct trace *trace,
                struct lode_error *error);

// Seconds that the passes take at least. bytes[p]: read up to the end of pass p at least, since the start of
// the first (what is streamed included); compute_s[p]: of pass p alone with everything in memory, finite and
// not negative; both [n_passes]. bytes_per_s > 0. out_s[p] is when pass p ends at the earliest, since the
// start of the first.
void bound_times(double *out_s, const uint64_t *bytes, const double *compute_s, uint32_t n_passes,
                 double bytes_per_s);

#endif
