// The forward pass of Gemma 4, written once over the device interface: tokens in, logits out.
#ifndef LODE_FORWARD_H
#define LODE_FORWARD_H

#include "backends/backend.h"
#include "core/gemma4.h"
#include "core/kv_cache.h"
#include "core/weight_matrices.h"
#include "placement/homes.h"
#include "placement/predictor.h"
#include "placement/residency.h"
#include "placement/trace.h"

#include <stdint.h>

// What all timelines of a loaded model share.
struct forward_weights {
    const struct gemma_model *model;
    struct lode_device *device; // the CPU, or what stands in for it
    // GPUs that compute as well, the owner's: of units 1 + g, 0 for the CPU; experts are not looked up there.
    // NULL: there are none. The units of a layer but its experts are on one device, and with them those of
    // the layers that read its K and V.
    const uint8_t *unit_gpu;
    struct lode_device *gpus[HOME_GPUS];
    uint32_t n_gpus;
    struct residency *residency;
    const struct weight_matrices *matrices;
    float *inverse_frequency[1 + HOME_GPUS][2]; // device memory, head_size/2 each: local, global
    // Of each GPU, where the experts of each layer are: device memory, [n_layers][n_experts].
    struct lode_expert_entry *entries[HOME_GPUS];
    uint64_t entries_generation[HOME_GPUS]; // of the residency when they were made
    float *output_scale;                    // host memory, one a layer
    // Set by the owner after forward_weights_open, and the owner's.
    struct predictor *predictor; // NULL: guesses are the gate's, as with PREDICTOR_GATE_AUTO
    struct trace_writer *trace;  // NULL: nothing is recorded
    // Makes room on GPUs for K and V that grow; where there are GPUs.
    kv_cache_room_fn make_room;
    void *owner;
    bool skips_prompts;         // experts of passes of many tokens are not guessed
    const struct forward *last; // the passes' own: the timeline of the pass before; NULL: none that is there
};

// Makes the tables that are derived from the weights. model, matrices and residency must outlive them; of
// *out what it says of GPUs is kept.
int forward_weights_open(struct forward_weights *out, const struct gemma_model *model,
                         const struct weight_matrices *matrices, struct residency *residency,
                         struct lode_error *error);
void forward_weights_close(struct forward_weights *weights);

struct forward; // one timeline

struct forward_options {
    uint32_t context, batch; // tokens of the timeline, and of a step at most
    enum lode_kv_format format;
    bool (*keep_going)(void *user); // asked between layers; false ends a step. May be NULL
    void *user;
};

// Allocates the KV cache and all scratch. Of the weights only model and device must be there already.
int forward_open(struct forward **out, struct forward_weights *weights, const struct forward_options *options,
                 struct lode_error *error);
void forward_close(struct forward *forward);

// Scratch of the host that forward_open takes besides the cache, without the device's own; with_gpus: there
// are some.
uint64_t forward_scratch_needed_bytes(const struct gemma_model *model, uint32_t batch, bool with_gpus);

uint64_t forward_scratch_bytes(const struct forward *forward);
uint64_t forward_kv_bytes(const struct forward *forward);

// Of GPU g.
uint64_t forward_gpu_scratch_bytes(const struct forward *forward, uint32_t g);
uint64_t forward_gpu_kv_bytes(const struct forward *forward, uint32_t g);

// That passes have waited for GPUs.
uint64_t forward_gpu_wait_ns(const struct forward *forward);
uint32_t forward_position(const struct forward *forward);

// Appends n tokens (1..batch, within the context and the vocabulary: checked by the caller) and writes the
// logits, after the soft cap, of the last `want` (0..n) of them to out_logits: [want][vocab], host memory.
// Rows that nobody wants skip what they do not contribute to: everything after the last layer that writes K
// and V. On an error the timeline is as before.
int forward_step(struct forward *forward, const int32_t *ids, uint32_t n, uint32_t want, float *out_logits,
                 struct lode_error *error);

// Appends `count` positions (within the context: checked by the caller) of noise in place of keys and values;
// the same for any batch. On an error the timeline may be empty.
int forward_fill(struct forward *forward, uint32_t count, uint64_t seed, struct lode_error *error);

// The timeline has `position` tokens (within the context: checked by the caller), of which nothing needs to
// be there: for devices that compute nothing.
void forward_move(struct forward *forward, uint32_t position);

// As kv_cache_rewind.
uint32_t forward_rewind(struct forward *forward, uint32_t keep);

#endif
