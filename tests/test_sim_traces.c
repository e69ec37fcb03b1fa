// Traces for simulations: what is measured, what is learned from, and that sweeps say the same however many
// simulations run at once.
#include "tests/trace_world.h"
#include "tools/sim_sweep.h"
#include "tools/sim_traces.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 3, EXPERTS = 16, USED = 2 };

// A trace whose conversations have these parts, `n_tokens` tokens each; token t of a part chooses the experts
// 2t and 2t + 1, those of TRACE_PART_FIT always 0 and 1.
static void write_trace(char *path, const enum trace_part *parts, uint32_t n, uint32_t n_tokens)
{
    struct trace_header header;
    struct trace_writer *writer;
    struct lode_error error = {0};
    strcpy(path, "/tmp/lode-sim-traces-XXXXXX");
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    trace_world_header(&header, LAYERS, EXPERTS, USED);
    header.known = 0;
    cr_assert_eq(trace_writer_open(&writer, path, &header, &error), 0, "%s", error.text);
    for (uint32_t c = 0; c < n; c++) {
        trace_conversation(writer, "made up", parts[c]);
        for (uint32_t t = 0; t < n_tokens; t++) {
            trace_pass_begin(writer, t ? TRACE_DECODE : TRACE_PREFILL, t, 1, 0);
            for (uint32_t l = 0; l < LAYERS; l += 2) { // the one between has no experts
                const int32_t first = parts[c] == TRACE_PART_FIT ? 0 : (int32_t)(2 * t + c) % (EXPERTS - 1);
                const int32_t experts[USED] = {first, first + 1};
                trace_choice(writer, l, 0, experts, NULL, USED, 0, 0);
            }
            trace_pass_end(writer, 0, 0);
        }
    }
    cr_assert_eq(trace_writer_close(writer, &error), 0, "%s", error.text);
}

static const enum trace_part unmarked[] = {TRACE_PART_NONE, TRACE_PART_NONE};
static const enum trace_part mixed[] = {TRACE_PART_FIT, TRACE_PART_TEST, TRACE_PART_NONE};
static const enum trace_part to_fit[] = {TRACE_PART_FIT};
static const enum trace_part to_test[] = {TRACE_PART_TEST, TRACE_PART_TEST};

static int load(struct sim_traces *out, const char *const *paths, uint32_t n, uint32_t n_fit,
                uint64_t max_bytes, struct lode_error *error)
{
    return sim_traces_load(out, paths, n, n_fit, max_bytes, NULL, error);
}

#define MANY ((uint64_t)1 << 30)

Test(sim_traces, conversations_to_fit_are_learned_from_and_not_counted)
{
    char path[64];
    write_trace(path, mixed, 3, 10);
    const char *paths[] = {path};
    struct sim_traces traces;
    struct lode_error error = {0};
    cr_assert_eq(load(&traces, paths, 1, 0, MANY, &error), 0, "%s", error.text);
    cr_expect_eq(traces.facts[0].n_tokens, 20);
    cr_expect_eq(traces.facts[0].n_fit_tokens, 10);
    cr_expect_eq(traces.facts[0].n_conversations, 2);
    cr_expect_eq(traces.facts[0].n_prefill_tokens, 2);
    cr_expect_eq(traces.fit_tokens, 10);
    cr_expect_eq(traces.n_learned, 1);
    cr_expect_eq(traces.context, 10);
    for (uint32_t e = 0; e < 2 * EXPERTS; e++) // of two layers
        cr_expect_float_eq((double)traces.heat[e], e % EXPERTS < 2 ? 1 : 0, 1e-9, "expert %u", e);
    sim_traces_free(&traces);
    unlink(path);
}

Test(sim_traces, without_anything_to_learn_from_nothing_is_known)
{
    char path[64];
    write_trace(path, unmarked, 2, 5);
    const char *paths[] = {path}, *without = NULL;
    struct sim_traces traces;
    struct lode_error error = {0};
    cr_assert_eq(load(&traces, paths, 1, 0, MANY, &error), 0, "%s", error.text);
    cr_expect_null(traces.heat);
    cr_expect_eq(traces.n_learned, 0);
    cr_expect_not(sim_traces_have_guesses(&traces, &without));
    cr_expect_str_eq(without, path);
    sim_traces_free(&traces);
    unlink(path);
}

Test(sim_traces, heat_is_choices_a_token_of_all_that_is_learned_from)
{
    char measured[64], whole[64], marked[64];
    write_trace(measured, unmarked, 2, 5);
    write_trace(whole, unmarked, 1, 2);
    write_trace(marked, mixed, 3, 6);
    const char *paths[] = {measured, whole, marked};
    struct sim_traces traces;
    struct lode_error error = {0};
    cr_assert_eq(load(&traces, paths, 1, 2, MANY, &error), 0, "%s", error.text);
    cr_expect_eq(traces.fit_tokens, 2 + 6); // of the marked one only what is to fit
    cr_expect_eq(traces.n_learned, 2);
    cr_expect_float_eq((double)traces.heat[0], 7.0 / 8, 1e-6); // once in the whole one, always in the other
    cr_expect_float_eq((double)traces.heat[2], 1.0 / 8, 1e-6);
    cr_expect_float_eq((double)traces.heat[4], 0, 1e-9);
    cr_expect_eq(traces.facts[0].n_tokens, 10);
    sim_traces_free(&traces);
    for (int i = 0; i < 3; i++)
        unlink(paths[i]);
}

