// Follows a pass through processors, links, drive and ring; see cost.h.
#include "placement/cost_internal.h"

#include <math.h>
#include <stdlib.h>

#define LATENCY_DEFAULT_S 1e-4

double pipeline_read_seconds(const struct pipeline *p, double bytes, double gbps)
{
    return bytes * 1e-9 / gbps * p->factor[PROFILE_LANE_DRIVE];
}

void pipeline_count_read(struct pipeline *p, double bytes, double seconds)
{
    p->busy_s[PROFILE_LANE_DRIVE] += seconds;
    p->drive_bytes += bytes;
}

void pipeline_compute(struct pipeline *p, uint32_t device, double *part_s, struct product product)
{
    const enum profile_lane lane = device == COST_CPU ? PROFILE_LANE_CPU : PROFILE_LANE_GPU;
    const double seconds = product.seconds * p->factor[lane];
    *(device == COST_CPU ? part_s : &p->gpu_s) += seconds;
    p->busy_s[lane] += seconds;
    p->spread_s += product.spread_s * p->factor[lane];
    p->now += seconds;
}

void pipeline_link(struct pipeline *p, double seconds)
{
    seconds *= p->factor[PROFILE_LANE_LINK];
    p->link_s += seconds;
    p->busy_s[PROFILE_LANE_LINK] += seconds;
    p->now += seconds;
}

void pipeline_await(struct pipeline *p, double until)
{
    p->stall_s += fmax(0, until - p->now);
    p->now = fmax(p->now, until);
}

static void operate(struct pipeline *p, uint32_t device, double calls, double rows)
{
    struct product product = cost_operate(p->model, device, calls, rows);
    product.seconds *= device == COST_CPU ? p->model->learned[PROFILE_PART_OPERATIONS] : 1;
    pipeline_compute(p, device, &p->operations_s, product);
}

// The residual stream of the rows passes to the device.
static void enter(struct pipeline *p, uint32_t device, double rows)
{
    if (device == p->at)
        return;
    const double bytes = rows * p->model->workload->hidden * 4.0;
    pipeline_link(p, cost_copy(p->model, p->at, device, bytes) + cost_sync(p->model, p->at, device));
    p->at = device;
}

// ---- the ring

static void ring_read(struct pipeline *p, bool least)
{
    const uint64_t n_cycle = p->model->n_cycle;
    while (p->next_read - p->next_free < n_cycle) {
        const uint64_t at = p->next_read % n_cycle;
        const double bytes = (double)p->model->cycle[at]->bytes;
        if (!least && p->used_bytes + bytes > (double)p->model->homes->ring_bytes)
            return;
        least = false;
        const double seconds = pipeline_read_seconds(p, bytes, p->ring_gbps);
        p->drive_free = p->ready[at] = fmax(p->drive_free, p->now) + seconds;
        pipeline_count_read(p, bytes, seconds);
        p->used_bytes += bytes;
        p->next_read++;
    }
}

static void ring_acquire(struct pipeline *p, uint32_t n)
{
    for (uint64_t at = p->next_free; at < p->next_free + n; at++) {
        while (p->next_read <= at)
            ring_read(p, true);
        pipeline_await(p, p->ready[at % p->model->n_cycle]);
    }
}

static void ring_release(struct pipeline *p, uint32_t n)
{
    for (; n > 0; n--)
        p->used_bytes -= (double)p->model->cycle[p->next_free++ % p->model->n_cycle]->bytes;
    ring_read(p, false);
}

// What a pass left out is dropped.
static void ring_rewind(struct pipeline *p)
{
    const uint64_t n_cycle = p->model->n_cycle;
    while (n_cycle && p->next_free % n_cycle) {
        if (p->next_read > p->next_free)
            p->used_bytes -= (double)p->model->cycle[p->next_free % n_cycle]->bytes;
        p->next_free++;
    }
    p->next_read = p->next_read < p->next_free ? p->next_free : p->next_read;
}

// ---- layers

static double rows_of_step(const struct cost_step *step, const struct pass *pass)
{
    return step->all_rows ? pass->rows : pass->wanted;
}

static void run_step(struct pipeline *p, const struct pass *pass, uint32_t s)
{
    const struct cost_step *step = &p->model->steps[s];
    if (step->products)
        enter(p, step->device, rows_of_step(step, pass));
    if (step->streamed)
        ring_acquire(p, p->model->workload->units[step->unit].n);
    pipeline_compute(p, step->device, &p->kernels_s, p->work->kernels[s]);
}

