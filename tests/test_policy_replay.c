// Hits by replay: against a second LRU, against all ways of evicting there are, and on recorded traces.
#include "bench/policy_replay.h"
#include "tests/test_data.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

// ---- traces made up: n_moe layers, each token choosing k different of n_experts

struct made_up {
    struct trace trace;
    uint32_t n_experts;
};

static void make_trace(struct made_up *out, uint32_t n_tokens, uint32_t n_moe, uint32_t n_experts, uint32_t k,
                       uint64_t seed)
{
    struct trace *trace = &out->trace;
    memset(out, 0, sizeof *out);
    out->n_experts = n_experts;
    trace->n_tokens = n_tokens;
    trace->n_moe = n_moe;
    trace->n_used = k;
    trace->header.n_layers = n_moe;
    for (uint32_t m = 0; m < n_moe; m++) {
        trace->moe_layer[m] = m;
        trace->header.layers[m] = (struct trace_layer){.n_experts = n_experts, .n_used = k};
    }
    const size_t n_cells = (size_t)n_tokens * n_moe * k;
    trace->experts = calloc(n_cells, sizeof *trace->experts);
    trace->weights = calloc(n_cells, sizeof *trace->weights);
    cr_assert(trace->experts && trace->weights);
    for (size_t i = 0; i < n_cells; i++) {
        uint16_t *row = trace->experts + i / k * k;
        bool again = true;
        while (again) { // the lower ones more often
            trace->experts[i] = (uint16_t)(trace_random(&seed) % (1 + trace_random(&seed) % n_experts));
            again = false;
            for (size_t j = 0; j < i % k; j++)
                again |= row[j] == trace->experts[i];
        }
        trace->weights[i] = (float)(trace_random(&seed) % 1000) / 1000;
    }
}

static void free_trace(struct made_up *made)
{
    free(made->trace.experts);
    free(made->trace.weights);
}

static uint64_t count(const struct trace *trace, const char *policy, uint32_t slots, bool shared)
{
    const struct policy_replay replay = {.slots = slots, .shared = shared};
    struct policy_hits hits = {0};
    struct lode_error error = {0};
    const int rc = policy ? policy_replay(&hits, &replay, trace, policy_find(policy), &error)
                          : policy_replay_belady(&hits, &replay, trace, &error);
    cr_assert_eq(rc, 0, "%s", error.text);
    cr_assert_eq(hits.choices, (uint64_t)trace->n_tokens * trace->n_moe * trace->n_used);
    return hits.hits;
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
            memcpy(before, list, sizeof before);
            for (uint32_t i = 0; i < trace->n_used; i++) {
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

Test(policy_replay, lru_hits_as_a_list_of_recent_experts_does)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct made_up made;
        make_trace(&made, 120, 3, 24, 4, seed);
        for (uint32_t slots = 4; slots <= 24; slots += 5)
            cr_assert_eq(count(&made.trace, "lru", slots, false), lru_hits(&made.trace, slots), "%u slots",
                         slots);
        free_trace(&made);
    }
}

Test(policy_replay, within_its_own_cache_a_layer_is_the_same_to_lru_and_layer_lru)
{
    struct made_up made;
    make_trace(&made, 200, 4, 32, 4, 77);
    for (uint32_t slots = 4; slots <= 32; slots += 7) {
        cr_assert_eq(count(&made.trace, "layer-lru", slots, false), count(&made.trace, "lru", slots, false));
        cr_assert_eq(count(&made.trace, "layer-lru", slots, true), count(&made.trace, "lru", slots, false));
    }
    free_trace(&made);
}

Test(policy_replay, with_a_slot_for_each_expert_only_the_first_use_misses)
{
    struct made_up made;
    make_trace(&made, 100, 2, 12, 3, 5);
    bool seen[2][12] = {{false}};
    uint64_t first_uses = 0;
    for (size_t i = 0; i < 100 * 2 * 3; i++) {
        bool *s = &seen[i / 3 % 2][made.trace.experts[i]];
        first_uses += !*s;
        *s = true;
    }
    for (size_t p = 0; policy_table[p]; p++)
        for (int shared = 0; shared < 2; shared++)
            cr_assert_eq(count(&made.trace, policy_table[p]->name, 12, shared), 600 - first_uses, "%s",
                         policy_table[p]->name);
    cr_assert_eq(count(&made.trace, NULL, 12, false), 600 - first_uses);
    free_trace(&made);
}

