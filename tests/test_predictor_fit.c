// Predictors on traces: what they are told and in which order, what is counted, and recorded figures.
#include "placement/predictor_fit.h"
#include "placement/trace_summary.h"
#include "tests/test_data.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- a trace put together: three layers, the second without experts; passes of given lengths

enum { EXPERTS = 10, USED = 2, MOE = 2, MAX_TOKENS = 4096, MAX_PASSES = 4096, MAX_CONVERSATIONS = 64 };

struct made_up {
    struct trace trace;
    struct trace_token tokens[MAX_TOKENS];
    struct trace_pass passes[MAX_PASSES];
    struct trace_conversation conversations[MAX_CONVERSATIONS];
    uint16_t experts[MAX_TOKENS * MOE * USED];
    uint32_t guess_at[MAX_TOKENS * MOE];
    uint16_t guess_cells[1 + MAX_TOKENS * MOE * (1 + EXPERTS)];
};

static struct made_up *new_trace(void)
{
    struct made_up *made = calloc(1, sizeof *made);
    cr_assert(made);
    struct trace *trace = &made->trace;
    trace->header.n_layers = 3;
    trace->header.layers[0] = trace->header.layers[2] = (struct trace_layer){EXPERTS, USED, 0};
    trace->n_moe = MOE;
    trace->n_used = USED;
    trace->moe_layer[1] = 2;
    trace->tokens = made->tokens;
    trace->passes = made->passes;
    trace->conversations = made->conversations;
    trace->experts = made->experts;
    trace->n_guess_cells = 1;
    return made;
}

static void add_conversation(struct made_up *made, enum trace_part part)
{
    made->conversations[made->trace.n_conversations++] =
        (struct trace_conversation){.part = part, .first_token = made->trace.n_tokens};
}

// Two experts for each layer: `expert` and the one after it.
static void add_pass(struct made_up *made, uint32_t n_tokens, uint16_t expert)
{
    struct trace *trace = &made->trace;
    const uint32_t first = trace->n_tokens, conversation = trace->n_conversations - 1;
    trace->passes[trace->n_passes++] = (struct trace_pass){.first_token = first, .n_tokens = n_tokens};
    for (uint32_t t = 0; t < n_tokens; t++) {
        trace->tokens[first + t] =
            (struct trace_token){.position = made->conversations[conversation].n_tokens + t,
                                 .conversation = conversation,
                                 .pass = trace->n_passes - 1};
        for (uint32_t m = 0; m < MOE; m++) {
            uint16_t *row = trace->experts + ((size_t)(first + t) * MOE + m) * USED;
            row[0] = (uint16_t)((expert + t + 3 * m) % EXPERTS);
            row[1] = (uint16_t)((row[0] + 1) % EXPERTS);
        }
    }
    trace->n_tokens += n_tokens;
    made->conversations[conversation].n_tokens += n_tokens;
}

static void add_guess(struct made_up *made, uint32_t token, uint32_t m, const uint16_t *experts, uint32_t n)
{
    struct trace *trace = &made->trace;
    trace->guess_at = made->guess_at;
    trace->guess_cells = made->guess_cells;
    made->guess_at[token * MOE + m] = (uint32_t)trace->n_guess_cells;
    made->guess_cells[trace->n_guess_cells++] = (uint16_t)n;
    for (uint32_t i = 0; i < n; i++)
        made->guess_cells[trace->n_guess_cells++] = experts[i];
}

// ---- a predictor that writes down what it is told, and one that names what it is given

struct log {
    struct predictor base;
    char text[65536];
    size_t length;
    uint32_t n_named;  // guesses name this many
    int32_t named[16]; // and these
};

static void write_down(struct log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void write_down(struct log *log, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log->length +=
        (size_t)vsnprintf(log->text + log->length, sizeof log->text - log->length, format, arguments);
    va_end(arguments);
    cr_assert_lt(log->length, sizeof log->text);
}

static void log_restart(struct predictor *predictor)
{
    write_down((struct log *)predictor, "restart ");
}

static void log_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    write_down((struct log *)predictor, "%u:", layer);
    for (uint32_t i = 0; i < n; i++)
        write_down((struct log *)predictor, i ? ",%d" : "%d", experts[i]);
    write_down((struct log *)predictor, " ");
}

static void log_pass_end(struct predictor *predictor, uint32_t n_tokens)
{
    write_down((struct log *)predictor, "end%u ", n_tokens);
}

static uint32_t log_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                          uint32_t max)
{
    struct log *log = (struct log *)predictor;
    write_down(log, "?%u", layer);
    if (gate)
        write_down(log, "(%d..%u)", gate[0], max);
    write_down(log, " ");
    memcpy(out, log->named, (log->n_named < max ? log->n_named : max) * sizeof *out);
    return log->n_named;
}

