// Figures of single simulations, and their medians over traces.
#include "tools/sim.h"

#include <stdlib.h>

static const char *const measure_names[SIM_MEASURES] = {
    [SIM_HIT_RATE] = "hit_rate",
    [SIM_HIT_RATE_BYTES] = "hit_rate_bytes",
    [SIM_DECODE_TOK_S] = "decode_tok_s",
    [SIM_PREFILL_TOK_S] = "prefill_tok_s",
    [SIM_DEMAND_BYTES] = "demand_bytes_per_token",
    [SIM_PREFETCH_BYTES] = "prefetch_bytes_per_token",
    [SIM_USEFUL_SHARE] = "useful_share",
    [SIM_LATE_SHARE] = "late_share",
    [SIM_WASTED_SHARE] = "wasted_share",
    [SIM_STALL_SHARE] = "stall_share",
    [SIM_STALL_DEMAND_SHARE] = "stall_demand_share",
    [SIM_STALL_LATE_SHARE] = "stall_late_share",
    [SIM_STALL_STREAM_SHARE] = "stall_stream_share",
    [SIM_STALL_ROWS_SHARE] = "stall_rows_share",
    [SIM_P50_MS] = "p50_ms",
    [SIM_P95_MS] = "p95_ms",
    [SIM_P99_MS] = "p99_ms",
};

const char *const sim_stall_names[SIMULATION_STALLS] = {
    [SIMULATION_STALL_DEMAND] = "demand",
    [SIMULATION_STALL_LATE] = "late",
    [SIMULATION_STALL_STREAM] = "stream",
    [SIMULATION_STALL_ROWS] = "rows",
};

const char *sim_measure_name(enum sim_measure measure)
{
    return measure_names[measure];
}

const char *sim_row_kind_name(enum sim_row_kind kind)
{
    return kind == SIM_ROW_BELADY ? "belady" : kind == SIM_ROW_ORACLE ? "oracle" : "policy";
}

// A ratio that is known where there is something to divide by.
static double share(double part, double whole, bool *out_known)
{
    *out_known = whole > 0;
    return whole > 0 ? part / whole : 0;
}

static double hit_rate_bytes(const struct simulation_phase *d, bool *out_known)
{
    const double there = (double)d->dense_bytes + (double)d->hit_bytes;
    const double all =
        (double)d->dense_bytes + (double)d->choice_bytes + (double)d->streamed_bytes + (double)d->row_bytes;
    return share(there, all, out_known);
}

static double all_stalls(const struct simulation_phase *d)
{
    double sum = 0;
    for (int i = 0; i < SIMULATION_STALLS; i++)
        sum += d->stall_s[i];
    return sum;
}

// Bounds have no passes that take a time each, and no waits: 0 is no time that a pass takes.
static bool is_bound(const struct simulation_phase *d)
{
    return !(d->p50_ms > 0);
}

static double percentile(double ms, bool *out_known)
{
    *out_known = ms > 0;
    return ms;
}

double sim_cell_value(const struct sim_cell *cell, enum sim_measure measure, bool slots_mode, bool *out_known)
{
    const struct simulation_phase *d = &cell->result.decode, *p = &cell->result.prefill;
    const double prefetched = (double)d->prefetch_bytes;
    *out_known = false;
    if (cell->failed)
        return 0;
    if (slots_mode)
        return measure == SIM_HIT_RATE ? share((double)cell->hits, (double)cell->choices, out_known) : 0;
    if (is_bound(d) &&
        (measure == SIM_HIT_RATE_BYTES || (measure >= SIM_STALL_SHARE && measure <= SIM_STALL_ROWS_SHARE)))
        return 0;
    switch (measure) {
    case SIM_HIT_RATE:
        return share((double)d->hits, (double)d->choices, out_known);
    case SIM_HIT_RATE_BYTES:
        return hit_rate_bytes(d, out_known);
    case SIM_DECODE_TOK_S:
        return share((double)d->tokens, d->seconds, out_known);
    case SIM_PREFILL_TOK_S:
        return share((double)p->tokens, p->seconds, out_known);
    case SIM_DEMAND_BYTES:
        return share((double)d->demand_bytes, (double)d->tokens, out_known);
    case SIM_PREFETCH_BYTES:
        return share(prefetched, (double)d->tokens, out_known);
    case SIM_USEFUL_SHARE:
        return share((double)d->useful_bytes, prefetched, out_known);
    case SIM_LATE_SHARE:
        return share((double)d->late_bytes, prefetched, out_known);
    case SIM_WASTED_SHARE:
        return share((double)d->wasted_bytes, prefetched, out_known);
    case SIM_STALL_SHARE:
        return share(all_stalls(d), d->seconds, out_known);
    case SIM_STALL_DEMAND_SHARE:
    case SIM_STALL_LATE_SHARE:
    case SIM_STALL_STREAM_SHARE:
    case SIM_STALL_ROWS_SHARE:
        return share(d->stall_s[measure - SIM_STALL_DEMAND_SHARE], d->seconds, out_known);
    case SIM_P50_MS:
        return percentile(d->p50_ms, out_known);
    case SIM_P95_MS:
        return percentile(d->p95_ms, out_known);
    case SIM_P99_MS:
        return percentile(d->p99_ms, out_known);
    case SIM_MEASURES:
        break;
    }
    return 0;
}

// ---- over traces
// ---------------------------------------------------------------------------------------------

static int compare_values(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct sim_figure sim_figure_of(const struct sim_sweep *sweep, uint32_t row, uint32_t budget,
                                enum sim_measure measure)
{
    struct sim_figure figure = {0};
    double few[32], *values = few;
    if (sweep->n_traces > sizeof few / sizeof *few && !(values = malloc(sweep->n_traces * sizeof *values)))
        return figure;
    uint32_t n = 0;
    for (uint32_t t = 0; t < sweep->n_traces; t++) {
        bool known;
        const double value =
            sim_cell_value(sim_cell_at(sweep, row, budget, t), measure, sweep->slots_mode, &known);
        if (known)
            values[n++] = value;
    }
    if (n) {
        qsort(values, n, sizeof *values, compare_values);
        figure.known = true;
        figure.median = (values[(n - 1) / 2] + values[n / 2]) / 2;
        figure.least = values[0];
        figure.most = values[n - 1];
    }
    if (values != few)
        free(values);
    return figure;
}

uint32_t sim_best_row(const struct sim_sweep *sweep, uint32_t budget, enum sim_measure measure)
{
    uint32_t best = UINT32_MAX;
    double most = 0;
    for (uint32_t r = 0; r < sweep->n_rows; r++) {
        if (sweep->rows[r].kind != SIM_ROW_POLICY)
            continue;
        const struct sim_figure figure = sim_figure_of(sweep, r, budget, measure);
        if (figure.known && (best == UINT32_MAX || figure.median > most)) {
            best = r;
            most = figure.median;
        }
    }
    return best;
}
