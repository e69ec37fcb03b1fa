// The pool: slots of memory through which experts come and go.
//
// A slot holds one expert, all its parts together. An expert is chosen by the router (a demand read when it
// is missing), guessed before (a prefetch), or filled in at the start because it was hot in earlier runs. A
// read is shared by whoever wants its unit: a choice that finds a guess in flight raises its priority and
// waits for it. Victims are the lowest in the policy's scores; what a choice or a standing guess needs is
// spared.
//
// Experts of unlike sizes have slots of their own, in classes; a class has its experts' share of the memory.
// No call allocates but pool_open.
#include "placement/layout.h"
#include "placement/pool_internal.h"

#include <assert.h>
#include <stdlib.h>

static uint32_t size_classes(struct pool *pool)
{
    const struct unit_table *table = pool->residency->table;
    for (uint32_t e = 0; e < pool->n_experts; e++) {
        const uint64_t bytes = layout_unit_bytes(table, pool->unit_of[e], true);
        uint32_t c = 0;
        // An eighth more or less is not worth a class; parts differ by a page by where they lie in the file.
        while (c < pool->n_classes &&
               !(bytes <= pool->classes[c].slot_bytes + pool->classes[c].slot_bytes / 8 &&
                 bytes >= pool->classes[c].slot_bytes - pool->classes[c].slot_bytes / 8))
            c++;
        if (c == MAX_CLASSES)
            c = MAX_CLASSES - 1;
        if (c == pool->n_classes)
            pool->classes[pool->n_classes++] = (struct size_class){.slot_bytes = bytes};
        if (bytes > pool->classes[c].slot_bytes)
            pool->classes[c].slot_bytes = bytes;
    }
    for (uint32_t e = 0; e < pool->n_experts; e++)
        pool->classes[pool_class_of(pool, e)].n_experts++;
    return pool->n_classes;
}

static int make_slots(struct pool *pool, struct lode_error *error)
{
    uint64_t left = pool->residency->homes.pool_bytes;
    const uint32_t n_classes = size_classes(pool);
    double wanted = 0;
    for (uint32_t c = 0; c < n_classes; c++) {
        wanted += (double)pool->classes[c].n_experts * (double)pool->classes[c].slot_bytes;
        left -= pool->classes[c].n_experts ? pool->classes[c].slot_bytes : 0; // each has one at least
    }
    for (uint32_t c = 0; c < n_classes; c++) {
        struct size_class *class = &pool->classes[c];
        const double share = (double)class->n_experts * (double)class->slot_bytes / wanted;
        class->n_slots = 1 + (uint32_t)(share * (double)left / (double)class->slot_bytes);
        class->n_slots = class->n_slots > class->n_experts ? class->n_experts : class->n_slots;
        class->first_slot = pool->n_slots;
        pool->n_slots += class->n_slots;
    }
    pool->slots = calloc(pool->n_slots, sizeof *pool->slots);
    pool->free_slots = calloc(pool->n_slots, sizeof *pool->free_slots);
    pool->expected = calloc(pool->n_slots, sizeof *pool->expected);
    if (!pool->slots || !pool->free_slots || !pool->expected)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a pool of %u slots", pool->n_slots);
    int code = 0;
    for (uint32_t c = 0; c < n_classes && code == 0; c++) {
        struct size_class *class = &pool->classes[c];
        if (class->n_slots == 0)
            continue;
        code = residency_allocate(pool->residency, &class->memory, class->n_slots * class->slot_bytes, error);
        for (uint32_t i = class->n_slots; i-- > 0;) {
            pool->slots[class->first_slot + i] = (struct slot){.expert = NOWHERE, .size_class = (uint8_t)c};
            pool->free_slots[class->first_slot + pool->n_free[c]++] = class->first_slot + i;
        }
    }
    return code;
}

