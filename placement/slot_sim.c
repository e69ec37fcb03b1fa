// A pool without bytes: slots that hold units. A row's victims are found together by one walk over its slots,
// for a sweep of policies, slots and traces looks for some ten million of them.
#include "placement/slot_sim.h"

#include "base/checked.h"
#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NOWHERE = UINT32_MAX };

// Slots lie layer after layer; shared, they are all of layer 0.
struct pool {
    const struct trace *trace;
    struct slot_sim sim;
    uint32_t n_tokens, n_units, n_slots;
    uint32_t *tokens;     // [n_tokens] of the trace, that are replayed
    uint32_t *first_unit; // [n_moe + 1] of a layer
    uint32_t *layer_of;   // [n_units]
    uint32_t *slot_of;    // [n_units] or NOWHERE
    bool *chosen;         // [n_units] by the row at work
    uint32_t *unit_in;    // [n_slots] of those that were ever used
    uint32_t *in_layer;   // [n_moe] units that are resident
    uint32_t *filled;     // [n_moe] slots of a layer that were ever used; shared, of layer 0
    bool sizes_known;
    // Victims are sought one at a time: scores may change when a unit comes or goes, or the next victim's
    // layer depends on the last one's.
    bool one_by_one;
    struct policy *policy;
    double *worth; // [n_units] for Belady, in place of a policy's scores: -(row of the next choice)
    double *after; // [rows][n_used] what worth becomes with this choice
    struct slot_hits hits;
};

static void pool_close(struct pool *pool)
{
    if (pool->policy)
        pool->policy->ops->close(pool->policy);
    free(pool->tokens);
    free(pool->first_unit);
    free(pool->layer_of);
    free(pool->slot_of);
    free(pool->chosen);
    free(pool->unit_in);
    free(pool->in_layer);
    free(pool->filled);
    free(pool->worth);
    free(pool->after);
}

// ---- opening
// ------------------------------------------------------------------------------------------------

static int check(const struct slot_sim *sim, const struct trace *trace, struct lode_error *error)
{
    if (trace->n_moe == 0 || trace->n_tokens == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the trace has no choices of experts");
    if (sim->slots > TRACE_MAX_EXPERTS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u slots a layer: there can be at most %d", sim->slots,
                         TRACE_MAX_EXPERTS);
    if (sim->slots * (sim->shared ? trace->n_moe : 1) < trace->n_used)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%u slots a layer: a cache must hold at least the %u experts of a token", sim->slots,
                         trace->n_used);
    return 0;
}

static void list_range(struct pool *pool, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n && first + i < pool->trace->n_tokens; i++)
        pool->tokens[pool->n_tokens++] = first + i;
}

static int list_tokens(struct pool *pool, struct lode_error *error)
{
    const struct trace *trace = pool->trace;
    pool->tokens = calloc(trace->n_tokens, sizeof *pool->tokens);
    if (!pool->tokens)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of %u tokens", trace->n_tokens);
    if (trace->n_conversations == 0)
        list_range(pool, 0, trace->n_tokens);
    for (uint32_t c = 0; c < trace->n_conversations; c++)
        if (trace->conversations[c].part != TRACE_PART_FIT)
            list_range(pool, trace->conversations[c].first_token, trace->conversations[c].n_tokens);
    if (pool->n_tokens == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "all of the trace's conversations are for fitting");
    if (pool->sim.tokens && pool->sim.tokens < pool->n_tokens)
        pool->n_tokens = pool->sim.tokens;
    if (pool->sim.first >= pool->n_tokens)
        return lode_fail(error, LODE_ERR_ARGUMENT, "of %u tokens all are left out of the count",
                         pool->n_tokens);
    return 0;
}

