// What sweeps look like that are filled by hand: the table, CSV, the object, and the figures in them.
#include "tools/sim.h"
#include "tools/sim_fields.h"
#include "tools/sim_sheet.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Decode: 100 tokens in 10 + row + trace seconds; hits grow with the budget and the row.
static void fill_cell(struct sim_cell *cell, const struct sim_sweep *sweep)
{
    struct simulation_phase *d = &cell->result.decode, *p = &cell->result.prefill;
    if (sweep->slots_mode) {
        cell->choices = 10000;
        cell->hits = 5000 + 1000 * cell->budget + 10 * cell->row + cell->trace;
        cell->missed_bytes = (cell->choices - cell->hits) * 1000;
        return;
    }
    *p = (struct simulation_phase){.passes = 2, .tokens = 64, .seconds = 2, .stall_s = {0.5, 0, 0.25, 0}};
    *d = (struct simulation_phase){
        .passes = 100,
        .tokens = 100,
        .seconds = 10 + cell->row + cell->trace,
        .stall_s = {1, 2, 0.5, 0.25},
        .choices = 10000,
        .hits = 5000 + 1000 * cell->budget,
        .choice_bytes = 40000000,
        .hit_bytes = 20000000,
        .dense_bytes = 30000000,
        .streamed_bytes = 5000000,
        .row_bytes = 5000000,
        .demand_bytes = 12345678900,
        .p50_ms = 99.5,
        .p95_ms = 250,
        .p99_ms = 1234.5,
    };
    if (strcmp(sweep->rows[cell->row].predictor, "none") != 0) {
        d->prefetch_bytes = 1000000;
        d->useful_bytes = 500000;
        d->late_bytes = 200000;
        d->wasted_bytes = 300000;
    }
    if (sweep->rows[cell->row].kind == SIM_ROW_ORACLE)
        d->p50_ms = d->p95_ms = d->p99_ms = 0;
}

static const char *const paths[] = {"chat.trace", "a \"quoted\", name.trace", "line\nbreak.trace"};

// Rows: n policies, every other with a predictor, and a bound.
static void make(struct sim_sweep *out, bool slots_mode, uint32_t n_policies, uint32_t n_budgets,
                 uint32_t n_traces)
{
    static const char *const policies[] = {"lru", "lfu", "least-stale", "window-lfu"};
    *out = (struct sim_sweep){.slots_mode = slots_mode,
                              .n_rows = n_policies + 1,
                              .n_budgets = n_budgets,
                              .n_traces = n_traces,
                              .n_experts = 128,
                              .expert_layers = 30,
                              .elapsed_s = 1.5,
                              .command_line = "lode sim x",
                              .fingerprint = 0xabc,
                              .version = "0.1.0",
                              .commit = "51f4970"};
    strcpy(out->model, "gemma-4-26B-A4B");
    if (!slots_mode) {
        strcpy(out->machine, "a desktop of a very long name that nobody would want to see twice in a table");
        strcpy(out->machine_source, "a sample, from data sheets");
        out->kv = "f16";
    }
    out->rows = calloc(out->n_rows, sizeof *out->rows);
    out->budgets = calloc(n_budgets, sizeof *out->budgets);
    out->traces = calloc(n_traces, sizeof *out->traces);
    out->cells = calloc((size_t)out->n_rows * n_budgets * n_traces, sizeof *out->cells);
    cr_assert(out->rows && out->budgets && out->traces && out->cells);
    for (uint32_t r = 0; r < out->n_rows; r++)
        out->rows[r] = (struct sim_row){SIM_ROW_POLICY, policies[r % 4], r % 2 ? "next-gate-dense" : "none"};
    out->rows[n_policies] = slots_mode ? (struct sim_row){SIM_ROW_BELADY, "belady", "none"}
                                       : (struct sim_row){SIM_ROW_ORACLE, "oracle", "none"};
    for (uint32_t b = 0; b < n_budgets; b++) {
        struct sim_budget *budget = &out->budgets[b];
        budget->slots = slots_mode ? 8 << b : 0;
        budget->ram_bytes = slots_mode ? 0 : (uint64_t)(b + 1) << 30;
        budget->weights_bytes = slots_mode ? 0 : (uint64_t)(b + 1) << 29;
        snprintf(budget->text, sizeof budget->text, slots_mode ? "%u slots" : "%u GiB",
                 slots_mode ? 8u << b : b + 1);
    }
    for (uint32_t t = 0; t < n_traces; t++)
        out->traces[t] = (struct sim_trace_facts){.path = paths[t % 3],
                                                  .model = "m",
                                                  .n_tokens = 164,
                                                  .n_prefill_tokens = 64,
                                                  .n_conversations = 2};
    for (uint32_t r = 0; r < out->n_rows; r++)
        for (uint32_t b = 0; b < n_budgets; b++)
            for (uint32_t t = 0; t < n_traces; t++) {
                struct sim_cell *cell = sim_cell_at(out, r, b, t);
                *cell = (struct sim_cell){.row = r, .budget = b, .trace = t};
                fill_cell(cell, out);
            }
}

