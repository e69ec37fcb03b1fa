// Reads that nobody waits for yet: guesses of what a layer will choose, and the filling of an empty pool with
// what was hot in earlier runs.
#include "placement/pool_internal.h"

#include <math.h>

#define FILLS_IN_FLIGHT 4

void pool_settle_expected(struct pool *pool, uint32_t layer)
{
    for (uint32_t i = 0; i < pool->n_expected; i++) {
        struct slot *s = &pool->slots[pool->expected[i]];
        if (s->state == SLOT_FREE || !s->expected)
            continue;
        s->expected = false;
        const bool chosen = s->pins > 0 && pool->expected_layer == layer;
        s->late = chosen && s->guessed && s->state == SLOT_READING;
        if (chosen || s->state == SLOT_RESIDENT)
            pool_settle_guess(pool, s, chosen);
        else if (!s->filling)
            io_cancel(pool->residency->io, read_tag(READ_POOL, pool->expected[i]));
    }
    pool->n_expected = 0;
    pool->expected_layer = NOWHERE;
}

bool pool_has(const struct pool *pool, uint32_t unit)
{
    const uint32_t slot = pool->slot_of[pool->residency->expert_index[unit]];
    return slot != NOWHERE && pool->slots[slot].state == SLOT_RESIDENT;
}

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
    pool_settle_expected(pool, NOWHERE);
    pool->expected_layer = residency->table->units[units[0]].layer;
    // A guess may hold half of the pool: the rest is for the choice that it follows.
    const uint32_t most = pool->n_slots / 2;
    for (uint32_t i = 0; i < n && pool->n_expected < most; i++) {
        const uint32_t slot = pool->slot_of[residency->expert_index[units[i]]];
        if (slot != NOWHERE && !residency_copies(residency, units[i]))
            expect(pool, slot);
    }
    uint32_t left = certain ? n : guesses_in_window(pool);
    for (uint32_t i = 0; i < n && left > 0 && pool->n_expected < most; i++) {
        const uint32_t expert = residency->expert_index[units[i]];
        if (pool->slot_of[expert] != NOWHERE || residency_copies(residency, units[i]))
            continue;
        const uint32_t slot = pool_take_slot(pool, expert, true);
        if (slot == NOWHERE)
            return;
        if (pool_start_read(pool, expert, slot, certain ? IO_AHEAD : IO_PREFETCH, NULL) != 0)
            return;
        pool->slots[slot].guessed = true;
        expect(pool, slot);
        left--;
    }
}

void pool_fill(struct pool *pool)
{
    while (pool->fill_at < pool->n_fill && pool->n_filling < FILLS_IN_FLIGHT) {
        const uint32_t expert = pool->fill_order[pool->fill_at], class = pool_class_of(pool, expert);
        if (pool->slot_of[expert] == NOWHERE && pool->n_free[class] &&
            !residency_copies(pool->residency, pool->unit_of[expert])) {
            const uint32_t slot = pool->free_slots[pool->classes[class].first_slot + --pool->n_free[class]];
            pool->slots[slot].filling = true;
            const int code = pool_start_read(pool, expert, slot, IO_PREFETCH, NULL);
            pool->n_filling += pool->slots[slot].filling;
            if (code != 0) {
                pool->n_fill = pool->fill_at; // it will be told when the expert is wanted
                return;
            }
        }
        pool->fill_at++;
    }
}

// `missing` counts experts that are neither here nor on a GPU: only these are worth a guess.
void pool_copied(struct pool *pool, uint32_t unit, bool has)
{
    const uint32_t expert = pool->residency->expert_index[unit];
    if (pool_has(pool, unit))
        return;
    if (has)
        pool->missing[pool->layer_of[expert]]--;
    else
        pool->missing[pool->layer_of[expert]]++;
}

void pool_forget(struct pool *pool, uint32_t unit)
{
    const uint32_t slot = pool->slot_of[pool->residency->expert_index[unit]];
    if (slot != NOWHERE && pool->slots[slot].state == SLOT_RESIDENT && !pool->slots[slot].pins)
        pool_evict(pool, slot);
}

void pool_pass_end(struct pool *pool, uint32_t n_tokens, double disk_bytes_per_ns)
{
    pool->policy->ops->pass_end(pool->policy, n_tokens);
    if (disk_bytes_per_ns > 0)
        pool->disk_bytes_per_ns += (disk_bytes_per_ns - pool->disk_bytes_per_ns) / 8;
}
