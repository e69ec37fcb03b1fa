// What memory goes where under the ceiling: the program, the session, and the rest for weights.
#include "base/bytes_text.h"
#include "core/engine.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>

// Page tables alone are a 512th of what is mapped.
#define RESERVE_BYTES ((uint64_t)48 << 20)
#define RESERVE_SHARE 256

// What stays free for the system and other programs when there is no ceiling.
#define HEADROOM_BYTES (256ull << 20)

uint64_t engine_available_bytes(void)
{
    struct host_memory memory;
    if (host_memory_read(&memory, "/", NULL))
        return 0;
    return memory.available_bytes > HEADROOM_BYTES ? memory.available_bytes - HEADROOM_BYTES : 1;
}

uint64_t engine_reserve_bytes(uint64_t ceiling_bytes, bool asked_for)
{
    return (asked_for ? RESERVE_BYTES : 0) + ceiling_bytes / RESERVE_SHARE;
}

void engine_settle_ceiling(struct lode_engine *engine)
{
#ifdef __GLIBC__
    malloc_trim(0); // what the file's header took is free again
#endif
    const uint64_t available = engine_available_bytes(), rss = host_rss_bytes();
    engine->ceiling_bytes = engine->options.ram_bytes;
    if (!engine->ceiling_bytes)
        engine->ceiling_bytes = available ? rss + available : UINT64_MAX;
    const uint64_t reserve = engine_reserve_bytes(engine->ceiling_bytes, engine->options.ram_bytes != 0);
    engine->base_bytes = engine->ceiling_bytes == UINT64_MAX ? 0 : rss + reserve;
}

static int below_floor(const struct lode_engine *engine, const struct session_needs *needs, uint64_t base,
                       uint64_t floor, struct lode_error *error)
{
    static const char *const formats[] = {
        [LODE_CACHE_F16] = "F16", [LODE_CACHE_Q8_0] = "Q8_0", [LODE_CACHE_F32] = "F32"};
    const uint64_t needed = base + needs->kv_bytes + needs->scratch_bytes + floor;
    return lode_fail(
        error, LODE_ERR_MEMORY,
        "%s: this model and session need at least %s, the memory %s is %s. The floor is made of weights that "
        "stay and room for those that pass through, %s; the %s KV cache of %" PRIu32 " tokens, %s; "
        "scratch for steps of %" PRIu32 " tokens, %s; the program with its tokenizer and reserve, %s. "
        "A shorter context, a Q8_0 cache, smaller steps or a smaller quantisation lower it",
        engine->path, bytes_text(needed).text, engine->options.ram_bytes ? "allowed" : "available",
        bytes_text(engine->ceiling_bytes).text, bytes_text(floor).text, formats[needs->format],
        needs->context, bytes_text(needs->kv_bytes).text, needs->batch, bytes_text(needs->scratch_bytes).text,
        bytes_text(base).text);
}

// Experts that stay are read at load and lie in the order that the CPU multiplies fastest; those of a pool
// are read when they are chosen first. Where there is memory, that is worth having copies of GPUs' twice,
// unless they are the most.
static bool keeps_all(const struct lode_engine *engine, uint64_t left_bytes)
{
    if (!engine_spares_experts(engine))
        return true;
    return !engine_gpus_have_most_experts(engine) &&
           residency_full_bytes_beside(&engine->model.units, engine->device, engine->gpus.unit_gpu) <=
               left_bytes;
}

int engine_weights_budget(uint64_t *out, const struct lode_engine *engine, const struct session_needs *needs,
                          struct lode_error *error)
{
    *out = 0;
    if (engine->ceiling_bytes == UINT64_MAX && !engine_spares_experts(engine))
        return 0;
    const struct homes_bounds bounds = engine_host_bounds(engine);
    const uint64_t base = engine->base_bytes + residency_gpu_host_bytes(&engine->model.units, engine->gpus.n),
                   ceiling = engine->ceiling_bytes;
    const uint64_t session = needs->kv_bytes + needs->scratch_bytes;
    const uint64_t floor = bounds.floor_bytes;
    if (base > ceiling || session > ceiling - base || floor > ceiling - base - session)
        return below_floor(engine, needs, base, floor, error);
    const uint64_t left = ceiling - base - session;
    *out = bounds.full_bytes > left ? left : keeps_all(engine, left) ? 0 : bounds.full_bytes;
    return 0;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

struct session_room engine_session_room(const struct lode_engine *engine)
{
    if (engine->ceiling_bytes == UINT64_MAX)
        return (struct session_room){UINT64_MAX, UINT64_MAX};
    if (engine->residency) {
        struct residency_figures figures;
        residency_count(engine->residency, &figures);
        const uint64_t weights = figures.pinned_bytes + figures.pool_bytes + figures.ring_bytes;
        const uint64_t left =
            less(engine->ceiling_bytes, engine->base_bytes + weights + engine->sessions_bytes);
        return (struct session_room){left, left};
    }
    const struct homes_bounds bounds = engine_host_bounds(engine);
    const uint64_t copies_bytes = residency_gpu_host_bytes(&engine->model.units, engine->gpus.n);
    const uint64_t free_bytes = less(engine->ceiling_bytes, engine->base_bytes + copies_bytes);
    const uint64_t beside_all = less(free_bytes, bounds.full_bytes);
    struct session_room room = {.at_most_bytes = less(free_bytes, bounds.floor_bytes)};
    room.comfortable_bytes = beside_all > free_bytes / 8 ? beside_all : free_bytes / 8;
    if (room.comfortable_bytes > room.at_most_bytes)
        room.comfortable_bytes = room.at_most_bytes;
    return room;
}