static void release(struct sim_sweep *sweep)
{
    free(sweep->rows);
    free(sweep->budgets);
    free(sweep->traces);
    free(sweep->cells);
}

static void refuse_budget(struct sim_sweep *sweep, uint32_t budget, const char *why)
{
    snprintf(sweep->budgets[budget].why, sizeof sweep->budgets[budget].why, "%s", why);
    for (uint32_t r = 0; r < sweep->n_rows; r++)
        for (uint32_t t = 0; t < sweep->n_traces; t++) {
            struct sim_cell *cell = sim_cell_at(sweep, r, budget, t);
            *cell = (struct sim_cell){.row = r, .budget = budget, .trace = t, .failed = true};
        }
}

static char *printed(const struct sim_sweep *sweep, int (*print)(FILE *, const struct sim_sweep *))
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    if (print)
        cr_assert_eq(print(stream, sweep), 0);
    else
        sim_print_table(stream, sweep);
    fclose(stream);
    return text;
}

static json_t *object(const struct sim_sweep *sweep)
{
    char *text = printed(sweep, sim_print_json);
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);
    cr_assert(value, "%s in %s", error.text, text);
    free(text);
    return value;
}

static void expect_in(const char *text, const char *part)
{
    cr_expect(strstr(text, part), "no \"%s\" in\n%s", part, text);
}

static uint32_t columns(const char *line, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)line[i] & 0xc0) != 0x80;
    return n;
}

// ---- figures

Test(sim_report, shares_are_of_what_they_say)
{
    struct sim_sweep s;
    make(&s, false, 2, 1, 1);
    bool known;
    const struct sim_cell *plain = sim_cell_at(&s, 0, 0, 0), *ahead = sim_cell_at(&s, 1, 0, 0);
    cr_expect_float_eq(sim_cell_value(plain, SIM_HIT_RATE, false, &known), 0.5, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_DECODE_TOK_S, false, &known), 10, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_PREFILL_TOK_S, false, &known), 32, 1e-12);
    // 30 MB dense and 20 MB of experts were there, of 30 + 40 + 5 + 5 that were used.
    cr_expect_float_eq(sim_cell_value(plain, SIM_HIT_RATE_BYTES, false, &known), 0.625, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_STALL_SHARE, false, &known), 0.375, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_STALL_LATE_SHARE, false, &known), 0.2, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_STALL_ROWS_SHARE, false, &known), 0.025, 1e-12);
    cr_expect_float_eq(sim_cell_value(plain, SIM_DEMAND_BYTES, false, &known), 123456789, 1e-3);
    cr_expect(known);
    sim_cell_value(plain, SIM_WASTED_SHARE, false, &known);
    cr_expect_not(known, "nothing was prefetched");
    cr_expect_float_eq(sim_cell_value(ahead, SIM_WASTED_SHARE, false, &known), 0.3, 1e-12);
    cr_expect_float_eq(sim_cell_value(ahead, SIM_LATE_SHARE, false, &known), 0.2, 1e-12);
    cr_expect(known);
    sim_cell_value(sim_cell_at(&s, 2, 0, 0), SIM_P99_MS, false, &known);
    cr_expect_not(known, "a bound has no passes that take a time");
    release(&s);
}

