// Predictors on recorded traces, without time: told the choices of a training part, and held against those of
// a test part. Both drive a predictor by the calls of a run, in a run's order.
//
// Traces are as trace_load makes them, of the model that the predictor was opened for.
#ifndef LODE_PREDICTOR_FIT_H
#define LODE_PREDICTOR_FIT_H

#include "placement/predictor.h"
#include "placement/trace.h"

// Opens a predictor for the model that a trace is of. `heat` may be NULL. Close it with ops->close.
int predictor_open_for(struct predictor **out, const struct predictor_ops *ops, const struct trace *trace,
                       const float *heat, struct lode_error *error);

// Tells the choices of the conversations that are TRACE_PART_FIT, of all where the trace has no parts, and
// begins a new conversation behind them. LODE_ERR_ARGUMENT: the trace has parts, and none to fit on.
int predictor_fit(struct predictor *predictor, const struct trace *trace, struct lode_error *error);

// By rank, the best is 0.
struct predictor_tally {
    uint64_t n_guesses; // one for each token and layer
    uint64_t n_chosen;  // experts that were chosen there
    uint64_t named[TRACE_MAX_RANKS], right[TRACE_MAX_RANKS];
};

// Replays the conversations that are not TRACE_PART_FIT and counts how many of the named experts were chosen.
// Guesses are made for passes of one token, as in a run; those of many are told. Tokens of the trace before
// `first_token` are told and not counted. `ranks` experts are asked for, TRACE_MAX_RANKS at most.
//
// What a predictor learns from these conversations is kept, as in a run. Where it asks the gate, the gate's
// answers are the trace's recorded guesses, and only layers of tokens that have one count.
//
// LODE_ERR_ARGUMENT: nothing is left to count, or the trace lacks guesses. LODE_ERR_FORMAT: the predictor
// names what is not of the layer, an expert twice, or too many.
int predictor_precision(struct predictor_tally *out, struct predictor *predictor, const struct trace *trace,
                        uint32_t first_token, uint32_t ranks, struct lode_error *error);

// Of the first `ranks` that were named: the share that was chosen; NAN where none was named. Of the chosen:
// the share that these had named. `ranks` from 1 on.
double predictor_tally_precision(const struct predictor_tally *tally, uint32_t ranks);
double predictor_tally_recall(const struct predictor_tally *tally, uint32_t ranks);

#endif
