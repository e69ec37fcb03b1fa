// Predictors: each rule against a plain reimplementation of it, and what all of them promise.
#include "placement/predictor.h"
#include "placement/predictor_internal.h"
#include "tests/address_space.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 5, USED = 3, MOST_EXPERTS = 40, EXPERTS = 12 + 40 + 7 + 16, ROOM = 64, UNTOUCHED = -77 };
static const uint32_t n_experts[LAYERS] = {12, 0, 40, 7, 16}; // 1 has none

static struct predictor *open_predictor(const char *name, const float *heat)
{
    const struct predictor_ops *ops = predictor_find(name);
    cr_assert(ops, "no predictor '%s'", name);
    const struct predictor_setup setup = {
        .n_layers = LAYERS, .n_experts = n_experts, .n_used = USED, .heat = heat};
    struct predictor *predictor = NULL;
    struct lode_error error = {0};
    cr_assert_eq(ops->open(&predictor, &setup, &error), 0, "%s", error.text);
    cr_assert_eq(predictor->ops, ops);
    return predictor;
}

static void close_predictor(struct predictor *predictor)
{
    predictor->ops->close(predictor);
}

static void choose(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    if (predictor->ops->chosen)
        predictor->ops->chosen(predictor, layer, experts, n);
}

static void end_pass(struct predictor *predictor, uint32_t n_tokens)
{
    if (predictor->ops->pass_end)
        predictor->ops->pass_end(predictor, n_tokens);
}

static void restart(struct predictor *predictor)
{
    if (predictor->ops->restart)
        predictor->ops->restart(predictor);
}

static uint32_t random_below(uint64_t *state, uint32_t end)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % end);
}

static bool contains(const int32_t *experts, uint32_t n, int32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

// Different ones, the lower more often.
static void draw(int32_t *out, uint32_t n, uint32_t of, uint64_t *state)
{
    for (uint32_t i = 0; i < n; i++)
        do
            out[i] = (int32_t)random_below(state, 1 + random_below(state, of));
        while (contains(out, i, out[i]));
}

// ---- the table
// -----------------------------------------------------------------------------------------------

Test(predictor, finds_every_one_by_name_and_begins_with_the_gate)
{
    static const char *const names[] = {"gate-auto", "gate", "gate-dense", "previous", "heat", "cooccur"};
    size_t n = 0;
    for (; predictor_table[n]; n++) {
        cr_assert_eq(predictor_find(predictor_table[n]->name), predictor_table[n]);
        cr_assert(strlen(predictor_table[n]->summary) > 10);
        cr_assert_not(strchr(predictor_table[n]->summary, '\n'));
    }
    cr_assert_eq(n, sizeof names / sizeof *names);
    for (size_t i = 0; i < n; i++)
        cr_assert(predictor_find(names[i]), "no '%s'", names[i]);
    cr_assert_str_eq(predictor_table[0]->name, "gate-auto");
    cr_assert_null(predictor_find("none"));
    cr_assert_null(predictor_find(""));
    cr_assert_eq(predictor_find("gate-auto")->gate, PREDICTOR_GATE_AUTO);
    cr_assert_eq(predictor_find("gate")->gate, PREDICTOR_GATE);
    cr_assert_eq(predictor_find("gate-dense")->gate, PREDICTOR_GATE_DENSE);
    cr_assert_eq(predictor_find("previous")->gate, PREDICTOR_NO_GATE);
}

// ---- what all promise
// ----------------------------------------------------------------------------------------

static uint32_t guess_within(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                             uint32_t max)
{
    const char *name = predictor->ops->name;
    for (uint32_t i = 0; i < ROOM; i++)
        out[i] = UNTOUCHED;
    const uint32_t n = predictor->ops->guess(predictor, layer, gate, out, max);
    cr_assert_leq(n, max, "%s", name);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(out[i] >= 0 && (uint32_t)out[i] < n_experts[layer], "%s: %d of layer %u", name, out[i],
                  layer);
        cr_assert_not(contains(out, i, out[i]), "%s: %d twice", name, out[i]);
    }
    for (uint32_t i = max; i < ROOM; i++)
        cr_assert_eq(out[i], UNTOUCHED, "%s writes beyond %u", name, max);
    return n;
}

