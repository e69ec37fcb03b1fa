// One page about a sweep that needs nothing from elsewhere: pictures in SVG with the figures behind them.
// Well-formed XML, so that tests and programs can read it; no script.
#include "tools/sim_page.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fcfcfb;--ink:#16181d;--soft:#5a5f69;--line:#e3e4e6;--tint:#f3f4f4}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--bg:#15171b;--ink:#eceef1;--soft:#a4a9b3;"
    "--line:#2d3036;--tint:#1d2025}}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',"
    "sans-serif}\n"
    "main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}\n"
    "h1{font-size:25px;line-height:1.25;margin:0 0 4px}h2{font-size:18px;margin:44px 0 6px}"
    "p{margin:6px 0;max-width:78ch}.lead{font-size:17px}.note{color:var(--soft);font-size:13.5px}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:18px 0}"
    "dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\n"
    "code{font:13px/1.5 ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}\n"
    "figure{margin:12px 0 4px}figure svg{width:100%;height:auto;min-width:720px;display:block}"
    ".picture,.scroll{overflow-x:auto}\n"
    ".name{font-weight:500}svg:has(g.row:hover) g.row:not(:hover){opacity:.3}\n"
    "table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;margin:8px 0}"
    "caption{text-align:left;color:var(--soft);padding-bottom:6px}"
    "caption:empty{display:none}\n"
    "th,td{padding:5px 12px 5px 0;text-align:right;vertical-align:top;border-top:1px solid var(--line)}"
    "thead th{border-top:0;color:var(--soft);font-weight:500;vertical-align:bottom}"
    "tbody th,.word,thead th.word{text-align:left;font-weight:500;overflow-wrap:anywhere}"
    "tbody th{min-width:150px}td small{display:block;color:var(--soft);font-size:11.5px;white-space:nowrap}"
    ".best{font-weight:700}.bound{color:var(--soft);font-style:italic}.place{color:var(--soft)}\n"
    ".dot{display:inline-block;width:9px;height:9px;border-radius:5px;background:currentColor;"
    "margin-right:8px}\n"
    "details{margin:6px 0}summary{cursor:pointer;color:var(--soft);font-size:13.5px}\n"
    "@media print{main{max-width:none;padding:0}figure,tr{break-inside:avoid}h2{break-after:avoid}"
    "body{font-size:10.5pt}figure svg{min-width:0;print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".dot{print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".picture,.scroll{overflow:visible}details::details-content{content-visibility:visible;"
    "display:block}}\n";

// ---- head
// ----------------------------------------------------------------------------------------------------

static void fact(FILE *out, const char *name, const char *text)
{
    fprintf(out, "<dt>%s</dt><dd>", name);
    plot_put(out, text);
    fputs("</dd>\n", out);
}

static void put_title(const struct sim_page *page)
{
    const struct sim_sweep *s = page->sweep;
    plot_put(page->out, s->slots_mode ? "Hit rates of offload policies" : "Offload policies, simulated");
    if (*s->model) {
        fputs(": ", page->out);
        plot_put(page->out, s->model);
    }
}

static uint64_t sum_tokens(const struct sim_sweep *s, uint64_t *out_conversations, uint64_t *out_fit)
{
    uint64_t tokens = 0;
    *out_conversations = *out_fit = 0;
    for (uint32_t t = 0; t < s->n_traces; t++) {
        tokens += s->traces[t].n_tokens;
        *out_conversations += s->traces[t].n_conversations;
        *out_fit += s->traces[t].n_fit_tokens;
    }
    return tokens;
}

static void put_traces_fact(const struct sim_page *page)
{
    const struct sim_sweep *s = page->sweep;
    char text[256];
    uint64_t conversations, fit;
    const uint64_t tokens = sum_tokens(s, &conversations, &fit);
    int used =
        snprintf(text, sizeof text, "%" PRIu32 " with %" PRIu64 " tokens in %" PRIu64 " conversation%s",
                 s->n_traces, tokens, conversations, conversations == 1 ? "" : "s");
    if (fit)
        snprintf(text + used, sizeof text - (size_t)used,
                 "; %" PRIu64 " of the tokens are for learning and were not simulated", fit);
    fact(page->out, "traces", text);
    if (s->n_fit)
        snprintf(text, sizeof text, "%" PRIu32 " tokens of training traces (%" PRIu32 " file%s)",
                 s->fit_tokens, s->n_fit, s->n_fit == 1 ? "" : "s");
    else if (s->fit_tokens)
        snprintf(text, sizeof text, "%" PRIu32 " tokens of the traces’ own training part", s->fit_tokens);
    else
        snprintf(text, sizeof text, "nothing: policies and predictors began without heat of earlier runs");
    fact(page->out, "learned from", text);
}

static void put_facts(const struct sim_page *page)
{
    const struct sim_sweep *s = page->sweep;
    char text[512];
    fputs("<dl>\n", page->out);
    snprintf(text, sizeof text, "%s, %" PRIu32 " experts in each of %" PRIu32 " layers",
             *s->model ? s->model : "no name", s->n_experts, s->expert_layers);
    fact(page->out, "model", text);
    if (*s->machine) {
        snprintf(text, sizeof text, "%s%s%s%s", s->machine, *s->machine_source ? " (" : "", s->machine_source,
                 *s->machine_source ? ")" : "");
        fact(page->out, "machine", text);
    }
    if (s->threads || s->kv) {
        char threads[32] = "";
        if (s->threads)
            snprintf(threads, sizeof threads, "%" PRIu32 " threads%s", s->threads, s->kv ? ", " : "");
        snprintf(text, sizeof text, "%s%s%s", threads, s->kv ? "KV cache " : "", s->kv ? s->kv : "");
        fact(page->out, "run", text);
    }
    put_traces_fact(page);
    if (s->first_token || s->tokens) {
        char end[32] = "the end";
        if (s->tokens)
            snprintf(end, sizeof end, "%" PRIu64, (uint64_t)s->tokens);
        snprintf(text, sizeof text, "from token %" PRIu32 " on, up to %s", s->first_token, end);
        fact(page->out, "counted", text);
    }
    snprintf(text, sizeof text, "lode %s%s%.1f s", s->version, *s->version ? ", " : "",
             isfinite(s->elapsed_s) && s->elapsed_s >= 0 && s->elapsed_s < 1e9 ? s->elapsed_s : 0);
    fact(page->out, "made by", text);
    if (s->command_line) {
        fputs("<dt>command</dt><dd><code>", page->out);
        plot_put(page->out, s->command_line);
        fputs("</code></dd>\n", page->out);
    }
    fputs("</dl>\n", page->out);
}

// Rows that are as good as the best, for most purposes.
static uint32_t near_rows(const struct sim_page *page, uint32_t best, double best_median)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < page->n_policies; i++) {
        const uint32_t row = page->ranking[i];
        const struct sim_figure f = sim_page_figure(page, row, page->chosen, page->measure);
        n += row != best && f.known && f.median >= 0.99 * best_median;
    }
    return n;
}

