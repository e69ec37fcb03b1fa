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
#include "base/clock.h"
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX
#define FILLS_IN_FLIGHT 4
#define MAX_CLASSES 8

// Windows are averaged over about this many layers.
#define WINDOW_SHARE (1.0 / 64)

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_RESIDENT };

struct slot {
    uint32_t expert; // NOWHERE when free
    uint16_t pins;
    uint8_t state; // enum slot_state
    uint8_t n_reads;
    bool wanted;   // chosen, and not handed out yet
    bool expected; // of a standing guess: spared
    bool guessed;  // read on a guess whose worth is not known yet
    bool late;     // chosen while it was being read on a guess
    bool filling;  // read at the start
    bool broken;   // a read of it was cancelled or failed
    uint8_t size_class;
};

struct size_class {
    uint64_t slot_bytes;
    uint32_t first_slot, n_slots, n_experts;
    char *memory;
};

struct pool {
    struct residency *residency;
    struct policy *policy;
    uint32_t n_experts, n_slots, n_layers, layer_max; // layer_max: experts in the largest layer
    uint32_t *unit_of;                                // [n_experts]
    uint32_t *layer_of;                               // [n_experts]
    uint32_t *slot_of;                                // [n_experts] or NOWHERE
    uint32_t *missing;                                // [n_layers] experts that are not resident
    uint32_t *in_layer; // [n_layers] slots that hold or await one of its experts
    uint32_t *share;    // [n_layers] slots that a layer may have under by_layer
    struct slot *slots;
    uint32_t *free_slots, n_free[MAX_CLASSES]; // a stack for each class, at its first_slot
    struct size_class classes[MAX_CLASSES];
    uint32_t n_classes;

    // A choice: experts at hand, experts that need a slot, and slots on their way.
    uint32_t *ready, n_ready, ready_at;
    uint32_t *backlog, n_backlog, backlog_at;
    uint32_t n_awaited;
    struct lode_error failure; // of the first read that failed; names its unit

    uint32_t *expected, n_expected; // slots of the standing guess
    uint32_t expected_layer;

    uint32_t *fill_order, n_fill, fill_at, n_filling;

    // How much can be read between a layer's last demand read and the next choice.
    uint64_t idle_since_ns;
    double window_ns, disk_bytes_per_ns;
};

// ---- slots
// ---------------------------------------------------------------------------------------------------

static char *slot_memory(const struct pool *pool, uint32_t slot)
{
    const struct size_class *class = &pool->classes[pool->slots[slot].size_class];
    return class->memory + (uint64_t)(slot - class->first_slot) * class->slot_bytes;
}

static uint32_t class_of(const struct pool *pool, uint32_t expert)
{
    const struct residency *residency = pool->residency;
    const uint64_t bytes = layout_unit_bytes(residency->table, pool->unit_of[expert], true);
    uint32_t best = 0;
    for (uint32_t c = 0; c < pool->n_classes; c++)
        if (pool->classes[c].slot_bytes >= bytes &&
            (pool->classes[best].slot_bytes < bytes ||
             pool->classes[c].slot_bytes < pool->classes[best].slot_bytes))
            best = c;
    return best;
}

static void set_free(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    const uint32_t class = s->size_class;
    pool->slot_of[s->expert] = NOWHERE;
    pool->in_layer[pool->layer_of[s->expert]]--;
    *s = (struct slot){.expert = NOWHERE, .size_class = (uint8_t) class};
    pool->free_slots[pool->classes[class].first_slot + pool->n_free[class]++] = slot;
}

static uint64_t expert_bytes(const struct pool *pool, uint32_t expert)
{
    return pool->residency->table->units[pool->unit_of[expert]].bytes;
}

// A guess that did not come true, or nobody waited for.
static void settle_guess(struct pool *pool, struct slot *slot, bool useful)
{
    if (!slot->guessed)
        return;
    slot->guessed = false;
    struct residency_figures *figures = &pool->residency->figures;
    *(useful ? &figures->prefetch_useful_bytes : &figures->prefetch_wasted_bytes) +=
        expert_bytes(pool, slot->expert);
}

