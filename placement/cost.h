// The cost model: how long a pass takes on a machine, from the curves of its profile.
//
// Three lanes of the processor follow one another, the drive runs beside them:
//
//   kernels     bytes of weights / GB/s of their type at the rows that meet them. Between the rows that were
//               measured the time a byte is linear (a part for reading, a part for each row); beyond the last
//               it grows as with the other kind of product where that was measured further, else with the
//               rows.
//   attention   decode: bytes of K and V that are read / GB/s at that many positions, by the query heads that
//               share them (profiles have 8); prefill: 4 operations for each query head, value and position /
//               GFLOP/s. A window caps the positions.
//   operations  what stands between the products: calls times the time of one; of many rows they are shared
//               by the threads.
//   drive       GB/s at the queue depth that a read fills: pieces of IO_PIECE_BYTES, at most
//               IO_QUEUE_DEPTH at once.
//
// Units in the memory of a GPU are computed there, by the curves of that GPU, and the attention of their
// layer lies with the unit that attends, as do the layer's small operations: each takes a launch, or its
// rows' way through the GPU's memory and back where that is longer. Where one unit's device is not that of
// the unit before, the rows of the residual stream, 4 bytes a value, pass over the link by the curve of
// pinned copies (from one GPU to another over both links) and the GPUs on both sides wait once. Units without
// products are at hand everywhere. A pass begins at the CPU, and the logits come back to it.
//
// In a layer with experts each device computes those that it holds, all at the same time:
//
//   t = max over devices (time of its choices) + for each that is not the dense units': P x (there and back)
//
// of which the longest counts as that device's time. Of one token each of the k choices falls on a device
// with the device's share, and t is the mean over how they may fall: with eight choices, half of them on each
// of two devices that are equally fast, the longer has 5.1. P: that any falls there at all. Shares are those
// of the heat; where it is not known all experts of a layer are alike, for what lies on a GPU was not chosen
// by use. Of many rows the means are taken.
//
// In a pass of many rows the experts in RAM may be copied to a GPU of the layer instead of being computed by
// the CPU, while the GPU computes with those that are there: whatever is faster by the curves, of each layer
// as a whole. A GPU that shares the CPU's memory has no link: only the waiting remains.
//
// What is streamed is followed part by part through a ring of the real size: a part is read when the drive is
// free and the ring has room, a unit is computed when all its parts are there (ring.c). Experts
// (pool_choice.c): of the k that a token chooses in a layer each is missing with probability 1 - hit rate, so
// that 0 to k are read (a binomial distribution); the reads begin with the choice, beside them run the dense
// unit and the resident experts, and the last one that arrives is computed alone. In prefill n tokens choose
// sum over e of 1 - (1 - p_e)^n different experts, and the next layer's are read ahead as far as half of the
// pool holds them (pool_guess.c).
//
// Lanes that run at the same time slow each other down as the profile's interference says. CPU, GPU and link
// are together only in layers with experts, where it is computed who ends first; the drive is beside all of
// them for the share of the time in which both are busy, which is solved by repetition.
//
// What runs have taught (profile->learned) multiplies the times of the CPU's parts and of the drive.
//
// Hit rate: of the experts that are not on a GPU. With heat, the share of their choices that the hottest of
// them take which fit into the pool, plus a 17th of the rest for what a policy learns within a conversation
// (docs/learned.md: `heat` over `static`); without, the means of the two replays there, by the share of these
// experts that have a slot.
#ifndef LODE_COST_H
#define LODE_COST_H

#include "backends/backend.h"
#include "io/io.h"
#include "placement/homes.h"
#include "placement/workload.h"
#include "profiles/machine_profile.h"

// Products that were measured with fewer rows say little of prefill.
#define COST_ENOUGH_ROWS 64

struct cost_options {
    uint32_t threads; // 0: as many as the profile was made with
    uint32_t batch;   // tokens of a prefill step, at least 1
    enum lode_kv_format kv;
    const float *heat; // [experts in the order of the table] choices a token; NULL: not known
    bool no_prefetch;  // experts are read only when they have been chosen
};

#define COST_DEVICES (1 + HOME_GPUS) // the CPU, GPU 0, ...

struct cost_model {
    const struct workload *workload;
    const struct homes *homes;
    const struct machine_profile *profile;
    const struct profile_drive *drive; // NULL where none is needed
    struct cost_options options;
    uint32_t threads;
    uint32_t n_slots, n_pooled; // of the pool; experts that share them
    double hit_rate, hit_low, hit_high;
    double off_gpu, off_low, off_high; // the share of the choices that falls on no GPU
    // The type whose curves stand in for each on each device, usually itself.
    uint8_t nearest_on[COST_DEVICES][LODE_TYPE_END];
    // Bit t: type t of the model has none of its own on a device that multiplies with it, the first of which
    // takes nearest[t] for it.
    uint64_t assumed;
    uint8_t nearest[LODE_TYPE_END];
    double measured_rows;   // the least of what the CPU's products that are used were measured with at most
    bool attention_assumed; // likewise, from the rate of the CPU's memory
    double learned[PROFILE_PARTS];         // factors of time, bounded
    double drive_gbps[IO_QUEUE_DEPTH + 1]; // by the pieces in flight, as learned

    // The pass in steps; the model's own.
    struct cost_step *steps; // units but experts, as a pass meets them: inputs, layers, outputs
    uint32_t n_inputs, first_output, n_steps;
    struct cost_layer *layers;   // [workload->n_layers]
    const struct extent **cycle; // parts that are streamed
    uint32_t n_cycle;
};

// What is given must outlive the model. Fails where the profile lacks what no rule can replace: any kernel of
// the CPU or of a GPU that is used, that GPU's link, or a drive when something is read in passes. Released by
// cost_close, also after a failure.
int cost_open(struct cost_model *out, const struct workload *workload, const struct homes *homes,
              const struct machine_profile *profile, const struct cost_options *options,
              struct lode_error *error);
void cost_close(struct cost_model *model);

// Seconds. The six parts add up to the whole; slow and fast are where it may lie by the spread of the
// curves, the hit rate's range and the model's own error.
struct cost {
    double seconds, fast_s, slow_s;
    double kernels_s, attention_s, operations_s, stall_s; // of the CPU; stall: waiting for the drive
    double gpu_s, link_s; // that the pass is on a GPU alone, and on its way between devices
    double drive_s;       // that the drive is busy
    double drive_bytes;
    double hit_rate;  // of the experts chosen in decode that are not on a GPU; 1 without a pool
    double gpu_share; // of the experts chosen in decode that are on a GPU
};

// One token after `context` others, and `n_tokens` of a prompt after `context` others. Passes before have
// brought pool and ring into their usual state.
int cost_decode(struct cost *out, const struct cost_model *model, uint32_t context, struct lode_error *error);
int cost_prefill(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                 struct lode_error *error);

// The same with one hit rate and no ranges, fast_s = slow_s = seconds: a search asks hundreds of times.
int cost_decode_mean(struct cost *out, const struct cost_model *model, uint32_t context,
                     struct lode_error *error);
int cost_prefill_mean(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                      struct lode_error *error);

// Different experts of n that `rows` tokens choose, each k of them: n (1 - (1 - k/n)^rows) when all are
// chosen alike.
double cost_experts_touched(uint32_t n, uint32_t k, double rows);

#endif