// Guesses of the running token's layer, asked of both: the same, and within the contract.
static uint32_t guess_both(struct predictor *a, struct predictor *b, uint32_t layer, uint64_t *state)
{
    int32_t gate[MOST_EXPERTS], of_a[ROOM], of_b[ROOM];
    draw(gate, n_experts[layer], n_experts[layer], state);
    const bool gated = a->ops->gate != PREDICTOR_NO_GATE;
    const uint32_t max = random_below(state, n_experts[layer] + (gated ? 1 : 5));
    const uint32_t n = guess_within(a, layer, gated ? gate : NULL, of_a, max);
    cr_assert_eq(guess_within(b, layer, gated ? gate : NULL, of_b, max), n, "%s", a->ops->name);
    cr_assert_arr_eq(of_a, of_b, n * sizeof *of_a, "%s", a->ops->name);
    return n;
}

// Prompts of which the last layer sees one token only, conversations, passes that are given up.
static void run_random(struct predictor *a, struct predictor *b, uint64_t seed)
{
    uint64_t state = seed, n_named = 0;
    for (uint32_t pass = 0; pass < 600; pass++) {
        const uint32_t n_tokens = random_below(&state, 12) ? 1 : 1 + random_below(&state, 700);
        if (random_below(&state, 20) == 0) {
            restart(a);
            restart(b);
        }
        const uint32_t n_layers = random_below(&state, 30) ? LAYERS : random_below(&state, LAYERS);
        for (uint32_t l = 0; l < n_layers; l++) {
            if (n_experts[l] == 0)
                continue;
            if (n_tokens == 1)
                n_named += guess_both(a, b, l, &state);
            for (uint32_t t = l + 1 < LAYERS ? 0 : n_tokens - 1; t < n_tokens; t++) {
                int32_t chosen[USED];
                const uint32_t n = 1 + random_below(&state, USED);
                draw(chosen, n, n_experts[l], &state);
                choose(a, l, chosen, n);
                choose(b, l, chosen, n);
            }
        }
        if (n_layers == LAYERS) {
            end_pass(a, n_tokens);
            end_pass(b, n_tokens);
        }
    }
    cr_assert_gt(n_named, 1000, "%s", a->ops->name);
}

Test(predictor, every_one_names_experts_of_the_layer_once_and_the_same_after_the_same_choices)
{
    float heat[EXPERTS];
    uint64_t state = 5;
    for (uint32_t u = 0; u < EXPERTS; u++)
        heat[u] = (float)random_below(&state, 100) / 100;
    for (size_t i = 0; predictor_table[i]; i++)
        for (uint64_t seed = 1; seed < 5; seed++) {
            struct predictor *a = open_predictor(predictor_table[i]->name, seed % 2 ? heat : NULL);
            struct predictor *b = open_predictor(predictor_table[i]->name, seed % 2 ? heat : NULL);
            run_random(a, b, seed);
            close_predictor(a);
            close_predictor(b);
        }
}

Test(predictor, none_names_what_it_has_no_reason_to)
{
    for (size_t i = 0; predictor_table[i]; i++) {
        struct predictor *predictor = open_predictor(predictor_table[i]->name, NULL);
        int32_t out[ROOM];
        for (uint32_t l = 0; l < LAYERS; l++)
            cr_assert_eq(guess_within(predictor, l, NULL, out, n_experts[l]), 0, "%s",
                         predictor_table[i]->name);
        close_predictor(predictor);
    }
}

Test(predictor, models_without_experts_are_no_trouble)
{
    static const uint32_t none[2];
    for (size_t i = 0; predictor_table[i]; i++)
        for (uint32_t n_layers = 0; n_layers <= 2; n_layers++) {
            const struct predictor_setup setup = {.n_layers = n_layers, .n_experts = none};
            struct predictor *predictor;
            struct lode_error error = {0};
            cr_assert_eq(predictor_table[i]->open(&predictor, &setup, &error), 0, "%s", error.text);
            restart(predictor);
            end_pass(predictor, 3);
            close_predictor(predictor);
        }
}

