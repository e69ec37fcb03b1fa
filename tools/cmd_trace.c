// `lode trace`: what routing traces say, several as one set, as CSV, and made-up ones.
#include "tools/command.h"
#include "tools/message.h"
#include "tools/options.h"
#include "tools/trace_make.h"
#include "tools/trace_report.h"

#include "placement/trace_merge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char command[] = "lode trace";

static const char usage[] =
    "Usage: lode trace [--summary] [--json] FILE...\n"
    "       lode trace --merge OUT [--split S] [--seed N] FILE...\n"
    "       lode trace --export-csv OUT FILE\n"
    "       lode trace --make OUT [OPTION]...\n"
    "\n"
    "Shows how the choice of experts is spread and repeated, how many a stretch of tokens needs, what the\n"
    "ranks weigh, and how well the next layer was guessed. Reads the traces that runs record, CSV of\n"
    "route traces and the trace of the tiny models, also when compressed with zstd.\n"
    "  --summary          the figures of all FILEs together (the default)\n"
    "  --json             one JSON object, with the choices of every expert\n"
    "  --merge OUT        write all FILEs, of one model, as one set with its domains\n"
    "  --split S          with --merge: a share S of the conversations to OUT.fit, others to OUT.test\n"
    "  --seed N           with --split: which conversations go where (0); with --make: of all chance\n"
    "  --export-csv OUT   write the choices as CSV; - is stdout\n"
    "  --make OUT         write a made-up trace of --layers 30 with --experts 128, of which --used 8\n"
    "    --tokens N --prompt N --conversations N --topics N    decoded in each (512), before that (32)\n"
    "    --skew S --reuse R    Zipf exponent within a topic (0.97), share kept from token to token\n"
    "    --guess-precision P --expert-bytes B    right guesses of the next layer (none); (3345408)\n"
    "Exit: 0 done, also when a trace is cut off; 1 failed, 2 usage.\n"
    "Examples:\n"
    "  lode trace chat.trace code.trace\n"
    "  lode trace --merge set --split 0.7 chat.trace code.trace story.trace\n"
    "  lode trace --make steady.trace --skew 1.2 --reuse 0.5 --guess-precision 0.78\n";

struct command_trace {
    bool summary, json, split_given, seed_given;
    const char *merge, *csv;
    float split;
    uint64_t seed;
    struct trace_make_options make;
    const char **paths;
    uint32_t n;
    struct trace *traces; // [n]
};

// ---- the command line
// ----------------------------------------------------------------------------------------

static bool refuse(int *exit_code, const char *text)
{
    *exit_code = message_usage(command, "%s", text);
    return false;
}

static bool check(const struct command_trace *t, int *exit_code)
{
    if (t->summary + (t->merge != NULL) + (t->csv != NULL) + (t->make.path != NULL) > 1)
        return refuse(exit_code, "--summary, --merge, --export-csv and --make are four things; ask for one");
    if (!t->make.path && trace_make_asked(&t->make))
        return refuse(exit_code, "the shape of a made-up trace goes with --make");
    if (t->make.path && t->n)
        return refuse(exit_code, "--make makes a trace and reads none");
    if (t->n == 0 && !t->make.path)
        return refuse(exit_code, "which trace? give a FILE");
    if (t->json && (t->merge || t->csv || t->make.path))
        return refuse(exit_code, "--json is for the summary");
    if (t->split_given && !t->merge)
        return refuse(exit_code, "--split goes with --merge");
    if (t->seed_given && !t->split_given && !t->make.path)
        return refuse(exit_code, "--seed goes with --split or --make");
    if (t->csv && t->n > 1)
        return refuse(exit_code, "--export-csv takes one FILE; merge them first");
    return true;
}

static bool parse(struct command_trace *t, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_FLAG("summary", 0, &t->summary),
        OPTION_IS_FLAG("json", 0, &t->json),
        OPTION_IS_TEXT("merge", 0, &t->merge),
        {.name = "split",
         .kind = OPTION_NUMBER,
         .target = &t->split,
         .min = 0.01,
         .max = 0.99,
         .given = &t->split_given},
        {.name = "seed", .kind = OPTION_SEED, .target = &t->seed, .given = &t->seed_given},
        OPTION_IS_TEXT("export-csv", 0, &t->csv),
        TRACE_MAKE_OPTIONS(&t->make),
    };
    t->paths = calloc((size_t)argc, sizeof *t->paths);
    if (!t->paths) {
        message_note(command, "no memory for the names of %d files", argc);
        *exit_code = EXIT_FAILED;
        return false;
    }
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = t->paths,
                                   .max_operands = (size_t)argc};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    t->n = (uint32_t)parser.n_operands;
    return check(t, exit_code);
}

