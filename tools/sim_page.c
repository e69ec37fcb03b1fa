// What is drawn how: the order of rows and budgets, colours, names.
#include "tools/sim_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- rows
// ----------------------------------------------------------------------------------------------------

struct sim_figure sim_page_figure(const struct sim_page *page, uint32_t row, uint32_t budget,
                                  enum sim_measure measure)
{
    struct sim_figure figure = sim_figure_of(page->sweep, row, budget, measure);
    if (!isfinite(figure.median) || !isfinite(figure.least) || !isfinite(figure.most))
        figure = (struct sim_figure){0};
    return figure;
}

static int compare_values(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct sim_figure sim_page_against(const struct sim_page *page, uint32_t row, uint32_t budget)
{
    const struct sim_sweep *s = page->sweep;
    struct sim_figure figure = {0};
    uint32_t n = 0;
    for (uint32_t t = 0; page->first != UINT32_MAX && t < s->n_traces; t++) {
        bool known, first_known;
        const double value =
            sim_cell_value(sim_cell_at(s, row, budget, t), page->measure, s->slots_mode, &known);
        const double first = sim_cell_value(sim_cell_at(s, page->first, budget, t), page->measure,
                                            s->slots_mode, &first_known);
        const double against = s->slots_mode ? value - first : value / first - 1;
        if (known && first_known && isfinite(against) && fabs(against) < 1e6)
            page->of_traces[n++] = against;
    }
    if (!n)
        return figure;
    qsort(page->of_traces, n, sizeof *page->of_traces, compare_values);
    figure.median = (page->of_traces[(n - 1) / 2] + page->of_traces[n / 2]) / 2;
    figure.least = page->of_traces[0];
    figure.most = page->of_traces[n - 1];
    figure.known = true;
    return figure;
}

const char *sim_page_against_value(char out[PLOT_NUMBER_SIZE], const struct sim_page *page, double value)
{
    if (fabs(value) < 5e-4) // rounded to no difference
        snprintf(out, PLOT_NUMBER_SIZE, "0");
    else
        snprintf(out, PLOT_NUMBER_SIZE, page->sweep->slots_mode ? "%+.1f" : "%+.1f%%", 100 * value);
    return out;
}

static bool is_policy(const struct sim_page *page, uint32_t row)
{
    return page->sweep->rows[row].kind == SIM_ROW_POLICY;
}

static double best_at(const struct sim_page *page, uint32_t budget)
{
    double best = 0;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++) {
        const struct sim_figure figure = sim_page_figure(page, r, budget, page->measure);
        if (is_policy(page, r) && figure.known && figure.median > best)
            best = figure.median;
    }
    return best;
}

static void score_rows(struct sim_page *page)
{
    const struct sim_sweep *sweep = page->sweep;
    for (uint32_t b = 0; b < sweep->n_budgets; b++) {
        const double best = best_at(page, b);
        for (uint32_t r = 0; r < sweep->n_rows && best > 0; r++) {
            const struct sim_figure figure = sim_page_figure(page, r, b, page->measure);
            if (figure.known)
                page->score[r] += figure.median / best / sweep->n_budgets;
        }
    }
}

// Insertion keeps rows that are alike in the order of the command.
static void rank_rows(struct sim_page *page)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++) {
        if (!is_policy(page, r))
            continue;
        uint32_t at = n++;
        for (; at && page->score[page->ranking[at - 1]] < page->score[r]; at--)
            page->ranking[at] = page->ranking[at - 1];
        page->ranking[at] = r;
    }
    page->n_policies = n;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++)
        if (!is_policy(page, r))
            page->ranking[n++] = r;
}

// The first row, which ratios are to, and the best of the others, in the order of the command.
static void colour_rows(struct sim_page *page)
{
    uint32_t n_coloured = 0;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++)
        page->colour[r] = is_policy(page, r) ? SIM_PAGE_GREY : SIM_PAGE_BOUND;
    if (page->first != UINT32_MAX) {
        page->colour[page->first] = 0;
        n_coloured = 1;
    }
    for (uint32_t i = 0; i < page->n_policies && n_coloured < SIM_PAGE_COLOURS; i++)
        if (page->ranking[i] != page->first) {
            page->colour[page->ranking[i]] = 0;
            n_coloured++;
        }
    uint32_t next = 0;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++)
        if (page->colour[r] < SIM_PAGE_COLOURS)
            page->colour[r] = next++;
}

