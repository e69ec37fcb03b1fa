// What `lode tune` believes, in which order it measures, and how it goes on after a stop.
#include "tests/test_folder.h"
#include "tools/tune_file.h"
#include "tools/tune_search.h"
#include "tools/tune_state.h"
#include "tools/tuned.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct tune_settings defaults;

static const char *policy_at(size_t index, const char **out_summary)
{
    static const char *const names[] = {"heat", "lfu", "lfru", "layer-lru", "lru", NULL};
    (void)out_summary;
    return names[index];
}

// All knobs matter.
static struct tune_facts full_facts(void)
{
    return (struct tune_facts){
        .threads = 4,
        .processors = 8,
        .batch = 512,
        .prompt_tokens = 1024,
        .queue_depth = 16,
        .n_experts = 128,
        .n_experts_used = 8,
        .pool_bytes = 1 << 30,
        .streamed_bytes = 1 << 30,
        .ring_bytes = 32 << 20,
        .reads = true,
        .policy = "heat",
        .policy_at = policy_at,
    };
}

// ---- a machine that is as fast as a test says
// -----------------------------------------------------------------

enum { MOST_RUNS = 400 };

struct machine {
    double (*turn_s)(const struct tune_settings *settings, uint32_t run);
    bool (*has_other_tokens)(const struct tune_settings *settings);
    bool (*fails)(const struct tune_settings *settings);
    double load_s, clock_s;
    uint32_t n_runs, stop_after; // stop_after: runs; 0: never
    struct tune_settings runs[MOST_RUNS];
    uint32_t n_pairs_told, n_candidates_told, n_left_out;
    bool left_out[TUNE_KNOBS];
    enum tune_verdict verdicts[64];
    char last_reason[TUNE_REASON_SIZE];
};

static int measure(void *user, struct tune_run *out, const struct tune_settings *settings, const char *what,
                   struct lode_error *error)
{
    struct machine *m = user;
    cr_assert(what[0]);
    cr_assert_lt(m->n_runs, MOST_RUNS);
    if (m->stop_after && m->n_runs == m->stop_after)
        return lode_fail(error, LODE_ERR_CANCELLED, "stopped");
    m->runs[m->n_runs] = *settings;
    if (m->fails && m->fails(settings))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for these settings");
    const double turn_s = m->turn_s(settings, m->n_runs++);
    *out = (struct tune_run){.prefill_s = 0.25 * turn_s,
                             .decode_s = 0.75 * turn_s,
                             .cost_s = m->load_s + turn_s,
                             .other_tokens = m->has_other_tokens && m->has_other_tokens(settings)};
    m->clock_s += out->cost_s;
    return 0;
}

static double now_s(void *user)
{
    return ((struct machine *)user)->clock_s;
}

static void on_pair(void *user)
{
    ((struct machine *)user)->n_pairs_told++;
}

static void on_candidate(void *user, const struct tune_candidate *candidate)
{
    struct machine *m = user;
    cr_assert_neq(candidate->verdict, TUNE_OPEN);
    m->verdicts[m->n_candidates_told++] = candidate->verdict;
    if (candidate->verdict == TUNE_FAILED)
        snprintf(m->last_reason, sizeof m->last_reason, "%s", candidate->reason);
}

static void on_left_out(void *user, enum tune_knob knob, const char *why)
{
    struct machine *m = user;
    cr_assert(why[0], "%s is left out without a reason", tune_knob_name(knob));
    m->left_out[knob] = true;
    m->n_left_out++;
}

static struct tune_search run_search(struct machine *m, const struct tune_facts *facts,
                                     struct tune_journal *journal, double seconds)
{
    struct lode_error error = {0};
    const struct tune_hooks hooks = {measure, now_s, on_pair, on_candidate, on_left_out, m};
    struct tune_search search = {.facts = facts,
                                 .hooks = &hooks,
                                 .journal = journal,
                                 .deadline_s = m->clock_s + seconds,
                                 .cost_s = m->load_s + m->turn_s(&defaults, 0)};
    cr_assert_eq(tune_search_run(&search, &error), 0, "%s", error.text);
    search.hooks = NULL;
    return search;
}

static double always_one(const struct tune_settings *settings, uint32_t run)
{
    (void)settings, (void)run;
    return 1;
}

