// How long a choice takes: its homes, and the turn by the cost model.
#include "placement/plan_search.h"

#include <math.h>

// A batch or a ring that is not the usual one has to gain so much, so that plans do not flutter.
#define BATCH_GAIN 0.02
#define RING_GAIN 0.01

// ---- the turn

uint32_t plan_decode_context(const struct plan_problem *problem)
{
    const uint64_t at = (uint64_t)problem->context + problem->prompt_tokens + problem->generated_tokens / 2;
    return at < UINT32_MAX ? (uint32_t)at : UINT32_MAX;
}

int plan_times(double *out_turn_s, struct cost *decode, struct cost *prefill,
               const struct plan_problem *problem, const struct homes *homes, uint32_t batch, bool ranges,
               struct lode_error *error)
{
    struct cost_options options = problem->options;
    struct cost_model model;
    options.batch = batch;
    *decode = *prefill = (struct cost){0};
    const uint32_t context = plan_decode_context(problem), n = problem->prompt_tokens;
    int rc = cost_open(&model, problem->workload, homes, problem->profile, &options, error);
    if (!rc)
        rc = ranges ? cost_decode(decode, &model, context, error)
                    : cost_decode_mean(decode, &model, context, error);
    if (!rc && n)
        rc = ranges ? cost_prefill(prefill, &model, problem->context, n, error)
                    : cost_prefill_mean(prefill, &model, problem->context, n, error);
    cost_close(&model);
    *out_turn_s = prefill->seconds + problem->generated_tokens * decode->seconds;
    return rc;
}

int plan_turn_seconds(double *out, const struct plan_problem *problem, const struct homes *homes,
                      uint32_t batch, struct lode_error *error)
{
    struct cost decode, prefill;
    return plan_times(out, &decode, &prefill, problem, homes, batch, false, error);
}

// ---- a choice

static int divide(struct homes *out, struct plan_choice *choice, const struct plan_space *space,
                  uint64_t budget_bytes, uint64_t ring_bytes, struct lode_error *error)
{
    const struct homes_request request = {
        .budget_bytes = budget_bytes, .host_memory = true, .ring_bytes = ring_bytes, .gpu = choice->device};
    struct lode_error cause;
    int rc = homes_divide(out, space->work->table, &request, &cause);
    if (!rc)
        return 0;
    const uint64_t floor = homes_bounds(space->work->table, &request).floor_bytes;
    if (floor > budget_bytes) {
        choice->short_bytes = floor - budget_bytes;
        return 0;
    }
    if (error)
        *error = cause;
    return rc;
}

int plan_divide(struct homes *out, struct plan_choice *choice, const struct plan_space *space,
                struct lode_error *error)
{
    struct plan_room room;
    plan_count_room(&room, space, choice);
    *out = (struct homes){0};
    choice->short_bytes = room.short_bytes;
    if (room.short_bytes)
        return 0;
    int rc = divide(out, choice, space, room.weights_ram_bytes, space->problem->ring_bytes, error);
    if (rc || choice->short_bytes || !choice->ring)
        return rc;
    const uint64_t least = out->ring_bytes;
    homes_free(out);
    if (least)
        return divide(out, choice, space, room.weights_ram_bytes, least << choice->ring, error);
    choice->short_bytes = PLAN_IMPOSSIBLE; // nothing is streamed: there is no ring
    return 0;
}

// The effort is what an evaluation takes, in microseconds (release build, Zen 3): 95 of 31B with 185 units in
// 60 layers, 770 of 26B with 4,000 in 30.
int plan_evaluate(struct plan_choice *choice, struct plan_space *space, struct lode_error *error)
{
    struct homes homes;
    struct cost decode, prefill;
    choice->score = choice->turn_s = choice->decode_s = INFINITY;
    space->effort += 1 + space->n_units / 50;
    int rc = plan_divide(&homes, choice, space, error);
    if (rc || choice->short_bytes)
        return rc;
    space->n_evaluated++;
    space->effort += space->n_units / 5 + space->work->n_layers;
    rc = plan_times(&choice->turn_s, &decode, &prefill, space->problem, &homes,
                    space->problem->batches[choice->batch].tokens, false, error);
    homes_free(&homes);
    if (rc == LODE_ERR_UNSUPPORTED) {
        choice->short_bytes = PLAN_IMPOSSIBLE;
        choice->turn_s = INFINITY;
        return 0;
    }
    choice->decode_s = decode.seconds;
    choice->score = choice->turn_s / (choice->batch == space->default_batch ? 1 : 1 - BATCH_GAIN) /
                    (choice->ring ? 1 - RING_GAIN : 1);
    return rc;
}
