// What `lode sim` has simulated, and the forms in which it is told: a table, CSV, JSON, a page.
#ifndef LODE_TOOLS_SIM_H
#define LODE_TOOLS_SIM_H

#include "core/simulate.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum sim_row_kind {
    SIM_ROW_POLICY, // a policy with a predictor
    SIM_ROW_BELADY, // --slots: the most hits there can be
    SIM_ROW_ORACLE, // bytes of Belady, time of the bandwidth-limited oracle
};

// One simulation. With --slots only choices, hits and missed bytes are known.
struct sim_cell {
    uint32_t row, budget, trace;          // indices
    bool failed;                          // the budget is below what the model needs: nothing else is known
    struct simulation_result result;      // of a budget
    uint64_t choices, hits, missed_bytes; // of slots
};

// A figure of a row at a budget, over the traces.
struct sim_figure {
    double median, least, most;
    bool known;
};

struct sim_row {
    enum sim_row_kind kind;
    const char *policy, *predictor; // "belady", "oracle" for bounds; predictor "none" without
};

struct sim_budget {
    uint32_t slots;         // --slots, else 0
    uint64_t ram_bytes;     // --ram, else 0
    double share;           // --share, of the experts; else 0
    uint64_t weights_bytes; // memory for weights; 0: all
    char text[32];          // "16 slots", "8 GiB", "25%"
    // Why nothing was simulated with it, and what is needed at least; empty where it fits.
    char why[512];
    // Of --ram and --share: as the runs were set. batch 0: the simulator's own.
    uint32_t context, batch;
    uint64_t ring_bytes; // 0: the least that works
};

struct sim_trace_facts {
    const char *path;
    char model[256];
    uint32_t n_tokens, n_prefill_tokens, n_conversations, n_fit_tokens;
};

// Texts and names are the command's, and outlive the sweep.
struct sim_sweep {
    bool slots_mode; // slots for each layer: hits only
    struct sim_row *rows;
    uint32_t n_rows;
    struct sim_budget *budgets;
    uint32_t n_budgets;
    struct sim_trace_facts *traces;
    uint32_t n_traces;
    struct sim_cell *cells;                            // [n_rows][n_budgets][n_traces]
    char machine[256], machine_source[64], model[128]; // machine: empty with --slots
    uint32_t n_experts, expert_layers;                 // experts of a layer, the most
    double elapsed_s;
    char version[32], commit[32];
    // Where the figures come from.
    const char *command_line;     // may be NULL
    const char *const *fit;       // [n_fit] files of --fit
    uint32_t n_fit, fit_tokens;   // tokens: all that was learned from, also of conversations in the traces
    uint64_t fingerprint;         // of the traces' model; 0: unknown
    const char *kv;               // of the KV cache; NULL with --slots
    uint32_t threads;             // simulated; 0: the machine profile's
    uint32_t first_token, tokens; // --first and --tokens
};

enum sim_measure {
    SIM_HIT_RATE,       // of decode, by choices
    SIM_HIT_RATE_BYTES, // of all weights that decode used: the share that was in memory
    SIM_DECODE_TOK_S,
    SIM_PREFILL_TOK_S,
    SIM_DEMAND_BYTES,   // a decoded token
    SIM_PREFETCH_BYTES, // a decoded token
    SIM_USEFUL_SHARE,   // of prefetched bytes; also late and wasted
    SIM_LATE_SHARE,
    SIM_WASTED_SHARE,
    SIM_STALL_SHARE,        // of decode's time; and by cause:
    SIM_STALL_DEMAND_SHARE, // in the order of enum simulation_stall
    SIM_STALL_LATE_SHARE,
    SIM_STALL_STREAM_SHARE,
    SIM_STALL_ROWS_SHARE,
    SIM_P50_MS,
    SIM_P95_MS,
    SIM_P99_MS,
    SIM_MEASURES,
};

const char *sim_measure_name(enum sim_measure measure); // "decode_tok_s"

// *out_known is false where the cell has failed or the measure has no meaning: the wasted share where nothing
// was prefetched, times with --slots.
double sim_cell_value(const struct sim_cell *cell, enum sim_measure measure, bool slots_mode,
                      bool *out_known);

static inline struct sim_cell *sim_cell_at(const struct sim_sweep *sweep, uint32_t row, uint32_t budget,
                                           uint32_t trace)
{
    return &sweep->cells[((size_t)row * sweep->n_budgets + budget) * sweep->n_traces + trace];
}

// Median, least and most over the traces where the measure is known.
struct sim_figure sim_figure_of(const struct sim_sweep *sweep, uint32_t row, uint32_t budget,
                                enum sim_measure measure);

// The policy row with the best figure at a budget, UINT32_MAX: none is known. Only measures of which more is
// better.
uint32_t sim_best_row(const struct sim_sweep *sweep, uint32_t budget, enum sim_measure measure);

const char *sim_row_kind_name(enum sim_row_kind kind); // "policy", "belady", "oracle"
extern const char *const sim_stall_names[SIMULATION_STALLS];

// ---- sim_report.c, sim_json.c, sim_csv.c, sim_html.c

void sim_print_table(FILE *stream, const struct sim_sweep *sweep);
int sim_print_json(FILE *stream, const struct sim_sweep *sweep); // 0, or -1 where it could not be written
int sim_print_csv(FILE *stream, const struct sim_sweep *sweep);
int sim_print_html(FILE *stream, const struct sim_sweep *sweep);

#endif
