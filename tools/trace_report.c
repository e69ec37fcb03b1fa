// The screen of a trace: what was recorded, the whole in a dozen lines, then a line for each layer.
#include "tools/trace_report.h"

#include "tools/json_out.h"
#include "tools/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { SHOWN_RANKS = 16, SHOWN_DOMAINS = 8 };
static const char *const phase_names[N_TRACE_PHASES] = {"prefill", "decode", "unknown"};
static const char *const read_names[N_TRACE_READS] = {"demand", "guess", "fill"};
static const char *const part_names[N_TRACE_PARTS] = {NULL, "fit", "test"};

// ---- text
// ----------------------------------------------------------------------------------------------------

// A share as a percentage, or a dash where it is unknown.
static const char *percent(char text[TEXT_NUMBER_SIZE], double share)
{
    if (isfinite(share))
        snprintf(text, TEXT_NUMBER_SIZE, "%.1f", 100 * share);
    else
        snprintf(text, TEXT_NUMBER_SIZE, "-");
    return text;
}

static void print_files(FILE *out, const struct trace_report *r)
{
    char name[512];
    for (uint32_t i = 0; i < r->n; i++)
        fprintf(out, "%-12s %s (%s, %u tokens)\n", i ? "" : "trace",
                text_printable(name, sizeof name, r->paths[i]), r->traces[i].format, r->traces[i].n_tokens);
}

static void print_model(FILE *out, const struct trace_report *r)
{
    const struct trace_header *h = &r->traces[0].header;
    const struct trace_layer_summary *first = &r->summary->layers[0];
    uint64_t least = UINT64_MAX, most = 0;
    char name[512], low[TEXT_NUMBER_SIZE], high[TEXT_NUMBER_SIZE];
    for (uint32_t m = 0; m < r->summary->n_moe; m++) {
        const uint64_t bytes = r->summary->layers[m].expert_bytes;
        least = bytes < least ? bytes : least;
        most = bytes > most ? bytes : most;
    }
    fprintf(out, "%-12s %s", "model", h->model[0] ? text_printable(name, sizeof name, h->model) : "unknown");
    if (h->fingerprint)
        fprintf(out, ", fingerprint %016" PRIx64, h->fingerprint);
    fprintf(out, "\n%-12s %u layers, %u of %u experts for a token", "", r->summary->n_moe, first->n_used,
            first->n_experts);
    if (most && least == most)
        fprintf(out, ", of %s", text_bytes(low, most));
    else if (most)
        fprintf(out, ", of %s to %s", text_bytes(low, least), text_bytes(high, most));
    fputc('\n', out);
    if (h->machine[0] || h->lode_version[0])
        fprintf(out, "%-12s on %s, by lode %s\n", "recorded",
                h->machine[0] ? text_printable(name, sizeof name, h->machine) : "an unknown machine",
                h->lode_version[0] ? h->lode_version : "?");
    if (h->options[0])
        fprintf(out, "%-12s %s\n", "options", text_printable(name, sizeof name, h->options));
}

static void print_conversations(FILE *out, const struct trace_report *r)
{
    const struct trace_summary *s = r->summary;
    const char *domains[SHOWN_DOMAINS];
    uint32_t counts[SHOWN_DOMAINS] = {0}, n = 0, parts[N_TRACE_PARTS] = {0};
    bool more = false;
    for (uint32_t i = 0; i < r->n; i++)
        for (uint32_t c = 0; c < r->traces[i].n_conversations; c++) {
            const struct trace_conversation *one = &r->traces[i].conversations[c];
            parts[one->part]++;
            uint32_t d = 0;
            while (d < n && strcmp(domains[d], one->domain) != 0)
                d++;
            if (d == SHOWN_DOMAINS) {
                more = true;
                continue;
            }
            if (d == n)
                domains[n++] = one->domain;
            counts[d]++;
        }
    fprintf(out, "%-12s %" PRIu64 " in %" PRIu64 " conversation%s", "tokens", s->n_tokens, s->n_conversations,
            s->n_conversations == 1 ? "" : "s");
    if (parts[TRACE_PART_FIT] + parts[TRACE_PART_TEST])
        fprintf(out, " (%u to fit, %u to test)", parts[TRACE_PART_FIT], parts[TRACE_PART_TEST]);
    if (s->n_dropped_tokens)
        fprintf(out, "; %" PRIu64 " of passes that were given up are left out", s->n_dropped_tokens);
    fputc('\n', out);
    if (n == 1 && !domains[0][0])
        return;
    fprintf(out, "%-12s", "domains");
    for (uint32_t d = 0; d < n; d++) {
        char name[TRACE_DOMAIN_SIZE];
        fprintf(out, "%s %s %u", d ? "," : "",
                domains[d][0] ? text_printable(name, sizeof name, domains[d]) : "unnamed", counts[d]);
    }
    fprintf(out, "%s\n", more ? ", …" : "");
}

