// Scoring chunks. The logits of one step at a time are held, never those of a chunk: half a chunk of 512 at a
// vocabulary of 262,144 would take 256 MiB.
#include "tools/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_BYTES = 64 << 20 };

struct sums {
    double nll, nll_squared;
    size_t count;
};

double perplexity_nll(const float *logits, uint32_t vocab, int32_t id)
{
    float max = logits[0];
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > max)
            max = logits[i];
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - (double)max);
    return log(sum) - ((double)logits[id] - (double)max);
}

static void score(struct sums *sums, double nll)
{
    sums->nll += nll;
    sums->nll_squared += nll * nll;
    sums->count++;
}

static uint32_t step_tokens(const struct perplexity_input *input)
{
    uint64_t fits = STEP_BYTES / ((uint64_t)input->vocab * sizeof(float));
    if (fits > input->batch)
        fits = input->batch;
    return fits ? (uint32_t)fits : 1;
}

// `chunk` holds n_ctx ids. The last of them is only predicted, so it is never fed.
static int score_chunk(struct sums *sums, struct lode_session *session, const struct perplexity_input *input,
                       const int32_t *chunk, float *logits, struct lode_error *error)
{
    const uint32_t first = input->n_ctx / 2, last = input->n_ctx - 1, step = step_tokens(input);
    lode_session_rewind(session, 0);
    int code = first ? lode_session_feed(session, chunk, first, NULL, NULL, error) : LODE_OK;
    for (uint32_t at = first; at < last && !code; at += step) {
        uint32_t count = last - at < step ? last - at : step;
        code = lode_session_eval(session, chunk + at, count, count, logits, error);
        for (uint32_t i = 0; i < count && !code; i++)
            score(sums, perplexity_nll(logits + (size_t)i * input->vocab, input->vocab, chunk[at + i + 1]));
    }
    return code;
}

static struct perplexity summarise(const struct sums *sums, size_t n_chunks)
{
    const double count = (double)sums->count;
    const double mean = sums->nll / count;
    const double variance = sums->nll_squared / count - mean * mean;
    const double ppl = exp(mean);
    const double error = variance > 0 && sums->count > 1 ? ppl * sqrt(variance / (count - 1)) : 0;
    return (struct perplexity){
        .ppl = ppl, .standard_error = error, .nll_mean = mean, .n_scored = sums->count, .n_chunks = n_chunks};
}

static int measure(struct perplexity *out, struct lode_session *session, const struct perplexity_input *input,
                   int32_t *chunk, float *logits, struct lode_error *error)
{
    size_t n_chunks = input->n_ids / input->n_ctx;
    if (input->max_chunks && input->max_chunks < n_chunks)
        n_chunks = input->max_chunks;
    struct sums sums = {0};
    for (size_t i = 0; i < n_chunks; i++) {
        if (input->on_progress && !input->on_progress(input->user, "chunks", i, n_chunks))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped after %zu of %zu chunks", i, n_chunks);
        memcpy(chunk, input->ids + i * input->n_ctx, input->n_ctx * sizeof *chunk);
        chunk[0] = input->bos;
        int code = score_chunk(&sums, session, input, chunk, logits, error);
        if (code)
            return code;
    }
    *out = summarise(&sums, n_chunks);
    return LODE_OK;
}

int perplexity_measure(struct perplexity *out, struct lode_session *session,
                       const struct perplexity_input *input, struct lode_error *error)
{
    if (input->n_ids < 2 * (size_t)input->n_ctx)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "the text has %zu tokens; two chunks of %u need at least %zu. Take a longer text or a smaller -c",
            input->n_ids, input->n_ctx, 2 * (size_t)input->n_ctx);
    int32_t *chunk = malloc(input->n_ctx * sizeof *chunk);
    float *logits = malloc((size_t)step_tokens(input) * input->vocab * sizeof *logits);
    int code = chunk && logits
                   ? measure(out, session, input, chunk, logits, error)
                   : lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the logits of a step");
    free(logits);
    free(chunk);
    return code;
}
