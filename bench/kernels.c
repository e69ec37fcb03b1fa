// The kernels' laboratory: times every operation of the device interface, for the types, instruction sets and
// shapes of Gemma 4, against what this machine can read and compute at best, and measures its error.
//
// Operands that a decoder reads once a token come from a ring of copies larger than any cache. Times are the
// best of many calls, as is the roofline, which is measured before and after: both mean an undisturbed
// machine.
#include "backends/cpu/cpu.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/memory.h"
#include "bench/laboratory.h"
#include "bench/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TIMED_SECONDS 20e-6 // shorter calls on cached operands are timed together
#define MAX_TIMED_CALLS 256
#define LEAST_TIMES 3

static const struct family *const families[] = {&matmul_family,    &geglu_family,  &expert_family,
                                                &attention_family, &vector_family, &rows_family};
#define N_FAMILIES (sizeof families / sizeof *families)

struct bench {
    struct lab_options options;
    uint32_t threads; // 0: one for each physical core
    bool file_layout;
    enum { COUNT, LIST, MEASURE } mode;
    const struct family *family;
    enum cpu_isa isa;
    struct lode_device *device; // NULL until the family has a cell that is wanted
    struct report report;
    size_t n_wanted;
};

// ---- options ----

static void take_option(const struct lab_program *program, void *user, int letter, const char *value)
{
    struct bench *bench = user;
    char *rest = "";
    if (letter == 'a')
        bench->file_layout = true;
    else
        bench->threads = (uint32_t)strtoul(value, &rest, 10);
    if (*rest || (letter == 't' && !bench->threads))
        lab_refuse(program, "threads", value);
}

static const struct option long_options[] = {
    {"threads", required_argument, NULL, 't'}, {"file-layout", no_argument, NULL, 'a'}, LAB_OPTIONS};

static const struct lab_program program = {
    .name = "kernels",
    .usage =
        "usage: kernels [--filter WORDS] [--seconds S] [--threads N] [--file-layout] [--json FILE] [--list]\n"
        "Times the operations of the CPU device against what the machine can do, and measures their error.\n"
        "  --filter WORDS  cells that have all the words in their line of --list; a,b: either of them\n"
        "                  for example --filter \"matmul Q4_0,Q6_K avx2 26b rows=1\"\n"
        "  --seconds S     for each cell, 0.2 unless told; the best call counts\n"
        "  --threads N     one for each physical core unless told\n"
        "  --json FILE     the figures, the roofline before and after included\n"
        "  --list          only say what there is\n",
    .options = long_options,
    .take = take_option,
};

// ---- measuring ----

static void open_device(struct bench *bench)
{
    struct lode_error error;
    struct cpu_options options = {.threads = bench->threads, .isa = cpu_isa_name(bench->isa)};
    if (cpu_open(&bench->device, &options, &error) != LODE_OK ||
        bench->device->ops->reserve(bench->device, &bench->family->limits, &error) != LODE_OK)
        lab_die(&program, error.text);
}

static void close_device(struct bench *bench)
{
    if (bench->device)
        bench->device->ops->close(bench->device);
    bench->device = NULL;
}

static double timed_calls(struct cell *cell, const struct cell_ops *ops, uint32_t copy, uint32_t n_calls)
{
    double start = seconds_now();
    for (uint32_t i = 0; i < n_calls; i++)
        ops->run(cell, copy);
    return (seconds_now() - start) / n_calls;
}

struct timing {
    struct cell *cell;
    const struct cell_ops *ops;
    double budget_seconds, best_seconds;
};

// In a pass, as a model runs its operations.
static void time_cell(void *user)
{
    struct timing *timing = user;
    struct cell *cell = timing->cell;
    const struct cell_ops *ops = timing->ops;
    double begin = seconds_now(), best = timed_calls(cell, ops, 0, 1);
    uint32_t n_calls = 1;
    if (cell->n_copies == 1 && best < TIMED_SECONDS)
        n_calls =
            best * MAX_TIMED_CALLS > TIMED_SECONDS ? (uint32_t)(TIMED_SECONDS / best) + 1 : MAX_TIMED_CALLS;
    for (uint32_t time = 1; time < LEAST_TIMES || seconds_now() - begin < timing->budget_seconds; time++) {
        if (best > 4 * timing->budget_seconds)
            break; // far longer than any disturbance
        double taken = timed_calls(cell, ops, time % cell->n_copies, n_calls);
        best = taken < best ? taken : best;
    }
    timing->best_seconds = best;
}

