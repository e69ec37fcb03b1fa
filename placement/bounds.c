// Belady's rule with bypass over a whole trace, in a few operations a choice.
//
// All that is needed is put into one list of requests: pass by pass, layer by layer, each expert once. A unit
// that stays is marked at its next request, so that the marks are the pool: a request that is marked is a
// hit, and the unit that is needed again last is the last mark. Marks are bits under a tree of 64 branches,
// which finds the last of 240,000 in three steps.
//
// Only when a whole choice has been served do the last marks leave, as many as are too many. One after the
// other would be too early: what waits for its turn in the choice would hold a slot that it need not keep.
#include "placement/bounds.h"

#include <stdlib.h>
#include <string.h>

#define NEVER (UINT32_MAX >> 1)
#define LAST (1u << 31)  // of its choice
enum { MAX_LEVELS = 6 }; // 64^6 > 2^31

// Level 0 has a bit for each request, level l one for each word of level l - 1 that is not 0.
struct marks {
    uint64_t *level[MAX_LEVELS];
    uint32_t n_levels;
};

struct bound {
    const struct trace *trace;
    const struct bound_request *request;
    uint32_t *first_unit; // [n_moe] of a layer
    uint32_t *seen;       // [n_units] see the uses below
    uint32_t *requests;   // [n] the unit; then where its next request is, or NEVER; and LAST
    uint32_t n_units, n, n_kept;
    struct marks marks;
};

// ---- marks
// --------------------------------------------------------------------------------------------------

static void marks_close(struct marks *marks)
{
    for (uint32_t l = 0; l < marks->n_levels; l++)
        free(marks->level[l]);
}

static bool marks_open(struct marks *marks, uint64_t n)
{
    do {
        n = (n + 63) / 64;
        uint64_t *level = calloc(n ? n : 1, sizeof *level);
        if (!level)
            return false;
        marks->level[marks->n_levels++] = level;
    } while (n > 1);
    return true;
}

static bool is_marked(const struct marks *marks, uint32_t at)
{
    return marks->level[0][at / 64] >> at % 64 & 1;
}

static void mark(struct marks *marks, uint32_t at)
{
    for (uint32_t l = 0; l < marks->n_levels; l++, at /= 64) {
        const uint64_t before = marks->level[l][at / 64];
        marks->level[l][at / 64] |= UINT64_C(1) << at % 64;
        if (before)
            return;
    }
}

static void unmark(struct marks *marks, uint32_t at)
{
    for (uint32_t l = 0; l < marks->n_levels; l++, at /= 64) {
        marks->level[l][at / 64] &= ~(UINT64_C(1) << at % 64);
        if (marks->level[l][at / 64])
            return;
    }
}

// There must be one.
static uint32_t last_mark(const struct marks *marks)
{
    uint32_t at = 0;
    for (uint32_t l = marks->n_levels; l-- > 0;)
        at = at * 64 + 63 - (uint32_t)__builtin_clzll(marks->level[l][at]);
    return at;
}

// ---- requests
// -----------------------------------------------------------------------------------------------

static int check(const struct bound_request *request, const struct trace *trace, struct lode_error *error)
{
    if (request->first_pass > trace->n_passes || request->n_passes > trace->n_passes - request->first_pass)
        return lode_fail(error, LODE_ERR_ARGUMENT, "passes %u to %llu of a trace of %u", request->first_pass,
                         (unsigned long long)request->first_pass + request->n_passes, trace->n_passes);
    for (uint32_t p = 0; p < request->n_passes; p++) {
        const struct trace_pass *pass = &trace->passes[request->first_pass + p];
        if (pass->first_token > trace->n_tokens || pass->n_tokens > trace->n_tokens - pass->first_token)
            return lode_fail(error, LODE_ERR_ARGUMENT, "pass %u of the trace has tokens that are not there",
                             request->first_pass + p);
    }
    return 0;
}

// As many as there can be.
static uint64_t count_requests(const struct bound *bound)
{
    const struct trace *trace = bound->trace;
    uint64_t n = 0;
    for (uint32_t p = 0; p < bound->request->n_passes; p++) {
        const uint64_t choices =
            (uint64_t)trace->passes[bound->request->first_pass + p].n_tokens * trace->n_used;
        for (uint32_t m = 0; m < trace->n_moe; m++) {
            const uint32_t n_experts = trace->header.layers[trace->moe_layer[m]].n_experts;
            n += choices < n_experts ? choices : n_experts;
        }
    }
    return n;
}

