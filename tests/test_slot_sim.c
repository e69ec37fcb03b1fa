// Hits by replay: against a second LRU, against all ways of evicting there are, against bounds, and on
// recorded traces.
#include "placement/bounds.h"
#include "placement/slot_sim.h"
#include "tests/choice_world.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct slot_hits run(const struct trace *trace, const struct policy_ops *ops, struct slot_sim sim)
{
    struct slot_hits hits = {0};
    struct lode_error error = {0};
    const int rc =
        ops ? slot_sim_run(&hits, &sim, trace, ops, &error) : slot_sim_belady(&hits, &sim, trace, &error);
    cr_assert_eq(rc, 0, "%s", error.text);
    return hits;
}

static uint64_t count(const struct trace *trace, const char *policy, uint32_t slots, bool shared)
{
    return run(trace, policy ? policy_find(policy) : NULL,
               (struct slot_sim){.slots = slots, .shared = shared})
        .hits;
}

// ---- a second LRU, one list for each layer

static uint64_t lru_hits(const struct trace *trace, uint32_t slots)
{
    uint64_t hits = 0;
    for (uint32_t m = 0; m < trace->n_moe; m++) {
        uint16_t list[TRACE_MAX_EXPERTS]; // the latest first
        uint32_t n = 0;
        for (uint32_t token = 0; token < trace->n_tokens; token++) {
            uint16_t row[TRACE_MAX_USED];
            memcpy(row, trace->experts + ((size_t)token * trace->n_moe + m) * trace->n_used,
                   trace->n_used * sizeof *row);
            const uint32_t n_before = n;
            uint16_t before[TRACE_MAX_EXPERTS];
            memcpy(before, list, n * sizeof *before);
            for (uint32_t i = 0; i < trace->n_used && row[i] != TRACE_NO_EXPERT; i++) {
                for (uint32_t s = 0; s < n_before; s++)
                    hits += before[s] == row[i];
                uint32_t at = 0;
                while (at < n && list[at] != row[i])
                    at++;
                n += at == n;
                memmove(list + 1, list, at * sizeof *list);
                list[0] = row[i];
            }
            n = n < slots ? n : slots; // the token's own are at the front
        }
    }
    return hits;
}

Test(slot_sim, lru_hits_as_a_list_of_recent_experts_does)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct trace trace;
        choice_world_make(&trace,
                          &(struct choice_shape){.n_tokens = 120,
                                                 .n_moe = 3,
                                                 .n_experts = 24,
                                                 .n_used = 4,
                                                 .gaps = seed % 2,
                                                 .unlike = seed > 10},
                          seed);
        for (uint32_t slots = 4; slots <= 24; slots += 5)
            cr_assert_eq(count(&trace, "lru", slots, false), lru_hits(&trace, slots), "%u slots", slots);
        trace_free(&trace);
    }
}

Test(slot_sim, within_its_own_cache_a_layer_is_the_same_to_lru_and_layer_lru)
{
    struct trace trace;
    choice_world_make(&trace,
                      &(struct choice_shape){.n_tokens = 200, .n_moe = 4, .n_experts = 32, .n_used = 4}, 77);
    for (uint32_t slots = 4; slots <= 32; slots += 7) {
        cr_assert_eq(count(&trace, "layer-lru", slots, false), count(&trace, "lru", slots, false));
        cr_assert_eq(count(&trace, "layer-lru", slots, true), count(&trace, "lru", slots, false));
    }
    trace_free(&trace);
}

static uint64_t count_first_uses(const struct trace *trace, uint64_t *out_choices)
{
    static bool seen[8][TRACE_MAX_EXPERTS];
    uint64_t first_uses = 0;
    *out_choices = 0;
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < (size_t)trace->n_tokens * trace->n_moe * trace->n_used; i++) {
        if (trace->experts[i] == TRACE_NO_EXPERT)
            continue;
        bool *s = &seen[i / trace->n_used % trace->n_moe][trace->experts[i]];
        ++*out_choices;
        first_uses += !*s;
        *s = true;
    }
    return first_uses;
}

