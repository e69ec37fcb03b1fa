// `lode tune`: measures which settings are the fastest for a model on this machine, and keeps them.
#include "profiles/utc_time.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/model_plan.h"
#include "tools/options.h"
#include "tools/text.h"
#include "tools/tune_file.h"
#include "tools/tune_report.h"
#include "tools/tune_run.h"
#include "tools/tune_search.h"
#include "tools/tune_state.h"
#include "tools/tuned.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char command[] = "lode tune";

static const char usage[] =
    "Usage: lode tune [OPTION]... [MODEL]\n"
    "\n"
    "Finds by measuring what a model file cannot tell: the threads, prefetch, queue depth, ring, batch\n"
    "and policy that make a turn fastest on this machine, under this --ram and with these GPUs. Each\n"
    "value is measured in turns with the settings so far; it must generate the same tokens (which are not\n"
    "compared with GPUs) and gain 3%, and so must all of it against the defaults at the end. The result\n"
    "is kept, and lode run and chat with the same --ram and GPUs use it. What the command line fixes is\n"
    "not tried. Ctrl-C ends it, and the next lode tune goes on from there.\n"
    "\n"
    "  --seconds N           at most so many (300)\n"
    "  -p, --prefill N       tokens of the prompt of a turn (1024 for small models, 128 for large ones)\n"
    "  -n, --decode N        tokens that it generates (32)\n"
    "  --seed N              another prompt (0)\n"
    "  --restart             forget what an unfinished lode tune has measured\n"
    "  --show                what is kept; --forget removes it\n"
    "  --json                one JSON object instead of the table\n"
    "  -c, --context N       tokens of the timeline (what a turn needs)\n" MODEL_DEVICE_USAGE MODEL_USAGE
    "Exit: 0 done, 1 failed or too little time, 2 usage, 130 interrupted, 143 terminated.\n"
    "Examples: lode tune gemma-4-26B-A4B-it-Q4_0.gguf --ram 8G\n"
    "          lode tune --show m.gguf\n";

// As lode.h tells of them.
enum { DEFAULT_BATCH = 512, DEFAULT_QUEUE_DEPTH = 16 };
enum { DEFAULT_DECODE = 32, RUN_TOKENS = 256 };

// Turns of one comparison and its repeat at the end.
enum { FEWEST_RUNS = 4 * TUNE_PAIRS };

struct command_tune {
    struct model_options model;
    struct model_options base; // what lode run would take: the command line, and a plan
    struct model_plan plan;    // which engines take the places of units from
    uint32_t seconds, prefill, decode;
    uint64_t seed;
    bool restart, show, forget, json;

    char path[TUNED_PATH_SIZE], state_path[TUNED_PATH_SIZE], conditions[TUNE_CONDITIONS_SIZE];
    struct tune_facts facts;
    struct tune_report report;
    struct tune_runner runner;
    struct tune_search search;
    struct tune_journal journal;
    struct progress progress;
    double start_s;
    bool cannot_keep_state; // told
    json_t *candidates, *left_out;
};

static bool parse(struct command_tune *t, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        MODEL_OPTIONS(t->model),
        SESSION_OPTIONS(t->model),
        MODEL_DEVICE_OPTIONS(t->model.gpus),
        OPTION_IS_COUNT("seconds", 0, &t->seconds, 1, 7 * 24 * 3600),
        OPTION_IS_COUNT("prefill", 'p', &t->prefill, 1, 1 << 20),
        OPTION_IS_COUNT("decode", 'n', &t->decode, 2, 1 << 20),
        {.name = "seed", .kind = OPTION_SEED, .target = &t->seed},
        OPTION_IS_FLAG("restart", 0, &t->restart),
        OPTION_IS_FLAG("show", 0, &t->show),
        OPTION_IS_FLAG("forget", 0, &t->forget),
        OPTION_IS_FLAG("json", 0, &t->json),
    };
    const char *operand = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &operand,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    if (operand && t->model.path)
        *exit_code = message_usage(command, "-m and '%s' are two files; give one of them", operand);
    else if (t->show && t->forget)
        *exit_code = message_usage(command, "--show and --forget contradict each other");
    else if (t->forget && t->json)
        *exit_code = message_usage(command, "--forget shows nothing; leave out --json");
    else if ((t->show || t->forget) && t->restart)
        *exit_code = message_usage(command, "--restart is of measuring; leave it out");
    if (operand)
        t->model.path = operand;
    return *exit_code == EXIT_OK;
}

