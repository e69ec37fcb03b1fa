// The results of `lode bench --against` as a table and as JSON.
#include "tools/against.h"

#include "tools/json_out.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

// ---- text
// ----------------------------------------------------------------------------------------------------

static void print_speed(FILE *stream, const struct against_figure *figure)
{
    if (figure->n)
        fprintf(stream, "%12.2f%8.1f%%", figure->median,
                100 * (figure->most - figure->least) / figure->median);
    else
        fprintf(stream, "%12s%9s", "-", "-");
}

static void print_bytes(FILE *stream, const struct against_figure *figure)
{
    if (figure->n)
        fprintf(stream, "%12.2f", figure->median * 1e-6);
    else
        fprintf(stream, "%12s", "-");
}

static void print_arm(FILE *stream, const struct against *against, uint32_t arm)
{
    char bytes[TEXT_NUMBER_SIZE] = "-", hits[16] = "-";
    const struct against_figure prefill = against_arm_figure(against, arm, AGAINST_PREFILL_TOK_S),
                                decode = against_arm_figure(against, arm, AGAINST_DECODE_TOK_S),
                                prefill_bytes = against_arm_figure(against, arm, AGAINST_PREFILL_BYTES),
                                decode_bytes = against_arm_figure(against, arm, AGAINST_DECODE_BYTES),
                                rate = against_arm_figure(against, arm, AGAINST_HIT_RATE),
                                weights = against_arm_figure(against, arm, AGAINST_WEIGHTS_BYTES);
    if (weights.n)
        text_bytes(bytes, (uint64_t)weights.median);
    if (rate.n)
        snprintf(hits, sizeof hits, "%.1f%%", 100 * rate.median);
    fprintf(stream, "%-10s", against_arm_name(against->arms[arm]));
    print_speed(stream, &prefill);
    print_bytes(stream, &prefill_bytes);
    print_speed(stream, &decode);
    print_bytes(stream, &decode_bytes);
    fprintf(stream, "%8s%12s\n", hits, bytes);
}

static void print_ratio(FILE *stream, const struct against *against, uint32_t arm)
{
    const struct against_figure prefill = against_ratio(against, arm, AGAINST_PREFILL_TOK_S),
                                decode = against_ratio(against, arm, AGAINST_DECODE_TOK_S);
    if (!prefill.n)
        return;
    fprintf(stream,
            "chosen / %-10s prefill %.2fx (%.2f to %.2f), decode %.2fx (%.2f to %.2f), %" PRIu32 " %s\n",
            against_arm_name(against->arms[arm]), prefill.median, prefill.least, prefill.most, decode.median,
            decode.least, decode.most, decode.n, decode.n == 1 ? "pair" : "pairs");
}

static bool has_arm(const struct against *against, enum against_arm arm)
{
    for (uint32_t i = 0; i < against->n_arms; i++)
        if (against->arms[i] == arm)
            return true;
    return false;
}

static bool has_runs(const struct against *against)
{
    for (uint32_t i = 0; i < against->repeats * against->n_arms; i++)
        if (against->runs[i].done)
            return true;
    return false;
}

static void print_memory(FILE *stream, const struct against *against)
{
    char apart[TEXT_NUMBER_SIZE], allowed[TEXT_NUMBER_SIZE];
    uint64_t apart_bytes, allowed_bytes;
    const bool equal = against_memory_is_equal(against, &apart_bytes, &allowed_bytes);
    const struct against_figure weights = against_arm_figure(against, 0, AGAINST_WEIGHTS_BYTES);
    text_bytes(apart, apart_bytes);
    text_bytes(allowed, allowed_bytes);
    if (!equal)
        fprintf(
            stream,
            "memory for weights: %s apart, %.1f%%: more than one expert (%s), for the program is not equally "
            "large in each run\n",
            apart, weights.n ? 100 * (double)apart_bytes / weights.median : 0, allowed);
    else if (apart_bytes)
        fprintf(stream, "memory for weights: equal within one expert (%s apart)\n", apart);
    else
        fprintf(stream, "memory for weights: equal\n");
    if (has_arm(against, AGAINST_MMAP) && against->ram_bytes)
        fprintf(
            stream,
            "mmap: what the ceiling leaves the page cache; every run was held to it by %s control group\n",
            against->in_groups ? "its own" : "the present");
}

