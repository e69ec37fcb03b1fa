// Slots of the pool: which one an expert gets, what it pushes out, and the reads that fill it.
#include "placement/layout.h"
#include "placement/pool_internal.h"

#include <assert.h>
#include <math.h>

static char *slot_memory(const struct pool *pool, uint32_t slot)
{
    const struct size_class *class = &pool->classes[pool->slots[slot].size_class];
    return class->memory + (uint64_t)(slot - class->first_slot) * class->slot_bytes;
}

uint32_t pool_class_of(const struct pool *pool, uint32_t expert)
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

uint64_t pool_expert_bytes(const struct pool *pool, uint32_t expert)
{
    return pool->residency->table->units[pool->unit_of[expert]].bytes;
}

static bool on_gpu(const struct pool *pool, uint32_t expert)
{
    return residency_copies(pool->residency, pool->unit_of[expert]) != 0;
}

// A guess that did not come true, or nobody waited for.
void pool_settle_guess(struct pool *pool, struct slot *slot, bool useful)
{
    if (!slot->guessed)
        return;
    slot->guessed = false;
    struct residency_figures *figures = &pool->residency->figures;
    *(useful ? &figures->prefetch_useful_bytes : &figures->prefetch_wasted_bytes) +=
        pool_expert_bytes(pool, slot->expert);
}

void pool_evict(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    pool_settle_guess(pool, s, false);
    if (pool->policy->ops->evicted)
        pool->policy->ops->evicted(pool->policy, s->expert);
    pool->missing[pool->layer_of[s->expert]] += !on_gpu(pool, s->expert);
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

uint32_t pool_take_slot(struct pool *pool, uint32_t expert, bool for_guess)
{
    const uint32_t class = pool_class_of(pool, expert), layer = pool->layer_of[expert];
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
    pool_evict(pool, victim);
    return pool->free_slots[pool->classes[class].first_slot + --pool->n_free[class]];
}

int pool_start_read(struct pool *pool, uint32_t expert, uint32_t slot, enum io_priority priority,
                    struct lode_error *error)
{
    struct residency *residency = pool->residency;
    struct slot *s = &pool->slots[slot];
    s->expert = expert;
    s->state = SLOT_READING;
    s->came_bytes = 0;
    s->read = s->filling ? TRACE_READ_FILL : priority == IO_DEMAND ? TRACE_READ_DEMAND : TRACE_READ_GUESS;
    s->submit_ns = residency->options.trace ? io_now_ns(residency->io) : 0;
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
        residency->layers[pool->layer_of[expert]].bytes += pool_expert_bytes(pool, expert);
    if (code != 0 && n > 0)
        s->broken = true; // freed when the reads that were submitted have ended
    else if (code != 0)
        set_free(pool, slot);
    return code;
}

// ---- reads that end
// ------------------------------------------------------------------------------------------

static void count_bytes(const struct pool *pool, const struct slot *s)
{
    struct residency_figures *figures = &pool->residency->figures;
    if (s->read == TRACE_READ_DEMAND)
        figures->demand_bytes += s->came_bytes;
    else if (s->read == TRACE_READ_GUESS)
        figures->guess_bytes += s->came_bytes;
}

static void record_read(const struct pool *pool, const struct slot *s)
{
    const struct residency *residency = pool->residency;
    const uint64_t bytes = pool_expert_bytes(pool, s->expert);
    if (residency->options.trace)
        trace_read(residency->options.trace, pool->layer_of[s->expert],
                   residency->table->units[pool->unit_of[s->expert]].index, bytes,
                   (enum trace_read_kind)s->read, s->submit_ns, io_now_ns(residency->io));
}

static void arrive(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    s->state = SLOT_RESIDENT;
    count_bytes(pool, s);
    record_read(pool, s);
    pool->missing[pool->layer_of[s->expert]] -= !on_gpu(pool, s->expert);
    if (pool->policy->ops->admitted)
        pool->policy->ops->admitted(pool->policy, s->expert);
    if (!s->expected && !s->wanted)
        pool_settle_guess(pool, s, false); // withdrawn too late
    if (!s->wanted)
        return;
    s->wanted = false;
    pool->ready[pool->n_ready++] = s->expert;
    if (--pool->n_awaited == 0)
        pool->idle_since_ns = io_now_ns(pool->residency->io);
}

// A guess that was withdrawn, or failed, before it was chosen is read again for the choice.
static void break_off(struct pool *pool, uint32_t slot)
{
    struct slot *s = &pool->slots[slot];
    const uint32_t expert = s->expert;
    const bool wanted = s->wanted;
    s->broken = false;
    count_bytes(pool, s);
    if (s->guessed) // worth nothing, but only what had been begun was read
        pool->residency->figures.prefetch_wasted_bytes += s->came_bytes;
    s->guessed = false;
    if (wanted && pool->failure.code == LODE_OK) {
        pool_start_read(pool, expert, slot, IO_DEMAND, &pool->failure);
        if (s->n_reads > 0)
            return;
    }
    if (wanted)
        pool->n_awaited--;
    if (s->expert == NOWHERE)
        return;
    set_free(pool, slot);
}

void pool_complete(struct pool *pool, uint32_t slot, const struct io_completion *completion)
{
    struct slot *s = &pool->slots[slot];
    assert(s->state == SLOT_READING && s->n_reads > 0);
    s->n_reads--;
    s->came_bytes += completion->begun_bytes;
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