Test(sim_report, medians_leave_out_what_is_not_known)
{
    struct sim_sweep s;
    make(&s, false, 2, 1, 3);
    struct sim_figure f = sim_figure_of(&s, 0, 0, SIM_DECODE_TOK_S); // 100 tokens in 10, 11, 12 s
    cr_expect(f.known);
    cr_expect_float_eq(f.median, 100.0 / 11, 1e-12);
    cr_expect_float_eq(f.least, 100.0 / 12, 1e-12);
    cr_expect_float_eq(f.most, 10, 1e-12);
    sim_cell_at(&s, 0, 0, 1)->failed = true; // of two the middle between them
    f = sim_figure_of(&s, 0, 0, SIM_DECODE_TOK_S);
    cr_expect_float_eq(f.median, (10 + 100.0 / 12) / 2, 1e-12);
    refuse_budget(&s, 0, "too small");
    cr_expect_not(sim_figure_of(&s, 0, 0, SIM_DECODE_TOK_S).known);
    cr_expect_eq(sim_best_row(&s, 0, SIM_DECODE_TOK_S), UINT32_MAX);
    release(&s);
}

Test(sim_report, bounds_are_never_the_best_policy)
{
    struct sim_sweep s;
    make(&s, true, 3, 2, 1);
    cr_expect_eq(sim_best_row(&s, 1, SIM_HIT_RATE), 2); // the bound behind it has more
    release(&s);
}

Test(sim_report, median_of_many_traces)
{
    struct sim_sweep s;
    make(&s, true, 1, 1, 101); // more than stay on the stack
    const struct sim_figure f = sim_figure_of(&s, 0, 0, SIM_HIT_RATE);
    cr_expect_float_eq(f.median, 0.505, 1e-12);
    cr_expect_float_eq(f.least, 0.5, 1e-12);
    cr_expect_float_eq(f.most, 0.51, 1e-12);
    release(&s);
}

// ---- the table

Test(sim_report, table_fits_a_terminal)
{
    for (int slots = 0; slots < 2; slots++)
        for (uint32_t n_traces = 1; n_traces < 4; n_traces += 2) {
            struct sim_sweep s;
            make(&s, slots, 9, 12, n_traces);
            refuse_budget(
                &s, 0,
                "the ceiling of 1.00 GiB is below what the model needs at least: 2.31 GiB, of which "
                "1.20 GiB are weights that every token uses, 0.40 GiB scratch and 0.31 GiB the KV cache; "
                "lower the context with -c, or the step with -b");
            char *text = printed(&s, NULL);
            for (const char *at = text; *at; at += strcspn(at, "\n") + 1)
                cr_expect_leq(columns(at, strcspn(at, "\n")), SIM_SHEET_WIDTH, "%.*s", (int)strcspn(at, "\n"),
                              at);
            free(text);
            release(&s);
        }
}