static const struct predictor_ops log_ops = {.name = "log",
                                             .restart = log_restart,
                                             .chosen = log_chosen,
                                             .pass_end = log_pass_end,
                                             .guess = log_guess};
static const struct predictor_ops gate_log_ops = {.name = "gate-log",
                                                  .gate = PREDICTOR_GATE_AUTO,
                                                  .restart = log_restart,
                                                  .chosen = log_chosen,
                                                  .pass_end = log_pass_end,
                                                  .guess = log_guess};
static const struct predictor_ops mute_ops = {.name = "mute", .guess = log_guess};

static void forget(struct log *log)
{
    log->text[log->length = 0] = '\0';
}

static int fit(struct log *log, const struct made_up *made, struct lode_error *error)
{
    forget(log);
    return predictor_fit(&log->base, &made->trace, error);
}

// ---- fitting
// -----------------------------------------------------------------------------------------------------

Test(predictor_fit, all_of_a_trace_without_parts_is_told_pass_by_pass_and_layer_by_layer)
{
    struct made_up *made = new_trace();
    static struct log log = {.base.ops = &log_ops};
    struct lode_error error = {0};
    add_conversation(made, TRACE_PART_NONE);
    add_pass(made, 2, 0);
    add_pass(made, 1, 8);
    add_conversation(made, TRACE_PART_NONE);
    add_pass(made, 1, 5);
    made->experts[(3 * MOE + 1) * USED + 1] = TRACE_NO_EXPERT; // one expert only
    made->experts[(2 * MOE) * USED] = TRACE_NO_EXPERT;         // none
    cr_assert_eq(fit(&log, made, &error), 0, "%s", error.text);
    cr_assert_str_eq(log.text,
                     "restart 0:0,1 0:1,2 2:3,4 2:4,5 end2 2:1,2 end1 restart 0:5,6 2:8 end1 restart ");
    static struct log mute = {.base.ops = &mute_ops};
    cr_assert_eq(fit(&mute, made, &error), 0, "who does not listen is told nothing");
    free(made);
}

Test(predictor_fit, of_a_trace_with_parts_only_the_one_for_fitting_is_told)
{
    struct made_up *made = new_trace();
    static struct log log = {.base.ops = &log_ops};
    struct lode_error error = {0};
    add_conversation(made, TRACE_PART_TEST);
    add_pass(made, 1, 1);
    cr_assert_eq(fit(&log, made, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "'log'"), "%s", error.text);
    cr_assert_str_eq(log.text, "");
    add_conversation(made, TRACE_PART_FIT);
    add_pass(made, 1, 4);
    add_conversation(made, TRACE_PART_NONE);
    add_pass(made, 1, 2);
    add_conversation(made, TRACE_PART_FIT);
    add_pass(made, 1, 6);
    cr_assert_eq(fit(&log, made, &error), 0, "%s", error.text);
    cr_assert_str_eq(log.text, "restart 0:4,5 2:7,8 end1 restart 0:6,7 2:9,0 end1 restart ");
    free(made);
}

Test(predictor_fit, a_trace_without_tokens_is_refused)
{
    struct made_up *made = new_trace();
    static struct log log = {.base.ops = &log_ops};
    struct lode_error error = {0};
    cr_assert_eq(fit(&log, made, &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(fit(&log, made, NULL), LODE_ERR_ARGUMENT);
    struct predictor_tally tally;
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 0, 4, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "no tokens of decode"), "%s", error.text);
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 0, 0, &error), LODE_ERR_ARGUMENT);
    free(made);
}

// ---- precision
// ---------------------------------------------------------------------------------------------------

Test(predictor_fit, single_tokens_are_guessed_before_they_are_told_and_prompts_are_told)
{
    struct made_up *made = new_trace();
    static struct log log = {.base.ops = &log_ops, .n_named = 3, .named = {4, 9, 7}};
    struct predictor_tally tally;
    struct lode_error error = {0};
    add_conversation(made, TRACE_PART_FIT);
    add_pass(made, 1, 1);
    add_conversation(made, TRACE_PART_TEST);
    add_pass(made, 2, 0);
    add_pass(made, 1, 4); // 4,5 and 7,8
    add_conversation(made, TRACE_PART_NONE);
    add_pass(made, 1, 8); // 8,9 and 1,2
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 0, 5, &error), 0, "%s", error.text);
    cr_assert_str_eq(log.text, "restart 0:0,1 0:1,2 2:3,4 2:4,5 end2 ?0 0:4,5 ?2 2:7,8 end1 "
                               "restart ?0 0:8,9 ?2 2:1,2 end1 ");
    cr_assert_eq(tally.n_guesses, 4);
    cr_assert_eq(tally.n_chosen, 8);
    const uint64_t named[4] = {4, 4, 4, 0}, right[4] = {1, 1, 1, 0};
    cr_assert_arr_eq(tally.named, named, sizeof named);
    cr_assert_arr_eq(tally.right, right, sizeof right);
    cr_assert_float_eq(predictor_tally_precision(&tally, 1), 0.25, 1e-12);
    cr_assert_float_eq(predictor_tally_precision(&tally, 3), 0.25, 1e-12);
    cr_assert_float_eq(predictor_tally_recall(&tally, 2), 0.25, 1e-12);
    cr_assert_float_eq(predictor_tally_recall(&tally, TRACE_MAX_RANKS + 5), 0.375, 1e-12);
    // The first three tokens are told all the same.
    forget(&log);
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 4, 2, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "names 3 experts of at most 2"), "%s", error.text);
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 4, 3, &error), 0);
    cr_assert_eq(tally.n_guesses, 2);
    cr_assert_eq(tally.right[0] + tally.right[1] + tally.right[2], 1);
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 5, 3, &error), LODE_ERR_ARGUMENT);
    free(made);
}

