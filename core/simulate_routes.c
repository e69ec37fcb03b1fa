// What routers answer in a simulation: the choices of the trace, and its guesses of prompts. Guesses of
// single tokens go by the predictor (simulate_guesses.c).
#include "core/simulate_internal.h"

#include <inttypes.h>

void simulation_routes_init(struct simulation_routes *out, const struct simulation_model *model,
                            const struct trace *trace)
{
    *out = (struct simulation_routes){.model = model, .trace = trace};
    for (uint32_t m = 0; m < trace->n_moe; m++)
        out->moe_of[trace->moe_layer[m]] = m;
}

static size_t row_of(const struct simulation_routes *r, uint32_t token, uint32_t layer)
{
    return (size_t)token * r->trace->n_moe + r->moe_of[layer];
}

const uint16_t *simulation_choices(const struct simulation_routes *r, uint32_t token, uint32_t layer)
{
    return r->trace->experts + row_of(r, token, layer) * r->trace->n_used;
}

uint32_t simulation_guess(const struct simulation_routes *r, uint32_t token, uint32_t layer,
                          const uint16_t **out)
{
    return trace_row_guess(r->trace, row_of(r, token, layer), out);
}

// Rows that have left the pass when the layer chooses need nothing there: what a perfect guess says of them
// is what others choose, of this step or of the next one that does.
static uint32_t token_that_chooses(const struct simulation_routes *r, uint32_t row, uint32_t layer)
{
    const struct gemma_model *model = &r->model->model;
    for (const struct simulation_step *step = r->step; step < r->end; step++) {
        const uint32_t first = simulation_step_first_row(step, model, layer);
        if (first < step->n_tokens)
            return step->first_token + (step == r->step && row > first ? row : first);
    }
    return UINT32_MAX;
}

// Ranks beyond the guess repeat its first, which changes nothing: it is named first already.
static void guess_row(const struct simulation_routes *r, uint32_t row, uint32_t layer, uint32_t k,
                      int32_t *ids)
{
    const uint32_t token = r->perfect ? token_that_chooses(r, row, layer) : r->step->first_token + row;
    const uint16_t *named = NULL;
    uint32_t n = 0;
    if (token != UINT32_MAX && r->perfect) {
        named = simulation_choices(r, token, layer);
        n = r->model->model.hparams.n_experts_used;
    } else if (token != UINT32_MAX) {
        n = simulation_guess(r, token, layer, &named);
    }
    for (uint32_t i = 0; i < k; i++)
        ids[i] = n ? named[i < n ? i : 0] : 0;
}

static void choose_row(const struct simulation_routes *r, uint32_t row, uint32_t layer, uint32_t k,
                       int32_t *ids, float *weights)
{
    const size_t at = row_of(r, r->step->first_token + row, layer);
    const struct trace *t = r->trace;
    for (uint32_t i = 0; i < k; i++) {
        ids[i] = t->experts[at * t->n_used + i];
        weights[i] = t->weights ? t->weights[at * t->n_used + i] : 1.0f / (float)k;
    }
}

int simulation_route(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                     struct lode_error *error)
{
    const struct simulation_routes *r = user;
    const struct simulation_step *step = r->step;
    const bool guess = route->n_attended == 0 || route->n_routed > 0;
    const uint32_t layer = guess ? route->n_attended : route->n_attended - 1;
    const uint32_t n_used = r->model->model.hparams.n_experts_used;
    if (layer >= r->model->model.hparams.n_layers || !r->model->model.layers[layer].moe ||
        route->n_rows > step->n_tokens || (!guess && route->k != n_used))
        return lode_fail(error, LODE_ERR_FORMAT,
                         "a router of layer %" PRIu32 " was asked for %" PRIu32 " of %" PRIu32
                         " rows, which the trace does not have",
                         layer, route->k, route->n_rows);
    for (uint32_t i = 0; i < route->n_rows; i++) {
        const uint32_t row = step->n_tokens - route->n_rows + i;
        if (guess) {
            guess_row(r, row, layer, route->k, ids + (size_t)i * route->k);
            for (uint32_t j = 0; j < route->k; j++)
                weights[(size_t)i * route->k + j] = 1.0f / (float)route->k;
        } else {
            choose_row(r, row, layer, route->k, ids + (size_t)i * route->k, weights + (size_t)i * route->k);
        }
    }
    return 0;
}
