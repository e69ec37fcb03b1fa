// The units of a plan in the order in which a picture shows them: those outside of the layers, then layer by
// layer the dense units in the order of a pass and the experts, the hottest first.
#ifndef LODE_TOOLS_PLAN_LAYERS_H
#define LODE_TOOLS_PLAN_LAYERS_H

#include "core/lode.h"

// Where a unit is shown. Streamed weights and tables of rows are on the drive; of the experts that share a
// pool the hottest are in it, as many as it has room for, and the rest is on the drive.
enum plan_place {
    PLAN_PLACE_GPU, // PLAN_PLACE_GPU + g
    PLAN_PLACE_RAM = LODE_PLAN_GPUS,
    PLAN_PLACE_POOL,
    PLAN_PLACE_NVME,
    PLAN_PLACES,
};

struct plan_layers {
    const struct lode_plan *plan;
    uint32_t n_layers;
    uint32_t *order; // [n_units] of the plan
    uint8_t *place;  // [n_units] enum plan_place, by the plan's numbers
    // Outside of the layers are order[0 .. begin[0]); layer l has its dense units from begin[l] on and its
    // experts from experts[l] to begin[l + 1].
    uint32_t *begin, *experts;
    uint32_t most_dense, most_experts; // units of a layer
    uint64_t most_dense_bytes;         // of a layer
    uint32_t n_pooled, n_in_pool;      // experts that share the pool, and those it has room for
    float most_heat;                   // 0: heat is not known
};

// False: no memory. Released by plan_layers_close, also then. The plan must outlive it.
bool plan_layers_open(struct plan_layers *out, const struct lode_plan *plan);
void plan_layers_close(struct plan_layers *layers);

// Something lies there. The plan lists the GPUs up to the last one that is used.
bool plan_uses_gpu(const struct lode_plan *plan, uint32_t gpu);

bool plan_is_expert(const struct lode_plan_unit *unit);

enum { PLAN_HOME_SIZE = 16 };
// "gpu0", "ram", "pool", "stream", "rows".
const char *plan_home_name(char out[PLAN_HOME_SIZE], uint8_t home);

#endif
