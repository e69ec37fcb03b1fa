// `lode trace`: what routing traces say, several as one set, and as CSV.
#include "tools/command.h"
#include "tools/message.h"
#include "tools/options.h"
#include "tools/trace_report.h"

#include "placement/trace_merge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char command[] = "lode trace";

static const char usage[] =
    "Usage: lode trace [OPTION]... FILE...\n"
    "       lode trace --merge OUT [--split S] [--seed N] FILE...\n"
    "       lode trace --export-csv OUT FILE\n"
    "\n"
    "Shows what routing traces say: how the choice of experts is spread and repeated, how many experts a\n"
    "stretch of tokens needs, what the ranks weigh, and how well the next layer was guessed. Reads lode's\n"
    "traces, CSV of route traces, and the trace of the tiny models, also when compressed with zstd.\n"
    "\n"
    "  --summary          the figures of all FILEs together (the default)\n"
    "  --json             one JSON object, with the choices of every expert\n"
    "  --merge OUT        write all FILEs, of one model, as one set with its domains\n"
    "  --split S          with --merge: a share S of the conversations to OUT.fit, others to OUT.test\n"
    "  --seed N           with --split: which conversations go where (0)\n"
    "  --export-csv OUT   write the choices as CSV; - is stdout\n"
    "\n"
    "Exit: 0 done, also when a trace is cut off; 1 failed, 2 usage.\n"
    "\n"
    "Examples:\n"
    "  lode trace chat.trace code.trace\n"
    "  lode trace --merge set --split 0.7 chat.trace code.trace story.trace\n";

struct command_trace {
    bool summary, json, split_given, seed_given;
    const char *merge, *csv;
    float split;
    uint64_t seed;
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
    if (t->n == 0)
        return refuse(exit_code, "which trace? give a FILE");
    if (t->summary + (t->merge != NULL) + (t->csv != NULL) > 1)
        return refuse(exit_code, "--summary, --merge and --export-csv are three things; ask for one");
    if (t->json && (t->merge || t->csv))
        return refuse(exit_code, "--json is for the summary");
    if (t->split_given && !t->merge)
        return refuse(exit_code, "--split goes with --merge");
    if (t->seed_given && !t->split_given)
        return refuse(exit_code, "--seed goes with --split");
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
    struct command_trace t = {.split = 0.5f};
    int code;
    if (parse(&t, argc, argv, &code))
        code = t.merge ? merge(&t) : t.csv ? export_csv(&t) : summarise(&t);
    for (uint32_t i = 0; t.traces && i < t.n; i++)
        trace_free(&t.traces[i]);
    free(t.traces);
    free(t.paths);
    return code;
}
