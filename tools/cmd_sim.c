// `lode sim`: what policies and predictors would make of recorded routing, under other memories, on other
// machines.
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/machine_choice.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/new_file.h"
#include "tools/provenance.h"
#include "tools/sim_budgets.h"
#include "tools/sim_replay.h"
#include "tools/sim_rules.h"
#include "tools/sim_sweep.h"
#include "tools/text.h"
#include "tools/word_list.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char command[] = "lode sim";

static const char usage[] =
    "Usage: lode sim [OPTION]... {--ram LIST | --share LIST | --slots LIST | --replay} TRACE...\n"
    "\n"
    "Runs the engine under a virtual clock over recorded routing: which policy and which guesses would be\n"
    "fastest with how much memory, and what no policy can beat. Lists have commas. On another machine:\n"
    "  --machine WHICH     a profile, a sample, or a few words: ram=32G@60,cores=8,drive=3.5 (this one)\n"
    "  -m, --model FILE    the traces' model, or --shape SHAPE with --type TYPE (q4_0) instead of a file\n"
    "  --trace LIST  --fit LIST   traces to measure, as TRACE; traces to learn from, never measured\n"
    "  --ram LIST  --share LIST   ceilings, as 4G,8G; or percent of the experts that fit, as 6,12,25,50\n"
    "  --slots LIST        hits alone: so many slots in each layer, as 8,16,32; --first N tokens do not\n"
    "                      count; --tokens N ends early\n"
    "  --policy LIST|all|help  --predict LIST|all|none|help   names, or files that end in .so\n"
    "  --prefetch-ranks N  --queue-depth N  --ring SIZE  --kv f16|q8_0|f32   as for lode run\n"
    "  -c, --context N  -b, --batch N  -t, --threads N  (--vram: GPUs are not simulated)\n"
    "  --replay            the recorded runs again, as they were set: is the simulator the engine?\n"
    "  --csv FILE|-  --json  --html FILE   every figure; an object on stdout; a page with plots\n"
    "  --no-bounds         without the row of Belady, or of the oracle;  --jobs N  simulations at once\n"
    "\n"
    "Exit: 0 done, 1 failed or a replay differs, 2 usage, 130 interrupted.\n"
    "\n"
    "Examples: lode sim --slots 16,32,64 --policy all chat.trace\n"
    "          lode sim --ram 4G,8G --policy lru,heat --predict all --html sim.html chat.trace\n";

// Traces of some hundred thousand tokens; more than that is better simulated one by one.
static const uint64_t most_trace_bytes = (uint64_t)4 << 30;

struct command_sim {
    struct model_options model; // path, context, batch, threads, kv, prefetch, ring
    struct word_list traces, fit, ram, share, slots, policies, predictors;
    const char *shape, *type, *machine, *vram, *csv, *html;
    uint32_t first, tokens, jobs;
    bool json, no_bounds, replay;
    // What has no place where only slots are counted, and where runs are replayed.
    bool machine_given, timed_given, slot_given;

    const char **paths; // [traces, then fit]
    struct sim_traces loaded;
    struct sim_rules rules;
    struct machine_choice choice;
    struct simulation_model *simulated;
    struct sim_sweep sweep;
    struct text command_line;
    struct new_file csv_file, html_file; // stream NULL: not open
    struct progress progress;
};

// ---- the command line
// ----------------------------------------------------------------------------------------

static bool refuse(int *exit_code, const char *text)
{
    *exit_code = message_usage(command, "%s", text);
    return false;
}

