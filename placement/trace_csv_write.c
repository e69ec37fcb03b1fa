// The choices of a trace in the columns of a route trace's CSV, which trace_csv.c reads.
#include "placement/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void write_head(const struct trace *trace, FILE *out)
{
    const struct trace_header *h = &trace->header;
    char model[sizeof h->model];
    snprintf(model, sizeof model, "%s", h->model[0] ? h->model : "unknown");
    for (char *c = model; *c; c++)
        *c = *c == ' ' ? '_' : *c;
    const uint32_t first = trace->moe_layer[0];
    fprintf(out, "# route_trace v1\n# model=%s n_layer=%u n_expert=%u n_expert_used=%u\n", model, h->n_layers,
            h->layers[first].n_experts, h->layers[first].n_used);
    if (h->fingerprint)
        fprintf(out, "# fingerprint=%016" PRIx64 "\n", h->fingerprint);
    for (uint32_t l = 0; l < h->n_layers; l++) {
        if (h->layers[l].n_experts && h->layers[l].expert_bytes)
            fprintf(out, "# layer=%u expert_bytes=%" PRIu64 "\n", l, h->layers[l].expert_bytes);
        else if (!h->layers[l].n_experts)
            fprintf(out, "# layer=%u n_expert=0\n", l);
    }
    fprintf(out, "turn,phase,step,layer,slot,expert%s%s%s\n", trace->weights ? ",weight" : "",
            trace->resident ? ",residency" : "", h->known & TRACE_HAS_READS ? ",expert_bytes" : "");
}

// Bytes that the pass has read for each expert, told with the first choice of it.
static uint64_t sum_reads(const struct trace *trace, uint32_t pass, uint64_t at, uint64_t *read_bytes)
{
    const size_t stride = trace->header.layers[trace->moe_layer[0]].n_experts;
    for (; at < trace->n_reads && (trace->reads[at].pass == pass || trace->reads[at].pass == UINT32_MAX);
         at++)
        if (trace->reads[at].pass == pass)
            read_bytes[(size_t)trace->reads[at].layer * stride + trace->reads[at].expert] +=
                trace->reads[at].bytes;
    return at;
}

static void write_row(const struct trace *trace, const struct trace_pass *pass, uint32_t token, uint32_t m,
                      uint64_t *read_bytes, FILE *out)
{
    const size_t row = (size_t)token * trace->n_moe + m, first = row * trace->n_used;
    const uint32_t layer = trace->moe_layer[m];
    for (uint32_t i = 0; i < trace->n_used && trace->experts[first + i] != TRACE_NO_EXPERT; i++) {
        const uint32_t expert = trace->experts[first + i];
        fprintf(out, "%u,%d,%u,%u,%u,%u", trace->tokens[token].conversation, (int)pass->phase,
                trace->tokens[token].position, layer, i, expert);
        if (trace->weights)
            fprintf(out, ",%g", (double)trace->weights[first + i]);
        if (trace->resident)
            fprintf(out, ",%u", (unsigned)(trace->resident[row] >> i & 1));
        if (trace->header.known & TRACE_HAS_READS) {
            uint64_t *bytes = &read_bytes[(size_t)layer * trace->header.layers[layer].n_experts + expert];
            fprintf(out, ",%" PRIu64, *bytes);
            *bytes = 0;
        }
        fputc('\n', out);
    }
}

int trace_write_csv(const struct trace *trace, FILE *out, struct lode_error *error)
{
    const struct trace_layer *first = &trace->header.layers[trace->moe_layer[0]];
    for (uint32_t m = 1; m < trace->n_moe; m++) {
        const struct trace_layer *layer = &trace->header.layers[trace->moe_layer[m]];
        if (layer->n_experts != first->n_experts || layer->n_used != first->n_used)
            return lode_fail(error, LODE_ERR_UNSUPPORTED,
                             "the layers have different numbers of experts, which the CSV cannot say");
    }
    const size_t n_cells = (size_t)trace->header.n_layers * first->n_experts;
    uint64_t *read_bytes = calloc(n_cells, sizeof *read_bytes);
    if (!read_bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the reads of a pass");
    write_head(trace, out);
    uint64_t read = 0;
    for (uint32_t p = 0; p < trace->n_passes; p++) {
        const struct trace_pass *pass = &trace->passes[p];
        read = sum_reads(trace, p, read, read_bytes);
        for (uint32_t m = 0; m < trace->n_moe; m++)
            for (uint32_t t = pass->first_token; t < pass->first_token + pass->n_tokens; t++)
                write_row(trace, pass, t, m, read_bytes, out);
        memset(read_bytes, 0, n_cells * sizeof *read_bytes);
    }
    free(read_bytes);
    return ferror(out) ? lode_fail(error, LODE_ERR_IO, "cannot write the CSV") : 0;
}
