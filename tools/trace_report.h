// What `lode trace` says of routing traces: a screen for people, an object for programs.
#ifndef LODE_TOOLS_TRACE_REPORT_H
#define LODE_TOOLS_TRACE_REPORT_H

#include "placement/trace_summary.h"

#include <stdio.h>

struct trace_report {
    const char *const *paths;   // [n]
    const struct trace *traces; // [n], of one model
    uint32_t n;
    const struct trace_summary *summary;
};

void trace_report_text(FILE *out, const struct trace_report *report);

// One line. 0, or -1 when it could not be written.
int trace_report_json(FILE *out, const struct trace_report *report);

#endif