static bool check(const struct command_sim *job, int *exit_code)
{
    const int memories = (job->ram.n > 0) + (job->share.n > 0) + (job->slots.n > 0);
    const bool stdout_csv = job->csv && strcmp(job->csv, "-") == 0;
    if (job->vram && strcmp(job->vram, "0") != 0)
        return refuse(exit_code,
                      "--vram: GPUs are not simulated yet, only the CPU, its memory and the drive; "
                      "0 leaves them out");
    if (!job->traces.n)
        return refuse(exit_code, "which trace? name one; `lode run --trace FILE` records one");
    if (memories + job->replay > 1)
        return refuse(exit_code, "--ram, --share, --slots and --replay are four questions; ask one");
    if (memories + job->replay == 0)
        return refuse(exit_code,
                      "how much memory? --ram 4G,8G, --share 12,25,50 (percent of the experts), or "
                      "--slots 16,32 for each layer");
    if (job->model.path && job->shape)
        return refuse(exit_code, "a file and --shape are two models; give one of them");
    if (job->type && !job->shape)
        return refuse(exit_code, "--type is of a --shape; a file has its own types");
    if (job->slots.n && (job->machine_given || job->timed_given || job->predictors.n || job->vram))
        return refuse(exit_code, "--slots counts hits and nothing else: machine, model, guesses and times go "
                                 "with --ram or --share");
    if (!job->slots.n && job->slot_given)
        return refuse(exit_code, "--first and --tokens go with --slots");
    if (job->replay && (job->timed_given || job->policies.n || job->predictors.n || job->fit.n || job->csv ||
                        job->html || job->no_bounds))
        return refuse(exit_code,
                      "--replay takes all settings from the trace, and tells as lines or with --json");
    if (stdout_csv && job->json)
        return refuse(exit_code, "--csv - and --json both write to stdout; give --csv a file");
    if (job->csv && !job->csv[0])
        return refuse(exit_code, "--csv needs the name of a file, or - for stdout");
    if (job->html && (!job->html[0] || strcmp(job->html, "-") == 0))
        return refuse(exit_code, "--html needs the name of a file");
    if (job->csv && job->html && strcmp(job->csv, job->html) == 0)
        return refuse(exit_code, "--csv and --html are the same file");
    return true;
}

static bool parse_options(struct command_sim *job, int argc, char **argv, const char **operands,
                          size_t *out_n, int *exit_code)
{
    struct model_options *m = &job->model;
#define TIMED_COUNT(long_name, short_name, pointer, low, high)                                               \
    {                                                                                                        \
        .name = (long_name), .letter = (short_name), .kind = OPTION_COUNT, .target = (pointer),              \
        .min = (low), .max = (high), .given = &job->timed_given                                              \
    }
#define LIST(long_name, list, parser)                                                                        \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_CALL, .target = (list), .parse = (parser)                        \
    }
    const struct option options[] = {
        {.name = "model",
         .letter = 'm',
         .kind = OPTION_TEXT,
         .target = &m->path,
         .given = &job->machine_given},
        {.name = "shape", .kind = OPTION_TEXT, .target = &job->shape, .given = &job->machine_given},
        {.name = "type", .kind = OPTION_TEXT, .target = &job->type},
        {.name = "machine", .kind = OPTION_TEXT, .target = &job->machine, .given = &job->machine_given},
        LIST("trace", &job->traces, word_list_parse_files),
        LIST("fit", &job->fit, word_list_parse_files),
        LIST("ram", &job->ram, word_list_parse),
        LIST("share", &job->share, word_list_parse),
        LIST("slots", &job->slots, word_list_parse),
        LIST("policy", &job->policies, word_list_parse),
        LIST("predict", &job->predictors, word_list_parse),
        {.name = "vram", .kind = OPTION_TEXT, .target = &job->vram},
        {.name = "first",
         .kind = OPTION_COUNT,
         .target = &job->first,
         .max = 1 << 30,
         .given = &job->slot_given},
        {.name = "tokens",
         .kind = OPTION_COUNT,
         .target = &job->tokens,
         .min = 1,
         .max = 1 << 30,
         .given = &job->slot_given},
        TIMED_COUNT("context", 'c', &m->context, 1, 16 << 20),
        TIMED_COUNT("batch", 'b', &m->batch, 1, 64 << 10),
        TIMED_COUNT("threads", 't', &m->threads, 1, 1024),
        TIMED_COUNT("prefetch-ranks", 0, &m->prefetch_ranks, 1, 4096),
        TIMED_COUNT("queue-depth", 0, &m->queue_depth, 1, 256),
        {.name = "ring",
         .kind = OPTION_BYTES,
         .target = &m->ring_bytes,
         .min = 4096,
         .given = &job->timed_given},
        {.name = "kv",
         .kind = OPTION_CHOICE,
         .target = &m->kv,
         .choices = model_kv_choices,
         .given = &job->timed_given},
        OPTION_IS_FLAG("replay", 0, &job->replay),
        OPTION_IS_TEXT("csv", 0, &job->csv),
        OPTION_IS_TEXT("html", 0, &job->html),
        OPTION_IS_FLAG("json", 0, &job->json),
        OPTION_IS_FLAG("no-bounds", 0, &job->no_bounds),
        OPTION_IS_COUNT("jobs", 0, &job->jobs, 1, 1024),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = operands,
                                   .max_operands = (size_t)argc};
    const bool go_on = options_parse(&parser, argc, argv, exit_code);
    *out_n = parser.n_operands;
    return go_on;
}

