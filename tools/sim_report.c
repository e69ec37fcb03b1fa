// What a sweep has shown, for a person: speeds and hit rates side by side, then what lies behind them.
#include "tools/sim.h"
#include "tools/sim_sheet.h"
#include "tools/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Details of every budget while they are this many rows, else of the last one.
enum { MOST_DETAIL_ROWS = 24 };

// How a measure is shown: times `scale`, with as many digits as say something.
struct shown {
    enum sim_measure measure;
    const char *head;
    double scale;
};

static void label_row(char *out, size_t capacity, const struct sim_row *row)
{
    if (strcmp(row->predictor, "none") == 0)
        snprintf(out, capacity, "%s", row->policy);
    else
        snprintf(out, capacity, "%s + %s", row->policy, row->predictor);
}

// Three digits or four; shares always with one behind the point, so that 99.9% is not 100%.
static void number(char *out, size_t capacity, double value, double scale)
{
    const double v = value * scale;
    const int digits = scale == 100 ? 1 : v < 9.995 ? 2 : v < 999.95 ? 1 : 0;
    snprintf(out, capacity, "%.*f", digits, v);
}

// ---- a measure over all budgets
// --------------------------------------------------------------------------------

static void fill_cell(char *out, const struct sim_sweep *s, uint32_t row, uint32_t budget,
                      const struct shown *shown, double best)
{
    const struct sim_figure f = sim_figure_of(s, row, budget, shown->measure);
    if (!f.known) {
        strcpy(out, "-");
        return;
    }
    char middle[16], half[16] = "";
    number(middle, sizeof middle, f.median, shown->scale);
    if (s->n_traces > 1)
        number(half, sizeof half, (f.most - f.least) / 2, shown->scale);
    const bool is_best = s->rows[row].kind == SIM_ROW_POLICY && f.median >= best;
    snprintf(out, SIM_SHEET_CELL, "%s%s%s%s", middle, half[0] ? " ±" : "", half, is_best ? "*" : " ");
}

static bool fill(struct sim_sheet *sheet, const struct sim_sweep *s, const struct shown *shown)
{
    if (!sim_sheet_make(sheet, "policy", s->n_rows, s->n_budgets))
        return false;
    for (uint32_t r = 0; r < s->n_rows; r++)
        label_row(sheet->labels[r], SIM_SHEET_LABEL, &s->rows[r]);
    for (uint32_t b = 0; b < s->n_budgets; b++) {
        const uint32_t row = sim_best_row(s, b, shown->measure);
        const double best = row == UINT32_MAX ? INFINITY : sim_figure_of(s, row, b, shown->measure).median;
        snprintf(sheet->heads[b], SIM_SHEET_CELL, "%s ", s->budgets[b].text);
        for (uint32_t r = 0; r < s->n_rows; r++)
            fill_cell(sim_sheet_cell(sheet, r, b), s, r, b, shown, best);
    }
    return true;
}

static void print_measure(FILE *stream, const struct sim_sweep *s, const struct shown *shown)
{
    struct sim_sheet sheet;
    if (!fill(&sheet, s, shown)) {
        fputs("(no memory for this table)\n", stream);
        return;
    }
    fprintf(stream, "\n%s\n", shown->head);
    sim_sheet_print(stream, &sheet);
    sim_sheet_free(&sheet);
}

// ---- all measures at one budget
// --------------------------------------------------------------------------------

static const struct shown reads[] = {
    {SIM_DEMAND_BYTES, "demand MB", 1e-6}, {SIM_PREFETCH_BYTES, "ahead MB", 1e-6},
    {SIM_USEFUL_SHARE, "in time %", 100},  {SIM_LATE_SHARE, "late %", 100},
    {SIM_WASTED_SHARE, "wasted %", 100},   {SIM_HIT_RATE_BYTES, "in memory %", 100},
};
static const struct shown times[] = {
    {SIM_STALL_DEMAND_SHARE, "demand %", 100},
    {SIM_STALL_LATE_SHARE, "late %", 100},
    {SIM_STALL_STREAM_SHARE, "stream %", 100},
    {SIM_STALL_ROWS_SHARE, "rows %", 100},
    {SIM_P50_MS, "p50 ms", 1},
    {SIM_P95_MS, "p95 ms", 1},
    {SIM_P99_MS, "p99 ms", 1},
};
enum { N_READS = sizeof reads / sizeof *reads, N_TIMES = sizeof times / sizeof *times };

static void print_details(FILE *stream, const struct sim_sweep *s, uint32_t budget, const char *title,
                          const struct shown *shown, uint32_t n)
{
    struct sim_sheet sheet;
    if (!sim_sheet_make(&sheet, "policy", s->n_rows, n)) {
        fputs("(no memory for this table)\n", stream);
        return;
    }
    for (uint32_t c = 0; c < n; c++)
        strcpy(sheet.heads[c], shown[c].head);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        label_row(sheet.labels[r], SIM_SHEET_LABEL, &s->rows[r]);
        for (uint32_t c = 0; c < n; c++) {
            const struct sim_figure f = sim_figure_of(s, r, budget, shown[c].measure);
            if (f.known)
                number(sim_sheet_cell(&sheet, r, c), SIM_SHEET_CELL, f.median, shown[c].scale);
            else
                strcpy(sim_sheet_cell(&sheet, r, c), "-");
        }
    }
    fprintf(stream, "\n%s: %s\n", s->budgets[budget].text, title);
    sim_sheet_print(stream, &sheet);
    sim_sheet_free(&sheet);
}