// ---- Belady

// The most hits of any way of evicting, for one layer: all ways are tried.
static uint32_t best_hits(const struct trace *trace, uint32_t token, uint32_t slots, uint32_t resident)
{
    if (token == trace->n_tokens)
        return 0;
    uint32_t chosen = 0, best = 0;
    for (uint32_t i = 0; i < trace->n_used; i++)
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

Test(policy_replay, belady_is_the_best_of_all_ways)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct made_up made;
        make_trace(&made, 6, 1, 6, 2, seed);
        for (uint32_t slots = 2; slots <= 4; slots++)
            cr_assert_eq(count(&made.trace, NULL, slots, false), best_hits(&made.trace, 0, slots, 0),
                         "seed %u, %u slots", (unsigned)seed, slots);
        free_trace(&made);
    }
}

Test(policy_replay, no_policy_hits_more_often_than_belady)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct made_up made;
        const uint32_t k = 1 + (uint32_t)(seed % 4), n_experts = 8 + (uint32_t)(seed * 7 % 30);
        make_trace(&made, 150, 1 + (uint32_t)(seed % 5), n_experts, k, seed * 1000);
        for (int shared = 0; shared < 2; shared++)
            for (uint32_t slots = shared ? 1 + (k - 1) / made.trace.n_moe : k; slots < n_experts;
                 slots += 3) {
                const uint64_t most = count(&made.trace, NULL, slots, shared);
                for (size_t p = 0; policy_table[p]; p++)
                    cr_assert_leq(count(&made.trace, policy_table[p]->name, slots, shared), most,
                                  "%s, %u slots", policy_table[p]->name, slots);
            }
        free_trace(&made);
    }
}

// ---- refusals

Test(policy_replay, fewer_slots_than_a_token_uses_are_refused)
{
    struct made_up made;
    struct lode_error error = {0};
    struct policy_hits hits;
    make_trace(&made, 10, 2, 8, 3, 1);
    struct policy_replay replay = {.slots = 2};
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "at least the 3"), "%s", error.text);
    cr_assert_eq(policy_replay_belady(&hits, &replay, &made.trace, &error), LODE_ERR_ARGUMENT);
    replay.shared = true; // 4 in all
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), 0, "%s", error.text);
    replay.slots = 1;
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    replay = (struct policy_replay){.slots = TRACE_MAX_EXPERTS + 1};
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    replay = (struct policy_replay){.slots = 3, .first = 10};
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    replay.first = 9;
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), 0, "%s", error.text);
    cr_assert_eq(hits.choices, 6, "one token is counted");
    made.trace.n_tokens = 0;
    cr_assert_eq(policy_replay(&hits, &replay, &made.trace, policy_table[0], &error), LODE_ERR_ARGUMENT);
    made.trace.n_tokens = 10;
    free_trace(&made);
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
Test(policy_replay, the_recorded_26b_conversation_gives_the_known_figures)
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

Test(policy_replay, no_policy_beats_belady_on_the_recordings)
{
    static const char *const names[] = {"traces/gemma4-26b-a4b-first.route.csv.zst",
                                        "traces/tiny-moe-first.bin.zst"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct trace trace;
        load(&trace, names[i]);
        for (uint32_t slots = 8; slots <= 24; slots += 8) {
            const double most = percent(&trace, NULL, slots);
            for (size_t p = 0; policy_table[p]; p++)
                cr_expect_leq(percent(&trace, policy_table[p]->name, slots), most, "%s on %s, %u slots",
                              policy_table[p]->name, names[i], slots);
        }
        trace_free(&trace);
    }
}