static void print_notes(FILE *stream, const struct against *against)
{
    const struct provenance_drive *drive = &against->provenance.drive;
    if (against->same_ids == against->decode)
        fprintf(stream, "tokens: the same in all runs of a round\n");
    else
        fprintf(stream,
                "tokens: the first %" PRIu32 " are the same in all runs of a round; then GPUs, which round "
                "otherwise than the CPU, lead elsewhere\n",
                against->same_ids);
    print_memory(stream, against);
    fprintf(stream, "start: %s, and no page of the model in the page cache\n",
            against->warm ? "each run from the same heat of earlier runs" : "cold, nothing of earlier runs");
    if (has_arm(against, AGAINST_STATIC) && !against->warm)
        fprintf(stream,
                "static: without heat of earlier runs (--warm) it counts what the run itself chooses\n");
    if (has_arm(against, AGAINST_MMAP) && drive->has_read_ahead &&
        drive->read_ahead_kb != PROVENANCE_USUAL_READ_AHEAD_KB)
        fprintf(stream,
                "mmap: the drive's read-ahead is %" PRIu32 " KiB, on most machines it is 128: mapped "
                "files are read by it\n",
                drive->read_ahead_kb);
    if (!against_is_offloaded(against))
        fprintf(stream, "everything is in memory: there is nothing that a baseline could do otherwise%s\n",
                against->ram_bytes ? "" : "; give a ceiling (--ram)");
}

void against_print_table(FILE *stream, const struct against *against)
{
    provenance_print(stream, &against->provenance);
    fprintf(stream, "\n%-10s%12s%9s%12s%12s%9s%12s%8s%12s\n", "arm", "prefill/s", "spread", "MB/token",
            "decode/s", "spread", "MB/token", "hits", "weights");
    for (uint32_t arm = 0; arm < against->n_arms; arm++)
        print_arm(stream, against, arm);
    fprintf(stream, "\n");
    for (uint32_t arm = 1; arm < against->n_arms; arm++)
        print_ratio(stream, against, arm);
    if (!has_runs(against))
        return;
    fprintf(stream, "\n");
    print_notes(stream, against);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static void add_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, json_out_text(text, strlen(text)));
}

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *figure_json(const struct against_figure *figure)
{
    if (!figure->n)
        return json_null();
    json_t *object = json_object();
    json_object_set_new(object, "median", json_out_number(figure->median));
    json_object_set_new(object, "min", json_out_number(figure->least));
    json_object_set_new(object, "max", json_out_number(figure->most));
    return object;
}

static json_t *run_json(const struct against *against, const struct against_run *run, uint32_t round)
{
    char hash[20];
    json_t *object = json_object();
    snprintf(hash, sizeof hash, "%016" PRIx64, run->plan_hash);
    add_count(object, "round", round);
    json_object_set_new(object, "prefill_tok_s", json_out_number(against->prefill / run->prefill_s));
    json_object_set_new(object, "decode_tok_s", json_out_number((against->decode - 1) / run->decode_s));
    add_count(object, "prefill_bytes", run->prefill_bytes);
    add_count(object, "decode_bytes", run->decode_bytes);
    json_object_set_new(object, "hit_rate", run->counts_hits ? json_out_number(run->hit_rate) : json_null());
    add_count(object, "weights_bytes", run->weights_bytes);
    add_count(object, "peak_bytes", run->peak_bytes);
    add_text(object, "plan_hash", hash);
    return object;
}

