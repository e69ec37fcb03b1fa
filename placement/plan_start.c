// The splits that one number describes, as people set them by hand: whole layers on the GPU, or all dense
// units there and the experts of some layers. No plan may be worse than the best of them.
#include "placement/plan_search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// Up to so many values of the number all are looked at; of more, some and then those around the best.
#define LOOK_AT_ALL 12
#define LOOK_ON_EACH 1000 // units

enum split { WHOLE_LAYERS, DENSE_AND_EXPERTS };

struct family {
    enum split split;
    uint32_t n_gpus, gpus[HOME_GPUS]; // filled one after the other
    const char *on;                   // "the GPU"
};

static void place_experts(struct plan_choice *choice, const struct plan_space *s, uint32_t group,
                          uint32_t device)
{
    for (uint32_t l = 0; l < s->work->n_layers; l++) {
        const struct work_layer *layer = &s->work->layers[l];
        for (uint32_t e = 0; e < layer->n_experts && s->layer_group[l] == group; e++)
            choice->device[layer->first_expert + e] = (uint8_t)device;
    }
}

// Groups in a row, the next GPU where one is full. False when they do not fit.
struct walk {
    const struct family *family;
    uint32_t at;
    uint64_t left_bytes[HOME_GPUS];
};

static uint32_t next_device(struct walk *walk, uint64_t bytes)
{
    for (; walk->at < walk->family->n_gpus; walk->at++) {
        const uint32_t g = walk->family->gpus[walk->at];
        if (bytes > walk->left_bytes[g])
            continue;
        walk->left_bytes[g] -= bytes;
        return 1 + g;
    }
    return 0;
}

// The first n_groups groups, the experts of those from first_experts on, and the head if it is wanted.
static bool draw(struct plan_choice *out, const struct plan_search *search, const struct family *family,
                 uint32_t n_groups, uint32_t first_experts, bool head)
{
    const struct plan_space *s = &search->space;
    const struct plan_problem *p = s->problem;
    const uint64_t scratch = p->batches[search->start_batch].gpu_scratch_bytes;
    struct walk walk = {.family = family};
    for (uint32_t g = 0; g < HOME_GPUS; g++)
        walk.left_bytes[g] = p->vram_bytes[g] > scratch ? p->vram_bytes[g] - scratch : 0;
    plan_choice_clear(out, s);
    out->batch = search->start_batch;
    for (uint32_t i = 0; i < n_groups; i++) {
        const struct plan_group *group = &s->groups[i];
        const uint64_t experts = i >= first_experts ? group->experts_gpu_bytes : 0;
        if (group->gpu_bytes > UINT64_MAX - experts)
            return false;
        const uint32_t device = next_device(&walk, group->gpu_bytes + experts);
        if (!device)
            return false;
        plan_place_group(out, s, i, device);
        if (i >= first_experts)
            place_experts(out, s, i, device);
    }
    if (!head)
        return true;
    const uint32_t device = next_device(&walk, s->groups[s->n_groups - 1].gpu_bytes);
    if (device)
        plan_place_group(out, s, s->n_groups - 1, device);
    return device != 0;
}

// The number n of a family; one more than the groups: with the head. False when it does not fit.
static bool draw_split(struct plan_choice *out, const struct plan_search *search, const struct family *family,
                       uint32_t n)
{
    const uint32_t groups = search->space.n_groups - 1;
    if (family->split == WHOLE_LAYERS)
        return draw(out, search, family, n > groups ? groups : n, 0, n > groups);
    return draw(out, search, family, groups, groups - n, true) ||
           draw(out, search, family, groups, groups - n, false);
}

static uint32_t count_layers(const struct plan_space *s, uint32_t from, uint32_t to)
{
    uint32_t n = 0;
    for (uint32_t i = from; i < to; i++)
        n += s->groups[i].n_layers;
    return n;
}

static void name_split(char *out, size_t capacity, const struct plan_search *search,
                       const struct family *family, uint32_t n)
{
    const struct plan_space *s = &search->space;
    const uint32_t groups = s->n_groups - 1, layers = s->work->n_layers;
    if (family->split == WHOLE_LAYERS && n > groups)
        snprintf(out, capacity, "everything on %s", family->on);
    else if (family->split == WHOLE_LAYERS)
        snprintf(out, capacity, "whole layers on %s, %u of %u", family->on, count_layers(s, 0, n), layers);
    else
        snprintf(out, capacity, "all dense layers on %s, experts of %u layers", family->on,
                 count_layers(s, groups - n, groups));
}

