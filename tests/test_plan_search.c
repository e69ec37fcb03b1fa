// The planner's search against all there is: every placement of small models, and every split by one number
// of larger ones, by the same cost model.
#include "tests/plan_world.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HALF_A_PERCENT 1.005

// ---- exhaustive search

struct search {
    struct plan_world *world;
    uint8_t *device;
    double best_score, best_turn_s; // INFINITY: nothing fits
    uint32_t n_tried;
};

static void try_sizes(struct search *s)
{
    const struct plan_problem *p = &s->world->problem;
    for (uint32_t batch = 0; batch < p->n_batches; batch++)
        for (uint32_t ring = 0; ring < PLAN_WORLD_RINGS; ring++) {
            double turn_s;
            if (!plan_world_turn(&turn_s, p, s->device, batch, ring))
                break;
            s->n_tried++;
            s->best_turn_s = fmin(s->best_turn_s, turn_s);
            s->best_score = fmin(s->best_score, plan_world_score(p, turn_s, batch, ring));
        }
}

// Groups of layers first, then the head, then each expert.
static void try_all(struct search *s, uint32_t item)
{
    const struct plan_world *w = s->world;
    const uint32_t n_layers = w->work.n_layers, per_layer = w->n_experts / n_layers;
    if (item == w->n_groups + 1 + w->n_experts) {
        try_sizes(s);
        return;
    }
    for (uint32_t to = 0; to <= w->profile.n_gpus; to++) {
        if (item < w->n_groups) {
            for (uint32_t l = 0; l < n_layers; l++)
                if (w->group_of[l] == item)
                    plan_world_place(s->device, &w->work, l, to);
        } else if (item == w->n_groups) {
            plan_world_place(s->device, &w->work, UNIT_NO_LAYER, to);
        } else {
            const uint32_t e = item - w->n_groups - 1;
            s->device[w->work.layers[e / per_layer].first_expert + e % per_layer] = (uint8_t)to;
        }
        try_all(s, item + 1);
    }
}

// The same where experts of a layer differ by heat alone: the hottest of each layer, in every number.
static void try_counts(struct search *s, uint32_t item)
{
    const struct plan_world *w = s->world;
    const uint32_t per_layer = w->n_experts / w->work.n_layers;
    if (item == w->n_groups + 1 + w->work.n_layers) {
        try_sizes(s);
        return;
    }
    if (item <= w->n_groups) {
        for (uint32_t to = 0; to <= w->profile.n_gpus; to++) {
            for (uint32_t l = 0; l < w->work.n_layers && item < w->n_groups; l++)
                if (w->group_of[l] == item)
                    plan_world_place(s->device, &w->work, l, to);
            if (item == w->n_groups)
                plan_world_place(s->device, &w->work, UNIT_NO_LAYER, to);
            try_counts(s, item + 1);
        }
        return;
    }
    const uint32_t l = item - w->n_groups - 1;
    const float *heat = w->heat ? w->heat + (size_t)l * per_layer : NULL;
    uint8_t *device = s->device + w->work.layers[l].first_expert;
    for (uint32_t n = 0; n <= per_layer; n++) {
        memset(device, 0, per_layer);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t hottest = PLAN_WORLD_LAYERS * 1000;
            for (uint32_t e = 0; e < per_layer; e++)
                if (!device[e] && (hottest >= per_layer || (heat && heat[e] > heat[hottest])))
                    hottest = e;
            device[hottest] = 1;
        }
        try_counts(s, item + 1);
    }
}

struct outcome {
    uint32_t n, n_fit, n_with_gpu, n_tried;
    double worst, worst_turn; // with what is preferred, and by time alone
};

// Plans and compares with the best of `try_from`; of some, whether a second search finds the same.
static void compare(struct outcome *out, const struct plan_world_size *size,
                    void (*try_from)(struct search *, uint32_t))
{
    struct plan_world *w = plan_world_open(size);
    struct search s = {.world = w,
                       .device = calloc(w->table.n_units + 1u, 1),
                       .best_score = INFINITY,
                       .best_turn_s = INFINITY};
    struct lode_error error = {0};
    struct plan plan, again;
    try_from(&s, 0);
    const int rc = plan_solve(&plan, &w->problem, &error);
    out->n++;
    out->n_tried += s.n_tried;
    if (isinf(s.best_score)) {
        cr_assert_eq(rc, LODE_ERR_MEMORY, "seed %u: nothing fits, but there is a plan", size->seed);
        cr_assert_not_null(strstr(error.text, "at least"), "%s", error.text);
    } else {
        cr_assert_eq(rc, 0, "seed %u: %s", size->seed, error.text);
        const double score = plan_world_check(&w->problem, &plan);
        out->worst_turn = fmax(out->worst_turn, plan.turn_s / s.best_turn_s);
        out->worst = fmax(out->worst, score / s.best_score);
        out->n_fit++;
        for (uint32_t g = 0; g < HOME_GPUS; g++)
            out->n_with_gpu += plan.homes.gpu_bytes[g] > 0;
        cr_expect_leq(score, s.best_score * HALF_A_PERCENT, "seed %u: %g s, the best of %u takes %g s",
                      size->seed, score, s.n_tried, s.best_score);
        if (size->seed % 4 == 0) {
            cr_assert_eq(plan_solve(&again, &w->problem, &error), 0, "%s", error.text);
            cr_assert_arr_eq(plan.homes.home, again.homes.home, w->table.n_units, "seed %u", size->seed);
            cr_assert(plan.batch == again.batch && plan.homes.ring_bytes == again.homes.ring_bytes);
            cr_assert_eq(plan.n_refused, again.n_refused);
            plan_free(&again);
        }
    }
    plan_free(&plan);
    free(s.device);
    plan_world_close(w);
}