static void evict(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    settle_guess(pool, s, false);
    if (pool->policy->ops->evicted)
        pool->policy->ops->evicted(pool->policy, s->expert);
    pool->missing[pool->layer_of[s->expert]]++;
    set_free(pool, slot);
}

// The resident expert with the lowest score of those that nobody uses; `layer` NOWHERE means any.
static uint32_t find_victim(const struct pool *pool, uint32_t class, uint32_t layer, bool spare_expected)
{
    const struct size_class *c = &pool->classes[class];
    const double *score = pool->policy->score;
    double lowest = INFINITY;
    uint32_t victim = NOWHERE;
    for (uint32_t i = c->first_slot; i < c->first_slot + c->n_slots; i++) {
        const struct slot *s = &pool->slots[i];
        if (s->state != SLOT_RESIDENT || s->pins || (spare_expected && s->expected))
            continue;
        if (layer != NOWHERE && pool->layer_of[s->expert] != layer)
            continue;
        if (score[s->expert] < lowest) {
            lowest = score[s->expert];
            victim = i;
        }
    }
    return victim;
}

// An empty slot for an expert, or NOWHERE. A guess may not push out what another guess expects.
static uint32_t take_slot(struct pool *pool, uint32_t expert, bool for_guess)
{
    const uint32_t class = class_of(pool, expert), layer = pool->layer_of[expert];
    const bool within_layer = pool->policy->ops->by_layer && pool->in_layer[layer] >= pool->share[layer];
    uint32_t victim = NOWHERE;
    if (within_layer)
        victim = find_victim(pool, class, layer, true);
    if (victim == NOWHERE && pool->n_free[class])
        return pool->free_slots[pool->classes[class].first_slot + --pool->n_free[class]];
    if (victim == NOWHERE)
        victim = find_victim(pool, class, NOWHERE, true);
    if (victim == NOWHERE && !for_guess)
        victim = find_victim(pool, class, NOWHERE, false);
    if (victim == NOWHERE)
        return NOWHERE;
    evict(pool, victim);
    return pool->free_slots[pool->classes[class].first_slot + --pool->n_free[class]];
}

static int start_read(struct pool *pool, uint32_t expert, uint32_t slot, enum io_priority priority,
                      struct lode_error *error)
{
    struct residency *residency = pool->residency;
    struct slot *s = &pool->slots[slot];
    s->expert = expert;
    s->state = SLOT_READING;
    if (pool->slot_of[expert] != slot) {
        pool->slot_of[expert] = slot;
        pool->in_layer[pool->layer_of[expert]]++;
    }
    layout_place(residency->parts, residency->table, pool->unit_of[expert], slot_memory(pool, slot), true);
    uint32_t n;
    int code =
        residency_read_unit(residency, pool->unit_of[expert], read_tag(READ_POOL, slot), priority, &n, error);
    s->n_reads = (uint8_t)n;
    if (residency_decodes(residency) && !s->filling)
        residency->layers[pool->layer_of[expert]].bytes += expert_bytes(pool, expert);
    if (code != 0 && n > 0)
        s->broken = true; // freed when the reads that were submitted have ended
    else if (code != 0)
        set_free(pool, slot);
    return code;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

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
        pool->classes[class_of(pool, e)].n_experts++;
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
    return options->policy->open(&pool->policy, &setup, error);
}

struct ranked {
    float heat;
    uint32_t expert;
};

static int hotter(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->heat != y->heat)
        return x->heat < y->heat ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

