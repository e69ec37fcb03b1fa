// libFuzzer target: whatever the bytes, they are refused with a message, or they are a trace whose arrays
// hold what its header allows, that can be summarised and written as CSV, and whose CSV is read again. Bytes
// that begin with '!' are the records of a block, so that mutations get past the checksums.
#include "placement/bounds.h"
#include "placement/slot_sim.h"
#include "placement/trace_format.h"
#include "placement/trace_summary.h"

#include <stdlib.h>
#include <zstd.h>

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            abort();                                                                                         \
    } while (0)

#define MAX_BYTES (UINT64_C(16) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A trace of three layers, the second without experts, with a block of these records.
static size_t wrap(uint8_t *out, const uint8_t *records, size_t n)
{
    static struct trace_header header;
    header.known = TRACE_HAS_ALL;
    header.n_layers = 3;
    header.layers[0] = header.layers[2] = (struct trace_layer){16, 3, 1000};
    const size_t at = trace_header_encode(out, &header);
    uint8_t *head = out + at;
    const size_t frame = ZSTD_compress(head + TRACE_BLOCK_HEADER_BYTES, ZSTD_compressBound(n), records, n, 1);
    REQUIRE(!ZSTD_isError(frame));
    trace_put_u32(head, TRACE_BLOCK_FRAME);
    trace_put_u32(head + 4, TRACE_BLOCK_HEADER_BYTES - 8);
    trace_put_u32(head + 8, 0);
    trace_put_u32(head + 12, (uint32_t)n);
    trace_put_u32(head + 16, (uint32_t)frame);
    trace_put_u64(head + 20, trace_sum(TRACE_SUM_START, head + TRACE_BLOCK_HEADER_BYTES, frame));
    trace_put_u32(head + 28, (uint32_t)trace_sum(TRACE_SUM_START, head, 28));
    return at + TRACE_BLOCK_HEADER_BYTES + frame;
}

static void require_sound(const struct trace *t)
{
    REQUIRE(t->n_tokens == 0 || (t->n_passes > 0 && t->n_conversations > 0));
    for (uint32_t token = 0; token < t->n_tokens; token++) {
        REQUIRE(t->tokens[token].pass < t->n_passes && t->tokens[token].conversation < t->n_conversations);
        for (uint32_t m = 0; m < t->n_moe; m++) {
            const size_t row = (size_t)token * t->n_moe + m;
            const struct trace_layer *layer = &t->header.layers[t->moe_layer[m]];
            const uint16_t *guess;
            for (uint32_t i = 0; i < t->n_used; i++)
                REQUIRE(t->experts[row * t->n_used + i] == TRACE_NO_EXPERT ||
                        (i < layer->n_used && t->experts[row * t->n_used + i] < layer->n_experts));
            const uint32_t ranks = trace_row_guess(t, row, &guess);
            for (uint32_t r = 0; r < ranks; r++)
                REQUIRE(guess[r] < layer->n_experts);
        }
    }
    for (uint64_t r = 0; r < t->n_reads; r++)
        REQUIRE(t->reads[r].layer < t->header.n_layers);
}

static void require_csv(const struct trace *t)
{
    char *text = NULL;
    size_t len = 0;
    struct lode_error error = {0};
    struct trace again;
    FILE *out = open_memstream(&text, &len);
    REQUIRE(out);
    const int code = trace_write_csv(t, out, &error);
    fclose(out);
    if (!code && t->n_tokens) {
        FILE *in = fmemopen(text, len, "rb");
        REQUIRE(in);
        if (trace_load_stream(&again, in, "written", MAX_BYTES * 4, &error) == 0) {
            require_sound(&again);
            trace_free(&again);
        }
    }
    free(text);
}

// Whatever is chosen, a replay misses no less than Belady, and Belady no less than the bound.
static void require_bounds(const struct trace *t)
{
    const struct slot_sim sim = {.slots = t->n_used + 1u, .by_expert = true};
    const struct bound_request request = {.n_passes = t->n_passes, .slots = sim.slots * t->n_moe};
    struct slot_hits hits, most;
    struct lode_error error = {0};
    uint64_t *loads = calloc(t->n_passes + 1u, sizeof *loads);
    REQUIRE(loads && bound_loads(loads, &request, t, &error) == 0);
    if (slot_sim_run(&hits, &sim, t, policy_table[0], &error) == 0) { // not: all for fitting
        REQUIRE(slot_sim_belady(&most, &sim, t, &error) == 0);
        REQUIRE(hits.choices == most.choices && hits.hits <= most.hits && most.hits <= most.choices);
        bool all = true; // a pass of many tokens needs an expert once, in the replay each token does
        for (uint32_t c = 0; c < t->n_conversations; c++)
            all &= t->conversations[c].part != TRACE_PART_FIT;
        REQUIRE(!all || loads[t->n_passes - 1] <= most.choices - most.hits);
    }
    free(loads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[1 << 17];
    if (size == 0 || size > 1 << 16)
        return 0;
    if (data[0] == '!')
        size = wrap(bytes, data + 1, size - 1);
    else
        memcpy(bytes, data, size);
    FILE *stream = fmemopen(bytes, size, "rb");
    struct trace trace;
    struct lode_error error = {0};
    REQUIRE(stream);
    const int code = trace_load_stream(&trace, stream, "fuzz", MAX_BYTES, &error);
    if (code) {
        REQUIRE(code < 0 && error.code == code && error.text[0]);
        return 0;
    }
    require_sound(&trace);
    if ((uint64_t)trace.n_tokens * trace.n_moe < 20000) {
        struct trace_summary summary;
        if (trace_summarise(&summary, &trace, 1, &error) == 0)
            trace_summary_free(&summary);
        require_csv(&trace);
        require_bounds(&trace);
    }
    trace_free(&trace);
    return 0;
}
