// Hit rates of policies on a trace, as a table of Markdown: policies by slots a layer, and Belady's bound.
//
//     build/bench/policies [--slots 8,16,…] [--policy NAME|FILE.so,…] [--shared] [--first N] [--tokens N]
//     TRACE
//
// placement/slot_sim.h says what is counted. No time: more hits are not always more tokens a second.
#include "placement/policy_plugin.h"
#include "placement/slot_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 16, MAX_ROWS = 32 };

struct row {
    const struct policy_ops *ops;
    struct policy_plugin *plugin;
};

struct bench {
    const char *trace_path;
    struct slot_sim sim;
    uint32_t slots[MAX_COLUMNS];
    size_t n_slots;
    struct row rows[MAX_ROWS];
    size_t n_rows;
};

static int read_number(uint32_t *out, const char *text, const char *what)
{
    char *end;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value > UINT32_MAX) {
        fprintf(stderr, "policies: %s '%s': must be a number\n", what, text);
        return -1;
    }
    *out = (uint32_t)value;
    return 0;
}

static int read_slots(struct bench *bench, char *text)
{
    bench->n_slots = 0;
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        if (bench->n_slots == MAX_COLUMNS) {
            fprintf(stderr, "policies: --slots: at most %d\n", MAX_COLUMNS);
            return -1;
        }
        if (read_number(&bench->slots[bench->n_slots++], item, "--slots"))
            return -1;
    }
    return 0;
}

static int read_policies(struct bench *bench, char *text)
{
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        struct lode_error error = {0};
        if (bench->n_rows == MAX_ROWS) {
            fprintf(stderr, "policies: --policy: at most %d\n", MAX_ROWS);
            return -1;
        }
        struct row *row = &bench->rows[bench->n_rows];
        if (policy_open_named(&row->ops, &row->plugin, item, &error)) {
            fprintf(stderr, "policies: %s\n", error.text);
            return -1;
        }
        bench->n_rows++;
    }
    return 0;
}

static int take_option(struct bench *bench, const char *name, char *value)
{
    if (strcmp(name, "--slots") == 0)
        return read_slots(bench, value);
    if (strcmp(name, "--policy") == 0)
        return read_policies(bench, value);
    if (strcmp(name, "--first") == 0)
        return read_number(&bench->sim.first, value, name);
    if (strcmp(name, "--tokens") == 0)
        return read_number(&bench->sim.tokens, value, name);
    fprintf(stderr, "policies: unknown option '%s'\n", name);
    return -1;
}

static int read_arguments(struct bench *bench, int argc, char **argv)
{
    static const uint32_t usual[] = {8, 16, 24, 32, 48, 64};
    bench->n_slots = sizeof usual / sizeof *usual;
    memcpy(bench->slots, usual, sizeof usual);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--shared") == 0) {
            bench->sim.shared = true;
        } else if (strcmp(argv[i], "--by-expert") == 0) {
            bench->sim.by_expert = true;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            if (i + 1 == argc) {
                fprintf(stderr, "policies: %s needs a value\n", argv[i]);
                return -1;
            }
            if (take_option(bench, argv[i], argv[i + 1]))
                return -1;
            i++;
        } else if (bench->trace_path) {
            fprintf(stderr, "policies: one trace at a time\n");
            return -1;
        } else {
            bench->trace_path = argv[i];
        }
    }
    const bool all = bench->n_rows == 0;
    for (size_t p = 0; all && policy_table[p] && p < MAX_ROWS; p++)
        bench->rows[bench->n_rows++].ops = policy_table[p];
    if (!bench->trace_path)
        fprintf(stderr, "usage: policies [--slots 8,16,…] [--policy NAME|FILE.so,…] [--shared] "
                        "[--by-expert] [--first N] [--tokens N] TRACE\n");
    return bench->trace_path ? 0 : -1;
}

// A row of the table; ops NULL: Belady.
static int print_row(const struct bench *bench, const struct trace *trace, const struct policy_ops *ops)
{
    printf(ops ? "| `%s` |" : "| %s |", ops ? ops->name : "Belady");
    for (size_t i = 0; i < bench->n_slots; i++) {
        struct slot_sim sim = bench->sim;
        struct slot_hits hits = {0};
        struct lode_error error = {0};
        sim.slots = bench->slots[i];
        if (ops ? slot_sim_run(&hits, &sim, trace, ops, &error)
                : slot_sim_belady(&hits, &sim, trace, &error)) {
            printf("\n");
            fprintf(stderr, "policies: %s\n", error.text);
            return -1;
        }
        printf(" %.1f |", hits.choices ? 100.0 * (double)hits.hits / (double)hits.choices : 100.0);
        fflush(stdout);
    }
    printf("\n");
    return 0;
}

static int print_table(const struct bench *bench, const struct trace *trace)
{
    const uint32_t asked = bench->sim.tokens;
    const uint32_t n_tokens = asked && asked < trace->n_tokens ? asked : trace->n_tokens;
    printf("| hits, %%, tokens %u to %u |", bench->sim.first, n_tokens);
    for (size_t i = 0; i < bench->n_slots; i++)
        printf(" %u |", bench->slots[i]);
    printf("\n|---|");
    for (size_t i = 0; i < bench->n_slots; i++)
        printf("---:|");
    printf("\n");
    for (size_t i = 0; i < bench->n_rows; i++)
        if (print_row(bench, trace, bench->rows[i].ops))
            return -1;
    return print_row(bench, trace, NULL);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct trace trace;
    struct lode_error error = {0};
    int rc = read_arguments(&bench, argc, argv);
    if (!rc && trace_load(&trace, bench.trace_path, 0, &error)) {
        fprintf(stderr, "policies: %s\n", error.text);
        rc = -1;
    } else if (!rc) {
        rc = print_table(&bench, &trace);
        trace_free(&trace);
    }
    for (size_t i = 0; i < bench.n_rows; i++)
        policy_plugin_close(bench.rows[i].plugin);
    return rc ? 1 : 0;
}
