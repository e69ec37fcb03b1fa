// The tables of the page: what the pictures show, in figures.
#include "tools/sim_page.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

// ---- cells
// ---------------------------------------------------------------------------------------------------

static void begin_table(const struct sim_page *page, const char *caption)
{
    fputs("<div class=\"scroll\" tabindex=\"0\"><table><caption>", page->out);
    plot_put(page->out, caption);
    fputs("</caption>\n<thead><tr>", page->out);
}

static void end_table(const struct sim_page *page)
{
    fputs("</tbody></table></div>\n", page->out);
}

static void head(const struct sim_page *page, const char *text)
{
    fputs("<th scope=\"col\">", page->out);
    plot_put(page->out, text);
    fputs("</th>", page->out);
}

static void name_cells(const struct sim_page *page, uint32_t row)
{
    const struct sim_row *r = &page->sweep->rows[row];
    char name[SIM_PAGE_NAME_SIZE];
    const bool policy = r->kind == SIM_ROW_POLICY;
    fprintf(page->out, "<th scope=\"row\"%s><span class=\"dot k%" PRIu32 "\"></span>",
            policy ? "" : " class=\"bound\"", page->colour[row]);
    plot_put(page->out, policy ? r->policy : sim_page_name(name, page, row, page->measure));
    fputs("</th>", page->out);
    if (page->sweep->slots_mode)
        return;
    fputs("<td class=\"word\">", page->out);
    plot_put(page->out, !policy ? "" : r->predictor ? r->predictor : "none");
    fputs("</td>", page->out);
}

static void word_head(const struct sim_page *page, const char *text)
{
    fprintf(page->out, "<th scope=\"col\" class=\"word\">%s</th>", text);
}

static void name_heads(const struct sim_page *page)
{
    word_head(page, "policy");
    if (!page->sweep->slots_mode)
        word_head(page, "predictor");
}

static const char *cell_value(char out[PLOT_NUMBER_SIZE], const struct sim_page *page,
                              enum sim_measure measure, double value)
{
    return measure == SIM_MEASURES ? sim_page_against_value(out, page, value)
                                   : sim_page_value(out, measure, value);
}

// The median, and below it the spread over the traces. SIM_MEASURES: against the first row.
static void figure_cell(const struct sim_page *page, enum sim_measure measure, const struct sim_figure *f,
                        bool best)
{
    char median[PLOT_NUMBER_SIZE], least[PLOT_NUMBER_SIZE], most[PLOT_NUMBER_SIZE];
    if (!f->known) {
        fputs("<td>–</td>", page->out);
        return;
    }
    fprintf(page->out, "<td%s>%s", best ? " class=\"best\"" : "",
            cell_value(median, page, measure, f->median));
    if (page->sweep->n_traces > 1)
        fprintf(page->out, "<small>%s–%s</small>", cell_value(least, page, measure, f->least),
                cell_value(most, page, measure, f->most));
    fputs("</td>", page->out);
}

// ---- ranking
// -------------------------------------------------------------------------------------------------

// Of hit rates the misses are compared, of which fewer is better; of speeds the speeds.
static double ratio_at(const struct sim_page *page, uint32_t row, uint32_t to, uint32_t budget)
{
    const struct sim_figure a = sim_page_figure(page, row, budget, page->measure);
    const struct sim_figure b = sim_page_figure(page, to, budget, page->measure);
    if (!a.known || !b.known)
        return NAN;
    const double x = page->sweep->slots_mode ? 1 - a.median : a.median;
    const double y = page->sweep->slots_mode ? 1 - b.median : b.median;
    return x > 0 && y > 0 ? x / y : NAN;
}

struct ratio {
    double mean, least, most; // the geometric mean over budgets
    uint32_t n;
};

static struct ratio ratio_of(const struct sim_page *page, uint32_t row, uint32_t to)
{
    struct ratio ratio = {.least = INFINITY, .most = -INFINITY};
    double sum = 0;
    for (uint32_t b = 0; to != UINT32_MAX && b < page->sweep->n_budgets; b++) {
        const double at = ratio_at(page, row, to, b);
        if (!isfinite(at))
            continue;
        sum += log(at);
        ratio.least = fmin(ratio.least, at);
        ratio.most = fmax(ratio.most, at);
        ratio.n++;
    }
    ratio.mean = ratio.n ? exp(sum / ratio.n) : NAN;
    return ratio;
}