static int no_memory(void)
{
    message_note(command, "no memory for the command line");
    return EXIT_FAILED;
}

static bool parse(struct command_sim *job, int argc, char **argv, int *exit_code)
{
    const char **operands = calloc((size_t)argc, sizeof *operands);
    size_t n = 0;
    if (!operands) {
        *exit_code = no_memory();
        return false;
    }
    bool go_on = parse_options(job, argc, argv, operands, &n, exit_code);
    for (size_t i = 0; i < n && go_on; i++)
        if (!word_list_add(&job->traces, operands[i], strlen(operands[i]))) {
            *exit_code = no_memory();
            go_on = false;
        }
    free(operands);
    if (!go_on)
        return false;
    const bool policies = sim_rules_want_help(&job->policies);
    if (policies || sim_rules_want_help(&job->predictors)) {
        if (policies)
            sim_rules_print_policies();
        else
            sim_rules_print_predictors();
        return false;
    }
    return check(job, exit_code);
}

// So that a result can be made again: the arguments with spaces between, quoted where they need it.
static bool keep_command_line(struct command_sim *job, int argc, char **argv)
{
    bool kept = text_append(&job->command_line, command, sizeof command - 1);
    for (int i = 1; i < argc && kept; i++) {
        const bool quotes = !argv[i][0] || argv[i][strcspn(argv[i], " '\"\\$*?;&|<>()")];
        kept = text_append(&job->command_line, quotes ? " '" : " ", quotes ? 2 : 1) &&
               text_append(&job->command_line, argv[i], strlen(argv[i])) &&
               (!quotes || text_append(&job->command_line, "'", 1));
    }
    return kept;
}

// ---- what is simulated
// ---------------------------------------------------------------------------------------

static bool keep_going(void *user)
{
    (void)user;
    return !interrupt_pending();
}

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct command_sim *job = user;
    return progress_show(&job->progress, what, done, total);
}

static int load_traces(struct command_sim *job)
{
    const uint32_t n = job->traces.n + job->fit.n;
    struct lode_error error = {0};
    job->paths = calloc(n, sizeof *job->paths);
    if (!job->paths)
        return no_memory();
    for (uint32_t i = 0; i < n; i++)
        job->paths[i] = i < job->traces.n ? job->traces.words[i] : job->fit.words[i - job->traces.n];
    const int code = sim_traces_load(&job->loaded, job->paths, job->traces.n, job->fit.n, most_trace_bytes,
                                     command, &error);
    return code ? message_failed(command, &error) : EXIT_OK;
}

// The one published shape with experts; the demo model is found by its file.
static bool looks_like_26b(const struct trace *trace)
{
    bool looks = trace->header.n_layers == 30;
    for (uint32_t l = 0; l < trace->header.n_layers; l++)
        looks &= trace->header.layers[l].n_experts == 128;
    return looks;
}

static int open_model(struct command_sim *job)
{
    const struct trace *trace = &job->loaded.traces[0];
    const bool named = job->model.path || job->shape;
    struct lode_error error = {0};
    const char *note = NULL;
    if (!named && looks_like_26b(trace)) {
        job->shape = "26b-a4b";
        message_note(command, "no model given; by its layers and experts the trace is of 26b-a4b, which is "
                              "simulated as q4_0");
    } else if (!job->shape) {
        const int code = model_find(&job->model, command);
        if (code)
            return code;
    }
    const int code = simulation_model_open(&job->simulated, job->shape ? NULL : job->model.path, job->shape,
                                           job->type, trace, &note, &error);
    if (code == LODE_ERR_ARGUMENT && !named)
        message_note(command, "%s; name the trace's model with -m, or its shape with --shape", error.text);
    else if (code)
        message_failed(command, &error);
    else if (note)
        message_note(command, "%s", note);
    return code ? EXIT_FAILED : EXIT_OK;
}

static int open_machine(struct command_sim *job)
{
    const char *drive_of = job->shape ? NULL : job->model.path;
    const int code = machine_choice_open(&job->choice, job->machine, drive_of, command);
    if (code)
        return code;
    const struct machine_profile *profile = job->choice.profile;
    if (!job->machine)
        message_note(command, "simulating this machine (%s); --machine names another", job->choice.source);
    if (!profile->n_drives) {
        message_note(command,
                     "the machine %s has no drive, and what is simulated is reading from one; add "
                     "drive=GB/s to a description",
                     profile->name);
        return EXIT_FAILED;
    }
    if (profile->n_gpus)
        message_note(command, "GPUs are not simulated yet; those of the machine are left out");
    return EXIT_OK;
}

