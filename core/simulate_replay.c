// A trace's own run again: as its header says the run was set, held against what it recorded.
#include "core/simulate_internal.h"
#include "placement/policy_plugin.h"
#include "placement/predictor_plugin.h"
#include "placement/trace_settings.h"

#include <stdlib.h>
#include <string.h>

struct comparison {
    struct simulation_replay *out;
    const struct simulation_model *model;
    const struct trace *trace;
    struct simulation_watch watch;
    const struct simulation_step *step; // of the last row, with its layer
    uint32_t layer, row;
};

static size_t row_index(const struct comparison *c, uint32_t token, uint32_t layer)
{
    const struct simulation_routes *routes = &c->watch.run->routes;
    return (size_t)token * c->trace->n_moe + routes->moe_of[layer];
}

// Rows of a layer come one after the other. What a row found in memory is what the residency has now: nothing
// has come since it was asked.
static void compare_row(void *user, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct comparison *c = user;
    const struct simulation_run *run = c->watch.run;
    const struct simulation_step *step = run->routes.step;
    if (step != c->step || layer != c->layer) {
        c->step = step;
        c->layer = layer;
        c->row = simulation_step_first_row(step, &c->model->model, layer);
    }
    const size_t row = row_index(c, step->first_token + c->row++, layer);
    const uint32_t first_unit = c->model->model.layers[layer].first_expert_unit;
    uint64_t resident = 0;
    for (uint32_t i = 0; i < n; i++)
        resident |= (uint64_t)residency_has(run->residency, first_unit + (uint32_t)experts[i]) << i;
    if (c->trace->resident && c->trace->resident[row] != resident && row < c->out->first_difference)
        c->out->first_difference = row;
}

// Different experts of a step in a layer, as the residency counts.
static void count_live(void *user, const struct simulation_run *run, const struct simulation_passed *passed)
{
    struct comparison *c = user;
    const struct trace *t = c->trace;
    const struct simulation_step *step = passed->step;
    for (uint32_t m = 0; m < t->n_moe; m++) {
        uint64_t seen[TRACE_MAX_EXPERTS / 64] = {0};
        for (uint32_t r = simulation_step_first_row(step, &c->model->model, t->moe_layer[m]);
             r < step->n_tokens; r++) {
            const uint32_t token = step->first_token + r;
            const uint16_t *e = simulation_choices(&run->routes, token, t->moe_layer[m]);
            const uint64_t resident = t->resident ? t->resident[(size_t)token * t->n_moe + m] : 0;
            for (uint32_t i = 0; i < t->n_used; i++) {
                const bool again = seen[e[i] / 64] >> (e[i] % 64) & 1;
                seen[e[i] / 64] |= (uint64_t)1 << (e[i] % 64);
                c->out->live_choices += !again;
                c->out->live_hits += !again && (resident >> i & 1);
            }
        }
    }
}

static void count_reads(struct simulation_replay *out, const struct trace *t)
{
    for (uint64_t i = 0; i < t->n_reads; i++) {
        const struct trace_read_done *read = &t->reads[i];
        if (read->pass == UINT32_MAX || read->kind == TRACE_READ_FILL)
            continue;
        out->live_reads++;
        out->live_bytes += read->bytes;
    }
    for (uint32_t p = 0; p < t->n_passes; p++) {
        const enum trace_phase phase = t->passes[p].phase;
        if (phase == TRACE_DECODE || (phase == TRACE_PHASE_UNKNOWN && t->passes[p].n_tokens == 1))
            out->live_decode_s += (double)t->passes[p].pass_ns * 1e-9;
    }
}

// ---- as it was set
// -------------------------------------------------------------------------------------------

static int read_kv(int *out, const char *name, struct lode_error *error)
{
    static const char *const names[] = {
        [LODE_KV_F16] = "f16", [LODE_KV_Q8_0] = "q8_0", [LODE_KV_F32] = "f32"};
    for (int kv = LODE_KV_F16; kv <= LODE_KV_F32; kv++)
        if (!name[0] || strcmp(name, names[kv]) == 0) {
            *out = kv;
            return 0;
        }
    return lode_fail(error, LODE_ERR_FORMAT, "the settings of the trace name a KV cache of type '%s'", name);
}

struct plugins {
    struct policy_plugin *policy;
    struct predictor_plugin *predictor;
};

static int open_named(struct simulation_question *q, struct plugins *plugins,
                      const struct trace_settings *settings, struct lode_error *error)
{
    int rc = 0;
    if (!settings->policy[0]) // a path that has spaces, say
        rc = lode_fail(error, LODE_ERR_ARGUMENT, "the trace does not name the policy of its run");
    else
        rc = policy_open_named(&q->policy, &plugins->policy, settings->policy, error);
    const bool prefetches = settings->weights_bytes > 0; // otherwise nothing is ever missing
    if (!rc && prefetches && settings->predictor[0] && strcmp(settings->predictor, "none") != 0)
        rc = predictor_plugin_open_named(&q->predictor, &plugins->predictor, settings->predictor, error);
    return rc;
}

int simulate_replay(struct simulation_replay *out, const struct simulation_model *model,
                    const struct trace *trace, const struct machine_profile *profile,
                    struct lode_error *error)
{
    struct comparison c = {.out = out, .model = model, .trace = trace};
    struct trace_settings settings;
    struct plugins plugins = {0};
    *out = (struct simulation_replay){.first_difference = UINT64_MAX};
    if (!trace->header.options[0])
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the trace does not tell how its run was set, so that it cannot be run again");
    int rc = trace_settings_read(&settings, trace->header.options, error);
    if (rc)
        return rc;
    struct simulation_question question = {.profile = profile,
                                           .threads = settings.threads,
                                           .weights_bytes = settings.weights_bytes,
                                           .context = settings.context,
                                           .batch = settings.batch,
                                           .prefetch_ranks = settings.prefetch_ranks,
                                           .queue_depth = settings.queue_depth,
                                           .ring_bytes = settings.ring_bytes};
    c.watch = (struct simulation_watch){.on_chosen = compare_row, .on_step = count_live, .user = &c};
    rc = read_kv(&question.kv, settings.kv, error);
    if (!rc)
        rc = open_named(&question, &plugins, &settings, error);
    if (!rc)
        rc = simulation_watched(&out->result, model, trace, &question, &c.watch, error);
    policy_plugin_close(plugins.policy);
    predictor_plugin_close(plugins.predictor);
    if (rc)
        return rc;
    count_reads(out, trace);
    const struct simulation_phase *phases[] = {&out->result.prefill, &out->result.decode};
    for (size_t i = 0; i < 2; i++) {
        out->replay_hits += phases[i]->hits;
        out->replay_bytes += phases[i]->demand_bytes + phases[i]->prefetch_bytes;
    }
    out->replay_decode_s = out->result.decode.seconds;
    return 0;
}
