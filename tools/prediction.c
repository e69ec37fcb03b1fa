// Sums of a plan's times over what was really run: each turn at the place where it stood in the timeline.
#include "tools/prediction.h"

#include "tools/json_out.h"

#include <math.h>

// A prompt of another length than the plan's takes other times a token, so it teaches nothing.
#define NEAR_PROMPT 1.25

// ---- one token
// -------------------------------------------------------------------------------------------------

// The plan's contexts around a place, and where between them it lies, 0 to 1.
static double locate(const struct lode_plan *plan, double context, const struct lode_plan_expected **below,
                     const struct lode_plan_expected **above)
{
    uint32_t i = 0;
    while (i < plan->n_expected && plan->expected[i].context <= context)
        i++;
    *above = &plan->expected[i < plan->n_expected ? i : plan->n_expected - 1];
    *below = &plan->expected[i ? i - 1 : 0];
    if (*above == *below)
        return 0;
    return (context - (*below)->context) / ((double)(*above)->context - (*below)->context);
}

static double share_of(double rate, double bound)
{
    return bound > 0 ? rate / bound : 1;
}

static struct prediction_sum one_token(const struct lode_plan_expected *at, bool decode, double seconds)
{
    const struct lode_plan_shares *shares = decode ? &at->decode : &at->prefill;
    const double slow =
        decode ? share_of(at->decode_tok_s, at->decode_low) : share_of(at->prefill_tok_s, at->prefill_low);
    const double fast =
        decode ? share_of(at->decode_tok_s, at->decode_high) : share_of(at->prefill_tok_s, at->prefill_high);
    return (struct prediction_sum){.tokens = 1,
                                   .seconds = seconds,
                                   .slow_s = seconds * slow,
                                   .fast_s = seconds * fast,
                                   .parts = {seconds * shares->kernels, seconds * shares->attention,
                                             seconds * shares->operations, seconds * shares->drive},
                                   .gpu_s = seconds * (shares->gpu + shares->link)};
}

static struct prediction_sum times(const struct prediction_sum *sum, double n)
{
    return (struct prediction_sum){.tokens = sum->tokens * n,
                                   .seconds = sum->seconds * n,
                                   .slow_s = sum->slow_s * n,
                                   .fast_s = sum->fast_s * n,
                                   .parts = {sum->parts.kernels_s * n, sum->parts.attention_s * n,
                                             sum->parts.operations_s * n, sum->parts.drive_s * n},
                                   .gpu_s = sum->gpu_s * n};
}

static void add(struct prediction_sum *out, const struct prediction_sum *sum)
{
    out->tokens += sum->tokens;
    out->seconds += sum->seconds;
    out->slow_s += sum->slow_s;
    out->fast_s += sum->fast_s;
    out->parts.kernels_s += sum->parts.kernels_s;
    out->parts.attention_s += sum->parts.attention_s;
    out->parts.operations_s += sum->parts.operations_s;
    out->parts.drive_s += sum->parts.drive_s;
    out->gpu_s += sum->gpu_s;
}

// The whole as the plan interpolates it, divided as it is around there.
static struct prediction_sum interpolate(const struct lode_plan *plan, double context, bool decode)
{
    const struct lode_plan_expected *below, *above;
    const double share = locate(plan, context, &below, &above);
    const double seconds =
        decode ? lode_plan_decode_seconds(plan, context) : lode_plan_prefill_seconds(plan, context);
    const struct prediction_sum a = one_token(below, decode, seconds), b = one_token(above, decode, seconds);
    struct prediction_sum sum = times(&a, 1 - share);
    const struct prediction_sum rest = times(&b, share);
    add(&sum, &rest);
    return sum;
}

struct prediction_sum prediction_decode(const struct lode_plan *plan, double context)
{
    return interpolate(plan, context, true);
}

struct prediction_sum prediction_prefill(const struct lode_plan *plan, double context)
{
    return interpolate(plan, context, false);
}

double prediction_rate(const struct prediction_sum *sum)
{
    return sum->seconds > 0 ? sum->tokens / sum->seconds : 0;
}

// ---- turns
// -----------------------------------------------------------------------------------------------------

static struct learn_parts parts_since(const struct lode_parts *now, const struct lode_parts *before)
{
    return (struct learn_parts){now->kernels_s - before->kernels_s, now->attention_s - before->attention_s,
                                now->operations_s - before->operations_s, now->drive_s - before->drive_s};
}

// The first token of a generation is the prompt's.
static double passes_of(const struct lode_stats *stats)
{
    return round(stats->decode_tok_s * stats->decode_s);
}

void prediction_begin_turn(struct prediction *prediction, const struct lode_session *session)
{
    lode_session_stats(session, &prediction->before);
    prediction->position = lode_session_position(session);
}