static double threads_and_prefetch(const struct tune_settings *settings, uint32_t run)
{
    (void)run;
    return (settings->threads == 3 ? 0.8 : settings->threads ? 1.2 : 1) * (settings->no_prefetch ? 0.9 : 1);
}

static double two_percent(const struct tune_settings *settings, uint32_t run)
{
    (void)run;
    return settings->threads == 3 ? 1 / 1.02 : 1;
}

// ---- verdicts
// ------------------------------------------------------------------------------------------------

static struct tune_candidate candidate_of(const double *ratios, uint32_t n)
{
    struct tune_candidate c = {.knob = TUNE_THREADS};
    for (uint32_t i = 0; i < n; i++)
        c.pairs[c.n_pairs++] = (struct tune_pair){ratios[i] * 0.25, ratios[i] * 0.75, 0.25, 0.75};
    return c;
}

Test(tune_search, a_verdict_needs_three_percent_in_the_median_and_most_pairs)
{
    static const struct {
        double ratios[TUNE_MOST_PAIRS];
        uint32_t n, wanted;
        enum tune_verdict verdict;
    } cases[] = {
        {{0}, 0, 3, TUNE_OPEN},
        {{1.5}, 1, 3, TUNE_OPEN},
        {{1.5, 1.5}, 2, 3, TUNE_OPEN},
        {{0.9}, 1, 3, TUNE_OPEN},
        {{1.1, 1.1, 1.1}, 3, 3, TUNE_BETTER},
        {{1.031, 1.031, 1.031}, 3, 3, TUNE_BETTER},
        {{1.029, 1.029, 1.029}, 3, 3, TUNE_NO_GAIN},
        {{2.0, 1.02, 1.01}, 3, 3, TUNE_NO_GAIN},
        {{1.1, 0.5, 1.1}, 3, 3, TUNE_BETTER},
        {{0.99, 0.99}, 2, 3, TUNE_NO_GAIN}, // most can no longer be won
        {{0.99, 5.0, 0.99}, 3, 3, TUNE_NO_GAIN},
        {{1.0, 1.0, 1.0}, 3, 3, TUNE_NO_GAIN},
        {{1.2, 0.9, 1.2, 0.9}, 4, 5, TUNE_OPEN},
        {{1.2, 0.9, 1.2, 0.9, 1.2}, 5, 5, TUNE_BETTER},
        {{1.2, 0.9, 1.2, 0.9, 0.9}, 5, 5, TUNE_NO_GAIN},
        {{0.9, 0.9, 0.9}, 3, 5, TUNE_NO_GAIN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tune_candidate c = candidate_of(cases[i].ratios, cases[i].n);
        tune_judge(&c, cases[i].wanted);
        cr_expect_eq(c.verdict, cases[i].verdict, "case %zu: %d", i, c.verdict);
    }
}

Test(tune_search, pairs_that_gain_while_the_times_do_not_are_not_believed)
{
    static const double turns[][2] = {{1.0, 0.9}, {2.0, 1.8}, {0.5, 1.4}};
    struct tune_candidate c = {.knob = TUNE_THREADS, .n_pairs = 3};
    for (int i = 0; i < 3; i++)
        c.pairs[i] =
            (struct tune_pair){turns[i][0] / 4, turns[i][0] * 3 / 4, turns[i][1] / 4, turns[i][1] * 3 / 4};
    tune_judge(&c, 3);
    cr_assert_gt(c.ratio, 1.1);
    cr_assert_eq(c.n_won, 2);
    cr_assert_eq(c.verdict, TUNE_NO_GAIN);
}

Test(tune_search, ratios_are_of_the_whole_turn)
{
    struct tune_candidate c = {.knob = TUNE_BATCH, .n_pairs = 3};
    for (int i = 0; i < 3; i++) // prefill twice as fast, decode a little slower
        c.pairs[i] = (struct tune_pair){2, 9, 1, 10 - i};
    tune_judge(&c, 3);
    cr_assert_float_eq(c.ratio, 11.0 / 10, 1e-9);
    cr_assert_float_eq(c.low, 1.0, 1e-9);
    cr_assert_float_eq(c.high, 11.0 / 9, 1e-9);
    cr_assert_float_eq(c.prefill_ratio, 2, 1e-9);
    cr_assert_float_eq(c.decode_ratio, 1, 1e-9);
    cr_assert_eq(c.n_won, 2);
    cr_assert_float_eq(tune_medians(&c).after_decode_s, 9, 1e-9);
}

// ---- knobs
// ---------------------------------------------------------------------------------------------------

static size_t n_values(const struct tune_facts *facts, enum tune_knob knob, const char **why)
{
    struct tune_settings values[TUNE_MOST_VALUES];
    const size_t n = tune_knob_values(values, why, knob, &defaults, facts);
    for (size_t i = 0; i < n; i++) {
        cr_assert_not(tune_settings_equal(&values[i], &defaults));
        for (size_t j = 0; j < i; j++)
            cr_assert_not(tune_settings_equal(&values[i], &values[j]));
    }
    return n;
}

Test(tune_search, knobs_that_do_not_matter_are_left_out_with_the_reason)
{
    const char *why;
    struct tune_facts facts = full_facts();
    for (int knob = 0; knob < TUNE_KNOBS; knob++)
        cr_expect_gt(n_values(&facts, (enum tune_knob)knob, &why), 1, "%s",
                     tune_knob_name((enum tune_knob)knob));

    facts.pool_bytes = facts.streamed_bytes = facts.ring_bytes = 0;
    facts.reads = false;
    static const enum tune_knob idle[] = {TUNE_PREFETCH, TUNE_POLICY, TUNE_RING, TUNE_QUEUE_DEPTH};
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++) {
        cr_expect_eq(n_values(&facts, idle[i], &why), 0, "%s", tune_knob_name(idle[i]));
        cr_expect(why[0], "%s", tune_knob_name(idle[i]));
    }
    facts.n_experts = 0;
    cr_expect_eq(n_values(&facts, TUNE_POLICY, &why), 0);
    cr_expect(strstr(why, "no experts"), "%s", why);

    facts = full_facts();
    facts.prompt_tokens = 128; // steps of 512 cannot be told from steps of 1024
    cr_expect_eq(n_values(&facts, TUNE_BATCH, &why), 0);
    cr_expect(strstr(why, "-p"), "%s", why);
    facts.threads = facts.processors = 1;
    cr_expect_eq(n_values(&facts, TUNE_THREADS, &why), 0);
    facts.streamed_bytes = facts.ring_bytes;
    cr_expect_eq(n_values(&facts, TUNE_RING, &why), 0);

    facts = full_facts();
    for (int knob = 0; knob < TUNE_KNOBS; knob++) {
        facts.fixed[knob] = true;
        cr_expect_eq(n_values(&facts, (enum tune_knob)knob, &why), 0);
        cr_expect(strstr(why, "command line"), "%s", why);
    }
}