static int list_experts(struct pool *pool, struct lode_error *error)
{
    const struct residency *residency = pool->residency;
    const uint32_t n = residency->n_experts, n_layers = residency->n_layers;
    pool->n_experts = n;
    pool->n_layers = n_layers;
    pool->unit_of = calloc(n + 1, sizeof *pool->unit_of);
    pool->layer_of = calloc(n + 1, sizeof *pool->layer_of);
    pool->slot_of = calloc(n + 1, sizeof *pool->slot_of);
    pool->fill_order = calloc(n + 1, sizeof *pool->fill_order);
    pool->missing = calloc(n_layers + 1, sizeof *pool->missing);
    pool->in_layer = calloc(n_layers + 1, sizeof *pool->in_layer);
    pool->share = calloc(n_layers + 1, sizeof *pool->share);
    if (!pool->unit_of || !pool->layer_of || !pool->slot_of || !pool->fill_order || !pool->missing ||
        !pool->in_layer || !pool->share)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of %u experts", n);
    for (uint32_t u = 0; u < residency->table->n_units; u++) {
        if (residency->homes.home[u] != HOME_POOL)
            continue;
        const uint32_t expert = residency->expert_index[u];
        assert(residency->table->units[u].n_parts > 0 && residency->table->units[u].n_parts <= UINT8_MAX);
        pool->unit_of[expert] = u;
        pool->layer_of[expert] = residency->table->units[u].layer;
        pool->slot_of[expert] = NOWHERE;
        const uint32_t in_layer = ++pool->missing[pool->layer_of[expert]];
        pool->layer_max = in_layer > pool->layer_max ? in_layer : pool->layer_max;
    }
    pool->ready = calloc(pool->layer_max, sizeof *pool->ready);
    pool->backlog = calloc(pool->layer_max, sizeof *pool->backlog);
    if (!pool->ready || !pool->backlog)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a choice of %u experts", pool->layer_max);
    return 0;
}

static bool has_heat(const struct pool *pool)
{
    const struct heat *heat = pool->residency->options.heat;
    return heat && heat->n_tokens > 0;
}

static int open_policy(struct pool *pool, struct lode_error *error)
{
    const struct residency_options *options = &pool->residency->options;
    uint32_t n_moe_layers = 0;
    for (uint32_t l = 0; l < pool->n_layers; l++)
        n_moe_layers += pool->missing[l] > 0;
    for (uint32_t l = 0; l < pool->n_layers; l++)
        pool->share[l] = pool->missing[l] ? pool->n_slots / n_moe_layers : 0;
    const struct policy_setup setup = {
        .n_units = pool->n_experts,
        .n_layers = pool->n_layers,
        .n_slots = pool->n_slots,
        .layer = pool->layer_of,
        .used_per_pass = n_moe_layers * options->used_per_layer,
        .heat = has_heat(pool) ? options->heat->mean : NULL,
    };
    struct lode_error cause = {0};
    const int code = options->policy->open(&pool->policy, &setup, &cause);
    if (code && !cause.text[0]) // a shared object's author may have forgotten it
        return lode_fail(error, code, "the policy '%s' does not open and does not say why",
                         options->policy->name);
    if (code && error)
        *error = cause;
    return code;
}

struct ranked {
    double score;
    uint32_t expert;
};

static int better(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

// Experts that were chosen in earlier runs, in the order in which the policy would keep them: heat, for most.
static int order_fill(struct pool *pool, struct lode_error *error)
{
    if (!has_heat(pool))
        return 0;
    struct ranked *ranked = calloc(pool->n_experts, sizeof *ranked);
    if (!ranked)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to order %u experts", pool->n_experts);
    uint32_t n = 0;
    for (uint32_t e = 0; e < pool->n_experts; e++)
        if (pool->residency->options.heat->mean[e] > 0)
            ranked[n++] = (struct ranked){pool->policy->score[e], e};
    qsort(ranked, n, sizeof *ranked, better);
    while (pool->n_fill < n) {
        pool->fill_order[pool->n_fill] = ranked[pool->n_fill].expert;
        pool->n_fill++;
    }
    free(ranked);
    return 0;
}

int pool_open(struct pool **out, struct residency *residency, struct lode_error *error)
{
    struct pool *pool = *out = calloc(1, sizeof *pool);
    if (!pool)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the pool of experts");
    pool->residency = residency;
    pool->expected_layer = NOWHERE;
    pool->disk_bytes_per_ns = 1.0; // a common drive, until it is measured
    int code = list_experts(pool, error);
    if (code == 0)
        code = make_slots(pool, error);
    if (code == 0)
        code = open_policy(pool, error);
    if (code == 0)
        code = order_fill(pool, error);
    return code;
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    for (uint32_t i = 0; pool->slots && i < pool->n_slots; i++)
        if (pool->slots[i].state == SLOT_READING)
            io_cancel(pool->residency->io, read_tag(READ_POOL, i));
    struct io_completion completion;
    while (io_pending(pool->residency->io) > 0)
        io_reap(pool->residency->io, &completion, 1, 1, -1);
    if (pool->policy)
        pool->policy->ops->close(pool->policy);
    free(pool->unit_of);
    free(pool->layer_of);
    free(pool->slot_of);
    free(pool->missing);
    free(pool->in_layer);
    free(pool->share);
    free(pool->slots);
    free(pool->free_slots);
    free(pool->ready);
    free(pool->backlog);
    free(pool->expected);
    free(pool->fill_order);
    free(pool);
}

uint32_t pool_slots(const struct pool *pool)
{
    return pool->n_slots;
}