Test(predictor, those_that_learn_fail_cleanly_without_memory_for_any_of_their_arrays)
{
    if (LIMITS_KILL_THE_SANITIZER)
        cr_skip_test("the sanitizer needs the address space");
    enum { MANY = 1 << 17 }; // layers, so that the arrays are large
    static uint32_t one[MANY];
    for (uint32_t l = 0; l < MANY; l++)
        one[l] = l % 64 ? 0 : 8;
    const struct predictor_setup setup = {.n_layers = MANY, .n_experts = one, .n_used = 4};
    mallopt(M_MMAP_THRESHOLD, 1 << 12); // what is freed goes back at once
    const uint64_t start_bytes = address_space_bytes();
    uint32_t n_failed = 0, n_opened = 0;
    for (uint64_t more_bytes = 16 << 20; more_bytes >= 1 << 16; more_bytes -= 1 << 16) {
        address_space_limit(start_bytes + more_bytes);
        for (size_t i = 0; predictor_table[i]; i++) {
            if (!predictor_table[i]->chosen)
                continue;
            struct predictor *predictor = (struct predictor *)&n_failed;
            struct lode_error error = {0};
            if (predictor_table[i]->open(&predictor, &setup, &error) == 0) {
                close_predictor(predictor);
                n_opened++;
                continue;
            }
            cr_assert_eq(error.code, LODE_ERR_MEMORY);
            cr_assert_null(predictor);
            cr_assert(strstr(error.text, predictor_table[i]->name), "%s", error.text);
            n_failed++;
        }
    }
    cr_assert_gt(n_opened, 20);
    cr_assert_gt(n_failed, 20);
}

// ---- the best of many
// -----------------------------------------------------------------------------------------

Test(predictor, the_best_are_those_of_a_full_sort)
{
    enum { N = 97 };
    uint64_t state = 11;
    for (uint32_t round = 0; round < 400; round++) {
        double score[N];
        for (uint32_t e = 0; e < N; e++)
            score[e] = (double)random_below(&state, 40) - 5; // many are equal, some below 0
        score[random_below(&state, N)] = (double)NAN;
        const uint32_t n = random_below(&state, N + 1), max = random_below(&state, N + 1);
        int32_t best[N];
        const uint32_t n_best = predictor_best(best, max, score, n);
        bool taken[N] = {false};
        uint32_t expected = 0;
        for (; expected < max; expected++) {
            int32_t top = -1;
            for (uint32_t e = 0; e < n; e++)
                if (!taken[e] && score[e] > 0 && (top < 0 || score[e] > score[top]))
                    top = (int32_t)e;
            if (top < 0)
                break;
            taken[top] = true;
            cr_assert_lt(expected, n_best);
            cr_assert_eq(best[expected], top, "round %u, rank %u", round, expected);
        }
        cr_assert_eq(n_best, expected);
    }
}

// ---- each rule
// -----------------------------------------------------------------------------------------------

Test(predictor, gates_copy_what_the_router_says)
{
    static const char *const names[] = {"gate-auto", "gate", "gate-dense"};
    static const int32_t gate[] = {5, 0, 11, 3};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct predictor *predictor = open_predictor(names[i], NULL);
        int32_t out[ROOM];
        cr_assert_eq(guess_within(predictor, 0, gate, out, 4), 4);
        cr_assert_arr_eq(out, gate, sizeof gate);
        cr_assert_eq(guess_within(predictor, 0, gate, out, 2), 2);
        cr_assert_eq(guess_within(predictor, 0, NULL, out, 4), 0);
        close_predictor(predictor);
    }
}

enum { TOKENS = 300, LAYER = 2 };

