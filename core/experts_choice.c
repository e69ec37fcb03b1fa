// The choice of experts: the router on the device of the layer, the choices in the memory of the host grouped
// by expert, and guesses of what the next layer will choose. What is done with them is in experts_run.c.
#include "core/forward_internal.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool open_shares(struct expert_batch *out, const struct gemma_hparams *h, size_t n_choices)
{
    const size_t n_routed = (size_t)h->n_layers * EXECUTOR_ROUTED_ROWS * h->n_experts_used;
    out->executor = malloc(h->n_experts * sizeof *out->executor);
    out->share = malloc(n_choices * sizeof *out->share);
    out->routed = malloc(n_routed * sizeof *out->routed);
    out->routed_rows = calloc(h->n_layers, sizeof *out->routed_rows);
    return out->executor && out->share && out->routed && out->routed_rows;
}

int expert_batch_open(struct expert_batch *out, const struct gemma_hparams *hparams, uint32_t batch,
                      bool many, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    const size_t n_experts = hparams->n_experts, n_choices = (size_t)batch * hparams->n_experts_used;
    if (!n_experts)
        return 0;
    out->chosen = malloc(n_choices * sizeof *out->chosen);
    out->weights = malloc(n_choices * sizeof *out->weights);
    out->tokens = malloc(n_choices * sizeof *out->tokens);
    out->slots = malloc(n_choices * sizeof *out->slots);
    out->begin = malloc((n_experts + 1) * sizeof *out->begin);
    out->units = malloc(n_experts * sizeof *out->units);
    out->n_tokens = malloc(n_experts * sizeof *out->n_tokens);
    out->at_hand = malloc(n_experts * sizeof *out->at_hand);
    out->jobs = malloc(n_experts * sizeof *out->jobs);
    out->guessed = malloc((n_choices > n_experts ? n_choices : n_experts) * sizeof *out->guessed);
    out->predicted = malloc(n_experts * sizeof *out->predicted);
    out->votes = malloc(n_experts * sizeof *out->votes);
    if (out->chosen && out->weights && out->tokens && out->slots && out->begin && out->units &&
        out->n_tokens && out->at_hand && out->jobs && out->guessed && out->predicted && out->votes &&
        (!many || open_shares(out, hparams, n_choices)))
        return 0;
    expert_batch_close(out);
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the expert choices of %u tokens", batch);
}

void expert_batch_close(struct expert_batch *batch)
{
    free(batch->chosen);
    free(batch->weights);
    free(batch->tokens);
    free(batch->slots);
    free(batch->begin);
    free(batch->units);
    free(batch->n_tokens);
    free(batch->at_hand);
    free(batch->jobs);
    free(batch->guessed);
    free(batch->predicted);
    free(batch->votes);
    free(batch->executor);
    free(batch->share);
    free(batch->routed);
    free(batch->routed_rows);
    memset(batch, 0, sizeof *batch);
}

void experts_route(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                   struct lode_rows x, uint32_t k, int32_t *ids, float *weights)
{
    const struct executor *e = pass->at;
    const struct lode_device_ops *ops = e->device->ops;
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct lode_rows input = executor_rows(e, BUFFER_NORMED, x.n, h->hidden);
    struct lode_rows logits = executor_rows(e, BUFFER_ROUTER, x.n, h->n_experts);
    const struct lode_matrix router = forward_matrix(f, &layer->router);
    const float *expert_scale = layer->expert_scale.cols ? forward_vector(f, &layer->expert_scale) : NULL;
    ops->rms_norm(e->device, input, x, forward_vector(f, &layer->router_scale), h->rms_eps,
                  1.0f / sqrtf((float)h->hidden));
    ops->matmul(e->device, &logits, &router, 1, input);
    ops->router(e->device, ids, weights, logits, k, expert_scale);
}

// The same with the choice in `out` in host memory.
static int route(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                 struct lode_rows x, uint32_t k, enum buffer ids, enum buffer weights, int32_t *out,
                 struct lode_error *error)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    int32_t *chosen = (int32_t *)pass->at->buffers[ids];
    const size_t n_choices = (size_t)x.n * k;
    experts_route(f, pass, layer, x, k, chosen, pass->at->buffers[weights]);
    int rc = executor_download(pass->at, out, chosen, n_choices * sizeof *chosen, &f->gpu_wait_ns, error);
    for (size_t i = 0; i < n_choices && !rc; i++)
        if ((uint32_t)out[i] >= h->n_experts)
            rc = lode_fail(error, LODE_ERR_FORMAT, "a router chose expert %d of %u: its weights are damaged",
                           out[i], h->n_experts);
    return rc;
}

