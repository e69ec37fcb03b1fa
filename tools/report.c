// Statistics of a session as a line and as JSON.
#include "tools/report.h"

#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/stalls.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *report_stop(const struct report *report)
{
    switch (report->stop) {
    case LODE_STOP_END:
        return "end";
    case LODE_STOP_LENGTH:
        return "length";
    case LODE_STOP_CONTEXT:
        return "context";
    case LODE_STOP_CALLER:
        break;
    }
    return report->interrupted ? "interrupted" : "output";
}

static const char *stop_in_words(const struct report *report)
{
    switch (report->stop) {
    case LODE_STOP_END:
        return "the model ended";
    case LODE_STOP_LENGTH:
        return "length reached";
    case LODE_STOP_CONTEXT:
        return "context full";
    case LODE_STOP_CALLER:
        break;
    }
    return report->interrupted ? "interrupted" : "output failed";
}

// Both in the unit of the ceiling: near it, "8.0 GiB of 8.0 GiB" would say nothing.
static const char *peak_of_ceiling(char out[64], uint64_t peak_bytes, uint64_t ceiling_bytes)
{
    const bool large = ceiling_bytes >= 1ull << 30;
    const double unit = large ? 1ull << 30 : 1ull << 20;
    snprintf(out, 64, "peak %.*f of %.*f %s", large ? 2 : 0, (double)peak_bytes / unit, large ? 2 : 0,
             (double)ceiling_bytes / unit, large ? "GiB" : "MiB");
    return out;
}

static void tell_offload(const char *command, const struct lode_stats *stats,
                         const struct lode_offload_stats *offload)
{
    char peak[64], kept[64], bytes[TEXT_NUMBER_SIZE];
    peak_of_ceiling(peak, stats->peak_rss_bytes, offload->ceiling_bytes);
    if (stats->generated_tokens < 2) { // no decode that could say anything
        message_note(command, "prefill read %s, stalled %.1f of %.1f s; %s",
                     text_bytes(bytes, offload->prefill_bytes), offload->prefill_stall_s, stats->prefill_s,
                     peak);
        return;
    }
    if (offload->choices)
        snprintf(kept, sizeof kept, "experts %.1f%% in memory", 100 * offload->hit_rate);
    else
        snprintf(kept, sizeof kept, "%s of weights in memory", text_bytes(bytes, offload->pinned_bytes));
    const double mb = offload->bytes_per_token * 1e-6;
    message_note(command, "%s, %.*f MB a token read, stalled %.1f%% of the time; %s", kept, mb < 10 ? 1 : 0,
                 mb, 100 * offload->stall_share, peak);
}

// A line for each GPU: what it holds, and what of the choices it computed.
static void tell_gpus(const char *command, const struct report *report,
                      const struct lode_offload_stats *offload)
{
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    const size_t n = lode_session_gpus(report->session, gpus, LODE_PLAN_GPUS);
    for (size_t i = 0; i < n; i++) {
        const struct lode_gpu_stats *gpu = &gpus[i];
        char weights[TEXT_NUMBER_SIZE], pool[TEXT_NUMBER_SIZE], kv[TEXT_NUMBER_SIZE], moved[TEXT_NUMBER_SIZE];
        char experts[96] = "", hits[64] = "", uploads[96] = "";
        if (gpu->pool_slots)
            snprintf(experts, sizeof experts, ", %" PRIu32 " of %" PRIu32 " experts in %s", gpu->pool_used,
                     offload->experts, text_bytes(pool, gpu->pool_bytes));
        if (offload->choices)
            snprintf(hits, sizeof hits, ", %.1f%% of the choices computed there",
                     100 * (double)gpu->hits / (double)offload->choices);
        if (gpu->upload_bytes + gpu->replaced_bytes)
            snprintf(uploads, sizeof uploads, ", %s copied to it",
                     text_bytes(moved, gpu->upload_bytes + gpu->replaced_bytes));
        message_note(command, "%s: %s of weights%s, KV %s%s%s", gpu->name,
                     text_bytes(weights, gpu->pinned_bytes), experts, text_bytes(kv, gpu->kv_bytes), hits,
                     uploads);
    }
}