Test(predictor_fit, guesses_that_break_the_contract_are_an_error)
{
    struct made_up *made = new_trace();
    struct predictor_tally tally;
    struct lode_error error = {0};
    add_conversation(made, TRACE_PART_NONE);
    add_pass(made, 1, 4);
    static struct log beyond = {.base.ops = &log_ops, .n_named = 2, .named = {1, EXPERTS}};
    cr_assert_eq(predictor_precision(&tally, &beyond.base, &made->trace, 0, 8, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "names expert 10 of layer 0 with 10"), "%s", error.text);
    static struct log below = {.base.ops = &log_ops, .n_named = 1, .named = {-1}};
    cr_assert_eq(predictor_precision(&tally, &below.base, &made->trace, 0, 8, &error), LODE_ERR_FORMAT);
    static struct log twice = {.base.ops = &log_ops, .n_named = 3, .named = {1, 2, 1}};
    cr_assert_eq(predictor_precision(&tally, &twice.base, &made->trace, 0, 8, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "expert 1 of layer 0 twice"), "%s", error.text);
    free(made);
}

Test(predictor_fit, the_gate_is_the_recorded_guess_and_only_layers_with_one_count)
{
    struct made_up *made = new_trace();
    static struct log log = {.base.ops = &gate_log_ops, .n_named = 1, .named = {5}};
    struct predictor_tally tally;
    struct lode_error error = {0};
    add_conversation(made, TRACE_PART_NONE);
    for (uint16_t t = 0; t < 3; t++)
        add_pass(made, 1, 4); // 4,5 and 7,8
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 0, 4, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "guesses the trace lacks"), "%s", error.text);
    add_guess(made, 0, 0, (const uint16_t[]){6, 5, 4, 1, 0, 9}, 6);
    add_guess(made, 2, 1, (const uint16_t[]){7, 2}, 2);
    cr_assert_eq(predictor_precision(&tally, &log.base, &made->trace, 0, 4, &error), 0, "%s", error.text);
    cr_assert_str_eq(log.text,
                     "restart ?0(6..4) 0:4,5 2:7,8 end1 0:4,5 2:7,8 end1 0:4,5 ?2(7..2) 2:7,8 end1 ");
    cr_assert_eq(tally.n_guesses, 2);
    cr_assert_eq(tally.right[0], 1);
    struct predictor *gate;
    cr_assert_eq(predictor_open_for(&gate, predictor_find("gate"), &made->trace, NULL, &error), 0);
    cr_assert_eq(predictor_precision(&tally, gate, &made->trace, 0, 4, &error), 0);
    const uint64_t named[5] = {2, 2, 1, 1, 0}, right[5] = {1, 1, 1, 0, 0};
    cr_assert_arr_eq(tally.named, named, sizeof named);
    cr_assert_arr_eq(tally.right, right, sizeof right);
    gate->ops->close(gate);
    free(made);
}

// ---- what is known otherwise

static double recall_of(const char *name, const struct trace *trace, const struct trace *fitted,
                        uint32_t first, uint32_t ranks)
{
    struct predictor *predictor;
    struct predictor_tally tally;
    struct lode_error error = {0};
    cr_assert_eq(predictor_open_for(&predictor, predictor_find(name), trace, NULL, &error), 0, "%s",
                 error.text);
    if (fitted)
        cr_assert_eq(predictor_fit(predictor, fitted, &error), 0, "%s", error.text);
    cr_assert_eq(predictor_precision(&tally, predictor, trace, first, ranks, &error), 0, "%s", error.text);
    predictor->ops->close(predictor);
    return predictor_tally_recall(&tally, ranks);
}

