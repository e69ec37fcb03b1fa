// A progress bar for loading and prefill: on a terminal only, one line, wiped when done.
#ifndef LODE_TOOLS_PROGRESS_H
#define LODE_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool enabled, drawn;
    uint64_t drawn_ns, started_ns;
};

void progress_begin(struct progress *progress);

// A lode_progress_fn whose user is a struct progress. False once Ctrl-C or SIGTERM came.
bool progress_show(void *user, const char *what, uint64_t done, uint64_t total);

void progress_end(struct progress *progress);

#endif