static uint32_t draw(uint32_t seed, uint32_t what, uint32_t end)
{
    uint64_t x = (uint64_t)(seed * 31 + what) * 0x9e3779b97f4a7c15ull;
    x ^= x >> 31;
    return (uint32_t)((x * 0xbf58476d1ce4e5b9ull >> 33) % end);
}

static void tell(const struct outcome *o)
{
    cr_log_info(
        "%u instances, %u fit, %u GPUs used, %u placements; the worst is %.4f%% off, by time alone %.4f%%",
        o->n, o->n_fit, o->n_with_gpu, o->n_tried, 100 * (o->worst - 1), 100 * (o->worst_turn - 1));
    cr_expect_geq(o->n_fit, o->n / 2);
    cr_expect_leq(o->worst_turn, HALF_A_PERCENT / 0.98 / 0.99);
}

Test(plan_search, one_gpu_and_every_placement)
{
    struct outcome outcome = {0};
    for (uint32_t seed = 1; seed <= 120 / PLAN_WORLD_SHARE; seed++) {
        struct plan_world_size size = {.seed = seed,
                                       .n_layers = 2 + draw(seed, 0, 3),
                                       .n_gpus = 1,
                                       .n_batches = 1 + draw(seed, 1, 2),
                                       .heat = seed % 3 != 0,
                                       .shares_kv = seed % 4 == 0,
                                       .rows = seed % 5 == 0};
        size.n_experts = (11 - size.n_layers) / size.n_layers; // at most 2^11 placements
        size.n_experts -= draw(seed, 2, 2);
        compare(&outcome, &size, try_all);
    }
    tell(&outcome);
    cr_expect_geq(outcome.n_with_gpu, 60 / PLAN_WORLD_SHARE);
}

Test(plan_search, two_gpus_and_every_placement)
{
    struct outcome outcome = {0};
    for (uint32_t seed = 1001; seed <= 1000 + 80 / PLAN_WORLD_SHARE; seed++) {
        struct plan_world_size size = {.seed = seed,
                                       .n_layers = 2 + draw(seed, 0, 3),
                                       .n_gpus = 2,
                                       .n_batches = 1 + draw(seed, 1, 2),
                                       .heat = seed % 3 != 0,
                                       .shares_kv = seed % 4 == 0,
                                       .rows = seed % 5 == 0};
        size.n_experts = size.n_layers == 2 ? 2 : size.n_layers == 3 ? 1 : 0; // at most 3^7 placements
        compare(&outcome, &size, try_all);
    }
    tell(&outcome);
    cr_expect_geq(outcome.n_with_gpu, 60 / PLAN_WORLD_SHARE);
}

Test(plan_search, no_gpu_and_every_size)
{
    struct outcome outcome = {0};
    for (uint32_t seed = 2001; seed <= 2000 + 60 / PLAN_WORLD_SHARE; seed++) {
        const struct plan_world_size size = {.seed = seed,
                                             .n_layers = 2 + draw(seed, 0, 8),
                                             .n_experts = draw(seed, 1, 24),
                                             .n_batches = 3,
                                             .heat = seed % 2,
                                             .rows = seed % 5 == 0};
        compare(&outcome, &size, try_all);
    }
    tell(&outcome);
}

// Enough experts for a pool that does not hold all of them.
Test(plan_search, many_experts_and_every_number_of_the_hottest)
{
    struct outcome outcome = {0};
    for (uint32_t seed = 3001; seed <= 3000 + 60 / PLAN_WORLD_SHARE; seed++) {
        const struct plan_world_size size = {.seed = seed,
                                             .n_layers = 2,
                                             .n_experts = 12 + draw(seed, 1, 8),
                                             .n_gpus = 1,
                                             .n_batches = 1,
                                             .heat = seed % 2,
                                             .rows = seed % 5 == 0};
        compare(&outcome, &size, try_counts);
    }
    tell(&outcome);
    cr_expect_geq(outcome.n_with_gpu, 30 / PLAN_WORLD_SHARE);
}

// ---- splits by one number

struct walk {
    const struct plan_problem *problem;
    uint32_t first, end, at; // GPUs
    uint64_t left[HOME_GPUS];
};

