// Single moves from the best choices that have been found, until none gains: another batch or ring, a group
// or a layer's experts to another device, experts one by one and in pairs.
#include "placement/plan_search.h"

#include <stdlib.h>

#define MANY 16            // from so many experts on some are tried together
#define ONE_BY_ONE 64      // up to so many experts each is tried
#define FEW_GROUPS 8       // that leave time to begin anew
#define MOST_FRUITLESS 250 // looks elsewhere that found nothing

struct polish {
    struct plan_search *search;
    struct plan_choice *best, *to; // `to` is what is tried
    bool gained;
};

static bool exhausted(const struct polish *p)
{
    return p->search->space.effort >= p->search->space.most_effort;
}

static void begin(struct polish *p)
{
    plan_choice_copy(p->to, p->best, &p->search->space);
}

static int judge(struct polish *p, struct lode_error *error)
{
    if (exhausted(p))
        return 0;
    int rc = plan_evaluate(p->to, &p->search->space, &p->search->why);
    if (rc) {
        if (error)
            *error = p->search->why;
        return rc;
    }
    if (plan_choice_better(p->to, p->best)) {
        plan_choice_copy(p->best, p->to, &p->search->space);
        p->gained = true;
    }
    return 0;
}

// ---- batch and ring

static int move_sizes(struct polish *p, struct lode_error *error)
{
    const struct plan_problem *problem = p->search->space.problem;
    int rc = 0;
    for (uint32_t batch = 0; batch < problem->n_batches && !rc; batch++) {
        begin(p);
        p->to->batch = batch;
        if (batch != p->best->batch)
            rc = judge(p, error);
    }
    for (uint32_t ring = 0; ring < PLAN_RINGS && !problem->ring_bytes && !rc; ring++) {
        begin(p);
        p->to->ring = ring;
        if (ring != p->best->ring)
            rc = judge(p, error);
    }
    return rc;
}

// ---- groups

static void move_experts(struct plan_choice *choice, const struct plan_space *s, uint32_t group,
                         uint32_t device)
{
    for (uint32_t l = 0; l < s->work->n_layers; l++) {
        const struct work_layer *layer = &s->work->layers[l];
        for (uint32_t e = 0; e < layer->n_experts && s->layer_group[l] == group; e++)
            choice->device[layer->first_expert + e] = (uint8_t)device;
    }
}

static uint32_t device_at(const struct plan_space *s, uint32_t i)
{
    return i ? 1 + s->gpus[i - 1] : 0;
}

static uint32_t mask_of(const struct plan_space *s)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < s->n_gpus; i++)
        mask |= 1u << s->gpus[i];
    return mask;
}

// With its experts, without, and with experts chosen anew.
static int move_group(struct polish *p, uint32_t group, uint32_t device, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    const bool experts = group + 1 < s->n_groups && s->groups[group].experts_gpu_bytes;
    int rc = 0;
    for (int way = 0; way < (s->n_experts ? 4 : 1) && !rc; way++) {
        begin(p);
        if (way < 3)
            plan_place_group(p->to, s, group, device);
        if (way == 1 || way == 3) // 3: the experts alone
            move_experts(p->to, s, group, device);
        if ((way == 1 || way == 3) && !experts)
            continue;
        if (way == 2)
            rc = plan_fill_experts(p->to, s, mask_of(s), 0, error);
        if (!rc && !plan_choice_same(p->to, p->best, s))
            rc = judge(p, error);
    }
    return rc;
}

static int move_groups(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t group = s->n_groups; group-- > 0 && !rc && !exhausted(p);) // the head first
        for (uint32_t i = 0; i <= s->n_gpus && !rc; i++)
            if (p->best->place[group] != device_at(s, i) || s->groups[group].experts_gpu_bytes)
                rc = move_group(p, group, device_at(s, i), error);
    return rc;
}

static int swap_groups(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t a = 0; a < s->n_groups && !rc; a++)
        for (uint32_t b = a + 1; b < s->n_groups && !rc && !exhausted(p); b++) {
            const uint32_t at_a = p->best->place[a], at_b = p->best->place[b];
            for (int way = 0; way < (s->n_experts ? 2 : 1) && at_a != at_b && !rc; way++) {
                begin(p);
                plan_place_group(p->to, s, a, at_b);
                plan_place_group(p->to, s, b, at_a);
                if (way)
                    rc = plan_fill_experts(p->to, s, mask_of(s), 0, error);
                if (!rc)
                    rc = judge(p, error);
            }
        }
    return rc;
}

// ---- experts