Test(tune_search, values_stay_within_what_an_engine_takes)
{
    struct tune_settings values[TUNE_MOST_VALUES];
    const char *why;
    for (uint32_t k = 1; k <= 4; k++)
        for (uint32_t experts = k; experts <= 8; experts++) {
            struct tune_facts facts = full_facts();
            facts.n_experts_used = k;
            facts.n_experts = experts;
            facts.queue_depth = k;
            facts.threads = k;
            facts.processors = experts;
            for (int knob = 0; knob < TUNE_KNOBS; knob++) {
                const size_t n = tune_knob_values(values, &why, (enum tune_knob)knob, &defaults, &facts);
                for (size_t i = 0; i < n; i++) {
                    cr_assert_leq(values[i].prefetch_ranks, experts);
                    cr_assert_not(values[i].no_prefetch && values[i].prefetch_ranks);
                    cr_assert_leq(values[i].threads, experts);
                    cr_assert_leq(values[i].batch, facts.prompt_tokens);
                }
            }
        }
}

// ---- the search
// ----------------------------------------------------------------------------------------------

Test(tune_search, gains_add_up_and_are_confirmed_against_the_defaults)
{
    struct machine m = {.turn_s = threads_and_prefetch};
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    const struct tune_search s = run_search(&m, &facts, &journal, 1000);
    cr_assert_eq(s.outcome, TUNE_TUNED);
    cr_assert(s.complete);
    cr_assert_eq(s.best.threads, 3);
    cr_assert(s.best.no_prefetch);
    cr_assert_eq(s.best.prefetch_ranks + s.best.queue_depth + s.best.batch, 0);
    cr_assert_eq(s.final->knob, TUNE_KNOBS);
    cr_assert(tune_settings_equal(&s.final->base, &defaults));
    cr_assert_eq(s.final->n_pairs, TUNE_MOST_PAIRS);
    cr_assert_float_eq(s.final->ratio, 1 / (0.8 * 0.9), 1e-9);
    cr_assert_eq(m.n_left_out, 0);
    for (uint32_t i = 0; i < journal.n; i++) // each knob on top of the ones before
        if (journal.list[i].knob > TUNE_THREADS && journal.list[i].knob < TUNE_KNOBS)
            cr_assert_eq(journal.list[i].base.threads, 3);
}

