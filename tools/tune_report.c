#include "tools/tune_report.h"

#include "tools/json_out.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct rates {
    double prefill, decode; // tokens a second
};

// Of the generated tokens the first is the prefill's.
static struct rates rates_of(const struct tune_report *report, double prefill_s, double decode_s)
{
    return (struct rates){report->prompt_tokens / prefill_s, (report->decode_tokens - 1) / decode_s};
}

static const char *verdict_text(const struct tune_candidate *c)
{
    switch (c->verdict) {
    case TUNE_OPEN:
        return "not decided";
    case TUNE_BETTER:
        return "better";
    case TUNE_NO_GAIN:
        if (c->ratio <= 1)
            return "no gain";
        return c->ratio < TUNE_LEAST_GAIN ? "refused: gains less than 3%" : "refused: too uncertain";
    case TUNE_OTHER_TOKENS:
        return "refused: other tokens";
    case TUNE_FAILED:
        return c->reason;
    case TUNE_NO_TIME:
        return "no time";
    }
    return "";
}

// ---- text
// ----------------------------------------------------------------------------------------------------

void tune_report_head(const struct tune_report *report)
{
    printf("turns of %" PRIu32 " tokens of a prompt and %" PRIu32 " generated; ratios are of whole turns\n\n",
           report->prompt_tokens, report->decode_tokens);
    printf("%-12s %-12s %10s %10s %7s  %-12s\n", "knob", "value", "decode/s", "prefill/s", "faster", "range");
    fflush(stdout);
}

void tune_report_candidate(const struct tune_report *report, const struct tune_candidate *c)
{
    char value[TUNE_TEXT_SIZE];
    const struct tune_pair m = tune_medians(c);
    printf("%-12s %-12s", tune_knob_name(c->knob),
           tune_knob_text(value, c->knob, &c->settings, report->facts));
    if (c->n_pairs) {
        const struct rates rates = rates_of(report, m.after_prefill_s, m.after_decode_s);
        printf(" %10.1f %10.1f %6.2fx  %.2f to %.2f", rates.decode, rates.prefill, c->ratio, c->low, c->high);
    } else {
        printf(" %10s %10s %7s  %12s", "-", "-", "-", "-");
    }
    printf("  %s\n", verdict_text(c));
    fflush(stdout);
}

void tune_report_left_out(enum tune_knob knob, const char *why)
{
    printf("%-12s %-12s %s\n", tune_knob_name(knob), "left out:", why);
    fflush(stdout);
}

static void print_settings(const struct tune_report *report, const struct tune_settings *best)
{
    const struct tune_settings defaults = {0};
    for (int k = 0; k < TUNE_KNOBS; k++) {
        char before[TUNE_TEXT_SIZE], after[TUNE_TEXT_SIZE];
        const enum tune_knob knob = (enum tune_knob)k;
        tune_knob_text(before, knob, &defaults, report->facts);
        tune_knob_text(after, knob, best, report->facts);
        if (strcmp(before, after) != 0)
            printf("%-16s %12s %12s\n", tune_knob_name(knob), before, after);
    }
}

static void print_rates(const struct tune_report *report, const struct tune_candidate *c)
{
    const struct tune_pair m = tune_medians(c);
    const struct rates before = rates_of(report, m.before_prefill_s, m.before_decode_s),
                       after = rates_of(report, m.after_prefill_s, m.after_decode_s);
    printf("%-16s %12.1f %12.1f %7.2fx\n", "decode tok/s", before.decode, after.decode, c->decode_ratio);
    printf("%-16s %12.1f %12.1f %7.2fx\n", "prefill tok/s", before.prefill, after.prefill, c->prefill_ratio);
    printf("%-16s %12.2f %12.2f %7.2fx  %.2f to %.2f in %" PRIu32 " pairs\n", "turn, s",
           m.before_prefill_s + m.before_decode_s, m.after_prefill_s + m.after_decode_s, c->ratio, c->low,
           c->high, c->n_pairs);
}

void tune_report_outcome(const struct tune_report *report, const struct tune_search *search)
{
    if (search->outcome == TUNE_TUNED) {
        printf("\n%-16s %12s %12s\n", "", "defaults", "tuned");
        print_settings(report, &search->best);
        print_rates(report, search->final);
    } else if (search->outcome == TUNE_DEFAULTS && search->final) {
        printf("\nthe defaults are best: together the changes are %.2fx of them (%.2f to %.2f)\n",
               search->final->ratio, search->final->low, search->final->high);
    } else if (search->outcome == TUNE_DEFAULTS) {
        printf("\nthe defaults are best\n");
    }
}

struct tune_settings tune_report_settings(const struct tuned *tuned)
{
    struct tune_settings settings = {.threads = tuned->threads,
                                     .batch = tuned->batch,
                                     .queue_depth = tuned->queue_depth,
                                     .prefetch_ranks = tuned->prefetch_ranks,
                                     .ring_bytes = tuned->ring_bytes,
                                     .no_prefetch = tuned->no_prefetch};
    snprintf(settings.policy, sizeof settings.policy, "%s", tuned->policy);
    return settings;
}

