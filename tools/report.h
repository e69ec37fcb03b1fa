// How a generation went: the line at the end, with others before it when weights were read from the files
// meanwhile and for each GPU, what was predicted of it, and the same as JSON.
#ifndef LODE_TOOLS_REPORT_H
#define LODE_TOOLS_REPORT_H

#include "core/lode.h"
#include "tools/prediction.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct report {
    const char *model_path;
    const struct lode_engine *engine;
    const struct lode_session *session;
    uint64_t seed;
    enum lode_stop stop;
    bool interrupted;                    // the caller's stop was Ctrl-C or SIGTERM
    const struct prediction *prediction; // NULL, or one without a plan: nothing was predicted
};

const char *report_stop(const struct report *report); // "end", "length", "context", "interrupted", "output"

void report_line(const char *command, const struct report *report); // to stderr
json_t *report_json(const struct report *report);                   // a new object

// The list "gpus" of it; `choices` are those of decode, of which the GPUs' hits are a part.
json_t *report_gpus_json(const struct lode_gpu_stats *gpus, size_t n, uint64_t choices);

#endif