static uint64_t gpu_bytes(const struct plan_problem *p, uint32_t layer, bool experts)
{
    uint64_t bytes = layer == UNIT_NO_LAYER ? 0 : p->kv_bytes[layer];
    const struct unit_table *table = p->workload->table;
    for (uint32_t u = 0; u < table->n_units; u++)
        if (table->units[u].layer == layer && table->units[u].class != UNIT_ROWS &&
            (experts || table->units[u].class != UNIT_EXPERT))
            for (uint32_t i = 0; i < table->units[u].n_parts; i++)
                bytes += (table->parts[table->units[u].first_part + i].bytes + LODE_DEVICE_SLACK +
                          LODE_DEVICE_ALIGN - 1) /
                         LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
    return bytes;
}

// 1 + the GPU, the next where one is full; 0: all are.
static uint32_t put(struct walk *walk, uint64_t bytes)
{
    for (; walk->at < walk->end; walk->at++)
        if (bytes <= walk->left[walk->at]) {
            walk->left[walk->at] -= bytes;
            return 1 + walk->at;
        }
    return 0;
}

// n layers with their experts; or all dense units, and the experts of the last n layers. Layers that share K
// and V lie together in these models only where all layers do: splits between them are left out.
static bool split(uint8_t *device, struct walk walk, uint32_t batch, bool whole, uint32_t n, bool head)
{
    const struct plan_problem *p = walk.problem;
    const uint32_t n_layers = p->workload->n_layers;
    memset(device, 0, p->workload->table->n_units);
    walk.at = walk.first;
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        const uint64_t scratch = p->batches[batch].gpu_scratch_bytes;
        walk.left[g] = p->vram_bytes[g] > scratch ? p->vram_bytes[g] - scratch : 0;
    }
    for (uint32_t l = 0; l < (whole ? n : n_layers); l++) {
        const bool experts = whole || l >= n_layers - n;
        const uint32_t to = put(&walk, gpu_bytes(p, l, experts));
        if (!to)
            return false;
        plan_world_place(device, p->workload, l, to);
        if (experts)
            plan_world_place_experts(device, p->workload, l, to);
    }
    const uint32_t to = head ? put(&walk, gpu_bytes(p, UNIT_NO_LAYER, false)) : 0;
    plan_world_place(device, p->workload, UNIT_NO_LAYER, to);
    return to || !head;
}

// The best of all, with any of the batches and the least ring.
static double best_split(const struct plan_problem *p, uint8_t *device)
{
    double best = INFINITY;
    const uint32_t n_gpus = p->profile->n_gpus;
    for (uint32_t first = 0; first < n_gpus; first++)
        for (uint32_t end = first + 1; end <= n_gpus; end += end + 1 < n_gpus ? n_gpus - end - 1 : 1)
            for (uint32_t kind = 0; kind < 4; kind++)
                for (uint32_t n = 0; n <= p->workload->n_layers; n++)
                    for (uint32_t batch = 0; batch < p->n_batches; batch++) {
                        const struct walk walk = {.problem = p, .first = first, .end = end};
                        double turn_s;
                        if (split(device, walk, batch, kind & 1, n, kind & 2) &&
                            plan_world_turn(&turn_s, p, device, batch, 0))
                            best = fmin(best, plan_world_score(p, turn_s, batch, 0));
                    }
    return best;
}

Test(plan_search, never_worse_than_a_split_by_one_number)
{
    uint32_t n_fit = 0;
    double gain = 0, worst = 0;
    for (uint32_t seed = 4001; seed <= 4000 + 120 / PLAN_WORLD_SHARE; seed++) {
        const struct plan_world_size size = {.seed = seed,
                                             .n_layers = 5 + draw(seed, 0, 20),
                                             .n_experts = seed % 4 ? 4 + draw(seed, 1, 44) : 0,
                                             .n_gpus = 1 + draw(seed, 2, 2),
                                             .n_batches = 2,
                                             .heat = seed % 3 != 0,
                                             .rows = seed % 5 == 0};
        struct plan_world *w = plan_world_open(&size);
        uint8_t *device = calloc(w->table.n_units + 1u, 1);
        struct lode_error error = {0};
        struct plan plan;
        const double best = best_split(&w->problem, device);
        const int rc = plan_solve(&plan, &w->problem, &error);
        if (isfinite(best)) {
            cr_assert_eq(rc, 0, "seed %u: %s", seed, error.text);
            const double score = plan_world_check(&w->problem, &plan);
            cr_assert_leq(score, best * (1 + 1e-6), "seed %u: %g s, a split takes %g s", seed, score, best);
            gain += log(best / score);
            worst = fmax(worst, score / best);
            n_fit++;
        }
        plan_free(&plan);
        free(device);
        plan_world_close(w);
    }
    cr_log_info("%u instances: on average %.1f%% faster than the best split, at least %.2f%%", n_fit,
                100 * (exp(gain / n_fit) - 1), 100 * (1 / worst - 1));
    cr_expect_geq(n_fit, 70 / PLAN_WORLD_SHARE);
}