Test(slot_sim, with_a_slot_for_each_expert_only_the_first_use_misses)
{
    struct trace trace;
    choice_world_make(&trace,
                      &(struct choice_shape){.n_tokens = 100, .n_moe = 2, .n_experts = 12, .n_used = 3}, 5);
    uint64_t choices;
    const uint64_t first_uses = count_first_uses(&trace, &choices);
    for (size_t p = 0; policy_table[p]; p++)
        for (int shared = 0; shared < 2; shared++)
            cr_assert_eq(count(&trace, policy_table[p]->name, 12, shared), 600 - first_uses, "%s",
                         policy_table[p]->name);
    cr_assert_eq(count(&trace, NULL, 12, false), 600 - first_uses);
    trace_free(&trace);
}

// ---- scores that never change, by a pool that is walked for each of them

static uint64_t fixed_hits(const struct trace *trace, const float *score, uint32_t slots, bool shared)
{
    const uint32_t n_units = choice_world_experts(trace);
    bool *resident = calloc(n_units, sizeof *resident);
    uint32_t resident_in[TRACE_MAX_LAYERS] = {0}, first[TRACE_MAX_LAYERS + 1] = {0};
    uint64_t hits = 0;
    for (uint32_t m = 0; m < trace->n_moe; m++)
        first[m + 1] = first[m] + trace->header.layers[trace->moe_layer[m]].n_experts;
    for (size_t row = 0; row < (size_t)trace->n_tokens * trace->n_moe; row++) {
        const uint32_t m = (uint32_t)(row % trace->n_moe), home = shared ? 0 : m;
        const uint16_t *experts = trace->experts + row * trace->n_used;
        uint32_t n = 0;
        while (n < trace->n_used && experts[n] != TRACE_NO_EXPERT)
            hits += resident[first[m] + experts[n++]];
        for (uint32_t i = 0; i < n; i++) {
            resident_in[home] += !resident[first[m] + experts[i]];
            resident[first[m] + experts[i]] = true;
        }
        while (resident_in[home] > slots * (shared ? trace->n_moe : 1)) {
            uint32_t victim = UINT32_MAX;
            for (uint32_t u = shared ? 0 : first[m]; u < (shared ? n_units : first[m + 1]); u++) {
                bool chosen = false;
                for (uint32_t i = 0; i < n; i++)
                    chosen |= u == first[m] + experts[i];
                if (resident[u] && !chosen && (victim == UINT32_MAX || score[u] < score[victim]))
                    victim = u;
            }
            resident[victim] = false;
            resident_in[home]--;
        }
    }
    free(resident);
    return hits;
}

Test(slot_sim, a_policy_starts_from_the_heat_and_by_layer_from_the_position)
{
    for (uint32_t seed = 0; seed < 6; seed++) {
        struct trace trace;
        choice_world_make(&trace,
                          &(struct choice_shape){.n_tokens = 150,
                                                 .n_moe = 5,
                                                 .n_experts = 24,
                                                 .n_used = 3,
                                                 .gaps = seed % 2,
                                                 .unlike = seed % 3 == 0},
                          seed);
        const uint32_t n_units = choice_world_experts(&trace);
        float heat[5 * 24], position[5 * 24];
        for (uint32_t u = 0; u < n_units; u++) {
            heat[u] = (float)(u * 37 % n_units) / (float)n_units; // no two alike
            position[u] = -(float)u;
        }
        uint32_t n_other = 0;
        for (uint32_t slots = 3; slots < 24; slots += 4)
            for (int shared = 0; shared < 2; shared++) {
                const struct slot_sim sim = {.slots = slots, .shared = shared, .heat = heat};
                const uint64_t fixed = run(&trace, policy_find("static"), sim).hits;
                cr_assert_eq(fixed, fixed_hits(&trace, heat, slots, shared));
                n_other += fixed != count(&trace, "static", slots, shared);
                const uint64_t by_layer = run(&trace, policy_find("by-layer"), sim).hits;
                cr_assert_eq(by_layer, fixed_hits(&trace, position, slots, shared));
                cr_assert_eq(by_layer, count(&trace, "by-layer", slots, shared), "with heat or without");
            }
        cr_assert_gt(n_other, 5, "heat makes a difference");
        trace_free(&trace);
    }
}