static int list_units(struct pool *pool, struct lode_error *error)
{
    const struct trace *trace = pool->trace;
    pool->first_unit = calloc(trace->n_moe + 1u, sizeof *pool->first_unit);
    if (!pool->first_unit)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u layers", trace->n_moe);
    pool->sizes_known = true;
    for (uint32_t m = 0; m < trace->n_moe; m++) {
        const struct trace_layer *layer = &trace->header.layers[trace->moe_layer[m]];
        pool->first_unit[m + 1] = pool->first_unit[m] + layer->n_experts;
        pool->sizes_known &= layer->expert_bytes > 0;
    }
    pool->n_units = pool->first_unit[trace->n_moe];
    pool->layer_of = calloc(pool->n_units, sizeof *pool->layer_of);
    pool->slot_of = calloc(pool->n_units, sizeof *pool->slot_of);
    pool->chosen = calloc(pool->n_units, sizeof *pool->chosen);
    if (!pool->layer_of || !pool->slot_of || !pool->chosen)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u experts", pool->n_units);
    for (uint32_t m = 0; m < trace->n_moe; m++)
        for (uint32_t u = pool->first_unit[m]; u < pool->first_unit[m + 1]; u++)
            pool->layer_of[u] = m;
    memset(pool->slot_of, 0xff, pool->n_units * sizeof *pool->slot_of);
    return 0;
}

static int pool_open(struct pool *pool, const struct slot_sim *sim, const struct trace *trace,
                     struct lode_error *error)
{
    *pool = (struct pool){.trace = trace, .sim = *sim};
    int rc = check(sim, trace, error);
    if (!rc)
        rc = list_tokens(pool, error);
    if (!rc)
        rc = list_units(pool, error);
    if (rc)
        return rc;
    pool->n_slots = sim->slots * trace->n_moe;
    pool->in_layer = calloc(trace->n_moe, sizeof *pool->in_layer);
    pool->filled = calloc(trace->n_moe, sizeof *pool->filled);
    pool->unit_in = calloc(pool->n_slots, sizeof *pool->unit_in);
    if (!pool->in_layer || !pool->filled || !pool->unit_in)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u slots", pool->n_slots);
    return 0;
}

static int open_policy(struct pool *pool, const struct policy_ops *ops, struct lode_error *error)
{
    const struct policy_setup setup = {
        .n_units = pool->n_units,
        .n_layers = pool->trace->n_moe,
        .n_slots = pool->n_slots,
        .layer = pool->layer_of,
        .used_per_pass = pool->trace->n_moe * pool->trace->n_used,
        .heat = pool->sim.heat,
    };
    struct lode_error cause = {0};
    const int rc = ops->open(&pool->policy, &setup, &cause);
    pool->one_by_one = ops->admitted || ops->evicted || (ops->by_layer && pool->sim.shared);
    if (rc && !cause.text[0]) // a shared object's author may have forgotten it
        return lode_fail(error, rc, "the policy '%s' does not open and does not say why", ops->name);
    return rc ? lode_fail(error, rc, "%s", cause.text) : 0;
}

// ---- slots
// --------------------------------------------------------------------------------------------------

struct victim {
    double score;
    uint32_t slot;
};

// Of slots [first, end), the `wanted` whose units are worth least and are not chosen, the least first, and of
// equal ones the first; `layer` NOWHERE means of any. Returns how many there are.
static uint32_t find_victims(struct victim *out, const struct pool *pool, uint32_t first, uint32_t end,
                             uint32_t layer, uint32_t wanted)
{
    const double *scores = pool->policy ? pool->policy->score : pool->worth;
    uint32_t n = 0;
    for (uint32_t s = first; s < end; s++) {
        const uint32_t unit = pool->unit_in[s];
        const double score = scores[unit];
        if ((n == wanted && !(score < out[n - 1].score)) || pool->chosen[unit] ||
            (layer != NOWHERE && pool->layer_of[unit] != layer))
            continue;
        uint32_t at = n < wanted ? n++ : n - 1;
        for (; at > 0 && score < out[at - 1].score; at--)
            out[at] = out[at - 1];
        out[at] = (struct victim){score, s};
    }
    return n;
}