// Words, in lines that a terminal shows.
static void print_wrapped(FILE *stream, const char *text)
{
    uint32_t column = 0;
    while (*text) {
        const size_t len = strcspn(text, " ");
        if (column && column + 1 + len > SIM_SHEET_WIDTH) {
            fputc('\n', stream);
            column = 0;
        }
        fprintf(stream, "%s%.*s", column ? " " : "", (int)len, text);
        column += (column > 0) + (uint32_t)len;
        text += len + strspn(text + len, " ");
    }
    fputc('\n', stream);
}

static void print_refused(FILE *stream, const struct sim_budget *budget)
{
    char text[sizeof budget->text + sizeof budget->why + 32], shown[sizeof text];
    snprintf(text, sizeof text, "%s does not fit: %s", budget->text, budget->why);
    fputc('\n', stream);
    print_wrapped(stream, text_printable(shown, sizeof shown, text));
}

static bool fits(const struct sim_sweep *s, uint32_t budget)
{
    return !s->budgets[budget].why[0];
}

static void print_all_details(FILE *stream, const struct sim_sweep *s)
{
    uint32_t n = 0, last = 0;
    for (uint32_t b = 0; b < s->n_budgets; b++)
        if (fits(s, b)) {
            n++;
            last = b;
        }
    const bool all = n * s->n_rows <= MOST_DETAIL_ROWS;
    for (uint32_t b = 0; b < s->n_budgets; b++)
        if (fits(s, b) && (all || b == last)) {
            print_details(stream, s, b, "read for a decoded token; what became of what was read ahead", reads,
                          N_READS);
            print_details(stream, s, b, "decode's time spent waiting, by what for; time of a token", times,
                          N_TIMES);
        }
    if (n > 1 && !all)
        fputs("\n--csv, --json and --html have these figures of every budget.\n", stream);
}

// ---- the head
// -------------------------------------------------------------------------------------------------

static void print_traces(FILE *stream, const struct sim_sweep *s)
{
    uint64_t tokens = 0, prefill = 0, conversations = 0;
    char path[48];
    const char *slash = strrchr(s->traces[0].path, '/'), *name = slash ? slash + 1 : s->traces[0].path;
    for (uint32_t t = 0; t < s->n_traces; t++) {
        tokens += s->traces[t].n_tokens;
        prefill += s->traces[t].n_prefill_tokens;
        conversations += s->traces[t].n_conversations;
    }
    if (s->n_traces == 1)
        fprintf(stream, "trace    %s", text_printable(path, sizeof path, name));
    else
        fprintf(stream, "traces   %u", s->n_traces);
    fprintf(stream, ", %" PRIu64 " tokens in %" PRIu64 " conversation%s, %" PRIu64 " of prompts\n", tokens,
            conversations, conversations == 1 ? "" : "s", prefill);
    if (s->fit_tokens)
        fprintf(stream, "learned  from %u other tokens\n", s->fit_tokens);
    else
        fputs("learned  nothing: policies and pools start empty\n", stream);
}

static void print_head(FILE *stream, const struct sim_sweep *s)
{
    char name[50];
    fprintf(stream, "model    %s, %u layers of %u experts\n", text_printable(name, sizeof name, s->model),
            s->expert_layers, s->n_experts);
    if (s->machine[0]) {
        char source[40];
        fprintf(stream, "machine  %s", text_printable(name, sizeof name, s->machine));
        fprintf(stream, " (%s)\n", text_printable(source, sizeof source, s->machine_source));
    }
    print_traces(stream, s);
}

void sim_print_table(FILE *stream, const struct sim_sweep *s)
{
    static const struct shown speed = {SIM_DECODE_TOK_S, "decode, tokens a second", 1};
    static const struct shown hits = {SIM_HIT_RATE, "hit rate, % of the chosen experts that were in memory",
                                      100};
    static const struct shown prefill = {SIM_PREFILL_TOK_S, "prefill, tokens a second", 1};
    print_head(stream, s);
    fprintf(stream, "         %s* the best policy\n",
            s->n_traces > 1 ? "medians over the traces, ± half of their spread; " : "");
    if (!s->slots_mode)
        print_measure(stream, s, &speed);
    print_measure(stream, s, &hits);
    if (!s->slots_mode)
        print_measure(stream, s, &prefill);
    for (uint32_t b = 0; b < s->n_budgets; b++)
        if (!fits(s, b))
            print_refused(stream, &s->budgets[b]);
    if (!s->slots_mode)
        print_all_details(stream, s);
}