Test(sim_report, table_has_speeds_hits_and_what_is_behind)
{
    struct sim_sweep s;
    make(&s, false, 2, 2, 1);
    char *text = printed(&s, NULL);
    expect_in(text, "model    gemma-4-26B-A4B, 30 layers of 128 experts\n");
    expect_in(text, "trace    chat.trace, 164 tokens in 2 conversations, 64 of prompts\n");
    expect_in(text, "learned  nothing");
    expect_in(text, "\ndecode, tokens a second\n"
                    "| policy                | 1 GiB  | 2 GiB  |\n"
                    "|-----------------------|-------:|-------:|\n"
                    "| lru                   |  10.0* |  10.0* |\n"
                    "| lfu + next-gate-dense |  9.09  |  9.09  |\n"
                    "| oracle                |  8.33  |  8.33  |\n");
    expect_in(text, "\nprefill, tokens a second\n");
    expect_in(text, "| lru                   |  50.0* |  60.0* |\n");
    expect_in(text, "| lfu + next-gate-dense |  50.0* |  60.0* |\n"); // as good
    expect_in(text, " 1234 |");                                       // p99
    expect_in(text, "| p99 ms |");
    expect_in(text, "123.5"); // MB a token
    cr_expect_not(strstr(text, "±"), "one trace has no spread");
    free(text);
    release(&s);
}

Test(sim_report, table_shows_the_spread_over_traces)
{
    struct sim_sweep s;
    make(&s, false, 1, 1, 3);
    char *text = printed(&s, NULL);
    expect_in(text, "9.09 ±0.83*"); // (10 - 8.33) / 2
    expect_in(text, "medians over the traces");
    expect_in(text, "traces   3, 492 tokens in 6 conversations");
    free(text);
    release(&s);
}

Test(sim_report, budget_that_does_not_fit_is_told)
{
    struct sim_sweep s;
    make(&s, false, 1, 2, 1);
    refuse_budget(&s, 0, "at least 1.53 GiB are needed");
    char *text = printed(&s, NULL);
    expect_in(text, "\n1 GiB does not fit: at least 1.53 GiB are needed\n");
    expect_in(text, "|      - |");
    expect_in(text, "\n2 GiB: read for a decoded token");
    cr_expect_not(strstr(text, "\n1 GiB: read for a decoded token"), "no details of it");
    free(text);
    release(&s);
}

Test(sim_report, slots_have_hits_alone)
{
    struct sim_sweep s;
    make(&s, true, 2, 3, 1);
    char *text = printed(&s, NULL);
    expect_in(text, "8 slots");
    expect_in(text, "belady");
    cr_expect_not(strstr(text, "tokens a second"));
    cr_expect_not(strstr(text, "machine"));
    free(text);
    release(&s);
}

Test(sim_report, columns_that_do_not_fit_follow_below)
{
    struct sim_sheet sheet;
    cr_assert(sim_sheet_make(&sheet, "who", 1, 20));
    strcpy(sheet.labels[0], "±me");
    for (uint32_t c = 0; c < 20; c++) {
        snprintf(sheet.heads[c], SIM_SHEET_CELL, "column %u", c);
        snprintf(sim_sheet_cell(&sheet, 0, c), SIM_SHEET_CELL, "%u", 1000 + c);
    }
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    sim_sheet_print(stream, &sheet);
    fclose(stream);
    for (uint32_t c = 0; c < 20; c++) {
        char number[16];
        snprintf(number, sizeof number, " %u |", 1000 + c);
        expect_in(text, number);
    }
    const uint32_t width = columns(text, strcspn(text, "\n"));
    for (const char *at = text; *at; at += strcspn(at, "\n") + 1)
        cr_expect_leq(columns(at, strcspn(at, "\n")), width);
    cr_expect_leq(width, SIM_SHEET_WIDTH);
    sim_sheet_free(&sheet);
    free(text);
}

// ---- CSV

// Splits a line in place as RFC 4180 says; returns the number of fields.
static uint32_t split(char **fields, uint32_t most, char **at)
{
    uint32_t n = 0;
    char *in = *at, *out = in;
    bool quoted = false;
    fields[n++] = out;
    for (; *in && (quoted || *in != '\n'); in++) {
        if (*in == '"' && quoted && in[1] == '"')
            *out++ = *in++;
        else if (*in == '"')
            quoted = !quoted;
        else if (*in == ',' && !quoted) {
            *out++ = '\0';
            cr_assert_lt(n, most);
            fields[n++] = out;
        } else
            *out++ = *in;
    }
    *at = *in ? in + 1 : in;
    *out = '\0';
    return n;
}