// ---- outputs
// -------------------------------------------------------------------------------------------------

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino &&
           S_ISREG(x.st_mode);
}

static int check_output(const struct command_sim *job, const char *path)
{
    bool is_input = is_same_file(path, job->model.path) || is_same_file(path, job->machine);
    for (uint32_t i = 0; i < job->traces.n; i++)
        is_input |= is_same_file(path, job->traces.words[i]);
    for (uint32_t i = 0; i < job->fit.n; i++)
        is_input |= is_same_file(path, job->fit.words[i]);
    for (uint32_t i = 0; i < job->policies.n; i++)
        is_input |= policy_is_path(job->policies.words[i]) && is_same_file(path, job->policies.words[i]);
    for (uint32_t i = 0; i < job->predictors.n; i++)
        is_input |=
            predictor_is_path(job->predictors.words[i]) && is_same_file(path, job->predictors.words[i]);
    return is_input ? message_usage(command, "%s is read; write to another file", path) : EXIT_OK;
}

static int open_output(const struct command_sim *job, struct new_file *file, const char *path)
{
    struct lode_error error = {0};
    if (!path || strcmp(path, "-") == 0)
        return EXIT_OK;
    const int code = check_output(job, path);
    if (code)
        return code;
    return new_file_open(file, path, &error) ? message_failed(command, &error) : EXIT_OK;
}

static int close_output(struct new_file *file)
{
    struct lode_error error = {0};
    return new_file_close(file, &error) ? message_failed(command, &error) : EXIT_OK;
}

// The files first: when one fails, there is nothing on stdout.
static int show(struct command_sim *job)
{
    const struct sim_sweep *sweep = &job->sweep;
    int code = EXIT_OK;
    if (job->csv_file.stream) {
        sim_print_csv(job->csv_file.stream, sweep); // closing tells what could not be written
        code = close_output(&job->csv_file);
    }
    if (!code && job->html_file.stream) {
        const bool made = sim_print_html(job->html_file.stream, sweep) == 0;
        code = made ? close_output(&job->html_file) : EXIT_FAILED;
        if (!made)
            message_note(command, "no memory for the page %s; it was not written", job->html);
    }
    if (code)
        return code;
    if (job->json)
        return sim_print_json(stdout, sweep) ? EXIT_FAILED : EXIT_OK;
    if (job->csv && strcmp(job->csv, "-") == 0)
        return sim_print_csv(stdout, sweep) ? EXIT_FAILED : EXIT_OK;
    sim_print_table(stdout, sweep);
    return EXIT_OK;
}

// ---- the command
// ---------------------------------------------------------------------------------------------

static void describe(struct command_sim *job)
{
    struct sim_sweep *s = &job->sweep;
    const struct trace *trace = &job->loaded.traces[0];
    s->slots_mode = job->slots.n > 0;
    s->traces = job->loaded.facts;
    s->n_traces = job->loaded.n;
    s->command_line = job->command_line.bytes;
    s->fit = job->paths + job->loaded.n;
    s->n_fit = job->loaded.n_fit;
    s->fit_tokens = job->loaded.fit_tokens;
    s->fingerprint = trace->header.fingerprint;
    s->first_token = job->first;
    s->tokens = job->tokens;
    s->expert_layers = trace->n_moe;
    for (uint32_t m = 0; m < trace->n_moe; m++) {
        const uint32_t n = trace->header.layers[trace->moe_layer[m]].n_experts;
        s->n_experts = n > s->n_experts ? n : s->n_experts;
    }
    snprintf(s->version, sizeof s->version, "%s", lode_version());
    snprintf(s->commit, sizeof s->commit, "%s", provenance_commit());
    snprintf(s->model, sizeof s->model, "%.*s", (int)sizeof s->model - 1, trace->header.model);
    if (s->slots_mode)
        return;
    const struct lode_shape *shape = simulation_model_shape(job->simulated);
    snprintf(s->model, sizeof s->model, "%s, %s", shape->name, shape->type);
    snprintf(s->machine, sizeof s->machine, "%s", job->choice.profile->name);
    snprintf(s->machine_source, sizeof s->machine_source, "%s", job->choice.source);
    s->kv = model_kv_choices[job->model.kv];
    s->threads = job->model.threads ? job->model.threads : job->choice.profile->cpu.threads;
}

static int prepare_rules(struct command_sim *job)
{
    const char *without = NULL;
    sim_traces_have_guesses(&job->loaded, &without);
    int code = sim_rules_add_policies(&job->rules, &job->policies, command);
    if (!code && !job->slots.n)
        code = sim_rules_add_predictors(&job->rules, &job->predictors, without, command);
    return code;
}

