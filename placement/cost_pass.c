// Follows a pass through processor, drive, ring and pool; see cost.h.
#include "placement/cost_internal.h"

#include <math.h>
#include <stdlib.h>

// Of the missing experts, those that a guess brings in time where the drive is idle long enough: hits of
// 94.4% without prefetch became 95 to 97 (docs/learned.md), which is 10 to 45% of the misses.
#define GUESS_SHARE 0.3
#define GUESS_WASTE 0.35 // bytes of wrong guesses for one that came true, from the same runs

#define CERTAIN_ROWS 16    // from so many rows on guesses are read ahead at full speed (core/experts.c)
#define CERTAIN_SHARE 0.95 // of the experts of a batch that are guessed
#define LATENCY_DEFAULT_S 1e-4

static double rows_of(const struct pass *pass, enum work_rows when)
{
    return when == WORK_WANTED_ROWS ? pass->wanted : pass->rows;
}

static double read_seconds(const struct pipeline *p, double bytes, double at_once_bytes)
{
    return bytes * 1e-9 / cost_drive_gbps(p->model, at_once_bytes) * p->drive_factor;
}

static void count_read(struct pipeline *p, double bytes, double seconds)
{
    p->drive_s += seconds;
    p->drive_bytes += bytes;
}

static void compute(struct pipeline *p, double *part_s, struct product product)
{
    const double seconds = product.seconds * p->cpu_factor;
    *part_s += seconds;
    p->spread_s += product.spread_s * p->cpu_factor;
    p->now += seconds;
}

static void operate(struct pipeline *p, double calls, double rows)
{
    const double share = fmax(1, rows / p->model->threads); // one row is the calling thread's alone
    if (rows > 0)
        compute(p, &p->operations_s,
                (struct product){calls * share * p->model->profile->cpu.operation_us * 1e-6, 0});
}

static void await(struct pipeline *p, double until)
{
    p->stall_s += fmax(0, until - p->now);
    p->now = fmax(p->now, until);
}

// ---- the ring

static void ring_read(struct pipeline *p, bool least)
{
    while (p->next_read - p->next_free < p->n_cycle) {
        const uint64_t at = p->next_read % p->n_cycle;
        const double bytes = (double)p->cycle[at]->bytes;
        if (!least && p->used_bytes + bytes > (double)p->model->homes->ring_bytes)
            return;
        least = false;
        const double seconds = read_seconds(p, bytes, (double)IO_PIECE_BYTES * IO_QUEUE_DEPTH);
        p->drive_free = p->ready[at] = fmax(p->drive_free, p->now) + seconds;
        count_read(p, bytes, seconds);
        p->used_bytes += bytes;
        p->next_read++;
    }
}

static void ring_acquire(struct pipeline *p, uint32_t n)
{
    for (uint64_t at = p->next_free; at < p->next_free + n; at++) {
        while (p->next_read <= at)
            ring_read(p, true);
        await(p, p->ready[at % p->n_cycle]);
    }
}

static void ring_release(struct pipeline *p, uint32_t n)
{
    for (; n > 0; n--)
        p->used_bytes -= (double)p->cycle[p->next_free++ % p->n_cycle]->bytes;
    ring_read(p, false);
}

// What a pass left out is dropped.
static void ring_rewind(struct pipeline *p)
{
    while (p->n_cycle && p->next_free % p->n_cycle) {
        if (p->next_read > p->next_free)
            p->used_bytes -= (double)p->cycle[p->next_free % p->n_cycle]->bytes;
        p->next_free++;
    }
    p->next_read = p->next_read < p->next_free ? p->next_free : p->next_read;
}

// ---- experts

struct chosen {
    double n, missing, ahead; // different experts, of those not in memory, and of these read ahead
    double bytes;             // of one
    bool pooled, certain;
    double at_s, wait_s, read_s; // when they were chosen, what the drive does before, and the reads
};

static struct chosen choose(const struct pipeline *p, const struct pass *pass, const struct work_layer *layer)
{
    const struct cost_model *model = p->model;
    const double rows = rows_of(pass, layer->rest_when);
    struct chosen c = {.n = cost_touched(model, layer, rows), .certain = rows >= CERTAIN_ROWS};
    c.pooled = layer->n_experts && model->homes->home[layer->first_expert] == HOME_POOL;
    if (!c.pooled || rows <= 0)
        return c;
    c.bytes = (double)workload_expert_bytes(model->workload, layer);
    // Many tokens choose nearly all experts, and in memory are as many as there are slots; few choose the
    // hot.
    const double share = (double)model->n_slots / workload_experts(model->workload);
    const double hits = share + (p->hit_rate - share) * fmin(1, layer->n_used / c.n);
    c.missing = c.n * (1 - hits);
    const double room = fmax(0, model->n_slots / 2.0 - (c.n - c.missing));
    c.ahead = c.certain ? CERTAIN_SHARE * fmin(c.missing, room) : 0;
    return c;
}

