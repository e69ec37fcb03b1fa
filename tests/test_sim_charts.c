// The pictures of a page about a sweep: lines, labels, whiskers and bars are where the figures say.
#include "tests/sweep_world.h"
#include "tests/xml_checks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

Test(sim_charts, draws_lines_where_the_figures_are)
{
    struct sweep_world w;
    sweep_world_make(&w, 5, 4, 1, false);
    sweep_world_set_speeds(&w);
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
    sweep_page_expect_sound(page);
    sweep_page_expect_even_tables(page);
    cr_expect_eq(xml_count(svg, "data-row="), 6);
    const struct path first = path_of(svg, 0);
    const double scale = (first.y[0] - first.y[3]) / (sweep_world_speed(0, 3) - sweep_world_speed(0, 0));
    cr_assert_gt(scale, 1);
    for (uint32_t r = 0; r < 6; r++) {
        const struct path path = path_of(svg, r);
        cr_assert_eq(path.n, 4);
        cr_expect_eq(path.dashed, r == 5);
        for (uint32_t b = 0; b < 4; b++) {
            cr_expect_float_eq(first.y[0] - path.y[b],
                               scale * (sweep_world_speed(r, b) - sweep_world_speed(0, 0)), 0.3);
            // Budgets that double are as far from each other.
            cr_expect_float_eq(path.x[b] - path.x[0], b * (path.x[1] - path.x[0]), 0.3);
            cr_expect(b == 0 || path.x[b] > path.x[b - 1] + 20);
        }
    }
    free(svg);
    free(page);
    sweep_world_free(&w);
}

Test(sim_charts, sorts_budgets_and_leaves_gaps)
{
    struct sweep_world w;
    sweep_world_make(&w, 2, 4, 1, false);
    sweep_world_set_speeds(&w);
    for (uint32_t i = 0; i < 2; i++) { // the command's order is from large to small
        const struct sim_budget swapped = w.sweep.budgets[i];
        w.sweep.budgets[i] = w.sweep.budgets[3 - i];
        w.sweep.budgets[3 - i] = swapped;
    }
    sim_cell_at(&w.sweep, 0, 2, 0)->failed = true;
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
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
    sweep_world_free(&w);
}

Test(sim_charts, colours_the_first_row_and_the_best)
{
    struct sweep_world w;
    sweep_world_make(&w, 9, 3, 1, false);
    sweep_world_set_speeds(&w);
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
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
    sweep_world_free(&w);
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

Test(sim_charts, labels_do_not_overlap)
{
    static const uint32_t n_policies[] = {1, 3, 12, 15, 40};
    for (size_t i = 0; i < sizeof n_policies / sizeof *n_policies; i++)
        for (int alike = 0; alike <= 1; alike++) {
            struct sweep_world w;
            sweep_world_make(&w, n_policies[i], 3, 1, false);
            sweep_world_set_speeds(&w);
            for (uint32_t r = 0; alike && r < w.sweep.n_rows; r++)
                sweep_world_set_speed(&w, r, 2, 0, 40); // all lines end in one point
            char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
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
            sweep_world_free(&w);
        }
}

Test(sim_charts, differences_are_of_the_same_trace)
{
    struct sweep_world w;
    sweep_world_make(&w, 2, 2, 3, false);
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t b = 0; b < 2; b++) { // traces differ by much, rows by 10 to 30%
            sweep_world_set_speed(&w, 0, b, t, 10 * (t + 1));
            sweep_world_set_speed(&w, 1, b, t, 10 * (t + 1) * (1.1 + 0.1 * t));
            sweep_world_set_speed(&w, 2, b, t, 100);
        }
    sim_cell_at(&w.sweep, 0, 1, 2)->failed = true;
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "against");
    sweep_page_expect_sound(page);
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
    sweep_world_free(&w);
}

