// Predictors in a simulation; see simulate_internal.h.
//
// The trace may know fewer ranks than the engine asks for, or none for a layer that was in memory as a whole
// when it was recorded. So the gate's answer does not go through the device: the predictor is given what the
// trace has, and where it has nothing nothing is guessed.
#include "core/simulate_internal.h"
#include "placement/predictor_fit.h"

#include <stdlib.h>
#include <string.h>

struct stand_in {
    struct predictor base;
    struct predictor_ops ops;
    struct predictor *inner; // NULL: perfect, or none
    const struct simulation_routes *routes;
    simulation_chosen_fn on_chosen;
    void *user;
    int32_t gate[TRACE_MAX_RANKS];
};

static struct stand_in *stand_in_of(struct predictor *predictor)
{
    return (struct stand_in *)predictor;
}

static void restart(struct predictor *predictor)
{
    struct predictor *inner = stand_in_of(predictor)->inner;
    if (inner && inner->ops->restart)
        inner->ops->restart(inner);
}

static void chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct stand_in *s = stand_in_of(predictor);
    if (s->inner && s->inner->ops->chosen)
        s->inner->ops->chosen(s->inner, layer, experts, n);
    if (s->on_chosen)
        s->on_chosen(s->user, layer, experts, n);
}

static void pass_end(struct predictor *predictor, uint32_t n_tokens)
{
    struct predictor *inner = stand_in_of(predictor)->inner;
    if (inner && inner->ops->pass_end)
        inner->ops->pass_end(inner, n_tokens);
}

static uint32_t guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                      uint32_t max)
{
    (void)gate;
    struct stand_in *s = stand_in_of(predictor);
    const uint32_t token = s->routes->step->first_token;
    const uint16_t *named;
    if (s->routes->perfect) {
        named = simulation_choices(s->routes, token, layer);
        uint32_t n = s->routes->model->model.hparams.n_experts_used;
        n = n < max ? n : max;
        for (uint32_t i = 0; i < n; i++)
            out[i] = named[i];
        return n;
    }
    if (!s->inner)
        return 0;
    if (s->ops.gate == PREDICTOR_NO_GATE)
        return s->inner->ops->guess(s->inner, layer, NULL, out, max);
    uint32_t n = simulation_guess(s->routes, token, layer, &named);
    n = n < max ? n : max;
    n = n < TRACE_MAX_RANKS ? n : TRACE_MAX_RANKS;
    for (uint32_t i = 0; i < n; i++)
        s->gate[i] = named[i];
    return n ? s->inner->ops->guess(s->inner, layer, s->gate, out, n) : 0;
}

static int open_inner(struct stand_in *s, const struct simulation_question *question,
                      struct lode_error *error)
{
    const struct gemma_model *model = &s->routes->model->model;
    const struct gemma_hparams *h = &model->hparams;
    uint32_t n_experts[TRACE_MAX_LAYERS];
    for (uint32_t l = 0; l < h->n_layers; l++)
        n_experts[l] = model->layers[l].moe ? h->n_experts : 0;
    const struct predictor_setup setup = {
        .n_layers = h->n_layers, .n_experts = n_experts, .n_used = h->n_experts_used, .heat = question->heat};
    struct lode_error cause = {0};
    int rc = question->predictor->open(&s->inner, &setup, &cause);
    if (rc) {
        s->inner = NULL;
        return lode_fail(error, rc, "%s",
                         cause.text[0] ? cause.text : "a predictor does not open and does not say why");
    }
    for (uint32_t i = 0; i < question->n_fit && !rc; i++)
        rc = predictor_fit(s->inner, question->fit[i], error);
    return rc;
}

int simulation_predictor_open(struct predictor **out, const struct simulation_routes *routes,
                              const struct simulation_question *question, simulation_chosen_fn on_chosen,
                              void *user, struct lode_error *error)
{
    *out = NULL;
    if (!question->predictor && !on_chosen)
        return 0;
    struct stand_in *s = calloc(1, sizeof *s);
    if (!s)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a predictor");
    s->routes = routes;
    s->on_chosen = on_chosen;
    s->user = user;
    s->ops =
        (struct predictor_ops){.name = "simulated",
                               .gate = question->predictor ? question->predictor->gate : PREDICTOR_NO_GATE,
                               .restart = restart,
                               .chosen = chosen,
                               .pass_end = pass_end,
                               .guess = guess};
    s->base.ops = &s->ops;
    *out = &s->base;
    if (!question->predictor || question->predictor == &simulation_perfect_predictor)
        return 0;
    int rc = open_inner(s, question, error);
    if (rc) {
        simulation_predictor_close(*out);
        *out = NULL;
    }
    return rc;
}

void simulation_predictor_close(struct predictor *predictor)
{
    if (!predictor)
        return;
    struct predictor *inner = stand_in_of(predictor)->inner;
    if (inner)
        inner->ops->close(inner);
    free(stand_in_of(predictor));
}

// ---- what is perfect
// -----------------------------------------------------------------------------------------

// Outside of a simulation nobody knows what will be chosen.
static int open_nowhere(struct predictor **out, const struct predictor_setup *setup, struct lode_error *error)
{
    (void)setup;
    *out = NULL;
    return lode_fail(error, LODE_ERR_ARGUMENT, "guesses are perfect in simulations alone");
}

static void close_nothing(struct predictor *predictor)
{
    (void)predictor;
}

static uint32_t guess_nothing(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                              uint32_t max)
{
    (void)predictor, (void)layer, (void)gate, (void)out, (void)max;
    return 0;
}

const struct predictor_ops simulation_perfect_predictor = {
    .name = "perfect",
    .summary = "what the trace will choose: the best that any predictor could do",
    .gate = PREDICTOR_NO_GATE,
    .open = open_nowhere,
    .close = close_nothing,
    .guess = guess_nothing,
};