static void look_at_rows(struct sim_page *page)
{
    const char *predictor = NULL;
    page->first = page->bound = UINT32_MAX;
    page->one_predictor = true;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++) {
        const struct sim_row *row = &page->sweep->rows[r];
        if (!is_policy(page, r)) {
            page->bound = page->bound == UINT32_MAX || row->kind == SIM_ROW_ORACLE ? r : page->bound;
            continue;
        }
        page->first = page->first == UINT32_MAX ? r : page->first;
        const char *this = row->predictor ? row->predictor : "none";
        page->one_predictor &= !predictor || strcmp(predictor, this) == 0;
        predictor = this;
    }
}

const char *sim_page_name(char out[SIM_PAGE_NAME_SIZE], const struct sim_page *page, uint32_t row,
                          enum sim_measure measure)
{
    const struct sim_row *r = &page->sweep->rows[row];
    const bool hits = measure == SIM_HIT_RATE || measure == SIM_HIT_RATE_BYTES || measure == SIM_DEMAND_BYTES;
    const char *policy = r->policy && *r->policy ? r->policy : "?";
    const char *predictor = r->predictor && *r->predictor ? r->predictor : "none";
    if (r->kind != SIM_ROW_POLICY)
        snprintf(out, SIM_PAGE_NAME_SIZE, "%s",
                 r->kind == SIM_ROW_BELADY || hits ? "Belady’s bound" : "oracle’s bound");
    else if (page->one_predictor || strcmp(predictor, "none") == 0)
        snprintf(out, SIM_PAGE_NAME_SIZE, "%s", policy);
    else
        snprintf(out, SIM_PAGE_NAME_SIZE, "%s + %s", policy, predictor);
    return out;
}

const char *sim_page_value(char out[PLOT_NUMBER_SIZE], enum sim_measure measure, double value)
{
    switch (measure) {
    case SIM_HIT_RATE:
    case SIM_HIT_RATE_BYTES:
    case SIM_USEFUL_SHARE:
    case SIM_LATE_SHARE:
    case SIM_WASTED_SHARE:
    case SIM_STALL_SHARE:
    case SIM_STALL_DEMAND_SHARE:
    case SIM_STALL_LATE_SHARE:
    case SIM_STALL_STREAM_SHARE:
    case SIM_STALL_ROWS_SHARE:
        return plot_percent(out, value);
    case SIM_DEMAND_BYTES:
    case SIM_PREFETCH_BYTES:
        return plot_bytes(out, value);
    case SIM_DECODE_TOK_S:
    case SIM_PREFILL_TOK_S:
    case SIM_P50_MS:
    case SIM_P95_MS:
    case SIM_P99_MS:
    case SIM_MEASURES:
        break;
    }
    return plot_number(out, value);
}

// ---- budgets
// -------------------------------------------------------------------------------------------------

static double budget_size(const struct sim_budget *budget)
{
    const double size = budget->slots       ? (double)budget->slots
                        : budget->ram_bytes ? (double)budget->ram_bytes
                                            : budget->share;
    return isfinite(size) && size >= 0 ? size : 0;
}

// Which of the three says how large it is; 0: none, as where everything fits.
static int budget_kind(const struct sim_budget *budget)
{
    return budget->slots ? 1 : budget->ram_bytes ? 2 : isfinite(budget->share) && budget->share > 0 ? 3 : 0;
}

// Positions are sizes where all budgets are of one kind, and numbers in the command's order otherwise.
static void place_budgets(struct sim_page *page)
{
    const struct sim_sweep *sweep = page->sweep;
    const uint32_t n = sweep->n_budgets;
    bool alike = true;
    for (uint32_t b = 0; b < n; b++) {
        const int kind = budget_kind(&sweep->budgets[b]), first = budget_kind(&sweep->budgets[0]);
        alike &= kind && kind == first;
        uint32_t at = b;
        const double size = budget_size(&sweep->budgets[b]);
        for (; at && budget_size(&sweep->budgets[page->budgets[at - 1]]) > size; at--)
            page->budgets[at] = page->budgets[at - 1];
        page->budgets[at] = b;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!alike)
            page->budgets[i] = i;
        page->budget_x[i] = alike ? budget_size(&sweep->budgets[page->budgets[i]]) : i;
    }
    // By factors where a step is one, on average, by 30% and more.
    page->budgets_double = alike && n > 1 && page->budget_x[n - 1] / page->budget_x[0] > pow(1.3, n - 1.0);
}

static uint32_t known_at(const struct sim_page *page, uint32_t budget)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < page->sweep->n_rows; r++)
        n += is_policy(page, r) && sim_page_figure(page, r, budget, page->measure).known;
    return n;
}