static int order_fill(struct pool *pool, struct lode_error *error)
{
    if (!has_heat(pool))
        return 0;
    struct ranked *ranked = calloc(pool->n_experts, sizeof *ranked);
    if (!ranked)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to order %u experts", pool->n_experts);
    for (uint32_t e = 0; e < pool->n_experts; e++)
        ranked[e] = (struct ranked){pool->residency->options.heat->mean[e], e};
    qsort(ranked, pool->n_experts, sizeof *ranked, hotter);
    for (uint32_t e = 0; e < pool->n_experts && ranked[e].heat > 0; e++)
        pool->fill_order[pool->n_fill++] = ranked[e].expert;
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

// ---- reads that end
// ------------------------------------------------------------------------------------------

static void arrive(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    s->state = SLOT_RESIDENT;
    pool->missing[pool->layer_of[s->expert]]--;
    if (pool->policy->ops->admitted)
        pool->policy->ops->admitted(pool->policy, s->expert);
    if (!s->expected && !s->wanted)
        settle_guess(pool, s, false); // withdrawn too late
    if (!s->wanted)
        return;
    s->wanted = false;
    pool->ready[pool->n_ready++] = s->expert;
    if (--pool->n_awaited == 0)
        pool->idle_since_ns = clock_now_ns();
}

// A guess that was withdrawn, or failed, before it was chosen is read again for the choice.
static void break_off(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    const uint32_t expert = s->expert;
    const bool wanted = s->wanted;
    s->broken = false;
    if (wanted && pool->failure.code == LODE_OK) {
        start_read(pool, expert, slot, IO_DEMAND, &pool->failure);
        if (s->n_reads > 0)
            return;
    }
    if (wanted)
        pool->n_awaited--;
    if (s->expert == NOWHERE)
        return;
    settle_guess(pool, s, false); // as if all of it had been read, which may be too much
    set_free(pool, slot);
}

void pool_complete(struct pool *pool, uint32_t slot, const struct io_completion *completion)
{
    struct slot *s = &pool->slots[slot];
    assert(s->state == SLOT_READING && s->n_reads > 0);
    s->n_reads--;
    if (completion->status != IO_DONE) {
        s->broken = true;
        if (completion->status == IO_FAILED && s->wanted && pool->failure.code == LODE_OK)
            residency_fail_for(pool->residency, pool->unit_of[s->expert], &pool->failure, &completion->error);
    }
    if (s->n_reads > 0)
        return;
    if (s->filling) {
        s->filling = false;
        pool->n_filling--;
    }
    if (s->broken)
        break_off(pool, slot);
    else
        arrive(pool, slot);
}

// ---- choices
// -------------------------------------------------------------------------------------------------

// The choice is told: what was expected and is not chosen is no longer spared, and not read on.
static void settle_expected(struct pool *pool, uint32_t layer)
{
    for (uint32_t i = 0; i < pool->n_expected; i++) {
        struct slot *s = &pool->slots[pool->expected[i]];
        if (s->state == SLOT_FREE || !s->expected)
            continue;
        s->expected = false;
        const bool chosen = s->pins > 0 && pool->expected_layer == layer;
        s->late = chosen && s->guessed && s->state == SLOT_READING;
        if (chosen || s->state == SLOT_RESIDENT)
            settle_guess(pool, s, chosen);
        else if (!s->filling)
            io_cancel(pool->residency->io, read_tag(READ_POOL, pool->expected[i]));
    }
    pool->n_expected = 0;
    pool->expected_layer = NOWHERE;
}

// Takes a chosen expert that is in a slot or on its way there; false when it is neither.
static bool claim(struct pool *pool, uint32_t expert)
{
    const uint32_t slot = pool->slot_of[expert];
    if (slot == NOWHERE)
        return false;
    struct slot *s = &pool->slots[slot];
    s->pins++;
    s->late = false;
    if (s->state == SLOT_RESIDENT) {
        pool->ready[pool->n_ready++] = expert;
        return true;
    }
    s->wanted = true;
    pool->n_awaited++;
    io_promote(pool->residency->io, read_tag(READ_POOL, slot), IO_DEMAND);
    return true;
}

static int issue_backlog(struct pool *pool, struct lode_error *error)
{
    while (pool->backlog_at < pool->n_backlog) {
        const uint32_t expert = pool->backlog[pool->backlog_at];
        if (claim(pool, expert)) { // filled in since it was chosen
            pool->backlog_at++;
            continue;
        }
        const uint32_t slot = take_slot(pool, expert, false);
        if (slot == NOWHERE)
            return 0;
        pool->backlog_at++;
        int code = start_read(pool, expert, slot, IO_DEMAND, error);
        if (code != 0)
            return code;
        pool->slots[slot].pins = 1;
        pool->slots[slot].wanted = true;
        pool->n_awaited++;
    }
    return 0;
}

// An earlier choice that was not taken to its end (its pass failed) is let go of.
static void abandon_choice(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->n_slots; i++) {
        pool->slots[i].pins = 0;
        pool->slots[i].wanted = false;
    }
    pool->n_ready = pool->ready_at = 0;
    pool->n_backlog = pool->backlog_at = 0;
    pool->n_awaited = 0;
    pool->failure.code = LODE_OK;
}