// ---- policies that look at comings and goings take another way through the code

static uint32_t n_admitted, n_evicted;
static const struct policy_ops *plain_ops;
static struct policy_ops watched_ops;

static int watch_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    const int rc = plain_ops->open(out, setup, error);
    if (!rc)
        (*out)->ops = &watched_ops;
    return rc;
}

static void watch_admitted(struct policy *policy, uint32_t unit)
{
    cr_assert(isfinite(policy->score[unit]));
    n_admitted++;
}

static void watch_evicted(struct policy *policy, uint32_t unit)
{
    cr_assert(isfinite(policy->score[unit]));
    n_evicted++;
}

Test(slot_sim, a_policy_that_watches_comings_and_goings_hits_as_one_that_does_not)
{
    struct trace trace;
    const struct choice_shape shape = {
        .n_tokens = 120, .n_moe = 4, .n_experts = 32, .n_used = 6, .gaps = true, .unlike = true};
    choice_world_make(&trace, &shape, 12);
    for (size_t p = 0; policy_table[p]; p++)
        for (uint32_t i = 0; i < 12; i++) {
            const struct slot_sim sim = {.slots = 6 + 3 * (i / 4), .shared = i & 1, .by_expert = i & 2};
            plain_ops = policy_table[p];
            cr_assert(!plain_ops->admitted && !plain_ops->evicted, "the copy has to call them");
            watched_ops = *plain_ops;
            watched_ops.open = watch_open;
            watched_ops.admitted = watch_admitted;
            watched_ops.evicted = watch_evicted;
            n_admitted = n_evicted = 0;
            const struct slot_hits plain = run(&trace, plain_ops, sim), seen = run(&trace, &watched_ops, sim);
            cr_assert_eq(plain.hits, seen.hits, "%s", plain_ops->name);
            cr_assert_eq(n_admitted, plain.choices - plain.hits);
            cr_assert(n_evicted > 0 && n_evicted < n_admitted && n_admitted - n_evicted <= 4 * sim.slots);
        }
    trace_free(&trace);
}

// ---- what knows the future

static const struct trace *known;
static bool perverse;
static uint32_t known_at; // token

struct prophet {
    struct policy base;
    uint32_t *first_unit;
};

static void prophet_close(struct policy *policy)
{
    if (policy) {
        free(((struct prophet *)policy)->first_unit);
        free(policy->score);
    }
    free(policy);
}

static const struct policy_ops prophet_policy;

static int prophet_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    (void)error;
    struct prophet *prophet = calloc(1, sizeof *prophet);
    prophet->base.ops = &prophet_policy;
    prophet->base.score = calloc(setup->n_units, sizeof *prophet->base.score);
    prophet->first_unit = calloc(setup->n_layers + 1, sizeof *prophet->first_unit);
    for (uint32_t u = 0; u < setup->n_units; u++)
        prophet->first_unit[setup->layer[u] + 1] = u + 1;
    known_at = 0;
    *out = &prophet->base;
    return 0;
}

// The row of the unit's next use is looked for in the trace that is being replayed.
static void prophet_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    const uint32_t *first_unit = ((struct prophet *)policy)->first_unit;
    uint32_t m = 0;
    (void)n_tokens;
    while (unit >= first_unit[m + 1])
        m++;
    double next = 1e9;
    for (uint32_t t = known_at + 1; t < known->n_tokens && next == 1e9; t++) {
        const size_t row = (size_t)t * known->n_moe + m;
        for (uint32_t i = 0; i < known->n_used; i++)
            if (known->experts[row * known->n_used + i] == unit - first_unit[m])
                next = (double)row;
    }
    policy->score[unit] = perverse ? next : -next;
}

static void prophet_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)policy;
    (void)n_tokens;
    known_at++;
}

static const struct policy_ops prophet_policy = {
    .name = "prophet",
    .summary = "cheats: knows what will be chosen",
    .open = prophet_open,
    .close = prophet_close,
    .chosen = prophet_chosen,
    .pass_end = prophet_pass_end,
};