enum { FIELDS = 128 };

static const char *field(char **heads, char **fields, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(heads[i], name) == 0)
            return fields[i];
    cr_assert_fail("no column %s", name);
    return NULL;
}

Test(sim_report, csv_has_every_cell_and_any_name)
{
    struct sim_sweep s;
    make(&s, false, 2, 2, 3);
    refuse_budget(&s, 0, "too small");
    char *text = printed(&s, sim_print_csv), *at = text, *heads[FIELDS], *fields[FIELDS];
    const uint32_t n = split(heads, FIELDS, &at);
    uint32_t lines = 0;
    for (; *at; lines++) {
        const struct sim_cell *cell = &s.cells[lines];
        cr_assert_eq(split(fields, FIELDS, &at), n, "line %u", lines);
        cr_expect_str_eq(field(heads, fields, n, "trace"), s.traces[cell->trace].path);
        cr_expect_str_eq(field(heads, fields, n, "policy"), s.rows[cell->row].policy);
        cr_expect_str_eq(field(heads, fields, n, "predict"), s.rows[cell->row].predictor);
        cr_expect_str_eq(field(heads, fields, n, "kind"), cell->row == 2 ? "oracle" : "policy");
        cr_expect_str_eq(field(heads, fields, n, "slots"), "");
        cr_expect_str_eq(field(heads, fields, n, "fits"), cell->failed ? "0" : "1");
        cr_expect_str_eq(field(heads, fields, n, "demand_bytes"), cell->failed ? "" : "12345678900");
        cr_expect_str_eq(field(heads, fields, n, "stall_late_s"), cell->failed ? "" : "2");
        cr_expect_str_eq(field(heads, fields, n, "prefill_stall_demand_s"), cell->failed ? "" : "0.5");
        if (!cell->failed)
            cr_expect_float_eq(atof(field(heads, fields, n, "tok_s")), 100 / cell->result.decode.seconds,
                               1e-6);
    }
    cr_expect_eq(lines, s.n_rows * s.n_budgets * s.n_traces);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            cr_expect_str_neq(heads[i], heads[j], "a column twice");
    free(text);
    release(&s);
}

Test(sim_report, csv_of_slots)
{
    struct sim_sweep s;
    make(&s, true, 1, 2, 1);
    char *text = printed(&s, sim_print_csv);
    expect_in(text, "kind,policy,predict,trace,budget,slots,ram_bytes,share,weights_bytes,fits,choices,hits,"
                    "missed_bytes,hit_rate\n");
    expect_in(text, "policy,lru,none,chat.trace,8 slots,8,,,,1,10000,5000,5000000,0.5\n");
    expect_in(text, "belady,belady,none,chat.trace,16 slots,16,,,,1,10000,6010,3990000,0.601\n");
    free(text);
    release(&s);
}

// ---- JSON