// The answer in a sentence, in front of everything.
static void put_lead(const struct sim_page *page)
{
    const struct sim_sweep *s = page->sweep;
    char name[SIM_PAGE_NAME_SIZE], value[PLOT_NUMBER_SIZE];
    const uint32_t best = s->n_budgets ? sim_best_row(s, page->chosen, page->measure) : UINT32_MAX;
    struct sim_figure f = {0};
    if (best != UINT32_MAX)
        f = sim_page_figure(page, best, page->chosen, page->measure);
    if (!f.known) {
        fputs("<p class=\"lead\">No simulation has a figure.</p>\n", page->out);
        return;
    }
    fputs("<p class=\"lead\">At ", page->out);
    plot_put(page->out, s->budgets[page->chosen].text);
    fputs(s->slots_mode ? ", <b>" : " the fastest is <b>", page->out);
    plot_put(page->out, sim_page_name(name, page, best, page->measure));
    fprintf(page->out, s->slots_mode ? "</b> has the most hits: <b>%s</b>" : "</b>: <b>%s tok/s</b>",
            sim_page_value(value, page->measure, f.median));
    const double best_median = f.median;
    if (page->bound != UINT32_MAX)
        f = sim_page_figure(page, page->bound, page->chosen, page->measure);
    if (page->bound != UINT32_MAX && f.known && best_median > 0) {
        fprintf(page->out, " (%s ",
                s->slots_mode ? "the most there can be:" : "no policy and no predictor can be faster than");
        fprintf(page->out, "%s)", sim_page_value(value, page->measure, f.median));
    }
    fputs(s->n_traces > 1 ? ", the median over the traces." : ".", page->out);
    const uint32_t n_near = near_rows(page, best, best_median);
    if (n_near)
        fprintf(page->out, " %" PRIu32 " other row%s within 1%% of it.", n_near,
                n_near > 1 ? "s are" : " is");
    fputs("</p>\n", page->out);
}

