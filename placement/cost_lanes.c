// The experts of a layer on several devices at the same time; see cost.h.
#include "placement/cost_internal.h"

#include <math.h>
#include <string.h>

// Beyond so many choices of a token how they fall on the devices is close to the mean.
#define MOST_CHOICES 32

// A lane is never slowed to less than a twentieth.
static double slowed(const struct pipeline *p, enum profile_lane lane, enum profile_lane other)
{
    return fmin(1, fmax(p->model->profile->interference[lane][other], 0.05));
}

// Two lanes that begin together, each slowed while the other works.
struct pair {
    double a_rate, b_rate;
};

// *a_ends: a is the one that ends last.
static double together(const struct pair *pair, double a_s, double b_s, bool *a_ends)
{
    const double a_end_s = a_s / pair->a_rate, b_end_s = b_s / pair->b_rate;
    *a_ends = a_end_s > b_end_s;
    return *a_ends ? b_end_s + (a_s - b_end_s * pair->a_rate) : a_end_s + (b_s - a_end_s * pair->b_rate);
}

// out[j]: that j of k fall on what each falls on with probability p.
static void distribute(double *out, uint32_t k, double p)
{
    const bool mirrored = p > 0.5; // so that (1 - p)^k is not too small a number
    const double few = fmin(fmax(mirrored ? 1 - p : p, 0), 0.5);
    const double odds = few / (1 - few);
    double probability = pow(1 - few, k);
    for (uint32_t j = 0; j <= k; j++) {
        out[mirrored ? k - j : j] = probability;
        probability *= odds * (k - j) / (j + 1);
    }
}

// What the devices take for one expert each, and what falls on them.
struct shared {
    double one_s[COST_DEVICES], n[COST_DEVICES];
    struct pair cpu_gpu;
};

static void add_outcome(struct lanes *out, const struct shared *shared, double probability, double cpu_s,
                        double gpu_s)
{
    bool cpu_ends;
    const double seconds = together(&shared->cpu_gpu, cpu_s, gpu_s, &cpu_ends);
    *(cpu_ends ? &out->cpu_s : &out->gpu_s) += probability * seconds;
    out->busy_s[PROFILE_LANE_GPU] += probability * gpu_s;
}

static void take_means(struct lanes *out, const struct shared *shared)
{
    double gpu_s = 0;
    for (uint32_t d = 1; d < COST_DEVICES; d++)
        gpu_s = fmax(gpu_s, shared->n[d] * shared->one_s[d]);
    add_outcome(out, shared, 1, shared->n[COST_CPU] * shared->one_s[COST_CPU], gpu_s);
}

// The k choices of one token, as they may fall. GPUs are added one by one: gpus_s[m] is the mean time of
// those so far when m choices fall on them, of which the next one's is the longer or not. That is exact for
// two devices in all, and up to a few percent too short for more.
static void take_choices(struct lanes *out, const struct shared *shared, uint32_t k)
{
    double gpus_s[MOST_CHOICES + 1] = {0}, n = 0, all = shared->n[COST_CPU];
    double probability[MOST_CHOICES + 1];
    for (uint32_t d = 1; d < COST_DEVICES; d++) {
        if (!(shared->n[d] > 0))
            continue;
        double next_s[MOST_CHOICES + 1] = {0};
        const bool first = n == 0;
        n += shared->n[d];
        all += shared->n[d];
        for (uint32_t m = 0; m <= k; m++) {
            if (first) {
                next_s[m] = m * shared->one_s[d];
                continue;
            }
            distribute(probability, m, shared->n[d] / n);
            for (uint32_t j = 0; j <= m; j++)
                next_s[m] += probability[j] * fmax(j * shared->one_s[d], gpus_s[m - j]);
        }
        memcpy(gpus_s, next_s, sizeof gpus_s);
    }
    distribute(probability, k, shared->n[COST_CPU] / all);
    for (uint32_t j = 0; j <= k; j++)
        add_outcome(out, shared, probability[j], j * shared->one_s[COST_CPU], gpus_s[k - j]);
}

// Rows go to a device and their experts' results come back; it is waited for once.
static double round_trip(const struct pipeline *p, uint32_t to, double rows)
{
    const double bytes = rows * p->model->workload->hidden * 4.0;
    return cost_copy(p->model, p->at, to, bytes) + cost_copy(p->model, to, p->at, bytes) +
           cost_sync(p->model, p->at, to);
}

