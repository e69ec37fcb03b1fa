// Policies that rank by when a unit was chosen last (lru, layer-lru, least-stale), and by-layer, which ranks
// by where it lies.
#include "tests/placement_world.h"
#include "tests/policy_world.h"

#include <string.h>

Test(policy_recency, lru_scores_by_the_last_use_and_later_in_a_pass_is_newer)
{
    struct policy *policy = open_policy("lru", NULL);
    for (uint32_t u = 0; u < UNITS; u++)
        choose(policy, (u * 5) % UNITS, 1 + u % 3);
    end_pass(policy, 3);
    for (uint32_t u = 1; u < UNITS; u++)
        cr_assert_gt(policy->score[(u * 5) % UNITS], policy->score[((u - 1) * 5) % UNITS]);
    choose(policy, 0, 1);
    for (uint32_t u = 1; u < UNITS; u++)
        cr_assert_gt(policy->score[0], policy->score[u]);
    close_policy(policy);
}

Test(policy_recency, layer_lru_scores_as_lru_does)
{
    struct policy *global = open_policy("lru", NULL), *layered = open_policy("layer-lru", NULL);
    uint64_t state = 7;
    for (uint32_t i = 0; i < 500; i++) {
        const uint32_t unit = random_below(&state, UNITS);
        choose(global, unit, 1);
        choose(layered, unit, 1);
        cr_assert_arr_eq(global->score, layered->score, sizeof(double[UNITS]));
    }
    close_policy(global);
    close_policy(layered);
}

Test(policy_recency, least_stale_counts_passes_of_the_own_layer)
{
    struct policy *policy = open_policy("least-stale", NULL);
    enum { A0, B0, A1 = EXPERTS, B1, A2 = 2 * EXPERTS, A3 = 3 * EXPERTS }; // experts of layers 0 to 3
    choose(policy, A0, 1);
    choose(policy, B0, 1);
    choose(policy, A1, 1);
    choose(policy, B1, 1);
    choose(policy, A2, 1);
    choose(policy, A3, 1);
    end_pass(policy, 1);
    // The second pass is in layer 1: A0 and A1 were chosen again, B0 and B1 not; layers 2 and 3 are to come.
    choose(policy, A0, 1);
    choose(policy, A1, 1);
    cr_assert_lt(policy->score[A1], policy->score[A2], "what lies ahead is kept for its layer");
    cr_assert_lt(policy->score[A2], policy->score[A3], "the last layer longest");
    cr_assert_lt(policy->score[B0], policy->score[A2], "passed over");
    cr_assert_lt(policy->score[B1], policy->score[A2]);
    choose(policy, A2, 1);
    choose(policy, A3, 1);
    end_pass(policy, 1);
    for (uint32_t fresh = A0; fresh < UNITS; fresh += EXPERTS) {
        cr_assert_lt(policy->score[B0], policy->score[fresh], "two passes old over one");
        cr_assert_lt(policy->score[B1], policy->score[fresh]);
    }
    cr_assert_lt(policy->score[B0], policy->score[B1]);
    // The score is layers * (pass of the last use) + layer.
    cr_assert_float_eq(policy->score[A3] - policy->score[A0], 3, 1e-12);
    cr_assert_float_eq(policy->score[A0] - policy->score[B0], LAYERS, 1e-12);
    close_policy(policy);
}

Test(policy_recency, least_stale_lets_a_cancelled_pass_count_with_the_next)
{
    struct policy *policy = open_policy("least-stale", NULL);
    choose_alone(policy, 0);
    choose(policy, 1, 1); // given up
    end_pass(policy, 0);
    choose(policy, 2, 1);
    end_pass(policy, 1);
    cr_assert_eq(policy->score[1], policy->score[2]);
    cr_assert_lt(policy->score[0], policy->score[1]);
    close_policy(policy);
}
Test(policy_recency, by_layer_scores_by_the_position_whatever_is_chosen)
{
    float heat[UNITS];
    for (uint32_t u = 0; u < UNITS; u++)
        heat[u] = (float)u;
    struct policy *policy = open_policy("by-layer", NULL), *warm = open_policy("by-layer", heat);
    double before[UNITS];
    memcpy(before, policy->score, sizeof before);
    for (uint32_t u = 1; u < UNITS; u++)
        cr_assert_lt(policy->score[u], policy->score[u - 1]);
    for (uint32_t i = 0; i < 100; i++) {
        choose_alone(policy, UNITS - 1);
        choose(policy, UNITS / 2, 50);
        end_pass(policy, 100);
    }
    cr_assert_arr_eq(policy->score, before, sizeof before);
    cr_assert_arr_eq(warm->score, before, sizeof before);
    close_policy(policy);
    close_policy(warm);
}

// One pass over many tokens that choose every expert, then which ones are there: they are asked for one by
// one from the first on, and the count stops to grow at the first that is read.
static uint32_t first_missing(uint32_t n_slots, uint32_t n_passes, uint32_t last_choice)
{
    struct world w;
    uint32_t units[WORLD_EXPERTS], n = 0;
    world_set_up(&w, true);
    w.options.policy = policy_find("by-layer");
    world_add_experts(&w);
    world_open_file(&w, NULL, 0);
    world_open(&w, IO_ALIGN_BYTES * (1 + 2 * (uint64_t)n_slots));
    cr_assert_eq(world_figures(&w).pool_slots, n_slots);
    for (uint32_t pass = 0; pass < n_passes; pass++) {
        residency_pass_begin(w.residency, 100, NULL, NULL);
        for (uint32_t layer = 0; layer < WORLD_LAYERS; layer++) {
            for (uint32_t e = 0; e < WORLD_EXPERTS; e++)
                units[e] = world_expert(layer, e);
            world_use(&w, units, layer + 1 == WORLD_LAYERS ? last_choice : WORLD_EXPERTS);
        }
        residency_pass_end(w.residency, true);
    }
    residency_pass_begin(w.residency, 1, NULL, NULL);
    for (; n < WORLD_LAYERS * WORLD_EXPERTS; n++) {
        const uint64_t read_bytes = world_read_bytes(&w);
        const uint32_t unit = world_expert(n / WORLD_EXPERTS, n % WORLD_EXPERTS);
        world_use(&w, &unit, 1);
        if (world_read_bytes(&w) > read_bytes)
            break;
    }
    residency_pass_end(w.residency, true);
    world_tear_down(&w);
    return n;
}

Test(policy_recency, by_layer_fills_the_pool_with_the_first_layers_and_leaves_slots_a_layer_passes_through)
{
    for (uint32_t n_passes = 1; n_passes <= 3; n_passes++) {
        // The slots, less those that the last layer's choice has come into.
        cr_assert_eq(first_missing(3 * WORLD_EXPERTS, n_passes, WORLD_EXPERTS), 2 * WORLD_EXPERTS);
        cr_assert_eq(first_missing(2 * WORLD_EXPERTS, n_passes, WORLD_EXPERTS), WORLD_EXPERTS);
        cr_assert_eq(first_missing(2 * WORLD_EXPERTS + 5, n_passes, WORLD_EXPERTS), WORLD_EXPERTS + 5);
        cr_assert_eq(first_missing(3 * WORLD_EXPERTS, n_passes, 4), 3 * WORLD_EXPERTS - 4);
    }
}
