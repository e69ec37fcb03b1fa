// Simulations: the steps of a trace, added up by phase; see simulate.h.
#include "core/simulate_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sums {
    struct simulation_result *out;
    const struct simulation_run *run;
    struct simulation_watch *watch;
    uint64_t dense_bytes; // that stay in memory and every pass uses
    uint64_t *decode_ns;  // [n_decode]
    uint32_t n_decode;
};

static double seconds_of(uint64_t ns)
{
    return (double)ns * 1e-9;
}

uint64_t simulation_dense_bytes(const struct simulation_model *model, const struct homes *homes)
{
    const struct unit_table *table = &model->model.units;
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < table->n_units; u++)
        if (homes->home[u] == HOME_PINNED && table->units[u].class != UNIT_EXPERT &&
            table->units[u].class != UNIT_ROWS)
            bytes += table->units[u].bytes;
    return bytes;
}

// Different experts that the step chooses, and their bytes.
static uint64_t chosen_bytes(const struct simulation_run *run, const struct simulation_step *step)
{
    const struct gemma_model *model = &run->model->model;
    const struct trace *t = run->routes.trace;
    uint64_t bytes = 0;
    for (uint32_t m = 0; m < t->n_moe; m++) {
        const struct gemma_layer *layer = &model->layers[t->moe_layer[m]];
        uint64_t seen[TRACE_MAX_EXPERTS / 64] = {0};
        for (uint32_t row = simulation_step_first_row(step, model, t->moe_layer[m]); row < step->n_tokens;
             row++) {
            const uint16_t *e = simulation_choices(&run->routes, step->first_token + row, t->moe_layer[m]);
            for (uint32_t i = 0; i < model->hparams.n_experts_used; i++) {
                const bool again = seen[e[i] / 64] >> (e[i] % 64) & 1;
                seen[e[i] / 64] |= (uint64_t)1 << (e[i] % 64);
                bytes += again ? 0 : model->units.units[layer->first_expert_unit + e[i]].bytes;
            }
        }
    }
    return bytes;
}

static void add_bytes(struct simulation_phase *phase, const struct sums *s,
                      const struct simulation_passed *passed)
{
    const struct residency_figures *a = passed->before, *b = passed->after;
    const uint64_t choices = b->choices - a->choices + b->prefill_choices - a->prefill_choices;
    const uint64_t hits = b->hits - a->hits + b->prefill_hits - a->prefill_hits;
    const uint64_t bytes = choices ? chosen_bytes(s->run, passed->step) : 0;
    const uint64_t late = b->prefetch_late_bytes - a->prefetch_late_bytes;
    const uint64_t useful = b->prefetch_useful_bytes - a->prefetch_useful_bytes;
    phase->choices += choices;
    phase->hits += hits;
    phase->choice_bytes += bytes;
    // Experts of a step are as good as alike.
    phase->hit_bytes += hits == choices ? bytes : (uint64_t)((double)bytes / (double)choices * (double)hits);
    phase->dense_bytes += s->dense_bytes;
    phase->streamed_bytes += b->ring_read_bytes - a->ring_read_bytes;
    phase->row_bytes += b->row_read_bytes - a->row_read_bytes;
    phase->demand_bytes += b->demand_bytes - a->demand_bytes;
    phase->prefetch_bytes += b->guess_bytes - a->guess_bytes;
    phase->late_bytes += late;
    phase->useful_bytes += useful > late ? useful - late : 0;
    phase->drive_busy_s += seconds_of(b->busy_ns - a->busy_ns);
}