Test(tune_search, rounds_go_forwards_and_backwards)
{
    struct machine m = {.turn_s = always_one};
    struct tune_facts facts = full_facts();
    for (int knob = TUNE_PREFETCH; knob < TUNE_KNOBS; knob++)
        facts.fixed[knob] = true;
    // Ratios of 1 are no wins, so that two rounds decide.
    struct tune_journal journal = {.n = 0};
    const struct tune_search s = run_search(&m, &facts, &journal, 1000);
    static const uint32_t threads[] = {0, 8, 3, 2, 2, 3, 8, 0};
    cr_assert_eq(m.n_runs, sizeof threads / sizeof *threads);
    for (uint32_t i = 0; i < m.n_runs; i++)
        cr_assert_eq(m.runs[i].threads, threads[i], "run %u", i);
    cr_assert_eq(s.outcome, TUNE_DEFAULTS);
    cr_assert_null(s.final);
    cr_assert_eq(m.n_left_out, TUNE_KNOBS - 1);
}

Test(tune_search, small_gains_are_refused)
{
    struct machine m = {.turn_s = two_percent};
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    const struct tune_search s = run_search(&m, &facts, &journal, 1000);
    cr_assert_eq(s.outcome, TUNE_DEFAULTS);
    cr_assert(tune_settings_equal(&s.best, &defaults));
}

static bool of_three_threads(const struct tune_settings *settings)
{
    return settings->threads == 3;
}

Test(tune_search, other_tokens_and_failures_are_refused_however_fast)
{
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    struct machine m = {.turn_s = threads_and_prefetch, .has_other_tokens = of_three_threads};
    struct tune_search s = run_search(&m, &facts, &journal, 1000);
    cr_assert_eq(s.outcome, TUNE_TUNED);
    cr_assert_eq(s.best.threads, 0);
    cr_assert_eq(m.verdicts[1], TUNE_OTHER_TOKENS);

    journal.n = 0;
    m = (struct machine){.turn_s = threads_and_prefetch, .fails = of_three_threads};
    s = run_search(&m, &facts, &journal, 1000);
    cr_assert_eq(s.best.threads, 0);
    cr_assert_eq(m.verdicts[1], TUNE_FAILED);
    cr_assert_str_eq(m.last_reason, "no memory for these settings");
}

static bool of_defaults_later(const struct tune_settings *settings)
{
    return tune_settings_equal(settings, &defaults);
}

Test(tune_search, a_base_that_changes_its_tokens_ends_the_search)
{
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    struct machine m = {.turn_s = always_one, .has_other_tokens = of_defaults_later};
    const struct tune_hooks hooks = {measure, now_s, on_pair, on_candidate, on_left_out, &m};
    struct tune_search s = {
        .facts = &facts, .hooks = &hooks, .journal = &journal, .deadline_s = 100, .cost_s = 1};
    struct lode_error error = {0};
    cr_assert_neq(tune_search_run(&s, &error), 0);
    cr_assert(strstr(error.text, "other tokens"), "%s", error.text);
}

// Fast while its knob is measured, and never again.
static double luck(const struct tune_settings *settings, uint32_t run)
{
    return settings->threads == 3 && run < 12 ? 0.8 : 1;
}

Test(tune_search, a_gain_that_does_not_come_again_is_not_believed)
{
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    struct machine m = {.turn_s = luck};
    const struct tune_search s = run_search(&m, &facts, &journal, 1000);
    cr_assert_eq(s.best.threads, 3);
    cr_assert_eq(s.outcome, TUNE_DEFAULTS);
    cr_assert_not_null(s.final);
}

