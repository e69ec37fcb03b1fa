// Where units are in memory: answers from what is resident, or reads.
//
// Every unit has a home (homes.h). Pinned units are read at the start. Dense units in the ring are read ahead
// in the order of the table, which is the order of a pass. Experts come into slots of a pool when they are
// chosen, or on a guess before, and leave by a policy. Rows of tables are fetched one by one. One thread
// steers all of it; reading goes on by itself in io.
//
// A unit's parts are aligned as in their file, or to LODE_DEVICE_ALIGN on a device without host memory, and
// are followed by LODE_DEVICE_SLACK readable bytes.
//
// With GPUs, units that are not experts may have their home there. An expert's home is always the host's or
// the files': what a GPU has of experts are copies beside it, which are computed with where they are.
#ifndef LODE_RESIDENCY_H
#define LODE_RESIDENCY_H

#include "backends/backend.h"
#include "io/io.h"
#include "placement/expert_split.h"
#include "placement/heat.h"
#include "placement/mapped.h"
#include "placement/policy.h"
#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

struct residency;

typedef bool (*residency_progress_fn)(void *user, uint64_t done_bytes, uint64_t total_bytes);

// A GPU that has weights. Of its budget the units whose home is there take what they take; what is left is a
// pool of experts' copies (vram.h).
struct residency_gpu {
    struct lode_device *device; // outlives the residency
    uint64_t budget_bytes;      // for weights
    // How experts are computed and moved, in nanoseconds by the rows that meet one of `bytes`; what decides
    // whether a pass of many rows copies an expert to the GPU. All 0: it never does.
    struct expert_rates rates;
};

struct residency_options {
    uint64_t budget_bytes; // of the host, for weights; 0: enough for all. Needs host memory
    // Units with a home on a GPU: [n_units] 1 + g; 0: the host's. Of experts it says which begin there; NULL:
    // none of the dense units, and the experts by their heat. The device of residency_open computes with
    // everything else.
    const struct residency_gpu *gpus; // [n_gpus]
    uint32_t n_gpus;
    const uint8_t *unit_gpu;
    struct expert_rates host_rates;
    const struct policy_ops *policy; // NULL: the first of policy_table
    uint32_t used_per_layer;         // experts that a token chooses in a layer
    // Of all experts in the order of the table, or NULL. What it knows is where the policy starts from and
    // what an empty pool is filled with; it counts what is chosen.
    struct heat *heat;
    bool no_prefetch;
    uint32_t prefetch_ranks; // experts that are guessed for the token of a decode pass; 0: used_per_layer
    uint64_t ring_bytes;     // as in struct homes_request
    // Weights stay where the files are mapped, all of them, and nothing is read here; the budget does not
    // matter. Outlives the residency; needs a device of host memory. NULL: not mapped.
    const struct mapped *mapped;
    struct trace_writer *trace;        // where reads of experts are recorded; may be NULL
    residency_progress_fn on_progress; // of the start; may be NULL
    // A part, by its index in the table, of a unit that stays in the memory of the host has been read, and
    // may be put into another order. May be NULL.
    void (*on_part)(void *user, uint32_t part, void *memory);
    // Writes a part of an expert in the memory of the host, of any home, as it is in its file to `to`, for a
    // copy on a GPU. NULL: in the order in which it is; not with on_part beside GPUs.
    void (*copy_part)(void *user, uint32_t part, void *to, const void *memory);
    void *part_user; // of both
    void *user;
};

// Memory for weights that residency_open needs at least, and for everything that is ever kept in memory.
uint64_t residency_floor_bytes(const struct unit_table *table, const struct lode_device *device);
uint64_t residency_full_bytes(const struct unit_table *table, const struct lode_device *device);

// The same where the units of unit_gpu (as in the options; may be NULL) have their home on GPUs; what these
// take of GPU g; and the most memory of the host that n_gpus take for copies, which is not of the budget.
uint64_t residency_floor_bytes_beside(const struct unit_table *table, const struct lode_device *device,
                                      const uint8_t *unit_gpu);
uint64_t residency_full_bytes_beside(const struct unit_table *table, const struct lode_device *device,
                                     const uint8_t *unit_gpu);
uint64_t residency_gpu_dense_bytes(const struct unit_table *table, const uint8_t *unit_gpu, uint32_t g);
uint64_t residency_gpu_host_bytes(const struct unit_table *table, uint32_t n_gpus);

