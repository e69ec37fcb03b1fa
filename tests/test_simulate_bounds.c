// No policy and no predictor beats the bounds: of loads, and of time.
#include "tests/simulate_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const struct predictor_ops *predictor_at(uint32_t i)
{
    static const char *const names[] = {"previous", "gate", "heat"};
    return i == 0 ? NULL : i == 1 ? &simulation_perfect_predictor : predictor_find(names[i - 2]);
}

static void hold(const struct simulation_phase *got, const struct simulation_phase *bound, const char *what,
                 const char *phase)
{
    cr_expect_eq(got->tokens, bound->tokens);
    cr_expect_eq(got->choices, bound->choices, "%s, %s", what, phase);
    cr_expect_geq(got->seconds, bound->seconds, "%s, %s: %.9f s, at least %.9f", what, phase, got->seconds,
                  bound->seconds);
    cr_expect_geq(got->demand_bytes + got->prefetch_bytes, bound->demand_bytes, "%s, %s: bytes", what, phase);
}

static void try_all(const struct simulate_shape *shape, double share)
{
    struct trace trace;
    struct lode_error error;
    simulate_world_trace(&trace, shape);
    struct machine_profile *profile = simulate_world_machine();
    struct simulation_model *model = simulate_world_model("tiny-moe", &trace);
    struct simulation_question question = {.profile = profile,
                                           .weights_bytes = simulation_share_bytes(model, share)};
    struct simulation_result bound, got;
    cr_assert_eq(simulate_bounds(&bound, model, &trace, &question, &error), 0, "%s", error.text);
    cr_expect(bound.decode.seconds > 0 && bound.pool_slots > 0);
    for (uint32_t p = 0; policy_table[p]; p++)
        for (uint32_t i = 0; i < 5; i++) {
            char what[128];
            question.policy = policy_table[p];
            question.predictor = predictor_at(i);
            snprintf(what, sizeof what, "seed %u, share %.2f, %s with %s", shape->seed, share,
                     policy_table[p]->name, question.predictor ? question.predictor->name : "none");
            simulate_world_ask(&got, model, &trace, &question);
            cr_expect_leq(got.pool_slots, bound.pool_slots);
            hold(&got.decode, &bound.decode, what, "decode");
            if (shape->n_prompt)
                hold(&got.prefill, &bound.prefill, what, "prefill");
        }
    simulation_model_close(model);
    free(profile);
    trace_free(&trace);
}

Test(simulate_bounds, nothing_beats_them_on_random_traces)
{
    static const double shares[] = {0, 0.15, 0.4, 0.8};
    for (uint32_t seed = 1; seed <= 8; seed++) {
        struct simulate_shape shape = simulate_world_tiny(seed % 3 * 12, 20 + 5 * (seed % 4), seed);
        shape.n_conversations = 1 + seed % 2;
        shape.ranks = 12;
        shape.right = seed % 2;
        try_all(&shape, shares[seed % 4]);
    }
}

// Of one token after the other from an empty pool they are not far off what perfect guesses reach.
Test(simulate_bounds, they_are_not_far_below_what_can_be_reached)
{
    struct trace trace;
    struct lode_error error;
    const struct simulate_shape shape = simulate_world_tiny(0, 80, 99);
    simulate_world_trace(&trace, &shape);
    struct machine_profile *profile = simulate_world_machine();
    struct simulation_model *model = simulate_world_model("tiny-moe", &trace);
    const struct simulation_question question = {.profile = profile,
                                                 .weights_bytes = simulation_share_bytes(model, 0.3),
                                                 .policy = policy_find("lru"),
                                                 .predictor = &simulation_perfect_predictor};
    struct simulation_result bound, got;
    cr_assert_eq(simulate_bounds(&bound, model, &trace, &question, &error), 0, "%s", error.text);
    simulate_world_ask(&got, model, &trace, &question);
    cr_expect_gt(bound.decode.demand_bytes, 0);
    cr_expect_leq(got.decode.demand_bytes + got.decode.prefetch_bytes, 3 * bound.decode.demand_bytes);
    cr_expect_leq(got.decode.seconds, 3 * bound.decode.seconds);
    simulation_model_close(model);
    free(profile);
    trace_free(&trace);
}
