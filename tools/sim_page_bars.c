// A token at one budget, row by row: what is read for it, where its time goes, and how much slower the slow
// ones are. Bytes and times are those of all traces together, so that the parts add up.
#include "tools/sim_page.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define NAME_X 22.0
#define NAME_WIDTH 196.0
#define PANELS 3
#define PANEL_X 226.0
#define PANEL_PITCH 276.0
#define PANEL_WIDTH 190.0 // of the longest bar; its figure stands behind it
#define LATENCY_WIDTH 208.0
#define ROWS_Y 98.0
#define ROW_PITCH 25.0
#define BOUND_GAP 10.0 // between the bound and the policies
#define BAR_HEIGHT 13.0
#define MOST_PARTS 6

struct part {
    const char *class, *name;
    double value; // bytes, or milliseconds
};

struct token {
    bool known;
    uint32_t row;
    struct part bytes[MOST_PARTS], times[MOST_PARTS];
    double all_bytes, all_ms;
};

static const struct part byte_parts[MOST_PARTS] = {
    {"de", "on demand", 0},          {"us", "prefetched in time", 0}, {"la", "prefetched late", 0},
    {"wa", "prefetched in vain", 0}, {"st", "streamed", 0},           {"ro", "rows of tables", 0},
};
static const struct part time_parts[MOST_PARTS] = {
    {"co", "computing", 0},        {"de", "waiting: demand", 0}, {"la", "late prefetch", 0},
    {"st", "streamed weights", 0}, {"ro", "rows of tables", 0},  {"al", "not divided", 0},
};

static double not_negative(double value)
{
    return value > 0 ? value : 0;
}

static double sum_of(const struct part *parts)
{
    double sum = 0;
    for (uint32_t i = 0; i < MOST_PARTS; i++)
        sum += parts[i].value;
    return sum;
}

// A token's part of what is measured over all of them.
static void divide(struct part *parts, double by)
{
    for (uint32_t i = 0; i < MOST_PARTS; i++)
        parts[i].value = isfinite(parts[i].value / by) ? parts[i].value / by : 0;
}

static struct token token_of(const struct sim_page *page, uint32_t row)
{
    const struct sim_sweep *sweep = page->sweep;
    struct token t = {.row = row};
    double tokens = 0, seconds = 0, stalls = 0;
    memcpy(t.bytes, byte_parts, sizeof t.bytes);
    memcpy(t.times, time_parts, sizeof t.times);
    for (uint32_t i = 0; i < sweep->n_traces; i++) {
        const struct sim_cell *cell = sim_cell_at(sweep, row, page->chosen, i);
        const struct simulation_phase *d = &cell->result.decode;
        if (cell->failed || !d->tokens || !isfinite(d->seconds))
            continue;
        tokens += (double)d->tokens;
        seconds += d->seconds;
        t.bytes[0].value += (double)d->demand_bytes;
        t.bytes[1].value += (double)d->useful_bytes;
        t.bytes[2].value += (double)d->late_bytes;
        t.bytes[3].value += (double)d->wasted_bytes;
        t.bytes[4].value += (double)d->streamed_bytes;
        t.bytes[5].value += (double)d->row_bytes;
        for (uint32_t s = 0; s < SIMULATION_STALLS; s++) {
            t.times[1 + s].value += not_negative(d->stall_s[s]);
            stalls += not_negative(d->stall_s[s]);
        }
    }
    // The bound is one number: what of it is waiting depends on what it is compared with.
    const bool bound = sweep->rows[row].kind != SIM_ROW_POLICY;
    t.times[bound ? 5 : 0].value = not_negative(seconds - stalls);
    t.known = tokens > 0;
    divide(t.bytes, tokens);
    divide(t.times, tokens / 1000);
    t.all_bytes = sum_of(t.bytes);
    t.all_ms = sum_of(t.times);
    return t;
}

// ---- parts of the picture
// -------------------------------------------------------------------------------------

static void draw_bar(const struct sim_page *page, const struct part *parts, double all, double most, double x,
                     double y, const char *figure, bool bytes)
{
    char value[PLOT_NUMBER_SIZE], share[PLOT_NUMBER_SIZE];
    const double scale = most > 0 && isfinite(most) ? PANEL_WIDTH / most : 0;
    for (uint32_t i = 0; i < MOST_PARTS; i++) {
        const double width = parts[i].value * scale;
        if (width <= 0)
            continue;
        fprintf(page->out,
                "<rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%g\"><title>%s: %s%s, "
                "%s</title></rect>",
                parts[i].class, x, y, width > 1.6 ? width - 0.8 : width, BAR_HEIGHT, parts[i].name,
                bytes ? plot_bytes(value, parts[i].value) : plot_number(value, parts[i].value),
                bytes ? "" : " ms", plot_percent(share, all > 0 ? parts[i].value / all : 0));
        x += width;
    }
    fprintf(page->out, "<text class=\"t\" x=\"%.1f\" y=\"%.1f\" font-size=\"12\">%s</text>\n", x + 6, y + 11,
            figure);
}

