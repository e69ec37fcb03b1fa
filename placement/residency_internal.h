// What the files of the residency share: its state, the tags of its reads, and waiting.
#ifndef LODE_RESIDENCY_INTERNAL_H
#define LODE_RESIDENCY_INTERNAL_H

#include "placement/homes.h"
#include "placement/populate.h"
#include "placement/prefetch_gate.h"
#include "placement/residency.h"

struct pool;
struct ring;
struct rows;

struct residency_block {
    char *memory;
    uint64_t bytes;
};

struct residency {
    const struct unit_table *table;
    struct lode_device *device;
    struct io *io;
    struct residency_options options;
    struct homes homes;
    void **parts; // [n_parts of the table] where a resident unit's parts are
    struct residency_block *blocks;
    uint32_t n_blocks;
    struct populate *populate;
    struct pool *pool; // NULL where no unit has its home there
    struct ring *ring;
    struct rows *rows;

    uint32_t n_layers, n_experts;
    uint32_t *expert_index; // [n_units] among the experts, in the order of the table
    uint64_t *last_chosen;  // [n_experts] by which decode pass; for reuse
    uint64_t n_decoded;
    const uint32_t *chosen; // without a pool: what residency_take hands out
    uint32_t n_chosen;
    struct residency_layer_figures *layers;
    struct residency_figures figures;
    struct residency_stall stall; // of the running pass, or the last
    struct prefetch_gate gate;
    uint32_t pass_tokens;
    bool (*keep_going)(void *user); // of the pass; NULL: always
    void *user;
    uint64_t pass_start_ns;
    struct io_counters counted; // up to the end of the last pass
};

// ---- memory

// Memory of the device that lives as long as the residency, aligned for slots.
int residency_allocate(struct residency *residency, char **out, uint64_t bytes, struct lode_error *error);

// Reads the pinned units into memory that it allocates.
int residency_load(struct residency *residency, struct lode_error *error);

// ---- reads

// Who gets a completion, in the tag's upper half; the lower half is the owner's.
enum read_owner { READ_LOAD = 1, READ_POOL, READ_RING, READ_ROWS };

static inline uint64_t read_tag(enum read_owner owner, uint32_t id)
{
    return (uint64_t)owner << 32 | id;
}

// Submits the reads of all parts of a unit to where layout_place has put them; *out_n is how many were
// submitted, also after a failure.
int residency_read_unit(struct residency *residency, uint32_t unit, uint64_t tag, enum io_priority priority,
                        uint32_t *out_n, struct lode_error *error);

// Takes completions to their owners: those that are there, or with `wait` at least one, unless the caller of
// the whole asks to stop or the drive does not answer for RESIDENCY_PATIENCE_NS.
int residency_pump(struct residency *residency, bool wait, struct lode_error *error);

#define RESIDENCY_PATIENCE_NS ((uint64_t)60 * 1000000000)

// Counts a wait for a unit.
void residency_stalled(struct residency *residency, uint32_t unit, enum residency_wait kind, uint64_t ns);

int residency_fail_for(const struct residency *residency, uint32_t unit, struct lode_error *error,
                       const struct lode_error *cause);

static inline bool residency_decodes(const struct residency *residency)
{
    return residency->pass_tokens == 1;
}

// ---- the pool

int pool_open(struct pool **out, struct residency *residency, struct lode_error *error);
void pool_close(struct pool *pool);
void pool_complete(struct pool *pool, uint32_t slot, const struct io_completion *completion);
bool pool_wants_weights(const struct pool *pool);
void pool_weigh(struct pool *pool, uint32_t unit, float weight);
int pool_choose(struct pool *pool, const uint32_t *units, const uint32_t *n_tokens, uint32_t n,
                struct lode_error *error);
int pool_take(struct pool *pool, uint32_t *out_units, uint32_t *out_n, uint32_t max, bool wait,
              struct lode_error *error);
void pool_release(struct pool *pool, uint32_t unit);
bool pool_has(const struct pool *pool, uint32_t unit);
bool pool_awaits(const struct pool *pool);
bool pool_wants_guess(const struct pool *pool, uint32_t layer);
void pool_guess(struct pool *pool, const uint32_t *units, uint32_t n, bool certain);
void pool_fill(struct pool *pool); // reads the hottest units into slots that have never been used
void pool_pass_end(struct pool *pool, uint32_t n_tokens, double disk_bytes_per_ns);
uint32_t pool_slots(const struct pool *pool);

// ---- the ring

int ring_open(struct ring **out, struct residency *residency, struct lode_error *error);
void ring_close(struct ring *ring);
void ring_complete(struct ring *ring, uint32_t entry, const struct io_completion *completion);
int ring_acquire(struct ring *ring, uint32_t unit, struct lode_error *error);
void ring_release(struct ring *ring, uint32_t unit);

// ---- rows

int rows_open(struct rows **out, struct residency *residency, struct lode_error *error);
void rows_close(struct rows *rows);
void rows_complete(struct rows *rows, uint32_t id, const struct io_completion *completion);
int rows_fetch(struct rows *rows, uint32_t unit, uint32_t part, uint64_t row_bytes, const int32_t *ids,
               uint32_t n, void *out, struct lode_error *error);

#endif
