// Policies whose scores fade: heat, a frequency that fades faster while a unit is idle, and mrs, a moving
// mean of the router's weights.
#include "tests/policy_world.h"

#include <math.h>

// The rule of the head comment of policy_heat.c, with all frequencies brought up to date at every step.
struct heat_rule {
    double frequency[UNITS], idle[UNITS];
};

static void heat_rule_pass(struct heat_rule *rule, double tokens)
{
    for (uint32_t u = 0; u < UNITS; u++) {
        rule->idle[u] += tokens;
        rule->frequency[u] *= exp(-tokens / 16); // idle; put right when the unit is used again
    }
}

static void heat_rule_use(struct heat_rule *rule, uint32_t unit, double weight)
{
    rule->frequency[unit] = rule->frequency[unit] * exp(rule->idle[unit] * (1.0 / 16 - 1.0 / 64)) + weight;
    rule->idle[unit] = 0;
}

Test(policy_fading, heat_ranks_by_a_frequency_that_fades_faster_while_idle)
{
    struct heat_rule rule = {0};
    float heat[UNITS];
    uint64_t state = 11;
    for (uint32_t u = 0; u < UNITS; u++) {
        heat[u] = (float)random_below(&state, 1000) / 1000;
        rule.frequency[u] = 16 * (double)heat[u] + 1e-6;
    }
    struct policy *policy = open_policy("heat", heat);
    for (uint32_t pass = 0; pass < 300; pass++) {
        const uint32_t n_tokens = pass % 50 ? 1 : 100;
        for (uint32_t k = 0; k < LAYERS * USED; k++) {
            const uint32_t unit = k * 8 + random_below(&state, 1 + k), n = 1 + random_below(&state, n_tokens);
            choose(policy, unit, n);
            heat_rule_use(&rule, unit, sqrt(n));
        }
        end_pass(policy, n_tokens);
        heat_rule_pass(&rule, sqrt(n_tokens));
        for (uint32_t u = 1; u < UNITS; u++)
            cr_assert_float_eq(policy->score[u] - policy->score[0],
                               log(rule.frequency[u]) - log(rule.frequency[0]), 1e-6, "pass %u, unit %u",
                               pass, u);
    }
    close_policy(policy);
}

Test(policy_fading, heat_follows_a_change_of_topic)
{
    float heat[UNITS] = {0};
    heat[0] = 1;
    struct policy *policy = open_policy("heat", heat);
    for (uint32_t i = 0; i < 200; i++)
        choose_alone(policy, 1);
    cr_assert_gt(policy->score[1], policy->score[0], "this run over earlier ones");
    uint32_t needed = 0;
    for (; needed < 200 && policy->score[2] <= policy->score[1]; needed++)
        choose_alone(policy, 2);
    cr_assert(needed > 5 && needed < 64, "%u tokens to outweigh 200 of before", needed);
    close_policy(policy);
}

// The rule of the head comment of policy_mrs.c as it stands there: each token fades all scores and adds.
struct mrs_rule {
    double score[UNITS];
};

static void tell(struct policy *policy, uint32_t unit, uint32_t n_tokens, float weight)
{
    policy->ops->scored(policy, unit, weight);
    choose(policy, unit, n_tokens);
}

Test(policy_fading, mrs_keeps_a_moving_mean_of_the_weights)
{
    struct mrs_rule rule = {0};
    struct policy *policy = open_policy("mrs", NULL);
    uint64_t state = 21;
    for (uint32_t u = 0; u < UNITS; u++)
        rule.score[u] = 1e-9;
    for (uint32_t pass = 0; pass < 200; pass++) {
        const uint32_t n_tokens = pass % 40 ? 1 : 25; // damped to 5
        for (uint32_t k = 0; k < LAYERS * USED; k++) {
            const uint32_t unit = k * 8 + random_below(&state, 8), n = 1 + random_below(&state, n_tokens);
            const float weight = (float)(1 + random_below(&state, 1000)) / 1000;
            tell(policy, unit, n, weight);
            rule.score[unit] += 0.05 * (double)weight / n * sqrt(n);
        }
        for (uint32_t u = 1; u < UNITS; u++)
            cr_assert_float_eq(policy->score[u] - policy->score[0], log(rule.score[u]) - log(rule.score[0]),
                               1e-6, "pass %u, unit %u", pass, u);
        end_pass(policy, n_tokens);
        for (uint32_t u = 0; u < UNITS; u++)
            rule.score[u] *= pow(1 - 0.05, sqrt(n_tokens));
    }
    close_policy(policy);
}

Test(policy_fading, mrs_by_hand)
{
    struct policy *policy = open_policy("mrs", NULL);
    tell(policy, 0, 1, 0.75f); // S = 0.05 * 0.75
    tell(policy, 1, 1, 0.25f);
    end_pass(policy, 1);
    cr_assert_float_eq(policy->score[0] - policy->score[1], log(3), 1e-6);
    tell(policy, 1, 1, 0.5f); // S = 0.95 * 0.05 * 0.25 + 0.05 * 0.5 = 0.036875, and unit 0 has 0.035625
    cr_assert_float_eq(policy->score[1] - policy->score[0], log(0.036875 / 0.035625), 1e-6);
    end_pass(policy, 1);
    close_policy(policy);
}

Test(policy_fading, mrs_ranks_by_weight_where_the_choices_are_alike)
{
    struct policy *policy = open_policy("mrs", NULL);
    for (uint32_t i = 0; i < 50; i++) {
        tell(policy, 0, 1, 0.7f);
        tell(policy, 1, 1, 0.3f);
        end_pass(policy, 1);
    }
    cr_assert_gt(policy->score[0], policy->score[1]);
    choose(policy, 2, 1); // weights unknown: 1/k, a half
    tell(policy, 3, 1, 0.5f);
    cr_assert_float_eq(policy->score[2], policy->score[3], 1e-6);
    tell(policy, 4, 1, NAN);
    tell(policy, 5, 1, -1);
    tell(policy, 6, 1, INFINITY);
    for (uint32_t u = 0; u < UNITS; u++)
        cr_assert(isfinite(policy->score[u]), "unit %u", u);
    close_policy(policy);
}

Test(policy_fading, mrs_takes_a_weight_for_the_choice_that_it_was_told_for)
{
    struct policy *policy = open_policy("mrs", NULL), *in_turn = open_policy("mrs", NULL);
    for (uint32_t i = 0; i < 10; i++) {
        for (uint32_t u = 0; u < USED; u++) // all weights of a layer, then all choices, as the residency does
            policy->ops->scored(policy, u, 0.1f + 0.3f * (float)u);
        for (uint32_t u = 0; u < USED; u++) {
            choose(policy, u, 1);
            tell(in_turn, u, 1, 0.1f + 0.3f * (float)u);
        }
        end_pass(policy, 1);
        end_pass(in_turn, 1);
    }
    cr_assert_arr_eq(policy->score, in_turn->score, sizeof(double[UNITS]));
    close_policy(policy);
    close_policy(in_turn);
}
