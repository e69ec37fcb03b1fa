// A pool without bytes: slots that hold units, and the two ways of finding a victim.
#include "bench/policy_replay.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NOWHERE = UINT32_MAX };

// Slots lie layer after layer; shared, they are all of layer 0.
struct pool {
    const struct trace *trace;
    struct policy_replay replay;
    uint32_t n_tokens, n_units, n_slots;
    uint32_t *first_unit; // [n_moe + 1] of a layer
    uint32_t *layer_of;   // [n_units]
    uint32_t *slot_of;    // [n_units] or NOWHERE
    uint32_t *unit_in;    // [n_slots] or NOWHERE
    uint32_t *in_layer;   // [n_moe] units that are resident
    uint32_t *filled;     // [n_moe] slots of a layer that were ever used; shared, of layer 0
    struct policy *policy;
    uint64_t *next_use; // [n_units] for Belady: the row of the next choice, UINT64_MAX for never
    uint64_t *after;    // [rows][n_used] what next_use becomes with this choice
    struct policy_hits hits;
};

static void pool_close(struct pool *pool)
{
    if (pool->policy)
        pool->policy->ops->close(pool->policy);
    free(pool->first_unit);
    free(pool->layer_of);
    free(pool->slot_of);
    free(pool->unit_in);
    free(pool->in_layer);
    free(pool->filled);
    free(pool->next_use);
    free(pool->after);
}

static int check(const struct policy_replay *replay, const struct trace *trace, struct lode_error *error)
{
    if (trace->n_moe == 0 || trace->n_tokens == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the trace has no choices of experts");
    if (replay->slots > TRACE_MAX_EXPERTS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u slots a layer: there can be at most %d", replay->slots,
                         TRACE_MAX_EXPERTS);
    if (replay->slots * (replay->shared ? trace->n_moe : 1) < trace->n_used)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%u slots a layer: a cache must hold at least the %u experts of a token",
                         replay->slots, trace->n_used);
    const bool all = replay->tokens == 0 || replay->tokens > trace->n_tokens;
    const uint32_t n_tokens = all ? trace->n_tokens : replay->tokens;
    if (replay->first >= n_tokens)
        return lode_fail(error, LODE_ERR_ARGUMENT, "of %u tokens all are left out of the count", n_tokens);
    return 0;
}

static int pool_open(struct pool *pool, const struct policy_replay *replay, const struct trace *trace,
                     struct lode_error *error)
{
    *pool = (struct pool){.trace = trace, .replay = *replay};
    int rc = check(replay, trace, error);
    if (rc)
        return rc;
    const bool all = replay->tokens == 0 || replay->tokens > trace->n_tokens;
    pool->n_tokens = all ? trace->n_tokens : replay->tokens;
    pool->n_slots = replay->slots * trace->n_moe;
    pool->first_unit = calloc(trace->n_moe + 1u, sizeof *pool->first_unit);
    pool->in_layer = calloc(trace->n_moe, sizeof *pool->in_layer);
    pool->filled = calloc(trace->n_moe, sizeof *pool->filled);
    pool->unit_in = calloc(pool->n_slots, sizeof *pool->unit_in);
    if (!pool->first_unit || !pool->in_layer || !pool->filled || !pool->unit_in)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u slots", pool->n_slots);
    for (uint32_t m = 0; m < trace->n_moe; m++)
        pool->first_unit[m + 1] = pool->first_unit[m] + trace->header.layers[trace->moe_layer[m]].n_experts;
    pool->n_units = pool->first_unit[trace->n_moe];
    pool->layer_of = calloc(pool->n_units, sizeof *pool->layer_of);
    pool->slot_of = calloc(pool->n_units, sizeof *pool->slot_of);
    if (!pool->layer_of || !pool->slot_of)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u experts", pool->n_units);
    for (uint32_t m = 0; m < trace->n_moe; m++)
        for (uint32_t u = pool->first_unit[m]; u < pool->first_unit[m + 1]; u++)
            pool->layer_of[u] = m;
    memset(pool->slot_of, 0xff, pool->n_units * sizeof *pool->slot_of);
    memset(pool->unit_in, 0xff, pool->n_slots * sizeof *pool->unit_in);
    return 0;
}

