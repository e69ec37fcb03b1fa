// Between passes and turns: memory of a GPU that is given back, and copies that make room for hotter ones.
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <math.h>

// An exchange costs the link, and heat is a measurement: what comes must be hotter by this factor.
#define HOTTER 1.1

int residency_yield(struct residency *residency, uint32_t g, uint64_t bytes, uint64_t *out_bytes,
                    struct lode_error *error)
{
    struct gpu *gpu = &residency->gpus[g];
    *out_bytes = 0;
    const int code = gpu->device->ops->sync(gpu->device, error);
    if (code != 0)
        return code;
    *out_bytes = vram_yield(gpu->vram, bytes, gpus_heat(residency));
    gpu_recount(residency, g);
    if (*out_bytes < bytes)
        *out_bytes += uploads_yield(gpu);
    gpu->figures.yielded_bytes += *out_bytes;
    return 0;
}

#define NONE UINT32_MAX

// The hottest expert that is in the memory of the host and on no GPU, whose class is not in `done`.
static uint32_t find_hottest(const struct residency *residency, const float *heat, uint32_t done)
{
    uint32_t hottest = NONE;
    for (uint32_t u = 0; u < residency->table->n_units; u++)
        if (heat[u] > 0 && (hottest == NONE || heat[u] > heat[hottest]) && !residency_copies(residency, u) &&
            !(done >> vram_class(residency->gpus[0].vram, u) & 1) && residency_host_has(residency, u))
            hottest = u;
    return hottest;
}

// The coldest copy of a class, on the last GPU of those that have equally cold ones.
static uint32_t find_coldest(const struct residency *residency, const float *heat, uint32_t class,
                             uint32_t *out_g)
{
    uint32_t coldest = NONE;
    for (uint32_t u = 0; u < residency->table->n_units; u++) {
        const uint32_t copies = residency_copies(residency, u);
        if (!copies || vram_class(residency->gpus[0].vram, u) != class ||
            (coldest != NONE && heat[u] >= heat[coldest]))
            continue;
        coldest = u;
        *out_g = 31 - (uint32_t)__builtin_clz(copies);
    }
    return coldest;
}

// Room for a unit: a free slot, or that of a copy which is colder by enough. Returns the GPU, or NONE.
static uint32_t make_room(struct residency *residency, const float *heat, uint32_t unit)
{
    for (uint32_t g = 0; g < residency->n_gpus; g++)
        if (gpu_take(residency, g, unit))
            return g;
    uint32_t g;
    const uint32_t victim = find_coldest(residency, heat, vram_class(residency->gpus[0].vram, unit), &g);
    if (victim == NONE || !((double)heat[unit] > HOTTER * (double)heat[victim]))
        return NONE;
    gpu_drop(residency, g, victim);
    return gpu_take(residency, g, unit) ? g : NONE;
}

static int copy_to(struct residency *residency, uint32_t g, uint32_t unit, struct lode_error *error)
{
    struct gpu *gpu = &residency->gpus[g];
    struct lode_error cause;
    expert_copy_out(residency, unit, gpu->pinned);
    const int code = gpu->device->ops->upload(gpu->device, vram_part(gpu->vram, unit, 0), gpu->pinned,
                                              layout_unit_bytes(residency->table, unit, false), &cause);
    if (code != 0) {
        gpu_drop(residency, g, unit);
        return residency_fail_for(residency, unit, error, &cause);
    }
    if (residency->pool && residency->homes.home[unit] == HOME_POOL)
        pool_forget(residency->pool, unit);
    return 0;
}

int residency_replace(struct residency *residency, uint64_t most_bytes, uint64_t *out_bytes,
                      struct lode_error *error)
{
    *out_bytes = 0;
    const float *heat = residency->n_gpus ? gpus_heat(residency) : NULL;
    if (!heat)
        return 0;
    for (uint32_t g = 0; g < residency->n_gpus; g++)
        uploads_settle(&residency->gpus[g]); // the first pinned buffer is used here
    uint32_t done = 0;                       // classes in which nothing is left to gain
    for (uint32_t unit; (unit = find_hottest(residency, heat, done)) != NONE;) {
        const uint64_t bytes = layout_unit_bytes(residency->table, unit, false);
        const uint32_t g = bytes <= most_bytes - *out_bytes ? make_room(residency, heat, unit) : NONE;
        if (g == NONE) {
            done |= 1u << vram_class(residency->gpus[0].vram, unit);
            continue;
        }
        const int code = copy_to(residency, g, unit, error);
        if (code != 0)
            return code;
        *out_bytes += bytes;
        residency->gpus[g].figures.replaced_bytes += bytes;
    }
    return 0;
}
