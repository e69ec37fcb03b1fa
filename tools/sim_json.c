// A sweep as one JSON object: where it comes from, every simulation, and medians over the traces.
#include "tools/json_out.h"
#include "tools/sim_fields.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value ? value : json_null());
}

static void set_text(json_t *object, const char *key, const char *text)
{
    set(object, key, text ? json_out_text(text, strlen(text)) : json_null());
}

static void set_count(json_t *object, const char *key, uint64_t count)
{
    set(object, key, json_integer((json_int_t)count));
}

static void set_real(json_t *object, const char *key, double value, bool is_known)
{
    set(object, key, is_known ? json_out_number(value) : json_null());
}

// ---- one simulation
// --------------------------------------------------------------------------------------------

static void set_row(json_t *object, const struct sim_sweep *s, uint32_t row, uint32_t budget)
{
    const struct sim_budget *b = &s->budgets[budget];
    set_text(object, "kind", sim_row_kind_name(s->rows[row].kind));
    set_text(object, "policy", s->rows[row].policy);
    set_text(object, "predict", s->rows[row].predictor);
    set_text(object, "budget", b->text);
    if (b->slots)
        set_count(object, "slots", b->slots);
    else if (b->ram_bytes)
        set_count(object, "ram_bytes", b->ram_bytes);
    else
        set_real(object, "share", b->share, true);
}

static void set_measure(json_t *object, const char *key, const struct sim_sweep *s,
                        const struct sim_cell *cell, enum sim_measure measure)
{
    bool known;
    const double value = sim_cell_value(cell, measure, s->slots_mode, &known);
    set_real(object, key, value, known);
}

static json_t *stalls_json(const double *stall_s)
{
    json_t *object = json_object();
    for (int i = 0; i < SIMULATION_STALLS; i++)
        set_real(object, sim_stall_names[i], stall_s[i], true);
    return object;
}

static void set_result(json_t *object, const struct sim_sweep *s, const struct sim_cell *cell)
{
    const struct simulation_result *r = &cell->result;
    set_measure(object, "hit_rate_bytes", s, cell, SIM_HIT_RATE_BYTES);
    set_measure(object, "tok_s", s, cell, SIM_DECODE_TOK_S);
    set_measure(object, "prefill_tok_s", s, cell, SIM_PREFILL_TOK_S);
    for (uint32_t f = 0; f < n_sim_fields; f++) {
        const struct sim_field *field = &sim_fields[f];
        if (strstr(field->name, "stall_"))
            continue; // these have an object of their own
        if (field->type == SIM_FIELD_REAL)
            set_real(object, field->name, sim_field_real(field, r), true);
        else if (field->type == SIM_FIELD_BOOL)
            set(object, field->name, json_boolean(sim_field_count(field, r)));
        else
            set_count(object, field->name, sim_field_count(field, r));
    }
    set(object, "stall_s", stalls_json(r->decode.stall_s));
    set(object, "prefill_stall_s", stalls_json(r->prefill.stall_s));
}

static json_t *cell_json(const struct sim_sweep *s, const struct sim_cell *cell)
{
    json_t *object = json_object();
    set_row(object, s, cell->row, cell->budget);
    set_text(object, "trace", s->traces[cell->trace].path);
    set(object, "fits", json_boolean(!cell->failed));
    if (cell->failed)
        return object;
    if (!s->slots_mode)
        set_count(object, "weights_bytes", s->budgets[cell->budget].weights_bytes);
    set_measure(object, "hit_rate", s, cell, SIM_HIT_RATE);
    if (s->slots_mode) {
        set_count(object, "choices", cell->choices);
        set_count(object, "hits", cell->hits);
        // 0 with misses: the trace does not know the experts' sizes.
        set(object, "demand_bytes",
            cell->missed_bytes || cell->hits == cell->choices ? json_integer((json_int_t)cell->missed_bytes)
                                                              : json_null());
    } else
        set_result(object, s, cell);
    return object;
}

// ---- medians
// -------------------------------------------------------------------------------------------------

static json_t *figure_json(const struct sim_figure *figure)
{
    if (!figure->known)
        return json_null();
    json_t *object = json_object();
    set_real(object, "median", figure->median, true);
    set_real(object, "least", figure->least, true);
    set_real(object, "most", figure->most, true);
    return object;
}

