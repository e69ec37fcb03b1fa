// Policies that rank by how often a unit was chosen: lfu, lfru, window-lfu, and static by earlier runs.
#include "tests/policy_world.h"

#include <string.h>

enum { LFU_PASSES = 400, LFU_WINDOW = 64 };

struct lfu_history {
    uint32_t n_tokens[LFU_PASSES], choices[LFU_PASSES][UNITS], n_passes;
    uint64_t last_use[UNITS], now;
};

// Passes that lie wholly in the last 64 tokens, counted from scratch.
static uint32_t lfu_count(const struct lfu_history *history, uint32_t unit)
{
    uint32_t tokens = 0, count = 0;
    for (uint32_t p = history->n_passes; p-- > 0;) {
        tokens += history->n_tokens[p];
        if (tokens > LFU_WINDOW)
            break;
        count += history->choices[p][unit];
    }
    return count;
}

static void lfu_compare(const struct policy *policy, const struct lfu_history *history)
{
    for (uint32_t u = 0; u < UNITS; u++)
        for (uint32_t v = 0; v < UNITS; v++) {
            const uint32_t count_u = lfu_count(history, u), count_v = lfu_count(history, v);
            if (count_u > count_v || (count_u == count_v && history->last_use[u] > history->last_use[v]))
                cr_assert_gt(policy->score[u], policy->score[v], "pass %u: %u with %u, %u with %u",
                             history->n_passes, u, count_u, v, count_v);
        }
}

Test(policy_frequency, lfu_counts_exactly_the_last_64_tokens)
{
    static struct lfu_history history;
    struct policy *policy = open_policy("lfu", NULL);
    uint64_t state = 3;
    for (uint32_t p = 0; p < LFU_PASSES; p++) {
        const uint32_t n_tokens = random_below(&state, 8) ? 1 : 1 + random_below(&state, LFU_WINDOW);
        const uint32_t n_choices = n_tokens == 1 ? LAYERS * USED : UNITS;
        for (uint32_t k = 0; k < n_choices; k++) {
            const uint32_t unit = n_choices == UNITS ? k : k * 8 + random_below(&state, 8);
            const uint32_t n = 1 + random_below(&state, n_tokens);
            choose(policy, unit, n);
            history.choices[p][unit] += n;
            history.last_use[unit] = ++history.now;
        }
        end_pass(policy, n_tokens);
        history.n_tokens[p] = n_tokens;
        history.n_passes = p + 1;
        if (p % 10 == 9)
            lfu_compare(policy, &history);
    }
    close_policy(policy);
}

Test(policy_frequency, lfu_lets_a_long_prompt_count_as_64_tokens)
{
    struct policy *policy = open_policy("lfu", NULL);
    choose(policy, 0, 512); // in all tokens: 64 of 64
    choose(policy, 1, 40);  // 5 of 64
    end_pass(policy, 512);
    cr_assert_gt(policy->score[0], policy->score[1]);
    for (uint32_t i = 0; i < 6; i++)
        choose_alone(policy, 2);
    cr_assert_gt(policy->score[2], policy->score[1], "6 of the last tokens outweigh 5 of 64");
    for (uint32_t i = 0; i < 60; i++)
        choose_alone(policy, 3);
    cr_assert_gt(policy->score[2], policy->score[0], "the prompt has left the window");
    close_policy(policy);
}

Test(policy_frequency, lfu_survives_more_choices_in_a_pass_than_its_window_holds)
{
    struct policy *policy = open_policy("lfu", NULL);
    for (uint32_t i = 0; i < 10000; i++)
        choose(policy, i % UNITS, 1);
    end_pass(policy, 1);
    for (uint32_t i = 0; i < 64; i++)
        choose_alone(policy, 9);
    for (uint32_t u = 0; u < UNITS; u++)
        cr_assert_lt(policy->score[u], u == 9 ? 64 * 1024 + 1 : 1, "unit %u: %f", u, policy->score[u]);
    cr_assert_gt(policy->score[9], 64 * 1024 - 1);
    close_policy(policy);
}

Test(policy_frequency, lfru_ranks_by_count_then_recency_and_forgets_by_halves)
{
    struct policy *policy = open_policy("lfru", NULL);
    for (uint32_t i = 0; i < 12; i++)
        choose_alone(policy, 0);
    for (uint32_t i = 0; i < 5; i++)
        choose_alone(policy, 1);
    for (uint32_t i = 0; i < 5; i++)
        choose_alone(policy, 2);
    cr_assert_gt(policy->score[0], policy->score[2]);
    cr_assert_gt(policy->score[2], policy->score[1], "equal counts: the later one");
    idle(policy, 512 - 22); // two halvings
    cr_assert_eq((uint32_t)policy->score[0], 3);
    cr_assert_eq((uint32_t)policy->score[1], 1);
    for (uint32_t i = 0; i < 4; i++)
        choose_alone(policy, 3);
    cr_assert_gt(policy->score[3], policy->score[0], "4 fresh uses against 12 that were halved twice");
    close_policy(policy);
}

Test(policy_frequency, static_ignores_this_run_when_it_has_heat)
{
    float heat[UNITS];
    for (uint32_t u = 0; u < UNITS; u++)
        heat[u] = (float)u / UNITS;
    struct policy *policy = open_policy("static", heat);
    double before[UNITS];
    memcpy(before, policy->score, sizeof before);
    for (uint32_t i = 0; i < 100; i++)
        choose_alone(policy, 0);
    cr_assert_arr_eq(policy->score, before, sizeof before);
    close_policy(policy);
}

Test(policy_frequency, static_without_heat_counts_from_the_start)
{
    struct policy *policy = open_policy("static", NULL);
    for (uint32_t i = 0; i < 3; i++)
        choose_alone(policy, 4);
    choose(policy, 5, 2);
    end_pass(policy, 10);
    idle(policy, 1000);
    cr_assert_gt(policy->score[4], policy->score[5]);
    cr_assert_gt(policy->score[5], policy->score[6]);
    close_policy(policy);
}

Test(policy_frequency, window_lfu_counts_by_blocks_of_32_tokens_and_keeps_four)
{
    struct policy *policy = open_policy("window-lfu", NULL);
    for (uint32_t i = 0; i < 6; i++)
        choose_alone(policy, 0);
    for (uint32_t i = 0; i < 5; i++)
        choose_alone(policy, 1);
    for (uint32_t i = 0; i < 5; i++)
        choose_alone(policy, 2);
    cr_assert_eq((uint32_t)policy->score[0], 6);
    cr_assert_gt(policy->score[0], policy->score[2]);
    cr_assert_gt(policy->score[2], policy->score[1], "equal counts: the later one");
    idle(policy, 32 - 16); // the block is full
    choose_alone(policy, 1);
    choose_alone(policy, 1);
    cr_assert_eq((uint32_t)policy->score[1], 7);
    idle(policy, 3 * 32 - 2 - 1);
    cr_assert_eq((uint32_t)policy->score[0], 6, "a token before its block leaves");
    idle(policy, 1);
    cr_assert_eq((uint32_t)policy->score[0], 0);
    cr_assert_eq((uint32_t)policy->score[1], 2, "what the second block counted");
    cr_assert_gt(policy->score[0], policy->score[3], "once used over never used");
    choose(policy, 4, 100);
    cr_assert_eq((uint32_t)policy->score[4], 10, "of a prompt the root");
    close_policy(policy);
}