// The router is met once more, for a guess.
static void guess(struct pipeline *p, const struct pass *pass, uint32_t l)
{
    const struct cost_layer *layer = &p->model->layers[l];
    const struct work_layer *work = &p->model->workload->layers[l];
    const uint32_t device = p->model->steps[layer->guesses_at].device;
    pipeline_compute(p, device, &p->kernels_s, p->work->kernels[layer->guesses_at]);
    operate(p, device, work->guess_operations, cost_rows_of(pass, work->rest_when));
}

// False when no row is left.
static bool run_layer(struct pipeline *p, const struct pass *pass, uint32_t l)
{
    const struct cost_model *model = p->model;
    const struct cost_layer *layer = &model->layers[l];
    const double rest = cost_rows_of(pass, model->workload->layers[l].rest_when);
    struct chosen c = {0};
    bool begun = false;
    for (uint32_t s = layer->first_step; s <= layer->first_step + layer->n_steps; s++) {
        if (s == layer->experts_at && rest <= 0)
            return false;
        if (s == layer->begins_at && rest > 0) {
            c = experts_begin(p, pass, l);
            begun = true;
        }
        if (s == layer->experts_at && begun)
            experts_finish(p, &c);
        if (s == layer->first_step + layer->n_steps)
            break;
        const struct cost_step *step = &model->steps[s];
        if (rows_of_step(step, pass) <= 0)
            return false;
        run_step(p, pass, s);
        if (s == layer->guesses_at && layer->pooled && !model->options.no_prefetch)
            guess(p, pass, l);
        if (step->attends)
            pipeline_compute(p, step->device, &p->attention_s, p->work->attention[l]);
        if (step->streamed)
            ring_release(p, model->workload->units[step->unit].n);
    }
    operate(p, layer->lead, model->workload->layers[l].operations, rest);
    return true;
}

static void fetch_rows(struct pipeline *p, const struct pass *pass)
{
    const struct workload *w = p->model->workload;
    for (uint32_t i = 0; i < w->n_tables; i++) {
        if (p->model->homes->home[w->tables[i].unit] != HOME_ROWS)
            continue;
        const double rounds = ceil(pass->rows / IO_QUEUE_DEPTH);
        const double bytes = pass->rows * (double)w->tables[i].row_bytes, seconds = rounds * p->latency_s;
        pipeline_count_read(p, bytes, seconds);
        p->drive_free = fmax(p->drive_free, p->now) + seconds;
        pipeline_await(p, p->now + seconds);
    }
}

void pipeline_run(struct pipeline *p, const struct pass *pass)
{
    const struct cost_model *model = p->model;
    const struct workload *w = model->workload;
    p->work = &p->works->of[pass->wanted > 0];
    work_set(p->work, pass);
    p->at = COST_CPU;
    fetch_rows(p, pass);
    operate(p, COST_CPU, w->operations, pass->rows);
    for (uint32_t s = 0; s < model->n_inputs; s++)
        run_step(p, pass, s);
    experts_read_ahead(p, pass, 0);
    bool more = true;
    for (uint32_t l = 0; l < w->n_layers && more; l++)
        more = run_layer(p, pass, l);
    if (pass->wanted > 0) {
        for (uint32_t s = model->first_output; s < model->n_steps; s++)
            run_step(p, pass, s);
        operate(p, p->at, w->head_operations, pass->wanted);
        pipeline_link(p, cost_copy(model, p->at, COST_CPU, pass->wanted * w->vocab * 4.0) +
                             cost_sync(model, p->at, COST_CPU));
    }
    pipeline_compute(p, COST_CPU, &p->operations_s, (struct product){model->profile->cpu.sync_us * 1e-6, 0});
    ring_rewind(p);
}

// ---- opening

int pipeline_open(struct pipeline *out, struct works *works, struct chance chance,
                  const double factor[PROFILE_LANES], struct lode_error *error)
{
    const struct cost_model *model = works->of[0].model;
    *out = (struct pipeline){.model = model, .works = works, .chance = chance};
    for (int lane = 0; lane < PROFILE_LANES; lane++)
        out->factor[lane] = factor[lane];
    out->latency_s =
        (model->drive && model->drive->latency_us > 0 ? model->drive->latency_us * 1e-6 : LATENCY_DEFAULT_S) *
        model->learned[PROFILE_PART_DRIVE];
    if (!model->n_cycle)
        return 0;
    out->ring_gbps = cost_drive_gbps(model, (double)IO_PIECE_BYTES * IO_QUEUE_DEPTH);
    out->ready = calloc(model->n_cycle, sizeof *out->ready);
    if (!out->ready)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to follow %u parts", model->n_cycle);
    ring_read(out, false);
    out->now = out->drive_free;
    return 0;
}

void pipeline_close(struct pipeline *pipeline)
{
    free(pipeline->ready);
    *pipeline = (struct pipeline){0};
}