Test(sim_charts, whiskers_reach_from_the_least_to_the_most)
{
    struct sweep_world w;
    sweep_world_make(&w, 1, 2, 3, false); // traces of 10, 11 and 12 tok/s at the first budget
    sweep_world_set_speeds(&w);
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
    const struct path line = path_of(svg, 0);
    const double per_tok_s = (line.y[0] - line.y[1]) / (sweep_world_speed(0, 1) - sweep_world_speed(0, 0));
    const char *whisker = strstr(svg, "class=\"wh\"");
    cr_assert(whisker);
    cr_expect_float_eq(atof(strstr(whisker, "y1=\"") + 4), line.y[0] + per_tok_s, 0.3);
    cr_expect_float_eq(atof(strstr(whisker, "y2=\"") + 4), line.y[0] - per_tok_s, 0.3);
    cr_expect(strstr(page, "<td class=\"best\">11.0<small>10.0–12.0</small></td>"));
    cr_expect(strstr(svg, "2 GiB: 11.0, from 10.0 to 12.0"));
    free(svg);
    free(page);
    sweep_world_free(&w);
}

// ---- bars
// ----------------------------------------------------------------------------------------------------

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

Test(sim_charts, bars_are_as_wide_as_what_they_stand_for)
{
    struct sweep_world w;
    sweep_world_make(&w, 2, 1, 1, false);
    sweep_world_set_speeds(&w);
    struct simulation_phase *d = &sim_cell_at(&w.sweep, 1, 0, 0)->result.decode;
    d->demand_bytes = 50000000;
    d->prefetch_bytes = 90000000;
    d->useful_bytes = 60000000;
    d->late_bytes = 20000000;
    d->wasted_bytes = 10000000;
    d->seconds = 80;
    d->stall_s[SIMULATION_STALL_DEMAND] = 20;
    sim_cell_at(&w.sweep, 2, 0, 0)->result.decode.stall_s[SIMULATION_STALL_DEMAND] = 0;
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "token");
    const double us = width_of(svg, "us", 0) + 0.8;
    cr_expect_float_eq((width_of(svg, "la", 0) + 0.8) / us, 20.0 / 60, 0.01);
    cr_expect_float_eq((width_of(svg, "wa", 0) + 0.8) / us, 10.0 / 60, 0.01);
    // The bound, then the faster row: their times are 71.4 and 80 ms.
    const double all = width_of(svg, "co", 0) + width_of(svg, "de", 2) + 1.6;
    cr_expect_float_eq((width_of(svg, "al", 0) + 0.8) / all, 1000 / sweep_world_speed(2, 0) / 80, 0.01);
    cr_expect(strstr(svg, "<title>prefetched late: 19.5 KiB, 14.3%</title>"));
    cr_expect(strstr(svg, "<title>waiting: demand: 20.0 ms, 25.0%</title>"));
    cr_expect(strstr(svg, "<title>computing: 60.0 ms, 75.0%</title>"));
    free(svg);
    free(page);
    sweep_world_free(&w);
}

Test(sim_charts, one_budget_is_drawn_as_bars)
{
    struct sweep_world w;
    sweep_world_make(&w, 3, 1, 1, false);
    sweep_world_set_speeds(&w);
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
    sweep_page_expect_sound(page);
    cr_expect_eq(xml_count(svg, "data-row="), 4);
    double widths[3];
    const char *at = svg;
    for (uint32_t i = 0; i < 3; i++) { // the best first: rows 2, 1, 0
        at = strstr(at, "<rect class=\"mk\"");
        cr_assert(at);
        widths[i] = atof(strstr(at, "width=\"") + 7);
        at++;
    }
    cr_expect_float_eq(widths[1] / widths[0], sweep_world_speed(1, 0) / sweep_world_speed(2, 0), 0.005);
    cr_expect_float_eq(widths[2] / widths[0], sweep_world_speed(0, 0) / sweep_world_speed(2, 0), 0.005);
    free(svg);
    free(page);
    sweep_world_free(&w);
}
