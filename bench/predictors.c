// What predictors name of a trace's choices, as tables of Markdown: predictors by the number of experts that
// they name.
//
//     build/bench/predictors [--predict NAME|FILE.so,…] [--ranks 1,2,4,6,8] [--fit TRACE]… [--first N] TRACE
//
// Predictors are fitted on the traces of --fit; without, on the trace's own conversations that are for
// fitting, where it has such. Judged is decode in its other conversations, from its token N on, with learning
// as it goes. placement/predictor_fit.h says what is counted. The last column is the time that a layer costs:
// its guess with the most ranks, and being told its choice.
#include "placement/predictor_fit.h"
#include "placement/predictor_plugin.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_COLUMNS = 16, MAX_ROWS = 32, MAX_FITS = 64, TIMED_LAYERS = 100000 };

struct row {
    const struct predictor_ops *ops;
    struct predictor_plugin *plugin;
    struct predictor_tally tally;
    double layer_ns;
    bool unknown; // the trace lacks what it asks
};

struct bench {
    const char *trace_path;
    struct trace trace;
    const char *fit_paths[MAX_FITS];
    struct trace fits[MAX_FITS];
    size_t n_fits, n_loaded_fits;
    uint32_t ranks[MAX_COLUMNS], most_ranks, first;
    size_t n_ranks;
    struct row rows[MAX_ROWS];
    size_t n_rows;
};

static int refuse(const char *text, const char *what)
{
    fprintf(stderr, "predictors: %s%s\n", text, what);
    return -1;
}

static int read_number(uint32_t *out, const char *text, uint32_t most)
{
    char *end;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value > most)
        return refuse("not a number that makes sense: ", text);
    *out = (uint32_t)value;
    return 0;
}

static int read_ranks(struct bench *bench, char *text)
{
    bench->n_ranks = 0;
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        if (bench->n_ranks == MAX_COLUMNS)
            return refuse("too many ranks", "");
        uint32_t *ranks = &bench->ranks[bench->n_ranks++];
        if (read_number(ranks, item, TRACE_MAX_RANKS))
            return -1;
        if (*ranks == 0)
            return refuse("ranks begin with 1, not ", item);
    }
    return bench->n_ranks ? 0 : refuse("--ranks has none", "");
}

static int read_predictors(struct bench *bench, char *text)
{
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        struct lode_error error = {0};
        if (bench->n_rows == MAX_ROWS)
            return refuse("too many predictors", "");
        struct row *row = &bench->rows[bench->n_rows];
        if (predictor_plugin_open_named(&row->ops, &row->plugin, item, &error))
            return refuse(error.text, "");
        bench->n_rows++;
    }
    return 0;
}

static int take_option(struct bench *bench, const char *name, char *value)
{
    if (strcmp(name, "--predict") == 0)
        return read_predictors(bench, value);
    if (strcmp(name, "--ranks") == 0)
        return read_ranks(bench, value);
    if (strcmp(name, "--first") == 0)
        return read_number(&bench->first, value, UINT32_MAX);
    if (strcmp(name, "--fit") != 0)
        return refuse("unknown option ", name);
    if (bench->n_fits == MAX_FITS)
        return refuse("too many traces to fit on", "");
    bench->fit_paths[bench->n_fits++] = value;
    return 0;
}

static int read_arguments(struct bench *bench, int argc, char **argv)
{
    static const uint32_t usual[] = {1, 2, 4, 6, 8};
    bench->n_ranks = sizeof usual / sizeof *usual;
    memcpy(bench->ranks, usual, sizeof usual);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            if (i + 1 == argc)
                return refuse(argv[i], " needs a value");
            if (take_option(bench, argv[i], argv[i + 1]))
                return -1;
            i++;
        } else if (bench->trace_path) {
            return refuse("one trace to judge on at a time", "");
        } else {
            bench->trace_path = argv[i];
        }
    }
    if (!bench->trace_path)
        return refuse(
            "usage: predictors [--predict NAME|FILE.so,…] [--ranks 1,2,4,6,8] [--fit TRACE]… [--first N] "
            "TRACE",
            "");
    const bool all = bench->n_rows == 0;
    for (size_t p = 0; all && predictor_table[p] && p < MAX_ROWS; p++)
        bench->rows[bench->n_rows++].ops = predictor_table[p];
    for (size_t i = 0; i < bench->n_ranks; i++)
        bench->most_ranks = bench->ranks[i] > bench->most_ranks ? bench->ranks[i] : bench->most_ranks;
    return 0;
}

static int load(struct bench *bench)
{
    struct lode_error error = {0};
    if (trace_load(&bench->trace, bench->trace_path, 0, &error))
        return refuse(error.text, "");
    for (size_t f = 0; f < bench->n_fits; f++) {
        if (trace_load(&bench->fits[f], bench->fit_paths[f], 0, &error))
            return refuse(error.text, "");
        bench->n_loaded_fits++;
        if (trace_same_model(&bench->trace.header, bench->trace_path, &bench->fits[f].header,
                             bench->fit_paths[f], &error))
            return refuse(error.text, "");
    }
    return 0;
}