// Takes memory from the device and reads what is pinned. The table, io and device must outlive the residency.
// A read that fails names the file, the offset and the unit.
int residency_open(struct residency **out, const struct unit_table *table, struct io *io,
                   struct lode_device *device, const struct residency_options *options,
                   struct lode_error *error);
void residency_close(struct residency *residency);

// Makes dense units resident and keeps them so until they are released; waits for reads where it must. Of the
// streamed ones, the order of the table is expected; another order works and costs what was read ahead.
int residency_acquire(struct residency *residency, const uint32_t *units, uint32_t n,
                      struct lode_error *error);
void residency_release(struct residency *residency, const uint32_t *units, uint32_t n);

// Device memory of a part (0 .. n_parts-1) of a unit that is acquired.
void *residency_part(const struct residency *residency, uint32_t unit, uint32_t part);

// ---- experts

// Whether the policy looks at the router's weights; and the weight of an expert that residency_choose will
// tell next, as `scored` of policy.h has it. Nobody needs to tell it.
bool residency_wants_weights(const struct residency *residency);
void residency_weigh(struct residency *residency, uint32_t unit, float weight);

// A layer's router has chosen these experts, each for n_tokens[i] of the pass. Reads for what is missing are
// submitted; residency_take hands them out. `units` must stay as it is until then.
int residency_choose(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens, uint32_t n,
                     struct lode_error *error);

// Hands out chosen experts that are resident, each once, at most `max` of them, acquired. With `wait` it
// waits until there is one. *out_n is 0 when all have been handed out, or, without `wait`, when none is at
// hand. Release what was taken before taking more: the pool may be smaller than the choice.
int residency_take(struct residency *residency, uint32_t *out_units, uint32_t *out_n, uint32_t max, bool wait,
                   struct lode_error *error);

// Whether an expert is in memory: always where it is pinned. Between residency_choose and the next call of
// the residency this is what the choice found, and what it counted as hits.
bool residency_has(const struct residency *residency, uint32_t unit);

// True while reads for the last choice are on their way.
bool residency_awaits(const struct residency *residency);

// True when guesses of what this layer will choose are worth making: prefetch is on, and not all of its
// experts are resident.
bool residency_wants_guess(const struct residency *residency, uint32_t layer);

// How many experts shall be named for each token of the pass.
uint32_t residency_guess_ranks(const struct residency *residency);

// Experts of a layer that will probably be chosen, the most probable first. What is missing is read while
// nothing else is, as far as there is time for; `certain` guesses at full speed and without a limit. A guess
// stands until the next choice is told.
void residency_guess(struct residency *residency, const uint32_t *units, uint32_t n, bool certain);

// ---- GPUs

// Who computes with a unit that is not an expert: 0 the host's device, 1 + g GPU g. residency_part is memory
// of that device.
uint32_t residency_executor(const struct residency *residency, uint32_t unit);

// Of the experts that were chosen last, those of which GPU g has a copy, each once; they are hits, and
// residency_take does not hand them out. Their places are residency_gpu_part's, from which nothing leaves
// before the pass ends: they are not released. Returns how many, at most `max`.
uint32_t residency_take_gpu(struct residency *residency, uint32_t g, uint32_t *out_units, uint32_t max);

// Whether all experts of a layer are on GPU g and stay there through the pass: then the choice needs not to
// be known here before the pass ends, and is told by residency_note_choice, before residency_pass_end,
// instead of residency_choose.
bool residency_all_on_gpu(const struct residency *residency, uint32_t g, uint32_t layer);
void residency_note_choice(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens,
                           uint32_t n);

// Where GPU g has a part of an expert; NULL where it has none.
void *residency_gpu_part(const struct residency *residency, uint32_t g, uint32_t unit, uint32_t part);

// Changes with every copy that comes to GPU g or leaves it.
uint64_t residency_gpu_generation(const struct residency *residency, uint32_t g);

// In a pass of many rows: copies experts that residency_take has handed out to GPU g, beside its operations,
// as far as that is faster than computing them on the host (expert_split.h, of the layer as a whole when it
// is chosen: what arrives when does not matter). Only to the GPU that has the layer's other units, the first
// one where the host has them. There is room for RESIDENCY_UPLOADS at once: the fewer are taken at a time the
// more of them can go.
//
// Units that stay the host's are moved to the front of `units`, *out_n is how many; those behind are on their
// way, and residency_upload_part tells their places; the operations of GPU g that are called after this wait
// for them. They are there until residency_upload_end, which is called when the GPU's operations with them
// have been called. All `units` may be released as soon as this returns.
#define RESIDENCY_UPLOADS 8
int residency_upload(struct residency *residency, uint32_t g, uint32_t *units, const uint32_t *n_tokens,
                     uint32_t n, uint32_t *out_n, struct lode_error *error);
