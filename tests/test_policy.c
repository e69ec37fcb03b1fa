// Policies: each rule against a plain reimplementation of it, and what all of them promise.
#include "placement/policy.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LAYERS = 4, EXPERTS = 16, UNITS = LAYERS * EXPERTS, USED = 2 };

static struct policy *open_policy(const char *name, const float *heat)
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

static void choose(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    policy->ops->chosen(policy, unit, n_tokens);
}

static void end_pass(struct policy *policy, uint32_t n_tokens)
{
    policy->ops->pass_end(policy, n_tokens);
}

static void choose_alone(struct policy *policy, uint32_t unit)
{
    choose(policy, unit, 1);
    end_pass(policy, 1);
}

static void idle(struct policy *policy, uint32_t n_passes)
{
    for (uint32_t i = 0; i < n_passes; i++)
        end_pass(policy, 1);
}

static void close_policy(struct policy *policy)
{
    policy->ops->close(policy);
}

static uint32_t random_below(uint64_t *state, uint32_t end)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % end);
}

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

#ifdef __has_feature
#define LIMITS_KILL_THE_SANITIZER __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define LIMITS_KILL_THE_SANITIZER 1
#else
#define LIMITS_KILL_THE_SANITIZER 0
#endif

static uint64_t address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert(file && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
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
        const rlim_t limit = (rlim_t)(start_bytes + more_bytes);
        cr_assert_eq(setrlimit(RLIMIT_AS, &(struct rlimit){limit, RLIM_INFINITY}), 0);
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

// ---- each rule
// -----------------------------------------------------------------------------------------------

Test(policy, lru_scores_by_the_last_use_and_later_in_a_pass_is_newer)
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

Test(policy, layer_lru_scores_as_lru_does)
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

Test(policy, lfu_counts_exactly_the_last_64_tokens)
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

Test(policy, lfu_lets_a_long_prompt_count_as_64_tokens)
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

Test(policy, lfu_survives_more_choices_in_a_pass_than_its_window_holds)
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

Test(policy, lfru_ranks_by_count_then_recency_and_forgets_by_halves)
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

Test(policy, static_ignores_this_run_when_it_has_heat)
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

Test(policy, static_without_heat_counts_from_the_start)
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

Test(policy, by_layer_scores_by_the_position_whatever_is_chosen)
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

Test(policy, by_layer_fills_the_pool_with_the_first_layers_and_leaves_the_slots_that_a_layer_passes_through)
{
    for (uint32_t n_passes = 1; n_passes <= 3; n_passes++) {
        // The slots, less those that the last layer's choice has come into.
        cr_assert_eq(first_missing(3 * WORLD_EXPERTS, n_passes, WORLD_EXPERTS), 2 * WORLD_EXPERTS);
        cr_assert_eq(first_missing(2 * WORLD_EXPERTS, n_passes, WORLD_EXPERTS), WORLD_EXPERTS);
        cr_assert_eq(first_missing(2 * WORLD_EXPERTS + 5, n_passes, WORLD_EXPERTS), WORLD_EXPERTS + 5);
        cr_assert_eq(first_missing(3 * WORLD_EXPERTS, n_passes, 4), 3 * WORLD_EXPERTS - 4);
    }
}

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

Test(policy, heat_ranks_by_a_frequency_that_fades_faster_while_idle)
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

Test(policy, heat_follows_a_change_of_topic)
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

Test(policy, window_lfu_counts_by_blocks_of_32_tokens_and_keeps_four)
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

Test(policy, least_stale_counts_passes_of_the_own_layer)
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

Test(policy, least_stale_lets_a_cancelled_pass_count_with_the_next)
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

// The rule of the head comment of policy_mrs.c as it stands there: each token fades all scores and adds.
struct mrs_rule {
    double score[UNITS];
};

static void tell(struct policy *policy, uint32_t unit, uint32_t n_tokens, float weight)
{
    policy->ops->scored(policy, unit, weight);
    choose(policy, unit, n_tokens);
}

Test(policy, mrs_keeps_a_moving_mean_of_the_weights)
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

Test(policy, mrs_by_hand)
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

Test(policy, mrs_ranks_by_weight_where_the_choices_are_alike)
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

Test(policy, mrs_takes_a_weight_for_the_choice_that_it_was_told_for)
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
