// Sweeps for the tests of pages; see sweep_world.h.
#include "tests/sweep_world.h"
#include "tests/xml_checks.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t gib = 1u << 30;

void sweep_world_make(struct sweep_world *w, uint32_t n_policies, uint32_t n_budgets, uint32_t n_traces,
                      bool slots)
{
    struct sim_sweep *s = &w->sweep;
    *w = (struct sweep_world){.sweep = {.slots_mode = slots,
                                        .n_rows = n_policies + 1,
                                        .n_budgets = n_budgets,
                                        .n_traces = n_traces,
                                        .version = "0.1",
                                        .n_experts = 3840,
                                        .expert_layers = 30}};
    s->rows = calloc(s->n_rows, sizeof *s->rows);
    s->budgets = calloc(n_budgets + 1, sizeof *s->budgets);
    s->traces = calloc(n_traces + 1, sizeof *s->traces);
    s->cells = calloc((size_t)s->n_rows * n_budgets * n_traces + 1, sizeof *s->cells);
    cr_assert(s->rows && s->budgets && s->traces && s->cells && n_policies <= 128);
    for (uint32_t r = 0; r < n_policies; r++) {
        snprintf(w->names[r], sizeof w->names[r], "policy-%u-", r);
        s->rows[r] = (struct sim_row){.kind = SIM_ROW_POLICY, .policy = w->names[r], .predictor = "none"};
    }
    s->rows[n_policies] = slots ? (struct sim_row){SIM_ROW_BELADY, "belady", "none"}
                                : (struct sim_row){SIM_ROW_ORACLE, "oracle", "none"};
    for (uint32_t b = 0; b < n_budgets; b++) {
        struct sim_budget *budget = &s->budgets[b];
        const uint32_t doubled = b < 20 ? 2u << b : 2u << 20;
        budget->slots = slots ? doubled : 0;
        budget->ram_bytes = slots ? 0 : doubled * gib;
        snprintf(budget->text, sizeof budget->text, slots ? "%u slots" : "%u GiB", doubled);
    }
    for (uint32_t t = 0; t < n_traces; t++)
        s->traces[t] = (struct sim_trace_facts){.path = "a.trace", .n_tokens = 100};
    strcpy(s->model, "26b-a4b");
    strcpy(s->machine, slots ? "" : "laptop");
}

void sweep_world_free(struct sweep_world *w)
{
    free(w->sweep.rows);
    free(w->sweep.budgets);
    free(w->sweep.traces);
    free(w->sweep.cells);
}

void sweep_world_set_speed(struct sweep_world *w, uint32_t row, uint32_t budget, uint32_t trace, double tok_s)
{
    struct simulation_phase *d = &sim_cell_at(&w->sweep, row, budget, trace)->result.decode;
    *d = (struct simulation_phase){.tokens = 1000,
                                   .seconds = 1000 / tok_s,
                                   .choices = 1000,
                                   .hits = (uint64_t)(10 * tok_s),
                                   .demand_bytes = (uint64_t)(1e9 / tok_s),
                                   .p50_ms = 1000 / tok_s,
                                   .p95_ms = 1100 / tok_s,
                                   .p99_ms = 1300 / tok_s,
                                   .stall_s = {200 / tok_s}};
}

double sweep_world_speed(uint32_t row, uint32_t budget)
{
    return 10 + 2.0 * row + 5 * budget;
}

void sweep_world_set_speeds(struct sweep_world *w)
{
    for (uint32_t r = 0; r < w->sweep.n_rows; r++)
        for (uint32_t b = 0; b < w->sweep.n_budgets; b++)
            for (uint32_t t = 0; t < w->sweep.n_traces; t++)
                sweep_world_set_speed(w, r, b, t, sweep_world_speed(r, b) + t);
}

void sweep_world_set_hits(struct sweep_world *w)
{
    for (uint32_t r = 0; r < w->sweep.n_rows; r++)
        for (uint32_t b = 0; b < w->sweep.n_budgets; b++)
            for (uint32_t t = 0; t < w->sweep.n_traces; t++) {
                struct sim_cell *cell = sim_cell_at(&w->sweep, r, b, t);
                cell->choices = 1000;
                cell->hits = 100 + 20 * r + 50 * b;
            }
}

char *sweep_world_page(const struct sweep_world *w)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    cr_assert_eq(sim_print_html(stream, &w->sweep), 0);
    fclose(stream);
    return text;
}

char *sweep_page_picture(const char *page, const char *id)
{
    char mark[64];
    snprintf(mark, sizeof mark, "id=\"%s\"", id);
    const char *from = strstr(page, mark);
    cr_assert(from, "no picture %s", id);
    const char *to = strstr(from, "</svg>");
    cr_assert(to);
    return strndup(from, (size_t)(to - from));
}

static void expect_well_formed(const char *text)
{
    static const char doctype[] = "<!DOCTYPE html>\n";
    cr_assert_eq(strncmp(text, doctype, strlen(doctype)), 0);
    cr_assert(!strchr(text, 0x7f));
    xml_expect_well_formed(text + strlen(doctype));
}

// Numbers that are none would stand as words of their own.
static void expect_numbers(const char *text)
{
    static const char *const words[] = {"nan", "inf", "null", "infinity"};
    for (size_t w = 0; w < sizeof words / sizeof *words; w++)
        for (const char *at = text; (at = strcasestr(at, words[w])); at++)
            cr_assert(isalpha((unsigned char)at[-1]) || isalpha((unsigned char)at[strlen(words[w])]), "%.40s",
                      at - 20);
}

void sweep_page_expect_sound(const char *text)
{
    expect_well_formed(text);
    expect_numbers(text);
    cr_expect_eq(xml_count(text, "://"), 1 + xml_count(text, "<svg"), "name spaces alone");
    cr_expect_eq(xml_count(text, "<script") + xml_count(text, "href") + xml_count(text, "src=") +
                     xml_count(text, "url(") + xml_count(text, "@import"),
                 0);
    cr_expect_eq(xml_count(text, "prefers-color-scheme:dark"), 1 + xml_count(text, "<svg"));
    cr_expect_eq(xml_count(text, "role=\"img\""), xml_count(text, "<svg"));
    cr_expect_eq(xml_count(text, "<desc"), xml_count(text, "<svg"));
}

void sweep_page_expect_even_tables(const char *text)
{
    for (const char *table = text; (table = strstr(table, "<table>"));) {
        const char *end = strstr(table, "</table>");
        uint32_t n_heads = 0, n_cells = 0, n_rows = 0;
        for (const char *at = table; at < end; at++) {
            n_heads += strncmp(at, "<th scope=\"col\"", 15) == 0;
            n_cells += strncmp(at, "<td", 3) == 0 || strncmp(at, "<th scope=\"row\"", 15) == 0;
            n_rows += strncmp(at, "<tr", 3) == 0;
        }
        cr_expect_eq(n_cells, n_heads * (n_rows - 1));
        table = end;
    }
}