Test(predictor, previous_names_the_last_tokens_choices_then_those_of_the_ones_before)
{
    static int32_t history[TOKENS][USED];
    struct predictor *predictor = open_predictor("previous", NULL);
    uint64_t state = 3;
    for (uint32_t t = 0; t < TOKENS; t++) {
        int32_t out[ROOM], expected[MOST_EXPERTS];
        uint32_t n_expected = 0;
        for (uint32_t back = t; back-- > 0;)
            for (uint32_t i = 0; i < USED; i++)
                if (!contains(expected, n_expected, history[back][i]))
                    expected[n_expected++] = history[back][i];
        const uint32_t max = random_below(&state, MOST_EXPERTS + 1);
        const uint32_t n = guess_within(predictor, LAYER, NULL, out, max);
        cr_assert_eq(n, max < n_expected ? max : n_expected);
        cr_assert_arr_eq(out, expected, n * sizeof *out, "token %u", t);
        draw(history[t], USED, MOST_EXPERTS, &state);
        choose(predictor, LAYER, history[t], USED);
        choose(predictor, LAYER + 1, (int32_t[]){1, 2}, 2); // another layer's are its own
        end_pass(predictor, 1);
    }
    restart(predictor);
    int32_t out[ROOM];
    cr_assert_eq(guess_within(predictor, LAYER, NULL, out, 8), 0, "another conversation has no token before");
    close_predictor(predictor);
}

Test(predictor, heat_names_what_is_chosen_most_and_forgets)
{
    struct predictor *predictor = open_predictor("heat", NULL);
    double count[MOST_EXPERTS] = {0};
    uint64_t state = 9;
    // Long enough that the weights are brought back to 1: 16 * ln(1e100) is 3,684 tokens.
    for (uint32_t t = 0; t < 12000; t++) {
        int32_t chosen[USED], out[ROOM];
        draw(chosen, USED, MOST_EXPERTS, &state);
        choose(predictor, LAYER, chosen, USED);
        for (uint32_t e = 0; e < MOST_EXPERTS; e++)
            count[e] *= exp(-1.0 / 16);
        for (uint32_t i = 0; i < USED; i++)
            count[chosen[i]] += 1;
        const uint32_t n = guess_within(predictor, LAYER, NULL, out, 10);
        cr_assert(n >= USED && n <= 10);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t e = 0; e < MOST_EXPERTS; e++)
                if (!contains(out, i, (int32_t)e))
                    cr_assert_leq(count[e], count[out[i]] * (1 + 1e-9), "token %u, rank %u: %u above %d", t,
                                  i, e, out[i]);
    }
    restart(predictor);
    int32_t out[ROOM];
    cr_assert_eq(guess_within(predictor, LAYER, NULL, out, 10), 10, "heat is not of one conversation");
    close_predictor(predictor);
}

Test(predictor, heat_starts_from_earlier_runs)
{
    float heat[EXPERTS] = {0};
    heat[12 + 31] = 0.5f; // the third layer's begin at 12
    heat[12 + 4] = 0.75f;
    heat[12 + 8] = 0.25f;
    struct predictor *predictor = open_predictor("heat", heat);
    int32_t out[ROOM];
    cr_assert_eq(guess_within(predictor, LAYER, NULL, out, 8), 3);
    cr_assert_arr_eq(out, ((int32_t[]){4, 31, 8}), 3 * sizeof *out);
    cr_assert_eq(guess_within(predictor, 0, NULL, out, 8), 0);
    for (uint32_t t = 0; t < 40; t++)
        choose(predictor, LAYER, (int32_t[]){7}, 1);
    cr_assert_eq(guess_within(predictor, LAYER, NULL, out, 2), 2);
    cr_assert_arr_eq(out, ((int32_t[]){7, 4}), 2 * sizeof *out);
    close_predictor(predictor);
}

// ---- what goes with what
// --------------------------------------------------------------------------------------

static const uint32_t moe_layers[] = {0, 2, 3, 4};
enum { MOE_LAYERS = 4 };

// What the layer after chooses is a function of what this one does, and so from token to token in the first.
static void follow(int32_t *out, const int32_t *chosen, uint32_t n, uint32_t layer)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] =
            (int32_t)((uint32_t)chosen[i] * 11 + 3) % (int32_t)n_experts[layer]; // 11: prime to all counts
}

