// What couples the units, enumerated: how many groups of layers each GPU takes and from which end, where the
// head lies, which GPUs take experts, the batch and the ring. Such a sketch becomes a choice by filling the
// memory that is left with experts. Sketches far apart come first; from the best of them the search goes on
// by steps that halve.
#include "placement/plan_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_SKETCHES 4096
#define FEW_UNITS 1000 // that leave time for more starts
#define CLIMBS 6       // from the best so many

// Of what may be computed, what is left for plan_polish: two fifths.
#define CLIMB_SHARE 0.6

struct plan_sketch {
    uint32_t n[HOME_GPUS]; // groups, by the GPU
    uint8_t from_end;      // the last groups of the model, not the first
    uint8_t rotation;      // the GPU that stands first
    uint8_t head;          // 0 or 1 + g
    uint8_t mask;          // GPUs that take experts
    uint8_t batch, ring, bias;
    // The answer.
    uint64_t short_bytes;
    double score;
};

static bool better(const struct plan_sketch *a, const struct plan_sketch *b)
{
    if (a->short_bytes != b->short_bytes)
        return a->short_bytes < b->short_bytes;
    return a->score < b->score * (1 - 1e-7);
}

static bool same(const struct plan_sketch *a, const struct plan_sketch *b)
{
    return !memcmp(a->n, b->n, sizeof a->n) && a->from_end == b->from_end && a->rotation == b->rotation &&
           a->head == b->head && a->mask == b->mask && a->batch == b->batch && a->ring == b->ring &&
           a->bias == b->bias;
}

static bool exhausted(const struct plan_search *search)
{
    return (double)search->space.effort >= CLIMB_SHARE * (double)search->space.most_effort;
}

// False when there are not so many groups.
static bool draw(struct plan_choice *out, const struct plan_space *s, const struct plan_sketch *sketch)
{
    const uint32_t groups = s->n_groups - 1;
    uint32_t at = 0;
    plan_choice_clear(out, s);
    out->batch = sketch->batch;
    out->ring = sketch->ring;
    for (uint32_t i = 0; i < s->n_gpus; i++) {
        const uint32_t g = s->gpus[(i + sketch->rotation) % s->n_gpus];
        for (uint32_t k = 0; k < sketch->n[g]; k++, at++) {
            if (at >= groups)
                return false;
            plan_place_group(out, s, sketch->from_end ? groups - 1 - at : at, 1 + g);
        }
    }
    plan_place_group(out, s, groups, sketch->head);
    return true;
}

// Fills in the sketch's answer.
static int try_sketch(struct plan_search *search, struct plan_sketch *sketch, struct lode_error *error)
{
    for (uint32_t i = 0; i < search->n_sketches; i++)
        if (same(&search->sketches[i], sketch)) {
            *sketch = search->sketches[i];
            return 0;
        }
    sketch->short_bytes = PLAN_IMPOSSIBLE;
    sketch->score = INFINITY;
    if (draw(&search->trial, &search->space, sketch)) {
        struct plan_room room;
        plan_count_room(&room, &search->space, &search->trial);
        bool full = false; // without any expert
        for (uint32_t g = 0; g < HOME_GPUS; g++)
            full = full || room.gpu_bytes[g] > search->space.problem->vram_bytes[g];
        int rc =
            full ? 0 : plan_fill_experts(&search->trial, &search->space, sketch->mask, sketch->bias, error);
        if (!rc)
            rc = plan_try(search, error);
        if (rc)
            return rc;
        sketch->short_bytes = search->trial.short_bytes;
        sketch->score = search->trial.score;
    }
    if (search->n_sketches < MOST_SKETCHES)
        search->sketches[search->n_sketches++] = *sketch;
    return 0;
}

// Goes on from `best` where the other is better.
static int step_to(struct plan_search *search, struct plan_sketch *best, struct plan_sketch to, bool *gained,
                   struct lode_error *error)
{
    if (exhausted(search))
        return 0;
    int rc = try_sketch(search, &to, error);
    if (!rc && better(&to, best)) {
        *best = to;
        *gained = true;
    }
    return rc;
}

// ---- steps

// Groups more or less on a GPU, or from one to another.
static int step_counts(struct plan_search *search, struct plan_sketch *best, uint32_t step, bool *gained,
                       struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    int rc = 0;
    for (uint32_t i = 0; i < s->n_gpus && !rc; i++) {
        const uint32_t g = s->gpus[i];
        struct plan_sketch to = *best;
        to.n[g] += step;
        rc = step_to(search, best, to, gained, error);
        to = *best;
        to.n[g] -= to.n[g] < step ? to.n[g] : step;
        if (!rc)
            rc = step_to(search, best, to, gained, error);
        for (uint32_t k = 0; k < s->n_gpus && !rc; k++) {
            const uint32_t h = s->gpus[k];
            to = *best;
            const uint32_t n = to.n[g] < step ? to.n[g] : step;
            to.n[g] -= n;
            to.n[h] += n;
            if (h != g && n)
                rc = step_to(search, best, to, gained, error);
        }
    }
    return rc;
}