static void put_what(const struct sim_page *page)
{
    static const char slots[] =
        "<p><b>Simulated:</b> a cache of so many slots for each layer, started empty. The policies are the "
        "program’s own code. A token’s experts in a layer are looked up together, and none of them evicts "
        "another. Belady’s bound lets that expert leave which is needed again last.</p>\n"
        "<p><b>Not simulated:</b> time, prefetch, and memory that all layers share. A hit that saves no "
        "waiting counts here like one that does.</p>\n";
    static const char budgets[] =
        "<p><b>Simulated:</b> the program’s own forward pass, residency, policies and predictors, under a "
        "virtual clock. What the routers choose comes from the traces, the times of kernels and drive from "
        "the machine’s profile.</p>\n"
        "<p><b>Not simulated:</b> GPUs (this version computes on the CPU), whatever else uses the machine, "
        "and what a drive does when it grows hot or full. No weight was read and nothing was computed.</p>\n"
        "<p><b>The bounds:</b> Belady’s bound reads the fewest experts that there can be when all choices "
        "are known beforehand. The oracle’s bound reads those, ahead of time and at the drive’s full rate. "
        "No policy with any predictor reads less or is faster.</p>\n";
    fputs(page->sweep->slots_mode ? slots : budgets, page->out);
}

static void put_failures(const struct sim_page *page)
{
    const struct sim_sweep *s = page->sweep;
    bool any = false;
    for (uint32_t i = 0; i < s->n_budgets; i++) {
        const struct sim_budget *budget = &s->budgets[page->budgets[i]];
        if (!*budget->why)
            continue;
        fputs(any ? "<li>" : "<p>Budgets without figures:</p><ul class=\"note\">\n<li>", page->out);
        plot_put(page->out, budget->text);
        fputs(": ", page->out);
        plot_put(page->out, budget->why);
        fputs("</li>\n", page->out);
        any = true;
    }
    if (any)
        fputs("</ul>\n", page->out);
}

// ---- parts
// ---------------------------------------------------------------------------------------------------

static void begin_behind(const struct sim_page *page, const char *summary)
{
    fprintf(page->out, "<details><summary>%s</summary>\n", summary);
}

static void put_lines(const struct sim_page *page, const char *id, enum sim_measure measure,
                      const char *title, const char *heading, const char *note)
{
    fprintf(page->out, "<h2>%s</h2>\n<p class=\"note\">%s%s</p>\n<figure><div class=\"picture\">\n", heading,
            note,
            page->sweep->n_traces > 1 ? " Medians over the traces, with whiskers from the least to the most."
                                      : "");
    if (page->sweep->n_budgets == 1)
        sim_page_single(page, id, measure, title);
    else
        sim_page_lines(page, id, measure, false, title);
    fputs("</div></figure>\n", page->out);
    begin_behind(page, "the figures");
    sim_page_matrix(page, measure, false);
    fputs("</details>\n", page->out);
}

// What a picture from 0 on is too small for.
static void put_against(const struct sim_page *page)
{
    char name[SIM_PAGE_NAME_SIZE];
    if (page->n_policies < 2 || page->sweep->n_budgets < 2)
        return;
    fputs("<h2>Against ", page->out);
    plot_put(page->out, sim_page_name(name, page, page->first, page->measure));
    fprintf(
        page->out, "</h2>\n<p class=\"note\">%s on the same trace.%s</p>\n<figure><div class=\"picture\">\n",
        page->sweep->slots_mode ? "More or fewer hits than this row, in points of percent,"
                                : "Faster or slower than this row,",
        page->sweep->n_traces > 1 ? " Medians over the traces, with whiskers from the least to the most: a "
                                    "row whose whisker crosses 0 is not better on every trace."
                                  : "");
    sim_page_lines(page, "against", page->measure, true,
                   page->sweep->slots_mode ? "hit rate, points of difference" : "decode speed, difference");
    fputs("</div></figure>\n", page->out);
    begin_behind(page, "the figures");
    sim_page_matrix(page, page->measure, true);
    fputs("</details>\n", page->out);
}

