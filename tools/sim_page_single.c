// One budget: no line can be drawn, so each row is a bar, the best first, and the bound a line across.
#include "tools/sim_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define TOP 34.0
#define PITCH 24.0
#define BAR_HEIGHT 13.0
#define LEFT 246.0
#define RIGHT 950.0
#define MOST_ROWS 48

static void bar(const struct sim_page *page, uint32_t row, enum sim_measure measure,
                const struct plot_scale *scale, double y)
{
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    const struct sim_figure f = sim_page_figure(page, row, page->chosen, measure);
    const uint32_t colour = page->colour[row];
    const double x = plot_at(scale, f.median), middle = y + BAR_HEIGHT / 2;
    fprintf(page->out, "<g class=\"row k%" PRIu32 "\" data-row=\"%" PRIu32 "\">", colour, row);
    if (colour < SIM_PAGE_COLOURS)
        plot_mark(page->out, colour, 10, middle);
    fprintf(page->out, "<text class=\"%s name\" x=\"22\" y=\"%.1f\">", colour == SIM_PAGE_GREY ? "m" : "t",
            y + 11);
    plot_put_fitted(page->out, sim_page_name(name, page, row, measure), 12.5, LEFT - 34);
    fprintf(page->out,
            "</text><rect class=\"mk\" fill-opacity=\"0.85\" x=\"%g\" y=\"%.1f\" width=\"%.1f\" "
            "height=\"%g\"/>",
            LEFT, y, x - LEFT, BAR_HEIGHT);
    if (page->sweep->n_traces > 1)
        fprintf(page->out,
                "<path class=\"ln\" stroke-width=\"1.4\" d=\"M%.1f,%.1fH%.1fm0,-3v6M%.1f,%.1fv6\"/>",
                plot_at(scale, f.least), middle, plot_at(scale, f.most), plot_at(scale, f.least), middle - 3);
    fprintf(page->out, "<text class=\"t\" font-weight=\"600\" x=\"%.1f\" y=\"%.1f\">%s</text></g>\n",
            plot_at(scale, fmax(f.median, f.most)) + 8, y + 11, sim_page_value(value, measure, f.median));
}

static void bound_line(const struct sim_page *page, enum sim_measure measure, const struct plot_scale *scale,
                       double bottom)
{
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    struct sim_figure f = {0};
    if (page->bound != UINT32_MAX)
        f = sim_page_figure(page, page->bound, page->chosen, measure);
    if (!f.known)
        return;
    const double x = plot_at(scale, f.median);
    const bool left = x > (LEFT + RIGHT) / 2;
    fprintf(page->out,
            "<g class=\"row k7\" data-row=\"%" PRIu32 "\"><path class=\"ln\" stroke-width=\"1.8\" "
            "stroke-dasharray=\"6 4\" d=\"M%.1f,%gV%.1f\"/><text class=\"t\" x=\"%.1f\" y=\"20\"%s>%s "
            "<tspan font-weight=\"600\">%s</tspan></text></g>\n",
            page->bound, x, TOP - 8, bottom, left ? x + 4 : x - 4, left ? " text-anchor=\"end\"" : "",
            sim_page_name(name, page, page->bound, measure), sim_page_value(value, measure, f.median));
}

void sim_page_single(const struct sim_page *page, const char *id, enum sim_measure measure, const char *title)
{
    uint32_t rows[MOST_ROWS], n = 0, n_left = 0;
    double most = 0, least = 0;
    for (uint32_t i = 0; i < page->sweep->n_rows; i++) {
        const uint32_t row = page->ranking[i];
        const struct sim_figure f = sim_page_figure(page, row, page->chosen, measure);
        if (!f.known)
            continue;
        most = fmax(most, f.most);
        least = fmin(least, f.least);
        if (page->colour[row] == SIM_PAGE_BOUND)
            continue;
        if (n < MOST_ROWS)
            rows[n++] = row;
        else
            n_left++;
    }
    if (!n) {
        fputs("<p>There is nothing to draw: no simulation has a figure.</p>\n", page->out);
        return;
    }
    struct plot_scale scale = plot_scale_over(least, most, 6, false, LEFT, RIGHT);
    if (most > 0) { // bars say all; nothing is read off an axis
        scale.least = least;
        scale.most = most;
    }
    const double bottom = TOP + PITCH * n;
    char text[128];
    snprintf(text, sizeof text, "Bars of %" PRIu32 " rows, the best first, at %s.", n,
             page->sweep->budgets[page->chosen].text);
    sim_page_picture(page, id, bottom + 6, title, text);
    fputs("<text class=\"m\" x=\"22\" y=\"20\">", page->out);
    plot_put_fitted(page->out, title, 12.5, 420);
    fputs("</text>\n", page->out);
    for (uint32_t i = 0; i < n; i++)
        bar(page, rows[i], measure, &scale, TOP + PITCH * i);
    bound_line(page, measure, &scale, bottom);
    sim_page_picture_end(page);
    if (n_left)
        fprintf(page->out, "<p class=\"note\">%" PRIu32 " more rows are in the table.</p>\n", n_left);
}