static void ratio_cell(const struct sim_page *page, uint32_t row, uint32_t to)
{
    const struct ratio ratio = ratio_of(page, row, to);
    if (!ratio.n) {
        fputs("<td>–</td>", page->out);
        return;
    }
    fprintf(page->out, "<td>%.3g", ratio.mean);
    if (ratio.n > 1)
        fprintf(page->out, "<small>%.3g–%.3g</small>", ratio.least, ratio.most);
    fputs("</td>", page->out);
}

static void ranking_row(const struct sim_page *page, uint32_t place, uint32_t row)
{
    const struct sim_sweep *sweep = page->sweep;
    const bool policy = sweep->rows[row].kind == SIM_ROW_POLICY;
    struct sim_figure f = sim_page_figure(page, row, page->chosen, page->measure);
    if (policy)
        fprintf(page->out, "<tr><td class=\"place\">%" PRIu32 "</td>", place);
    else
        fputs("<tr class=\"bound\"><td class=\"place\"></td>", page->out);
    name_cells(page, row);
    if (sweep->n_budgets)
        figure_cell(page, page->measure, &f, place == 1 && policy);
    else
        fputs("<td>–</td>", page->out);
    ratio_cell(page, row, page->first);
    ratio_cell(page, row, page->bound);
    if (!sweep->slots_mode && sweep->n_budgets) {
        f = sim_page_figure(page, row, page->chosen, SIM_HIT_RATE);
        figure_cell(page, SIM_HIT_RATE, &f, false);
    }
    fputs("</tr>\n", page->out);
}

void sim_page_ranking(const struct sim_page *page)
{
    const struct sim_sweep *sweep = page->sweep;
    char name[SIM_PAGE_NAME_SIZE], text[SIM_PAGE_NAME_SIZE + 64];
    const char *budget = sweep->n_budgets ? sweep->budgets[page->chosen].text : "–";
    const char *what = sweep->slots_mode ? "misses" : "speed";
    begin_table(page, sweep->slots_mode ? "By share of the best policy’s hit rate, mean over all budgets"
                                        : "By share of the fastest policy’s speed, mean over all budgets");
    word_head(page, "");
    name_heads(page);
    snprintf(text, sizeof text, "%s at %s", sweep->slots_mode ? "hit rate" : "decode tok/s", budget);
    head(page, text);
    snprintf(text, sizeof text, "%s ÷ %s", what,
             page->first == UINT32_MAX ? "the first row"
                                       : sim_page_name(name, page, page->first, page->measure));
    head(page, text);
    snprintf(text, sizeof text, "%s ÷ the bound", what);
    head(page, text);
    if (!sweep->slots_mode && sweep->n_budgets) {
        snprintf(text, sizeof text, "hit rate at %s", budget);
        head(page, text);
    }
    fputs("</tr></thead>\n<tbody>\n", page->out);
    for (uint32_t i = 0; i < sweep->n_rows; i++)
        ranking_row(page, i + 1, page->ranking[i]);
    end_table(page);
}

// ---- behind the pictures
// ----------------------------------------------------------------------------------------

void sim_page_matrix(const struct sim_page *page, enum sim_measure measure, bool against)
{
    const struct sim_sweep *sweep = page->sweep;
    begin_table(page,
                sweep->n_traces > 1 ? "Medians over the traces; below them the least and the most" : "");
    name_heads(page);
    for (uint32_t i = 0; i < sweep->n_budgets; i++)
        head(page, sweep->budgets[page->budgets[i]].text);
    fputs("</tr></thead>\n<tbody>\n", page->out);
    for (uint32_t i = 0; i < sweep->n_rows; i++) {
        const uint32_t row = page->ranking[i];
        fputs("<tr>", page->out);
        name_cells(page, row);
        for (uint32_t b = 0; b < sweep->n_budgets; b++) {
            const uint32_t budget = page->budgets[b];
            const struct sim_figure f =
                against ? sim_page_against(page, row, budget) : sim_page_figure(page, row, budget, measure);
            figure_cell(page, against ? SIM_MEASURES : measure, &f,
                        row == sim_best_row(sweep, budget, measure));
        }
        fputs("</tr>\n", page->out);
    }
    end_table(page);
}