// A token whose choices follow from what it has in the first layer; the guesses of all layers after `from`
// that were right.
static uint32_t tell_token(struct predictor *predictor, const int32_t *first, uint32_t n, uint32_t from)
{
    int32_t chosen[USED], next[USED] = {0}, out[ROOM];
    uint32_t n_right = 0;
    memcpy(chosen, first, n * sizeof *first);
    for (uint32_t m = 0; m < MOE_LAYERS; m++) {
        const uint32_t n_named = guess_within(predictor, moe_layers[m], NULL, out, n);
        for (uint32_t i = 0; i < n_named && m >= from; i++)
            n_right += contains(chosen, n, out[i]);
        choose(predictor, moe_layers[m], chosen, n);
        follow(next, chosen, n, moe_layers[(m + 1) % MOE_LAYERS]);
        memcpy(chosen, next, n * sizeof *next);
    }
    end_pass(predictor, 1);
    return n_right;
}

Test(predictor, cooccur_learns_what_follows_from_the_layer_before)
{
    struct predictor *predictor = open_predictor("cooccur", NULL);
    uint64_t state = 21;
    uint32_t n_right = 0;
    for (uint32_t t = 0; t < 600; t++) {
        const int32_t first = (int32_t)random_below(&state, n_experts[0]);
        const uint32_t right = tell_token(predictor, &first, 1, 1);
        n_right += t >= 300 ? right : 0;
    }
    cr_expect_eq(n_right, 300 * (MOE_LAYERS - 1), "after every expert was seen, all are right: %u", n_right);
    struct predictor *heat = open_predictor("heat", NULL);
    uint32_t n_by_heat = 0;
    for (uint32_t t = 0; t < 600; t++) {
        const int32_t first = (int32_t)random_below(&state, n_experts[0]);
        const uint32_t right = tell_token(heat, &first, 1, 1);
        n_by_heat += t >= 300 ? right : 0;
    }
    cr_expect_lt(n_by_heat, 300, "which frequency alone cannot know: %u", n_by_heat);
    close_predictor(heat);
    close_predictor(predictor);
}

Test(predictor, cooccur_learns_the_first_layer_from_the_token_before_and_restart_forgets_it)
{
    struct predictor *predictor = open_predictor("cooccur", NULL);
    int32_t out[ROOM], expert = 0;
    for (uint32_t t = 0; t < 200; t++) {
        if (t >= 100) {
            cr_assert_eq(guess_within(predictor, 0, NULL, out, 1), 1);
            cr_assert_eq(out[0], expert, "token %u", t);
        }
        choose(predictor, 0, &expert, 1);
        end_pass(predictor, 1);
        expert = (expert * 5 + 3) % 12;
    }
    // Without a token before, the most frequent: lately 9, whatever comes next in turn.
    for (uint32_t t = 0; t < 20; t++) {
        restart(predictor);
        choose(predictor, 0, (int32_t[]){9}, 1);
    }
    choose(predictor, 0, &expert, 1);
    expert = (expert * 5 + 3) % 12;
    cr_assert_neq(expert, 9);
    cr_assert_eq(guess_within(predictor, 0, NULL, out, 1), 1);
    cr_assert_eq(out[0], expert);
    restart(predictor);
    cr_assert_eq(guess_within(predictor, 0, NULL, out, 1), 1);
    cr_assert_eq(out[0], 9);
    close_predictor(predictor);
}

// A prompt of which the second layer sees the last n_told tokens.
static void tell_prompt(struct predictor *predictor, uint32_t n_tokens, uint32_t n_told, uint64_t *state)
{
    int32_t *first = calloc(n_tokens, sizeof *first), second;
    for (uint32_t t = 0; t < n_tokens; t++) {
        first[t] = (int32_t)random_below(state, n_experts[0]);
        choose(predictor, 0, &first[t], 1);
    }
    for (uint32_t t = n_tokens - n_told; t < n_tokens; t++) {
        follow(&second, &first[t], 1, 2);
        choose(predictor, 2, &second, 1);
    }
    end_pass(predictor, n_tokens);
    free(first);
}

