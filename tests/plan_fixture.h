// A plan filled by hand, for what shows plans.
#ifndef LODE_TEST_PLAN_FIXTURE_H
#define LODE_TEST_PLAN_FIXTURE_H

#include "core/lode.h"

struct plan_fixture {
    uint32_t n_layers, n_experts, n_gpus;
    bool heat;
    bool per_layer; // with the units of models that embed per layer
};

// The first layers' dense units lie on the GPUs in turn, the next in RAM, the last third is streamed; of the
// experts each GPU has a tenth, the rest shares a pool with room for half of all. Released by
// plan_fixture_free.
void plan_fixture_make(struct lode_plan *out, const struct plan_fixture *fixture);
void plan_fixture_free(struct lode_plan *plan);

#endif