static int move_expert(struct polish *p, uint32_t unit, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t i = 0; i <= s->n_gpus && !rc; i++) {
        begin(p);
        p->to->device[unit] = (uint8_t)device_at(s, i);
        if (p->to->device[unit] != p->best->device[unit])
            rc = judge(p, error);
    }
    return rc;
}

// Each two places change, and each two go to the same device.
static int move_pair(struct polish *p, uint32_t a, uint32_t b, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    if (p->best->device[a] != p->best->device[b]) {
        begin(p);
        p->to->device[a] = p->best->device[b];
        p->to->device[b] = p->best->device[a];
        return judge(p, error);
    }
    for (uint32_t i = 0; i <= s->n_gpus && !rc; i++) {
        begin(p);
        p->to->device[a] = p->to->device[b] = (uint8_t)device_at(s, i);
        if (p->to->device[a] != p->best->device[a])
            rc = judge(p, error);
    }
    return rc;
}

// To a GPU that is full, for the coldest of another layer there.
static int move_for_others(struct polish *p, const struct plan_expert *expert, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t i = 1; i <= s->n_gpus && !rc; i++) {
        struct plan_room room;
        begin(p);
        p->to->device[expert->unit] = (uint8_t)device_at(s, i);
        plan_count_room(&room, s, p->to);
        const uint64_t bytes = room.short_bytes;
        for (uint32_t l = 0; l < s->work->n_layers && bytes && !rc; l++) {
            const uint32_t to = device_at(s, i);
            uint64_t freed = 0;
            begin(p);
            for (uint32_t rank = s->work->layers[l].n_experts; rank-- > 0 && freed < bytes;) {
                const uint32_t unit = s->experts[s->layer_expert[l] + rank].unit;
                if (p->to->device[unit] != to || unit == expert->unit)
                    continue;
                p->to->device[unit] = 0;
                freed += s->unit_bytes[unit];
            }
            p->to->device[expert->unit] = (uint8_t)to;
            if (freed >= bytes && p->best->device[expert->unit] != to)
                rc = judge(p, error);
        }
    }
    return rc;
}

static int move_single_experts(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t e = 0; e < s->n_experts && !rc && !exhausted(p); e++) {
        rc = move_expert(p, s->experts[e].unit, error);
        if (!rc)
            rc = move_for_others(p, &s->experts[e], error);
    }
    return rc;
}

static int move_pairs(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t a = 0; a < s->n_experts && !rc; a++)
        for (uint32_t b = a + 1; b < s->n_experts && !rc && !exhausted(p); b++)
            rc = move_pair(p, s->experts[a].unit, s->experts[b].unit, error);
    return rc;
}

// The hottest n of a layer's on `from` go to `to`; the coldest, where they go to the host.
static bool move_some(struct plan_choice *choice, const struct plan_space *s, uint32_t l, uint32_t from,
                      uint32_t to, uint32_t n)
{
    const uint32_t n_experts = s->work->layers[l].n_experts;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < n_experts && moved < n; i++) {
        const uint32_t rank = to ? i : n_experts - 1 - i;
        uint8_t *device = &choice->device[s->experts[s->layer_expert[l] + rank].unit];
        if (*device == from) {
            *device = (uint8_t)to;
            moved++;
        }
    }
    return moved > 0;
}

// An eighth of all layers' experts at once.
static int move_many_experts(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    for (uint32_t share = 8; share <= 32 && !rc; share *= 2)
        for (uint32_t i = 0; i <= s->n_gpus && !rc; i++)
            for (uint32_t k = 0; k <= s->n_gpus && !rc && !exhausted(p); k++) {
                bool moved = false;
                begin(p);
                for (uint32_t l = 0; l < s->work->n_layers && i != k; l++)
                    moved |= move_some(p->to, s, l, device_at(s, i), device_at(s, k),
                                       (s->work->layers[l].n_experts + share - 1) / share);
                if (moved)
                    rc = judge(p, error);
            }
    return rc;
}

// ---- all of it

enum thorough { GROUPS_FIRST, EXPERTS_FIRST, PAIRS_TOO };

static int polish_experts(struct polish *p, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = s->n_experts > MANY ? move_many_experts(p, error) : 0;
    return !rc && s->n_experts <= ONE_BY_ONE ? move_single_experts(p, error) : rc;
}

static int polish_groups(struct polish *p, struct lode_error *error)
{
    int rc = move_groups(p, error);
    return rc ? rc : swap_groups(p, error);
}