// What the drive is busy with before it turns to a demand: of the ring only what is in flight.
static double wait_seconds(const struct pipeline *p)
{
    const double in_flight = (double)IO_PIECE_BYTES * IO_QUEUE_DEPTH;
    const double wait_s = fmax(0, p->drive_free - p->now);
    return p->n_cycle ? fmin(wait_s, read_seconds(p, in_flight, in_flight)) : wait_s;
}

// The drive reads this before what it has been asked for already.
static double occupy(struct pipeline *p, double bytes)
{
    const double seconds = bytes > 0 ? read_seconds(p, bytes, bytes) : 0;
    for (uint64_t at = p->next_free; at < p->next_read; at++)
        if (p->ready[at % p->n_cycle] > p->now)
            p->ready[at % p->n_cycle] += seconds;
    p->drive_free = fmax(p->drive_free, p->now) + seconds;
    count_read(p, bytes, seconds);
    return seconds;
}

// Experts of the next layer that are as good as certain follow behind the demands of this one.
static void read_ahead(struct pipeline *p, const struct pass *pass, const struct work_layer *layer)
{
    const struct workload *w = p->model->workload;
    p->ahead = 0;
    if (layer == w->layers + w->n_layers)
        return;
    const struct chosen c = choose(p, pass, layer);
    p->ahead = c.ahead;
    occupy(p, c.ahead * c.bytes);
}

static struct chosen begin_experts(struct pipeline *p, const struct pass *pass,
                                   const struct work_layer *layer)
{
    struct chosen c = choose(p, pass, layer);
    c.at_s = p->now;
    c.wait_s = wait_seconds(p);
    if (!c.pooled)
        return c;
    if (c.certain) {
        c.missing = fmax(0, c.missing - p->ahead);
    } else if (c.missing > 0) { // the drive was idle since the reads of the layer before
        const double all_s = read_seconds(p, c.missing * c.bytes, c.bytes);
        const double guessed = c.missing * GUESS_SHARE * fmin(1, fmax(0, p->now - p->drive_free) / all_s);
        count_read(p, guessed * (1 + GUESS_WASTE) * c.bytes, guessed / c.missing * (1 + GUESS_WASTE) * all_s);
        c.missing -= guessed;
    }
    c.read_s = occupy(p, c.missing * c.bytes);
    read_ahead(p, pass, layer + 1);
    return c;
}

// Waiting for the last expert, which is computed alone, where each of k may be missing or not.
static double expected_stall(const struct pipeline *p, const struct chosen *c, uint32_t k, double expert_s)
{
    const double miss = fmin(1, c->missing / k);
    double stall_s = 0, probability = pow(1 - miss, k);
    for (uint32_t j = 1; j <= k; j++) {
        probability = miss < 1 ? probability * (k - j + 1) / j * miss / (1 - miss) : j == k;
        const double read_s = read_seconds(p, j * c->bytes, j * c->bytes) + p->latency_s;
        stall_s += probability * fmax(0, c->at_s + c->wait_s + read_s + expert_s - p->now);
    }
    return stall_s;
}

static void finish_experts(struct pipeline *p, const struct pass *pass, const struct work_layer *layer,
                           const struct chosen *c)
{
    const struct workload *w = p->model->workload;
    const struct work_unit *unit = &w->units[layer->first_expert];
    const double rows = rows_of(pass, layer->rest_when);
    if (rows <= 0)
        return;
    const double before_s = p->now;
    for (uint32_t i = 0; i < unit->n; i++) {
        struct product one =
            cost_multiply(p->model, &w->matrices[unit->first + i], rows * layer->n_used / c->n, true);
        compute(p, &p->kernels_s, (struct product){one.seconds * c->n, one.spread_s * c->n});
    }
    if (!c->pooled || (c->missing <= 0 && !c->certain))
        return;
    const double expert_s = (p->now - before_s) / c->n;
    if (c->certain)
        await(p, c->at_s + c->wait_s + c->read_s + expert_s);
    else
        await(p, p->now + expected_stall(p, c, (uint32_t)fmax(1, round(c->n)), expert_s));
}

// ---- layers

static double unit_rows(const struct workload *w, const struct work_unit *unit, const struct pass *pass)
{
    double rows = 0;
    for (uint32_t i = 0; i < unit->n; i++)
        rows = fmax(rows, rows_of(pass, w->matrices[unit->first + i].when));
    return rows;
}