static json_t *medians_json(const struct sim_sweep *s, uint32_t row, uint32_t budget)
{
    json_t *object = json_object();
    set_row(object, s, row, budget);
    for (enum sim_measure m = 0; m < SIM_MEASURES; m++) {
        if (s->slots_mode && m != SIM_HIT_RATE)
            continue;
        const struct sim_figure figure = sim_figure_of(s, row, budget, m);
        set(object, sim_measure_name(m), figure_json(&figure));
    }
    return object;
}

// ---- where it comes from
// ---------------------------------------------------------------------------------------

static json_t *budget_json(const struct sim_sweep *s, const struct sim_budget *b)
{
    json_t *object = json_object();
    set_text(object, "budget", b->text);
    if (b->slots)
        set_count(object, "slots", b->slots);
    else if (b->ram_bytes)
        set_count(object, "ram_bytes", b->ram_bytes);
    else
        set_real(object, "share", b->share, true);
    set(object, "fits", json_boolean(!b->why[0]));
    if (b->why[0])
        set_text(object, "why", b->why);
    else if (!s->slots_mode) {
        set_count(object, "weights_bytes", b->weights_bytes); // 0: all
        set_count(object, "context", b->context);
        set_count(object, "batch", b->batch); // 0: the simulator's own
        set_count(object, "ring_bytes", b->ring_bytes);
    }
    return object;
}

static json_t *trace_json(const struct sim_trace_facts *trace)
{
    json_t *object = json_object();
    set_text(object, "trace", trace->path);
    set_text(object, "model", trace->model);
    set_count(object, "tokens", trace->n_tokens);
    set_count(object, "prefill_tokens", trace->n_prefill_tokens);
    set_count(object, "conversations", trace->n_conversations);
    set_count(object, "fit_tokens", trace->n_fit_tokens);
    return object;
}

static void set_head(json_t *object, const struct sim_sweep *s)
{
    json_t *model = json_object(), *fit = json_array();
    set_text(object, "version", s->version);
    set_text(object, "commit", s->commit[0] ? s->commit : NULL);
    set_text(object, "command", s->command_line);
    if (s->slots_mode)
        set(object, "machine", json_null());
    else {
        json_t *machine = json_object();
        set_text(machine, "name", s->machine);
        set_text(machine, "source", s->machine_source);
        set(machine, "threads", s->threads ? json_integer(s->threads) : json_null());
        set(object, "machine", machine);
    }
    set_text(model, "name", s->model);
    char hex[24];
    snprintf(hex, sizeof hex, "%016" PRIx64, s->fingerprint);
    set_text(model, "fingerprint", s->fingerprint ? hex : NULL);
    set_count(model, "expert_layers", s->expert_layers);
    set_count(model, "experts", s->n_experts);
    set_text(model, "kv", s->kv);
    set(object, "model", model);
    for (uint32_t i = 0; i < s->n_fit; i++)
        json_array_append_new(fit, json_out_text(s->fit[i], strlen(s->fit[i])));
    set(object, "fit", fit);
    set_count(object, "fit_tokens", s->fit_tokens);
    if (s->slots_mode) {
        set_count(object, "first", s->first_token);
        set_count(object, "tokens", s->tokens); // 0: all
    }
    set_real(object, "elapsed_s", s->elapsed_s, true);
}

int sim_print_json(FILE *stream, const struct sim_sweep *s)
{
    json_t *object = json_object(), *traces = json_array(), *budgets = json_array(), *results = json_array(),
           *medians = json_array();
    set_head(object, s);
    for (uint32_t t = 0; t < s->n_traces; t++)
        json_array_append_new(traces, trace_json(&s->traces[t]));
    for (uint32_t b = 0; b < s->n_budgets; b++)
        json_array_append_new(budgets, budget_json(s, &s->budgets[b]));
    const size_t n = (size_t)s->n_rows * s->n_budgets * s->n_traces;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(results, cell_json(s, &s->cells[i]));
    for (uint32_t r = 0; r < s->n_rows; r++)
        for (uint32_t b = 0; b < s->n_budgets; b++)
            json_array_append_new(medians, medians_json(s, r, b));
    set(object, "traces", traces);
    set(object, "budgets", budgets);
    set(object, "results", results);
    set(object, "medians", medians);
    return json_out_print(stream, object);
}
