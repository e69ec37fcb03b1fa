// The traces of a simulation: those that are measured, and what is learned from before. The two never mix: a
// conversation is one or the other.
#ifndef LODE_TOOLS_SIM_TRACES_H
#define LODE_TOOLS_SIM_TRACES_H

#include "placement/trace.h"
#include "tools/sim.h"

// Starts as {0}; released by sim_traces_free.
struct sim_traces {
    struct trace *traces; // [n + n_fit] first those that are measured
    const char *const *paths;
    uint32_t n, n_fit;
    struct sim_trace_facts *facts;  // [n]
    const struct trace **learned;   // [n_learned] those with conversations to learn from
    uint32_t n_learned, fit_tokens; // tokens of these conversations
    float *heat; // [experts, layer after layer] choices a token of what is learned from; NULL: nothing is
    uint32_t context; // tokens of the longest conversation that is measured
};

// Loads `n` traces to measure and `n_fit` to learn from, all of one model; `paths` has both, the first n
// being those to measure, and outlives the result. All together may take max_bytes of memory. Traces that are
// cut off are told in the name of `command`, which may be NULL.
int sim_traces_load(struct sim_traces *out, const char *const *paths, uint32_t n, uint32_t n_fit,
                    uint64_t max_bytes, const char *command, struct lode_error *error);
void sim_traces_free(struct sim_traces *traces);

// Whether all traces that are measured have guesses of the next layer's router. Otherwise *out_without is one
// that has none.
bool sim_traces_have_guesses(const struct sim_traces *traces, const char **out_without);

#endif
