// What was considered and is not the plan: the best splits by one number, another batch, another ring.
#include "base/bytes_text.h"
#include "placement/plan_search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int plan_add_option(struct plan_search *search, const char *what, bool fits, struct lode_error *error)
{
    const uint32_t most = sizeof search->options / sizeof *search->options;
    struct plan_choice *trial = &search->trial;
    int rc = 0;
    if (!fits)
        trial->turn_s = INFINITY;
    else if (!isfinite(trial->turn_s))
        rc = plan_evaluate(trial, &search->space, error);
    for (uint32_t i = 0; i < search->n_options && fits && !rc; i++)
        if (plan_choice_same(trial, &search->options[i].choice, &search->space))
            return 0;
    if (rc || search->n_options == most)
        return rc;
    struct plan_option *option = &search->options[search->n_options];
    rc = plan_choice_open(&option->choice, &search->space, error);
    if (rc)
        return rc;
    search->n_options++;
    plan_choice_copy(&option->choice, trial, &search->space);
    snprintf(option->what, sizeof option->what, "%s", what);
    return 0;
}

static int add_batches(struct plan_search *search, struct lode_error *error)
{
    const struct plan_problem *p = search->space.problem;
    int rc = 0;
    for (uint32_t batch = 0; batch < p->n_batches && !rc; batch++) {
        char what[96];
        plan_choice_copy(&search->trial, &search->kept[0], &search->space);
        search->trial.batch = batch;
        search->trial.turn_s = INFINITY;
        snprintf(what, sizeof what, "prefill in steps of %u", p->batches[batch].tokens);
        if (batch != search->kept[0].batch)
            rc = plan_add_option(search, what, true, error);
    }
    return rc;
}

static int add_rings(struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    int rc = 0;
    for (uint32_t ring = 0; ring < PLAN_RINGS && !rc && !s->problem->ring_bytes; ring++) {
        struct homes homes;
        char what[96];
        plan_choice_copy(&search->trial, &search->kept[0], s);
        search->trial.ring = ring;
        search->trial.turn_s = INFINITY;
        if (ring == search->kept[0].ring)
            continue;
        rc = plan_divide(&homes, &search->trial, s, error);
        snprintf(what, sizeof what, "a ring of %s", bytes_text(homes.ring_bytes).text);
        const bool streams = !rc && homes.home && homes.ring_bytes;
        homes_free(&homes);
        if (streams)
            rc = plan_add_option(search, what, true, error);
    }
    return rc;
}

// "everything in RAM", where it does not fit.
static int add_all_in_ram(struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    struct plan_room room;
    plan_choice_clear(&search->trial, s);
    plan_count_room(&room, s, &search->trial);
    if (!room.short_bytes && homes_full_bytes(s->work->table, true) <= room.weights_ram_bytes)
        return 0;
    return plan_add_option(search, "everything in RAM", false, error);
}

static int best_first(const void *a, const void *b)
{
    const struct plan_refused *x = a, *y = b;
    if (x->fits != y->fits)
        return x->fits ? -1 : 1;
    return x->fits ? (x->turn_s > y->turn_s) - (x->turn_s < y->turn_s) : 0;
}

// Two that lead to the same homes are one: rings that cannot grow, for example.
static bool like_another(const struct plan_search *search, uint32_t at)
{
    const struct plan_option *option = &search->options[at];
    const struct plan_choice *plan = &search->kept[0], *choice = &option->choice;
    if (!isfinite(choice->turn_s))
        return false;
    const bool same_ring = choice->ring != plan->ring && choice->turn_s == plan->turn_s;
    if (plan_choice_same(choice, plan, &search->space) || same_ring)
        return true;
    for (uint32_t i = 0; i < at; i++)
        if (search->options[i].choice.ring != choice->ring &&
            search->options[i].choice.turn_s == choice->turn_s)
            return true;
    return false;
}

int plan_refuse(struct plan *out, struct plan_search *search, struct lode_error *error)
{
    struct plan_refused all[sizeof search->options / sizeof *search->options];
    uint32_t n = 0;
    int rc = add_batches(search, error);
    if (!rc)
        rc = add_rings(search, error);
    if (!rc)
        rc = add_all_in_ram(search, error);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < search->n_options; i++) {
        const struct plan_choice *choice = &search->options[i].choice;
        const bool fits = isfinite(choice->turn_s);
        if (like_another(search, i))
            continue;
        all[n] = (struct plan_refused){
            .fits = fits, .turn_s = fits ? choice->turn_s : 0, .decode_s = fits ? choice->decode_s : 0};
        snprintf(all[n++].what, sizeof all->what, "%s", search->options[i].what);
    }
    // A stable order: what is equal stays in the order in which it was looked at.
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && best_first(&all[k - 1], &all[k]) > 0; k--) {
            const struct plan_refused other = all[k];
            all[k] = all[k - 1];
            all[k - 1] = other;
        }
    out->n_refused = n < PLAN_REFUSED ? n : PLAN_REFUSED;
    for (uint32_t i = 0; i < out->n_refused; i++)
        out->refused[i] = all[i];
    return 0;
}
