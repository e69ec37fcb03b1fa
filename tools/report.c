// Statistics of a session as a line and as JSON.
#include "tools/report.h"

#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/text.h"

#include <inttypes.h>
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

void report_line(const char *command, const struct report *report)
{
    struct lode_stats stats;
    lode_session_stats(report->session, &stats);
    char memory[TEXT_NUMBER_SIZE];
    message_note(
        command,
        "prefill %" PRIu64 " tokens at %.1f tok/s, decode %" PRIu64 " at %.1f tok/s, TTFT %.0f ms, %s, "
        "%u %s, %s, seed %" PRIu64 ", %s",
        stats.prompt_tokens, stats.prefill_tok_s, stats.generated_tokens, stats.decode_tok_s,
        stats.ttft_s * 1e3, text_bytes(memory, stats.peak_rss_bytes), lode_engine_threads(report->engine),
        lode_engine_threads(report->engine) == 1 ? "thread" : "threads", lode_engine_isa(report->engine),
        report->seed, stop_in_words(report));
}

static void add_number(json_t *object, const char *name, double value)
{
    json_object_set_new(object, name, json_out_number(value));
}

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
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
    return object;
}