Test(tune_search, the_time_is_kept_and_what_does_not_fit_is_told)
{
    const struct tune_facts facts = full_facts();
    bool ever_short = false, ever_incomplete = false, ever_complete = false;
    for (uint32_t seconds = 0; seconds < 1500; seconds += 13) {
        struct machine m = {.turn_s = threads_and_prefetch, .load_s = 9};
        struct tune_journal journal = {.n = 0};
        const struct tune_search s = run_search(&m, &facts, &journal, seconds);
        cr_assert_leq(m.clock_s, seconds + 1e-6, "%u s took %g", seconds, m.clock_s);
        cr_assert_eq(s.outcome == TUNE_TOO_SHORT, s.n_decided == 0, "%u s", seconds);
        if (s.outcome == TUNE_TUNED)
            cr_assert_geq(s.final->n_pairs, TUNE_PAIRS);
        ever_short = ever_short || s.outcome == TUNE_TOO_SHORT;
        ever_incomplete = ever_incomplete || (s.outcome == TUNE_TUNED && !s.complete);
        ever_complete = ever_complete || s.complete;
    }
    cr_assert(ever_short && ever_incomplete && ever_complete);
}

Test(tune_search, nothing_to_try_is_no_result)
{
    struct tune_facts facts = full_facts();
    for (int knob = 0; knob < TUNE_KNOBS; knob++)
        facts.fixed[knob] = true;
    struct machine m = {.turn_s = always_one};
    struct tune_journal journal = {.n = 0};
    cr_assert_eq(run_search(&m, &facts, &journal, 0).outcome, TUNE_NOTHING);
    cr_assert_eq(m.n_runs, 0);
}

// ---- going on
// ------------------------------------------------------------------------------------------------

static char folder[TEST_FOLDER_SIZE], path[256];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    snprintf(path, sizeof path, "%s/deeper/state", folder);
    setenv("XDG_CONFIG_HOME", folder, 1);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(tune_state, .init = make_folder, .fini = remove_folder);

// Stopped after every number of runs and gone on with, through the file: the same result, and no more than
// the runs of one round are made twice.
Test(tune_state, a_stopped_search_goes_on_without_loss)
{
    const struct tune_facts facts = full_facts();
    struct tune_journal whole = {.n = 0};
    struct machine m = {.turn_s = threads_and_prefetch};
    const struct tune_search wanted = run_search(&m, &facts, &whole, 1000);
    const uint32_t n_runs = m.n_runs;
    struct lode_error error = {0};
    bool other;
    for (uint32_t stop = 1; stop < n_runs; stop++) {
        struct tune_journal journal = {.n = 0};
        struct machine first = {.turn_s = threads_and_prefetch, .stop_after = stop};
        struct tune_search s = run_search(&first, &facts, &journal, 1000);
        cr_assert_eq(s.outcome, TUNE_STOPPED);
        cr_assert_eq(tune_state_write(&journal, "the same", path, &error), 0, "%s", error.text);
        cr_assert_eq(tune_state_read(&journal, &other, "the same", path, &error), 0, "%s", error.text);
        cr_assert_not(other);
        struct machine second = {.turn_s = threads_and_prefetch};
        s = run_search(&second, &facts, &journal, 1000);
        cr_assert_eq(s.outcome, wanted.outcome);
        cr_assert(tune_settings_equal(&s.best, &wanted.best));
        cr_assert_leq(first.n_runs + second.n_runs, n_runs + TUNE_MOST_VALUES + 1, "stopped after %u", stop);
    }
}

Test(tune_state, what_had_no_time_is_measured_by_the_next)
{
    const struct tune_facts facts = full_facts();
    struct tune_journal journal = {.n = 0};
    struct lode_error error = {0};
    bool other;
    uint32_t n_searches = 0;
    struct tune_search s;
    do {
        struct machine m = {.turn_s = threads_and_prefetch, .load_s = 9};
        s = run_search(&m, &facts, &journal, 400);
        cr_assert_eq(tune_state_write(&journal, "", path, &error), 0);
        cr_assert_eq(tune_state_read(&journal, &other, "", path, &error), 0, "%s", error.text);
        s.final = NULL;
        cr_assert_lt(++n_searches, 10);
    } while (!s.complete);
    cr_assert_gt(n_searches, 1);
    cr_assert_eq(s.outcome, TUNE_TUNED);
    cr_assert(s.best.threads == 3 && s.best.no_prefetch);
}