static void print_phase_reads(FILE *out, const struct trace_phase_summary *phase)
{
    char bytes[TEXT_NUMBER_SIZE];
    for (int k = 0; k < N_TRACE_READS; k++)
        if (phase->n_read[k])
            fprintf(out, ", %s %s", read_names[k], text_bytes(bytes, phase->read_bytes[k]));
}

static void print_phases(FILE *out, const struct trace_summary *s)
{
    char reuse[TEXT_NUMBER_SIZE];
    for (int p = 0; p < N_TRACE_PHASES; p++) {
        const struct trace_phase_summary *phase = &s->phases[p];
        if (!phase->n_tokens)
            continue;
        fprintf(out, "%-12s %" PRIu64 " tokens in %" PRIu64 " pass%s", phase_names[p], phase->n_tokens,
                phase->n_passes, phase->n_passes == 1 ? "" : "es");
        if (s->known & TRACE_HAS_TIMES && phase->pass_ns)
            fprintf(out, ", %.2f s, stalled %.1f%%", (double)phase->pass_ns * 1e-9,
                    100.0 * (double)phase->stall_ns / (double)phase->pass_ns);
        if (phase->n_pairs)
            fprintf(out, ", reuse %s%%", percent(reuse, (double)phase->n_reused / (double)phase->n_pairs));
        if (s->known & TRACE_HAS_RESIDENCY && phase->n_choices)
            fprintf(out, ", in memory %s%%",
                    percent(reuse, (double)phase->n_resident / (double)phase->n_choices));
        print_phase_reads(out, phase);
        fputc('\n', out);
    }
    if (s->waited_ns)
        fprintf(out, "%-12s the run waited %.1f ms for the trace to be written\n", "",
                (double)s->waited_ns * 1e-6);
}

static void print_ranks(FILE *out, const char *label, const double *values, uint32_t n, const char *after)
{
    char text[TEXT_NUMBER_SIZE];
    fprintf(out, "%-12s", label);
    for (uint32_t r = 0; r < n && r < SHOWN_RANKS; r++)
        fprintf(out, " %s", percent(text, values[r]));
    fprintf(out, "%s%s\n", n > SHOWN_RANKS ? " …" : "", after);
}

static void print_whole(FILE *out, const struct trace_summary *s)
{
    const struct trace_spread *mean = &s->mean;
    char a[TEXT_NUMBER_SIZE], b[TEXT_NUMBER_SIZE], c[TEXT_NUMBER_SIZE];
    fprintf(out, "%-12s the hottest 10%%, 25%%, 50%% of a layer's experts take %s%%, %s%%, %s%%\n", "skew",
            percent(a, mean->hot[0]), percent(b, mean->hot[1]), percent(c, mean->hot[2]));
    fprintf(out, "%-12s Zipf exponent %.2f, entropy %.2f bits: as %.0f equally hot experts\n", "", mean->zipf,
            mean->entropy_bits, exp2(mean->entropy_bits));
    fprintf(out, "%-12s %s%% of a token's experts were the token's before; by chance %s%%\n", "reuse",
            percent(a, mean->reuse), percent(b, mean->reuse_by_chance));
    if (s->known & TRACE_HAS_WEIGHTS) {
        char after[96];
        snprintf(after, sizeof after, " %% by rank; lower half %s%%", percent(a, mean->lower_half));
        print_ranks(out, "gate mass", s->mass_by_rank, s->n_used, after);
    }
    if (s->n_ranks) {
        print_ranks(out, "guesses", s->precision_by_rank, s->n_ranks, " % right, by rank");
        print_ranks(out, "", s->recall_by_rank, s->n_ranks, " % named by ranks so far");
    }
}

static void print_windows(FILE *out, const struct trace_summary *s)
{
    char text[TEXT_NUMBER_SIZE];
    fprintf(out, "\n%-12s", "tokens");
    for (int w = 0; w < TRACE_N_WINDOWS; w++)
        fprintf(out, " %6u", 1u << w);
    fprintf(out, "\n%-12s", "experts");
    for (int w = 0; w < TRACE_N_WINDOWS; w++)
        if (isfinite(s->window[w]))
            fprintf(out, " %6.1f", s->window[w]);
        else
            fprintf(out, " %6s", "-");
    fprintf(out, "  distinct in a layer, the mean\n");
    if (!(s->window_bytes[0] > 0))
        return;
    fprintf(out, "%-12s", "GiB");
    for (int w = 0; w < TRACE_N_WINDOWS; w++) {
        snprintf(text, sizeof text, "%.2f", ldexp(s->window_bytes[w], -30));
        fprintf(out, " %6s", isfinite(s->window_bytes[w]) ? text : "-");
    }
    fprintf(out, "  of all layers\n");
}

