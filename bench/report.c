// The laboratory's table and JSON; see report.h. A cell's share is the least time that the roofline allows by
// the time it took; the least time is the longest of what memory, caches and arithmetic need.
#include "bench/report.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct bound {
    double seconds;
    const char *name;
};

static void raise_bound(struct bound *bound, double work, double rate, const char *name)
{
    if (rate > 0 && work / rate * 1e-9 > bound->seconds)
        *bound = (struct bound){work / rate * 1e-9, name};
}

static double compute_seconds(const struct cost *cost, const struct peak *peak)
{
    const double parts[][2] = {{cost->float_ops, peak->float_gflops},
                               {cost->bf16_ops, peak->bf16_gflops},
                               {cost->int8_ops, peak->int8_gflops},
                               {cost->narrow_ops, peak->narrow_gflops}};
    double seconds = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i][1] > 0)
            seconds += parts[i][0] / parts[i][1] * 1e-9;
    return seconds;
}

static struct bound bound_of(const struct row *row, const struct roofline *roofline)
{
    struct bound bound = {0, "none"};
    double memory_gbps = roofline->read_gbps;
    if (row->cost.writes && roofline->update_gbps > memory_gbps)
        memory_gbps = roofline->update_gbps;
    raise_bound(&bound, row->cost.memory_bytes, memory_gbps, "memory");
    raise_bound(&bound, row->cost.cached_bytes, roofline->cached_gbps, "cache");
    raise_bound(&bound, compute_seconds(&row->cost, &roofline->peaks[row->isa]), 1e-9, "compute");
    return bound;
}

static double gbps_of(const struct row *row)
{
    return (row->cost.memory_bytes + row->cost.cached_bytes) / row->seconds * 1e-9;
}

static double gflops_of(const struct row *row)
{
    const struct cost *cost = &row->cost;
    return (cost->float_ops + cost->bf16_ops + cost->int8_ops + cost->narrow_ops) / row->seconds * 1e-9;
}

static void print_pair(const char *name, const char *unit, double start, double end)
{
    if (start > 0)
        printf("  %-26s %9.1f %9.1f %-8s %+5.0f%%\n", name, start, end, unit, 100 * (end / start - 1));
}

static void print_peak(enum cpu_isa isa, const char *kind, double start, double end)
{
    char name[48];
    snprintf(name, sizeof name, "%s, %s", cpu_isa_name(isa), kind);
    print_pair(name, "GFLOP/s", start, end);
}

static void print_roofline(const struct report *report)
{
    const struct roofline *a = &report->start, *b = &report->end;
    printf("roofline, %u threads             start       end          drift\n", report->threads);
    print_pair("read from memory", "GB/s", a->read_gbps, b->read_gbps);
    print_pair("update memory", "GB/s", a->update_gbps, b->update_gbps);
    print_pair("read from L1", "GB/s", a->cached_gbps, b->cached_gbps);
    for (unsigned p = 0; p < CPU_ISA_END; p++) {
        const struct peak *start = &a->peaks[p], *end = &b->peaks[p];
        print_peak(p, "float", start->float_gflops, end->float_gflops);
        if (start->bf16_gflops != start->float_gflops)
            print_peak(p, "bf16", start->bf16_gflops, end->bf16_gflops);
        print_peak(p, "int8", start->int8_gflops, end->int8_gflops);
        if (start->narrow_gflops != start->int8_gflops)
            print_peak(p, "int8 in 16 bits", start->narrow_gflops, end->narrow_gflops);
    }
    printf("The higher of both counts. Weights are %s.\n\n",
           report->file_layout ? "as in the file" : "arranged as the device likes them");
}

void report_print(const struct report *report)
{
    const struct roofline better = roofline_better(&report->start, &report->end);
    print_roofline(report);
    printf("%-17s %-13s %-8s %-36s %11s %8s %8s %6s %-7s %8s\n", "operation", "type", "isa", "shape", "us",
           "GB/s", "GFLOP/s", "share", "of", "error");
    for (size_t i = 0; i < report->n_rows; i++) {
        const struct row *row = &report->rows[i];
        const struct bound bound = bound_of(row, &better);
        printf("%-17s %-13s %-8s %-36s %11.2f %8.2f %8.1f %5.0f%% %-7s %8.1e\n", row->op, row->type,
               cpu_isa_name(row->isa), row->shape, row->seconds * 1e6, gbps_of(row), gflops_of(row),
               100 * bound.seconds / row->seconds, bound.name, row->error);
    }
}

static json_t *json_of_roofline(const struct roofline *roofline)
{
    json_t *object = json_pack("{s:f,s:f,s:f}", "read_gbps", roofline->read_gbps, "update_gbps",
                               roofline->update_gbps, "cached_gbps", roofline->cached_gbps);
    for (unsigned p = 0; p < CPU_ISA_END; p++) {
        const struct peak *peak = &roofline->peaks[p];
        if (peak->float_gflops > 0 || peak->int8_gflops > 0)
            json_object_set_new(object, cpu_isa_name(p),
                                json_pack("{s:f,s:f,s:f,s:f}", "float_gflops", peak->float_gflops,
                                          "bf16_gflops", peak->bf16_gflops, "int8_gflops", peak->int8_gflops,
                                          "int8_in_16_bits_gflops", peak->narrow_gflops));
    }
    return object;
}

static json_t *json_of_row(const struct row *row, const struct roofline *roofline)
{
    const struct bound bound = bound_of(row, roofline);
    json_t *object =
        json_pack("{s:s,s:s,s:s,s:s,s:f,s:f,s:f,s:f,s:s}", "op", row->op, "type", row->type, "isa",
                  cpu_isa_name(row->isa), "shape", row->shape, "seconds", row->seconds, "gbps", gbps_of(row),
                  "gflops", gflops_of(row), "share", bound.seconds / row->seconds, "bound", bound.name);
    // JSON has no infinity, which a wrong result has as its error.
    json_object_set_new(object, "error", row->error < 1e300 ? json_real(row->error) : json_null());
    return object;
}

bool report_write_json(const struct report *report, const char *path)
{
    const struct roofline better = roofline_better(&report->start, &report->end);
    json_t *cells = json_array();
    for (size_t i = 0; i < report->n_rows; i++)
        json_array_append_new(cells, json_of_row(&report->rows[i], &better));
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:{s:o,s:o},s:o}", "version", LODE_VERSION, "threads", (int)report->threads,
                  "layout", report->file_layout ? "file" : "arranged", "roofline", "start",
                  json_of_roofline(&report->start), "end", json_of_roofline(&report->end), "cells", cells);
    bool written = root && json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0;
    json_decref(root);
    return written;
}