// " (predicted 9.8)", or nothing where nothing was predicted.
static const char *predicted(char out[32], const struct report *report, bool decode)
{
    const struct prediction *p = report->prediction;
    const double rate = !p || !p->plan ? 0 : prediction_rate(decode ? &p->decode : &p->prefill);
    out[0] = '\0';
    if (rate > 0)
        snprintf(out, 32, " (predicted %.1f)", rate);
    return out;
}

void report_line(const char *command, const struct report *report)
{
    struct lode_stats stats;
    struct lode_offload_stats offload;
    lode_session_stats(report->session, &stats);
    lode_session_offload(report->session, &offload);
    if (offload.offloaded)
        tell_offload(command, &stats, &offload);
    tell_gpus(command, report, &offload);
    char memory[TEXT_NUMBER_SIZE], prefill[32], decode[32];
    message_note(
        command,
        "prefill %" PRIu64 " tokens at %.1f tok/s%s, decode %" PRIu64 " at %.1f tok/s%s, TTFT %.0f ms, %s%s"
        "%u %s, %s, seed %" PRIu64 ", %s",
        stats.prompt_tokens, stats.prefill_tok_s, predicted(prefill, report, false), stats.generated_tokens,
        stats.decode_tok_s, predicted(decode, report, true), stats.ttft_s * 1e3,
        offload.offloaded ? "" : text_bytes(memory, stats.peak_rss_bytes), offload.offloaded ? "" : ", ",
        lode_engine_threads(report->engine), lode_engine_threads(report->engine) == 1 ? "thread" : "threads",
        lode_engine_isa(report->engine), report->seed, stop_in_words(report));
}

static void add_number(json_t *object, const char *name, double value)
{
    json_object_set_new(object, name, json_out_number(value));
}

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *gpu_json(const struct lode_gpu_stats *gpu, uint64_t choices)
{
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string(gpu->name));
    add_count(object, "pinned_bytes", gpu->pinned_bytes);
    add_count(object, "pool_bytes", gpu->pool_bytes);
    add_count(object, "pool_slots", gpu->pool_slots);
    add_count(object, "pool_used", gpu->pool_used);
    add_count(object, "kv_bytes", gpu->kv_bytes);
    add_count(object, "scratch_bytes", gpu->scratch_bytes);
    add_count(object, "hits", gpu->hits);
    add_number(object, "hit_rate", choices ? (double)gpu->hits / (double)choices : 0);
    add_count(object, "uploads", gpu->uploads);
    add_count(object, "upload_bytes", gpu->upload_bytes);
    add_count(object, "replaced_bytes", gpu->replaced_bytes);
    add_count(object, "yielded_bytes", gpu->yielded_bytes);
    return object;
}

json_t *report_gpus_json(const struct lode_gpu_stats *gpus, size_t n, uint64_t choices)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, gpu_json(&gpus[i], choices));
    return array;
}

static json_t *layer_json(const struct lode_layer_stats *layer)
{
    json_t *object = json_object();
    add_count(object, "choices", layer->choices);
    add_count(object, "hits", layer->hits);
    add_number(object, "hit_rate", layer->choices ? (double)layer->hits / (double)layer->choices : 1);
    add_count(object, "bytes", layer->bytes);
    add_number(object, "stall_s", layer->stall_s);
    return object;
}

static json_t *layers_json(const struct report *report)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < lode_engine_shape(report->engine)->n_layers; i++) {
        struct lode_layer_stats layer;
        lode_session_layer(report->session, i, &layer);
        json_array_append_new(array, layer_json(&layer));
    }
    return array;
}

static json_t *slow_tokens_json(const struct report *report)
{
    size_t count;
    struct lode_slow_token *tokens = stalls_slow_tokens(report->session, &count);
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *object = json_object();
        add_count(object, "index", tokens[i].index);
        add_number(object, "ms", tokens[i].ms);
        add_number(object, "stall_ms", tokens[i].stall_ms);
        add_number(object, "worst_stall_ms", tokens[i].worst_stall_ms);
        json_object_set_new(object, "worst", json_out_text(tokens[i].worst, strlen(tokens[i].worst)));
        json_array_append_new(array, object);
    }
    free(tokens);
    return array;
}

