// What the tests of policies share: a policy over a few layers of experts, and passes that choose among them.
#ifndef LODE_TEST_POLICY_WORLD_H
#define LODE_TEST_POLICY_WORLD_H

#include "placement/policy.h"

#include <criterion/criterion.h>
#include <stdint.h>

enum { LAYERS = 4, EXPERTS = 16, UNITS = LAYERS * EXPERTS, USED = 2 };

// heat: [UNITS], or NULL.
static inline struct policy *open_policy(const char *name, const float *heat)
{
    static uint32_t layer[UNITS];
    for (uint32_t u = 0; u < UNITS; u++)
        layer[u] = u / EXPERTS;
    const struct policy_ops *ops = policy_find(name);
    cr_assert(ops, "no policy '%s'", name);
    const struct policy_setup setup = {.n_units = UNITS,
                                       .n_layers = LAYERS,
                                       .n_slots = UNITS / 4,
                                       .layer = layer,
                                       .used_per_pass = LAYERS * USED,
                                       .heat = heat};
    struct policy *policy = NULL;
    struct lode_error error = {0};
    cr_assert_eq(ops->open(&policy, &setup, &error), 0, "%s", error.text);
    cr_assert_eq(policy->ops, ops);
    return policy;
}

static inline void choose(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    policy->ops->chosen(policy, unit, n_tokens);
}

static inline void end_pass(struct policy *policy, uint32_t n_tokens)
{
    policy->ops->pass_end(policy, n_tokens);
}

static inline void choose_alone(struct policy *policy, uint32_t unit)
{
    choose(policy, unit, 1);
    end_pass(policy, 1);
}

static inline void idle(struct policy *policy, uint32_t n_passes)
{
    for (uint32_t i = 0; i < n_passes; i++)
        end_pass(policy, 1);
}

static inline void close_policy(struct policy *policy)
{
    policy->ops->close(policy);
}

static inline uint32_t random_below(uint64_t *state, uint32_t end)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % end);
}

#endif
