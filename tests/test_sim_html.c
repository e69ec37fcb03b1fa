// The page about a sweep: well-formed, alone, complete, drawn where the figures say, and the same whatever
// names and numbers it is given.
#include "tests/xml_checks.h"
#include "tools/plot.h"
#include "tools/sim_page.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- sweeps
// --------------------------------------------------------------------------------------------------

struct world {
    struct sim_sweep sweep;
    char names[128][32];
};

static const uint64_t gib = 1u << 30;

// Rows r, budgets of 2, 4, 8 … GiB or slots, and a bound as the last row.
static void make_world(struct world *w, uint32_t n_policies, uint32_t n_budgets, uint32_t n_traces,
                       bool slots)
{
    struct sim_sweep *s = &w->sweep;
    *w = (struct world){.sweep = {.slots_mode = slots,
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

static void free_world(struct world *w)
{
    free(w->sweep.rows);
    free(w->sweep.budgets);
    free(w->sweep.traces);
    free(w->sweep.cells);
}

static void set_speed(struct world *w, uint32_t row, uint32_t budget, uint32_t trace, double tok_s)
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

// The speed of row r at budget b: the later row is the faster; the bound is above all of them.
static double speed(uint32_t row, uint32_t budget)
{
    return 10 + 2.0 * row + 5 * budget;
}

static void set_speeds(struct world *w)
{
    for (uint32_t r = 0; r < w->sweep.n_rows; r++)
        for (uint32_t b = 0; b < w->sweep.n_budgets; b++)
            for (uint32_t t = 0; t < w->sweep.n_traces; t++)
                set_speed(w, r, b, t, speed(r, b) + t);
}

static void set_hits(struct world *w)
{
    for (uint32_t r = 0; r < w->sweep.n_rows; r++)
        for (uint32_t b = 0; b < w->sweep.n_budgets; b++)
            for (uint32_t t = 0; t < w->sweep.n_traces; t++) {
                struct sim_cell *cell = sim_cell_at(&w->sweep, r, b, t);
                cell->choices = 1000;
                cell->hits = 100 + 20 * r + 50 * b;
            }
}

static char *page_of(const struct world *w)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    cr_assert_eq(sim_print_html(stream, &w->sweep), 0);
    fclose(stream);
    return text;
}

// The picture of this name, allocated.
static char *picture(const char *page, const char *id)
{
    char mark[64];
    snprintf(mark, sizeof mark, "id=\"%s\"", id);
    const char *from = strstr(page, mark);
    cr_assert(from, "no picture %s", id);
    const char *to = strstr(from, "</svg>");
    cr_assert(to);
    return strndup(from, (size_t)(to - from));
}

// ---- well-formed
// ---------------------------------------------------------------------------------------------

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

static void expect_sound(const char *text)
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

// Tables have as many cells in each row as heads.
static void expect_even_tables(const char *text)
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

// ---- lines
// ---------------------------------------------------------------------------------------------------

struct path {
    uint32_t n;
    double x[64], y[64];
    bool dashed;
    uint32_t colour;
};

// The line of a row.
static struct path path_of(const char *svg, uint32_t row)
{
    struct path path = {0};
    char mark[32];
    snprintf(mark, sizeof mark, "data-row=\"%u\">", row);
    const char *at = strstr(svg, mark);
    cr_assert(at, "row %u", row);
    path.colour = (uint32_t)atoi(at - 3);
    const char *end = strstr(at, "/>");
    at = strstr(at, " d=\"");
    path.dashed = memmem(strstr(svg, mark), (size_t)(end - strstr(svg, mark)), "dasharray", 9) != NULL;
    for (at += 4; *at != '"'; path.n++) {
        char *next;
        cr_assert(path.n < 64 && (*at == 'M' || *at == 'L'));
        path.x[path.n] = strtod(at + 1, &next);
        path.y[path.n] = strtod(next + 1, &next);
        at = next;
    }
    return path;
}

Test(sim_html, draws_lines_where_the_figures_are)
{
    struct world w;
    make_world(&w, 5, 4, 1, false);
    set_speeds(&w);
    char *page = page_of(&w), *svg = picture(page, "speed");
    expect_sound(page);
    expect_even_tables(page);
    cr_expect_eq(xml_count(svg, "data-row="), 6);
    const struct path first = path_of(svg, 0);
    const double scale = (first.y[0] - first.y[3]) / (speed(0, 3) - speed(0, 0));
    cr_assert_gt(scale, 1);
    for (uint32_t r = 0; r < 6; r++) {
        const struct path path = path_of(svg, r);
        cr_assert_eq(path.n, 4);
        cr_expect_eq(path.dashed, r == 5);
        for (uint32_t b = 0; b < 4; b++) {
            cr_expect_float_eq(first.y[0] - path.y[b], scale * (speed(r, b) - speed(0, 0)), 0.3);
            // Budgets that double are as far from each other.
            cr_expect_float_eq(path.x[b] - path.x[0], b * (path.x[1] - path.x[0]), 0.3);
            cr_expect(b == 0 || path.x[b] > path.x[b - 1] + 20);
        }
    }
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, sorts_budgets_and_leaves_gaps)
{
    struct world w;
    make_world(&w, 2, 4, 1, false);
    set_speeds(&w);
    for (uint32_t i = 0; i < 2; i++) { // the command's order is from large to small
        const struct sim_budget swapped = w.sweep.budgets[i];
        w.sweep.budgets[i] = w.sweep.budgets[3 - i];
        w.sweep.budgets[3 - i] = swapped;
    }
    sim_cell_at(&w.sweep, 0, 2, 0)->failed = true;
    char *page = page_of(&w), *svg = picture(page, "speed");
    const struct path broken = path_of(svg, 0), whole = path_of(svg, 1);
    cr_expect_eq(whole.n, 4);
    cr_expect_eq(broken.n, 3);
    for (uint32_t i = 1; i < 4; i++) {
        cr_expect_gt(whole.x[i], whole.x[i - 1]);
        cr_expect_gt(whole.y[i], whole.y[i - 1]); // slower, as the figures lie in the command's order
    }
    const char *line = strstr(strstr(svg, "data-row=\"0\">"), " d=\"");
    const char *end = strchr(line + 4, '"');
    uint32_t n_moves = 0;
    for (const char *at = line; at < end; at++)
        n_moves += *at == 'M';
    cr_expect_eq(n_moves, 2, "a gap in the line");
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, colours_the_first_row_and_the_best)
{
    struct world w;
    make_world(&w, 9, 3, 1, false);
    set_speeds(&w);
    char *page = page_of(&w), *svg = picture(page, "speed");
    bool seen[SIM_PAGE_COLOURS] = {false};
    for (uint32_t r = 0; r < 10; r++) {
        const uint32_t colour = path_of(svg, r).colour;
        if (r == 9)
            cr_expect_eq(colour, SIM_PAGE_BOUND);
        else if (r >= 1 && r <= 3) // the slowest but for the first
            cr_expect_eq(colour, SIM_PAGE_GREY, "row %u", r);
        else {
            cr_assert_lt(colour, SIM_PAGE_COLOURS, "row %u", r);
            cr_expect_not(seen[colour]);
            seen[colour] = true;
        }
    }
    free(svg);
    free(page);
    free_world(&w);
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

// Of the rows' names in a picture, how far the nearest two are from each other.
static uint32_t labels_of(const char *svg, double *out_nearest, double *out_last)
{
    double y[256];
    uint32_t n = 0;
    for (const char *at = svg; (at = strstr(at, " name\"")); at++) {
        const char *number = strstr(at, " y=\"");
        cr_assert(number && n < 256);
        y[n++] = atof(number + 4);
    }
    qsort(y, n, sizeof *y, ascending);
    *out_nearest = INFINITY;
    for (uint32_t i = 1; i < n; i++)
        *out_nearest = fmin(*out_nearest, y[i] - y[i - 1]);
    *out_last = n ? y[n - 1] : 0;
    return n;
}

Test(sim_html, labels_do_not_overlap)
{
    static const uint32_t n_policies[] = {1, 3, 12, 15, 40};
    for (size_t i = 0; i < sizeof n_policies / sizeof *n_policies; i++)
        for (int alike = 0; alike <= 1; alike++) {
            struct world w;
            make_world(&w, n_policies[i], 3, 1, false);
            set_speeds(&w);
            for (uint32_t r = 0; alike && r < w.sweep.n_rows; r++)
                set_speed(&w, r, 2, 0, 40); // all lines end in one point
            char *page = page_of(&w), *svg = picture(page, "speed");
            double nearest, last;
            const uint32_t n = labels_of(svg, &nearest, &last);
            const uint32_t n_rows = w.sweep.n_rows;
            cr_expect_eq(n, n_rows < SIM_PAGE_LABELS ? n_rows : SIM_PAGE_LABELS);
            cr_expect_geq(nearest, 15, "%u rows: %g", n_rows, nearest);
            cr_expect_lt(last, 452);
            for (uint32_t r = 0; n_rows <= SIM_PAGE_LABELS && r + 1 < n_rows; r++)
                cr_expect(strstr(svg, w.sweep.rows[r].policy));
            cr_expect_eq(strstr(svg, "without a label") != NULL, n_rows > SIM_PAGE_LABELS);
            free(svg);
            free(page);
            free_world(&w);
        }
}

Test(sim_html, differences_are_of_the_same_trace)
{
    struct world w;
    make_world(&w, 2, 2, 3, false);
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t b = 0; b < 2; b++) { // traces differ by much, rows by 10 to 30%
            set_speed(&w, 0, b, t, 10 * (t + 1));
            set_speed(&w, 1, b, t, 10 * (t + 1) * (1.1 + 0.1 * t));
            set_speed(&w, 2, b, t, 100);
        }
    sim_cell_at(&w.sweep, 0, 1, 2)->failed = true;
    char *page = page_of(&w), *svg = picture(page, "against");
    expect_sound(page);
    cr_expect_eq(xml_count(svg, "data-row="), 2, "no bound");
    cr_expect(strstr(svg, "2 GiB: +20.0%, from +10.0% to +30.0%"));
    cr_expect(strstr(svg, "4 GiB: +15.0%, from +10.0% to +20.0%"));
    cr_expect(strstr(page, "<td class=\"best\">+20.0%<small>+10.0%–+30.0%</small></td>"));
    const struct path same = path_of(svg, 0), better = path_of(svg, 1);
    cr_expect_eq(same.y[0], same.y[1]);
    cr_expect_lt(better.y[0], better.y[1]);
    cr_expect_lt(better.y[1], same.y[1]);
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, whiskers_reach_from_the_least_to_the_most)
{
    struct world w;
    make_world(&w, 1, 2, 3, false); // traces of 10, 11 and 12 tok/s at the first budget
    set_speeds(&w);
    char *page = page_of(&w), *svg = picture(page, "speed");
    const struct path line = path_of(svg, 0);
    const double per_tok_s = (line.y[0] - line.y[1]) / (speed(0, 1) - speed(0, 0));
    const char *whisker = strstr(svg, "class=\"wh\"");
    cr_assert(whisker);
    cr_expect_float_eq(atof(strstr(whisker, "y1=\"") + 4), line.y[0] + per_tok_s, 0.3);
    cr_expect_float_eq(atof(strstr(whisker, "y2=\"") + 4), line.y[0] - per_tok_s, 0.3);
    cr_expect(strstr(page, "<td class=\"best\">11.0<small>10.0–12.0</small></td>"));
    cr_expect(strstr(svg, "2 GiB: 11.0, from 10.0 to 12.0"));
    free(svg);
    free(page);
    free_world(&w);
}

// ---- the other parts
// -----------------------------------------------------------------------------------------

// The width of the n-th rectangle of a class, keys and clear ones not counted.
static double width_of(const char *svg, const char *class, uint32_t n)
{
    char mark[32];
    snprintf(mark, sizeof mark, "class=\"%s\"", class);
    for (const char *at = svg; (at = strstr(at, mark)); at++) {
        const double width = atof(strstr(at, "width=\"") + 7), height = atof(strstr(at, "height=\"") + 8);
        if (height > 11 && n-- == 0)
            return width;
    }
    cr_assert_fail("no bar of %s", class);
    return 0;
}

Test(sim_html, bars_are_as_wide_as_what_they_stand_for)
{
    struct world w;
    make_world(&w, 2, 1, 1, false);
    set_speeds(&w);
    struct simulation_phase *d = &sim_cell_at(&w.sweep, 1, 0, 0)->result.decode;
    d->demand_bytes = 50000000;
    d->prefetch_bytes = 90000000;
    d->useful_bytes = 60000000;
    d->late_bytes = 20000000;
    d->wasted_bytes = 10000000;
    d->seconds = 80;
    d->stall_s[SIMULATION_STALL_DEMAND] = 20;
    sim_cell_at(&w.sweep, 2, 0, 0)->result.decode.stall_s[SIMULATION_STALL_DEMAND] = 0;
    char *page = page_of(&w), *svg = picture(page, "token");
    const double us = width_of(svg, "us", 0) + 0.8;
    cr_expect_float_eq((width_of(svg, "la", 0) + 0.8) / us, 20.0 / 60, 0.01);
    cr_expect_float_eq((width_of(svg, "wa", 0) + 0.8) / us, 10.0 / 60, 0.01);
    // The bound, then the faster row: their times are 71.4 and 80 ms.
    const double all = width_of(svg, "co", 0) + width_of(svg, "de", 2) + 1.6;
    cr_expect_float_eq((width_of(svg, "al", 0) + 0.8) / all, 1000 / speed(2, 0) / 80, 0.01);
    cr_expect(strstr(svg, "<title>prefetched late: 19.5 KiB, 14.3%</title>"));
    cr_expect(strstr(svg, "<title>waiting: demand: 20.0 ms, 25.0%</title>"));
    cr_expect(strstr(svg, "<title>computing: 60.0 ms, 75.0%</title>"));
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, ranks_rows_with_ratios)
{
    struct world w;
    make_world(&w, 3, 2, 1, false);
    const double factor[] = {1, 0.5, 2, 4}; // of the first row; the last is the bound
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t b = 0; b < 2; b++)
            set_speed(&w, r, b, 0, factor[r] * (10 + b));
    char *page = page_of(&w);
    const char *ranking = strstr(strstr(page, "<h2>Ranking</h2>"), "<tbody>");
    cr_assert(ranking);
    const char *best = strstr(ranking, "policy-2-</th>"), *first = strstr(ranking, "policy-0-</th>");
    const char *worst = strstr(ranking, "policy-1-</th>"), *bound = strstr(ranking, "bound</th>");
    cr_assert(best && first && worst && bound);
    cr_expect(best < first && first < worst && worst < bound);
    const char *best_ratios = strstr(best, "<td>2<small>2–2</small></td><td>0.5<small>0.5–0.5</small></td>");
    const char *worst_ratios = strstr(worst, "<td>0.5<small>0.5–0.5</small></td><td>0.125<small>");
    cr_expect(best_ratios && best_ratios < first);
    cr_expect(worst_ratios && worst_ratios < bound);
    cr_expect(strstr(page, "the fastest is <b>policy-2-</b>: <b>22.0 tok/s</b>"));
    cr_expect(strstr(page, "can be faster than 44.0"));
    cr_expect_not(strstr(page, "within 1%"));
    free(page);
    set_speed(&w, 1, 1, 0, 21.9);
    page = page_of(&w);
    cr_expect(strstr(page, "1 other row is within 1% of it."));
    free(page);
    free_world(&w);
}

Test(sim_html, slots_have_hits_alone)
{
    struct world w;
    make_world(&w, 3, 5, 2, true);
    set_hits(&w);
    char *page = page_of(&w);
    expect_sound(page);
    expect_even_tables(page);
    cr_expect_eq(xml_count(page, "<svg"), 2);
    cr_expect(strstr(page, "id=\"hits\""));
    cr_expect_not(strstr(page, "tok/s"));
    cr_expect(strstr(page, "has the most hits: <b>") || strstr(page, "</b> has the most hits"));
    cr_expect(strstr(page, ">16 slots<"));
    free(page);
    free_world(&w);
}

// ---- names and numbers
// ---------------------------------------------------------------------------------------

Test(sim_html, escapes_names)
{
    static const char hostile[] = "</title><script>alert(\"1\")</script>&amp;'\001\033\n";
    struct world w;
    make_world(&w, 2, 3, 1, false);
    set_speeds(&w);
    w.sweep.rows[0].policy = hostile;
    w.sweep.rows[1].predictor = "bad \xff\xc3 utf-8, \xef\xbf\xbe none, \xed\xa0\x80 half";
    w.sweep.rows[1].policy = NULL;
    w.sweep.traces[0].path = "<b>&\"path\"</b>";
    w.sweep.command_line = "lode sim --trace '<x>' & rm";
    strcpy(w.sweep.model, "<model> & \"friends\"");
    strcpy(w.sweep.machine, "<i>");
    strcpy(w.sweep.traces[0].model, "</td>");
    strcpy(w.sweep.budgets[1].text, "<4 & GiB>");
    strcpy(w.sweep.budgets[0].why, "needs > 3 \"GiB\"");
    char *page = page_of(&w);
    expect_sound(page);
    expect_even_tables(page);
    cr_expect(strstr(page, "&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;'???"));
    cr_expect(strstr(page, "&lt;b&gt;&amp;&quot;path&quot;&lt;/b&gt;"));
    cr_expect(strstr(page, "lode sim --trace '&lt;x&gt;' &amp; rm"));
    cr_expect(strstr(page, "bad \xef\xbf\xbd\xef\xbf\xbd utf-8, ? none, "));
    cr_expect(strstr(page, "2 GiB: needs &gt; 3 &quot;GiB&quot;"));
    free(page);
    free_world(&w);
}

Test(sim_html, stands_what_is_missing_or_no_number)
{
    static const double odd[] = {0, NAN, INFINITY, -INFINITY, 1e300, 1e-300, -5, 12};
    for (uint32_t round = 0; round < 64; round++) {
        struct world w;
        make_world(&w, round % 5, 1 + round % 4, 1 + round % 3, round % 2);
        for (size_t i = 0; i < (size_t)w.sweep.n_rows * w.sweep.n_budgets * w.sweep.n_traces; i++) {
            struct sim_cell *cell = &w.sweep.cells[i];
            struct simulation_phase *d = &cell->result.decode;
            const double value = odd[(i + round / 8) % 8], other = odd[(i * 3 + round) % 8];
            cell->failed = i % 7 == 6;
            d->tokens = i % 5 ? 100 : 0;
            d->seconds = value;
            d->stall_s[i % SIMULATION_STALLS] = other;
            d->p50_ms = other;
            d->p95_ms = d->p99_ms = value;
            d->demand_bytes = d->late_bytes = i % 3 ? UINT64_MAX : 0;
            d->choices = i % 4;
            d->hits = UINT64_MAX * (i % 2);
            cell->choices = i % 3;
            cell->hits = i % 3 ? UINT64_MAX : 1;
        }
        w.sweep.budgets[0].share = odd[round % 8];
        if (round % 3 == 0)
            w.sweep.budgets[0].slots = w.sweep.budgets[0].ram_bytes = 0;
        w.sweep.elapsed_s = odd[round % 8];
        char *page = page_of(&w);
        expect_sound(page);
        expect_even_tables(page);
        free(page);
        free_world(&w);
    }
}

Test(sim_html, stands_empty_and_large_sweeps)
{
    static const uint32_t sizes[][3] = {{0, 0, 0}, {1, 0, 1}, {0, 3, 1}, {2, 3, 0},
                                        {1, 1, 1}, {1, 1, 5}, {60, 1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int slots = 0; slots <= 1; slots++) {
            struct world w;
            make_world(&w, sizes[i][0], sizes[i][1], sizes[i][2], slots);
            slots ? set_hits(&w) : set_speeds(&w);
            char *page = page_of(&w);
            expect_sound(page);
            expect_even_tables(page);
            free(page);
            free_world(&w);
        }
    struct world w;
    make_world(&w, 100, 24, 3, false);
    set_speeds(&w);
    for (uint32_t b = 0; b < 24; b++)
        w.sweep.budgets[b].ram_bytes = (b + 30) * gib;
    char *page = page_of(&w), *svg = picture(page, "speed");
    expect_sound(page);
    expect_even_tables(page);
    cr_expect_eq(xml_count(svg, "data-row="), 101);
    for (uint32_t r = 0; r < 100; r++)
        cr_expect(strstr(strstr(page, "<h2>Ranking</h2>"), w.names[r]));
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, one_budget_is_drawn_as_bars)
{
    struct world w;
    make_world(&w, 3, 1, 1, false);
    set_speeds(&w);
    char *page = page_of(&w), *svg = picture(page, "speed");
    expect_sound(page);
    cr_expect_eq(xml_count(svg, "data-row="), 4);
    double widths[3];
    const char *at = svg;
    for (uint32_t i = 0; i < 3; i++) { // the best first: rows 2, 1, 0
        at = strstr(at, "<rect class=\"mk\"");
        cr_assert(at);
        widths[i] = atof(strstr(at, "width=\"") + 7);
        at++;
    }
    cr_expect_float_eq(widths[1] / widths[0], speed(1, 0) / speed(2, 0), 0.005);
    cr_expect_float_eq(widths[2] / widths[0], speed(0, 0) / speed(2, 0), 0.005);
    free(svg);
    free(page);
    free_world(&w);
}

Test(sim_html, tells_when_it_cannot_be_written)
{
    struct world w;
    make_world(&w, 3, 3, 1, false);
    set_speeds(&w);
    FILE *full = fopen("/dev/full", "w");
    if (!full)
        cr_skip_test("there is no /dev/full");
    cr_expect_eq(sim_print_html(full, &w.sweep), -1);
    fclose(full);
    free_world(&w);
}

// ---- the pieces
// ----------------------------------------------------------------------------------------------

Test(plot, spreads_labels_as_little_as_needed)
{
    double apart[] = {10, 50, 90}, y[] = {40, 41, 42, 200}, tight[] = {1, 1, 1, 1, 1};
    plot_spread(apart, 3, 20, 0, 100);
    cr_expect(apart[0] == 10 && apart[1] == 50 && apart[2] == 90, "what has room stays");
    plot_spread(y, 4, 20, 0, 205);
    cr_expect_float_eq(y[1], 41, 1e-9, "the middle of the three stays");
    cr_expect_float_eq(y[1] - y[0], 20, 1e-9);
    cr_expect_float_eq(y[2] - y[1], 20, 1e-9);
    cr_expect_eq(y[3], 200);
    plot_spread(tight, 5, 20, 0, 40);
    for (int i = 0; i < 5; i++)
        cr_expect_float_eq(tight[i], 10 * i, 1e-9);
    for (uint32_t seed = 1; seed < 200; seed++) {
        double random[12];
        for (uint32_t i = 0; i < 12; i++)
            random[i] = (seed * 2654435761u >> (i + 3)) % 300 + 20;
        qsort(random, 12, sizeof *random, ascending);
        plot_spread(random, 12, 18, 20, 320);
        for (uint32_t i = 0; i < 12; i++) {
            cr_expect(random[i] > 20 - 1e-6 && random[i] < 320 + 1e-6);
            cr_expect(i == 0 || random[i] - random[i - 1] > 18 - 1e-6);
        }
    }
}

Test(plot, scales_have_round_ticks_around_the_values)
{
    static const double ends[][2] = {{0, 1},     {0, 37.2},   {3, 4},   {-5, 12},     {0, 1e-12}, {0, 1e12},
                                     {1e9, 1e9}, {0.61, 1.0}, {0, 0.0}, {2.5, 999.5}, {0.01, 0.9}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        for (int logarithmic = 0; logarithmic <= 1; logarithmic++) {
            const struct plot_scale s = plot_scale_over(ends[i][0], ends[i][1], 6, logarithmic, 400, 40);
            cr_expect_eq(s.logarithmic, logarithmic && ends[i][0] > 0);
            cr_expect(s.least <= ends[i][0] && s.most >= ends[i][1] && s.least < s.most);
            cr_assert(s.n_ticks >= 2 && s.n_ticks <= PLOT_TICKS, "%g to %g: %u", s.least, s.most, s.n_ticks);
            for (uint32_t t = 0; t < s.n_ticks; t++) {
                cr_expect(s.ticks[t] >= s.least && s.ticks[t] <= s.most);
                cr_expect(t == 0 || s.ticks[t] > s.ticks[t - 1]);
                char text[32];
                snprintf(text, sizeof text, "%.2g", s.ticks[t]);
                cr_expect_float_eq(atof(text), s.ticks[t], 1e-9 * fabs(s.ticks[t]), "%g is not round",
                                   s.ticks[t]);
            }
            cr_expect_eq(plot_at(&s, s.least), 400);
            cr_expect_eq(plot_at(&s, s.most), 40);
            cr_expect(plot_at(&s, ends[i][0]) >= plot_at(&s, ends[i][1]));
        }
    const struct plot_scale none = plot_scale_over(NAN, INFINITY, 6, true, 0, 100);
    cr_expect(none.least == 0 && none.most == 1 && !none.logarithmic);
    cr_expect_eq(plot_at(&none, NAN), 0);
    const struct plot_scale doubled = plot_scale_over(1, 64, 6, true, 0, 100);
    cr_expect_float_eq(plot_at(&doubled, 8), 50, 1e-9);
}

Test(plot, numbers_have_three_digits_or_none)
{
    static const struct {
        double value;
        const char *number, *percent;
    } cases[] = {
        {0, "0", "0.0%"},           {0.1234, "0.123", "12.3%"},  {9.999, "10.0", "999.9%"},
        {12.34, "12.3", "1234.0%"}, {1234, "1234", "123400.0%"}, {NAN, "–", "–"},
        {-INFINITY, "–", "–"},
    };
    char text[PLOT_NUMBER_SIZE];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_str_eq(plot_number(text, cases[i].value), cases[i].number);
        cr_expect_str_eq(plot_percent(text, cases[i].value), cases[i].percent);
    }
    cr_expect_str_eq(plot_bytes(text, 1536), "1.5 KiB");
    cr_expect_str_eq(plot_bytes(text, -1), "–");
    cr_expect_str_eq(plot_bytes(text, NAN), "–");
}