static void print_spread(FILE *out, const struct trace_spread *spread)
{
    char text[TEXT_NUMBER_SIZE];
    for (int i = 0; i < 3; i++)
        fprintf(out, " %5s", percent(text, spread->hot[i]));
    fprintf(out, " %7.2f %5.2f", spread->entropy_bits, spread->zipf);
    fprintf(out, " %6s", percent(text, spread->reuse));
    fprintf(out, " %6s", percent(text, spread->lower_half));
}

static void print_layers(FILE *out, const struct trace_summary *s)
{
    fprintf(out, "\n%5s %5s %5s %5s %7s %5s %6s %6s %6s  %s\n", "layer", "10%", "25%", "50%", "entropy",
            "Zipf", "reuse", "lower", "unused", "hottest: % of tokens");
    for (uint32_t m = 0; m < s->n_moe; m++) {
        const struct trace_layer_summary *layer = &s->layers[m];
        fprintf(out, "%5u", layer->layer);
        print_spread(out, &layer->spread);
        fprintf(out, " %6u ", layer->n_experts - layer->n_chosen);
        for (int i = 0; i < 3 && layer->hottest[i] != TRACE_NO_EXPERT; i++)
            fprintf(out, " %u: %.0f", layer->hottest[i],
                    100.0 * (double)layer->hottest_choices[i] / (double)layer->n_tokens);
        fputc('\n', out);
    }
    fprintf(out, "%5s", "mean");
    print_spread(out, &s->mean);
    fputc('\n', out);
}

void trace_report_text(FILE *out, const struct trace_report *report)
{
    print_files(out, report);
    print_model(out, report);
    print_conversations(out, report);
    print_phases(out, report->summary);
    print_whole(out, report->summary);
    print_windows(out, report->summary);
    print_layers(out, report->summary);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static void set_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, json_out_text(text, strlen(text)));
}

static void set_number(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_out_number(value));
}

static void set_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *numbers(const double *values, uint32_t n)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(array, json_out_number(values[i]));
    return array;
}

static void set_spread(json_t *object, const struct trace_spread *spread)
{
    set_number(object, "share_hottest_10", spread->hot[0]);
    set_number(object, "share_hottest_25", spread->hot[1]);
    set_number(object, "share_hottest_50", spread->hot[2]);
    set_number(object, "entropy_bits", spread->entropy_bits);
    set_number(object, "zipf", spread->zipf);
    set_number(object, "reuse", spread->reuse);
    set_number(object, "reuse_by_chance", spread->reuse_by_chance);
    set_number(object, "lower_half", spread->lower_half);
    set_number(object, "hit_rate", spread->hit_rate);
}

static json_t *layer_json(const struct trace_summary *s, uint32_t m)
{
    const struct trace_layer_summary *layer = &s->layers[m];
    json_t *object = json_object(), *counts = json_array();
    set_count(object, "layer", layer->layer);
    set_count(object, "experts", layer->n_experts);
    set_count(object, "experts_chosen", layer->n_chosen);
    set_count(object, "used", layer->n_used);
    set_count(object, "expert_bytes", layer->expert_bytes);
    set_count(object, "tokens", layer->n_tokens);
    set_count(object, "choices", layer->n_choices);
    set_spread(object, &layer->spread);
    json_object_set_new(object, "working_set", numbers(layer->window, TRACE_N_WINDOWS));
    for (uint32_t e = 0; e < layer->n_experts; e++)
        json_array_append_new(counts, json_integer((json_int_t)s->counts[(size_t)m * s->max_experts + e]));
    json_object_set_new(object, "counts", counts);
    return object;
}