void tune_report_stored(const struct tuned *tuned)
{
    char text[256];
    const struct tune_settings settings = tune_report_settings(tuned), none = {0};
    printf("settings         %s\n", tune_settings_text(text, sizeof text, &settings));
    if (!tune_settings_equal(&settings, &none)) {
        printf("decode           %.2fx of the defaults\n", tuned->decode_gain);
        printf("prefill          %.2fx\n", tuned->prefill_gain);
    }
    if (tuned->devices[0]) {
        char bytes[TEXT_NUMBER_SIZE];
        printf("GPUs             %s\n", tuned->devices);
        printf("of their memory  %s\n",
               tuned->vram_bytes ? text_bytes(bytes, tuned->vram_bytes) : "what is free");
        printf("placement        %s\n", tuned->by_layer ? "by-layer" : "auto");
    }
    printf("measured         %s\n", tuned->made);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static json_t *text_json(const char *text)
{
    return json_out_text(text, strlen(text));
}

static json_t *settings_json(const struct tune_settings *s)
{
    json_t *object = json_object();
    json_object_set_new(object, "threads", json_integer(s->threads));
    json_object_set_new(object, "no_prefetch", json_boolean(s->no_prefetch));
    json_object_set_new(object, "prefetch_ranks", json_integer(s->prefetch_ranks));
    json_object_set_new(object, "queue_depth", json_integer(s->queue_depth));
    json_object_set_new(object, "ring_bytes", json_integer((json_int_t)s->ring_bytes));
    json_object_set_new(object, "batch", json_integer(s->batch));
    json_object_set_new(object, "policy", s->policy[0] ? text_json(s->policy) : json_null());
    return object;
}

static json_t *rates_json(const struct tune_report *report, double prefill_s, double decode_s)
{
    const struct rates rates = rates_of(report, prefill_s, decode_s);
    json_t *object = json_object();
    json_object_set_new(object, "decode_tok_s", json_out_number(rates.decode));
    json_object_set_new(object, "prefill_tok_s", json_out_number(rates.prefill));
    return object;
}

json_t *tune_report_candidate_json(const struct tune_report *report, const struct tune_candidate *c)
{
    char value[TUNE_TEXT_SIZE];
    const struct tune_pair m = tune_medians(c);
    json_t *object = json_object();
    json_object_set_new(object, "knob", text_json(tune_knob_name(c->knob)));
    json_object_set_new(object, "value",
                        text_json(tune_knob_text(value, c->knob, &c->settings, report->facts)));
    json_object_set_new(object, "settings", settings_json(&c->settings));
    json_object_set_new(object, "pairs", json_integer(c->n_pairs));
    if (c->n_pairs) {
        json_object_set_new(object, "before", rates_json(report, m.before_prefill_s, m.before_decode_s));
        json_object_set_new(object, "after", rates_json(report, m.after_prefill_s, m.after_decode_s));
        json_object_set_new(object, "ratio", json_out_number(c->ratio));
        json_object_set_new(object, "low", json_out_number(c->low));
        json_object_set_new(object, "high", json_out_number(c->high));
    }
    json_object_set_new(object, "accepted", json_boolean(c->verdict == TUNE_BETTER));
    json_object_set_new(object, "verdict", text_json(verdict_text(c)));
    return object;
}

void tune_report_outcome_json(const struct tune_report *report, const struct tune_search *search,
                              json_t *object)
{
    static const char *const outcomes[] = {
        [TUNE_TUNED] = "tuned",         [TUNE_DEFAULTS] = "defaults",   [TUNE_NOTHING] = "nothing to tune",
        [TUNE_STOPPED] = "interrupted", [TUNE_TOO_SHORT] = "too short",
    };
    const struct tune_settings none = {0};
    const bool tuned = search->outcome == TUNE_TUNED;
    json_object_set_new(object, "prompt_tokens", json_integer(report->prompt_tokens));
    json_object_set_new(object, "decode_tokens", json_integer(report->decode_tokens));
    json_object_set_new(object, "outcome", text_json(outcomes[search->outcome]));
    json_object_set_new(object, "complete", json_boolean(search->complete));
    json_object_set_new(object, "settings", settings_json(tuned ? &search->best : &none));
    json_object_set_new(object, "final",
                        search->final ? tune_report_candidate_json(report, search->final) : json_null());
}

int tune_report_stored_json(const struct tuned *tuned, const char *model_path)
{
    const struct tune_settings settings = tune_report_settings(tuned);
    json_t *object = json_object();
    json_object_set_new(object, "model", text_json(model_path));
    json_object_set_new(object, "made", text_json(tuned->made));
    json_object_set_new(object, "ram_bytes", json_integer((json_int_t)tuned->ram_bytes));
    json_object_set_new(object, "gpus", tuned->devices[0] ? text_json(tuned->devices) : json_null());
    json_object_set_new(object, "vram_bytes", json_integer((json_int_t)tuned->vram_bytes));
    json_object_set_new(object, "placement", text_json(tuned->by_layer ? "by-layer" : "auto"));
    json_object_set_new(object, "settings", settings_json(&settings));
    json_object_set_new(object, "decode_gain", json_out_number(tuned->decode_gain));
    json_object_set_new(object, "prefill_gain", json_out_number(tuned->prefill_gain));
    return json_out_print(stdout, object);
}