void sim_page_details(const struct sim_page *page)
{
    static const struct {
        enum sim_measure measure;
        const char *name;
    } columns[] = {
        {SIM_DECODE_TOK_S, "decode tok/s"},
        {SIM_PREFILL_TOK_S, "prefill tok/s"},
        {SIM_HIT_RATE, "hit rate"},
        {SIM_HIT_RATE_BYTES, "of all bytes in memory"},
        {SIM_DEMAND_BYTES, "demand bytes a token"},
        {SIM_PREFETCH_BYTES, "prefetch bytes a token"},
        {SIM_USEFUL_SHARE, "in time"},
        {SIM_LATE_SHARE, "late"},
        {SIM_WASTED_SHARE, "in vain"},
        {SIM_STALL_SHARE, "time waiting"},
        {SIM_STALL_DEMAND_SHARE, "demand"},
        {SIM_STALL_LATE_SHARE, "late prefetch"},
        {SIM_STALL_STREAM_SHARE, "streamed"},
        {SIM_STALL_ROWS_SHARE, "rows"},
        {SIM_P50_MS, "p50 ms"},
        {SIM_P95_MS, "p95 ms"},
        {SIM_P99_MS, "p99 ms"},
    };
    const struct sim_sweep *sweep = page->sweep;
    begin_table(page,
                sweep->n_traces > 1 ? "Medians over the traces; below them the least and the most" : "");
    name_heads(page);
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
        head(page, columns[c].name);
    fputs("</tr></thead>\n<tbody>\n", page->out);
    for (uint32_t i = 0; i < sweep->n_rows && sweep->n_budgets; i++) {
        const uint32_t row = page->ranking[i];
        fputs("<tr>", page->out);
        name_cells(page, row);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            const struct sim_figure f = sim_page_figure(page, row, page->chosen, columns[c].measure);
            figure_cell(page, columns[c].measure, &f, false);
        }
        fputs("</tr>\n", page->out);
    }
    end_table(page);
}

void sim_page_by_trace(const struct sim_page *page)
{
    const struct sim_sweep *sweep = page->sweep;
    char value[PLOT_NUMBER_SIZE];
    begin_table(page, "Each trace by its number in the list of traces");
    name_heads(page);
    for (uint32_t t = 0; t < sweep->n_traces; t++) {
        snprintf(value, sizeof value, "%" PRIu32, t + 1);
        head(page, value);
    }
    fputs("</tr></thead>\n<tbody>\n", page->out);
    for (uint32_t i = 0; i < sweep->n_rows && sweep->n_budgets; i++) {
        const uint32_t row = page->ranking[i];
        fputs("<tr>", page->out);
        name_cells(page, row);
        for (uint32_t t = 0; t < sweep->n_traces; t++) {
            bool known;
            const double at = sim_cell_value(sim_cell_at(sweep, row, page->chosen, t), page->measure,
                                             sweep->slots_mode, &known);
            fprintf(page->out, "<td>%s</td>", known ? sim_page_value(value, page->measure, at) : "–");
        }
        fputs("</tr>\n", page->out);
    }
    end_table(page);
}

void sim_page_traces(const struct sim_page *page)
{
    const struct sim_sweep *sweep = page->sweep;
    begin_table(page, "");
    word_head(page, "");
    word_head(page, "file");
    word_head(page, "model");
    head(page, "tokens");
    head(page, "of prompts");
    head(page, "conversations");
    head(page, "tokens only to learn from");
    fputs("</tr></thead>\n<tbody>\n", page->out);
    for (uint32_t t = 0; t < sweep->n_traces; t++) {
        const struct sim_trace_facts *facts = &sweep->traces[t];
        fprintf(page->out, "<tr><td class=\"place\">%" PRIu32 "</td><th scope=\"row\">", t + 1);
        plot_put(page->out, facts->path);
        fputs("</th><td class=\"word\">", page->out);
        plot_put(page->out, facts->model);
        fprintf(page->out,
                "</td><td>%" PRIu32 "</td><td>%" PRIu32 "</td><td>%" PRIu32 "</td><td>%" PRIu32
                "</td></tr>\n",
                facts->n_tokens, facts->n_prefill_tokens, facts->n_conversations, facts->n_fit_tokens);
    }
    end_table(page);
}
