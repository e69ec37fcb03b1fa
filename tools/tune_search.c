#include "tools/tune_search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The next runs may take longer than those before.
#define COST_MARGIN 1.1

// ---- verdicts
// ------------------------------------------------------------------------------------------------

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Sorts the values.
static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : 0;
}

struct tune_pair tune_medians(const struct tune_candidate *candidate)
{
    enum { TIMES = 4 };
    double times[TIMES][TUNE_MOST_PAIRS];
    const uint32_t n = candidate->n_pairs;
    for (uint32_t i = 0; i < n; i++) {
        const struct tune_pair *pair = &candidate->pairs[i];
        times[0][i] = pair->before_prefill_s;
        times[1][i] = pair->before_decode_s;
        times[2][i] = pair->after_prefill_s;
        times[3][i] = pair->after_decode_s;
    }
    return (struct tune_pair){median(times[0], n), median(times[1], n), median(times[2], n),
                              median(times[3], n)};
}

static void count_pairs(struct tune_candidate *c)
{
    double turn[TUNE_MOST_PAIRS], prefill[TUNE_MOST_PAIRS], decode[TUNE_MOST_PAIRS];
    c->n_won = 0;
    for (uint32_t i = 0; i < c->n_pairs; i++) {
        const struct tune_pair *p = &c->pairs[i];
        prefill[i] = p->before_prefill_s / p->after_prefill_s;
        decode[i] = p->before_decode_s / p->after_decode_s;
        turn[i] = (p->before_prefill_s + p->before_decode_s) / (p->after_prefill_s + p->after_decode_s);
        c->n_won += turn[i] > 1;
    }
    c->ratio = median(turn, c->n_pairs);
    c->low = c->n_pairs ? turn[0] : 0;
    c->high = c->n_pairs ? turn[c->n_pairs - 1] : 0;
    c->prefill_ratio = median(prefill, c->n_pairs);
    c->decode_ratio = median(decode, c->n_pairs);
}

// Where the machine is busy with other things the median pair may gain while the median turn does not.
static bool is_better(const struct tune_candidate *c)
{
    const struct tune_pair m = tune_medians(c);
    return c->ratio >= TUNE_LEAST_GAIN && 2 * c->n_won > c->n_pairs &&
           m.before_prefill_s + m.before_decode_s >= TUNE_LEAST_GAIN * (m.after_prefill_s + m.after_decode_s);
}

void tune_judge(struct tune_candidate *c, uint32_t wanted)
{
    count_pairs(c);
    if (c->verdict == TUNE_OTHER_TOKENS || c->verdict == TUNE_FAILED || c->verdict == TUNE_NO_TIME)
        return;
    const uint32_t most = wanted / 2 + 1; // pairs that must be won
    if (c->n_pairs - c->n_won > wanted - most && c->n_pairs <= wanted)
        c->verdict = TUNE_NO_GAIN;
    else if (c->n_pairs < wanted)
        c->verdict = TUNE_OPEN;
    else
        c->verdict = is_better(c) ? TUNE_BETTER : TUNE_NO_GAIN;
}

// ---- the journal
// ---------------------------------------------------------------------------------------------

struct tune_candidate *tune_journal_take(struct tune_journal *journal, enum tune_knob knob,
                                         const struct tune_settings *base,
                                         const struct tune_settings *settings)
{
    for (uint32_t i = 0; i < journal->n; i++) {
        struct tune_candidate *c = &journal->list[i];
        if (c->knob == knob && tune_settings_equal(&c->base, base) &&
            tune_settings_equal(&c->settings, settings))
            return c;
    }
    if (journal->n == TUNE_MOST_CANDIDATES)
        return NULL;
    struct tune_candidate *c = &journal->list[journal->n++];
    *c = (struct tune_candidate){.knob = knob, .base = *base, .settings = *settings};
    return c;
}

// ---- measuring
// -----------------------------------------------------------------------------------------------

static double left_s(const struct tune_search *s)
{
    return s->deadline_s - s->hooks->now_s(s->hooks->user);
}

static double runs_s(const struct tune_search *s, uint32_t n)
{
    return n * s->cost_s * COST_MARGIN;
}