// ---- slots
// --------------------------------------------------------------------------------------------------

static bool is_chosen(uint32_t unit, const uint32_t *chosen, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (chosen[i] == unit)
            return true;
    return false;
}

static double worth(const struct pool *pool, uint32_t unit)
{
    if (pool->policy)
        return pool->policy->score[unit];
    return pool->next_use[unit] == UINT64_MAX ? -INFINITY : -(double)pool->next_use[unit];
}

// Of slots [first, end), the one whose unit is worth least and was not chosen; `layer` NOWHERE means any.
static uint32_t find_victim(const struct pool *pool, uint32_t first, uint32_t end, uint32_t layer,
                            const uint32_t *chosen, uint32_t n)
{
    uint32_t victim = NOWHERE;
    double lowest = INFINITY;
    for (uint32_t s = first; s < end; s++) {
        const uint32_t unit = pool->unit_in[s];
        if (unit == NOWHERE || (layer != NOWHERE && pool->layer_of[unit] != layer) ||
            is_chosen(unit, chosen, n))
            continue;
        if (victim == NOWHERE || worth(pool, unit) < lowest) {
            lowest = worth(pool, unit);
            victim = s;
        }
    }
    return victim;
}

static void evict(struct pool *pool, uint32_t slot)
{
    const uint32_t unit = pool->unit_in[slot];
    if (pool->policy && pool->policy->ops->evicted)
        pool->policy->ops->evicted(pool->policy, unit);
    pool->slot_of[unit] = NOWHERE;
    pool->unit_in[slot] = NOWHERE;
    pool->in_layer[pool->layer_of[unit]]--;
}

static uint32_t take_slot(struct pool *pool, uint32_t layer, const uint32_t *chosen, uint32_t n)
{
    const uint32_t home = pool->replay.shared ? 0 : layer;
    const uint32_t first = home * pool->replay.slots;
    const uint32_t end = pool->replay.shared ? pool->n_slots : first + pool->replay.slots;
    uint32_t victim = NOWHERE;
    if (pool->policy && pool->policy->ops->by_layer && pool->in_layer[layer] >= pool->replay.slots)
        victim = find_victim(pool, first, end, layer, chosen, n);
    if (victim == NOWHERE && first + pool->filled[home] < end)
        return first + pool->filled[home]++;
    if (victim == NOWHERE)
        victim = find_victim(pool, first, end, NOWHERE, chosen, n);
    evict(pool, victim);
    return victim;
}

static void admit(struct pool *pool, uint32_t unit, const uint32_t *chosen, uint32_t n)
{
    const uint32_t slot = take_slot(pool, pool->layer_of[unit], chosen, n);
    pool->unit_in[slot] = unit;
    pool->slot_of[unit] = slot;
    pool->in_layer[pool->layer_of[unit]]++;
    if (pool->policy && pool->policy->ops->admitted)
        pool->policy->ops->admitted(pool->policy, unit);
}

// ---- choices
// ------------------------------------------------------------------------------------------------

struct choice {
    uint32_t unit;
    float weight;
    uint64_t after; // for Belady
};

static int by_unit(const void *a, const void *b)
{
    const uint32_t x = ((const struct choice *)a)->unit, y = ((const struct choice *)b)->unit;
    return (x > y) - (x < y);
}

