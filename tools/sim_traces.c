// Loading, what is measured and what is learned from, and the heat of the latter.
#include "tools/sim_traces.h"

#include "tools/message.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum part_kind { MEASURED, LEARNED, LEFT_OUT };

// A trace to learn from may be marked: then only what is marked to fit counts, else all of it.
static enum part_kind kind_of(const struct trace *trace, bool is_fit, uint32_t conversation)
{
    const enum trace_part part = trace->conversations[conversation].part;
    if (!is_fit)
        return part == TRACE_PART_FIT ? LEARNED : MEASURED;
    for (uint32_t c = 0; c < trace->n_conversations; c++)
        if (trace->conversations[c].part != TRACE_PART_NONE)
            return part == TRACE_PART_FIT ? LEARNED : LEFT_OUT;
    return LEARNED;
}

// ---- loading
// -------------------------------------------------------------------------------------------------

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

// What trace_load has allocated, but for the room that it has in reserve (a half more at most).
static uint64_t bytes_of(const struct trace *t)
{
    const uint64_t rows = (uint64_t)t->n_tokens * t->n_moe;
    uint64_t row_bytes = t->n_used * sizeof *t->experts;
    row_bytes += t->weights ? t->n_used * sizeof *t->weights : 0;
    row_bytes += (t->resident ? sizeof *t->resident : 0) + (t->times ? sizeof *t->times : 0) +
                 (t->guess_at ? sizeof *t->guess_at : 0);
    return rows * row_bytes + t->n_tokens * sizeof *t->tokens + t->n_passes * sizeof *t->passes +
           t->n_conversations * sizeof *t->conversations + t->n_reads * sizeof *t->reads +
           t->n_guess_cells * sizeof *t->guess_cells;
}

static int load_one(struct sim_traces *s, uint32_t index, uint64_t max_bytes, const char *command,
                    struct lode_error *error)
{
    struct trace *trace = &s->traces[index];
    int code = trace_load(trace, s->paths[index], max_bytes, error);
    if (!code && index > 0)
        code = trace_same_model(&s->traces[0].header, s->paths[0], &trace->header, s->paths[index], error);
    if (code)
        return code;
    if (trace->cut[0] && command)
        message_note(command, "%s", trace->cut);
    if (!trace->n_tokens)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the trace %s has no tokens", s->paths[index]);
    for (uint32_t i = 0; index >= s->n && i < s->n; i++)
        if (is_same_file(s->paths[i], s->paths[index]))
            return lode_fail(
                error, LODE_ERR_ARGUMENT,
                "the trace %s would be learned from and measured; give it once: of a set made by "
                "lode trace --merge, what is marked to fit is learned from",
                s->paths[index]);
    return LODE_OK;
}

static int load_all(struct sim_traces *s, uint64_t max_bytes, const char *command, struct lode_error *error)
{
    for (uint32_t i = 0; i < s->n + s->n_fit; i++) {
        if (max_bytes == 0)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory is left for the trace %s", s->paths[i]);
        const int code = load_one(s, i, max_bytes, command, error);
        if (code)
            return code;
        const uint64_t bytes = bytes_of(&s->traces[i]);
        max_bytes -= bytes < max_bytes ? bytes : max_bytes;
    }
    return LODE_OK;
}

// ---- parts
// ---------------------------------------------------------------------------------------------------

static void note_facts(struct sim_traces *s, uint32_t index)
{
    const struct trace *trace = &s->traces[index];
    struct sim_trace_facts *facts = &s->facts[index];
    facts->path = s->paths[index];
    snprintf(facts->model, sizeof facts->model, "%s", trace->header.model);
    for (uint32_t c = 0; c < trace->n_conversations; c++) {
        const struct trace_conversation *conversation = &trace->conversations[c];
        if (kind_of(trace, false, c) == LEARNED) {
            facts->n_fit_tokens += conversation->n_tokens;
            continue;
        }
        facts->n_conversations += conversation->n_tokens > 0;
        facts->n_tokens += conversation->n_tokens;
        for (uint32_t i = 0; i < conversation->n_tokens; i++) {
            const struct trace_token *token = &trace->tokens[conversation->first_token + i];
            facts->n_prefill_tokens += trace->passes[token->pass].phase == TRACE_PREFILL;
            if (token->position >= s->context)
                s->context = token->position + 1;
        }
    }
}

