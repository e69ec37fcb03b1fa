// A sweep as CSV: a line for each policy, budget and trace, with all its figures.
//
// Fields are as RFC 4180 has them, lines end with a newline alone. What is not known is empty.
#include "tools/sim_fields.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

// In the order of the columns; those of decode have no prefix.
static const enum sim_measure measures[] = {SIM_HIT_RATE, SIM_HIT_RATE_BYTES, SIM_DECODE_TOK_S,
                                            SIM_PREFILL_TOK_S};
static const char *const measure_columns[] = {"hit_rate", "hit_rate_bytes", "tok_s", "prefill_tok_s"};
enum { N_MEASURES = sizeof measures / sizeof *measures };

static void put_text(FILE *stream, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, stream);
        return;
    }
    fputc('"', stream);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', stream);
        fputc(*text, stream);
    }
    fputc('"', stream);
}

static void put_head(FILE *stream, const struct sim_sweep *s)
{
    fputs("kind,policy,predict,trace,budget,slots,ram_bytes,share,weights_bytes,fits", stream);
    if (s->slots_mode) {
        fputs(",choices,hits,missed_bytes,hit_rate\n", stream);
        return;
    }
    for (int m = 0; m < N_MEASURES; m++)
        fprintf(stream, ",%s", measure_columns[m]);
    for (uint32_t f = 0; f < n_sim_fields; f++)
        fprintf(stream, ",%s", sim_fields[f].name);
    fputc('\n', stream);
}

static void put_count(FILE *stream, uint64_t count, bool is_known)
{
    fputc(',', stream);
    if (is_known)
        fprintf(stream, "%" PRIu64, count);
}

static void put_real(FILE *stream, double value, bool is_known)
{
    fputc(',', stream);
    if (is_known && isfinite(value))
        fprintf(stream, "%.10g", value);
}

static void put_measure(FILE *stream, const struct sim_sweep *s, const struct sim_cell *cell,
                        enum sim_measure measure)
{
    bool known;
    const double value = sim_cell_value(cell, measure, s->slots_mode, &known);
    put_real(stream, value, known);
}

static void put_result(FILE *stream, const struct sim_sweep *s, const struct sim_cell *cell)
{
    for (int m = 0; m < N_MEASURES; m++)
        put_measure(stream, s, cell, measures[m]);
    for (uint32_t f = 0; f < n_sim_fields; f++)
        if (sim_fields[f].type == SIM_FIELD_REAL)
            put_real(stream, sim_field_real(&sim_fields[f], &cell->result), !cell->failed);
        else
            put_count(stream, sim_field_count(&sim_fields[f], &cell->result), !cell->failed);
}

static void put_cell(FILE *stream, const struct sim_sweep *s, const struct sim_cell *cell)
{
    const struct sim_row *row = &s->rows[cell->row];
    const struct sim_budget *budget = &s->budgets[cell->budget];
    fprintf(stream, "%s,", sim_row_kind_name(row->kind));
    put_text(stream, row->policy);
    fputc(',', stream);
    put_text(stream, row->predictor);
    fputc(',', stream);
    put_text(stream, s->traces[cell->trace].path);
    fputc(',', stream);
    put_text(stream, budget->text);
    put_count(stream, budget->slots, budget->slots > 0);
    put_count(stream, budget->ram_bytes, budget->ram_bytes > 0);
    put_real(stream, budget->share, !budget->slots && !budget->ram_bytes);
    put_count(stream, budget->weights_bytes, budget->weights_bytes > 0);
    fprintf(stream, ",%d", !cell->failed);
    if (s->slots_mode) {
        put_count(stream, cell->choices, !cell->failed);
        put_count(stream, cell->hits, !cell->failed);
        put_count(stream, cell->missed_bytes, cell->missed_bytes || cell->hits == cell->choices);
        put_measure(stream, s, cell, SIM_HIT_RATE);
    } else
        put_result(stream, s, cell);
    fputc('\n', stream);
}

int sim_print_csv(FILE *stream, const struct sim_sweep *sweep)
{
    put_head(stream, sweep);
    const size_t n = (size_t)sweep->n_rows * sweep->n_budgets * sweep->n_traces;
    for (size_t i = 0; i < n; i++)
        put_cell(stream, sweep, &sweep->cells[i]);
    return ferror(stream) ? -1 : 0;
}