static void add_word(json_t *object, const char *name, const char *word)
{
    json_object_set_new(object, name, word ? json_string(word) : json_null());
}

static void add_offload(json_t *object, const struct report *report)
{
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    const size_t n_gpus = lode_session_gpus(report->session, gpus, LODE_PLAN_GPUS);
    struct lode_offload_stats offload;
    lode_session_offload(report->session, &offload);
    json_object_set_new(object, "offloaded", json_boolean(offload.offloaded));
    add_count(object, "ceiling_bytes", offload.ceiling_bytes);
    add_count(object, "pinned_bytes", offload.pinned_bytes);
    add_count(object, "pool_bytes", offload.pool_bytes);
    add_count(object, "streamed_bytes", offload.streamed_bytes);
    add_count(object, "pool_slots", offload.pool_slots);
    add_number(object, "hit_rate", offload.hit_rate);
    add_number(object, "reuse", offload.reuse);
    add_count(object, "load_bytes", offload.load_bytes);
    add_count(object, "prefill_bytes", offload.prefill_bytes);
    add_count(object, "decode_bytes", offload.decode_bytes);
    add_number(object, "nvme_bytes_per_token", offload.bytes_per_token);
    add_number(object, "prefill_stall_s", offload.prefill_stall_s);
    add_number(object, "stall_s", offload.stall_s);
    add_number(object, "stall_share", offload.stall_share);
    add_count(object, "prefetch_useful_bytes", offload.prefetch_useful_bytes);
    add_count(object, "prefetch_wasted_bytes", offload.prefetch_wasted_bytes);
    json_object_set_new(object, "prefetch_on", json_boolean(offload.prefetch_on));
    add_number(object, "disk_busy_share", offload.disk_busy_share);
    add_number(object, "disk_gbps", offload.disk_gbps);
    add_word(object, "policy", offload.policy);
    add_word(object, "io", offload.io);
    json_object_set_new(object, "gpus", report_gpus_json(gpus, n_gpus, offload.choices));
    json_object_set_new(object, "layers", layers_json(report));
    json_object_set_new(object, "slow_tokens", slow_tokens_json(report));
}

json_t *report_json(const struct report *report)
{
    struct lode_stats stats;
    lode_session_stats(report->session, &stats);
    json_t *object = json_object();
    json_object_set_new(object, "model", json_out_text(report->model_path, strlen(report->model_path)));
    json_object_set_new(object, "stop", json_string(report_stop(report)));
    add_count(object, "prompt_tokens", stats.prompt_tokens);
    add_count(object, "generated_tokens", stats.generated_tokens);
    add_number(object, "prefill_tok_s", stats.prefill_tok_s);
    add_number(object, "decode_tok_s", stats.decode_tok_s);
    add_number(object, "prefill_s", stats.prefill_s);
    add_number(object, "decode_s", stats.decode_s);
    add_number(object, "load_s", lode_engine_load_seconds(report->engine));
    add_number(object, "ttft_s", stats.ttft_s);
    add_number(object, "token_ms_p50", stats.token_ms_p50);
    add_number(object, "token_ms_p95", stats.token_ms_p95);
    add_number(object, "token_ms_p99", stats.token_ms_p99);
    add_count(object, "weight_bytes", stats.weight_bytes);
    add_count(object, "kv_bytes", stats.kv_bytes);
    add_count(object, "scratch_bytes", stats.scratch_bytes);
    add_count(object, "peak_rss_bytes", stats.peak_rss_bytes);
    add_count(object, "threads", lode_engine_threads(report->engine));
    json_object_set_new(object, "isa", json_string(lode_engine_isa(report->engine)));
    add_count(object, "context", lode_session_context(report->session));
    add_count(object, "seed", report->seed);
    add_offload(object, report);
    json_object_set_new(object, "predicted", prediction_json(report->prediction));
    json_object_set_new(object, "measured_parts", prediction_measured_json(&stats));
    return object;
}