static uint32_t read_choices(struct choice *out, const struct pool *pool, size_t row, uint32_t m)
{
    const struct trace *trace = pool->trace;
    uint32_t n = 0;
    for (uint32_t i = 0; i < trace->n_used; i++) {
        const size_t at = row * trace->n_used + i;
        if (trace->experts[at] == TRACE_NO_EXPERT)
            break;
        out[n++] = (struct choice){.unit = pool->first_unit[m] + trace->experts[at],
                                   .weight = trace->weights ? trace->weights[at] : 0,
                                   .after = pool->after ? pool->after[at] : 0};
    }
    if (pool->replay.by_expert)
        qsort(out, n, sizeof *out, by_unit);
    return n;
}

static void tell_choices(struct pool *pool, const struct choice *choices, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct choice *choice = &choices[i];
        if (!pool->policy) {
            pool->next_use[choice->unit] = choice->after;
            continue;
        }
        const struct policy_ops *ops = pool->policy->ops;
        if (ops->scored && pool->trace->weights)
            ops->scored(pool->policy, choice->unit, lode_f16_to_f32(lode_f32_to_f16(choice->weight)));
        ops->chosen(pool->policy, choice->unit, 1);
    }
}

static void replay_layer(struct pool *pool, uint32_t token, uint32_t m)
{
    struct choice choices[TRACE_MAX_USED];
    uint32_t units[TRACE_MAX_USED], hits = 0;
    const uint32_t n = read_choices(choices, pool, (size_t)token * pool->trace->n_moe + m, m);
    tell_choices(pool, choices, n);
    for (uint32_t i = 0; i < n; i++) {
        units[i] = choices[i].unit;
        hits += pool->slot_of[units[i]] != NOWHERE;
    }
    for (uint32_t i = 0; i < n; i++)
        if (pool->slot_of[units[i]] == NOWHERE)
            admit(pool, units[i], units, n);
    if (token >= pool->replay.first) {
        pool->hits.choices += n;
        pool->hits.hits += hits;
    }
}

static void replay_all(struct pool *pool)
{
    for (uint32_t token = 0; token < pool->n_tokens; token++) {
        for (uint32_t m = 0; m < pool->trace->n_moe; m++)
            replay_layer(pool, token, m);
        if (pool->policy)
            pool->policy->ops->pass_end(pool->policy, 1);
    }
}

int policy_replay(struct policy_hits *out, const struct policy_replay *replay, const struct trace *trace,
                  const struct policy_ops *ops, struct lode_error *error)
{
    struct pool pool;
    int rc = pool_open(&pool, replay, trace, error);
    if (!rc) {
        const struct policy_setup setup = {
            .n_units = pool.n_units,
            .n_layers = trace->n_moe,
            .n_slots = pool.n_slots,
            .layer = pool.layer_of,
            .used_per_pass = trace->n_moe * trace->n_used,
        };
        rc = ops->open(&pool.policy, &setup, error);
    }
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
    pool->next_use = malloc(pool->n_units * sizeof *pool->next_use);
    pool->after = malloc(n_rows * trace->n_used * sizeof *pool->after);
    if (!pool->next_use || !pool->after)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to look ahead over %u tokens", pool->n_tokens);
    memset(pool->next_use, 0xff, pool->n_units * sizeof *pool->next_use);
    for (size_t row = n_rows; row-- > 0;)
        for (uint32_t i = 0; i < trace->n_used; i++) {
            const size_t at = row * trace->n_used + i;
            if (trace->experts[at] == TRACE_NO_EXPERT)
                break;
            const uint32_t unit = pool->first_unit[row % trace->n_moe] + trace->experts[at];
            pool->after[at] = pool->next_use[unit];
            pool->next_use[unit] = row;
        }
    return 0;
}

int policy_replay_belady(struct policy_hits *out, const struct policy_replay *replay,
                         const struct trace *trace, struct lode_error *error)
{
    struct pool pool;
    int rc = pool_open(&pool, replay, trace, error);
    if (!rc)
        rc = look_ahead(&pool, error);
    if (!rc) {
        replay_all(&pool);
        *out = pool.hits;
    }
    pool_close(&pool);
    return rc;
}
