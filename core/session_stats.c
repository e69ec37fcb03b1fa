// Figures of a session: speed, latencies, and what went on between memory and the files.
#include "core/session_internal.h"
#include "profiles/host_memory.h"

#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const float *sorted, size_t n, double share)
{
    if (!n)
        return 0;
    size_t rank = (size_t)(share * (double)(n - 1) + 0.5);
    return sorted[rank];
}

static float *sorted_latencies(const struct lode_session *session)
{
    float *sorted = malloc((session->n_latencies + 1) * sizeof *sorted);
    if (!sorted || !session->n_latencies)
        return sorted;
    memcpy(sorted, session->latency_ms, session->n_latencies * sizeof *sorted);
    qsort(sorted, session->n_latencies, sizeof *sorted, ascending);
    return sorted;
}

void lode_session_stats(const struct lode_session *session, struct lode_stats *out)
{
    *out = session->stats;
    float *sorted = sorted_latencies(session);
    if (sorted) {
        out->token_ms_p50 = percentile(sorted, session->n_latencies, 0.50);
        out->token_ms_p95 = percentile(sorted, session->n_latencies, 0.95);
        out->token_ms_p99 = percentile(sorted, session->n_latencies, 0.99);
    }
    free(sorted);
    if (out->prefill_s > 0)
        out->prefill_tok_s = (double)out->prompt_tokens / out->prefill_s;
    if (out->decode_s > 0)
        out->decode_tok_s = (double)session->n_latencies / out->decode_s;
    out->prefill_parts = session_parts_of(&session->parts.prefill, out->prefill_s);
    out->decode_parts = session_parts_of(&session->parts.decode, out->decode_s);
    struct residency_figures figures;
    residency_count(session->engine->residency, &figures);
    out->weight_bytes = figures.pinned_bytes + figures.pool_bytes + figures.ring_bytes;
    out->kv_bytes = session->needs.kv_bytes;
    out->scratch_bytes = session->needs.scratch_bytes;
    out->peak_rss_bytes = host_peak_rss_bytes();
}

static double seconds(uint64_t now_ns, uint64_t before_ns)
{
    return (double)(now_ns - before_ns) * 1e-9;
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

void lode_session_offload(const struct lode_session *session, struct lode_offload_stats *out)
{
    const struct lode_engine *engine = session->engine;
    const struct residency_figures *before = &session->before;
    struct residency_figures now;
    struct io_choice choice;
    residency_count(engine->residency, &now);
    io_describe(engine->io, &choice);
    const uint64_t reused = now.reused - before->reused;
    const double decode_s = seconds(now.decode_ns, before->decode_ns);
    *out = (struct lode_offload_stats){
        .offloaded = now.pool_bytes || now.streamed_bytes,
        .ceiling_bytes = engine->ceiling_bytes,
        .pinned_bytes = now.pinned_bytes,
        .pool_bytes = now.pool_bytes,
        .streamed_bytes = now.streamed_bytes,
        .ring_bytes = now.ring_bytes,
        .pool_slots = now.pool_slots,
        .experts = now.n_experts,
        .choices = now.choices - before->choices,
        .hits = now.hits - before->hits,
        .load_bytes = now.load_bytes,
        .prefill_bytes = now.prefill_bytes - before->prefill_bytes,
        .decode_bytes = now.decode_bytes - before->decode_bytes,
        .prefill_stall_s = seconds(now.prefill_stall_ns, before->prefill_stall_ns),
        .stall_s = seconds(now.decode_stall_ns, before->decode_stall_ns),
        .prefetch_useful_bytes = now.prefetch_useful_bytes - before->prefetch_useful_bytes,
        .prefetch_wasted_bytes = now.prefetch_wasted_bytes - before->prefetch_wasted_bytes,
        .prefetch_on = now.prefetch_on,
        .policy = now.policy,
        .io = engine->mapped ? "mmap" : choice.engine,
    };
    const uint64_t n_passes = now.decode_passes - before->decode_passes;
    out->hit_rate = out->choices ? (double)out->hits / (double)out->choices : 1;
    out->reuse = share((double)reused, (double)out->choices);
    out->bytes_per_token = share((double)out->decode_bytes, (double)n_passes);
    out->stall_share = share(out->stall_s, decode_s);
    out->disk_busy_share = share(seconds(now.decode_busy_ns, before->decode_busy_ns), decode_s);
    out->disk_gbps =
        share((double)(now.read_bytes - before->read_bytes), (double)(now.busy_ns - before->busy_ns));
}

void lode_session_layer(const struct lode_session *session, uint32_t layer, struct lode_layer_stats *out)
{
    struct residency_layer_figures figures;
    residency_count_layer(session->engine->residency, layer, &figures);
    *out = (struct lode_layer_stats){figures.choices, figures.hits, figures.bytes,
                                     (double)figures.stall_ns * 1e-9};
}

size_t lode_session_slow_tokens(const struct lode_session *session, struct lode_slow_token *out, size_t max)
{
    float *sorted = sorted_latencies(session);
    if (!sorted)
        return 0;
    const float p99_ms = (float)percentile(sorted, session->n_latencies, 0.99);
    free(sorted);
    size_t n = 0;
    for (size_t i = 0; i < session->n_latencies; i++) {
        const float ms = session->latency_ms[i];
        if (ms <= p99_ms)
            continue;
        size_t at = n < max ? n : max;
        while (at > 0 && out[at - 1].ms < ms)
            at--;
        if (at == max)
            continue;
        n = n < max ? n + 1 : max;
        memmove(&out[at + 1], &out[at], (n - at - 1) * sizeof *out);
        const struct residency_stall *stall = &session->stalls[i];
        struct lode_slow_token *token = &out[at];
        *token = (struct lode_slow_token){.index = i + 1, // the first token's time is the prefill's
                                          .ms = ms,
                                          .stall_ms = (double)stall->total_ns * 1e-6,
                                          .worst_stall_ms = (double)stall->worst_ns * 1e-6};
        residency_stall_text(session->engine->residency, stall, token->worst, sizeof token->worst);
    }
    return n;
}
