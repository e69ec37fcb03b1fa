// What the files of the residency share: its state, the tags of its reads, and waiting.
#ifndef LODE_RESIDENCY_INTERNAL_H
#define LODE_RESIDENCY_INTERNAL_H

#include "placement/homes.h"
#include "placement/populate.h"
#include "placement/prefetch_gate.h"
#include "placement/residency.h"
#include "placement/vram.h"

struct pool;
struct ring;
struct rows;

struct residency_block {
    char *memory;
    uint64_t bytes;
};

// Room for one expert on a GPU while a pass of many rows needs it, and the pinned memory that it comes from.
struct upload_slot {
    uint32_t unit;
    bool held;              // from residency_upload to residency_upload_end
    uint64_t ticket, fence; // of its last copy; of the operations that have used it since. 0: none
};

struct gpu {
    struct lode_device *device;
    uint64_t budget_bytes;
    struct expert_rates rates;
    struct residency_block *blocks; // of units with a home there
    uint32_t n_blocks;
    struct vram *vram;
    uint32_t *in_layer; // [n_layers] experts that it has
    uint32_t *chosen;   // [layer_max] of the last choice
    uint32_t n_chosen, chosen_at;
    double busy_ns; // that these will take, by the rates

    char *uploads; // [n_uploads] slots of slot_bytes
    uint32_t n_uploads;
    uint64_t slot_bytes;
    char *pinned;   // [n_uploads, at least 1] of slot_bytes, of the host
    bool is_malloc; // pinned is not the device's
    struct upload_slot slots[RESIDENCY_UPLOADS];
    struct residency_gpu_figures figures;
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

    struct gpu *gpus; // [n_gpus]
    uint32_t n_gpus;
    uint8_t *on_gpu;         // [n_units] bit g: GPU g has a copy; NULL without GPUs
    uint8_t *upload_to;      // [n_units] of the last choice: 1 + g that shall compute it, 0: the host
    float *unit_heat;        // [n_units]
    uint32_t *layer_experts; // [n_layers]
    uint32_t *layer_gpu;     // [n_layers] that has the other units of the layer, or 0
    uint32_t layer_max;      // experts in the largest layer
    uint32_t *host_units, *host_tokens, *order, *order_tokens; // [layer_max] of a choice
    uint32_t n_host;

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

// Reads the pinned units into memory that it allocates, and what GPUs have at the start.
int residency_load(struct residency *residency, struct lode_error *error);
uint64_t residency_staging_bytes(void); // of the host while it reads for a device without host memory

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
// The part of a choice in `layer` that is not on a GPU, which may be nothing; UNIT_NO_LAYER: nothing at all.
int pool_choose(struct pool *pool, uint32_t layer, const uint32_t *units, const uint32_t *n_tokens,
                uint32_t n, struct lode_error *error);
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
void pool_copied(struct pool *pool, uint32_t unit, bool has); // to a GPU, the first, or the last one has left
void pool_forget(struct pool *pool, uint32_t unit);           // it is on a GPU: its slot is for others

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

// ---- GPUs

// Whether the options make sense.
int gpus_check(const struct residency *residency, struct lode_error *error);

// Memory for what is on GPUs from the start, and which experts that is; nothing is read yet.
int gpus_open(struct residency *residency, struct lode_error *error);
void gpus_close(struct residency *residency);

// Bit g: GPU g has a copy of this expert.
static inline uint32_t residency_copies(const struct residency *residency, uint32_t unit)
{
    return residency->on_gpu ? residency->on_gpu[unit] : 0;
}

// A GPU's copy comes, if there is room, or leaves.
bool gpu_take(struct residency *residency, uint32_t g, uint32_t unit);
void gpu_drop(struct residency *residency, uint32_t g, uint32_t unit);
void gpu_recount(struct residency *residency, uint32_t g); // after vram_yield

// How hot experts are, by unit; NULL where that is not known.
const float *gpus_heat(struct residency *residency);

// Takes a choice apart: what GPUs have is theirs, the rest is in host_units and host_tokens.
void gpus_choose(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens, uint32_t n);

// The room for uploads: memory for at most half of `bytes`, which may be none; *out_bytes is what it took.
void uploads_open(struct residency *residency, struct gpu *gpu, uint64_t bytes, uint64_t *out_bytes);
int uploads_open_pinned(struct residency *residency, struct gpu *gpu, struct lode_error *error);
void uploads_settle(struct gpu *gpu); // waits for what is on its way
void uploads_close(struct gpu *gpu);
uint64_t uploads_yield(struct gpu *gpu);
void uploads_choose(struct residency *residency, uint32_t layer); // after gpus_choose
void uploads_begin_pass(struct residency *residency);

// Writes an expert that is in the memory of the host as a device without host memory has it; the slack is
// left alone.
void expert_copy_out(const struct residency *residency, uint32_t unit, char *to);

// Whether an expert is in the memory of the host.
bool residency_host_has(const struct residency *residency, uint32_t unit);

#endif
