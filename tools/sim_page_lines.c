// Lines over the budgets. A label stands behind each line's end, so that nobody must compare a legend's
// colours; a mark of its own tells each of the coloured rows apart in print.
#include "tools/sim_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEIGHT 452.0
#define LEFT 58.0
#define RIGHT 724.0
#define TOP 44.0
#define BOTTOM 400.0
#define INSET 30.0 // of the first and last budget
#define LABEL_X 764.0
#define LABEL_GAP 19.0
#define DODGE 5.0 // between the whiskers of neighbours

struct line {
    uint32_t row, rank;
    double end_x, end_y;
    uint32_t end_budget;
    double label_y;
    bool labelled;
};

struct chart {
    const struct sim_page *page;
    enum sim_measure measure;
    bool shares, spread; // several traces
    bool against;        // the first row
    struct plot_scale y;
    struct line *lines; // as they are ranked
    uint32_t n_lines;
    double step; // pixels between budgets, at least
};

static bool is_bound(const struct chart *c, uint32_t row)
{
    return c->page->colour[row] == SIM_PAGE_BOUND;
}

static struct sim_figure figure_of(const struct chart *c, uint32_t row, uint32_t budget)
{
    return c->against ? sim_page_against(c->page, row, budget)
                      : sim_page_figure(c->page, row, budget, c->measure);
}

static const char *value_of(const struct chart *c, char out[PLOT_NUMBER_SIZE], double value)
{
    return c->against ? sim_page_against_value(out, c->page, value) : sim_page_value(out, c->measure, value);
}

// ---- scales
// --------------------------------------------------------------------------------------------------

// Of a budget by its number from the smallest on.
static double budget_x(const struct chart *c, uint32_t i)
{
    const struct sim_page *p = c->page;
    const double first = p->budget_x[0], last = p->budget_x[p->sweep->n_budgets - 1];
    double share = 0.5;
    if (last > first)
        share = p->budgets_double ? log(p->budget_x[i] / first) / log(last / first)
                                  : (p->budget_x[i] - first) / (last - first);
    return LEFT + INSET + share * (RIGHT - LEFT - 2 * INSET);
}

static void scale_values(struct chart *c)
{
    const struct sim_sweep *sweep = c->page->sweep;
    double least = INFINITY, most = -INFINITY;
    for (uint32_t i = 0; i < c->n_lines; i++)
        for (uint32_t b = 0; b < sweep->n_budgets; b++) {
            const struct sim_figure f = figure_of(c, c->lines[i].row, b);
            if (!f.known)
                continue;
            least = fmin(least, f.least);
            most = fmax(most, f.most);
        }
    if (c->against)
        c->y = plot_scale_over(fmin(least, 0), fmax(most, 0), 6, false, BOTTOM, TOP);
    else if (c->shares)
        c->y = plot_scale_over(least > 0.5 ? least : 0, most > 0.75 ? fmax(most, 1) : most, 6, false, BOTTOM,
                               TOP);
    else if (least > 0 && most / least > 8) // where a linear scale would flatten the slow end
        c->y = plot_scale_over(least, most, 8, true, BOTTOM, TOP);
    else
        c->y = plot_scale_over(fmin(least, 0), most, 6, false, BOTTOM, TOP);
}