static double now_s(void *user)
{
    (void)user;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// ---- what is kept
// --------------------------------------------------------------------------------------------

static int show(const struct command_tune *t)
{
    struct lode_error error = {0};
    struct tuned tuned;
    bool found;
    if (tuned_read(&tuned, &found, &t->model, &error))
        return message_failed(command, &error);
    if (!found) {
        message_note(command, "nothing is kept of %s%s%s; lode tune writes %s", t->model.path,
                     t->model.ram_bytes ? " under this ceiling" : " without a ceiling (--ram)",
                     t->model.gpus.n ? " with these GPUs" : "", t->path);
        return EXIT_FAILED;
    }
    if (t->json)
        tune_report_stored_json(&tuned, t->model.path); // main notices a failing stdout
    else
        tune_report_stored(&tuned);
    return EXIT_OK;
}

static int forget(const struct command_tune *t)
{
    const char *const paths[] = {t->path, t->state_path};
    struct lode_error error = {0};
    bool any = false;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        bool removed;
        if (tune_file_remove(&removed, paths[i], &error))
            return message_failed(command, &error);
        if (removed)
            printf("removed %s\n", paths[i]);
        any = any || removed;
    }
    if (!any)
        message_note(command, "nothing is kept in %s", t->path);
    return EXIT_OK;
}

static int store(struct command_tune *t, struct lode_error *error)
{
    const struct tune_settings none = {0}, *best = &t->search.best;
    const bool tuned = t->search.outcome == TUNE_TUNED;
    const struct tune_settings *s = tuned ? best : &none;
    struct tuned kept = {.threads = s->threads,
                         .batch = s->batch,
                         .queue_depth = s->queue_depth,
                         .prefetch_ranks = s->prefetch_ranks,
                         .ring_bytes = s->ring_bytes,
                         .no_prefetch = s->no_prefetch,
                         .decode_gain = tuned ? t->search.final->decode_ratio : 1,
                         .prefill_gain = tuned ? t->search.final->prefill_ratio : 1};
    snprintf(kept.policy, sizeof kept.policy, "%s", s->policy);
    utc_time_now(kept.made);
    return tuned_write(&kept, &t->model, error);
}

// ---- what the search asks and tells
// --------------------------------------------------------------------------

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    struct command_tune *t = user;
    const double passed_s = now_s(NULL) - t->start_s;
    return progress_show(&t->progress, what, (uint64_t)(passed_s * 1e3), (uint64_t)t->seconds * 1000);
}

static int measure(void *user, struct tune_run *out, const struct tune_settings *settings, const char *what,
                   struct lode_error *error)
{
    struct command_tune *t = user;
    return tune_runner_measure(&t->runner, out, settings, what, error);
}

static void on_pair(void *user)
{
    struct command_tune *t = user;
    struct lode_error error = {0};
    if (t->cannot_keep_state || !tune_state_write(&t->journal, t->conditions, t->state_path, &error))
        return;
    progress_end(&t->progress);
    message_note(command, "an interruption will lose what was measured: %s", error.text);
    t->cannot_keep_state = true;
}

static void on_candidate(void *user, const struct tune_candidate *candidate)
{
    struct command_tune *t = user;
    progress_end(&t->progress);
    if (t->json)
        json_array_append_new(t->candidates, tune_report_candidate_json(&t->report, candidate));
    else
        tune_report_candidate(&t->report, candidate);
}

static void on_left_out(void *user, enum tune_knob knob, const char *why)
{
    struct command_tune *t = user;
    progress_end(&t->progress);
    if (t->json)
        json_array_append_new(t->left_out, json_pack("{s:s,s:s}", "knob", tune_knob_name(knob), "why", why));
    else
        tune_report_left_out(knob, why);
}

// ---- the conditions
// ------------------------------------------------------------------------------------------