static json_t *phase_json(const struct trace_summary *s, const struct trace_phase_summary *phase)
{
    json_t *object = json_object(), *reads = json_object();
    const double pairs = (double)phase->n_pairs, choices = (double)phase->n_choices;
    set_count(object, "tokens", phase->n_tokens);
    set_count(object, "passes", phase->n_passes);
    set_count(object, "choices", phase->n_choices);
    set_number(object, "reuse", pairs > 0 ? (double)phase->n_reused / pairs : NAN);
    set_number(object, "hit_rate",
               s->known & TRACE_HAS_RESIDENCY && choices > 0 ? (double)phase->n_resident / choices : NAN);
    set_number(object, "seconds", s->known & TRACE_HAS_TIMES ? (double)phase->pass_ns * 1e-9 : NAN);
    set_number(object, "stall_seconds", s->known & TRACE_HAS_TIMES ? (double)phase->stall_ns * 1e-9 : NAN);
    for (int k = 0; k < N_TRACE_READS; k++) {
        json_t *one = json_object();
        set_count(one, "reads", phase->n_read[k]);
        set_count(one, "bytes", phase->read_bytes[k]);
        set_number(one, "mean_seconds", s->known & TRACE_HAS_TIMES ? phase->read_ns[k] * 1e-9 : NAN);
        json_object_set_new(reads, read_names[k], one);
    }
    json_object_set_new(object, "reads", reads);
    return object;
}

static json_t *files_json(const struct trace_report *r)
{
    json_t *files = json_array();
    for (uint32_t i = 0; i < r->n; i++) {
        const struct trace *trace = &r->traces[i];
        json_t *file = json_object(), *conversations = json_array();
        set_text(file, "file", r->paths[i]);
        set_text(file, "format", trace->format);
        set_count(file, "tokens", trace->n_tokens);
        set_count(file, "dropped_tokens", trace->n_dropped_tokens);
        json_object_set_new(file, "whole", json_boolean(!trace->cut[0]));
        for (uint32_t c = 0; c < trace->n_conversations; c++) {
            json_t *one = json_object();
            set_text(one, "domain", trace->conversations[c].domain);
            if (part_names[trace->conversations[c].part])
                set_text(one, "part", part_names[trace->conversations[c].part]);
            set_count(one, "tokens", trace->conversations[c].n_tokens);
            json_array_append_new(conversations, one);
        }
        json_object_set_new(file, "conversations", conversations);
        json_array_append_new(files, file);
    }
    return files;
}

static void set_header(json_t *object, const struct trace_header *h)
{
    char hex[2][24];
    snprintf(hex[0], sizeof hex[0], "%016" PRIx64, h->fingerprint);
    snprintf(hex[1], sizeof hex[1], "%016" PRIx64, h->plan_hash);
    set_text(object, "model", h->model);
    json_object_set_new(object, "fingerprint", h->fingerprint ? json_string(hex[0]) : json_null());
    json_object_set_new(object, "plan_hash", h->plan_hash ? json_string(hex[1]) : json_null());
    set_text(object, "machine", h->machine);
    set_text(object, "lode_version", h->lode_version);
    set_text(object, "options", h->options);
}

int trace_report_json(FILE *out, const struct trace_report *r)
{
    const struct trace_summary *s = r->summary;
    json_t *object = json_object(), *phases = json_object(), *layers = json_array(), *windows = json_array();
    json_t *mean = json_object();
    json_object_set_new(object, "files", files_json(r));
    set_header(object, &r->traces[0].header);
    set_count(object, "tokens", s->n_tokens);
    set_count(object, "passes", s->n_passes);
    set_count(object, "conversations", s->n_conversations);
    set_number(object, "waited_seconds", (double)s->waited_ns * 1e-9);
    for (int p = 0; p < N_TRACE_PHASES; p++)
        if (s->phases[p].n_tokens)
            json_object_set_new(phases, phase_names[p], phase_json(s, &s->phases[p]));
    json_object_set_new(object, "phases", phases);
    set_spread(mean, &s->mean);
    json_object_set_new(object, "mean", mean);
    for (int w = 0; w < TRACE_N_WINDOWS; w++)
        json_array_append_new(windows, json_integer(1 << w));
    json_object_set_new(object, "windows", windows);
    json_object_set_new(object, "working_set", numbers(s->window, TRACE_N_WINDOWS));
    json_object_set_new(object, "working_set_bytes",
                        s->window_bytes[0] > 0 ? numbers(s->window_bytes, TRACE_N_WINDOWS) : json_null());
    json_object_set_new(object, "mass_by_rank",
                        s->known & TRACE_HAS_WEIGHTS ? numbers(s->mass_by_rank, s->n_used) : json_null());
    json_object_set_new(object, "guess_precision_by_rank", numbers(s->precision_by_rank, s->n_ranks));
    json_object_set_new(object, "guess_recall_by_rank", numbers(s->recall_by_rank, s->n_ranks));
    for (uint32_t m = 0; m < s->n_moe; m++)
        json_array_append_new(layers, layer_json(s, m));
    json_object_set_new(object, "layers", layers);
    return json_out_print(out, object);
}