// ---- what it does
// --------------------------------------------------------------------------------------------

static int load(struct command_trace *t)
{
    struct lode_error error = {0};
    t->traces = calloc(t->n, sizeof *t->traces);
    if (!t->traces) {
        message_note(command, "no memory for %u traces", t->n);
        return EXIT_FAILED;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        int code = trace_load(&t->traces[i], t->paths[i], 0, &error);
        if (!code && i > 0)
            code = trace_same_model(&t->traces[0].header, t->paths[0], &t->traces[i].header, t->paths[i],
                                    &error);
        if (code)
            return message_failed(command, &error);
        if (t->traces[i].cut[0])
            message_note(command, "%s", t->traces[i].cut);
        if (t->traces[i].n_tokens == 0) {
            message_note(command, "the trace %s has no tokens", t->paths[i]);
            return EXIT_FAILED;
        }
    }
    return EXIT_OK;
}

static int summarise(struct command_trace *t)
{
    struct trace_summary summary;
    struct lode_error error = {0};
    int code = load(t);
    if (code)
        return code;
    if (trace_summarise(&summary, t->traces, t->n, &error))
        return message_failed(command, &error);
    const struct trace_report report = {t->paths, t->traces, t->n, &summary};
    if (t->json)
        trace_report_json(stdout, &report);
    else
        trace_report_text(stdout, &report);
    trace_summary_free(&summary);
    return EXIT_OK;
}

static int merge(const struct command_trace *t)
{
    const struct trace_split split = {(double)t->split, t->seed};
    struct trace_merged merged;
    struct lode_error error = {0};
    if (trace_merge(&merged, t->merge, t->paths, t->n, t->split_given ? &split : NULL, &error))
        return message_failed(command, &error);
    if (merged.n_cut)
        message_note(command, "%u of the traces %s cut off; what is there was taken", merged.n_cut,
                     merged.n_cut == 1 ? "is" : "are");
    if (t->split_given)
        message_note(
            command,
            "%s.fit: %u conversations, %" PRIu64 " tokens; %s.test: %u conversations, %" PRIu64 " tokens",
            t->merge, merged.n_fit, merged.n_fit_tokens, t->merge, merged.n_test, merged.n_test_tokens);
    else
        message_note(command, "%s: %u conversation%s, %" PRIu64 " tokens", t->merge, merged.n_conversations,
                     merged.n_conversations == 1 ? "" : "s", merged.n_tokens);
    return EXIT_OK;
}

static int export_to(struct command_trace *t, FILE *out)
{
    struct lode_error error = {0};
    return trace_write_csv(&t->traces[0], out, &error) ? message_failed(command, &error) : EXIT_OK;
}

// Opening the trace's own file to write would empty it.
static bool is_the_trace(const char *path, const char *trace)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(trace, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int export_csv(struct command_trace *t)
{
    int code = load(t);
    if (code)
        return code;
    if (strcmp(t->csv, "-") == 0)
        return export_to(t, stdout);
    if (is_the_trace(t->csv, t->paths[0])) {
        message_note(command, "%s is the trace itself", t->csv);
        return EXIT_FAILED;
    }
    FILE *out = fopen(t->csv, "we");
    if (!out) {
        message_note(command, "cannot write %s: %s", t->csv, strerror(errno));
        return EXIT_FAILED;
    }
    code = export_to(t, out);
    if (fclose(out) != 0 && !code) {
        message_note(command, "cannot write %s: %s", t->csv, strerror(errno));
        code = EXIT_FAILED;
    }
    return code;
}

int cmd_trace(int argc, char **argv)
{
    struct command_trace t = {.split = 0.5f, .make = TRACE_MAKE_DEFAULTS};
    int code;
    if (parse(&t, argc, argv, &code))
        code = t.make.path ? trace_make_run(&t.make, command, t.seed)
               : t.merge   ? merge(&t)
               : t.csv     ? export_csv(&t)
                           : summarise(&t);
    for (uint32_t i = 0; t.traces && i < t.n; i++)
        trace_free(&t.traces[i]);
    free(t.traces);
    free(t.paths);
    return code;
}