// A turn shall take seconds.
static int choose_turn(struct command_tune *t, struct lode_error *error)
{
    struct lode_file *file = NULL;
    struct lode_shape shape;
    int code = lode_file_open(&file, t->model.path, error);
    if (!code)
        code = lode_file_shape(file, &shape, error);
    lode_file_close(file);
    if (code)
        return code;
    const bool small = shape.bytes_per_token < (uint64_t)256 << 20;
    uint32_t prefill = small ? 1024 : 128;
    const uint32_t context = t->model.context ? t->model.context : shape.context_limit;
    const uint32_t most = context > 2 * DEFAULT_DECODE ? context - DEFAULT_DECODE : (context + 1) / 2;
    prefill = prefill < most ? prefill : most;
    t->prefill = t->prefill ? t->prefill : prefill;
    t->decode = t->decode ? t->decode : DEFAULT_DECODE;
    const uint32_t needed = t->prefill + (t->decode > RUN_TOKENS ? t->decode : RUN_TOKENS); // as of lode run
    t->base = t->model;
    t->base.context = t->model.context               ? t->model.context
                      : needed < shape.context_limit ? needed
                                                     : shape.context_limit;
    return 0;
}

// Without a plan the defaults of the engine are what is improved.
static int plan_base(struct command_tune *t, struct lode_error *error)
{
    t->plan =
        (struct model_plan){.prompt_tokens = t->prefill, .generated_tokens = t->decode, .is_silent = true};
    t->base.plan = &t->plan;
    const int code = model_plan_begin(&t->base, command, error);
    if (!code)
        model_plan_settle(&t->base, t->base.context);
    t->plan.is_settled = true;
    return code;
}

static bool is_fixed(const struct model_options *m, enum tune_knob knob)
{
    const bool fixed[TUNE_KNOBS] = {
        [TUNE_THREADS] = m->threads,
        [TUNE_PREFETCH] = m->no_prefetch || m->prefetch_ranks,
        [TUNE_QUEUE_DEPTH] = m->queue_depth,
        [TUNE_RING] = m->ring_bytes,
        [TUNE_BATCH] = m->batch,
        [TUNE_POLICY] = m->policy != NULL,
    };
    return fixed[knob];
}

// All that times depend on besides machine, model and ceiling.
static void describe_conditions(struct command_tune *t)
{
    const struct model_options *m = &t->base;
    char gpus[TUNED_DEVICES_SIZE];
    model_gpus_describe(gpus, sizeof gpus, &m->gpus);
    snprintf(t->conditions, sizeof t->conditions,
             "lode %s, turn %" PRIu32 "+%" PRIu32 ", seed %" PRIu64 ", context %" PRIu32
             ", GPUs %s, vram %" PRIu64
             ", placement %d %d, isa %d, kv %d, io %d, mirror %d, repack %d, fixed: threads %" PRIu32
             ", prefetch %d %" PRIu32 ", queue %" PRIu32 ", ring %" PRIu64 ", batch %" PRIu32 ", policy %s",
             lode_version(), t->prefill, t->decode, t->seed, m->context, gpus[0] ? gpus : "-",
             m->gpus.vram_bytes, m->gpus.placement, t->plan.unit_gpu != NULL, m->isa, m->kv, m->io,
             m->mirror != NULL, !m->no_repack, m->threads, m->no_prefetch, m->prefetch_ranks, m->queue_depth,
             m->ring_bytes, m->batch, m->policy ? m->policy : "-");
}

static void recall(struct command_tune *t)
{
    struct lode_error error = {0};
    bool other, removed;
    if (t->restart)
        tune_file_remove(&removed, t->state_path, &error);
    if (tune_state_read(&t->journal, &other, t->conditions, t->state_path, &error))
        message_note(command, "what an earlier lode tune has measured is left out: %s", error.text);
    else if (other)
        message_note(command, "what an earlier lode tune has measured is left out: it had other options");
    else if (t->journal.n)
        message_note(command, "going on with what an earlier lode tune has measured; --restart forgets it");
}