Test(slot_sim, a_policy_that_knows_the_future_reaches_belady_and_one_that_does_the_opposite_nothing_near)
{
    uint64_t sum_belady = 0, sum_opposite = 0;
    for (uint32_t seed = 0; seed < 12; seed++) {
        struct trace trace;
        choice_world_make(&trace,
                          &(struct choice_shape){.n_tokens = 100,
                                                 .n_moe = 1 + seed % 4,
                                                 .n_experts = 24,
                                                 .n_used = 1 + seed % 5,
                                                 .uniform = seed % 2,
                                                 .gaps = seed % 3 == 0,
                                                 .unlike = seed % 4 == 3},
                          seed);
        known = &trace;
        for (uint32_t slots = 6; slots < 20; slots += 4)
            for (int shared = 0; shared < 2; shared++) {
                const struct slot_sim sim = {.slots = slots, .shared = shared};
                const uint64_t belady = run(&trace, NULL, sim).hits;
                perverse = false;
                cr_assert_eq(run(&trace, &prophet_policy, sim).hits, belady);
                perverse = true;
                const uint64_t opposite = run(&trace, &prophet_policy, sim).hits;
                cr_assert_leq(opposite, belady);
                sum_belady += belady;
                sum_opposite += opposite;
            }
        trace_free(&trace);
    }
    cr_assert_lt(sum_opposite, sum_belady / 4 * 3, "%u of %u", (unsigned)sum_opposite, (unsigned)sum_belady);
}

// The most hits of any way of evicting, for one layer: all ways are tried.
static uint32_t best_hits(const struct trace *trace, uint32_t token, uint32_t slots, uint32_t resident)
{
    if (token == trace->n_tokens)
        return 0;
    uint32_t chosen = 0, best = 0;
    for (uint32_t i = 0; i < trace->n_used; i++)
        if (trace->experts[token * trace->n_used + i] != TRACE_NO_EXPERT)
            chosen |= 1u << trace->experts[token * trace->n_used + i];
    const uint32_t hits = (uint32_t)__builtin_popcount(resident & chosen), all = resident | chosen;
    for (uint32_t kept = all;; kept = (kept - 1) & all) { // every subset that keeps the chosen ones
        if ((kept & chosen) == chosen && (uint32_t)__builtin_popcount(kept) <= slots) {
            const uint32_t later = best_hits(trace, token + 1, slots, kept);
            best = later > best ? later : best;
        }
        if (kept == 0)
            break;
    }
    return hits + best;
}

Test(slot_sim, belady_is_the_best_of_all_ways)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct trace trace;
        choice_world_make(
            &trace,
            &(struct choice_shape){.n_tokens = 6, .n_moe = 1, .n_experts = 6, .n_used = 2, .gaps = seed > 30},
            seed);
        for (uint32_t slots = 2; slots <= 4; slots++)
            cr_assert_eq(count(&trace, NULL, slots, false), best_hits(&trace, 0, slots, 0),
                         "seed %u, %u slots", (unsigned)seed, slots);
        trace_free(&trace);
    }
}

// ---- bounds

static uint64_t fewest_loads(const struct trace *trace, uint32_t slots)
{
    struct lode_error error = {0};
    uint64_t *loads = calloc(trace->n_passes, sizeof *loads);
    const struct bound_request request = {.n_passes = trace->n_passes, .slots = slots};
    cr_assert_eq(bound_loads(loads, &request, trace, &error), 0, "%s", error.text);
    const uint64_t n = loads[trace->n_passes - 1];
    free(loads);
    return n;
}

static void check_bounds(const struct trace *trace, uint32_t slots, bool shared)
{
    const struct slot_sim sim = {.slots = slots, .shared = shared};
    const struct slot_hits most = run(trace, NULL, sim);
    const uint64_t loads = fewest_loads(trace, slots * trace->n_moe);
    cr_assert_geq(most.choices - most.hits, loads, "%u slots", slots);
    for (size_t p = 0; policy_table[p]; p++)
        for (uint32_t by_expert = 0; by_expert < 2; by_expert++) {
            const struct slot_hits hits =
                run(trace, policy_table[p],
                    (struct slot_sim){.slots = slots, .shared = shared, .by_expert = by_expert});
            cr_assert_eq(hits.choices, most.choices);
            cr_assert_leq(hits.hits, most.hits, "%s, %u slots", policy_table[p]->name, slots);
        }
}

