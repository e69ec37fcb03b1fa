// What traces say about a model's routing, in figures.
#ifndef LODE_TRACE_SUMMARY_H
#define LODE_TRACE_SUMMARY_H

#include "placement/trace.h"

// 1, 2, 4, … 256 tokens.
#define TRACE_N_WINDOWS 9

// How the choices of a layer are spread. `hot`: the share of the choices that fall on the most chosen 10%,
// 25% and 50% of its experts (rounded up). Entropy in bits of the popularity p; 2^entropy equally popular
// experts would be as hard to guess. Zipf: the s of p_rank ~ rank^-s that makes these counts most likely, all
// experts counted. Reuse: the share of a token's experts that the token before it, in the same conversation,
// chose too; by chance: what it would be if each token drew by popularity alone, sum of (choices / tokens)^2
// / k.
struct trace_spread {
    double hot[3];
    double entropy_bits, zipf, reuse, reuse_by_chance;
    double lower_half; // share of the weights of a token's lower half of ranks; NAN: weights are unknown
    double hit_rate;   // resident when chosen; NAN: unknown
};
#define TRACE_HOT_PERCENT ((const uint32_t[3]){10, 25, 50})

struct trace_layer_summary {
    uint32_t layer, n_experts, n_used, n_chosen; // n_chosen: experts that were chosen at least once
    uint64_t expert_bytes;
    uint64_t n_tokens, n_choices;
    struct trace_spread spread;
    double window[TRACE_N_WINDOWS]; // distinct experts in as many tokens, the mean; NAN: no such stretch
    uint32_t hottest[3];            // TRACE_NO_EXPERT: fewer
    uint64_t hottest_choices[3];
};

struct trace_phase_summary {
    uint64_t n_tokens, n_passes, n_choices, n_resident, n_pairs,
        n_reused; // pairs: choices with a token before
    uint64_t pass_ns, stall_ns, read_bytes[N_TRACE_READS], n_read[N_TRACE_READS];
    double read_ns[N_TRACE_READS]; // from submission to completion, the mean
};

struct trace_summary {
    uint32_t n_traces, n_moe, n_used, n_ranks; // n_ranks: of guesses; 0: none
    uint64_t n_tokens, n_passes, n_conversations, n_dropped_tokens, waited_ns;
    uint32_t known;                     // what all traces have
    struct trace_layer_summary *layers; // [n_moe]
    struct trace_spread mean;           // over the layers
    uint64_t *counts;                   // [n_moe][most experts of a layer] choices
    uint32_t max_experts;
    double window[TRACE_N_WINDOWS];       // the mean over layers
    double window_bytes[TRACE_N_WINDOWS]; // the sum over layers; 0: sizes are unknown
    double mass_by_rank[TRACE_MAX_USED];  // [n_used] share of a token's weights, the mean
    // Of guesses: the share of the rank's guesses that came true, and of the choices that ranks up to this
    // one had named.
    double precision_by_rank[TRACE_MAX_RANKS], recall_by_rank[TRACE_MAX_RANKS];
    uint64_t n_guesses; // layers of tokens that were guessed
    struct trace_phase_summary phases[N_TRACE_PHASES];
};

// Of one or more traces of one model.
int trace_summarise(struct trace_summary *out, const struct trace *traces, uint32_t n,
                    struct lode_error *error);
void trace_summary_free(struct trace_summary *summary);

// The s of p_rank ~ rank^-s under which `counts` (n of them, largest first) are most likely, in [0, 10].
double trace_zipf(const uint64_t *counts, uint32_t n);

#endif