static void evict(struct pool *pool, uint32_t slot)
{
    const uint32_t unit = pool->unit_in[slot];
    if (pool->policy && pool->policy->ops->evicted)
        pool->policy->ops->evicted(pool->policy, unit);
    pool->slot_of[unit] = NOWHERE;
    pool->in_layer[pool->layer_of[unit]]--;
}

// Frees n slots for units of the layer: those that were never used first, unless the policy keeps the layer
// to its share. A cache holds a token's experts, so that there are always enough.
static void take_slots(uint32_t *out_slots, struct pool *pool, uint32_t layer, uint32_t n)
{
    struct victim victims[TRACE_MAX_USED];
    const bool shared = pool->sim.shared;
    const uint32_t home = shared ? 0 : layer, first = home * pool->sim.slots;
    const uint32_t room = shared ? pool->n_slots : pool->sim.slots;
    const uint32_t end = first + pool->filled[home]; // of the slots that have a unit in them
    uint32_t n_taken = 0, n_victims = 0;
    if (shared && pool->policy && pool->policy->ops->by_layer && pool->in_layer[layer] >= pool->sim.slots)
        n_victims = find_victims(victims, pool, first, end, layer, n);
    while (n_victims == 0 && n_taken < n && pool->filled[home] < room)
        out_slots[n_taken++] = first + pool->filled[home]++;
    if (n_victims == 0 && n_taken < n)
        n_victims = find_victims(victims, pool, first, end, NOWHERE, n - n_taken);
    for (uint32_t i = 0; i < n_victims; i++) {
        evict(pool, victims[i].slot);
        out_slots[n_taken++] = victims[i].slot;
    }
}

static void admit(struct pool *pool, uint32_t unit, uint32_t slot)
{
    pool->unit_in[slot] = unit;
    pool->slot_of[unit] = slot;
    pool->in_layer[pool->layer_of[unit]]++;
    if (pool->policy && pool->policy->ops->admitted)
        pool->policy->ops->admitted(pool->policy, unit);
}

static void admit_all(struct pool *pool, uint32_t layer, const uint32_t *units, uint32_t n)
{
    uint32_t slots[TRACE_MAX_USED];
    for (uint32_t i = 0, step; i < n; i += step) {
        step = pool->one_by_one ? 1 : n - i;
        take_slots(slots, pool, layer, step);
        for (uint32_t j = 0; j < step; j++)
            admit(pool, units[i + j], slots[j]);
    }
}

// ---- choices
// ------------------------------------------------------------------------------------------------

struct choice {
    uint32_t unit;
    float weight;
    double after; // for Belady
};

// Of the i-th token that is replayed.
static uint32_t read_choices(struct choice *out, const struct pool *pool, uint32_t i, uint32_t m)
{
    const struct trace *trace = pool->trace;
    const size_t row = (size_t)pool->tokens[i] * trace->n_moe + m, replayed = (size_t)i * trace->n_moe + m;
    uint32_t n = 0;
    for (uint32_t k = 0; k < trace->n_used; k++) {
        const size_t at = row * trace->n_used + k;
        if (trace->experts[at] == TRACE_NO_EXPERT)
            break;
        const struct choice choice = {
            .unit = pool->first_unit[m] + trace->experts[at],
            .weight = trace->weights ? trace->weights[at] : 0,
            .after = pool->after ? pool->after[replayed * trace->n_used + k] : 0,
        };
        uint32_t to = n++;
        for (; pool->sim.by_expert && to > 0 && out[to - 1].unit > choice.unit; to--)
            out[to] = out[to - 1];
        out[to] = choice;
    }
    return n;
}

static void tell_choices(struct pool *pool, const struct choice *choices, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct choice *choice = &choices[i];
        pool->chosen[choice->unit] = true;
        if (!pool->policy) {
            pool->worth[choice->unit] = choice->after;
            continue;
        }
        const struct policy_ops *ops = pool->policy->ops;
        if (ops->scored && pool->trace->weights)
            ops->scored(pool->policy, choice->unit, lode_f16_to_f32(lode_f32_to_f16(choice->weight)));
        ops->chosen(pool->policy, choice->unit, 1);
    }
}

