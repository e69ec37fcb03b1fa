// How the run that a trace is of was set, as `options` of its header tells: words key=value with spaces
// between, so that people can read it. Unknown words are passed over; what is missing stays 0.
#ifndef LODE_TRACE_SETTINGS_H
#define LODE_TRACE_SETTINGS_H

#include "placement/trace.h"

#define TRACE_MAX_GPUS 8

struct trace_settings {
    uint64_t weights_bytes, ring_bytes; // memory for weights; 0: all fitted. Ring: 0: the least that works
    uint32_t context, batch, threads, queue_depth;
    char kv[8];              // "f16"
    char policy[64];         // a name of the table, or the path of a shared object
    char predictor[64];      // likewise; "none": without prefetch
    uint32_t prefetch_ranks; // 0: as many as a token chooses
    bool warm;               // policy and pool started from earlier runs
    bool direct;             // reads went around the page cache
    // What computed: "cpu", or GPUs beside it, "cuda0+cuda1"; empty where that is not told, as in traces of
    // versions that knew no GPUs. The ceiling of each GPU's memory, and how the model was divided: "plan",
    // "auto" (by rule), "by-layer"; empty without GPUs.
    char devices[96];
    uint64_t vram_bytes[TRACE_MAX_GPUS];
    uint32_t n_vram;
    char placement[16];
};

// Whether it is told that others than the CPU computed.
bool trace_settings_have_gpus(const struct trace_settings *settings);

// Text that does not fit, or has spaces or control characters in a name, is left out.
void trace_settings_write(char *out, size_t capacity, const struct trace_settings *settings);

// LODE_ERR_FORMAT where a number is none, or there are too many of them.
int trace_settings_read(struct trace_settings *out, const char *text, struct lode_error *error);

#endif