static int bound_open(struct bound *bound, struct lode_error *error)
{
    const struct trace *trace = bound->trace;
    const uint64_t n = count_requests(bound);
    bound->first_unit = calloc(trace->n_moe + 1u, sizeof *bound->first_unit);
    for (uint32_t m = 0; bound->first_unit && m < trace->n_moe; m++) {
        bound->first_unit[m] = bound->n_units;
        bound->n_units += trace->header.layers[trace->moe_layer[m]].n_experts;
    }
    bound->seen = calloc(bound->n_units + 1u, sizeof *bound->seen);
    if (n < NEVER)
        bound->requests = calloc(n + 1, sizeof *bound->requests);
    if (!bound->first_unit || !bound->seen || !bound->requests || !marks_open(&bound->marks, n))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the bound of %llu choices",
                         (unsigned long long)n);
    return 0;
}

static void bound_close(struct bound *bound)
{
    free(bound->first_unit);
    free(bound->seen);
    free(bound->requests);
    marks_close(&bound->marks);
}

// What the tokens of a pass choose in a layer. `seen` has the pass that listed the unit last, from 1.
static void list_layer(struct bound *bound, uint32_t p, uint32_t m)
{
    const struct trace *trace = bound->trace;
    const struct trace_pass *pass = &trace->passes[bound->request->first_pass + p];
    const uint32_t before = bound->n;
    for (uint32_t token = pass->first_token; token < pass->first_token + pass->n_tokens; token++) {
        const uint16_t *experts = trace->experts + ((size_t)token * trace->n_moe + m) * trace->n_used;
        for (uint32_t k = 0; k < trace->n_used && experts[k] != TRACE_NO_EXPERT; k++) {
            const uint32_t unit = bound->first_unit[m] + experts[k];
            if (bound->seen[unit] != p + 1)
                bound->requests[bound->n++] = unit;
            bound->seen[unit] = p + 1;
        }
    }
    if (bound->n > before)
        bound->requests[bound->n - 1] |= LAST;
}

// Each request's unit becomes the place of its next request; `seen` is left with the first ones.
static void look_ahead(struct bound *bound)
{
    for (uint32_t u = 0; u < bound->n_units; u++)
        bound->seen[u] = NEVER;
    for (uint32_t i = bound->n; i-- > 0;) {
        const uint32_t unit = bound->requests[i] & ~LAST, last = bound->requests[i] & LAST;
        bound->requests[i] = bound->seen[unit] | last;
        bound->seen[unit] = i;
    }
}

// ---- the rule
// -----------------------------------------------------------------------------------------------

static void keep(struct bound *bound, uint32_t at)
{
    if (at == NEVER)
        return;
    mark(&bound->marks, at);
    bound->n_kept++;
}

static void let_go(struct bound *bound, uint32_t at)
{
    unmark(&bound->marks, at);
    bound->n_kept--;
}

static void keep_to_slots(struct bound *bound)
{
    while (bound->n_kept > bound->request->slots)
        let_go(bound, last_mark(&bound->marks));
}

// ends: [n_passes] requests up to the end of each pass; they become loads.
static void replay(uint64_t *ends, struct bound *bound)
{
    uint64_t n_loads = 0;
    for (uint32_t u = 0; bound->request->warm && u < bound->n_units; u++)
        keep(bound, bound->seen[u]);
    keep_to_slots(bound);
    uint32_t i = 0;
    for (uint32_t p = 0; p < bound->request->n_passes; p++) {
        for (; i < ends[p]; i++) {
            if (is_marked(&bound->marks, i))
                let_go(bound, i);
            else
                n_loads++;
            keep(bound, bound->requests[i] & ~LAST);
            if (bound->requests[i] & LAST)
                keep_to_slots(bound);
        }
        ends[p] = n_loads;
    }
}

int bound_loads(uint64_t *out_loads, const struct bound_request *request, const struct trace *trace,
                struct lode_error *error)
{
    struct bound bound = {.trace = trace, .request = request};
    int code = check(request, trace, error);
    if (!code)
        code = bound_open(&bound, error);
    if (!code) {
        for (uint32_t p = 0; p < request->n_passes; p++) {
            for (uint32_t m = 0; m < trace->n_moe; m++)
                list_layer(&bound, p, m);
            out_loads[p] = bound.n;
        }
        look_ahead(&bound);
        replay(out_loads, &bound);
    }
    bound_close(&bound);
    return code;
}

void bound_times(double *out_s, const uint64_t *bytes, const double *compute_s, uint32_t n_passes,
                 double bytes_per_s)
{
    double end_s = 0;
    for (uint32_t p = 0; p < n_passes; p++) {
        const double computed_s = end_s + compute_s[p], read_s = (double)bytes[p] / bytes_per_s;
        end_s = computed_s > read_s ? computed_s : read_s;
        out_s[p] = end_s;
    }
}
