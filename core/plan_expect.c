// The times of a plan at several depths of context, and between them.
#include "core/plan_internal.h"

#include <stdio.h>

static struct lode_plan_shares shares_of(const struct cost *cost)
{
    static const char *const names[] = {"cpu kernels", "attention", "small operations",
                                        "drive",       "gpu",       "link"};
    enum { PARTS = sizeof names / sizeof *names };
    const double parts[PARTS] = {cost->kernels_s, cost->attention_s, cost->operations_s,
                                 cost->stall_s,   cost->gpu_s,       cost->link_s};
    double sum = 0;
    size_t largest = 0;
    for (size_t i = 0; i < PARTS; i++) {
        sum += parts[i];
        largest = parts[i] > parts[largest] ? i : largest;
    }
    sum = sum > 0 ? sum : 1;
    return (struct lode_plan_shares){
        .kernels = parts[0] / sum,
        .attention = parts[1] / sum,
        .operations = parts[2] / sum,
        .drive = parts[3] / sum,
        .gpu = parts[4] / sum,
        .link = parts[5] / sum,
        .limiter = names[largest],
    };
}

static int expect(struct lode_plan_expected *out, const struct cost_model *model, uint32_t depth,
                  uint32_t prompt_tokens, struct lode_error *error)
{
    struct cost cost;
    int rc = cost_decode(&cost, model, depth, error);
    if (rc)
        return rc;
    *out = (struct lode_plan_expected){
        .context = depth,
        .decode_tok_s = 1 / cost.seconds,
        .decode_low = 1 / cost.slow_s,
        .decode_high = 1 / cost.fast_s,
        .decode = shares_of(&cost),
        .read_bytes_per_token = cost.drive_bytes,
        .hit_rate = cost.hit_rate,
        .prefill_tokens = prompt_tokens,
    };
    const double n = prompt_tokens;
    rc = cost_prefill(&cost, model, depth, prompt_tokens, error);
    if (rc)
        return rc;
    out->prefill_tok_s = n / cost.seconds;
    out->prefill_low = n / cost.slow_s;
    out->prefill_high = n / cost.fast_s;
    out->prefill = shares_of(&cost);
    return 0;
}

static void warn_assumptions(struct planner *p, const struct cost_model *model)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (model->assumed >> type & 1)
            planner_warn(p, "the profile has no kernel figures for %s: those of %s stand in",
                         lode_type_name(type), lode_type_name(model->nearest[type]));
    if (model->measured_rows < COST_ENOUGH_ROWS)
        planner_warn(p, "products were measured with at most %.0f rows: prefill is extrapolated from there",
                     model->measured_rows);
    if (model->attention_assumed)
        planner_warn(p, "the profile has no figures for attention: they are derived from the memory's");
    if (model->n_slots && p->options.heat_dir && !p->heat)
        planner_warn(p, "nothing is known yet of which experts are chosen: hits are those of recorded "
                        "conversations");
}

int planner_expect(struct planner *p, const struct planner_solution *solution, uint32_t depth,
                   struct lode_error *error)
{
    struct lode_plan *plan = p->plan;
    const struct homes *homes = &solution->plan.homes;
    const struct cost_options options = planner_cost_options(p, solution->plan.batch);
    struct cost_model model;
    int rc = cost_open(&model, p->workload, homes, p->profile, &options, error);
    if (rc)
        return rc;
    rc = expect(&plan->expected[plan->n_expected], &model, depth, planner_prompt(p, solution->context, depth),
                error);
    if (!rc && plan->n_expected++ == 0) {
        plan->threads = model.threads;
        if (model.drive && (homes->pool_bytes || homes->streamed_bytes || homes->rows_bytes))
            snprintf(plan->drive, sizeof plan->drive, "%s", model.drive->name);
        warn_assumptions(p, &model);
    }
    cost_close(&model);
    return rc;
}

// ---- between the depths
// --------------------------------------------------------------------------------------

static double seconds_at(const struct lode_plan *plan, double context, bool decode)
{
    uint32_t i = 1;
    if (!plan->n_expected)
        return 0;
    while (i + 1 < plan->n_expected && context > plan->expected[i].context)
        i++;
    const struct lode_plan_expected *a = &plan->expected[i - 1], *b = &plan->expected[i];
    const double from_s = 1 / (decode ? a->decode_tok_s : a->prefill_tok_s);
    if (plan->n_expected < 2)
        return from_s;
    const double to_s = 1 / (decode ? b->decode_tok_s : b->prefill_tok_s);
    const double share = (context - a->context) / ((double)b->context - a->context);
    const double seconds = from_s + share * (to_s - from_s);
    return seconds > 0 ? seconds : from_s;
}

double lode_plan_decode_seconds(const struct lode_plan *plan, double context)
{
    return seconds_at(plan, context, true);
}

double lode_plan_prefill_seconds(const struct lode_plan *plan, double context)
{
    return seconds_at(plan, context, false);
}
