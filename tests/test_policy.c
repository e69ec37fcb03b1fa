// Policies: the table of them, what all of them promise, and what they are worth in a small pool. Their rules
// are held to reimplementations in test_policy_frequency.c, test_policy_recency.c and test_policy_fading.c.
#include "tests/address_space.h"
#include "tests/policy_world.h"

#include <malloc.h>
#include <math.h>
#include <string.h>

// ---- the table
// -----------------------------------------------------------------------------------------------

Test(policy, finds_every_one_by_name_and_begins_with_heat)
{
    static const char *const names[] = {"heat",      "lfu",         "window-lfu", "lfru",   "mrs",
                                        "layer-lru", "least-stale", "lru",        "static", "by-layer"};
    size_t n = 0;
    for (; policy_table[n]; n++) {
        cr_assert_eq(policy_find(policy_table[n]->name), policy_table[n]);
        cr_assert(strlen(policy_table[n]->summary) > 10);
        cr_assert_not(strchr(policy_table[n]->summary, '\n'));
    }
    cr_assert_eq(n, sizeof names / sizeof *names);
    for (size_t i = 0; i < n; i++)
        cr_assert(policy_find(names[i]), "no '%s'", names[i]);
    cr_assert_str_eq(policy_table[0]->name, "heat");
    cr_assert_null(policy_find("fifo"));
    cr_assert_null(policy_find(""));
}

Test(policy, only_layer_lru_keeps_victims_within_the_layer)
{
    for (size_t i = 0; policy_table[i]; i++)
        cr_assert_eq(policy_table[i]->by_layer, strcmp(policy_table[i]->name, "layer-lru") == 0);
}

// ---- what all promise
// ----------------------------------------------------------------------------------------

// Neither heat nor use changes its scores.
static bool is_by_position(const struct policy_ops *ops)
{
    return strcmp(ops->name, "by-layer") == 0;
}

Test(policy, every_one_but_by_layer_orders_unused_units_by_heat_and_below_used_ones)
{
    float heat[UNITS];
    for (uint32_t u = 0; u < UNITS; u++)
        heat[u] = (float)((u * 7) % UNITS) / UNITS / 20; // no unit hot enough to outweigh a choice
    for (size_t i = 0; policy_table[i]; i++) {
        if (is_by_position(policy_table[i]))
            continue;
        struct policy *policy = open_policy(policy_table[i]->name, heat);
        for (uint32_t u = 0; u < UNITS; u++)
            for (uint32_t v = 0; v < UNITS; v++)
                if (heat[u] > heat[v])
                    cr_assert_gt(policy->score[u], policy->score[v], "%s", policy_table[i]->name);
        choose_alone(policy, 0);
        for (uint32_t u = 1; u < UNITS; u++)
            if (strcmp(policy_table[i]->name, "static") != 0)
                cr_assert_gt(policy->score[0], policy->score[u], "%s", policy_table[i]->name);
        close_policy(policy);
    }
}

Test(policy, a_choice_changes_the_score_of_no_other_unit)
{
    for (size_t i = 0; policy_table[i]; i++) {
        struct policy *policy = open_policy(policy_table[i]->name, NULL);
        uint64_t state = 1;
        for (uint32_t pass = 0; pass < 300; pass++) {
            for (uint32_t k = 0; k < LAYERS * USED; k++) {
                double before[UNITS];
                memcpy(before, policy->score, sizeof before);
                const uint32_t unit = random_below(&state, UNITS);
                choose(policy, unit, 1);
                before[unit] = policy->score[unit];
                cr_assert_arr_eq(policy->score, before, sizeof before, "%s", policy_table[i]->name);
            }
            end_pass(policy, 1);
        }
        for (uint32_t u = 0; u < UNITS; u++)
            cr_assert(isfinite(policy->score[u]), "%s", policy_table[i]->name);
        close_policy(policy);
    }
}

Test(policy, every_one_stays_finite_over_long_prompts_and_cancelled_passes)
{
    for (size_t i = 0; policy_table[i]; i++) {
        struct policy *policy = open_policy(policy_table[i]->name, NULL);
        for (uint32_t pass = 0; pass < 2000; pass++) {
            for (uint32_t u = 0; u < UNITS; u++)
                choose(policy, u, pass % 3 ? 100000 : 1);
            if (pass % 5) // the others were given up
                end_pass(policy, pass % 3 ? 100000 : 1);
            if (pass % 7 == 0)
                end_pass(policy, 0);
        }
        for (uint32_t u = 0; u < UNITS; u++)
            cr_assert(isfinite(policy->score[u]), "%s", policy_table[i]->name);
        choose_alone(policy, 5);
        for (uint32_t u = 0; u < UNITS && !is_by_position(policy_table[i]); u++)
            cr_assert_leq(policy->score[u], policy->score[5], "%s", policy_table[i]->name);
        close_policy(policy);
    }
}