// Counting sort of the choices by expert; within an expert the tokens stay in order.
static void group_by_expert(struct expert_batch *batch, uint32_t n_tokens, uint32_t k, uint32_t n_experts)
{
    uint32_t *begin = batch->begin;
    memset(begin, 0, (n_experts + 1) * sizeof *begin);
    for (uint32_t i = 0; i < n_tokens * k; i++)
        begin[batch->chosen[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        begin[e + 1] += begin[e];
    for (uint32_t i = 0; i < n_tokens * k; i++) {
        uint32_t at = begin[batch->chosen[i]]++;
        batch->tokens[at] = (int32_t)(i / k);
        batch->slots[at] = (int32_t)i;
    }
    for (uint32_t e = n_experts; e > 0; e--)
        begin[e] = begin[e - 1];
    begin[0] = 0;
}

void experts_group(struct expert_batch *batch, const struct gemma_hparams *h, const struct gemma_layer *layer,
                   uint32_t n_rows)
{
    group_by_expert(batch, n_rows, h->n_experts_used, h->n_experts);
    batch->n_units = 0;
    for (uint32_t e = 0; e < h->n_experts; e++) {
        const uint32_t n = batch->begin[e + 1] - batch->begin[e];
        if (n == 0)
            continue;
        batch->units[batch->n_units] = layer->first_expert_unit + e;
        batch->n_tokens[batch->n_units++] = n;
    }
}

// What each chosen expert's output counts for, as policy.h wants it.
static int tell_weights(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                        uint32_t n_choices, struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    struct expert_batch *batch = &f->experts;
    const bool wanted = residency_wants_weights(residency);
    if (!wanted && !f->weights->trace && f->n_executors == 1)
        return 0;
    int rc = executor_download(pass->at, batch->weights, pass->at->buffers[BUFFER_CHOSEN_WEIGHT],
                               n_choices * sizeof *batch->weights, &f->gpu_wait_ns, error);
    for (uint32_t i = 0; i < batch->n_units && wanted && !rc; i++) {
        const uint32_t e = batch->units[i] - layer->first_expert_unit;
        float sum = 0;
        for (uint32_t at = batch->begin[e]; at < batch->begin[e + 1]; at++)
            sum += lode_f16_to_f32(lode_f32_to_f16(batch->weights[batch->slots[at]]));
        residency_weigh(residency, batch->units[i], sum);
    }
    return rc;
}

// Tells predictor and trace what each row chose. To be called when the residency has been asked for all of
// it: what it found in memory is held, and nothing has come since.
static void tell_choices(struct forward *f, const struct pass *pass, uint32_t l, uint64_t t_ns)
{
    const struct forward_weights *weights = f->weights;
    const uint32_t k = weights->model->hparams.n_experts_used, n_dropped = pass->n_tokens - pass->x.n;
    const uint32_t first_unit = weights->model->layers[l].first_expert_unit;
    const struct expert_batch *batch = &f->experts;
    struct predictor *predictor = weights->predictor;
    for (uint32_t row = 0; row < pass->x.n; row++) {
        const int32_t *experts = batch->chosen + (size_t)row * k;
        if (predictor && predictor->ops->chosen)
            predictor->ops->chosen(predictor, l, experts, k);
        if (!weights->trace)
            continue;
        uint64_t resident = 0;
        for (uint32_t i = 0; i < k; i++)
            resident |= (uint64_t)residency_has(weights->residency, first_unit + (uint32_t)experts[i]) << i;
        trace_choice(weights->trace, l, n_dropped + row, experts, batch->weights + (size_t)row * k, k,
                     resident, t_ns);
    }
}

int experts_choose(struct forward *f, const struct pass *pass, uint32_t l, struct lode_error *error)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct gemma_layer *layer = &f->weights->model->layers[l];
    struct expert_batch *batch = &f->experts;
    if (experts_may_route(f, pass, l))
        return 0;
    int rc = route(f, pass, layer, pass->x, h->n_experts_used, BUFFER_CHOSEN, BUFFER_CHOSEN_WEIGHT,
                   batch->chosen, error);
    if (rc)
        return rc;
    experts_group(batch, h, layer, pass->x.n);
    rc = tell_weights(f, pass, layer, pass->x.n * h->n_experts_used, error);
    if (rc)
        return rc;
    const uint64_t t_ns = f->weights->trace ? residency_now_ns(f->weights->residency) : 0;
    rc = residency_choose(f->weights->residency, batch->units, batch->n_tokens, batch->n_units, error);
    if (!rc && (f->weights->trace || f->weights->predictor))
        tell_choices(f, pass, l, t_ns);
    return rc;
}

// Of many rows the guess is as good as certain for experts that several rows vote for.
#define CERTAIN_ROWS 16
#define CERTAIN_VOTES 2

// Experts by votes, most first; of equal votes, the one whose best rank is higher, then the lower id. With
// one row, the order of the ranks.
static uint32_t rank_guesses(struct expert_batch *batch, uint32_t first_unit, uint32_t n_rows, uint32_t k,
                             uint32_t n_experts, uint32_t least_votes)
{
    memset(batch->votes, 0, n_experts * sizeof *batch->votes);
    uint32_t n = 0;
    for (uint32_t r = 0; r < k; r++)
        for (uint32_t row = 0; row < n_rows; row++) {
            const int32_t e = batch->guessed[row * k + r];
            if (batch->votes[e]++ == 0)
                batch->at_hand[n++] = (uint32_t)e;
        }
    // Insertion keeps the order of equals; at most a few hundred experts.
    for (uint32_t i = 1; i < n; i++) {
        const uint32_t e = batch->at_hand[i];
        uint32_t j = i;
        for (; j > 0 && batch->votes[batch->at_hand[j - 1]] < batch->votes[e]; j--)
            batch->at_hand[j] = batch->at_hand[j - 1];
        batch->at_hand[j] = e;
    }
    while (n > 0 && batch->votes[batch->at_hand[n - 1]] < least_votes)
        n--;
    for (uint32_t i = 0; i < n; i++)
        batch->at_hand[i] += first_unit;
    return n;
}

// The predictor speaks for single tokens; of a prompt the next layer's router is asked.
static struct predictor *predictor_of(const struct forward *f, const struct pass *pass)
{
    return pass->n_tokens == 1 ? f->weights->predictor : NULL;
}

enum predictor_gate experts_gate(const struct forward *f, const struct pass *pass)
{
    const struct predictor *predictor = predictor_of(f, pass);
    return predictor ? predictor->ops->gate : PREDICTOR_GATE_AUTO;
}

bool experts_wants_guess(const struct forward *f, const struct pass *pass, uint32_t l)
{
    const struct gemma_model *model = f->weights->model;
    if (l >= model->hparams.n_layers || !model->layers[l].moe)
        return false;
    if (forward_layer_executor(f, l) != pass->at) // its router is on another device
        return false;
    return !(f->weights->skips_prompts && pass->n_tokens > 1) &&
           residency_wants_guess(f->weights->residency, l);
}

// The residual stream changes little from layer to layer, so the next layer's router, applied to it now,
// names most of what it will choose (78% on the 26B according to colibri's measurement).
static int ask_gate(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                    struct lode_rows x, uint32_t ranks, struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    int rc = residency_acquire(residency, &layer->router.unit, 1, error);
    if (rc)
        return rc;
    rc = route(f, pass, layer, x, ranks, BUFFER_GUESSED, BUFFER_GUESSED_WEIGHT, f->experts.guessed, error);
    residency_release(residency, &layer->router.unit, 1);
    return rc;
}

// Fills `guessed` with what the predictor says and returns how many that are. A shared object may say
// anything: what is no expert, or said before, is left out.
static uint32_t ask_predictor(struct forward *f, struct predictor *predictor, uint32_t l, bool with_gate,
                              uint32_t ranks)
{
    const uint32_t n_experts = f->weights->model->hparams.n_experts;
    struct expert_batch *batch = &f->experts;
    uint32_t said =
        predictor->ops->guess(predictor, l, with_gate ? batch->guessed : NULL, batch->predicted, ranks);
    said = said < ranks ? said : ranks;
    memset(batch->votes, 0, n_experts * sizeof *batch->votes);
    uint32_t n = 0;
    for (uint32_t i = 0; i < said; i++) {
        const uint32_t e = (uint32_t)batch->predicted[i];
        if (e < n_experts && batch->votes[e]++ == 0)
            batch->guessed[n++] = (int32_t)e;
    }
    return n;
}

int experts_guess(struct forward *f, const struct pass *pass, struct lode_rows x, uint32_t l,
                  struct lode_error *error)
{
    if (!experts_wants_guess(f, pass, l))
        return 0;
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct gemma_layer *layer = &f->weights->model->layers[l];
    struct residency *residency = f->weights->residency;
    struct expert_batch *batch = &f->experts;
    struct predictor *predictor = predictor_of(f, pass);
    const bool with_gate = !predictor || predictor->ops->gate != PREDICTOR_NO_GATE;
    // One row may have more ranks than a token chooses; the buffers have room for all experts of one.
    uint32_t ranks = x.n == 1 ? residency_guess_ranks(residency) : h->n_experts_used;
    const int rc = with_gate ? ask_gate(f, pass, layer, x, ranks, error) : 0;
    if (rc)
        return rc;
    if (predictor)
        ranks = ask_predictor(f, predictor, l, with_gate, ranks);
    for (uint32_t row = 0; f->weights->trace && ranks && row < x.n; row++)
        trace_guess(f->weights->trace, l, pass->n_tokens - x.n + row, batch->guessed + (size_t)row * ranks,
                    ranks);
    const bool certain = x.n >= CERTAIN_ROWS;
    const uint32_t n =
        rank_guesses(batch, layer->first_expert_unit, x.n, ranks, h->n_experts, certain ? CERTAIN_VOTES : 1);
    residency_guess(residency, batch->at_hand, n, certain);
    return 0;
}
