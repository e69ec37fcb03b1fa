// Traces of choices made up in memory, for what replays them: passes of one token or of many, layers of
// unlike size, choices that are skewed or not, conversations, rows without choices.
#ifndef LODE_CHOICE_WORLD_H
#define LODE_CHOICE_WORLD_H

#include "placement/trace.h"

struct choice_shape {
    uint32_t n_tokens, n_moe, n_experts, n_used;
    uint32_t pass_tokens;         // a pass has 1 to so many; 0: 1
    uint32_t conversation_tokens; // a conversation has about so many; 0: all
    bool uniform;                 // otherwise the lower experts are chosen more often
    bool gaps;                    // some rows have fewer choices, or none
    bool unlike;                  // odd layers have half as many experts, and other sizes
};

// Weights are known, and sizes: 1000 + m bytes an expert in a layer m. Of layers of the model that have no
// experts there is one between any two that have. To be freed by trace_free.
void choice_world_make(struct trace *out, const struct choice_shape *shape, uint64_t seed);

// The tokens of these conversations that `keep` says yes to, each a pass of its own, in a trace of their own.
void choice_world_copy(struct trace *out, const struct trace *trace, bool (*keep)(uint32_t conversation));

uint32_t choice_world_experts(const struct trace *trace); // of all layers

#endif