void *residency_upload_part(const struct residency *residency, uint32_t g, uint32_t unit, uint32_t part);
void residency_upload_end(struct residency *residency, uint32_t g);

// Gives back so much memory of GPU g, or what there is, to whoever needs it now: the coldest copies of
// experts leave, at last the room for uploads. Between passes. *out_bytes is what was given back, which may
// be more, or 0.
int residency_yield(struct residency *residency, uint32_t g, uint64_t bytes, uint64_t *out_bytes,
                    struct lode_error *error);

// Between turns: exchanges copies on the GPUs for hotter experts that are in the memory of the host, at most
// so many bytes of them; nothing where no heat is known. *out_bytes is what was copied.
int residency_replace(struct residency *residency, uint64_t most_bytes, uint64_t *out_bytes,
                      struct lode_error *error);

struct residency_gpu_figures {
    uint64_t pinned_bytes, pool_bytes; // of the GPU: units with a home there, room for copies of experts
    uint32_t pool_slots, pool_used;
    uint64_t hits;                  // of decode: choices that it had
    uint64_t uploads, upload_bytes; // of passes of many rows
    uint64_t replaced_bytes, yielded_bytes;
};
void residency_count_gpu(const struct residency *residency, uint32_t g, struct residency_gpu_figures *out);

// ---- rows

// Whether single rows are fetched of this unit; else it is acquired as a whole.
bool residency_has_rows(const struct residency *residency, uint32_t unit);

// Copies rows ids[0..n) of a part of a table, row_bytes each, to `out` in host memory.
int residency_fetch_rows(struct residency *residency, uint32_t unit, uint32_t part, uint64_t row_bytes,
                         const int32_t *ids, uint32_t n, void *out, struct lode_error *error);

// ---- passes and figures

// A pass of n_tokens begins or has ended; decode passes (n_tokens 1) are counted apart. keep_going (may be
// NULL) is asked while a read is waited for; false ends the wait with LODE_ERR_CANCELLED.
void residency_pass_begin(struct residency *residency, uint32_t n_tokens, bool (*keep_going)(void *user),
                          void *user);
void residency_pass_end(struct residency *residency, bool complete);

// The present, as io_now_ns.
uint64_t residency_now_ns(const struct residency *residency);

// A wait of the last pass.
enum residency_wait { WAIT_NONE, WAIT_DEMAND, WAIT_GUESSED, WAIT_STREAM, WAIT_ROWS, N_WAITS };

struct residency_stall {
    uint64_t total_ns, worst_ns;
    uint32_t worst_unit;
    enum residency_wait worst_kind;
};

struct residency_stall residency_last_stall(const struct residency *residency);

// What a stall waited for, in words; "" for none.
const char *residency_stall_text(const struct residency *residency, const struct residency_stall *stall,
                                 char *buffer, size_t capacity);

struct residency_layer_figures {
    uint64_t choices, hits, bytes, stall_ns; // of decode
};

struct residency_figures {
    uint64_t pinned_bytes, pool_bytes, ring_bytes, streamed_bytes;
    uint32_t pool_slots, n_experts;
    uint64_t load_bytes, prefill_bytes, decode_bytes; // read from the files
    uint64_t choices, hits, reused;         // of decode; reused: chosen for the token before as well
    uint64_t prefill_choices, prefill_hits; // different experts of a pass in a layer
    uint64_t prefill_stall_ns, decode_stall_ns;
    uint64_t decode_passes, decode_ns, decode_busy_ns; // of one token; busy: with a read in flight
    uint64_t prefetch_useful_bytes, prefetch_wasted_bytes;
    uint64_t prefetch_late_bytes; // of the useful: there was a wait for them
    // Read since the start, of passes: experts on demand and on a guess, dense units, rows.
    uint64_t demand_bytes, guess_bytes, ring_read_bytes, row_read_bytes;
    uint64_t stall_ns[N_WAITS];   // of passes, by cause
    uint64_t busy_ns, read_bytes; // of the whole run
    bool prefetch_on;
    const char *policy;
};

void residency_count(const struct residency *residency, struct residency_figures *out);
void residency_count_layer(const struct residency *residency, uint32_t layer,
                           struct residency_layer_figures *out);

#endif
