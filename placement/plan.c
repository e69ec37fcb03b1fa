// Solving a planning problem; see plan.h.
#include "placement/plan.h"

#include "base/bytes_text.h"
#include "placement/plan_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the search

static int search_open(struct plan_search *out, const struct plan_problem *problem, struct lode_error *error)
{
    int rc = plan_space_open(&out->space, problem, error);
    for (uint32_t i = 0; i < PLAN_KEPT && !rc; i++)
        rc = plan_choice_open(&out->kept[i], &out->space, error);
    if (!rc)
        rc = plan_choice_open(&out->trial, &out->space, error);
    if (!rc)
        rc = plan_choice_open(&out->other, &out->space, error);
    if (!rc)
        rc = plan_sketches_open(out, error);
    return rc;
}

static void search_close(struct plan_search *search)
{
    for (uint32_t i = 0; i < PLAN_KEPT; i++)
        plan_choice_close(&search->kept[i]);
    for (uint32_t i = 0; i < search->n_options; i++)
        plan_choice_close(&search->options[i].choice);
    plan_choice_close(&search->trial);
    plan_choice_close(&search->other);
    free(search->sketches);
    plan_space_close(&search->space);
}

int plan_try(struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    int rc = plan_evaluate(&search->trial, &search->space, &search->why);
    if (rc) {
        if (error)
            *error = search->why;
        return rc;
    }
    uint32_t at = search->n_kept;
    for (uint32_t i = 0; i < search->n_kept; i++)
        if (plan_choice_same(&search->kept[i], &search->trial, s))
            return 0;
    while (at > 0 && plan_choice_better(&search->trial, &search->kept[at - 1]))
        at--;
    if (at == PLAN_KEPT)
        return 0;
    search->n_kept += search->n_kept < PLAN_KEPT;
    const struct plan_choice room = search->kept[search->n_kept - 1];
    for (uint32_t i = search->n_kept - 1; i > at; i--)
        search->kept[i] = search->kept[i - 1];
    search->kept[at] = room;
    plan_choice_copy(&search->kept[at], &search->trial, s);
    return 0;
}

// Without a way to fit, a smaller batch may have one.
static int run_search(struct plan_search *search, struct lode_error *error)
{
    int rc = 0;
    for (uint32_t batch = search->space.default_batch + 1; batch-- > 0 && !rc;) {
        search->start_batch = batch;
        rc = plan_try_splits(search, error);
        if (!rc)
            rc = plan_climb(search, error);
        if (search->n_kept && !search->kept[0].short_bytes)
            break;
    }
    return rc ? rc : plan_polish(search, error);
}

// ---- the answer

static int fail(const struct plan_search *search, struct lode_error *error)
{
    const struct plan_space *s = &search->space;
    const struct plan_problem *p = s->problem;
    uint64_t least = UINT64_MAX, kv = 0;
    if (search->why.code == LODE_ERR_UNSUPPORTED) {
        if (error)
            *error = search->why;
        return search->why.code;
    }
    for (uint32_t i = 0; i < s->n_groups; i++)
        kv += s->groups[i].kv_bytes;
    for (uint32_t b = 0; b < p->n_batches; b++)
        least = p->batches[b].scratch_bytes < least ? p->batches[b].scratch_bytes : least;
    const uint64_t weights = homes_floor_bytes(s->work->table, true);
    const uint64_t needed = weights < UINT64_MAX - kv - least ? weights + kv + least : UINT64_MAX;
    return lode_fail(
        error, LODE_ERR_MEMORY,
        "no plan fits into %s of RAM%s: without a GPU this needs at least %s, of which are weights "
        "that stay and room for those that pass through %s, K and V %s, scratch %s",
        bytes_text(p->ram_bytes).text, s->n_gpus ? " and the memory of the GPUs" : "",
        bytes_text(needed).text, bytes_text(weights).text, bytes_text(kv).text, bytes_text(least).text);
}

static int answer(struct plan *out, struct plan_search *search, struct lode_error *error)
{
    struct plan_choice *best = &search->kept[0];
    const struct plan_space *s = &search->space;
    if (!search->n_kept || best->short_bytes)
        return fail(search, error);
    int rc = plan_refuse(out, search, error);
    if (!rc)
        rc = plan_divide(&out->homes, best, s, error);
    if (rc)
        return rc;
    struct plan_room room;
    plan_count_room(&room, s, best);
    memcpy(out->kv_gpu_bytes, room.kv_gpu_bytes, sizeof out->kv_gpu_bytes);
    memcpy(out->gpu_scratch_bytes, room.gpu_scratch_bytes, sizeof out->gpu_scratch_bytes);
    out->kv_ram_bytes = room.kv_ram_bytes;
    out->scratch_bytes = room.scratch_bytes;
    out->batch = s->problem->batches[best->batch].tokens;
    out->n_evaluated = s->n_evaluated;
    return plan_times(&out->turn_s, &out->decode, &out->prefill, s->problem, &out->homes, out->batch, true,
                      error);
}

int plan_solve(struct plan *out, const struct plan_problem *problem, struct lode_error *error)
{
    *out = (struct plan){.batch = 0};
    struct plan_search *search = calloc(1, sizeof *search);
    if (!search)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to search for a plan");
    int rc = search_open(search, problem, error);
    if (!rc)
        rc = run_search(search, error);
    if (!rc)
        rc = answer(out, search, error);
    search_close(search);
    free(search);
    return rc;
}

void plan_free(struct plan *plan)
{
    homes_free(&plan->homes);
    *plan = (struct plan){.batch = 0};
}
