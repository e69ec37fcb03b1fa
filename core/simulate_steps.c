// The steps of a trace, as the engine would be asked for them.
//
// Passes are as the trace has them; those of more tokens than the batch are cut. Positions are the trace's.
// Of a prompt the logits of the last token are wanted, or of those rows that have choices in the layers
// behind the last that writes K and V: a run records no choices there for rows that have left the pass, other
// programs record all.
#include "core/simulate_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint32_t simulation_step_first_row(const struct simulation_step *step, const struct gemma_model *model,
                                   uint32_t layer)
{
    return layer < model->last_kv_layer ? 0 : step->n_tokens - step->want;
}

static uint32_t count_choices(const struct trace *trace, uint32_t token, uint32_t m, uint32_t n_experts)
{
    const uint16_t *experts = trace->experts + ((size_t)token * trace->n_moe + m) * trace->n_used;
    uint32_t n = 0;
    while (n < trace->n_used && experts[n] < n_experts)
        n++;
    return n;
}

struct maker {
    struct simulation_steps *out;
    const struct simulation_model *model;
    const struct trace *trace;
    uint32_t capacity;
    bool own; // the trace is of this program
};

// Rows at the end of the step that have choices wherever wanted rows are asked for them.
static uint32_t count_wanted(const struct maker *k, const struct simulation_step *step)
{
    const struct trace *t = k->trace;
    for (uint32_t n = 0; n < step->n_tokens; n++) {
        const uint32_t token = step->first_token + step->n_tokens - 1 - n;
        for (uint32_t m = 0; m < t->n_moe; m++)
            if (t->moe_layer[m] >= k->model->model.last_kv_layer &&
                !count_choices(t, token, m, t->header.layers[t->moe_layer[m]].n_experts))
                return n;
    }
    return step->n_tokens;
}

static bool tells_wanted(const struct maker *k)
{
    const struct trace *t = k->trace;
    return k->own && t->n_moe > 0 && t->moe_layer[t->n_moe - 1] >= k->model->model.last_kv_layer;
}

static void find_wanted(const struct maker *k, struct simulation_step *step, bool last_of_prompt)
{
    if (step->n_tokens == 1 && !step->prefill)
        step->want = 1;
    else if (tells_wanted(k))
        step->want = count_wanted(k, step);
    else
        step->want = !step->prefill ? step->n_tokens : last_of_prompt;
}

static int check_rows(const struct maker *k, const struct simulation_step *step, struct lode_error *error)
{
    const struct trace *t = k->trace;
    const uint32_t n_used = k->model->model.hparams.n_experts_used;
    for (uint32_t m = 0; m < t->n_moe; m++) {
        const uint32_t layer = t->moe_layer[m], n_experts = t->header.layers[layer].n_experts;
        for (uint32_t row = simulation_step_first_row(step, &k->model->model, layer); row < step->n_tokens;
             row++) {
            const uint32_t token = step->first_token + row, n = count_choices(t, token, m, n_experts);
            if (n < n_used)
                return lode_fail(
                    error, LODE_ERR_FORMAT,
                    "token %" PRIu32 " of the trace (conversation %" PRIu32 ", position %" PRIu32
                    ") has %" PRIu32 " choices in layer %" PRIu32 ", where the model makes %" PRIu32,
                    token, t->tokens[token].conversation, t->tokens[token].position, n, layer, n_used);
        }
    }
    return 0;
}

// Layers of which all experts were in memory were not guessed; then nothing is known of the others' worth.
static bool has_guesses(const struct maker *k, const struct simulation_step *step)
{
    const struct trace *t = k->trace;
    const uint16_t *cells;
    if (!t->guess_at)
        return false;
    for (uint32_t m = 0; m < t->n_moe; m++)
        for (uint32_t row = 0; row < step->n_tokens; row++)
            if (trace_row_guess(t, (size_t)(step->first_token + row) * t->n_moe + m, &cells) <
                k->model->model.hparams.n_experts_used)
                return false;
    return true;
}

static bool has_any_guess(const struct trace *t, uint32_t token)
{
    for (uint32_t m = 0; m < t->n_moe && t->guess_at; m++)
        if (t->guess_at[(size_t)token * t->n_moe + m])
            return true;
    return false;
}