Test(sim_report, object_has_results_and_where_they_come_from)
{
    struct sim_sweep s;
    make(&s, false, 2, 2, 2);
    refuse_budget(&s, 0, "too small");
    json_t *value = object(&s);
    cr_expect_str_eq(json_string_value(json_object_get(value, "version")), "0.1.0");
    cr_expect_str_eq(json_string_value(json_object_get(value, "commit")), "51f4970");
    cr_expect_str_eq(json_string_value(json_object_get(value, "command")), "lode sim x");
    const json_t *machine = json_object_get(value, "machine"), *model = json_object_get(value, "model");
    cr_expect_str_eq(json_string_value(json_object_get(machine, "source")), s.machine_source);
    cr_expect_str_eq(json_string_value(json_object_get(model, "fingerprint")), "0000000000000abc");
    const json_t *results = json_object_get(value, "results"), *budgets = json_object_get(value, "budgets");
    cr_assert_eq(json_array_size(results), 12);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(budgets, 0), "why")), "too small");
    for (size_t i = 0; i < 12; i++) {
        const json_t *one = json_array_get(results, i);
        const struct sim_cell *cell = &s.cells[i];
        cr_expect_str_eq(json_string_value(json_object_get(one, "trace")), paths[cell->trace]);
        cr_expect_eq(json_integer_value(json_object_get(one, "ram_bytes")),
                     (json_int_t)s.budgets[cell->budget].ram_bytes);
        cr_expect_eq(json_is_true(json_object_get(one, "fits")), !cell->failed);
        cr_expect_eq(json_object_get(one, "tok_s") != NULL, !cell->failed);
        if (cell->failed)
            continue;
        cr_expect_eq(json_integer_value(json_object_get(one, "demand_bytes")), 12345678900);
        cr_expect_float_eq(json_real_value(json_object_get(one, "tok_s")), 100 / cell->result.decode.seconds,
                           1e-6);
        const json_t *stalls = json_object_get(one, "stall_s");
        cr_expect_float_eq(json_real_value(json_object_get(stalls, "stream")), 0.5, 1e-9);
    }
    const json_t *medians = json_object_get(value, "medians");
    cr_assert_eq(json_array_size(medians), 6);
    const json_t *speed = json_object_get(json_array_get(medians, 1), "decode_tok_s");
    cr_expect_float_eq(json_real_value(json_object_get(speed, "most")), 10, 1e-6);
    cr_expect(json_is_null(json_object_get(json_array_get(medians, 0), "decode_tok_s")));
    cr_expect(json_is_null(json_object_get(json_array_get(medians, 1), "wasted_share")));
    json_decref(value);
    release(&s);
}

Test(sim_report, object_of_slots)
{
    struct sim_sweep s;
    make(&s, true, 1, 2, 1);
    json_t *value = object(&s);
    const json_t *one = json_array_get(json_object_get(value, "results"), 3);
    cr_expect(json_is_null(json_object_get(value, "machine")));
    cr_expect_str_eq(json_string_value(json_object_get(one, "kind")), "belady");
    cr_expect_eq(json_integer_value(json_object_get(one, "slots")), 16);
    cr_expect_float_eq(json_real_value(json_object_get(one, "hit_rate")), 0.601, 1e-9);
    cr_expect_eq(json_integer_value(json_object_get(one, "demand_bytes")), 3990000);
    cr_expect_null(json_object_get(one, "tok_s"));
    json_decref(value);
    release(&s);
}

Test(sim_report, output_that_is_full_is_an_error)
{
    struct sim_sweep s;
    make(&s, false, 2, 2, 2);
    FILE *full = fopen("/dev/full", "w");
    if (!full)
        cr_skip_test("no /dev/full");
    setvbuf(full, NULL, _IONBF, 0);
    cr_expect_eq(sim_print_csv(full, &s), -1);
    cr_expect_eq(sim_print_json(full, &s), -1);
    fclose(full);
    release(&s);
}

Test(sim_report, fields_lie_where_they_say)
{
    struct simulation_result result = {.prefill = {.late_bytes = 7}, .decode = {.p99_ms = 1.5}};
    result.prefetch_on = true;
    result.pool_slots = 9;
    uint32_t found = 0;
    for (uint32_t i = 0; i < n_sim_fields; i++) {
        const struct sim_field *f = &sim_fields[i];
        if (strcmp(f->name, "prefill_late_bytes") == 0)
            found += sim_field_count(f, &result) == 7;
        else if (strcmp(f->name, "p99_ms") == 0)
            found += sim_field_real(f, &result) == 1.5;
        else if (strcmp(f->name, "prefetch_on") == 0)
            found += sim_field_count(f, &result) == 1;
        else if (strcmp(f->name, "pool_slots") == 0)
            found += sim_field_count(f, &result) == 9;
    }
    cr_expect_eq(found, 4);
}