static int measure(struct tune_search *s, struct tune_run *out, const struct tune_settings *settings,
                   const char *what, struct lode_error *error)
{
    *out = (struct tune_run){0};
    const int code = s->hooks->measure(s->hooks->user, out, settings, what, error);
    if (code)
        return code;
    s->n_runs++;
    s->spent_s += out->cost_s;
    s->cost_s = s->spent_s / s->n_runs;
    return 0;
}

static int measure_base(struct tune_search *s, struct tune_run *out, const struct tune_settings *base,
                        struct lode_error *error)
{
    const int code = measure(s, out, base, "settings so far", error);
    if (!code && out->other_tokens)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the same settings generated other tokens than before; nothing can be compared");
    return code;
}

// *out_done: there is a time to compare.
static int measure_candidate(struct tune_search *s, struct tune_run *out, bool *out_done,
                             struct tune_candidate *c, struct lode_error *error)
{
    char value[TUNE_TEXT_SIZE], what[2 * TUNE_TEXT_SIZE];
    struct lode_error cause = {0};
    snprintf(what, sizeof what, "%s %s", tune_knob_name(c->knob),
             tune_knob_text(value, c->knob, &c->settings, s->facts));
    const int code = measure(s, out, &c->settings, what, &cause);
    *out_done = !code && !out->other_tokens;
    if (code == LODE_ERR_CANCELLED)
        return lode_fail(error, code, "%s", cause.text);
    if (code) {
        c->verdict = TUNE_FAILED;
        snprintf(c->reason, sizeof c->reason, "%.*s", TUNE_REASON_SIZE - 1, cause.text);
    } else if (out->other_tokens) {
        c->verdict = TUNE_OTHER_TOKENS;
        s->hooks->on_pair(s->hooks->user);
    }
    return 0;
}

static void add_pair(struct tune_search *s, struct tune_candidate *c, const struct tune_run *before,
                     const struct tune_run *after)
{
    c->pairs[c->n_pairs++] =
        (struct tune_pair){before->prefill_s, before->decode_s, after->prefill_s, after->decode_s};
    s->hooks->on_pair(s->hooks->user);
}

static int run_forwards(struct tune_search *s, struct tune_candidate **list, size_t n,
                        struct lode_error *error)
{
    struct tune_run before, after = {0};
    bool done = false;
    int code = measure_base(s, &before, &list[0]->base, error);
    for (size_t i = 0; i < n && !code; i++) {
        code = measure_candidate(s, &after, &done, list[i], error);
        if (!code && done)
            add_pair(s, list[i], &before, &after);
    }
    return code;
}

static int run_backwards(struct tune_search *s, struct tune_candidate **list, size_t n,
                         struct lode_error *error)
{
    struct tune_run before, after[TUNE_MOST_VALUES] = {0};
    bool done[TUNE_MOST_VALUES] = {false};
    int code = 0;
    for (size_t i = n; i-- > 0 && !code;)
        code = measure_candidate(s, &after[i], &done[i], list[i], error);
    if (!code)
        code = measure_base(s, &before, &list[0]->base, error);
    for (size_t i = 0; i < n && !code; i++)
        if (done[i])
            add_pair(s, list[i], &before, &after[i]);
    return code;
}

static size_t judge_all(struct tune_candidate **out_open, struct tune_candidate **list, size_t n,
                        uint32_t wanted)
{
    size_t n_open = 0;
    for (size_t i = 0; i < n; i++) {
        tune_judge(list[i], wanted);
        if (list[i]->verdict == TUNE_OPEN)
            out_open[n_open++] = list[i];
    }
    return n_open;
}

// Measures candidates of one base until all are decided, or the time is over but for reserve_s.
static int compare(struct tune_search *s, struct tune_candidate **list, size_t n, uint32_t wanted,
                   uint32_t reserved_runs, struct lode_error *error)
{
    for (uint32_t round = 0;; round++) {
        struct tune_candidate *open[TUNE_MOST_VALUES];
        const size_t n_open = judge_all(open, list, n, wanted);
        if (!n_open)
            return 0;
        if (left_s(s) < runs_s(s, reserved_runs + (uint32_t)n_open + 1)) {
            for (size_t i = 0; i < n_open; i++)
                open[i]->verdict = TUNE_NO_TIME;
            return 0;
        }
        const int code = (round % 2 ? run_backwards : run_forwards)(s, open, n_open, error);
        if (code)
            return code;
    }
}