// The first turn: it warms the machine up, says what the tokens are, and which knobs matter.
static int learn_facts(struct command_tune *t, struct lode_error *error)
{
    const struct tune_settings defaults = {0};
    const struct model_options *m = &t->base;
    struct tune_run run = {0};
    struct lode_cpu cpu;
    int code = lode_cpu_describe(&cpu, 0, error);
    if (!code)
        code = tune_runner_measure(&t->runner, &run, &defaults, "the defaults", error);
    // Before it is said that time is short: the first turn may have read the file from a slow drive.
    if (!code && FEWEST_RUNS * run.cost_s > t->search.deadline_s - now_s(NULL))
        code = tune_runner_measure(&t->runner, &run, &defaults, "the defaults", error);
    if (code)
        return code;
    const struct lode_shape *shape = lode_engine_shape(t->runner.engine);
    const struct lode_offload_stats *offload = &t->runner.offload;
    t->facts = (struct tune_facts){
        .threads = lode_engine_threads(t->runner.engine),
        .processors = cpu.processors,
        .batch = m->batch ? m->batch : DEFAULT_BATCH,
        .prompt_tokens = t->prefill,
        .queue_depth = m->queue_depth ? m->queue_depth : DEFAULT_QUEUE_DEPTH,
        .n_experts = shape->n_experts,
        .n_experts_used = shape->n_experts_used,
        .pool_bytes = offload->pool_bytes,
        .streamed_bytes = offload->streamed_bytes,
        .ring_bytes = offload->ring_bytes,
        .no_prefetch = m->no_prefetch,
        .reads = t->runner.reads,
        .policy = offload->policy,
        .policy_at = lode_policy_name,
    };
    for (int knob = 0; knob < TUNE_KNOBS; knob++)
        t->facts.fixed[knob] = is_fixed(&t->model, (enum tune_knob)knob);
    t->search.cost_s = run.cost_s;
    const double left_s = t->search.deadline_s - now_s(NULL);
    progress_end(&t->progress);
    message_note(command, "a turn takes %.1f s, %.1f of them before it begins; there is time for %.0f more",
                 run.cost_s, run.cost_s - run.prefill_s - run.decode_s,
                 left_s > 0 ? left_s / run.cost_s : 0.0);
    return 0;
}

// ---- the command
// ---------------------------------------------------------------------------------------------

static int tell_outcome(struct command_tune *t)
{
    const enum tune_outcome outcome = t->search.outcome;
    const bool kept = outcome == TUNE_TUNED || outcome == TUNE_DEFAULTS;
    if (t->json) {
        json_t *object = json_object();
        json_object_set_new(object, "model", json_out_text(t->model.path, strlen(t->model.path)));
        json_object_set_new(object, "ram_bytes", json_integer((json_int_t)t->model.ram_bytes));
        char gpus[TUNED_DEVICES_SIZE];
        model_gpus_describe(gpus, sizeof gpus, &t->model.gpus);
        json_object_set_new(object, "gpus", gpus[0] ? json_out_text(gpus, strlen(gpus)) : json_null());
        json_object_set_new(object, "vram_bytes", json_integer((json_int_t)t->model.gpus.vram_bytes));
        json_object_set_new(object, "placement",
                            json_string(model_placement_choices[t->model.gpus.placement]));
        tune_report_outcome_json(&t->report, &t->search, object);
        json_object_set_new(object, "candidates", json_incref(t->candidates));
        json_object_set_new(object, "left_out", json_incref(t->left_out));
        json_object_set_new(object, "kept_in", kept ? json_out_text(t->path, strlen(t->path)) : json_null());
        json_out_print(stdout, object);
    } else {
        tune_report_outcome(&t->report, &t->search);
    }
    if (outcome == TUNE_STOPPED) {
        message_note(command, "interrupted; nothing is stored, and the next lode tune goes on from here");
        return interrupt_exit_code();
    }
    if (outcome == TUNE_NOTHING) {
        message_note(command, "there is nothing to tune");
        return EXIT_OK;
    }
    if (outcome == TUNE_TOO_SHORT) {
        message_note(command,
                     "%" PRIu32 " seconds are too few to say anything: a turn takes %.1f s, and a comparison "
                     "with its repeat at the end %d of them; what was measured is kept, and the next lode "
                     "tune goes on from here (--seconds)",
                     t->seconds, t->search.cost_s, FEWEST_RUNS);
        return EXIT_FAILED;
    }
    char printable[TUNED_PATH_SIZE];
    message_note(command, "written to %s", text_printable(printable, sizeof printable, t->path));
    if (!t->search.complete)
        message_note(command,
                     "there was no time for all; the next lode tune goes on with the rest (--seconds)");
    return EXIT_OK;
}

