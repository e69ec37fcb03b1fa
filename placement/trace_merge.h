// Several traces of one model as one: a set of conversations, each with the domain it is from, that can be
// split into a part to fit on and a part to test on.
#ifndef LODE_TRACE_MERGE_H
#define LODE_TRACE_MERGE_H

#include "placement/trace.h"

// By conversation, within each domain as evenly as whole conversations allow.
struct trace_split {
    double fit;    // share of the conversations, in (0, 1); 0: no split
    uint64_t seed; // decides which
};

struct trace_merged {
    uint32_t n_conversations, n_fit, n_test;
    uint64_t n_tokens, n_fit_tokens, n_test_tokens;
    uint32_t n_cut; // inputs that were cut off
};

// Writes `out`, or with a split `out`.fit and `out`.test. A conversation's
// domain is its own, or else the name of its file without folder and endings. Traces of different models,
// an output that is one of the inputs, and a part without a conversation are refused. A merge that fails
// leaves no output. What one input lacks, the set lacks (TRACE_HAS_…).
int trace_merge(struct trace_merged *result, const char *out, const char *const *inputs, uint32_t n,
                const struct trace_split *split, struct lode_error *error);

#endif