Test(tune_state, what_was_measured_otherwise_counts_for_nothing)
{
    struct tune_journal journal = {.n = 0};
    struct lode_error error = {0};
    bool other;
    tune_journal_take(&journal, TUNE_THREADS, &defaults, &(struct tune_settings){.threads = 3})->verdict =
        TUNE_OTHER_TOKENS;
    cr_assert_eq(tune_state_write(&journal, "prompts of 128", path, &error), 0, "%s", error.text);
    cr_assert_eq(tune_state_read(&journal, &other, "prompts of 128", path, &error), 0);
    cr_assert(!other && journal.n == 1 && journal.list[0].verdict == TUNE_OTHER_TOKENS);
    cr_assert_eq(tune_state_read(&journal, &other, "prompts of 1024", path, &error), 0);
    cr_assert(other && journal.n == 0);
    unlink(path);
    cr_assert_eq(tune_state_read(&journal, &other, "", path, &error), 0);
    cr_assert(!other && journal.n == 0);
}

static void write_text(const char *file, const char *text)
{
    FILE *stream = fopen(file, "w");
    cr_assert(stream);
    fputs(text, stream);
    fclose(stream);
}

Test(tune_state, a_damaged_state_names_the_field)
{
#define SETTINGS                                                                                             \
    "{\"threads\":0,\"batch\":0,\"queue_depth\":0,\"prefetch_ranks\":0,\"ring_bytes\":0,\"no_prefetch\":"    \
    "false,"                                                                                                 \
    "\"policy\":\"\"}"
    static const char *const cases[][2] = {
        {"", "line"},
        {"[]", "version"},
        {"{\"version\":2}", "version"},
        {"{\"version\":1,\"candidates\":[]}", "conditions"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":3}", "candidates"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[7]}", "candidates[0]"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[{\"knob\":99,\"other_tokens\":false}]}", "knob"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[{\"knob\":1,\"other_tokens\":false,\"base\":{}}]"
         "}",
         "base: threads"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[{\"knob\":1,\"other_tokens\":false,"
         "\"base\":" SETTINGS ",\"settings\":" SETTINGS ",\"pairs\":[[1,2,3]]}]}",
         "pairs[0]"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[{\"knob\":1,\"other_tokens\":false,"
         "\"base\":" SETTINGS ",\"settings\":" SETTINGS ",\"pairs\":[[1,2,3,0]]}]}",
         "pairs[0]"},
        {"{\"version\":1,\"conditions\":\"\",\"candidates\":[{\"knob\":1,\"other_tokens\":false,"
         "\"base\":" SETTINGS ",\"settings\":" SETTINGS ",\"pairs\":[[],[],[],[],[],[]]}]}",
         "pairs"},
    };
    snprintf(path, sizeof path, "%s/state", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tune_journal journal = {.n = 0};
        struct lode_error error = {0};
        bool other;
        write_text(path, cases[i][0]);
        cr_assert_neq(tune_state_read(&journal, &other, "", path, &error), 0, "case %zu", i);
        cr_expect(strstr(error.text, cases[i][1]), "case %zu: %s", i, error.text);
        cr_expect(strstr(error.text, "/state"), "case %zu: %s", i, error.text);
        cr_expect_eq(journal.n, 0);
    }
}

Test(tune_search, a_full_journal_says_so)
{
    struct tune_journal journal = {.n = 0};
    for (uint32_t i = 0; i < TUNE_MOST_CANDIDATES; i++)
        cr_assert(
            tune_journal_take(&journal, TUNE_BATCH, &defaults, &(struct tune_settings){.batch = 1 + i}));
    cr_assert_eq(tune_journal_take(&journal, TUNE_BATCH, &defaults, &(struct tune_settings){.batch = 1}),
                 &journal.list[0]);
    cr_assert_null(
        tune_journal_take(&journal, TUNE_BATCH, &defaults, &(struct tune_settings){.batch = 4000}));
}