static void draw_scales(const struct chart *c, const char *title)
{
    FILE *out = c->page->out;
    const struct sim_page *p = c->page;
    char text[PLOT_NUMBER_SIZE];
    fprintf(out, "<text class=\"m\" x=\"%g\" y=\"20\">", LEFT - 44);
    plot_put(out, title);
    fputs(c->y.logarithmic ? " (logarithmic)</text>\n" : "</text>\n", out);
    for (uint32_t i = 0; i < c->y.n_ticks; i++) {
        const double y = plot_at(&c->y, c->y.ticks[i]);
        if (c->against)
            sim_page_against_value(text, p, c->y.ticks[i]);
        else if (c->shares)
            snprintf(text, sizeof text, "%.4g%%", 100 * c->y.ticks[i]);
        else
            snprintf(text, sizeof text, "%.4g", c->y.ticks[i]);
        fprintf(out,
                "<line class=\"gr\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"m\" "
                "x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                LEFT, RIGHT, y, y, LEFT - 8, y + 4, text);
    }
    double free_from = -INFINITY;
    for (uint32_t i = 0; i < p->sweep->n_budgets; i++) {
        const char *name = p->sweep->budgets[p->budgets[i]].text;
        const double x = budget_x(c, i), half = (double)strlen(name) * 12.5 * PLOT_LETTER / 2;
        fprintf(out, "<line class=\"ax\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/>", x, x, BOTTOM,
                BOTTOM + 5);
        if (x - half < free_from + 6)
            continue;
        fprintf(out, "<text class=\"m\" x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">", x, BOTTOM + 21);
        plot_put(out, name);
        fputs("</text>\n", out);
        free_from = x + half;
    }
    fprintf(out,
            "<line class=\"ax\" x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\"/>\n<text class=\"m\" x=\"%g\" "
            "y=\"%g\" text-anchor=\"middle\">%s</text>\n",
            LEFT, RIGHT, BOTTOM, BOTTOM, (LEFT + RIGHT) / 2, BOTTOM + 43,
            p->sweep->slots_mode ? "slots for each layer" : "budget");
}

// ---- lines
// ---------------------------------------------------------------------------------------------------

static void tip(const struct chart *c, uint32_t row, uint32_t budget, const struct sim_figure *f)
{
    FILE *out = c->page->out;
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    fputs("<title>", out);
    plot_put(out, sim_page_name(name, c->page, row, c->measure));
    fputs(", ", out);
    plot_put(out, c->page->sweep->budgets[budget].text);
    fprintf(out, ": %s", value_of(c, value, f->median));
    if (c->spread) {
        fprintf(out, ", from %s", value_of(c, value, f->least));
        fprintf(out, " to %s", value_of(c, value, f->most));
    }
    fputs("</title>", out);
}

// Coloured rows stand side by side, as far as budgets have room: whiskers and rows that are alike stay apart.
static double dodge(const struct chart *c, uint32_t row)
{
    uint32_t n = 0, at = 0;
    if (c->page->colour[row] >= SIM_PAGE_COLOURS)
        return 0;
    for (uint32_t r = 0; r < c->page->sweep->n_rows; r++)
        n += c->page->colour[r] < SIM_PAGE_COLOURS;
    at = c->page->colour[row];
    const double gap = fmin(DODGE, c->step * 0.5 / n);
    return gap * (at - (n - 1) / 2.0);
}

static void draw_line(struct chart *c, struct line *line)
{
    const struct sim_page *p = c->page;
    FILE *out = p->out;
    const uint32_t colour = p->colour[line->row];
    const double shift = dodge(c, line->row);
    const bool marks = c->step >= 10 && colour < SIM_PAGE_COLOURS, bound = colour == SIM_PAGE_BOUND;
    bool gap = true;
    line->end_x = NAN;
    fprintf(out, "<g class=\"row k%" PRIu32 "\" data-row=\"%" PRIu32 "\">", colour, line->row);
    fprintf(out, "<path class=\"ln\" stroke-width=\"%s\"%s d=\"",
            colour == SIM_PAGE_GREY ? "1.2"
            : bound                 ? "1.8"
                                    : "2.2",
            bound ? " stroke-dasharray=\"6 4\"" : "");
    for (uint32_t i = 0; i < p->sweep->n_budgets; i++) {
        const struct sim_figure f = figure_of(c, line->row, p->budgets[i]);
        if (f.known) {
            line->end_x = budget_x(c, i) + shift;
            line->end_y = plot_at(&c->y, f.median);
            line->end_budget = p->budgets[i];
            fprintf(out, "%s%.1f,%.1f", gap ? "M" : "L", line->end_x, line->end_y);
        }
        gap = !f.known;
    }
    fputs("\"/>\n", out);
    for (uint32_t i = 0; i < p->sweep->n_budgets; i++) {
        const struct sim_figure f = figure_of(c, line->row, p->budgets[i]);
        const double x = budget_x(c, i) + shift, y = plot_at(&c->y, f.median);
        if (!f.known)
            continue;
        fputs("<g>", out);
        if (c->spread && colour < SIM_PAGE_COLOURS)
            fprintf(out,
                    "<line class=\"wh\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" "
                    "stroke-width=\"1.3\"/>",
                    x, x, plot_at(&c->y, f.least), plot_at(&c->y, f.most));
        if (marks)
            plot_mark(out, colour, x, y);
        else
            fprintf(out, "<circle class=\"mk\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>", x, y,
                    c->step >= 10 ? "2.2" : "1.2");
        tip(c, line->row, p->budgets[i], &f);
        fputs("</g>\n", out);
    }
    fputs("</g>\n", out);
}

// ---- labels
// --------------------------------------------------------------------------------------------------

// Ends that look alike follow the ranking, the bound before all.
static double end_level(const struct line *line)
{
    return floor(line->end_y * 2 + 0.5) / 2;
}

static int by_end(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    const double level = end_level(x) - end_level(y);
    return level != 0 ? (level > 0) - (level < 0) : (x->rank > y->rank) - (x->rank < y->rank);
}

// Bounds and coloured rows first, then grey ones from the best on.
static void choose_labels(struct chart *c)
{
    uint32_t n = 0;
    for (int grey = 0; grey <= 1; grey++)
        for (uint32_t i = 0; i < c->n_lines && n < SIM_PAGE_LABELS; i++)
            if ((c->page->colour[c->lines[i].row] == SIM_PAGE_GREY) == grey) {
                c->lines[i].labelled = true;
                n++;
            }
}

static void draw_label(const struct chart *c, const struct line *line)
{
    FILE *out = c->page->out;
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    const uint32_t colour = c->page->colour[line->row];
    const struct sim_figure f = figure_of(c, line->row, line->end_budget);
    fprintf(out,
            "<g class=\"row k%" PRIu32 "\"><path class=\"ln\" stroke-width=\"1\" stroke-opacity=\"0.45\" "
            "d=\"M%.1f,%.1fL%g,%.1fL%g,%.1f\"/>",
            colour, line->end_x + 6, line->end_y, RIGHT + 4, line->end_y, LABEL_X - 8, line->label_y);
    if (colour < SIM_PAGE_COLOURS)
        plot_mark(out, colour, LABEL_X, line->label_y);
    else
        fprintf(out, "<path class=\"ln\" stroke-width=\"1.8\" d=\"M%g,%.1fh10\"%s/>", LABEL_X - 5,
                line->label_y, is_bound(c, line->row) ? " stroke-dasharray=\"4 2\"" : "");
    fprintf(out, "<text class=\"%s name\" x=\"%g\" y=\"%.1f\">", colour == SIM_PAGE_GREY ? "m" : "t",
            LABEL_X + 11, line->label_y + 4.4);
    plot_put_fitted(out, sim_page_name(name, c->page, line->row, c->measure), 12.5, 215);
    fprintf(out,
            "</text><text class=\"%s\" x=\"%g\" y=\"%.1f\" text-anchor=\"end\" font-weight=\"600\">%s</text>",
            colour == SIM_PAGE_GREY ? "m" : "t", SIM_PAGE_WIDTH - 4, line->label_y + 4.4,
            value_of(c, value, f.median));
    tip(c, line->row, line->end_budget, &f);
    fputs("</g>\n", out);
}

static void draw_labels(struct chart *c)
{
    const struct sim_page *p = c->page;
    double y[SIM_PAGE_LABELS];
    uint32_t n = 0, n_left = 0;
    choose_labels(c);
    qsort(c->lines, c->n_lines, sizeof *c->lines, by_end);
    for (uint32_t i = 0; i < c->n_lines; i++)
        if (c->lines[i].labelled)
            y[n++] = end_level(&c->lines[i]);
    plot_spread(y, n, LABEL_GAP, TOP, BOTTOM);
    n = 0;
    for (uint32_t i = 0; i < c->n_lines; i++)
        if (c->lines[i].labelled) {
            c->lines[i].label_y = y[n++];
            draw_label(c, &c->lines[i]);
        } else
            n_left++;
    fprintf(p->out, "<text class=\"m\" x=\"%g\" y=\"20\" text-anchor=\"end\">at ", SIM_PAGE_WIDTH - 4);
    plot_put(p->out, p->sweep->budgets[p->budgets[p->sweep->n_budgets - 1]].text);
    fputs("</text>\n", p->out);
    if (n_left)
        fprintf(p->out,
                "<text class=\"m\" x=\"%g\" y=\"%g\">and %" PRIu32 " more, grey, without a label</text>\n",
                LABEL_X - 5, BOTTOM + 30, n_left);
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

static bool has_figure(const struct chart *c, uint32_t row)
{
    for (uint32_t b = 0; b < c->page->sweep->n_budgets; b++)
        if (figure_of(c, row, b).known)
            return !(c->against && is_bound(c, row));
    return false;
}

static double least_step(const struct chart *c)
{
    double least = RIGHT - LEFT;
    for (uint32_t i = 1; i < c->page->sweep->n_budgets; i++)
        least = fmin(least, budget_x(c, i) - budget_x(c, i - 1));
    return least;
}

static void describe(const struct chart *c, char *out, size_t size)
{
    const struct sim_page *p = c->page;
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    const uint32_t last = p->budgets[p->sweep->n_budgets - 1];
    int used =
        snprintf(out, size, "%" PRIu32 " lines over %" PRIu32 " budgets from %s to %s.", c->n_lines,
                 p->sweep->n_budgets, p->sweep->budgets[p->budgets[0]].text, p->sweep->budgets[last].text);
    const uint32_t best = sim_best_row(p->sweep, last, c->measure);
    if (best == UINT32_MAX || used < 0 || (size_t)used >= size)
        return;
    const struct sim_figure f = figure_of(c, best, last);
    if (f.known)
        snprintf(out + used, size - (size_t)used, " The best policy at %s is %s with %s.",
                 p->sweep->budgets[last].text, sim_page_name(name, p, best, c->measure),
                 value_of(c, value, f.median));
}

void sim_page_lines(const struct sim_page *page, const char *id, enum sim_measure measure, bool against,
                    const char *title)
{
    struct chart c = {
        .page = page, .measure = measure, .shares = measure != SIM_DECODE_TOK_S, .against = against};
    char text[640];
    c.lines = calloc((size_t)page->sweep->n_rows + 1, sizeof *c.lines);
    for (uint32_t i = 0; c.lines && i < page->sweep->n_rows; i++)
        if (has_figure(&c, page->ranking[i]))
            c.lines[c.n_lines++] =
                (struct line){.row = page->ranking[i],
                              .rank = page->colour[page->ranking[i]] == SIM_PAGE_BOUND ? 0 : i + 1};
    if (!c.n_lines) {
        fputs("<p>There is nothing to draw: no simulation has a figure.</p>\n", page->out);
        free(c.lines);
        return;
    }
    c.step = least_step(&c);
    c.spread = page->sweep->n_traces > 1;
    scale_values(&c);
    describe(&c, text, sizeof text);
    sim_page_picture(page, id, HEIGHT, title, text);
    draw_scales(&c, title);
    for (int layer = 0; layer < 3; layer++) // grey below bounds below coloured
        for (uint32_t i = c.n_lines; i-- > 0;) {
            const uint32_t colour = page->colour[c.lines[i].row];
            if (layer == (colour == SIM_PAGE_GREY ? 0 : colour == SIM_PAGE_BOUND ? 1 : 2))
                draw_line(&c, &c.lines[i]);
        }
    draw_labels(&c);
    sim_page_picture_end(page);
    free(c.lines);
}