// Only what occurs; two in a line.
static void draw_key(const struct sim_page *page, const struct token *tokens, uint32_t n, uint32_t panel)
{
    uint32_t n_drawn = 0;
    for (uint32_t k = 0; k < MOST_PARTS; k++) {
        double most = 0;
        for (uint32_t i = 0; i < n; i++)
            most = fmax(most, panel ? tokens[i].times[k].value : tokens[i].bytes[k].value);
        const struct part *part = panel ? &time_parts[k] : &byte_parts[k];
        if (most <= 0)
            continue;
        const double x = PANEL_X + panel * PANEL_PITCH + (n_drawn % 2) * 136,
                     y = 44 + 17 * (n_drawn / 2.0 - (n_drawn % 2) / 2.0);
        fprintf(page->out,
                "<rect class=\"%s\" x=\"%g\" y=\"%g\" width=\"10\" height=\"10\"/><text class=\"m\" "
                "x=\"%g\" y=\"%g\" font-size=\"11.5\">%s</text>\n",
                part->class, x, y - 9, x + 15, y, part->name);
        n_drawn++;
    }
}

static struct plot_scale latency_scale(const struct sim_page *page, const struct token *tokens, uint32_t n,
                                       double x)
{
    static const enum sim_measure measures[] = {SIM_P50_MS, SIM_P95_MS, SIM_P99_MS};
    double least = INFINITY, most = 0;
    for (uint32_t i = 0; i < n; i++)
        for (int m = 0; m < 3; m++) {
            const struct sim_figure f = sim_page_figure(page, tokens[i].row, page->chosen, measures[m]);
            if (!f.known)
                continue;
            least = fmin(least, f.median);
            most = fmax(most, f.median);
        }
    const bool logarithmic = least > 0 && most / least > 8;
    return plot_scale_over(logarithmic ? least : 0, most, 4, logarithmic, x, x + LATENCY_WIDTH);
}

static void draw_latency_head(const struct sim_page *page, const struct plot_scale *scale, double bottom)
{
    const double x = scale->from;
    fprintf(page->out,
            "<g class=\"k7\"><circle class=\"mk\" cx=\"%g\" cy=\"40\" r=\"4.5\"/><path class=\"ln\" "
            "stroke-width=\"1.6\" d=\"M%g,35v10M%g,32v16\"/></g><text class=\"m\" font-size=\"11.5\" "
            "x=\"%g\" y=\"44\">p50</text><text class=\"m\" font-size=\"11.5\" x=\"%g\" "
            "y=\"44\">p95</text><text class=\"m\" font-size=\"11.5\" x=\"%g\" y=\"44\">p99%s</text>\n",
            x + 5, x + 58, x + 112, x + 14, x + 66, x + 120, scale->logarithmic ? " (logarithmic)" : "");
    double free_from = -INFINITY;
    for (uint32_t i = 0; i < scale->n_ticks; i++) {
        const double at = plot_at(scale, scale->ticks[i]);
        fprintf(page->out, "<line class=\"gr\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/>", at, at,
                ROWS_Y - 8, bottom);
        if (at < free_from)
            continue;
        fprintf(page->out,
                "<text class=\"m\" font-size=\"11.5\" x=\"%.1f\" y=\"%g\" "
                "text-anchor=\"middle\">%.4g</text>\n",
                at, ROWS_Y - 13, scale->ticks[i]);
        free_from = at + 34;
    }
}

static void draw_latency(const struct sim_page *page, uint32_t row, const struct plot_scale *scale, double y)
{
    char text[3][PLOT_NUMBER_SIZE];
    const struct sim_figure p50 = sim_page_figure(page, row, page->chosen, SIM_P50_MS);
    const struct sim_figure p95 = sim_page_figure(page, row, page->chosen, SIM_P95_MS);
    const struct sim_figure p99 = sim_page_figure(page, row, page->chosen, SIM_P99_MS);
    const double middle = y + BAR_HEIGHT / 2;
    if (!p50.known || !p95.known || !p99.known) {
        fprintf(page->out, "<text class=\"m\" font-size=\"12\" x=\"%g\" y=\"%.1f\">–</text>\n",
                scale->from + 8, y + 11);
        return;
    }
    fprintf(page->out,
            "<g class=\"k%" PRIu32 "\"><path class=\"ln\" stroke-width=\"1.6\" "
            "d=\"M%.1f,%.1fH%.1fM%.1f,%.1fv10M%.1f,%.1fv16\"/><circle class=\"mk\" cx=\"%.1f\" cy=\"%.1f\" "
            "r=\"4.5\"/><title>p50 %s, p95 %s, p99 %s ms</title></g>",
            page->colour[row], plot_at(scale, p50.median), middle, plot_at(scale, p99.median),
            plot_at(scale, p95.median), middle - 5, plot_at(scale, p99.median), middle - 8,
            plot_at(scale, p50.median), middle, plot_number(text[0], p50.median),
            plot_number(text[1], p95.median), plot_number(text[2], p99.median));
    fprintf(page->out, "<text class=\"t\" font-size=\"12\" x=\"%.1f\" y=\"%.1f\">%s</text>\n",
            plot_at(scale, p99.median) + 7, y + 11, text[2]);
}

