// What `lode bench` measures: cells, each a phase at a depth of context, and their runs.
#ifndef LODE_TOOLS_BENCH_H
#define LODE_TOOLS_BENCH_H

#include "core/lode.h"
#include "tools/provenance.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BENCH_LIST_VALUES = 16, BENCH_MAX_REPEATS = 100 };

// Ascending, each value once.
struct bench_list {
    uint32_t values[BENCH_LIST_VALUES];
    size_t count;
};

// "0,4K,32K" into a struct bench_list; an option table's parse function.
bool bench_list_parse(void *target, const char *value, char *reason, size_t capacity);

enum bench_phase { BENCH_PREFILL, BENCH_DECODE };

struct bench_cell {
    enum bench_phase phase;
    uint32_t tokens, context; // context: tokens that are there before
    double run_s[BENCH_MAX_REPEATS];
    struct lode_parts run_parts[BENCH_MAX_REPEATS]; // of run_s
    uint32_t n_runs;
    double tok_s, spread;    // of the runs: median, (max - min) / median
    struct lode_parts parts; // of a token of the median run, or of the mean of the two in the middle
    double bytes_per_token, read_gbps; // of decode: weights and KV cache; else 0
};

struct bench {
    struct bench_list prefills, depths;
    uint32_t decode, repeats;
    bool real_context;
    uint64_t seed;

    struct bench_cell *cells; // in the order in which they are measured
    size_t n_cells;
    bool interrupted;
};

// ---- bench_measure.c

// Makes the cells; LODE_ERR_CONTEXT where one goes beyond the model. *out_context is the longest timeline.
int bench_plan(struct bench *bench, const struct lode_shape *shape, uint32_t *out_context,
               struct lode_error *error);
void bench_free(struct bench *bench);

// All cells once, then again. A signal ends it: then `interrupted` is set, and the runs so far stay.
int bench_measure(struct bench *bench, const struct lode_engine *engine, struct lode_session *session,
                  struct lode_error *error);

// ---- bench_report.c

// What a report tells besides the cells.
struct bench_setting {
    const char *path;
    struct lode_shape shape;
    uint32_t threads, batch;
    char isa[32];
    const char *kv;
    bool offloaded;
    double read_gbps; // of the threads; 0 where it was not measured
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    size_t n_gpus;
    uint64_t choices; // of experts, of which the GPUs' hits are a part
    struct provenance provenance;
};

void bench_print_table(FILE *stream, const struct bench *bench, const struct bench_setting *setting);
int bench_print_json(FILE *stream, const struct bench *bench, const struct bench_setting *setting);

#endif