// Experts first: a group that moves drags what is around it along, and leaves what experts alone could do.
static int polish_one(struct polish *p, enum thorough how, struct lode_error *error)
{
    const struct plan_space *s = &p->search->space;
    int rc = 0;
    do {
        p->gained = false;
        rc = move_sizes(p, error);
        if (!s->n_gpus || rc)
            continue;
        rc = how == EXPERTS_FIRST ? polish_experts(p, error) : polish_groups(p, error);
        if (!rc && !(how == EXPERTS_FIRST && p->gained))
            rc = how == EXPERTS_FIRST ? polish_groups(p, error) : polish_experts(p, error);
        if (!rc && s->n_experts <= ONE_BY_ONE && how == PAIRS_TOO && !p->gained)
            rc = move_pairs(p, error);
    } while (!rc && p->gained && !exhausted(p));
    return rc;
}

// ---- from elsewhere

static uint32_t draw(struct plan_search *search, uint32_t end)
{
    search->random = search->random * 1664525 + 1013904223; // the same in every search
    return (uint32_t)((uint64_t)(search->random >> 8) * end >> 24);
}

// Some groups and experts go anywhere.
static void kick(struct plan_search *search, struct plan_choice *choice)
{
    const struct plan_space *s = &search->space;
    for (uint32_t i = 1 + draw(search, 3); i > 0; i--) {
        const uint32_t to = device_at(s, draw(search, 1 + s->n_gpus));
        const uint32_t from = device_at(s, draw(search, 1 + s->n_gpus));
        const uint32_t l = draw(search, s->work->n_layers);
        if (s->n_experts && draw(search, 2))
            move_some(choice, s, l, from, to, 1 + draw(search, (s->work->layers[l].n_experts + 2) / 3));
        else
            plan_place_group(choice, s, draw(search, s->n_groups), to);
    }
}

// All go anywhere; of a layer's experts none, all, or some of the hottest.
static void restart(struct plan_search *search, struct plan_choice *choice)
{
    const struct plan_space *s = &search->space;
    for (uint32_t i = 0; i < s->n_groups; i++)
        plan_place_group(choice, s, i, device_at(s, draw(search, 1 + s->n_gpus)));
    for (uint32_t l = 0; l < s->work->n_layers; l++) {
        const uint32_t n = s->work->layers[l].n_experts;
        for (uint32_t e = 0; e < n; e++)
            choice->device[s->work->layers[l].first_expert + e] = 0;
        const uint32_t way = draw(search, 4), to = device_at(s, 1 + draw(search, s->n_gpus));
        move_some(choice, s, l, 0, to, way == 0 ? 0 : way == 1 ? n : draw(search, n + 1));
    }
}

// Where single moves end there may be something better a few moves away.
static int look_elsewhere(struct plan_search *search, struct lode_error *error)
{
    struct polish p = {.search = search, .to = &search->trial, .best = &search->other};
    const bool few = search->space.n_groups <= FEW_GROUPS;
    int rc = 0;
    for (uint32_t fruitless = 0; fruitless < MOST_FRUITLESS && !rc && !exhausted(&p); fruitless++) {
        plan_choice_copy(p.best, &search->kept[0], &search->space);
        if (few && fruitless % 2)
            restart(search, p.best);
        else
            kick(search, p.best);
        if (draw(search, 2))
            rc = plan_fill_experts(p.best, &search->space, mask_of(&search->space), draw(search, PLAN_BIASES),
                                   error);
        if (!rc)
            rc = plan_evaluate(p.best, &search->space, &search->why);
        if (!rc)
            rc = polish_one(&p, fruitless / 2 % 2 ? EXPERTS_FIRST : GROUPS_FIRST, error);
        if (!rc && plan_choice_better(p.best, &search->kept[0])) {
            plan_choice_copy(&search->kept[0], p.best, &search->space);
            fruitless = 0;
        }
    }
    return rc;
}

int plan_polish(struct plan_search *search, struct lode_error *error)
{
    struct polish p = {.search = search, .to = &search->trial};
    int rc = 0;
    for (uint32_t i = 0; i < search->n_kept && !rc; i++) {
        p.best = &search->kept[i];
        rc = polish_one(&p, PAIRS_TOO, error);
    }
    for (uint32_t i = 1; i < search->n_kept; i++)
        if (plan_choice_better(&search->kept[i], &search->kept[0])) {
            const struct plan_choice first = search->kept[0];
            search->kept[0] = search->kept[i];
            search->kept[i] = first;
        }
    return rc || !search->n_kept || !search->space.n_gpus ? rc : look_elsewhere(search, error);
}
