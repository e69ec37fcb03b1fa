// What bounds every policy and predictor on a trace; see placement/bounds.h.
//
// Prompts and what is decoded behind them are bounded one by one, each from the most that can have been in
// memory before: a run may read in its prompt what it decodes with. So the figures of each phase bound that
// phase of any simulation of the same question, and their sums the whole.
#include "core/simulate_internal.h"
#include "placement/bounds.h"
#include "placement/layout.h"

#include <stdlib.h>
#include <string.h>

struct bounds {
    const struct simulation_model *model;
    struct simulation_steps steps;
    struct trace copy; // of the steps alone, each a pass; its arrays are its own
    double *compute_s, *end_s;
    uint64_t *loads, *bytes;
    uint64_t expert_bytes;     // of the smallest
    uint64_t streamed[2];      // in a pass that nobody wants logits of, and in others
    const struct homes *homes; // of times
    uint64_t dense_bytes;
    double rate; // bytes a second
    uint32_t slots;
};

// Choices that the engine is not asked for are left out.
static void copy_step(struct bounds *b, const struct trace *trace, const struct simulation_step *step,
                      uint32_t index)
{
    struct trace *t = &b->copy;
    t->passes[index] = (struct trace_pass){.first_token = t->n_tokens,
                                           .n_tokens = step->n_tokens,
                                           .phase = step->prefill ? TRACE_PREFILL : TRACE_DECODE};
    for (uint32_t row = 0; row < step->n_tokens; row++, t->n_tokens++) {
        const size_t n = (size_t)t->n_moe * t->n_used;
        t->tokens[t->n_tokens] = (struct trace_token){.position = step->position + row, .pass = index};
        memcpy(t->experts + t->n_tokens * n, trace->experts + (step->first_token + row) * n,
               n * sizeof *t->experts);
        for (uint32_t m = 0; m < t->n_moe; m++)
            if (row < simulation_step_first_row(step, &b->model->model, t->moe_layer[m]))
                memset(t->experts + t->n_tokens * n + (size_t)m * t->n_used, 0xff,
                       t->n_used * sizeof *t->experts);
    }
}

static int copy_steps(struct bounds *b, const struct trace *trace, struct lode_error *error)
{
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < b->steps.n_steps; i++)
        n_tokens += b->steps.steps[i].n_tokens;
    const uint32_t n_steps = b->steps.n_steps;
    struct trace *t = &b->copy;
    *t = (struct trace){.header = trace->header,
                        .n_moe = trace->n_moe,
                        .n_used = trace->n_used,
                        .n_passes = n_steps,
                        .n_conversations = 1};
    memcpy(t->moe_layer, trace->moe_layer, sizeof t->moe_layer);
    t->tokens = calloc(n_tokens + 1u, sizeof *t->tokens);
    t->passes = calloc(n_steps + 1u, sizeof *t->passes);
    t->conversations = calloc(1, sizeof *t->conversations);
    t->experts = calloc((size_t)n_tokens * t->n_moe + 1u, t->n_used * sizeof *t->experts);
    b->compute_s = calloc(n_steps + 1u, sizeof *b->compute_s);
    b->end_s = calloc(n_steps + 1u, sizeof *b->end_s);
    b->loads = calloc(n_steps + 1u, sizeof *b->loads);
    b->bytes = calloc(n_steps + 1u, sizeof *b->bytes);
    if (!t->tokens || !t->passes || !t->conversations || !t->experts || !b->compute_s || !b->end_s ||
        !b->loads || !b->bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the bounds of %u passes", n_steps);
    t->conversations[0].n_tokens = n_tokens;
    for (uint32_t i = 0; i < n_steps; i++)
        copy_step(b, trace, &b->steps.steps[i], i);
    return 0;
}

static void bounds_free(struct bounds *b)
{
    free(b->copy.tokens);
    free(b->copy.passes);
    free(b->copy.conversations);
    free(b->copy.experts);
    free(b->compute_s);
    free(b->end_s);
    free(b->loads);
    free(b->bytes);
    simulation_steps_free(&b->steps);
}

// ---- the least of each step
// ----------------------------------------------------------------------------------

// Operations are rounded to nanoseconds one by one, and experts may come in one call or in several.
static void take_compute(void *user, const struct simulation_run *run, const struct simulation_passed *passed)
{
    (void)run;
    struct bounds *b = user;
    const double s = ((double)passed->device_ns - (double)passed->device_calls) * 1e-9;
    b->compute_s[passed->index] = s > 0 ? s : 0;
}

// Units behind the last layer that writes K and V are not needed by a pass without wanted rows.
static void count_streamed(struct bounds *b)
{
    const struct gemma_model *model = &b->model->model;
    for (uint32_t u = 0; u < model->units.n_units; u++) {
        const struct unit *unit = &model->units.units[u];
        if (b->homes->home[u] != HOME_RING)
            continue;
        b->streamed[1] += unit->bytes;
        b->streamed[0] += unit->layer < model->last_kv_layer ? unit->bytes : 0;
    }
}

static uint64_t smallest_expert(const struct simulation_model *model)
{
    const struct unit_table *table = &model->model.units;
    uint64_t least = UINT64_MAX;
    for (uint32_t u = 0; u < table->n_units; u++)
        if (table->units[u].class == UNIT_EXPERT && table->units[u].bytes < least)
            least = table->units[u].bytes;
    return least;
}

