// Rules that divide a model between GPUs; see split.h.
#include "placement/split.h"
#include "placement/layout.h"

#include <stdbool.h>
#include <string.h>

// The group outside of layers, and a layer's: a group is told by its lowest layer.
#define OUTER UINT32_MAX

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

// Whose K and V a layer reads in the end.
static uint32_t root(const struct split_request *request, uint32_t layer)
{
    for (uint32_t hops = 0; request->kv_layer && hops < request->n_layers; hops++) {
        const uint32_t other = request->kv_layer[layer];
        if (other >= request->n_layers || other == layer)
            break;
        layer = other;
    }
    return layer;
}

// Whether a unit moves with a group. Layers whose K and V are the same layer's are one group.
static bool moves_with(const struct split_request *request, const struct unit *unit, uint32_t group)
{
    if (unit->class == UNIT_ROWS || (unit->class == UNIT_EXPERT && request->rule != SPLIT_BY_LAYER))
        return false;
    if (unit->layer >= request->n_layers)
        return group == OUTER;
    return group != OUTER && root(request, unit->layer) == root(request, group);
}

static bool is_lowest(const struct split_request *request, uint32_t layer)
{
    for (uint32_t l = 0; l < layer; l++)
        if (root(request, l) == root(request, layer))
            return false;
    return true;
}

static uint64_t group_bytes(const struct split_request *request, uint32_t group)
{
    uint64_t bytes = group == OUTER ? request->outer_bytes : 0;
    for (uint32_t l = 0; request->kv_bytes && group != OUTER && l < request->n_layers; l++)
        if (root(request, l) == root(request, group))
            bytes = sum(bytes, request->kv_bytes[l]);
    for (uint32_t u = 0; u < request->table->n_units; u++)
        if (moves_with(request, &request->table->units[u], group))
            bytes = sum(bytes, layout_unit_bytes(request->table, u, false));
    return bytes;
}

// Whether a group has units, which are on no GPU yet.
static bool waits(const uint8_t *unit_gpu, const struct split_request *request, uint32_t group)
{
    for (uint32_t u = 0; u < request->table->n_units; u++)
        if (moves_with(request, &request->table->units[u], group))
            return unit_gpu[u] == 0;
    return false;
}

static void place(uint8_t *out_unit_gpu, const struct split_request *request, uint32_t group, uint32_t g)
{
    for (uint32_t u = 0; u < request->table->n_units; u++)
        if (moves_with(request, &request->table->units[u], group))
            out_unit_gpu[u] = (uint8_t)(1 + g);
}

static void fill_gpu(uint8_t *out_unit_gpu, const struct split_request *request, uint32_t g)
{
    uint64_t left = request->gpu_bytes[g];
    bool begun = false;
    for (uint32_t i = request->n_layers + 1; i-- > 0;) {
        const uint32_t group = i == request->n_layers ? OUTER : i;
        if ((group != OUTER && !is_lowest(request, group)) || !waits(out_unit_gpu, request, group))
            continue;
        const uint64_t bytes = group_bytes(request, group);
        if (bytes <= left) {
            place(out_unit_gpu, request, group, g);
            left -= bytes;
            begun = begun || group != OUTER;
        } else if (begun) {
            break; // a hole would cost two ways between devices
        }
    }
}

void split_units(uint8_t *out_unit_gpu, const struct split_request *request)
{
    memset(out_unit_gpu, 0, request->table->n_units);
    for (uint32_t g = 0; g < request->n_gpus && g < UINT8_MAX; g++)
        fill_gpu(out_unit_gpu, request, g);
}