Test(slot_sim, no_policy_hits_more_often_than_belady_and_belady_loads_no_less_than_the_bound)
{
    for (uint32_t seed = 0; seed < 60; seed++) {
        struct trace trace;
        const uint32_t k = 1 + seed % 8, n_experts = 8 + seed * 7 % 56;
        const struct choice_shape shape = {.n_tokens = 20 + seed * 13 % 140,
                                           .n_moe = 1 + seed % 5,
                                           .n_experts = n_experts,
                                           .n_used = k,
                                           .conversation_tokens = seed % 4 ? 0 : 30,
                                           .uniform = seed % 3 == 0,
                                           .gaps = seed % 5 == 0,
                                           .unlike = seed % 7 == 0};
        choice_world_make(&trace, &shape, 1000 * seed);
        for (uint32_t shared = 0; shared < 2; shared++) {
            uint64_t before = 0;
            const uint32_t fewest = shared ? 1 + (k - 1) / trace.n_moe : k;
            for (uint32_t slots = fewest; slots <= n_experts; slots += 1 + slots / 3) {
                check_bounds(&trace, slots, shared);
                const uint64_t hits = count(&trace, NULL, slots, shared);
                cr_assert_geq(hits, before, "more slots, fewer hits: %u", slots);
                before = hits;
            }
        }
        trace_free(&trace);
    }
}

Test(slot_sim, with_room_for_all_belady_loads_what_the_bound_says_and_with_little_more)
{
    struct trace trace;
    choice_world_make(&trace,
                      &(struct choice_shape){.n_tokens = 100, .n_moe = 1, .n_experts = 32, .n_used = 4}, 6);
    struct slot_hits most = run(&trace, NULL, (struct slot_sim){.slots = 32});
    cr_assert_eq(most.choices - most.hits, fewest_loads(&trace, 32));
    most = run(&trace, NULL, (struct slot_sim){.slots = 4});
    cr_assert_gt(most.choices - most.hits, fewest_loads(&trace, 4), "four that stay cannot pass through");
    trace_free(&trace);
}

// ---- parts, bytes, and what is counted

static bool is_not_third(uint32_t conversation)
{
    return conversation % 3 != 0;
}

Test(slot_sim, conversations_for_fitting_are_left_out_as_if_they_were_not_there)
{
    struct trace all, rest;
    choice_world_make(
        &all,
        &(struct choice_shape){
            .n_tokens = 300, .n_moe = 3, .n_experts = 20, .n_used = 3, .conversation_tokens = 12},
        4);
    cr_assert_gt(all.n_conversations, 9);
    choice_world_copy(&rest, &all, is_not_third);
    for (uint32_t c = 0; c < all.n_conversations; c++)
        all.conversations[c].part =
            is_not_third(c) ? c % 2 ? TRACE_PART_TEST : TRACE_PART_NONE : TRACE_PART_FIT;
    for (size_t p = 0; p == 0 || policy_table[p - 1]; p++) {
        const struct policy_ops *ops = p ? policy_table[p - 1] : NULL;
        const struct slot_sim sim = {
            .slots = 7, .shared = p % 2, .first = 20, .tokens = p % 3 ? 0 : rest.n_tokens - 5};
        const struct slot_hits a = run(&all, ops, sim), b = run(&rest, ops, sim);
        cr_assert(a.choices == b.choices && a.hits == b.hits && a.missed_bytes == b.missed_bytes);
        cr_assert_eq(a.choices, 9 * ((sim.tokens ? sim.tokens : rest.n_tokens) - 20));
    }
    struct slot_hits hits;
    struct lode_error error = {0};
    const struct slot_sim sim = {.slots = 7};
    for (uint32_t c = 0; c < all.n_conversations; c++)
        all.conversations[c].part = TRACE_PART_FIT;
    cr_assert_eq(slot_sim_run(&hits, &sim, &all, policy_table[0], &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "for fitting"), "%s", error.text);
    trace_free(&all);
    trace_free(&rest);
}