static int add_step(struct maker *k, const struct simulation_step *step, struct lode_error *error)
{
    struct simulation_steps *out = k->out;
    if (out->n_steps == k->capacity) {
        k->capacity = 2 * k->capacity + 64;
        struct simulation_step *steps = realloc(out->steps, k->capacity * sizeof *steps);
        if (!steps)
            return lode_fail(error, LODE_ERR_MEMORY,
                             "no memory for the steps of a trace of %" PRIu32 " passes", k->trace->n_passes);
        out->steps = steps;
    }
    out->steps[out->n_steps++] = *step;
    const uint32_t end = step->position + step->n_tokens;
    out->context = end > out->context ? end : out->context;
    out->batch = step->n_tokens > out->batch ? step->n_tokens : out->batch;
    out->n_decode += !step->prefill;
    out->has_guesses =
        out->has_guesses || (step->n_tokens == 1 && has_any_guess(k->trace, step->first_token));
    return 0;
}

static bool is_prefill(const struct trace_pass *pass)
{
    return pass->phase == TRACE_PREFILL || (pass->phase == TRACE_PHASE_UNKNOWN && pass->n_tokens > 1);
}

static bool ends_prompt(const struct trace *t, uint32_t p)
{
    if (p + 1 == t->n_passes || !is_prefill(&t->passes[p + 1]))
        return true;
    return t->tokens[t->passes[p + 1].first_token].conversation !=
           t->tokens[t->passes[p].first_token].conversation;
}

static int add_pass(struct maker *k, uint32_t p, uint32_t batch, bool begins, struct lode_error *error)
{
    const struct trace *t = k->trace;
    const struct trace_pass *pass = &t->passes[p];
    const uint32_t limit = k->model->model.hparams.context_limit;
    int rc = 0;
    for (uint32_t done = 0, n; done < pass->n_tokens && !rc; done += n) {
        n = pass->n_tokens - done < batch ? pass->n_tokens - done : batch;
        struct simulation_step step = {.first_token = pass->first_token + done,
                                       .n_tokens = n,
                                       .position = t->tokens[pass->first_token + done].position,
                                       .begins = begins && done == 0,
                                       .prefill = is_prefill(pass)};
        if (step.position >= limit || n > limit - step.position)
            return lode_fail(error, LODE_ERR_CONTEXT,
                             "the trace has a token at position %" PRIu32
                             ", beyond the model's limit of %" PRIu32,
                             step.position, limit);
        find_wanted(k, &step, done + n == pass->n_tokens && ends_prompt(t, p));
        step.guesses = has_guesses(k, &step);
        rc = check_rows(k, &step, error);
        if (!rc)
            rc = add_step(k, &step, error);
    }
    return rc;
}

// As it was when the model was opened for it.
static int check_model(const struct simulation_model *m, const struct trace *t, struct lode_error *error)
{
    const struct gemma_hparams *h = &m->model.hparams;
    bool same = t->header.n_layers == h->n_layers && t->n_used == h->n_experts_used;
    for (uint32_t l = 0; l < h->n_layers && same; l++)
        same = t->header.layers[l].n_experts == (m->model.layers[l].moe ? h->n_experts : 0);
    return same ? 0
                : lode_fail(error, LODE_ERR_ARGUMENT,
                            "the model was opened for another trace: layers, experts or choices differ");
}

int simulation_steps_make(struct simulation_steps *out, const struct simulation_model *model,
                          const struct trace *trace, uint32_t batch, struct lode_error *error)
{
    struct maker maker = {
        .out = out, .model = model, .trace = trace, .own = strcmp(trace->format, "lode") == 0};
    uint32_t before = UINT32_MAX;
    *out = (struct simulation_steps){0};
    int rc = check_model(model, trace, error);
    for (uint32_t p = 0; p < trace->n_passes && !rc; p++) {
        if (!trace->passes[p].n_tokens)
            continue;
        const uint32_t c = trace->tokens[trace->passes[p].first_token].conversation;
        if (c < trace->n_conversations && trace->conversations[c].part == TRACE_PART_FIT)
            continue;
        rc = add_pass(&maker, p, batch, c != before, error);
        before = c;
    }
    if (!rc && !out->n_steps)
        rc = lode_fail(error, LODE_ERR_ARGUMENT,
                       "the trace has no tokens to replay: all of its conversations are for fitting");
    if (rc)
        simulation_steps_free(out);
    return rc;
}

void simulation_steps_free(struct simulation_steps *steps)
{
    free(steps->steps);
    *steps = (struct simulation_steps){0};
}