static void expect_refusal(const char *const *paths, uint32_t n, uint32_t n_fit, uint64_t max_bytes, int code,
                           const char *part)
{
    struct sim_traces traces;
    struct lode_error error = {0};
    cr_expect_eq(load(&traces, paths, n, n_fit, max_bytes, &error), code, "%s", error.text);
    cr_expect(strstr(error.text, part), "no \"%s\" in \"%s\"", part, error.text);
}

Test(sim_traces, what_cannot_be_measured_or_learned_from_is_refused)
{
    char fit[64], test[64], plain[64];
    write_trace(fit, to_fit, 1, 4);
    write_trace(test, to_test, 2, 4);
    write_trace(plain, unmarked, 1, 4);
    expect_refusal((const char *[]){fit}, 1, 0, MANY, LODE_ERR_ARGUMENT, "all of it is marked to fit");
    expect_refusal((const char *[]){plain, test}, 1, 1, MANY, LODE_ERR_ARGUMENT,
                   "none of it is marked to fit");
    expect_refusal((const char *[]){plain, plain}, 1, 1, MANY, LODE_ERR_ARGUMENT,
                   "learned from and measured");
    expect_refusal((const char *[]){plain, test}, 2, 0, 3000, LODE_ERR_MEMORY, plain);
    unlink(fit);
    unlink(test);
    unlink(plain);
}

// ---- sweeps of slots

static void sweep_of(struct sim_sweep *out, struct sim_budget *budgets, uint32_t n_budgets,
                     const struct sim_traces *traces, uint32_t jobs)
{
    const struct sim_request request = {.traces = traces,
                                        .policies = policy_table,
                                        .n_policies = 3,
                                        .bounds = true,
                                        .jobs = jobs,
                                        .slots_mode = true};
    struct lode_error error = {0};
    *out = (struct sim_sweep){.slots_mode = true,
                              .budgets = budgets,
                              .n_budgets = n_budgets,
                              .traces = traces->facts,
                              .n_traces = traces->n};
    cr_assert_eq(sim_sweep_run(out, &request, &error), 0, "%s", error.text);
}

Test(sim_traces, any_number_of_jobs_counts_the_same)
{
    char a[64], b[64];
    write_trace(a, mixed, 3, 40);
    write_trace(b, unmarked, 2, 30);
    const char *paths[] = {a, b};
    struct sim_budget budgets[] = {{.slots = 2}, {.slots = 5}, {.slots = 16}};
    struct sim_traces traces;
    struct sim_sweep one, four;
    struct lode_error error = {0};
    cr_assert_eq(load(&traces, paths, 2, 0, MANY, &error), 0, "%s", error.text);
    sweep_of(&one, budgets, 3, &traces, 1);
    sweep_of(&four, budgets, 3, &traces, 4);
    cr_assert_eq(one.n_rows, 4);
    cr_expect_str_eq(one.rows[3].policy, "belady");
    const size_t n = (size_t)4 * 3 * 2;
    for (size_t i = 0; i < n; i++) {
        cr_expect_eq(one.cells[i].hits, four.cells[i].hits, "cell %zu", i);
        cr_expect_eq(one.cells[i].choices, four.cells[i].choices, "cell %zu", i);
        cr_expect_eq(one.cells[i].choices, traces.facts[i % 2].n_tokens * 2 * USED, "cell %zu", i);
        const struct sim_cell *bound = sim_cell_at(&one, 3, one.cells[i].budget, one.cells[i].trace);
        cr_expect_leq(one.cells[i].hits, bound->hits, "cell %zu beats the bound", i);
    }
    sim_sweep_free(&one);
    sim_sweep_free(&four);
    sim_traces_free(&traces);
    unlink(a);
    unlink(b);
}

static bool never(void *user)
{
    (void)user;
    return false;
}

static bool stop_after_two(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    (void)what;
    cr_expect_leq(done, total);
    return done < 2;
}

Test(sim_traces, sweeps_end_when_they_are_told_to_and_say_what_failed_first)
{
    char path[64];
    write_trace(path, unmarked, 2, 30);
    const char *paths[] = {path};
    struct sim_budget budgets[] = {{.slots = 4}, {.slots = 1}, {.slots = 8}, {.slots = 1}};
    struct sim_traces traces;
    struct lode_error error = {0};
    cr_assert_eq(load(&traces, paths, 1, 0, MANY, &error), 0, "%s", error.text);
    struct sim_request request = {
        .traces = &traces, .policies = policy_table, .n_policies = 2, .jobs = 2, .slots_mode = true};
    const struct sim_sweep empty = {
        .slots_mode = true, .budgets = budgets, .n_budgets = 4, .traces = traces.facts, .n_traces = 1};
    struct sim_sweep sweep = empty;
    cr_expect_eq(sim_sweep_run(&sweep, &request, &error), LODE_ERR_ARGUMENT); // a slot for two experts
    cr_expect_null(sweep.cells);
    budgets[1].slots = budgets[3].slots = 6;
    request.keep_going = never;
    sweep = empty;
    cr_expect_eq(sim_sweep_run(&sweep, &request, &error), LODE_ERR_CANCELLED);
    request.keep_going = NULL;
    request.on_progress = stop_after_two;
    sweep = empty;
    cr_expect_eq(sim_sweep_run(&sweep, &request, &error), LODE_ERR_CANCELLED);
    cr_expect_null(sweep.rows);
    request.on_progress = NULL;
    sweep = empty;
    cr_expect_eq(sim_sweep_run(&sweep, &request, &error), 0, "%s", error.text);
    sim_sweep_free(&sweep);
    sim_traces_free(&traces);
    unlink(path);
}