Test(slot_sim, the_bytes_of_misses_are_those_of_their_layers)
{
    struct trace trace;
    choice_world_make(
        &trace,
        &(struct choice_shape){.n_tokens = 80, .n_moe = 2, .n_experts = 16, .n_used = 3, .unlike = true}, 4);
    const struct slot_sim sim = {.slots = 5};
    trace.header.layers[trace.moe_layer[0]].expert_bytes = 1;
    trace.header.layers[trace.moe_layer[1]].expert_bytes = 1000;
    const struct slot_hits hits = run(&trace, policy_find("lru"), sim);
    cr_assert_eq(hits.missed_bytes % 1000 + hits.missed_bytes / 1000, hits.choices - hits.hits);
    trace.header.layers[trace.moe_layer[1]].expert_bytes = UINT64_MAX / 2;
    cr_assert_eq(run(&trace, policy_find("lru"), sim).missed_bytes, UINT64_MAX, "more than can be counted");
    trace.header.layers[trace.moe_layer[1]].expert_bytes = 0;
    cr_assert_eq(run(&trace, policy_find("lru"), sim).missed_bytes, 0, "not known of all");
    trace_free(&trace);
}

Test(slot_sim, hostile_shapes_are_replayed)
{
    static const struct choice_shape shapes[] = {
        {.n_tokens = 40, .n_moe = 3, .n_experts = 8, .n_used = 1, .gaps = true},
        {.n_tokens = 40, .n_moe = 2, .n_experts = 1, .n_used = 1},
        {.n_tokens = 1, .n_moe = 1, .n_experts = 2, .n_used = 2},
        {.n_tokens = 20,
         .n_moe = 2,
         .n_experts = TRACE_MAX_EXPERTS,
         .n_used = TRACE_MAX_USED,
         .uniform = true},
        {.n_tokens = 30, .n_moe = 256, .n_experts = 4, .n_used = 2, .gaps = true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct trace trace;
        choice_world_make(&trace, &shapes[i], i);
        for (uint32_t t = 0; t < trace.n_tokens; t++) // a layer in which nobody chooses, and the last expert
            for (uint32_t k = 0; k < trace.n_used && trace.n_moe > 1; k++)
                trace.experts[(size_t)t * trace.n_moe * trace.n_used + k] = TRACE_NO_EXPERT;
        uint64_t choices = 0;
        for (size_t c = 0; c < (size_t)trace.n_tokens * trace.n_moe * trace.n_used; c++)
            choices += trace.experts[c] != TRACE_NO_EXPERT;
        for (size_t p = 0; policy_table[p]; p++)
            for (uint32_t how = 0; how < 4; how++) {
                const uint32_t slots = how & 1 ? shapes[i].n_used : TRACE_MAX_EXPERTS;
                const struct slot_hits hits =
                    run(&trace, policy_table[p], (struct slot_sim){.slots = slots, .shared = how & 2});
                cr_assert_eq(hits.choices, choices);
                cr_assert_leq(hits.hits,
                              run(&trace, NULL, (struct slot_sim){.slots = slots, .shared = how & 2}).hits);
            }
        trace_free(&trace);
    }
}

// ---- refusals

Test(slot_sim, fewer_slots_than_a_token_uses_are_refused)
{
    struct trace trace;
    struct lode_error error = {0};
    struct slot_hits hits;
    choice_world_make(&trace, &(struct choice_shape){.n_tokens = 10, .n_moe = 2, .n_experts = 8, .n_used = 3},
                      1);
    struct slot_sim sim = {.slots = 2};
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "at least the 3"), "%s", error.text);
    cr_assert_eq(slot_sim_belady(&hits, &sim, &trace, &error), LODE_ERR_ARGUMENT);
    sim.shared = true; // 4 in all
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), 0, "%s", error.text);
    sim.slots = 1;
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    sim = (struct slot_sim){.slots = TRACE_MAX_EXPERTS + 1};
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    sim = (struct slot_sim){.slots = 3, .first = 10};
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    sim.first = 9;
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), 0, "%s", error.text);
    cr_assert_eq(hits.choices, 6, "one token is counted");
    trace.n_tokens = 0;
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    trace.n_tokens = 10;
    trace_free(&trace);
}

