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
// What is streamed is followed part by part through a ring of the real size: a part is read when the drive is
// free and the ring has room, a unit is computed when all its parts are there (ring.c). Experts
// (pool_choice.c): of the k that a token chooses in a layer each is missing with probability 1 - hit rate, so
// that 0 to k are read (a binomial distribution); the reads begin with the choice, beside them run the dense
// unit and the resident experts, and the last one that arrives is computed alone. In prefill n tokens choose
// sum over e of 1 - (1 - p_e)^n different experts, and the next layer's are read ahead as far as half of the
// pool holds them (pool_guess.c).
//
// Lanes that run at the same time slow each other down as the profile's interference says, for the share of
// the time in which both are busy; that is solved by repetition.
//
// Hit rate: with heat, the share of the choices that the hottest experts take which fit into the pool, plus a
// 17th of the rest for what a policy learns within a conversation (docs/learned.md: `heat` over `static`);
// without, the means of the two replays there, by the share of experts that have a slot.
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
};

struct cost_model {
    const struct workload *workload;
    const struct homes *homes;
    const struct machine_profile *profile;
    const struct profile_drive *drive; // NULL where none is needed
    struct cost_options options;
    uint32_t threads;
    uint32_t n_slots; // of the pool
    double hit_rate, hit_low, hit_high;
    uint8_t nearest[LODE_TYPE_END]; // the type whose curves stand in for each, usually itself
    uint64_t assumed;               // bit t: type t of the model has none of its own
    double measured_rows;           // the least of what the products that are used were measured with at most
    bool attention_assumed;         // likewise, from the rate of memory
};

// What is given must outlive the model. Fails where the profile lacks what no rule can replace: any kernel of
// the CPU, or a drive when something is read in passes.
int cost_open(struct cost_model *out, const struct workload *workload, const struct homes *homes,
              const struct machine_profile *profile, const struct cost_options *options,
              struct lode_error *error);

// Seconds. The four parts add up to the whole; slow and fast are where it may lie by the spread of the
// curves, the hit rate's range and the model's own error.
struct cost {
    double seconds, fast_s, slow_s;
    double kernels_s, attention_s, operations_s, stall_s; // stall: waiting for the drive
    double drive_s;                                       // that the drive is busy
    double drive_bytes;
    double hit_rate; // of the experts chosen in decode; 1 without a pool
};

// One token after `context` others, and `n_tokens` of a prompt after `context` others. Passes before have
// brought pool and ring into their usual state.
int cost_decode(struct cost *out, const struct cost_model *model, uint32_t context, struct lode_error *error);
int cost_prefill(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                 struct lode_error *error);

// Different experts of n that `rows` tokens choose, each k of them: n (1 - (1 - k/n)^rows) when all are
// chosen alike.
double cost_experts_touched(uint32_t n, uint32_t k, double rows);

#endif
