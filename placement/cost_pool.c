// Experts of a layer that are chosen, missing, guessed and waited for; see cost.h.
#include "placement/cost_internal.h"

#include <math.h>

// Of the missing experts, those that a guess brings in time where the drive is idle long enough: hits of
// 94.4% without prefetch became 95 to 97 (docs/learned.md), which is 10 to 45% of the misses.
#define GUESS_SHARE 0.3
#define GUESS_WASTE 0.35 // bytes of wrong guesses for one that came true, from the same runs

#define CERTAIN_ROWS 16    // from so many rows on guesses are read ahead at full speed (core/experts.c)
#define CERTAIN_SHARE 0.95 // of the experts of a batch that are guessed

// Where heat says less than it seems, more of a token's choices fall on no GPU.
static void spread_choices(struct chosen *c, const struct pipeline *p)
{
    const struct cost_model *model = p->model;
    const struct cost_layer *layer = &model->layers[c->layer];
    const double off = layer->share[COST_CPU];
    if (c->rows > 1 || p->chance.off_gpu == model->off_gpu || off <= 0 || off >= 1)
        return;
    const double then = fmin(1, off * p->chance.off_gpu / model->off_gpu);
    for (uint32_t d = 0; d < COST_DEVICES; d++)
        c->n[d] *= d == COST_CPU ? then / off : (1 - then) / (1 - off);
}

static struct chosen choose(const struct pipeline *p, const struct pass *pass, uint32_t l)
{
    const struct cost_model *model = p->model;
    const struct cost_layer *layer = &model->layers[l];
    const struct work_layer *work = &model->workload->layers[l];
    struct chosen c = {.layer = l, .rows = cost_rows_of(pass, work->rest_when)};
    c.many = c.rows >= CERTAIN_ROWS;
    for (uint32_t d = 0; work->n_experts && d < COST_DEVICES; d++)
        c.n[d] = p->work->layers[l].n[d];
    spread_choices(&c, p);
    for (uint32_t d = 0; d < COST_DEVICES; d++)
        c.all += c.n[d];
    if (!layer->pooled || c.n[COST_CPU] <= 0)
        return c;
    // Many tokens choose nearly all experts, and in memory are as many as there are slots; few choose the
    // hot.
    const double share = (double)model->n_slots / model->n_pooled;
    const double few = fmin(1, work->n_used * layer->share[COST_CPU] / c.n[COST_CPU]);
    const double hits = share + (p->chance.hit_rate - share) * few;
    c.missing = c.n[COST_CPU] * (1 - hits);
    const double room = fmax(0, model->n_slots / 2.0 - (c.n[COST_CPU] - c.missing));
    c.ahead = c.many && !model->options.no_prefetch ? CERTAIN_SHARE * fmin(c.missing, room) : 0;
    return c;
}

// ---- reads

static double read_seconds(const struct pipeline *p, double bytes)
{
    return pipeline_read_seconds(p, bytes, cost_drive_gbps(p->model, bytes));
}

// What the drive is busy with before it turns to a demand: of the ring only what is in flight.
static double wait_seconds(const struct pipeline *p)
{
    const double in_flight = (double)IO_PIECE_BYTES * IO_QUEUE_DEPTH;
    const double wait_s = fmax(0, p->drive_free - p->now);
    return p->model->n_cycle ? fmin(wait_s, pipeline_read_seconds(p, in_flight, p->ring_gbps)) : wait_s;
}

// The drive reads this before what it has been asked for already. It is not idle before now.
static double occupy(struct pipeline *p, double bytes)
{
    const double seconds = bytes > 0 ? read_seconds(p, bytes) : 0;
    for (uint64_t at = p->next_free; at < p->next_read && seconds > 0; at++)
        if (p->ready[at % p->model->n_cycle] > p->now)
            p->ready[at % p->model->n_cycle] += seconds;
    p->drive_free = fmax(p->drive_free, p->now) + seconds;
    pipeline_count_read(p, bytes, seconds);
    return seconds;
}

// Experts of the next layer that are as good as certain follow behind the demands of this one.
void experts_read_ahead(struct pipeline *p, const struct pass *pass, uint32_t l)
{
    p->ahead = 0;
    if (l == p->model->workload->n_layers)
        return;
    p->ahead = choose(p, pass, l).ahead;
    occupy(p, p->ahead * p->model->layers[l].expert_bytes);
}

struct chosen experts_begin(struct pipeline *p, const struct pass *pass, uint32_t l)
{
    const struct cost_layer *layer = &p->model->layers[l];
    struct chosen c = choose(p, pass, l);
    c.at_s = p->now;
    c.wait_s = wait_seconds(p);
    if (!layer->pooled)
        return c;
    if (c.many) {
        c.missing = fmax(0, c.missing - p->ahead);
    } else if (c.missing > 0 && !p->model->options.no_prefetch) {
        // The drive was idle since the reads of the layer before.
        const double all_s = pipeline_read_seconds(p, c.missing * layer->expert_bytes,
                                                   cost_drive_gbps(p->model, layer->expert_bytes));
        const double guessed = c.missing * GUESS_SHARE * fmin(1, fmax(0, p->now - p->drive_free) / all_s);
        pipeline_count_read(p, guessed * (1 + GUESS_WASTE) * layer->expert_bytes,
                            guessed / c.missing * (1 + GUESS_WASTE) * all_s);
        c.missing -= guessed;
    }
    c.read_s = occupy(p, c.missing * layer->expert_bytes);
    experts_read_ahead(p, pass, l + 1);
    return c;
}

// Waiting for the last expert, which is computed alone, where each of k may be missing or not.
static double expected_stall(const struct pipeline *p, const struct chosen *c, double last_s)
{
    const uint32_t k = (uint32_t)fmax(1, round(c->all));
    const double miss = fmin(1, c->missing / k), bytes = p->model->layers[c->layer].expert_bytes;
    double stall_s = 0, probability = pow(1 - miss, k);
    for (uint32_t j = 1; j <= k; j++) {
        probability = miss < 1 ? probability * (k - j + 1) / j * miss / (1 - miss) : j == k;
        const double read_s = read_seconds(p, j * bytes) + p->latency_s;
        stall_s += probability * fmax(0, c->at_s + c->wait_s + read_s + last_s - p->now);
    }
    return stall_s;
}

void experts_finish(struct pipeline *p, const struct chosen *c)
{
    if (c->all <= 0)
        return;
    const struct lanes lanes = lanes_of(p, c);
    p->kernels_s += lanes.cpu_s;
    p->gpu_s += lanes.gpu_s;
    p->link_s += lanes.link_s + lanes.handed_s;
    p->now += lanes.cpu_s + lanes.gpu_s + lanes.link_s + lanes.handed_s;
    p->spread_s += lanes.spread_s;
    for (int lane = 0; lane < PROFILE_LANES; lane++)
        p->busy_s[lane] += lanes.busy_s[lane];
    p->busy_s[PROFILE_LANE_LINK] += lanes.handed_s;
    if (!p->model->layers[c->layer].pooled || (c->missing <= 0 && !c->many))
        return;
    if (c->many)
        pipeline_await(p, c->at_s + c->wait_s + c->read_s + lanes.last_s);
    else
        pipeline_await(p, p->now + expected_stall(p, c, lanes.last_s));
}