static int fail_silently(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    (void)setup;
    (void)error;
    *out = NULL;
    return LODE_ERR_MEMORY;
}

Test(slot_sim, a_policy_that_does_not_open_is_told)
{
    struct trace trace;
    struct lode_error error = {0};
    struct slot_hits hits;
    struct policy_ops ops = *policy_table[0];
    ops.open = fail_silently;
    choice_world_make(&trace, &(struct choice_shape){.n_tokens = 10, .n_moe = 2, .n_experts = 8, .n_used = 3},
                      1);
    const struct slot_sim sim = {.slots = 4};
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, &ops, &error), LODE_ERR_MEMORY);
    cr_assert(strstr(error.text, "'heat' does not open"), "%s", error.text);
    cr_assert_eq(slot_sim_run(&hits, &sim, &trace, &ops, NULL), LODE_ERR_MEMORY);
    trace_free(&trace);
}

// ---- recorded traces

static double percent(const struct trace *trace, const char *policy, uint32_t slots)
{
    const uint64_t n = (uint64_t)trace->n_tokens * trace->n_moe * trace->n_used;
    return 100.0 * (double)count(trace, policy, slots, false) / (double)n;
}

static void load(struct trace *out, const char *name)
{
    char path[1024];
    struct lode_error error = {0};
    if (!test_data_find(path, sizeof path, name))
        cr_skip_test("%s is not there", name);
    cr_assert_eq(trace_load(out, path, 0, &error), 0, "%s", error.text);
}

// Known from replays by scripts that share nothing with this one and are not kept.
Test(slot_sim, the_recorded_26b_conversation_gives_the_known_figures)
{
    struct trace trace;
    load(&trace, "traces/gemma4-26b-a4b.route.csv.zst");
    cr_assert_eq(trace.n_tokens, 157);
    cr_expect_float_eq(percent(&trace, "lru", 16), 60.7, 0.05, "%f", percent(&trace, "lru", 16));
    cr_expect_float_eq(percent(&trace, "lru", 32), 77.4, 0.05, "%f", percent(&trace, "lru", 32));
    cr_expect_float_eq(percent(&trace, "lru", 64), 90.6, 0.05, "%f", percent(&trace, "lru", 64));
    cr_expect_float_eq(percent(&trace, "lfu", 8), 44.7, 1.0);
    cr_expect_float_eq(percent(&trace, "lfu", 16), 63.0, 1.0);
    cr_expect_float_eq(percent(&trace, "lfu", 24), 72.7, 1.0);
    cr_expect_float_eq(percent(&trace, "lfu", 32), 79.0, 1.0);
    cr_expect_float_eq(percent(&trace, "lfu", 64), 90.6, 1.0);
    for (uint32_t slots = 8; slots <= 64; slots += 8) // a sixteenth to a half of the experts
        for (size_t p = 0; policy_table[p]; p++)
            cr_expect_geq(percent(&trace, policy_table[0]->name, slots),
                          percent(&trace, policy_table[p]->name, slots) - 0.15,
                          "the default is not behind %s at %u slots", policy_table[p]->name, slots);
    trace_free(&trace);
}

Test(slot_sim, no_policy_beats_the_bounds_on_the_recordings)
{
    static const char *const names[] = {"traces/gemma4-26b-a4b.route.csv.zst",
                                        "traces/tiny-moe-first.bin.zst"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct trace trace;
        load(&trace, names[i]);
        for (uint32_t slots = 8; slots <= 24; slots += 8)
            for (uint32_t shared = 0; shared < 2; shared++) {
                const struct slot_sim sim = {.slots = slots, .shared = shared};
                const uint64_t most = run(&trace, NULL, sim).hits;
                for (size_t p = 0; policy_table[p]; p++)
                    cr_expect_leq(run(&trace, policy_table[p], sim).hits, most, "%s on %s, %u slots",
                                  policy_table[p]->name, names[i], slots);
            }
        trace_free(&trace);
    }
}