// The middle one, or the nearest to it, the larger first, with as many figures as any.
static uint32_t choose_budget(const struct sim_page *page)
{
    const uint32_t n = page->sweep->n_budgets, middle = n / 2;
    uint32_t best = middle, most = 0;
    for (uint32_t step = 0; step <= n; step++)
        for (int side = 1; side >= -1; side -= 2) {
            const int64_t at = (int64_t)middle + side * (int64_t)step;
            if (at < 0 || at >= n)
                continue;
            const uint32_t known = known_at(page, page->budgets[at]);
            if (known > most) {
                most = known;
                best = (uint32_t)at;
            }
        }
    return n ? page->budgets[best] : 0;
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

bool sim_page_open(struct sim_page *out, FILE *stream, const struct sim_sweep *sweep)
{
    const size_t n_rows = (size_t)sweep->n_rows + 1, n_budgets = (size_t)sweep->n_budgets + 1;
    *out = (struct sim_page){
        .out = stream,
        .sweep = sweep,
        .measure = sweep->slots_mode ? SIM_HIT_RATE : SIM_DECODE_TOK_S,
        .ranking = calloc(n_rows, sizeof *out->ranking),
        .score = calloc(n_rows, sizeof *out->score),
        .colour = calloc(n_rows, sizeof *out->colour),
        .budgets = calloc(n_budgets, sizeof *out->budgets),
        .budget_x = calloc(n_budgets, sizeof *out->budget_x),
        .of_traces = calloc((size_t)sweep->n_traces + 1, sizeof *out->of_traces),
    };
    if (!out->ranking || !out->score || !out->colour || !out->budgets || !out->budget_x || !out->of_traces) {
        sim_page_close(out);
        return false;
    }
    look_at_rows(out);
    score_rows(out);
    rank_rows(out);
    colour_rows(out);
    place_budgets(out);
    out->chosen = choose_budget(out);
    return true;
}

void sim_page_close(struct sim_page *page)
{
    free(page->ranking);
    free(page->score);
    free(page->colour);
    free(page->budgets);
    free(page->budget_x);
    free(page->of_traces);
    *page = (struct sim_page){0};
}

// Chosen by a search for the largest differences: for all eyes, of the three kinds of colour blindness too,
// two of them are 0.12 apart in OKLab on light and 0.10 on dark, and each has a contrast of 3 with the
// ground.
static const char style[] =
    ".bg{fill:#fcfcfb}.t{fill:#16181d}.m{fill:#5a5f69}.gr{stroke:#e3e4e6}.ax{stroke:#a3a7ae}\n"
    ".k0{color:#2a5fcc}.k1{color:#d46a00}.k2{color:#2f9e7f}.k3{color:#962e70}.k4{color:#b678ee}"
    ".k5{color:#5c4a00}.k6{color:#9499a2}.k7{color:#16181d}\n"
    ".de{fill:#d46a00}.us{fill:#2a5fcc}.la{fill:#e3b224}.wa{fill:#a9adb5}.st{fill:#8457c9}.ro{fill:#c2528f}"
    ".co{fill:#a9bbd6}.al{fill:#5a5f69}\n"
    ".ln{fill:none;stroke:currentColor;stroke-linejoin:round}.mk{fill:currentColor}.wh{stroke:currentColor}\n"
    "@media screen and (prefers-color-scheme:dark){\n"
    ".bg{fill:#15171b}.t{fill:#eceef1}.m{fill:#a4a9b3}.gr{stroke:#2d3036}.ax{stroke:#6a6f79}\n"
    ".k0{color:#2f9bf5}.k1{color:#d2661c}.k2{color:#7fe8c6}.k3{color:#f0649a}.k4{color:#8f5ce0}"
    ".k5{color:#e9c22e}.k6{color:#6f747e}.k7{color:#eceef1}\n"
    ".de{fill:#e0761a}.us{fill:#3d93f0}.la{fill:#e9c22e}.wa{fill:#6f747e}.st{fill:#9a78ea}.ro{fill:#e066ab}"
    ".co{fill:#4d6285}.al{fill:#a4a9b3}\n}\n";

void sim_page_picture(const struct sim_page *page, const char *id, double height, const char *title,
                      const char *description)
{
    fprintf(page->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" id=\"%s\" viewBox=\"0 0 %g %g\" width=\"%g\" "
            "height=\"%g\" role=\"img\" aria-labelledby=\"%s-title %s-text\" font-family=\"system-ui, "
            "'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"12.5\">\n<title id=\"%s-title\">",
            id, SIM_PAGE_WIDTH, height, SIM_PAGE_WIDTH, height, id, id, id);
    plot_put(page->out, title);
    fprintf(page->out, "</title>\n<desc id=\"%s-text\">", id);
    plot_put(page->out, description);
    fprintf(page->out, "</desc>\n<style>\n%s</style>\n<rect class=\"bg\" width=\"%g\" height=\"%g\"/>\n",
            style, SIM_PAGE_WIDTH, height);
}

void sim_page_picture_end(const struct sim_page *page)
{
    fputs("</svg>\n", page->out);
}