static void show_progress(const struct bench *bench, const char *line)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%zu of %zu: %-80.80s\r", bench->report.n_rows + 1, bench->n_wanted, line);
}

static void measure(struct bench *bench, struct row *row, const struct cell_ops *ops, const void *spec)
{
    struct cell cell = {.device = bench->device,
                        .file_layout = bench->file_layout,
                        .spec = spec,
                        .random = {bench->report.n_rows}};
    ops->make(&cell);
    struct timing timing = {&cell, ops, bench->options.cell_seconds, 0};
    bench->device->ops->pass(bench->device, time_cell, &timing);
    row->seconds = timing.best_seconds;
    row->cost = cell.cost;
    row->error = ops->worst_error(&cell);
    for (uint32_t b = 0; b < cell.n_blocks; b++)
        cpu_memory_free(cell.blocks[b].memory, cell.blocks[b].bytes);
}

void bench_offer(struct bench *bench, const char *op, const char *type, const char *shape,
                 const struct cell_ops *ops, const void *spec)
{
    char line[160];
    snprintf(line, sizeof line, "%-17s %-13s %-8s %s", op, type, cpu_isa_name(bench->isa), shape);
    if (!lab_wants(&bench->options, line))
        return;
    if (bench->mode == COUNT) {
        bench->n_wanted++;
        return;
    }
    if (bench->mode == LIST) {
        puts(line);
        return;
    }
    if (!bench->device)
        open_device(bench);
    show_progress(bench, line);
    struct row *row = &bench->report.rows[bench->report.n_rows];
    *row = (struct row){.isa = bench->isa};
    snprintf(row->op, sizeof row->op, "%s", op);
    snprintf(row->type, sizeof row->type, "%s", type);
    snprintf(row->shape, sizeof row->shape, "%s", shape);
    measure(bench, row, ops, spec);
    bench->report.n_rows++;
}

static void go_through(struct bench *bench)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        if (!cpu_isa_available(isa))
            continue;
        bench->isa = isa;
        for (size_t f = 0; f < N_FAMILIES; f++) {
            bench->family = families[f];
            bench->family->list(bench);
            close_device(bench);
        }
    }
}

static uint32_t count_threads(uint32_t wanted)
{
    struct lode_error error;
    struct lode_device *device;
    struct cpu_options cpu = {.threads = wanted};
    if (cpu_open(&device, &cpu, &error) != LODE_OK)
        lab_die(&program, error.text);
    uint32_t threads = cpu_threads(device);
    device->ops->close(device);
    return threads;
}

static void measure_all(struct bench *bench)
{
    struct report *report = &bench->report;
    report->rows = calloc(bench->n_wanted, sizeof *report->rows);
    if (!report->rows)
        lab_die(&program, "no memory for the rows of the table");
    report->threads = count_threads(bench->threads);
    report->file_layout = bench->file_layout;
    lab_catch_signals();
    report->start = roofline_measure(report->threads);
    bench->mode = MEASURE;
    go_through(bench);
    report->end = roofline_measure(report->threads);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "%-110s\r", "");
    report_print(report);
    if (lab_stopped())
        printf("Interrupted after %zu of %zu cells.\n", report->n_rows, bench->n_wanted);
    if (bench->options.json_path && !report_write_json(report, bench->options.json_path)) {
        lab_say_unwritten(&program, bench->options.json_path);
        exit(1);
    }
    free(report->rows);
}

int main(int n_args, char **args)
{
    struct bench bench = {0};
    bench.options = lab_parse(&program, n_args, args, 0.2, &bench);
    go_through(&bench);
    if (bench.n_wanted == 0) {
        lab_say_no_cell(&program);
        return 2;
    }
    if (bench.options.list) {
        bench.mode = LIST;
        go_through(&bench);
    } else {
        measure_all(&bench);
    }
    return 0;
}