// What is named first after each expert of the first layer: how often that is what follows from it, and how
// many different ones.
struct after_prompts {
    uint32_t n_right, n_different;
};

static struct after_prompts after_prompts(uint32_t n_prompts, uint32_t n_tokens, uint32_t n_told)
{
    struct predictor *predictor = open_predictor("cooccur", NULL);
    struct after_prompts result = {0};
    bool named[MOST_EXPERTS] = {false};
    uint64_t state = 77;
    for (uint32_t p = 0; p < n_prompts; p++)
        tell_prompt(predictor, n_tokens, n_told, &state);
    for (int32_t e = 0; e < (int32_t)n_experts[0]; e++) {
        int32_t out[ROOM], second;
        follow(&second, &e, 1, 2);
        choose(predictor, 0, &e, 1);
        cr_assert_eq(guess_within(predictor, 2, NULL, out, 1), 1);
        result.n_right += out[0] == second;
        result.n_different += !named[out[0]];
        named[out[0]] = true;
        end_pass(predictor, 1);
    }
    close_predictor(predictor);
    return result;
}

Test(predictor, cooccur_learns_from_prompts_of_any_length_but_not_from_layers_that_see_a_part)
{
    cr_expect_eq(after_prompts(1, 200, 200).n_right, n_experts[0]);
    cr_expect_eq(after_prompts(1, 2000, 2000).n_right, n_experts[0], "beyond what it remembers of a prompt");
    cr_expect_eq(after_prompts(200, 1, 1).n_right, n_experts[0], "token by token");
    cr_expect_eq(after_prompts(20, 200, 100).n_different, 1,
                 "no pairs: the most frequent, whatever was before");
}

Test(predictor, cooccur_forgets_what_has_long_been_otherwise)
{
    struct predictor *predictor = open_predictor("cooccur", NULL);
    int32_t out[ROOM];
    const int32_t from = 1;
    for (uint32_t t = 0; t < 70000; t++) { // more than a counter of 16 bits holds
        choose(predictor, 0, &from, 1);
        choose(predictor, 2, (int32_t[]){30}, 1);
        end_pass(predictor, 1);
    }
    for (uint32_t t = 0; t < 300; t++) {
        choose(predictor, 0, &from, 1);
        choose(predictor, 2, (int32_t[]){20}, 1);
        end_pass(predictor, 1);
    }
    choose(predictor, 0, &from, 1);
    cr_assert_eq(guess_within(predictor, 2, NULL, out, 2), 2);
    cr_assert_arr_eq(out, ((int32_t[]){20, 30}), 2 * sizeof *out);
    close_predictor(predictor);
}

Test(predictor, cooccur_refuses_models_whose_pairs_do_not_fit)
{
    static uint32_t many[512];
    const struct {
        uint32_t n_layers, n_experts;
        int code;
    } cases[] = {
        {30, 128, 0},
        {512, 128, 0},
        {8, 4096, 0}, // 256 MiB, which nobody has touched yet
        {9, 4096, LODE_ERR_UNSUPPORTED},
        {512, 4096, LODE_ERR_UNSUPPORTED},
        {2, UINT32_MAX, LODE_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (uint32_t l = 0; l < 512; l++)
            many[l] = cases[i].n_experts;
        const struct predictor_setup setup = {.n_layers = cases[i].n_layers, .n_experts = many, .n_used = 8};
        struct predictor *predictor;
        struct lode_error error = {0};
        cr_assert_eq(predictor_find("cooccur")->open(&predictor, &setup, &error), cases[i].code,
                     "%u layers of %u: %s", cases[i].n_layers, cases[i].n_experts, error.text);
        if (cases[i].code) {
            cr_assert_null(predictor);
            cr_assert(strstr(error.text, "256 MiB"), "%s", error.text);
        } else {
            close_predictor(predictor);
        }
    }
}