static void draw_name(const struct sim_page *page, uint32_t row, double y)
{
    char name[SIM_PAGE_NAME_SIZE];
    const uint32_t colour = page->colour[row];
    fprintf(page->out, "<g class=\"k%" PRIu32 "\">", colour);
    if (colour < SIM_PAGE_COLOURS)
        plot_mark(page->out, colour, 10, y + BAR_HEIGHT / 2);
    fprintf(page->out, "</g><text class=\"%s name\" font-size=\"12\" x=\"%g\" y=\"%.1f\">",
            colour == SIM_PAGE_GREY ? "m" : "t", NAME_X, y + 11);
    plot_put_fitted(page->out, sim_page_name(name, page, row, SIM_DECODE_TOK_S), 12, NAME_WIDTH);
    fputs("</text>\n", page->out);
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

// The bound and the best rows, the first among them.
static uint32_t choose_rows(const struct sim_page *page, struct token *out)
{
    uint32_t n = 0;
    bool has_first = page->first == UINT32_MAX;
    if (page->bound != UINT32_MAX)
        out[n++] = token_of(page, page->bound);
    for (uint32_t i = 0, drawn = 0; i < page->n_policies && drawn < SIM_PAGE_DRAWN; i++) {
        const uint32_t row = page->ranking[i];
        if (!has_first && row != page->first && drawn == SIM_PAGE_DRAWN - 1)
            continue;
        const struct token t = token_of(page, row);
        has_first |= row == page->first;
        drawn++;
        if (t.known)
            out[n++] = t;
    }
    return n;
}

void sim_page_bars(const struct sim_page *page)
{
    static const char *const heads[PANELS] = {"Bytes read for a token", "Time of a token, ms",
                                              "Latency of tokens, ms"};
    struct token tokens[SIM_PAGE_DRAWN + 1];
    char text[256], value[PLOT_NUMBER_SIZE];
    const uint32_t n = choose_rows(page, tokens);
    const double gap = page->bound != UINT32_MAX ? BOUND_GAP : 0;
    const double bottom = ROWS_Y + ROW_PITCH * n + gap;
    double most_bytes = 0, most_ms = 0;
    if (!n) {
        fputs("<p>There is nothing to draw: no simulation has a figure.</p>\n", page->out);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        most_bytes = fmax(most_bytes, tokens[i].all_bytes);
        most_ms = fmax(most_ms, tokens[i].all_ms);
    }
    snprintf(text, sizeof text, "A decoded token at %s: bytes, time and latency of %" PRIu32 " rows.",
             page->sweep->budgets[page->chosen].text, n);
    sim_page_picture(page, "token", bottom + 8, "A token in detail", text);
    for (uint32_t i = 0; i < PANELS; i++)
        fprintf(page->out, "<text class=\"t\" font-weight=\"600\" x=\"%g\" y=\"20\">%s</text>\n",
                PANEL_X + i * PANEL_PITCH, heads[i]);
    draw_key(page, tokens, n, 0);
    draw_key(page, tokens, n, 1);
    const struct plot_scale latency = latency_scale(page, tokens, n, PANEL_X + 2 * PANEL_PITCH);
    draw_latency_head(page, &latency, bottom);
    for (uint32_t i = 0; i < n; i++) {
        const struct token *t = &tokens[i];
        const double y = ROWS_Y + ROW_PITCH * i + (t->row == page->bound ? 0 : gap);
        draw_name(page, t->row, y);
        if (!t->known)
            continue;
        draw_bar(page, t->bytes, t->all_bytes, most_bytes, PANEL_X, y, plot_bytes(value, t->all_bytes), true);
        draw_bar(page, t->times, t->all_ms, most_ms, PANEL_X + PANEL_PITCH, y, plot_number(value, t->all_ms),
                 false);
        draw_latency(page, t->row, &latency, y);
    }
    sim_page_picture_end(page);
    if (page->n_policies > SIM_PAGE_DRAWN)
        fprintf(page->out,
                "<p class=\"note\">Drawn are the best %d of %" PRIu32 " rows; the table has all.</p>\n",
                SIM_PAGE_DRAWN, page->n_policies);
}
