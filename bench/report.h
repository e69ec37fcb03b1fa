// What the laboratory found: rows of measured cells, against the roofline, as a table and as JSON.
#ifndef LODE_BENCH_REPORT_H
#define LODE_BENCH_REPORT_H

#include "bench/cell.h"
#include "bench/roofline.h"

#include <stddef.h>

struct row {
    char op[24], type[24], shape[64];
    enum cpu_isa isa;
    struct cost cost;
    double seconds, error;
};

struct report {
    uint32_t threads;
    bool file_layout;
    struct roofline start, end;
    struct row *rows;
    size_t n_rows;
};

void report_print(const struct report *report);
bool report_write_json(const struct report *report, const char *path); // false: errno tells why

#endif
