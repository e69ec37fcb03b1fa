// What the predictors share: the table's entries, the selection of the best, and decayed frequencies.
#ifndef LODE_PREDICTOR_INTERNAL_H
#define LODE_PREDICTOR_INTERNAL_H

#include "placement/predictor.h"

extern const struct predictor_ops predictor_gate_auto, predictor_gate, predictor_gate_dense,
    predictor_previous, predictor_heat, predictor_cooccur;

// The experts of n with the highest scores, at most `max`, best first; of equals the lower number. Experts
// without a score above 0 are never among them. Returns how many. O(n log max), without memory of its own.
uint32_t predictor_best(int32_t *out, uint32_t max, const double *score, uint32_t n);

// Where each layer's experts begin in arrays that hold them layer after layer, [n_layers + 1]; NULL without
// memory. For the caller to free.
uint32_t *predictor_first_experts(const struct predictor_setup *setup);

// How often each expert is chosen for a token, with a memory that fades:
//
//     count(e) <- count(e) * exp(-1 / memory) + (1 if the token chose e)
//
// for each token of e's layer, and `tokens` of the layer in the same way. In place of all counts that fade,
// new ones weigh more; now and then all are brought back to the size of one.
struct predictor_counts {
    uint32_t n_layers;
    uint32_t *first; // [n_layers + 1]
    double *count;   // [experts, layer after layer]
    double *tokens;  // [n_layers]
    double *weight;  // [n_layers] of the next token
    double growth;   // of the weight with each token
};

// Starts as if `prior_tokens` tokens had chosen as setup->heat says. False without memory.
bool predictor_counts_open(struct predictor_counts *out, const struct predictor_setup *setup,
                           double memory_tokens, double prior_tokens);
void predictor_counts_close(struct predictor_counts *counts);
void predictor_counts_add(struct predictor_counts *counts, uint32_t layer, const int32_t *experts,
                          uint32_t n);

#endif