// The fastest that the drive is anywhere on its curve; what waits alone has all of it.
static double best_rate(const struct sim_times *times)
{
    struct io_sim_drive drive;
    double gbps = 0;
    sim_times_drive(&drive, times);
    for (uint32_t i = 0; i < drive.n_points; i++)
        gbps = drive.points[i].gbps > gbps ? drive.points[i].gbps : gbps;
    return gbps * 1e9;
}

// ---- phases
// --------------------------------------------------------------------------------------------------

static uint64_t choices_of(const struct bounds *b, uint32_t index)
{
    const struct trace *t = &b->copy;
    const struct trace_pass *pass = &t->passes[index];
    uint64_t choices = 0;
    for (uint32_t m = 0; m < t->n_moe; m++) {
        uint64_t seen[TRACE_MAX_EXPERTS / 64] = {0};
        for (uint32_t i = pass->first_token; i < pass->first_token + pass->n_tokens; i++)
            for (uint32_t j = 0; j < t->n_used; j++) {
                const uint16_t e = t->experts[((size_t)i * t->n_moe + m) * t->n_used + j];
                if (e == TRACE_NO_EXPERT)
                    break;
                choices += !(seen[e / 64] >> (e % 64) & 1);
                seen[e / 64] |= (uint64_t)1 << (e % 64);
            }
    }
    return choices;
}

// Steps [first, end) are of one phase.
static int bound_steps(struct simulation_phase *phase, struct bounds *b, uint32_t first, uint32_t end,
                       bool warm, uint64_t ring_bytes, struct lode_error *error)
{
    const uint32_t n = end - first;
    const struct bound_request request = {
        .first_pass = first, .n_passes = n, .slots = b->slots, .warm = warm};
    int rc = b->slots ? bound_loads(b->loads, &request, &b->copy, error) : 0;
    if (rc)
        return rc;
    uint64_t streamed = 0, choices = 0;
    for (uint32_t i = 0; i < n; i++) {
        streamed += b->streamed[b->steps.steps[first + i].want > 0];
        b->bytes[i] = (b->slots ? b->loads[i] * b->expert_bytes : 0) +
                      (streamed > ring_bytes ? streamed - ring_bytes : 0); // the ring may be full before
        phase->tokens += b->steps.steps[first + i].n_tokens;
        choices += choices_of(b, first + i);
    }
    bound_times(b->end_s, b->bytes, b->compute_s + first, n, b->rate);
    const uint64_t loads = b->slots ? b->loads[n - 1] : 0;
    phase->passes += n;
    phase->dense_bytes += n * b->dense_bytes;
    phase->seconds += b->end_s[n - 1];
    phase->choices += choices;
    phase->hits += choices > loads ? choices - loads : 0;
    phase->choice_bytes += choices * b->expert_bytes;
    phase->hit_bytes += (choices > loads ? choices - loads : 0) * b->expert_bytes;
    phase->demand_bytes += loads * b->expert_bytes;
    phase->streamed_bytes += streamed > ring_bytes ? streamed - ring_bytes : 0;
    return 0;
}

static int bound_phases(struct simulation_result *out, struct bounds *b, bool warm, struct lode_error *error)
{
    const struct simulation_step *steps = b->steps.steps;
    int rc = 0;
    for (uint32_t first = 0, end; first < b->steps.n_steps && !rc; first = end) {
        for (end = first + 1; end < b->steps.n_steps && steps[end].prefill == steps[first].prefill; end++)
            continue;
        rc = bound_steps(steps[first].prefill ? &out->prefill : &out->decode, b, first, end,
                         warm || first > 0, b->homes->ring_bytes, error);
    }
    return rc;
}

static uint32_t count_slots(const struct simulation_model *model, const struct homes *homes)
{
    uint64_t smallest = UINT64_MAX;
    for (uint32_t u = 0; u < model->model.units.n_units; u++)
        if (homes->home[u] == HOME_POOL) {
            const uint64_t bytes = layout_unit_bytes(&model->model.units, u, true);
            smallest = bytes < smallest ? bytes : smallest;
        }
    return homes->pool_bytes ? (uint32_t)(homes->pool_bytes / smallest) : 0;
}

int simulate_bounds(struct simulation_result *out, const struct simulation_model *model,
                    const struct trace *trace, const struct simulation_question *question,
                    struct lode_error *error)
{
    struct bounds b = {.model = model};
    struct simulation_result alone;
    struct simulation_question all = *question; // that has everything in memory
    struct simulation_watch watch = {.on_step = take_compute, .user = &b};
    struct sim_times *times;
    *out = (struct simulation_result){0};
    all.weights_bytes = 0;
    all.predictor = NULL;
    all.heat = NULL;
    int rc = simulation_times_open(&times, model, question, error);
    if (rc)
        return rc;
    b.homes = sim_times_homes(times);
    b.slots = count_slots(model, b.homes);
    b.expert_bytes = model->n_experts ? smallest_expert(model) : 0;
    b.dense_bytes = simulation_dense_bytes(model, b.homes);
    b.rate = best_rate(times);
    count_streamed(&b);
    rc = simulation_steps_make(&b.steps, model, trace, question->batch ? question->batch : SIMULATION_BATCH,
                               error);
    if (!rc)
        rc = copy_steps(&b, trace, error);
    if (!rc)
        rc = simulation_watched(&alone, model, trace, &all, &watch, error);
    if (!rc)
        rc = bound_phases(out, &b, question->heat != NULL, error);
    out->pinned_bytes = b.homes->pinned_bytes;
    out->pool_bytes = b.homes->pool_bytes;
    out->ring_bytes = b.homes->ring_bytes;
    out->pool_slots = b.slots;
    out->n_experts = model->n_experts;
    sim_times_close(times);
    bounds_free(&b);
    return rc;
}