static void run_unit(struct pipeline *p, const struct pass *pass, const struct work_layer *layer, uint32_t u)
{
    const struct workload *w = p->model->workload;
    const struct work_unit *unit = &w->units[u];
    const bool streamed = p->model->homes->home[u] == HOME_RING;
    const bool guesses =
        unit->guesses && p->model->homes->home[layer->first_expert] == HOME_POOL && pass->rows > 0;
    if (streamed)
        ring_acquire(p, unit->n);
    for (int again = 0; again <= guesses; again++)
        for (uint32_t i = 0; i < unit->n; i++) {
            const struct work_matrix *matrix = &w->matrices[unit->first + i];
            compute(p, &p->kernels_s, cost_multiply(p->model, matrix, rows_of(pass, matrix->when), false));
        }
    if (guesses)
        operate(p, layer->guess_operations, rows_of(pass, layer->rest_when));
    if (unit->attends) {
        const double rows = rows_of(pass, layer->attention_when);
        compute(p, &p->attention_s, cost_attend(p->model, layer, pass->context + pass->rows - rows, rows));
    }
    if (streamed)
        ring_release(p, unit->n);
}

// False when no row is left.
static bool run_layer(struct pipeline *p, const struct pass *pass, const struct work_layer *layer)
{
    const struct workload *w = p->model->workload;
    struct chosen c = {0};
    for (uint32_t i = 0; i < layer->n_units; i++) {
        const uint32_t u = layer->first_unit + i;
        if (unit_rows(w, &w->units[u], pass) <= 0)
            return false;
        if (w->units[u].hides_reads)
            c = begin_experts(p, pass, layer);
        if (w->table->units[u].class != UNIT_EXPERT) {
            run_unit(p, pass, layer, u);
            continue;
        }
        finish_experts(p, pass, layer, &c);
        i += layer->n_experts - 1;
    }
    operate(p, layer->operations, rows_of(pass, layer->rest_when));
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
        count_read(p, bytes, seconds);
        p->drive_free = fmax(p->drive_free, p->now) + seconds;
        await(p, p->now + seconds);
    }
}

void pipeline_run(struct pipeline *p, const struct pass *pass)
{
    const struct workload *w = p->model->workload;
    fetch_rows(p, pass);
    operate(p, w->operations, pass->rows);
    read_ahead(p, pass, w->layers);
    bool more = true;
    for (uint32_t l = 0; l < w->n_layers && more; l++)
        more = run_layer(p, pass, &w->layers[l]);
    for (uint32_t u = 0; u < w->table->n_units; u++) {
        const struct unit *unit = &w->table->units[u];
        if (unit->layer != UNIT_NO_LAYER || unit->class == UNIT_ROWS)
            continue;
        for (uint32_t i = 0; i < w->units[u].n; i++) {
            const struct work_matrix *matrix = &w->matrices[w->units[u].first + i];
            compute(p, &p->kernels_s, cost_multiply(p->model, matrix, rows_of(pass, matrix->when), false));
        }
    }
    operate(p, w->head_operations, pass->wanted);
    compute(p, &p->operations_s, (struct product){p->model->profile->cpu.sync_us * 1e-6, 0});
    ring_rewind(p);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int list_cycle(struct pipeline *p, struct lode_error *error)
{
    const struct unit_table *table = p->model->workload->table;
    p->cycle = calloc((size_t)table->n_parts + 1, sizeof *p->cycle);
    p->ready = calloc((size_t)table->n_parts + 1, sizeof *p->ready);
    if (!p->cycle || !p->ready)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to follow %u parts", table->n_parts);
    for (uint32_t u = 0; u < table->n_units; u++)
        for (uint32_t i = 0; p->model->homes->home[u] == HOME_RING && i < table->units[u].n_parts; i++)
            p->cycle[p->n_cycle++] = &table->parts[table->units[u].first_part + i];
    return 0;
}

int pipeline_open(struct pipeline *out, const struct cost_model *model, double hit_rate, double cpu_factor,
                  double drive_factor, struct lode_error *error)
{
    *out = (struct pipeline){
        .model = model, .hit_rate = hit_rate, .cpu_factor = cpu_factor, .drive_factor = drive_factor};
    out->latency_s =
        model->drive && model->drive->latency_us > 0 ? model->drive->latency_us * 1e-6 : LATENCY_DEFAULT_S;
    int rc = list_cycle(out, error);
    if (!rc)
        ring_read(out, false);
    out->now = out->drive_free;
    return rc;
}

void pipeline_close(struct pipeline *pipeline)
{
    free(pipeline->cycle);
    free(pipeline->ready);
    *pipeline = (struct pipeline){0};
}
