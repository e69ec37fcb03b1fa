// Perplexity of a text, with its standard error, as llama-perplexity defines them.
//
// The tokens are cut into chunks of n_ctx; <bos> replaces the first token of each; the second half of a chunk
// is scored: positions n_ctx/2 to n_ctx-2 predict the token behind them. ppl = exp(mean nll).
#ifndef LODE_TOOLS_PERPLEXITY_H
#define LODE_TOOLS_PERPLEXITY_H

#include "core/lode.h"

#include <stddef.h>
#include <stdint.h>

struct perplexity {
    double ppl, standard_error, nll_mean;
    size_t n_scored, n_chunks;
};

struct perplexity_input {
    const int32_t *ids; // of the whole text, <bos> in front
    size_t n_ids;
    int32_t bos;
    uint32_t n_ctx, max_chunks; // max_chunks 0: all
    uint32_t vocab, batch;
    lode_progress_fn on_progress;
    void *user;
};

// The session's context must be n_ctx or more. Fewer than two chunks of tokens are an error.
int perplexity_measure(struct perplexity *out, struct lode_session *session,
                       const struct perplexity_input *input, struct lode_error *error);

// -log of the probability that the softmax of the logits gives to `id`.
double perplexity_nll(const float *logits, uint32_t vocab, int32_t id);

#endif