static json_t *arm_json(const struct against *against, uint32_t arm)
{
    static const char *const measures[AGAINST_MEASURES] = {
        [AGAINST_PREFILL_TOK_S] = "prefill_tok_s",
        [AGAINST_DECODE_TOK_S] = "decode_tok_s",
        [AGAINST_PREFILL_BYTES] = "prefill_bytes_per_token",
        [AGAINST_DECODE_BYTES] = "decode_bytes_per_token",
        [AGAINST_HIT_RATE] = "hit_rate",
        [AGAINST_WEIGHTS_BYTES] = "weights_bytes",
    };
    json_t *object = json_object(), *runs = json_array();
    const struct against_run *first = NULL;
    for (uint32_t round = 0; round < against->repeats; round++) {
        const struct against_run *run = against_run_at(against, round, arm);
        if (!run->done)
            continue;
        json_array_append_new(runs, run_json(against, run, round));
        first = first ? first : run;
    }
    add_text(object, "arm", against_arm_name(against->arms[arm]));
    json_object_set_new(object, "policy", first ? json_string(first->policy) : json_null());
    json_object_set_new(object, "io", first ? json_string(first->io) : json_null());
    json_object_set_new(object, "settings", first ? json_string(first->settings) : json_null());
    for (int m = 0; m < AGAINST_MEASURES; m++) {
        const struct against_figure figure = against_arm_figure(against, arm, (enum against_measure)m);
        json_object_set_new(object, measures[m], figure_json(&figure));
    }
    json_object_set_new(object, "runs", runs);
    return object;
}

static json_t *ratio_json(const struct against *against, uint32_t arm)
{
    const struct against_figure prefill = against_ratio(against, arm, AGAINST_PREFILL_TOK_S),
                                decode = against_ratio(against, arm, AGAINST_DECODE_TOK_S);
    json_t *object = json_object();
    add_text(object, "against", against_arm_name(against->arms[arm]));
    add_count(object, "pairs", decode.n);
    json_object_set_new(object, "prefill", figure_json(&prefill));
    json_object_set_new(object, "decode", figure_json(&decode));
    return object;
}

int against_print_json(FILE *stream, const struct against *against)
{
    uint64_t apart_bytes, allowed_bytes;
    const bool equal = against_memory_is_equal(against, &apart_bytes, &allowed_bytes);
    json_t *object = json_object(), *arms = json_array(), *ratios = json_array();
    for (uint32_t arm = 0; arm < against->n_arms; arm++)
        json_array_append_new(arms, arm_json(against, arm));
    for (uint32_t arm = 1; arm < against->n_arms; arm++)
        json_array_append_new(ratios, ratio_json(against, arm));
    json_object_set_new(object, "provenance", provenance_json(&against->provenance));
    add_count(object, "prefill", against->prefill);
    add_count(object, "decode", against->decode);
    add_count(object, "seed", against->seed);
    add_text(object, "start", against->warm ? "warm" : "cold");
    json_object_set_new(object, "ram_bytes",
                        against->ram_bytes ? json_integer((json_int_t)against->ram_bytes) : json_null());
    add_text(object, "ceiling",
             against->in_groups          ? "control group of each run"
             : against->in_present_group ? "present control group"
                                         : "the program's own");
    json_object_set_new(object, "offloaded", json_boolean(against_is_offloaded(against)));
    // Without GPUs other tokens end the comparison.
    json_object_set_new(object, "same_tokens", json_boolean(against->same_ids == against->decode));
    add_count(object, "same_ids", against->same_ids);
    json_object_set_new(object, "equal_memory", json_boolean(equal));
    add_count(object, "memory_apart_bytes", apart_bytes);
    json_object_set_new(object, "interrupted", json_boolean(against->interrupted));
    json_object_set_new(object, "arms", arms);
    json_object_set_new(object, "ratios", ratios);
    return json_out_print(stream, object);
}
