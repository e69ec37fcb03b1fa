// What the parts of the page about a sweep share: which rows are drawn how, in which order, and their names.
#ifndef LODE_TOOLS_SIM_PAGE_H
#define LODE_TOOLS_SIM_PAGE_H

#include "tools/plot.h"
#include "tools/sim.h"

#define SIM_PAGE_WIDTH 1040.0 // of pictures
#define SIM_PAGE_COLOURS 6    // the best rows; the others are grey
#define SIM_PAGE_DRAWN 12     // rows of a bar chart, bounds not counted
#define SIM_PAGE_LABELS 16    // of lines

enum { SIM_PAGE_GREY = SIM_PAGE_COLOURS, SIM_PAGE_BOUND };
enum { SIM_PAGE_NAME_SIZE = 192 };

struct sim_page {
    FILE *out;
    const struct sim_sweep *sweep;
    enum sim_measure measure; // by which rows are ranked
    uint32_t *ranking;        // [n_rows] policies, the best first, then bounds
    uint32_t n_policies;
    double *score;    // [n_rows] share of the best row's figure, mean over budgets; 0 where a row has failed
    uint32_t *colour; // [n_rows] 0 to 5, SIM_PAGE_GREY, SIM_PAGE_BOUND
    uint32_t first;   // the row that ratios are to, UINT32_MAX: no policy
    uint32_t bound;   // the row of the bound, UINT32_MAX: none
    bool one_predictor;  // names go without it
    uint32_t *budgets;   // [n_budgets] the smallest first
    double *budget_x;    // [n_budgets] of the budgets in this order: where they lie on an axis
    bool budgets_double; // the axis is logarithmic
    double *of_traces;   // [n_traces] to sort in
    uint32_t chosen;     // the budget that is shown in detail
};

// False: no memory. `sweep` and `out` must outlive it.
bool sim_page_open(struct sim_page *out, FILE *stream, const struct sim_sweep *sweep);
void sim_page_close(struct sim_page *page);

// "lfu + next-gate", or "lfu" where all have the same predictor; a bound's is what it is for the measure.
const char *sim_page_name(char out[SIM_PAGE_NAME_SIZE], const struct sim_page *page, uint32_t row,
                          enum sim_measure measure);

// The figure with its unit: "12.3", "61.2%", "41.0 MiB".
const char *sim_page_value(char out[PLOT_NUMBER_SIZE], enum sim_measure measure, double value);

// sim_figure_of, known only where all of it is finite.
struct sim_figure sim_page_figure(const struct sim_page *page, uint32_t row, uint32_t budget,
                                  enum sim_measure measure);

// The same against the first row on the same trace, so that what traces have in common is gone: of a speed
// the share by which it is faster, of a hit rate the difference.
struct sim_figure sim_page_against(const struct sim_page *page, uint32_t row, uint32_t budget);
const char *sim_page_against_value(char out[PLOT_NUMBER_SIZE], const struct sim_page *page, double value);

// Opens and closes a picture of its own, whose style follows the light or dark scheme. Titles are plain text.
void sim_page_picture(const struct sim_page *page, const char *id, double height, const char *title,
                      const char *description);
void sim_page_picture_end(const struct sim_page *page);

// ---- sim_page_lines.c

// Lines over the budgets, one for each row that has a figure. `against`: by the ranking's measure against
// the first row, without bounds.
void sim_page_lines(const struct sim_page *page, const char *id, enum sim_measure measure, bool against,
                    const char *title);

// ---- sim_page_single.c

// The same where there is one budget alone: a bar for each row.
void sim_page_single(const struct sim_page *page, const char *id, enum sim_measure measure,
                     const char *title);

// ---- sim_page_bars.c

// Bytes, time and latency of a token at the chosen budget, row by row.
void sim_page_bars(const struct sim_page *page);

// ---- sim_page_tables.c

// The ranking: ratios to the first row and to the bound, over all budgets.
void sim_page_ranking(const struct sim_page *page);
// A measure of all rows at all budgets; or `against` the first row, as of the lines.
void sim_page_matrix(const struct sim_page *page, enum sim_measure measure, bool against);
// Everything at the chosen budget; and what differs from trace to trace.
void sim_page_details(const struct sim_page *page);
void sim_page_by_trace(const struct sim_page *page);
// The traces themselves.
void sim_page_traces(const struct sim_page *page);

#endif