static void put_timed_parts(const struct sim_page *page)
{
    put_lines(page, "speed", SIM_DECODE_TOK_S, "decode, tokens a second",
              page->sweep->n_budgets > 1 ? "Speed by budget" : "Speed",
              "More is better. Dashed: the oracle’s bound.");
    put_against(page);
    put_lines(
        page, "hits", SIM_HIT_RATE, "experts that were in memory when they were chosen, decode",
        page->sweep->n_budgets > 1 ? "Hits by budget" : "Hits",
        "Of the experts that tokens chose. Dashed: the most without prefetch, by Belady. What was "
        "prefetched in time counts as a hit, so that rows with a predictor may be above; and a hit that "
        "would have been hidden behind computing saves no time, so that the order may be another.");
    fputs("<h2>A token at ", page->out);
    plot_put(page->out, page->sweep->budgets[page->chosen].text);
    fputs(
        "</h2>\n<p class=\"note\">Decode, all traces together. Prefetched in time: it was there when a token "
        "chose it; late: the token waited for the rest of it; in vain: it left unused. The bound is not "
        "divided: it is the larger of what computing and reading take.</p>\n<figure><div "
        "class=\"picture\">\n",
        page->out);
    sim_page_bars(page);
    fputs("</div></figure>\n", page->out);
    begin_behind(page, "the figures, prefill included");
    sim_page_details(page);
    fputs("</details>\n", page->out);
}

static void put_ranking(const struct sim_page *page)
{
    const bool several = page->sweep->n_budgets > 1;
    fprintf(page->out, "<h2>Ranking</h2>\n<p class=\"note\">%s%s</p>\n",
            page->sweep->slots_mode ? "Ratios of misses: 1.2 means 20% more misses."
                                    : "Ratios of speed: 1.2 means 20% faster.",
            several ? " They are geometric means over the budgets, with the least and the most below." : "");
    sim_page_ranking(page);
}

static void put_traces(const struct sim_page *page)
{
    fputs("<h2>Traces</h2>\n", page->out);
    const bool many = page->sweep->n_traces > 6;
    if (many)
        begin_behind(page, "the files");
    sim_page_traces(page);
    if (many)
        fputs("</details>\n", page->out);
    if (page->sweep->n_traces > 1 && page->sweep->n_budgets) {
        fputs("<details><summary>", page->out);
        plot_put(page->out, page->sweep->slots_mode ? "hit rates of each at " : "decode tok/s of each at ");
        plot_put(page->out, page->sweep->budgets[page->chosen].text);
        fputs("</summary>\n", page->out);
        sim_page_by_trace(page);
        fputs("</details>\n", page->out);
    }
}

int sim_print_html(FILE *stream, const struct sim_sweep *sweep)
{
    struct sim_page page;
    if (!sim_page_open(&page, stream, sweep))
        return -1;
    fputs("<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n"
          "<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, "
          "initial-scale=1\"/>\n<title>",
          stream);
    put_title(&page);
    fprintf(stream, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n<h1>", style);
    put_title(&page);
    fputs("</h1>\n", stream);
    put_lead(&page);
    put_facts(&page);
    put_what(&page);
    put_failures(&page);
    if (!sweep->n_budgets)
        fputs("<p>There was no budget to simulate.</p>\n", stream);
    else if (sweep->slots_mode) {
        put_lines(&page, "hits", SIM_HIT_RATE, "experts that were in the cache when they were chosen",
                  sweep->n_budgets > 1 ? "Hits by slots" : "Hits", "More is better. Dashed: Belady’s bound.");
        put_against(&page);
    } else
        put_timed_parts(&page);
    put_ranking(&page);
    put_traces(&page);
    fputs("</main>\n</body>\n</html>\n", stream);
    sim_page_close(&page);
    return ferror(stream) ? -1 : 0;
}