static int search(struct command_tune *t, struct lode_error *error)
{
    const struct tune_hooks hooks = {.measure = measure,
                                     .now_s = now_s,
                                     .on_pair = on_pair,
                                     .on_candidate = on_candidate,
                                     .on_left_out = on_left_out,
                                     .user = t};
    t->search.facts = &t->facts;
    t->search.hooks = &hooks;
    t->search.journal = &t->journal;
    t->search.deadline_s = t->start_s + t->seconds;
    int code = learn_facts(t, error);
    if (code)
        return code;
    t->report = (struct tune_report){&t->facts, t->prefill, t->decode};
    if (!t->json)
        tune_report_head(&t->report);
    code = tune_search_run(&t->search, error);
    progress_end(&t->progress);
    const bool says = t->search.outcome == TUNE_TUNED || t->search.outcome == TUNE_DEFAULTS;
    bool removed;
    if (!code && says)
        code = store(t, error);
    if (!code && says && t->search.complete)
        code = tune_file_remove(&removed, t->state_path, error);
    return code;
}

static void tell_gpus(const struct command_tune *t)
{
    char gpus[TUNED_DEVICES_SIZE];
    model_gpus_describe(gpus, sizeof gpus, &t->model.gpus);
    if (gpus[0])
        message_note(command,
                     "with %s beside the CPU, placed %s; tokens are not compared, for a GPU sums in another "
                     "order",
                     gpus,
                     t->plan.unit_gpu                                      ? "as planned"
                     : t->model.gpus.placement == MODEL_PLACEMENT_BY_LAYER ? "by layers"
                                                                           : "by rule");
}

static int tune(struct command_tune *t)
{
    struct lode_error error = {0};
    interrupt_watch(true);
    int code = choose_turn(t, &error);
    if (!code)
        code = plan_base(t, &error);
    if (code)
        return message_failed(command, &error);
    describe_conditions(t);
    recall(t);
    message_note(command,
                 "measuring for at most %" PRIu32 " seconds (--seconds); the machine should have "
                 "nothing else to do. Ctrl-C keeps what is known",
                 t->seconds);
    tell_gpus(t);
    t->start_s = now_s(NULL);
    t->runner = (struct tune_runner){.base = &t->base,
                                     .command = command,
                                     .prompt_tokens = t->prefill,
                                     .decode_tokens = t->decode,
                                     .seed = t->seed,
                                     .on_progress = on_progress,
                                     .user = t};
    progress_begin(&t->progress);
    code = search(t, &error);
    progress_end(&t->progress);
    tune_runner_close(&t->runner);
    return code ? message_failed(command, &error) : tell_outcome(t);
}

static int execute(struct command_tune *t)
{
    struct lode_error error = {0};
    int code = model_find(&t->model, command);
    if (code)
        return code;
    code = model_check_gpus(&t->model, &error);
    if (!code)
        code = model_gpus_find(&t->model.gpus, &error);
    if (!code)
        code = tuned_path(t->path, &t->model, ".json", &error);
    if (!code)
        code = tuned_path(t->state_path, &t->model, ".unfinished", &error);
    if (code)
        return message_failed(command, &error);
    t->candidates = json_array();
    t->left_out = json_array();
    return t->show ? show(t) : t->forget ? forget(t) : tune(t);
}

int cmd_tune(int argc, char **argv)
{
    int code = EXIT_FAILED;
    struct command_tune *t = calloc(1, sizeof *t);
    if (!t) {
        message_note(command, "no memory");
        return code;
    }
    t->seconds = 300;
    if (parse(t, argc, argv, &code))
        code = execute(t);
    model_plan_close(&t->plan);
    json_decref(t->candidates);
    json_decref(t->left_out);
    free(t);
    return code;
}