// ---- the search
// ----------------------------------------------------------------------------------------------

// Of the open candidates, as many of the first as can be measured to the end beside what is reserved.
static void drop_what_takes_too_long(struct tune_search *s, struct tune_candidate **list, size_t n,
                                     uint32_t reserved_runs)
{
    struct tune_candidate *open[TUNE_MOST_VALUES];
    size_t n_open = judge_all(open, list, n, TUNE_PAIRS);
    uint32_t fewest = TUNE_PAIRS;
    for (size_t i = 0; i < n_open; i++)
        fewest = open[i]->n_pairs < fewest ? open[i]->n_pairs : fewest;
    while (n_open && left_s(s) < runs_s(s, reserved_runs + (TUNE_PAIRS - fewest) * ((uint32_t)n_open + 1)))
        open[--n_open]->verdict = TUNE_NO_TIME;
}

// The reserve for the comparison at the end: of three pairs at least.
enum { FINAL_RUNS = 2 * TUNE_PAIRS };

static int search_knob(struct tune_search *s, enum tune_knob knob, struct lode_error *error)
{
    struct tune_settings values[TUNE_MOST_VALUES];
    struct tune_candidate *list[TUNE_MOST_VALUES];
    const struct tune_candidate *winner = NULL;
    const char *why;
    const size_t n = tune_knob_values(values, &why, knob, &s->best, s->facts);
    if (!n) {
        s->hooks->on_left_out(s->hooks->user, knob, why);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        list[i] = tune_journal_take(s->journal, knob, &s->best, &values[i]);
        if (!list[i])
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "%d candidates have been measured already, of which the last does not fit in; "
                             "begin anew with --restart",
                             TUNE_MOST_CANDIDATES);
    }
    drop_what_takes_too_long(s, list, n, FINAL_RUNS);
    const int code = compare(s, list, n, TUNE_PAIRS, FINAL_RUNS, error);
    for (size_t i = 0; i < n; i++) {
        if (list[i]->verdict == TUNE_OPEN) // the search was stopped
            continue;
        s->hooks->on_candidate(s->hooks->user, list[i]);
        s->complete = s->complete && list[i]->verdict != TUNE_NO_TIME;
        s->n_decided += list[i]->verdict != TUNE_NO_TIME;
        if (list[i]->verdict == TUNE_BETTER && (!winner || list[i]->ratio > winner->ratio))
            winner = list[i];
    }
    if (winner && !code)
        s->best = winner->settings;
    return code;
}

static int confirm(struct tune_search *s, struct lode_error *error)
{
    const struct tune_settings defaults = {0};
    if (tune_settings_equal(&s->best, &defaults)) {
        s->outcome = s->n_decided ? TUNE_DEFAULTS : s->complete ? TUNE_NOTHING : TUNE_TOO_SHORT;
        return 0;
    }
    struct tune_candidate *c = tune_journal_take(s->journal, TUNE_KNOBS, &defaults, &s->best);
    if (!c)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%d candidates have been measured already; begin anew with --restart",
                         TUNE_MOST_CANDIDATES);
    const uint32_t wanted = left_s(s) >= runs_s(s, 2 * TUNE_MOST_PAIRS) ? TUNE_MOST_PAIRS : TUNE_PAIRS;
    const int code = compare(s, &c, 1, wanted, 0, error);
    if (c->verdict == TUNE_OPEN)
        return code;
    s->hooks->on_candidate(s->hooks->user, c);
    s->final = c;
    s->outcome = c->verdict == TUNE_BETTER    ? TUNE_TUNED
                 : c->verdict == TUNE_NO_TIME ? TUNE_TOO_SHORT
                                              : TUNE_DEFAULTS;
    return code;
}

int tune_search_run(struct tune_search *s, struct lode_error *error)
{
    int code = 0;
    s->best = (struct tune_settings){0};
    s->final = NULL;
    s->complete = true;
    s->n_decided = s->n_runs = 0;
    s->spent_s = 0;
    s->outcome = TUNE_STOPPED;
    for (int knob = 0; knob < TUNE_KNOBS && !code; knob++)
        code = search_knob(s, (enum tune_knob)knob, error);
    if (!code)
        code = confirm(s, error);
    if (code == LODE_ERR_CANCELLED) {
        s->outcome = TUNE_STOPPED;
        return 0;
    }
    return code;
}