static int step_kinds(struct plan_search *search, struct plan_sketch *best, bool *gained,
                      struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    const struct plan_problem *p = s->problem;
    int rc = 0;
    struct plan_sketch to;
    for (uint32_t i = 0; i <= s->n_gpus && !rc; i++) {
        to = *best;
        to.head = i ? (uint8_t)(1 + s->gpus[i - 1]) : 0;
        rc = step_to(search, best, to, gained, error);
    }
    for (uint32_t i = 0; i < s->n_gpus && !rc && s->n_experts; i++) {
        to = *best;
        to.mask ^= (uint8_t)(1u << s->gpus[i]);
        rc = step_to(search, best, to, gained, error);
    }
    for (uint8_t bias = 0; bias < PLAN_BIASES && !rc && s->n_experts && best->mask; bias++) {
        to = *best;
        to.bias = bias;
        rc = step_to(search, best, to, gained, error);
    }
    for (uint8_t turn = 0; turn < 2 && !rc; turn++) {
        to = *best;
        to.from_end = turn;
        rc = step_to(search, best, to, gained, error);
    }
    for (uint8_t rotation = 0; rotation < s->n_gpus && s->n_gpus > 1 && !rc; rotation++) {
        to = *best;
        to.rotation = rotation;
        rc = step_to(search, best, to, gained, error);
    }
    for (uint8_t batch = 0; batch < p->n_batches && !rc; batch++) {
        to = *best;
        to.batch = batch;
        rc = step_to(search, best, to, gained, error);
    }
    for (uint8_t ring = 0; ring < PLAN_RINGS && !p->ring_bytes && !rc; ring++) {
        to = *best;
        to.ring = ring;
        rc = step_to(search, best, to, gained, error);
    }
    return rc;
}

static int climb_from(struct plan_search *search, struct plan_sketch best, struct lode_error *error)
{
    uint32_t step = search->space.n_groups / 4;
    step = step ? step : 1;
    for (;;) {
        bool gained = false;
        int rc = step_counts(search, &best, step, &gained, error);
        if (!rc && (step == 1 || gained))
            rc = step_kinds(search, &best, &gained, error);
        if (rc)
            return rc;
        if (gained && !exhausted(search))
            continue;
        if (step == 1 || exhausted(search))
            return 0;
        step /= 2;
    }
}

// ---- starts

// As many groups as fit on the GPUs of a mask, in their order, beside the head if that lies there.
static void fill_groups(struct plan_sketch *sketch, const struct plan_space *s, uint32_t mask)
{
    const struct plan_problem *p = s->problem;
    const uint64_t scratch = p->batches[sketch->batch].gpu_scratch_bytes;
    uint32_t at = 0;
    memset(sketch->n, 0, sizeof sketch->n);
    for (uint32_t i = 0; i < s->n_gpus; i++) {
        const uint32_t g = s->gpus[i];
        uint64_t left = p->vram_bytes[g] > scratch ? p->vram_bytes[g] - scratch : 0;
        const uint64_t head = sketch->head == 1 + g ? s->groups[s->n_groups - 1].gpu_bytes : 0;
        left -= head < left ? head : left;
        while (mask >> g & 1 && at < s->n_groups - 1 && s->groups[at].gpu_bytes <= left) {
            left -= s->groups[at++].gpu_bytes;
            sketch->n[g]++;
        }
    }
}

struct starts {
    struct plan_sketch best[CLIMBS];
    uint32_t n;
};

static int start_at(struct starts *starts, struct plan_search *search, struct plan_sketch sketch,
                    struct lode_error *error)
{
    int rc = try_sketch(search, &sketch, error);
    if (rc)
        return rc;
    uint32_t at = starts->n;
    for (uint32_t i = 0; i < starts->n; i++)
        if (same(&starts->best[i], &sketch))
            return 0;
    while (at > 0 && better(&sketch, &starts->best[at - 1]))
        at--;
    if (at == CLIMBS)
        return 0;
    starts->n += starts->n < CLIMBS;
    for (uint32_t i = starts->n - 1; i > at; i--)
        starts->best[i] = starts->best[i - 1];
    starts->best[at] = sketch;
    return 0;
}

// All, half, a quarter and none of the groups that fit; with the head and without.
static int start_on(struct starts *starts, struct plan_search *search, uint32_t mask, uint32_t last,
                    struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    int rc = 0;
    for (int with_head = 1; with_head >= 0 && !rc; with_head--) {
        struct plan_sketch sketch = {.head = with_head ? (uint8_t)(1 + last) : 0,
                                     .mask = (uint8_t)mask,
                                     .batch = (uint8_t)search->start_batch};
        fill_groups(&sketch, s, mask);
        for (int part = 0; part < 4 && !rc; part++) {
            struct plan_sketch to = sketch;
            for (uint32_t g = 0; g < HOME_GPUS; g++)
                to.n[g] = part == 3 ? 0 : to.n[g] >> part;
            rc = start_at(starts, search, to, error);
            to.from_end = 1;
            if (!rc && s->n_units <= FEW_UNITS)
                rc = start_at(starts, search, to, error);
        }
        sketch.bias = PLAN_BIASES - 1;
        if (!rc && s->n_experts && with_head)
            rc = start_at(starts, search, sketch, error);
    }
    return rc;
}

int plan_sketches_open(struct plan_search *search, struct lode_error *error)
{
    search->sketches = malloc(MOST_SKETCHES * sizeof *search->sketches);
    return search->sketches ? 0 : lode_fail(error, LODE_ERR_MEMORY, "no memory to search for a plan");
}

int plan_climb(struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    struct starts starts = {.n = 0};
    uint32_t all = 0;
    int rc = start_at(&starts, search, (struct plan_sketch){.batch = (uint8_t)search->start_batch}, error);
    for (uint32_t i = 0; i < s->n_gpus; i++)
        all |= 1u << s->gpus[i];
    if (!rc && s->n_gpus)
        rc = start_on(&starts, search, all, s->gpus[s->n_gpus - 1], error);
    for (uint32_t i = 0; i < s->n_gpus && s->n_gpus > 1 && !rc; i++)
        rc = start_on(&starts, search, 1u << s->gpus[i], s->gpus[i], error);
    for (uint32_t i = 0; i < starts.n && !rc; i++)
        rc = climb_from(search, starts.best[i], error);
    return rc;
}