static double probability_of_any(double share, double choices)
{
    return share < 1 ? -expm1(choices * log1p(-share)) : 1;
}

static struct lanes compute_apart(const struct pipeline *p, const struct chosen *c,
                                  const struct shared *shared)
{
    const uint32_t k = p->model->workload->layers[c->layer].n_used;
    struct lanes out = {.last_s = shared->one_s[COST_CPU]};
    if (c->rows <= 1 && k <= MOST_CHOICES && shared->n[COST_CPU] < c->all)
        take_choices(&out, shared, k);
    else
        take_means(&out, shared);
    out.busy_s[PROFILE_LANE_CPU] = shared->n[COST_CPU] * shared->one_s[COST_CPU];
    for (uint32_t d = 0; d < COST_DEVICES; d++)
        if (d != p->at && c->n[d] > 0)
            out.handed_s += round_trip(p, d, c->rows) * p->factor[PROFILE_LANE_LINK] *
                            probability_of_any(fmin(1, c->n[d] / c->all), k * c->rows);
    return out;
}

// The layer's helper takes the experts in RAM over: they are copied one after the other while it computes.
static struct lanes compute_helped(const struct pipeline *p, const struct chosen *c,
                                   const struct shared *shared)
{
    const struct cost_model *model = p->model;
    const struct cost_layer *layer = &model->layers[c->layer];
    const uint32_t helper = layer->helper;
    const double copy_s =
        cost_copy(model, COST_CPU, helper, layer->expert_bytes) * p->factor[PROFILE_LANE_LINK];
    const double one_s = p->work->layers[c->layer].helped.seconds * p->factor[PROFILE_LANE_GPU];
    const struct pair pair = {slowed(p, PROFILE_LANE_LINK, PROFILE_LANE_GPU),
                              slowed(p, PROFILE_LANE_GPU, PROFILE_LANE_LINK)};
    double gpu_s = c->n[COST_CPU] * one_s + c->n[helper] * shared->one_s[helper];
    for (uint32_t d = 1; d < COST_DEVICES; d++)
        gpu_s = d == helper ? gpu_s : fmax(gpu_s, c->n[d] * shared->one_s[d]);
    const double link_s = c->n[COST_CPU] * copy_s;
    struct lanes out = {.last_s = copy_s + one_s};
    bool link_ends;
    const double seconds = together(&pair, link_s, gpu_s, &link_ends);
    *(link_ends ? &out.link_s : &out.gpu_s) = seconds;
    out.busy_s[PROFILE_LANE_GPU] = gpu_s;
    out.busy_s[PROFILE_LANE_LINK] = link_s;
    for (uint32_t d = 1; d < COST_DEVICES; d++)
        if (d != p->at && (c->n[d] > 0 || d == helper))
            out.handed_s += round_trip(p, d, c->rows) * p->factor[PROFILE_LANE_LINK];
    return out;
}

static double total(const struct lanes *lanes)
{
    return lanes->cpu_s + lanes->gpu_s + lanes->link_s + lanes->handed_s;
}

struct lanes lanes_of(const struct pipeline *p, const struct chosen *c)
{
    const struct layer_work *work = &p->work->layers[c->layer];
    struct shared shared = {.cpu_gpu = {slowed(p, PROFILE_LANE_CPU, PROFILE_LANE_GPU),
                                        slowed(p, PROFILE_LANE_GPU, PROFILE_LANE_CPU)}};
    double cpu_spread = 0, gpu_spread = 0; // as shares of the time
    for (uint32_t d = 0; d < COST_DEVICES; d++) {
        const double spread = work->one[d].seconds > 0 ? work->one[d].spread_s / work->one[d].seconds : 0;
        shared.n[d] = c->n[d];
        shared.one_s[d] =
            work->one[d].seconds * p->factor[d == COST_CPU ? PROFILE_LANE_CPU : PROFILE_LANE_GPU];
        if (d == COST_CPU)
            cpu_spread = spread;
        else
            gpu_spread = fmax(gpu_spread, spread);
    }
    struct lanes lanes = compute_apart(p, c, &shared);
    if (c->rows > 1 && c->n[COST_CPU] > 0 && p->model->layers[c->layer].helper != COST_CPU) {
        const struct lanes helped = compute_helped(p, c, &shared);
        lanes = total(&helped) < total(&lanes) ? helped : lanes;
    }
    lanes.spread_s = lanes.cpu_s * cpu_spread + lanes.gpu_s * gpu_spread;
    return lanes;
}
