// Choices of the router: missing experts are asked for at once, and handed out in order of arrival.
#include "placement/pool_internal.h"

#include <assert.h>

// Windows are averaged over about this many layers.
#define WINDOW_SHARE (1.0 / 64)

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
        const uint32_t slot = pool_take_slot(pool, expert, false);
        if (slot == NOWHERE)
            return 0;
        pool->backlog_at++;
        int code = pool_start_read(pool, expert, slot, IO_DEMAND, error);
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
    const double idle_ns = (double)(io_now_ns(pool->residency->io) - pool->idle_since_ns);
    pool->window_ns += (idle_ns - pool->window_ns) * WINDOW_SHARE;
}

bool pool_wants_weights(const struct pool *pool)
{
    return pool->policy->ops->scored;
}

void pool_weigh(struct pool *pool, uint32_t unit, float weight)
{
    pool->policy->ops->scored(pool->policy, pool->residency->expert_index[unit], weight);
}

int pool_choose(struct pool *pool, uint32_t layer, const uint32_t *units, const uint32_t *n_tokens,
                uint32_t n, struct lode_error *error)
{
    struct residency *residency = pool->residency;
    assert(n <= pool->layer_max);
    residency_pump(residency, false, NULL);
    measure_window(pool);
    if (pool->ready_at < pool->n_ready || pool->n_awaited || pool->backlog_at < pool->n_backlog)
        abandon_choice(pool);
    pool->n_ready = pool->ready_at = pool->n_backlog = pool->backlog_at = 0;
    pool->failure.code = LODE_OK;
    if (layer == UNIT_NO_LAYER)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t expert = residency->expert_index[units[i]];
        pool->policy->ops->chosen(pool->policy, expert, n_tokens[i]);
        if (!claim(pool, expert))
            pool->backlog[pool->n_backlog++] = expert;
    }
    if (residency_decodes(residency))
        residency->layers[layer].hits += pool->n_ready;
    else
        residency->figures.prefill_hits += pool->n_ready;
    pool_settle_expected(pool, layer);
    int code = issue_backlog(pool, error);
    pool->idle_since_ns = pool->n_awaited ? 0 : io_now_ns(pool->residency->io);
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
    const uint64_t start_ns = io_now_ns(pool->residency->io);
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
    for (uint32_t i = before; i < pool->n_ready; i++)
        if (pool->slots[pool->slot_of[pool->ready[i]]].late)
            residency->figures.prefetch_late_bytes += pool_expert_bytes(pool, pool->ready[i]);
    if (pool->n_ready > before)
        waits_for = pool->ready[before];
    if (waits_for != NOWHERE) {
        const uint32_t slot = pool->slot_of[waits_for]; // NOWHERE when its read has failed
        const bool late = slot != NOWHERE && pool->slots[slot].late;
        residency_stalled(residency, pool->unit_of[waits_for], late ? WAIT_GUESSED : WAIT_DEMAND,
                          io_now_ns(pool->residency->io) - start_ns);
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