static void add_step(void *user, const struct simulation_passed *passed)
{
    static const enum residency_wait waits[SIMULATION_STALLS] = {
        [SIMULATION_STALL_DEMAND] = WAIT_DEMAND,
        [SIMULATION_STALL_LATE] = WAIT_GUESSED,
        [SIMULATION_STALL_STREAM] = WAIT_STREAM,
        [SIMULATION_STALL_ROWS] = WAIT_ROWS,
    };
    struct sums *s = user;
    const struct simulation_step *step = passed->step;
    struct simulation_phase *phase = step->prefill ? &s->out->prefill : &s->out->decode;
    phase->passes++;
    phase->tokens += step->n_tokens;
    phase->seconds += seconds_of(passed->ns);
    phase->kernels_s += seconds_of(passed->times->kernels_ns);
    phase->attention_s += seconds_of(passed->times->attention_ns);
    for (int i = 0; i < SIMULATION_STALLS; i++)
        phase->stall_s[i] +=
            seconds_of(passed->after->stall_ns[waits[i]] - passed->before->stall_ns[waits[i]]);
    add_bytes(phase, s, passed);
    if (!step->prefill)
        s->decode_ns[s->n_decode++] = passed->ns;
    if (s->watch && s->watch->on_step)
        s->watch->on_step(s->watch->user, s->run, passed);
}

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

// The nearest rank.
static double percentile_ms(const uint64_t *sorted, uint32_t n, double share)
{
    const double rank = ceil(share * n);
    return n ? (double)sorted[rank > 1 ? (uint32_t)rank - 1 : 0] * 1e-6 : 0;
}

// What was read on a guess and has not been used.
static void count_wasted(struct simulation_phase *phase)
{
    const uint64_t used = phase->useful_bytes + phase->late_bytes;
    phase->wasted_bytes = phase->prefetch_bytes > used ? phase->prefetch_bytes - used : 0;
}

static void finish(struct sums *s)
{
    struct simulation_phase *decode = &s->out->decode;
    count_wasted(&s->out->prefill);
    count_wasted(decode);
    struct residency_figures figures;
    if (s->n_decode)
        qsort(s->decode_ns, s->n_decode, sizeof *s->decode_ns, ascending);
    decode->p50_ms = percentile_ms(s->decode_ns, s->n_decode, 0.50);
    decode->p95_ms = percentile_ms(s->decode_ns, s->n_decode, 0.95);
    decode->p99_ms = percentile_ms(s->decode_ns, s->n_decode, 0.99);
    residency_count(s->run->residency, &figures);
    s->out->pinned_bytes = figures.pinned_bytes;
    s->out->pool_bytes = figures.pool_bytes;
    s->out->ring_bytes = figures.ring_bytes;
    s->out->pool_slots = figures.pool_slots;
    s->out->n_experts = figures.n_experts;
    s->out->load_bytes = figures.load_bytes;
    s->out->load_s = s->run->has_drive ? seconds_of(s->run->load_ns) : 0;
    s->out->prefetch_on = figures.prefetch_on;
}

int simulation_watched(struct simulation_result *out, const struct simulation_model *model,
                       const struct trace *trace, const struct simulation_question *question,
                       struct simulation_watch *watch, struct lode_error *error)
{
    struct simulation_run run;
    struct sums sums = {.out = out, .run = &run, .watch = watch};
    *out = (struct simulation_result){0};
    int rc = simulation_run_open(&run, model, trace, question, watch ? watch->on_chosen : NULL,
                                 watch ? watch->user : NULL, error);
    if (!rc) {
        sums.dense_bytes = simulation_dense_bytes(model, sim_times_homes(run.times));
        sums.decode_ns = calloc(run.steps.n_decode + 1u, sizeof *sums.decode_ns);
        if (!sums.decode_ns)
            rc =
                lode_fail(error, LODE_ERR_MEMORY, "no memory for the times of %u passes", run.steps.n_decode);
    }
    if (!rc && watch)
        watch->run = &run;
    if (!rc)
        rc = simulation_run_steps(&run, add_step, &sums, error);
    if (!rc)
        finish(&sums);
    free(sums.decode_ns);
    simulation_run_close(&run);
    return rc;
}

int simulate(struct simulation_result *out, const struct simulation_model *model, const struct trace *trace,
             const struct simulation_question *question, struct lode_error *error)
{
    return simulation_watched(out, model, trace, question, NULL, error);
}