static void measure_window(struct pool *pool)
{
    if (!pool->idle_since_ns || !residency_decodes(pool->residency))
        return;
    const double idle_ns = (double)(clock_now_ns() - pool->idle_since_ns);
    pool->window_ns += (idle_ns - pool->window_ns) * WINDOW_SHARE;
}

int pool_choose(struct pool *pool, const uint32_t *units, const uint32_t *n_tokens, uint32_t n,
                struct lode_error *error)
{
    struct residency *residency = pool->residency;
    assert(n <= pool->layer_max);
    residency_pump(residency, false, NULL);
    measure_window(pool);
    if (pool->ready_at < pool->n_ready || pool->n_awaited || pool->backlog_at < pool->n_backlog)
        abandon_choice(pool);
    pool->n_ready = pool->ready_at = pool->n_backlog = pool->backlog_at = 0;
    pool->failure.code = LODE_OK;
    if (n == 0)
        return 0;
    const uint32_t layer = residency->table->units[units[0]].layer;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t expert = residency->expert_index[units[i]];
        pool->policy->ops->chosen(pool->policy, expert, n_tokens[i]);
        if (!claim(pool, expert))
            pool->backlog[pool->n_backlog++] = expert;
    }
    if (residency_decodes(residency))
        residency->layers[layer].hits += pool->n_ready;
    settle_expected(pool, layer);
    int code = issue_backlog(pool, error);
    pool->idle_since_ns = pool->n_awaited ? 0 : clock_now_ns();
    return code;
}

static int tell_failure(const struct pool *pool, struct lode_error *error)
{
    if (error)
        *error = pool->failure;
    return pool->failure.code;
}

static int await_one(struct pool *pool, struct lode_error *error)
{
    struct residency *residency = pool->residency;
    const uint64_t start_ns = clock_now_ns();
    const uint32_t before = pool->n_ready;
    uint32_t waits_for = NOWHERE;
    for (uint32_t i = 0; i < pool->n_slots && waits_for == NOWHERE; i++)
        if (pool->slots[i].wanted)
            waits_for = pool->slots[i].expert;
    int code = 0;
    while (code == 0 && pool->n_ready == before && pool->failure.code == LODE_OK) {
        code = residency_pump(residency, true, error);
        if (code == 0)
            code = issue_backlog(pool, error);
    }
    if (pool->n_ready > before)
        waits_for = pool->ready[before];
    if (waits_for != NOWHERE) {
        const uint32_t slot = pool->slot_of[waits_for]; // NOWHERE when its read has failed
        const bool late = slot != NOWHERE && pool->slots[slot].late;
        residency_stalled(residency, pool->unit_of[waits_for], late ? WAIT_GUESSED : WAIT_DEMAND,
                          clock_now_ns() - start_ns);
    }
    if (code == 0 && pool->failure.code != LODE_OK)
        return tell_failure(pool, error);
    if (code == LODE_ERR_IO && waits_for != NOWHERE) {
        struct lode_error cause = error ? *error : (struct lode_error){.code = code};
        residency_fail_for(residency, pool->unit_of[waits_for], error, &cause);
    }
    return code;
}