// The times of a family, each reckoned once; NAN: not yet.
static int score_of(double *scores, struct plan_search *search, const struct family *family, uint32_t n,
                    struct lode_error *error)
{
    if (!isnan(scores[n]))
        return 0;
    scores[n] = INFINITY;
    if (!draw_split(&search->trial, search, family, n))
        return 0;
    int rc = plan_try(search, error);
    if (!rc && !search->trial.short_bytes)
        scores[n] = search->trial.score;
    return rc;
}

// All numbers up to `most`, or some and then the neighbours of the best at half the distance each time.
static int scan(uint32_t *out_best, double *scores, struct plan_search *search, const struct family *family,
                uint32_t most, struct lode_error *error)
{
    const bool all = most <= LOOK_AT_ALL || search->space.n_units <= LOOK_ON_EACH;
    uint32_t step = all ? 1 : (most + 3) / 4, best = most;
    int rc = 0;
    for (uint32_t n = most; !rc; n -= step) {
        rc = score_of(scores, search, family, n, error);
        best = scores[n] < scores[best] ? n : best;
        if (n < step)
            break;
    }
    while (!rc && step > 1) {
        step = (step + 1) / 2;
        const uint32_t around[] = {best >= step ? best - step : best,
                                   best + step <= most ? best + step : best};
        for (int i = 0; i < 2 && !rc; i++) {
            rc = score_of(scores, search, family, around[i], error);
            best = scores[around[i]] < scores[best] ? around[i] : best;
        }
    }
    *out_best = best;
    return rc;
}

static int try_family(struct plan_search *search, const struct family *family, struct lode_error *error)
{
    const uint32_t groups = search->space.n_groups - 1;
    const uint32_t end = family->split == WHOLE_LAYERS ? groups + 1 : groups;
    char what[96];
    uint32_t most = 0, best;
    bool any = false;
    for (uint32_t n = 0; n <= end; n++)
        if (draw_split(&search->trial, search, family, n)) {
            most = n;
            any = true;
        }
    if (!any || (family->split == DENSE_AND_EXPERTS && !search->space.n_experts))
        return 0;
    double *scores = malloc((end + (size_t)1) * sizeof *scores);
    if (!scores)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to compare %u splits", end);
    for (uint32_t n = 0; n <= end; n++)
        scores[n] = NAN;
    int rc = scan(&best, scores, search, family, most, error);
    if (!rc && isfinite(scores[best]) && (best || family->split == DENSE_AND_EXPERTS)) {
        draw_split(&search->trial, search, family, best);
        name_split(what, sizeof what, search, family, best);
        rc = plan_add_option(search, what, true, error);
    }
    if (!rc && family->split == WHOLE_LAYERS && most < end) {
        draw(&search->trial, search, family, 0, 0, false);
        name_split(what, sizeof what, search, family, end);
        rc = plan_add_option(search, what, false, error);
    }
    free(scores);
    return rc;
}

static int try_on(struct plan_search *search, const uint32_t *gpus, uint32_t n_gpus, const char *on,
                  struct lode_error *error)
{
    struct family family = {.n_gpus = n_gpus, .on = on};
    int rc = 0;
    for (uint32_t i = 0; i < n_gpus; i++)
        family.gpus[i] = gpus[i];
    for (int split = WHOLE_LAYERS; split <= DENSE_AND_EXPERTS && !rc; split++) {
        family.split = (enum split)split;
        rc = try_family(search, &family, error);
    }
    return rc;
}

int plan_try_splits(struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    plan_choice_clear(&search->trial, s);
    search->trial.batch = search->start_batch;
    int rc = plan_try(search, error);
    if (!rc && s->n_gpus)
        rc = plan_add_option(search, "no GPU", true, error);
    if (!rc && s->n_gpus)
        rc = try_on(search, s->gpus, s->n_gpus, s->n_gpus == 1 ? "the GPU" : "the GPUs", error);
    // Of many units there is time for one way to fill the GPUs.
    for (uint32_t i = 0; i < s->n_gpus && s->n_gpus > 1 && s->n_units <= LOOK_ON_EACH && !rc; i++) {
        char on[16];
        snprintf(on, sizeof on, "GPU %u", s->gpus[i]);
        rc = try_on(search, &s->gpus[i], 1, on, error);
    }
    return rc;
}
