#include "tests/simulate_world.h"

#include "tests/cost_subject.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static uint32_t scramble(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static void choose(uint16_t *out, const struct simulate_shape *s, uint32_t token, uint32_t layer)
{
    for (uint32_t r = 0; r < s->n_used; r++) {
        const uint32_t when = r % 2 ? token : token / 16;
        const double u = scramble(scramble(when * 131 + r + s->seed * 7919) ^ layer) / 4294967296.0;
        uint32_t e = ((uint32_t)(u * u * u * s->n_experts) + 29 * layer) % s->n_experts;
        for (uint32_t i = 0; i < r; i++)
            if (out[i] == e) {
                e = (e + 1) % s->n_experts;
                i = UINT32_MAX; // from the first again
            }
        out[r] = (uint16_t)e;
    }
}

// The choice, then experts that were not chosen.
static void guess(struct trace *t, const struct simulate_shape *s, size_t row)
{
    uint16_t *cells = t->guess_cells + t->n_guess_cells;
    const uint16_t *chosen = t->experts + row * s->n_used;
    uint16_t next = 0;
    t->guess_at[row] = (uint32_t)t->n_guess_cells;
    cells[0] = (uint16_t)s->ranks;
    for (uint32_t r = 0; r < s->ranks; r++) {
        const bool wrong = r >= s->n_used || (!s->right && r % 3 == 2);
        cells[1 + r] = r < s->n_used ? chosen[r] : 0;
        while (wrong) {
            bool taken = false;
            for (uint32_t i = 0; i < s->n_used; i++)
                taken = taken || chosen[i] == next;
            cells[1 + r] = next++;
            if (!taken)
                break;
        }
    }
    t->n_guess_cells += 1 + s->ranks;
}

static void fill_row(struct trace *t, const struct simulate_shape *s, uint32_t token, uint32_t layer,
                     bool left)
{
    const size_t row = (size_t)token * s->n_layers + layer;
    choose(t->experts + row * s->n_used, s, token, layer);
    for (uint32_t i = 0; i < s->n_used; i++)
        t->weights[row * s->n_used + i] = 1.0f / (float)(i + 2);
    if (s->ranks)
        guess(t, s, row);
    if (left)
        memset(t->experts + row * s->n_used, 0xff, s->n_used * sizeof *t->experts);
}

static void add_pass(struct trace *t, const struct simulate_shape *s, uint32_t conversation,
                     uint32_t position, uint32_t n, enum trace_phase phase)
{
    t->passes[t->n_passes] =
        (struct trace_pass){.first_token = t->n_tokens, .n_tokens = n, .phase = phase, .pass_ns = 1000};
    for (uint32_t i = 0; i < n; i++, t->n_tokens++) {
        t->tokens[t->n_tokens] = (struct trace_token){position + i, conversation, t->n_passes};
        for (uint32_t l = 0; l < s->n_layers; l++)
            fill_row(t, s, t->n_tokens, l, s->drops && l + 1 == s->n_layers && i + 1 < n);
    }
    t->n_passes++;
}

void simulate_world_trace(struct trace *out, const struct simulate_shape *s)
{
    const uint32_t n_tokens = s->n_conversations * (s->n_prompt + s->n_decode);
    const size_t n_rows = (size_t)n_tokens * s->n_layers;
    *out = (struct trace){.n_moe = s->n_layers,
                          .n_used = s->n_used,
                          .header = {.known = TRACE_HAS_WEIGHTS, .n_layers = s->n_layers},
                          .n_conversations = s->n_conversations,
                          .tokens = calloc(n_tokens, sizeof *out->tokens),
                          .passes = calloc(n_tokens, sizeof *out->passes),
                          .conversations = calloc(s->n_conversations, sizeof *out->conversations),
                          .experts = calloc(n_rows, s->n_used * sizeof *out->experts),
                          .weights = calloc(n_rows, s->n_used * sizeof *out->weights)};
    strcpy(out->format, s->drops ? "lode" : "csv");
    strcpy(out->header.model, "made up");
    if (s->ranks) {
        out->guess_at = calloc(n_rows, sizeof *out->guess_at);
        out->guess_cells = calloc(n_rows * (1 + s->ranks) + 1, sizeof *out->guess_cells);
        out->n_guess_cells = 1;
        cr_assert(out->guess_at && out->guess_cells);
    }
    cr_assert(out->tokens && out->passes && out->conversations && out->experts && out->weights);
    for (uint32_t l = 0; l < s->n_layers; l++) {
        out->moe_layer[l] = l;
        out->header.layers[l] = (struct trace_layer){s->n_experts, s->n_used, 0};
    }
    for (uint32_t c = 0; c < s->n_conversations; c++) {
        uint32_t position = s->first_position;
        out->conversations[c].first_token = out->n_tokens;
        if (s->n_prompt)
            add_pass(out, s, c, position, s->n_prompt, TRACE_PREFILL);
        position += s->n_prompt;
        for (uint32_t i = 0; i < s->n_decode; i++)
            add_pass(out, s, c, position + i, 1, TRACE_DECODE);
        out->conversations[c].n_tokens = out->n_tokens - out->conversations[c].first_token;
    }
}

struct machine_profile *simulate_world_machine(void)
{
    struct machine_profile *profile = malloc(sizeof *profile);
    cr_assert(profile);
    make_machine(profile, 20, 2);
    profile->cpu.operation_us = 2;
    profile->drives[0].direct_gbps =
        (struct profile_curve){.n_points = 3, .points = {{1, 1, 0}, {4, 1.8, 0}, {16, 2, 0}}};
    return profile;
}

struct simulation_model *simulate_world_model(const char *shape, const struct trace *trace)
{
    struct simulation_model *model;
    struct lode_error error;
    cr_assert_eq(simulation_model_open(&model, NULL, shape, "q4_0", trace, NULL, &error), 0, "%s",
                 error.text);
    return model;
}

struct simulate_shape simulate_world_tiny(uint32_t n_prompt, uint32_t n_decode, uint32_t seed)
{
    return (struct simulate_shape){.n_conversations = 1,
                                   .n_prompt = n_prompt,
                                   .n_decode = n_decode,
                                   .n_layers = 4,
                                   .n_experts = 128,
                                   .n_used = 8,
                                   .drops = true,
                                   .seed = seed};
}

void simulate_world_ask(struct simulation_result *out, const struct simulation_model *model,
                        const struct trace *trace, const struct simulation_question *question)
{
    struct lode_error error = {0};
    cr_assert_eq(simulate(out, model, trace, question, &error), 0, "%s", error.text);
}