int pool_take(struct pool *pool, uint32_t *out_units, uint32_t *out_n, uint32_t max, bool wait,
              struct lode_error *error)
{
    *out_n = 0;
    int code = residency_pump(pool->residency, false, error);
    if (code == 0)
        code = issue_backlog(pool, error);
    if (code == 0 && pool->failure.code != LODE_OK)
        code = tell_failure(pool, error);
    const bool more = pool->n_awaited > 0 || pool->backlog_at < pool->n_backlog;
    if (code == 0 && wait && more && pool->ready_at == pool->n_ready)
        code = await_one(pool, error);
    if (code != 0)
        return code;
    while (*out_n < max && pool->ready_at < pool->n_ready)
        out_units[(*out_n)++] = pool->unit_of[pool->ready[pool->ready_at++]];
    return 0;
}

void pool_release(struct pool *pool, uint32_t unit)
{
    const uint32_t slot = pool->slot_of[pool->residency->expert_index[unit]];
    assert(slot != NOWHERE && pool->slots[slot].pins > 0);
    pool->slots[slot].pins--;
}

// ---- guesses
// -------------------------------------------------------------------------------------------------

bool pool_awaits(const struct pool *pool)
{
    return pool->n_awaited > 0 || pool->backlog_at < pool->n_backlog;
}

bool pool_wants_guess(const struct pool *pool, uint32_t layer)
{
    return layer < pool->n_layers && pool->missing[layer] > 0;
}

// Experts that can be read in the time that the drive is idle between two choices, and one more: it is better
// begun and overtaken than not begun.
static uint32_t guesses_in_window(const struct pool *pool)
{
    const double bytes = pool->window_ns * pool->disk_bytes_per_ns;
    return 1 + (uint32_t)fmin(bytes / (double)pool->classes[0].slot_bytes, pool->n_slots);
}

static void expect(struct pool *pool, uint32_t slot)
{
    if (pool->slots[slot].expected)
        return;
    pool->slots[slot].expected = true;
    pool->expected[pool->n_expected++] = slot;
}

void pool_guess(struct pool *pool, const uint32_t *units, uint32_t n, bool certain)
{
    struct residency *residency = pool->residency;
    if (n == 0)
        return;
    settle_expected(pool, NOWHERE);
    pool->expected_layer = residency->table->units[units[0]].layer;
    // A guess may hold half of the pool: the rest is for the choice that it follows.
    const uint32_t most = pool->n_slots / 2;
    for (uint32_t i = 0; i < n && pool->n_expected < most; i++) {
        const uint32_t slot = pool->slot_of[residency->expert_index[units[i]]];
        if (slot != NOWHERE)
            expect(pool, slot);
    }
    uint32_t left = certain ? n : guesses_in_window(pool);
    for (uint32_t i = 0; i < n && left > 0 && pool->n_expected < most; i++) {
        const uint32_t expert = residency->expert_index[units[i]];
        if (pool->slot_of[expert] != NOWHERE)
            continue;
        const uint32_t slot = take_slot(pool, expert, true);
        if (slot == NOWHERE)
            return;
        if (start_read(pool, expert, slot, certain ? IO_AHEAD : IO_PREFETCH, NULL) != 0)
            return;
        pool->slots[slot].guessed = true;
        expect(pool, slot);
        left--;
    }
}

void pool_fill(struct pool *pool)
{
    while (pool->fill_at < pool->n_fill && pool->n_filling < FILLS_IN_FLIGHT) {
        const uint32_t expert = pool->fill_order[pool->fill_at], class = class_of(pool, expert);
        if (pool->slot_of[expert] == NOWHERE && pool->n_free[class]) {
            const uint32_t slot = pool->free_slots[pool->classes[class].first_slot + --pool->n_free[class]];
            pool->slots[slot].filling = true;
            const int code = start_read(pool, expert, slot, IO_PREFETCH, NULL);
            pool->n_filling += pool->slots[slot].filling;
            if (code != 0) {
                pool->n_fill = pool->fill_at; // it will be told when the expert is wanted
                return;
            }
        }
        pool->fill_at++;
    }
}

void pool_pass_end(struct pool *pool, uint32_t n_tokens, double disk_bytes_per_ns)
{
    pool->policy->ops->pass_end(pool->policy, n_tokens);
    if (disk_bytes_per_ns > 0)
        pool->disk_bytes_per_ns += (disk_bytes_per_ns - pool->disk_bytes_per_ns) / 8;
}
