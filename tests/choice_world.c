#include "tests/choice_world.h"

#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static uint32_t below(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(trace_random(seed) % n);
}

static void make_layers(struct trace *trace, const struct choice_shape *shape)
{
    trace->n_moe = shape->n_moe;
    trace->n_used = shape->n_used;
    trace->header.n_layers = 2 * shape->n_moe;
    cr_assert_leq(trace->header.n_layers, TRACE_MAX_LAYERS);
    for (uint32_t m = 0; m < shape->n_moe; m++) {
        const bool small = shape->unlike && m % 2 && shape->n_experts / 2 >= shape->n_used;
        trace->moe_layer[m] = 2 * m;
        trace->header.layers[2 * m] = (struct trace_layer){.n_experts = shape->n_experts / (small ? 2 : 1),
                                                           .n_used = shape->n_used,
                                                           .expert_bytes = 1000 + m};
    }
}

static void allocate(struct trace *trace, uint32_t n_tokens)
{
    const size_t n_cells = (size_t)n_tokens * trace->n_moe * trace->n_used + 1;
    trace->experts = malloc(n_cells * sizeof *trace->experts);
    trace->weights = calloc(n_cells, sizeof *trace->weights);
    trace->tokens = calloc(n_tokens + 1u, sizeof *trace->tokens);
    trace->passes = calloc(n_tokens + 1u, sizeof *trace->passes);
    trace->conversations = calloc(n_tokens + 1u, sizeof *trace->conversations);
    cr_assert(trace->experts && trace->weights && trace->tokens && trace->passes && trace->conversations);
    memset(trace->experts, 0xff, n_cells * sizeof *trace->experts);
}

static void make_row(struct trace *trace, const struct choice_shape *shape, size_t row, uint64_t *seed)
{
    const uint32_t n_experts = trace->header.layers[trace->moe_layer[row % trace->n_moe]].n_experts;
    uint16_t *experts = trace->experts + row * trace->n_used;
    const uint32_t n = shape->gaps && below(seed, 4) == 0 ? below(seed, trace->n_used + 1) : trace->n_used;
    for (uint32_t i = 0; i < n; i++) {
        bool again = true;
        while (again) {
            experts[i] = (uint16_t)below(seed, shape->uniform ? n_experts : 1 + below(seed, n_experts));
            again = false;
            for (uint32_t j = 0; j < i; j++)
                again |= experts[j] == experts[i];
        }
        trace->weights[row * trace->n_used + i] = (float)below(seed, 1000) / 1000;
    }
}

static void add_token(struct trace *trace, bool opens_conversation, bool opens_pass)
{
    trace->n_conversations += opens_conversation;
    trace->n_passes += opens_pass;
    struct trace_conversation *conversation = &trace->conversations[trace->n_conversations - 1];
    struct trace_pass *pass = &trace->passes[trace->n_passes - 1];
    if (opens_conversation)
        conversation->first_token = trace->n_tokens;
    if (opens_pass)
        pass->first_token = trace->n_tokens;
    trace->tokens[trace->n_tokens++] = (struct trace_token){
        .position = conversation->n_tokens++,
        .conversation = trace->n_conversations - 1,
        .pass = trace->n_passes - 1,
    };
    pass->phase = ++pass->n_tokens > 1 ? TRACE_PREFILL : TRACE_DECODE;
}

void choice_world_make(struct trace *out, const struct choice_shape *shape, uint64_t seed)
{
    memset(out, 0, sizeof *out);
    make_layers(out, shape);
    allocate(out, shape->n_tokens);
    uint32_t left = 0; // of the pass
    for (uint32_t t = 0; t < shape->n_tokens; t++) {
        const bool opens_conversation =
            t == 0 || (shape->conversation_tokens && below(&seed, shape->conversation_tokens) == 0);
        const bool opens_pass = left == 0 || opens_conversation;
        if (opens_pass)
            left = shape->pass_tokens ? 1 + below(&seed, shape->pass_tokens) : 1;
        left--;
        add_token(out, opens_conversation, opens_pass);
        for (uint32_t m = 0; m < out->n_moe; m++)
            make_row(out, shape, (size_t)t * out->n_moe + m, &seed);
    }
}

void choice_world_copy(struct trace *out, const struct trace *trace, bool (*keep)(uint32_t conversation))
{
    const size_t row_cells = (size_t)trace->n_moe * trace->n_used;
    memset(out, 0, sizeof *out);
    out->header = trace->header;
    out->n_moe = trace->n_moe;
    out->n_used = trace->n_used;
    memcpy(out->moe_layer, trace->moe_layer, sizeof out->moe_layer);
    allocate(out, trace->n_tokens);
    uint32_t last = UINT32_MAX;
    for (uint32_t t = 0; t < trace->n_tokens; t++) {
        if (!keep(trace->tokens[t].conversation))
            continue;
        memcpy(out->experts + out->n_tokens * row_cells, trace->experts + t * row_cells,
               row_cells * sizeof *out->experts);
        memcpy(out->weights + out->n_tokens * row_cells, trace->weights + t * row_cells,
               row_cells * sizeof *out->weights);
        add_token(out, trace->tokens[t].conversation != last, true);
        last = trace->tokens[t].conversation;
    }
}

uint32_t choice_world_experts(const struct trace *trace)
{
    uint32_t n = 0;
    for (uint32_t m = 0; m < trace->n_moe; m++)
        n += trace->header.layers[trace->moe_layer[m]].n_experts;
    return n;
}