Test(policy, every_one_fails_cleanly_without_memory_for_any_of_its_arrays)
{
    if (LIMITS_KILL_THE_SANITIZER)
        cr_skip_test("the sanitizer needs the address space");
    const struct policy_setup setup = {.n_units = 1u << 20, .n_layers = 1, .n_slots = 1, .used_per_pass = 1};
    mallopt(M_MMAP_THRESHOLD, 1 << 16); // what is freed goes back at once
    const uint64_t scores_bytes = setup.n_units * sizeof(double), start_bytes = address_space_bytes();
    uint32_t n_failed = 0, n_opened = 0;
    for (uint64_t more_bytes = 6 * scores_bytes; more_bytes >= 1 << 20; more_bytes -= 1 << 20) {
        address_space_limit(start_bytes + more_bytes);
        for (size_t i = 0; policy_table[i]; i++) {
            struct policy *policy = (struct policy *)&n_failed;
            struct lode_error error = {0};
            if (policy_table[i]->open(&policy, &setup, &error) == 0) {
                cr_assert_geq(more_bytes, scores_bytes);
                policy_table[i]->close(policy);
                n_opened++;
                continue;
            }
            cr_assert_eq(error.code, LODE_ERR_MEMORY);
            cr_assert_null(policy);
            cr_assert(strstr(error.text, "1048576"), "%s", error.text);
            n_failed++;
        }
    }
    cr_assert_gt(n_opened, 20);
    cr_assert_gt(n_failed, 20);
    policy_table[0]->close(NULL);
}

// ---- a pool below one token's working set
// --------------------------------------------------------------------

enum { POOL_SLOTS = 6, POOL_TOKENS = 300 }; // a token uses 8 units

static uint32_t lowest_resident(const struct policy *policy, const bool *resident, uint32_t layer)
{
    uint32_t victim = UNITS;
    for (uint32_t u = 0; u < UNITS; u++)
        if (resident[u] && u / EXPERTS != layer &&
            (victim == UNITS || policy->score[u] < policy->score[victim]))
            victim = u;
    return victim;
}

// Every layer chooses the same two experts in three tokens of four.
static uint32_t count_hits(const char *name)
{
    struct policy *policy = open_policy(name, NULL);
    bool resident[UNITS] = {false};
    uint32_t n_resident = 0, hits = 0;
    uint64_t state = 5;
    for (uint32_t token = 0; token < POOL_TOKENS; token++) {
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t k = 0; k < USED; k++) {
                const uint32_t expert = random_below(&state, 4) ? k : 2 + 7 * k + random_below(&state, 7);
                const uint32_t unit = layer * EXPERTS + expert;
                choose(policy, unit, 1);
                hits += resident[unit];
                if (resident[unit])
                    continue;
                if (n_resident == POOL_SLOTS)
                    resident[lowest_resident(policy, resident, layer)] = false;
                else
                    n_resident++;
                resident[unit] = true;
            }
        end_pass(policy, 1);
    }
    close_policy(policy);
    return hits;
}

Test(policy, frequency_hits_where_a_global_lru_cannot)
{
    const uint32_t all = POOL_TOKENS * LAYERS * USED;
    cr_assert_eq(count_hits("lru"), 0, "%u", count_hits("lru"));
    cr_assert_gt(count_hits("heat"), all / 4, "%u of %u", count_hits("heat"), all);
    cr_assert_gt(count_hits("lfu"), all / 4, "%u of %u", count_hits("lfu"), all);
    cr_assert_gt(count_hits("lfru"), all / 4, "%u of %u", count_hits("lfru"), all);
    cr_assert_gt(count_hits("window-lfu"), all / 4, "%u of %u", count_hits("window-lfu"), all);
    cr_assert_gt(count_hits("mrs"), all / 4, "%u of %u", count_hits("mrs"), all);
    cr_assert_gt(count_hits("least-stale"), all / 4, "%u of %u", count_hits("least-stale"), all);
}