// The token before, of another implementation: what the summary calls reuse.
Test(predictor_fit, previous_names_what_the_summary_counts_as_reused)
{
    struct made_up *made = new_trace();
    uint64_t seed = 17, n_pairs = 0, n_reused = 0;
    for (uint32_t t = 0; t < 500; t++) {
        if (t % 50 == 0)
            add_conversation(made, TRACE_PART_NONE);
        add_pass(made, 1, (uint16_t)(trace_random(&seed) % EXPERTS));
    }
    struct predictor *predictor;
    struct predictor_tally tally;
    struct trace_summary summary;
    struct lode_error error = {0};
    cr_assert_eq(trace_summarise(&summary, &made->trace, 1, &error), 0, "%s", error.text);
    for (uint32_t p = 0; p < N_TRACE_PHASES; p++) {
        n_pairs += summary.phases[p].n_pairs;
        n_reused += summary.phases[p].n_reused;
    }
    cr_assert_eq(predictor_open_for(&predictor, predictor_find("previous"), &made->trace, NULL, &error), 0);
    cr_assert_eq(predictor_precision(&tally, predictor, &made->trace, 0, USED, &error), 0, "%s", error.text);
    cr_assert_eq(tally.named[0] + tally.named[1], n_pairs);
    cr_assert_eq(tally.right[0] + tally.right[1], n_reused);
    cr_assert_gt(n_reused, 0);
    cr_assert_lt(n_reused, n_pairs);
    predictor->ops->close(predictor);
    trace_summary_free(&summary);
    free(made);
}

// What BigMoeOnEdge has published of this trace: 35.7%.
Test(predictor_fit, the_recorded_26b_trace_gives_the_known_figure_of_the_token_before)
{
    char path[1024];
    struct trace trace;
    struct lode_error error = {0};
    if (!test_data_find(path, sizeof path, "traces/gemma4-26b-a4b.route.csv.zst"))
        cr_skip_test("no recorded trace: %s", path);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    cr_assert_float_eq(recall_of("previous", &trace, NULL, 0, trace.n_used), 0.357, 0.005);
    const double heat = recall_of("heat", &trace, NULL, 78, trace.n_used);
    const double cooccur = recall_of("cooccur", &trace, NULL, 78, trace.n_used);
    cr_expect_gt(heat, 0.36, "%f", heat);
    cr_expect_gt(cooccur, heat + 0.1, "%f", cooccur);
    // Told the text before, it knows it: what is fitted is learned.
    const double told = recall_of("cooccur", &trace, &trace, 0, trace.n_used);
    const double untold = recall_of("cooccur", &trace, NULL, 0, trace.n_used);
    cr_expect_gt(told, untold + 0.05, "%f after %f", told, untold);
    trace_free(&trace);
}

Test(predictor_fit, the_gate_of_a_written_trace_is_as_right_as_a_count_by_hand)
{
    struct trace_world world;
    struct trace_header header;
    struct trace trace;
    struct predictor_tally tally;
    struct lode_error error = {0};
    char path[] = "/tmp/lode-predictor-XXXXXX";
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    trace_world_header(&header, 4, 32, 4);
    trace_world_make(&world, &header, 5, 300);
    trace_world_write(&world, path);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    struct predictor *gate;
    cr_assert_eq(predictor_open_for(&gate, predictor_find("gate-auto"), &trace, NULL, &error), 0);
    cr_assert_eq(predictor_precision(&tally, gate, &trace, 0, 8, &error), 0, "%s", error.text);
    uint64_t n_rows = 0, named = 0, right = 0;
    for (uint32_t p = 0; p < trace.n_passes; p++)
        for (uint32_t m = 0; m < trace.n_moe && trace.passes[p].n_tokens == 1; m++) {
            const size_t row = (size_t)trace.passes[p].first_token * trace.n_moe + m;
            const uint16_t *guess, *chosen = trace.experts + row * trace.n_used;
            const bool tests =
                trace.conversations[trace.tokens[row / trace.n_moe].conversation].part != TRACE_PART_FIT;
            const uint32_t n = trace_row_guess(&trace, row, &guess);
            if (n == 0 || chosen[0] == TRACE_NO_EXPERT || !tests)
                continue;
            n_rows++;
            for (uint32_t r = 0; r < n && r < 8; r++, named++)
                for (uint32_t i = 0; i < trace.n_used; i++)
                    right += chosen[i] == guess[r];
        }
    uint64_t tally_named = 0, tally_right = 0;
    for (uint32_t r = 0; r < 8; r++) {
        tally_named += tally.named[r];
        tally_right += tally.right[r];
    }
    cr_assert_gt(n_rows, 10);
    cr_assert_eq(tally.n_guesses, n_rows);
    cr_assert_eq(tally_named, named);
    cr_assert_eq(tally_right, right);
    gate->ops->close(gate);
    trace_free(&trace);
    trace_world_free(&world);
    unlink(path);
}