static int check_budgets(const struct command_sim *job)
{
    const uint32_t n_used = job->loaded.traces[0].n_used;
    for (uint32_t b = 0; b < job->sweep.n_budgets && job->slots.n; b++)
        if (job->sweep.budgets[b].slots < n_used)
            return message_usage(command,
                                 "--slots %u: a token chooses %u experts in a layer, which need a "
                                 "slot each",
                                 job->sweep.budgets[b].slots, n_used);
    if (job->model.context && job->model.context < job->loaded.context)
        return message_usage(command, "-c %u: the longest conversation of the traces has %u tokens",
                             job->model.context, job->loaded.context);
    return EXIT_OK;
}

static int sweep(struct command_sim *job)
{
    const struct model_options *m = &job->model;
    struct lode_error error = {0};
    describe(job);
    const struct sim_request request = {
        .traces = &job->loaded,
        .policies = job->rules.policies,
        .n_policies = job->rules.n_policies,
        .predictors = job->rules.predictors,
        .n_predictors = job->rules.n_predictors,
        .bounds = !job->no_bounds,
        .jobs = job->jobs,
        .slots_mode = job->slots.n > 0,
        .slots = {.first = job->first, .tokens = job->tokens},
        .model = job->simulated,
        .question = {.profile = job->choice.profile,
                     .threads = m->threads,
                     .context = m->context,
                     .batch = m->batch,
                     .kv = m->kv,
                     .prefetch_ranks = m->prefetch_ranks,
                     .queue_depth = m->queue_depth,
                     .ring_bytes = m->ring_bytes},
        .on_progress = on_progress,
        .keep_going = keep_going,
        .user = job,
    };
    progress_begin(&job->progress);
    const int code = sim_sweep_run(&job->sweep, &request, &error);
    progress_end(&job->progress);
    if (code)
        return message_failed(command, &error);
    for (uint32_t b = 0; b < job->sweep.n_budgets; b++)
        if (!job->sweep.budgets[b].why[0])
            return show(job);
    message_note(command, "%s: %s", job->sweep.budgets[0].text, job->sweep.budgets[0].why);
    return EXIT_FAILED;
}

static int replay(struct command_sim *job)
{
    struct lode_error error = {0};
    bool is_equal;
    if (sim_replay(&is_equal, stdout, job->json, &job->loaded, job->simulated, job->choice.profile,
                   job->choice.source, &error))
        return message_failed(command, &error);
    if (!is_equal)
        message_note(command, "a run without prefetch and warm start was replayed, and is not the same");
    return is_equal ? EXIT_OK : EXIT_FAILED;
}

static int execute(struct command_sim *job)
{
    interrupt_watch(true);
    int code = sim_budgets_make(&job->sweep.budgets, &job->sweep.n_budgets, &job->ram, &job->share,
                                &job->slots, command);
    if (!code)
        code = open_output(job, &job->csv_file, job->csv);
    if (!code)
        code = open_output(job, &job->html_file, job->html);
    if (!code)
        code = load_traces(job);
    if (!code)
        code = check_budgets(job);
    if (!code && !job->replay)
        code = prepare_rules(job);
    if (!code && !job->slots.n)
        code = open_model(job);
    if (!code && !job->slots.n)
        code = open_machine(job);
    if (code)
        return code;
    return job->replay ? replay(job) : sweep(job);
}

static void release(struct command_sim *job)
{
    if (job->csv_file.stream)
        new_file_discard(&job->csv_file);
    if (job->html_file.stream)
        new_file_discard(&job->html_file);
    sim_sweep_free(&job->sweep);
    free(job->sweep.budgets);
    simulation_model_close(job->simulated);
    machine_choice_close(&job->choice);
    sim_rules_close(&job->rules);
    sim_traces_free(&job->loaded);
    struct word_list *lists[] = {&job->traces, &job->fit,      &job->ram,       &job->share,
                                 &job->slots,  &job->policies, &job->predictors};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        word_list_free(lists[i]);
    free(job->paths);
    text_free(&job->command_line);
    free(job);
}

int cmd_sim(int argc, char **argv)
{
    struct command_sim *job = calloc(1, sizeof *job);
    if (!job)
        return no_memory();
    int code;
    if (parse(job, argc, argv, &code))
        code = keep_command_line(job, argc, argv) ? execute(job) : no_memory();
    release(job);
    return code;
}