static bool has_fit_part(const struct trace *trace)
{
    for (uint32_t c = 0; c < trace->n_conversations; c++)
        if (trace->conversations[c].part == TRACE_PART_FIT)
            return true;
    return false;
}

static int fit(const struct bench *bench, struct predictor *predictor, struct lode_error *error)
{
    if (bench->n_fits == 0)
        return has_fit_part(&bench->trace) ? predictor_fit(predictor, &bench->trace, error) : 0;
    int rc = 0;
    for (size_t f = 0; f < bench->n_fits && !rc; f++)
        rc = predictor_fit(predictor, &bench->fits[f], error);
    return rc;
}

// A layer's guess and what it costs to be told its choice, in the order of a run, over the trace's tokens.
static double time_layers(const struct bench *bench, struct predictor *predictor)
{
    const struct trace *trace = &bench->trace;
    const struct predictor_ops *ops = predictor->ops;
    int32_t gate[TRACE_MAX_RANKS], named[TRACE_MAX_RANKS], chosen[TRACE_MAX_USED];
    for (int32_t r = 0; r < TRACE_MAX_RANKS; r++)
        gate[r] = r;
    uint64_t n_layers = 0;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint32_t token = 0; n_layers < TIMED_LAYERS; token = (token + 1) % trace->n_tokens) {
        for (uint32_t m = 0; m < trace->n_moe; m++, n_layers++) {
            const uint16_t *row = trace->experts + ((size_t)token * trace->n_moe + m) * trace->n_used;
            const uint32_t layer = trace->moe_layer[m], n_experts = trace->header.layers[layer].n_experts;
            const uint32_t max = bench->most_ranks < n_experts ? bench->most_ranks : n_experts;
            uint32_t n = 0;
            for (; n < trace->n_used && row[n] != TRACE_NO_EXPERT; n++)
                chosen[n] = row[n];
            ops->guess(predictor, layer, ops->gate != PREDICTOR_NO_GATE ? gate : NULL, named, max);
            if (ops->chosen)
                ops->chosen(predictor, layer, chosen, n);
        }
        if (ops->pass_end)
            ops->pass_end(predictor, 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) /
           (double)n_layers;
}

static int judge(const struct bench *bench, struct row *row)
{
    struct predictor *predictor;
    struct lode_error error = {0};
    row->unknown = row->ops->gate != PREDICTOR_NO_GATE && !bench->trace.guess_at;
    if (row->unknown)
        return 0;
    int rc = predictor_open_for(&predictor, row->ops, &bench->trace, NULL, &error);
    if (rc)
        return refuse(error.text, "");
    rc = fit(bench, predictor, &error);
    if (!rc)
        rc = predictor_precision(&row->tally, predictor, &bench->trace, bench->first, bench->most_ranks,
                                 &error);
    if (!rc)
        row->layer_ns = time_layers(bench, predictor);
    row->ops->close(predictor);
    return rc ? refuse(error.text, "") : 0;
}

static void print_table(const struct bench *bench, const char *what,
                        double (*figure)(const struct predictor_tally *, uint32_t), bool timed)
{
    printf("| %s |", what);
    for (size_t i = 0; i < bench->n_ranks; i++)
        printf(" %u |", bench->ranks[i]);
    printf("%s\n|---|", timed ? " us a layer |" : "");
    for (size_t i = 0; i < bench->n_ranks + timed; i++)
        printf("---:|");
    printf("\n");
    for (size_t i = 0; i < bench->n_rows; i++) {
        const struct row *row = &bench->rows[i];
        printf("| `%s` |", row->ops->name);
        for (size_t c = 0; c < bench->n_ranks; c++) {
            const double value = row->unknown ? (double)NAN : figure(&row->tally, bench->ranks[c]);
            if (isnan(value))
                printf(" - |");
            else
                printf(" %.1f |", 100 * value);
        }
        if (timed && row->unknown)
            printf(" - |");
        else if (timed)
            printf(" %.2f |", row->layer_ns / 1000);
        printf("\n");
    }
}

static int run(struct bench *bench)
{
    if (load(bench))
        return -1;
    for (size_t i = 0; i < bench->n_rows; i++)
        if (judge(bench, &bench->rows[i]))
            return -1;
    print_table(bench, "named that were chosen, %", predictor_tally_precision, false);
    printf("\n");
    print_table(bench, "chosen that were named, %", predictor_tally_recall, true);
    bool unknown = false;
    for (size_t i = 0; i < bench->n_rows; i++)
        unknown |= bench->rows[i].unknown;
    if (unknown)
        printf("\n-: the trace has no guesses of the next layer's router.\n");
    return 0;
}

int main(int argc, char **argv)
{
    static struct bench bench; // tallies of all rows
    int rc = read_arguments(&bench, argc, argv);
    if (!rc)
        rc = run(&bench);
    for (size_t f = 0; f < bench.n_loaded_fits; f++)
        trace_free(&bench.fits[f]);
    trace_free(&bench.trace);
    for (size_t i = 0; i < bench.n_rows; i++)
        predictor_plugin_close(bench.rows[i].plugin);
    return rc ? 1 : 0;
}
