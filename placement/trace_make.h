// Made-up routing traces: a model that there is no recording of, with a skew, a persistence and guesses that
// are chosen, for studies of policies.
//
// In each layer the experts have the popularity of Zipf's law, in a random order of the layer's own, and of
// the topic's: conversations take the topics in turn. A rank keeps the expert of the token before with a
// chance that makes the wanted reuse; the others are drawn (trace_popularity.h). A rank of the guesses names
// the chosen expert of that rank, or with the remaining chance one that was not chosen, by popularity.
// Layers, and tokens further apart than one step, know nothing of each other, and guesses are as good in all
// ranks; in recordings they are not.
//
// Weights fall as rank^-0.66: of six ranks that is 31.6 20.0 15.3 12.6 10.9 9.7%, against 31.7 19.9 15.2 12.6
// 10.9 9.7% of a recorded 26B-A4B (tests/data/traces).
//
// The same request makes the same trace on every machine: all choices come from integers.
#ifndef LODE_TRACE_MAKE_H
#define LODE_TRACE_MAKE_H

#include "placement/trace.h"

#define TRACE_MAKE_MAX_TOPICS 64

struct trace_make {
    uint32_t n_layers, n_experts, n_used; // n_used <= n_experts / 2
    uint32_t n_tokens, n_prompt_tokens;   // of a conversation: decoded ones, in a pass each; and its prompt
    uint32_t n_conversations, n_topics;   // as many conversations as topics, at least
    double skew;            // exponent of the counts of a layer's experts in a topic, as trace_zipf finds it
    double reuse;           // share of a token's experts that the token before had; negative: by skew alone
    double guess_precision; // share of the guesses that come true; negative: there are none
    uint64_t expert_bytes;  // 0: unknown
    uint64_t seed;
    const char *lode_version; // for the header
};

// Writes the trace. LODE_ERR_ARGUMENT where the request contradicts itself. A failure leaves no file, but may
// have emptied one.
int trace_make(const char *path, const struct trace_make *make, struct lode_error *error);

#endif