static void count(struct pool *pool, uint32_t m, uint32_t n, uint32_t n_missing)
{
    uint64_t bytes = 0;
    if (pool->sizes_known &&
        (!checked_mul(&bytes, n_missing,
                      pool->trace->header.layers[pool->trace->moe_layer[m]].expert_bytes) ||
         !checked_add(&bytes, bytes, pool->hits.missed_bytes)))
        bytes = UINT64_MAX; // sizes that no file has
    pool->hits.missed_bytes = bytes;
    pool->hits.choices += n;
    pool->hits.hits += n - n_missing;
}

static void replay_layer(struct pool *pool, uint32_t i, uint32_t m)
{
    struct choice choices[TRACE_MAX_USED];
    uint32_t missing[TRACE_MAX_USED], n_missing = 0;
    const uint32_t n = read_choices(choices, pool, i, m);
    tell_choices(pool, choices, n);
    for (uint32_t k = 0; k < n; k++)
        if (pool->slot_of[choices[k].unit] == NOWHERE)
            missing[n_missing++] = choices[k].unit;
    admit_all(pool, m, missing, n_missing);
    for (uint32_t k = 0; k < n; k++)
        pool->chosen[choices[k].unit] = false;
    if (i >= pool->sim.first)
        count(pool, m, n, n_missing);
}

static void replay_all(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->n_tokens; i++) {
        for (uint32_t m = 0; m < pool->trace->n_moe; m++)
            replay_layer(pool, i, m);
        if (pool->policy)
            pool->policy->ops->pass_end(pool->policy, 1);
    }
}

int slot_sim_run(struct slot_hits *out, const struct slot_sim *sim, const struct trace *trace,
                 const struct policy_ops *ops, struct lode_error *error)
{
    struct pool pool;
    int rc = pool_open(&pool, sim, trace, error);
    if (!rc)
        rc = open_policy(&pool, ops, error);
    if (!rc) {
        replay_all(&pool);
        *out = pool.hits;
    }
    pool_close(&pool);
    return rc;
}

// ---- Belady
// -------------------------------------------------------------------------------------------------

// From the end to the beginning: what each choice finds as the next one of the same expert.
static int look_ahead(struct pool *pool, struct lode_error *error)
{
    const struct trace *trace = pool->trace;
    const size_t n_rows = (size_t)pool->n_tokens * trace->n_moe;
    pool->worth = malloc(pool->n_units * sizeof *pool->worth);
    pool->after = malloc(n_rows * trace->n_used * sizeof *pool->after);
    if (!pool->worth || !pool->after)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to look ahead over %u tokens", pool->n_tokens);
    for (uint32_t u = 0; u < pool->n_units; u++)
        pool->worth[u] = -INFINITY;
    for (size_t row = n_rows; row-- > 0;) {
        const size_t m = row % trace->n_moe, token = pool->tokens[row / trace->n_moe];
        const uint16_t *experts = trace->experts + (token * trace->n_moe + m) * trace->n_used;
        for (uint32_t k = 0; k < trace->n_used && experts[k] != TRACE_NO_EXPERT; k++) {
            double *worth = &pool->worth[pool->first_unit[m] + experts[k]];
            pool->after[row * trace->n_used + k] = *worth;
            *worth = -(double)row;
        }
    }
    return 0;
}

int slot_sim_belady(struct slot_hits *out, const struct slot_sim *sim, const struct trace *trace,
                    struct lode_error *error)
{
    struct pool pool;
    int rc = pool_open(&pool, sim, trace, error);
    if (!rc)
        rc = look_ahead(&pool, error);
    if (!rc) {
        replay_all(&pool);
        *out = pool.hits;
    }
    pool_close(&pool);
    return rc;
}
