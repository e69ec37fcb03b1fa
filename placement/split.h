// Dividing a model between GPUs and the host by rule, without times: what a run does that has no plan, and
// the split by whole layers that other programs do, to compare with.
//
// A group is what moves together: the units of a layer that are not experts (layers that share K and V are
// one), and those outside of layers (embedding, head), which come behind the last layer.
//
// On each GPU the groups that have none lie one behind the other, from the last one on that fits: there are
// few ways between devices. Whether a group fits does not depend on the next GPU's memory.
#ifndef LODE_SPLIT_H
#define LODE_SPLIT_H

#include "placement/unit.h"

#include <stdint.h>

enum split_rule {
    // Dense units of as many layers as fit, the last layers first, on the first GPU, then on the next; the
    // rest of the memory is for experts by heat.
    SPLIT_DENSE_FIRST,
    // Whole layers with all their experts, the last ones first.
    SPLIT_BY_LAYER,
};

struct split_request {
    const struct unit_table *table;
    uint32_t n_layers;
    const uint32_t *kv_layer; // [n_layers] whose K and V a layer reads; groups layers. NULL: each its own
    const uint64_t *kv_bytes; // [n_layers] of its K and V; NULL: none
    uint64_t outer_bytes;     // beside the weights, of the GPU that has the units outside of layers (logits)
    uint32_t n_gpus;
    const uint64_t *gpu_bytes; // [n_gpus] for weights, K and V, without scratch
    enum split_rule rule;
};

// Fills out_unit_gpu [n_units]: 1 + g, or 0; with SPLIT_DENSE_FIRST experts are 0. Units of rows stay the
// host's. Allocates nothing.
void split_units(uint8_t *out_unit_gpu, const struct split_request *request);

#endif