// However short a prompt is, it takes a pass.
static struct prediction_sum predict_prompt(const struct prediction *prediction, double tokens)
{
    const struct prediction_sum one = prediction_prefill(prediction->plan, prediction->position);
    const struct prediction_sum pass = prediction_decode(prediction->plan, prediction->position);
    const struct prediction_sum all = times(&one, tokens);
    if (all.seconds >= pass.seconds)
        return all;
    struct prediction_sum stretched = times(&pass, 1);
    stretched.tokens = tokens;
    return stretched;
}

void prediction_end_turn(struct prediction *prediction, const struct lode_session *session, bool interrupted)
{
    if (!prediction->plan)
        return;
    const struct lode_stats *before = &prediction->before;
    struct lode_stats now;
    lode_session_stats(session, &now);
    const double fed = (double)(now.prompt_tokens - before->prompt_tokens);
    const double passes = passes_of(&now) - passes_of(before);
    if (fed > 0) {
        const struct prediction_sum prefill = predict_prompt(prediction, fed);
        const double planned = prediction->plan->expected[0].prefill_tokens;
        const struct learn_parts parts = parts_since(&now.prefill_parts, &before->prefill_parts);
        add(&prediction->prefill, &prefill);
        if (!interrupted &&
            learn_is_enough(LEARN_PREFILL, (uint64_t)fed, now.prefill_s - before->prefill_s) &&
            fed <= NEAR_PROMPT * planned && planned <= NEAR_PROMPT * fed)
            learn_add(&prediction->sample, LEARN_PREFILL, &parts, &prefill.parts, prediction->learned);
    }
    if (passes > 0) {
        const double middle = prediction->position + fed + passes / 2;
        const struct prediction_sum one = prediction_decode(prediction->plan, middle);
        const struct prediction_sum decode = times(&one, passes);
        const struct learn_parts parts = parts_since(&now.decode_parts, &before->decode_parts);
        const uint64_t generated = now.generated_tokens - before->generated_tokens;
        add(&prediction->decode, &decode);
        if (!interrupted && learn_is_enough(LEARN_DECODE, generated, now.decode_s - before->decode_s))
            learn_add(&prediction->sample, LEARN_DECODE, &parts, &decode.parts, prediction->learned);
    }
}

// ---- JSON
// ------------------------------------------------------------------------------------------------------

static json_t *parts_json(const struct learn_parts *parts, double gpu_s, double tokens)
{
    const double share = tokens > 0 ? 1 / tokens : 0;
    json_t *object = json_object();
    json_object_set_new(object, "kernels", json_out_number(parts->kernels_s * share));
    json_object_set_new(object, "attention", json_out_number(parts->attention_s * share));
    json_object_set_new(object, "operations", json_out_number(parts->operations_s * share));
    json_object_set_new(object, "drive", json_out_number(parts->drive_s * share));
    json_object_set_new(object, "gpu", json_out_number(gpu_s * share));
    return object;
}

json_t *prediction_json(const struct prediction *prediction)
{
    if (!prediction || !prediction->plan)
        return json_null();
    // Where nothing was decoded yet, what the next token would take.
    const struct prediction_sum next = prediction_decode(prediction->plan, prediction->position);
    const struct prediction_sum prompt = prediction_prefill(prediction->plan, prediction->position);
    const struct prediction_sum *decode = prediction->decode.tokens > 0 ? &prediction->decode : &next;
    const struct prediction_sum *prefill = prediction->prefill.tokens > 0 ? &prediction->prefill : &prompt;
    json_t *object = json_object();
    json_object_set_new(object, "decode_tok_s", json_out_number(prediction_rate(decode)));
    json_object_set_new(object, "low", json_out_number(decode->tokens / decode->slow_s));
    json_object_set_new(object, "high", json_out_number(decode->tokens / decode->fast_s));
    json_object_set_new(object, "prefill_tok_s", json_out_number(prediction_rate(prefill)));
    json_object_set_new(object, "prefill_low", json_out_number(prefill->tokens / prefill->slow_s));
    json_object_set_new(object, "prefill_high", json_out_number(prefill->tokens / prefill->fast_s));
    json_object_set_new(object, "decode", parts_json(&decode->parts, decode->gpu_s, decode->tokens));
    json_object_set_new(object, "prefill", parts_json(&prefill->parts, prefill->gpu_s, prefill->tokens));
    return object;
}

json_t *prediction_measured_json(const struct lode_stats *stats)
{
    static const struct lode_parts none;
    const struct learn_parts decode = parts_since(&stats->decode_parts, &none);
    const struct learn_parts prefill = parts_since(&stats->prefill_parts, &none);
    json_t *object = json_object();
    json_object_set_new(object, "decode", parts_json(&decode, stats->decode_parts.gpu_s, passes_of(stats)));
    json_object_set_new(object, "prefill",
                        parts_json(&prefill, stats->prefill_parts.gpu_s, (double)stats->prompt_tokens));
    return object;
}