static int find_parts(struct sim_traces *s, struct lode_error *error)
{
    for (uint32_t i = 0; i < s->n + s->n_fit; i++) {
        const struct trace *trace = &s->traces[i];
        uint32_t learned = 0;
        for (uint32_t c = 0; c < trace->n_conversations; c++)
            if (kind_of(trace, i >= s->n, c) == LEARNED)
                learned += trace->conversations[c].n_tokens;
        if (i < s->n) {
            note_facts(s, i);
            if (!s->facts[i].n_tokens)
                return lode_fail(error, LODE_ERR_ARGUMENT,
                                 "nothing of the trace %s can be measured: all of it is marked to fit; give "
                                 "it with --fit",
                                 s->paths[i]);
        } else if (!learned)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "nothing of the trace %s can be learned from: none of it is marked to fit",
                             s->paths[i]);
        if (learned)
            s->learned[s->n_learned++] = trace;
        s->fit_tokens += learned;
    }
    return LODE_OK;
}

// ---- heat
// ----------------------------------------------------------------------------------------------------

static uint32_t experts_of(const struct trace *trace)
{
    uint32_t n = 0;
    for (uint32_t m = 0; m < trace->n_moe; m++)
        n += trace->header.layers[trace->moe_layer[m]].n_experts;
    return n;
}

static void count_token(uint32_t *counts, const struct trace *trace, uint32_t token)
{
    uint32_t first = 0;
    for (uint32_t m = 0; m < trace->n_moe; m++) {
        const uint16_t *experts = trace->experts + ((size_t)token * trace->n_moe + m) * trace->n_used;
        for (uint32_t i = 0; i < trace->n_used && experts[i] != TRACE_NO_EXPERT; i++)
            counts[first + experts[i]]++;
        first += trace->header.layers[trace->moe_layer[m]].n_experts;
    }
}

static int find_heat(struct sim_traces *s, struct lode_error *error)
{
    if (!s->fit_tokens)
        return LODE_OK;
    const uint32_t n_experts = experts_of(&s->traces[0]);
    uint32_t *counts = calloc(n_experts, sizeof *counts);
    s->heat = calloc(n_experts, sizeof *s->heat);
    if (!counts || !s->heat) {
        free(counts);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the heat of %u experts", n_experts);
    }
    for (uint32_t i = 0; i < s->n + s->n_fit; i++) {
        const struct trace *trace = &s->traces[i];
        for (uint32_t c = 0; c < trace->n_conversations; c++) {
            const struct trace_conversation *conversation = &trace->conversations[c];
            for (uint32_t t = 0; t < conversation->n_tokens && kind_of(trace, i >= s->n, c) == LEARNED; t++)
                count_token(counts, trace, conversation->first_token + t);
        }
    }
    for (uint32_t e = 0; e < n_experts; e++)
        s->heat[e] = (float)((double)counts[e] / s->fit_tokens);
    free(counts);
    return LODE_OK;
}

int sim_traces_load(struct sim_traces *out, const char *const *paths, uint32_t n, uint32_t n_fit,
                    uint64_t max_bytes, const char *command, struct lode_error *error)
{
    *out = (struct sim_traces){.paths = paths, .n = n, .n_fit = n_fit};
    out->traces = calloc((size_t)n + n_fit, sizeof *out->traces);
    out->facts = calloc(n, sizeof *out->facts);
    out->learned = calloc((size_t)n + n_fit, sizeof *out->learned);
    int code = out->traces && out->facts && out->learned
                   ? load_all(out, max_bytes, command, error)
                   : lode_fail(error, LODE_ERR_MEMORY, "no memory for %u traces", n + n_fit);
    if (!code)
        code = find_parts(out, error);
    if (!code)
        code = find_heat(out, error);
    if (code)
        sim_traces_free(out);
    return code;
}

void sim_traces_free(struct sim_traces *s)
{
    for (uint32_t i = 0; s->traces && i < s->n + s->n_fit; i++)
        trace_free(&s->traces[i]);
    free(s->traces);
    free(s->facts);
    free(s->learned);
    free(s->heat);
    *s = (struct sim_traces){0};
}

bool sim_traces_have_guesses(const struct sim_traces *s, const char **out_without)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (!s->traces[i].guess_at) {
            *out_without = s->paths[i];
            return false;
        }
    return true;
}
