// The residency as a whole: opening, waiting for reads, passes and figures. What a home does is in pool_*.c,
// ring.c, rows.c and load.c.
#include "placement/residency.h"
#include "base/bytes_text.h"
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAP_MAX 64
#define ASK_INTERVAL_NS ((int64_t)50 * 1000000) // how long a request to stop may go unnoticed

uint64_t residency_floor_bytes(const struct unit_table *table, const struct lode_device *device)
{
    return homes_floor_bytes(table, device->host_memory);
}

uint64_t residency_full_bytes(const struct unit_table *table, const struct lode_device *device)
{
    return homes_full_bytes(table, device->host_memory);
}

// ---- memory
// --------------------------------------------------------------------------------------------------

int residency_allocate(struct residency *residency, char **out, uint64_t bytes, struct lode_error *error)
{
    struct lode_device *device = residency->device;
    const uint64_t align = layout_align(device->host_memory);
    const uint64_t with_room_bytes = bytes + (align > LODE_DEVICE_ALIGN ? align : 0);
    struct residency_block *blocks =
        realloc(residency->blocks, (residency->n_blocks + 1) * sizeof *residency->blocks);
    if (!blocks)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list %u blocks", residency->n_blocks + 1);
    residency->blocks = blocks;
    void *memory;
    int code = device->ops->alloc(device, &memory, with_room_bytes, error);
    if (code != 0)
        return code;
    residency->blocks[residency->n_blocks++] = (struct residency_block){memory, with_room_bytes};
    *out = (char *)(((uintptr_t)memory + align - 1) & ~(uintptr_t)(align - 1));
    return 0;
}

// ---- reads
// ---------------------------------------------------------------------------------------------------

int residency_fail_for(const struct residency *residency, uint32_t unit, struct lode_error *error,
                       const struct lode_error *cause)
{
    char name[128];
    return lode_fail(error, cause->code, "%s: %s", unit_table_name(residency->table, unit, name, sizeof name),
                     cause->text);
}

int residency_read_unit(struct residency *residency, uint32_t unit_id, uint64_t tag,
                        enum io_priority priority, uint32_t *out_n, struct lode_error *error)
{
    const struct unit *unit = &residency->table->units[unit_id];
    for (*out_n = 0; *out_n < unit->n_parts; ++*out_n) {
        const uint32_t part_id = unit->first_part + *out_n;
        const struct extent *part = &residency->table->parts[part_id];
        const struct io_request request = {
            .file = part->file,
            .offset = part->offset,
            .length = part->bytes,
            .buffer = residency->parts[part_id],
            .tag = tag,
            .priority = priority,
            .padded = true,
            .told_layer = unit->layer + 1, // UNIT_NO_LAYER becomes 0
        };
        struct lode_error cause;
        if (io_submit(residency->io, &request, &cause) != 0)
            return residency_fail_for(residency, unit_id, error, &cause);
    }
    return 0;
}

static void deliver(struct residency *residency, const struct io_completion *completion)
{
    const uint32_t id = (uint32_t)completion->tag;
    switch ((enum read_owner)(completion->tag >> 32)) {
    case READ_POOL:
        pool_complete(residency->pool, id, completion);
        return;
    case READ_RING:
        ring_complete(residency->ring, id, completion);
        return;
    case READ_ROWS:
        rows_complete(residency->rows, id, completion);
        return;
    case READ_LOAD: // reaps its own
        break;
    }
    assert(false);
}

int residency_pump(struct residency *residency, bool wait, struct lode_error *error)
{
    struct io_completion completions[REAP_MAX];
    uint64_t start_ns = 0;
    if (wait && io_pending(residency->io) == 0)
        return lode_fail(error, LODE_ERR_MEMORY,
                         "there is no room to read into: more units are in use at once than memory was set "
                         "aside for; give the weights more");
    for (;;) {
        const uint32_t n =
            io_reap(residency->io, completions, REAP_MAX, wait ? 1 : 0, wait ? ASK_INTERVAL_NS : 0);
        for (uint32_t i = 0; i < n; i++)
            deliver(residency, &completions[i]);
        if (n > 0 || !wait)
            break;
        const uint64_t now_ns = io_now_ns(residency->io);
        start_ns = start_ns ? start_ns : now_ns;
        if (residency->keep_going && !residency->keep_going(residency->user))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped while waiting for the drive");
        if (now_ns - start_ns >= RESIDENCY_PATIENCE_NS)
            return lode_fail(error, LODE_ERR_IO,
                             "the drive has not answered for %u seconds; check it and the kernel's log",
                             (unsigned)(RESIDENCY_PATIENCE_NS / 1000000000));
    }
    if (residency->pool)
        pool_fill(residency->pool);
    return 0;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static uint32_t count_layers(const struct unit_table *table)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        if (unit->layer != UNIT_NO_LAYER && unit->layer >= n)
            n = unit->layer + 1;
    }
    return n;
}

static int open_homes(struct residency *residency, struct lode_error *error)
{
    const struct homes *homes = &residency->homes;
    struct residency_figures *figures = &residency->figures;
    int code = 0;
    if (homes->ring_bytes)
        code = ring_open(&residency->ring, residency, error);
    if (code == 0 && homes->rows_bytes)
        code = rows_open(&residency->rows, residency, error);
    figures->pinned_bytes = homes->pinned_bytes;
    figures->pool_bytes = homes->pool_bytes;
    figures->ring_bytes = homes->ring_bytes;
    figures->streamed_bytes = homes->streamed_bytes;
    figures->pool_slots = residency->pool ? pool_slots(residency->pool) : 0;
    figures->n_experts = residency->n_experts;
    figures->policy = residency->options.policy->name;
    return code;
}

static int open_indices(struct residency *residency, struct lode_error *error)
{
    const struct unit_table *table = residency->table;
    residency->n_layers = count_layers(table);
    residency->layers = calloc(residency->n_layers + 1, sizeof *residency->layers);
    residency->parts = calloc(table->n_parts + 1, sizeof *residency->parts);
    residency->expert_index = calloc(table->n_units + 1, sizeof *residency->expert_index);
    residency->last_chosen = calloc(table->n_units + 1, sizeof *residency->last_chosen);
    if (!residency->layers || !residency->parts || !residency->expert_index || !residency->last_chosen)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the places of %u units", table->n_units);
    for (uint32_t u = 0; u < table->n_units; u++)
        if (table->units[u].class == UNIT_EXPERT)
            residency->expert_index[u] = residency->n_experts++;
    const struct heat *heat = residency->options.heat;
    if (heat && heat->n_units != residency->n_experts)
        return lode_fail(error, LODE_ERR_ARGUMENT, "heat of %u experts for a model of %u", heat->n_units,
                         residency->n_experts);
    return 0;
}

// Nothing is allocated or read by anybody here: the kernel's page cache has the weights.
static int open_mapped(struct residency *residency, struct lode_error *error)
{
    const struct residency_options *options = &residency->options;
    if (!residency->device->host_memory || options->n_gpus)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "mapped weights cannot be used by %s",
                         options->n_gpus ? options->gpus[0].device->name : residency->device->name);
    int code = open_indices(residency, error);
    if (code == 0)
        code = mapped_place(&residency->homes, residency->parts, options->mapped, residency->table, error);
    if (code == 0)
        code = mapped_load(options->mapped, options->on_progress, options->user, error);
    if (code == 0)
        code = open_homes(residency, error);
    io_count(residency->io, &residency->counted);
    return code;
}

static int open_all(struct residency *residency, struct lode_error *error)
{
    if (residency->options.mapped)
        return open_mapped(residency, error);
    int code = gpus_check(residency, error);
    if (code != 0)
        return code;
    const struct unit_table *table = residency->table;
    const bool host_memory = residency->device->host_memory;
    const uint64_t asked = residency->options.budget_bytes;
    const uint8_t *unit_gpu = residency->options.unit_gpu;
    const uint64_t full = residency_full_bytes_beside(table, residency->device, unit_gpu);
    if (!host_memory && asked && asked < full)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "the weights on %s take %s, but have %s",
                         residency->device->name, bytes_text(full).text, bytes_text(asked).text);
    code = open_indices(residency, error);
    const struct homes_request request = {.budget_bytes = asked ? asked : full,
                                          .host_memory = host_memory,
                                          .ring_bytes = residency->options.ring_bytes,
                                          .gpu = unit_gpu,
                                          .gpu_has_copies = true};
    if (code == 0)
        code = homes_divide(&residency->homes, table, &request, error);
    if (code == 0 && residency->homes.pool_bytes)
        code = pool_open(&residency->pool, residency, error); // before, so that it gets its pages meanwhile
    if (code == 0)
        code = gpus_open(residency, error);
    if (code == 0)
        code = residency_load(residency, error);
    for (uint32_t g = 0; g < residency->n_gpus && code == 0; g++)
        code = uploads_open_pinned(residency, &residency->gpus[g], error);
    residency->options.gpus = NULL; // the caller's, for the time of opening
    residency->options.unit_gpu = NULL;
    if (code == 0)
        code = open_homes(residency, error);
    io_count(residency->io, &residency->counted);
    residency->figures.load_bytes = residency->counted.read_bytes;
    return code;
}

int residency_open(struct residency **out, const struct unit_table *table, struct io *io,
                   struct lode_device *device, const struct residency_options *options,
                   struct lode_error *error)
{
    *out = NULL;
    struct residency *residency = calloc(1, sizeof *residency);
    if (!residency)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the residency");
    residency->table = table;
    residency->device = device;
    residency->io = io;
    residency->options = *options;
    if (!residency->options.policy)
        residency->options.policy = policy_table[0];
    prefetch_gate_init(&residency->gate);
    int code = open_all(residency, error);
    if (code != 0) {
        residency_close(residency);
        return code;
    }
    *out = residency;
    return 0;
}

// Nothing may write into memory that is about to be freed.
static void drain(struct residency *residency)
{
    struct io_completion completions[REAP_MAX];
    while (io_pending(residency->io) > 0) {
        const uint32_t n = io_reap(residency->io, completions, REAP_MAX, 1, -1);
        (void)n;
    }
}

void residency_close(struct residency *residency)
{
    if (!residency)
        return;
    pool_close(residency->pool);
    drain(residency);
    gpus_close(residency);
    ring_close(residency->ring);
    rows_close(residency->rows);
    io_unregister(residency->io);
    populate_stop(residency->populate);
    for (uint32_t i = 0; i < residency->n_blocks; i++)
        residency->device->ops->free(residency->device, residency->blocks[i].memory,
                                     residency->blocks[i].bytes);
    homes_free(&residency->homes);
    free(residency->blocks);
    free(residency->parts);
    free(residency->layers);
    free(residency->expert_index);
    free(residency->last_chosen);
    free(residency);
}

// ---- units
// ---------------------------------------------------------------------------------------------------

int residency_acquire(struct residency *residency, const uint32_t *units, uint32_t n,
                      struct lode_error *error)
{
    for (uint32_t i = 0; i < n; i++) {
        assert(units[i] < residency->table->n_units);
        if (residency->homes.home[units[i]] != HOME_RING)
            continue;
        int code = ring_acquire(residency->ring, units[i], error);
        if (code == 0)
            continue;
        residency_release(residency, units, i);
        return code;
    }
    return 0;
}

void residency_release(struct residency *residency, const uint32_t *units, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert(units[i] < residency->table->n_units);
        if (residency->homes.home[units[i]] == HOME_RING)
            ring_release(residency->ring, units[i]);
        else if (residency->homes.home[units[i]] == HOME_POOL)
            pool_release(residency->pool, units[i]);
    }
}

void *residency_part(const struct residency *residency, uint32_t unit, uint32_t part)
{
    assert(unit < residency->table->n_units && part < residency->table->units[unit].n_parts);
    return residency->parts[residency->table->units[unit].first_part + part];
}

bool residency_wants_weights(const struct residency *residency)
{
    return residency->pool && pool_wants_weights(residency->pool);
}

// The policy of the pool hears nothing of what GPUs have.
void residency_weigh(struct residency *residency, uint32_t unit, float weight)
{
    if (residency_wants_weights(residency) && !residency_copies(residency, unit))
        pool_weigh(residency->pool, unit, weight);
}

static uint32_t count_choice(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens,
                             uint32_t n)
{
    const bool decodes = residency_decodes(residency);
    const uint64_t serial = residency->n_decoded + 1;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t expert = residency->expert_index[units[i]];
        assert(residency->table->units[units[i]].class == UNIT_EXPERT);
        if (residency->options.heat)
            heat_count(residency->options.heat, expert, n_tokens[i]);
        if (decodes) {
            residency->figures.reused += serial > 1 && residency->last_chosen[expert] == serial - 1;
            residency->last_chosen[expert] = serial;
        }
    }
    const uint32_t layer = n ? residency->table->units[units[0]].layer : UNIT_NO_LAYER;
    if (decodes && n)
        residency->layers[layer].choices += n;
    else
        residency->figures.prefill_choices += n;
    return layer;
}

static void count_hits(struct residency *residency, uint32_t layer, uint32_t n)
{
    if (residency_decodes(residency) && n)
        residency->layers[layer].hits += n;
    else
        residency->figures.prefill_hits += n;
}

int residency_choose(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens, uint32_t n,
                     struct lode_error *error)
{
    const uint32_t layer = count_choice(residency, units, n_tokens, n);
    if (residency->n_gpus) {
        gpus_choose(residency, units, n_tokens, n);
        uploads_choose(residency, layer);
        count_hits(residency, layer, n - residency->n_host);
        units = residency->host_units;
        n_tokens = residency->host_tokens;
        n = residency->n_host;
    }
    if (residency->pool)
        return pool_choose(residency->pool, layer, units, n_tokens, n, error);
    count_hits(residency, layer, n);
    residency->chosen = units;
    residency->n_chosen = n;
    return 0;
}

void residency_note_choice(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens,
                           uint32_t n)
{
    const uint32_t layer = count_choice(residency, units, n_tokens, n);
    gpus_choose(residency, units, n_tokens, n);
    assert(residency->n_host == 0);
    count_hits(residency, layer, n);
    for (uint32_t g = 0; g < residency->n_gpus; g++)
        residency->gpus[g].n_chosen = residency->gpus[g].chosen_at = 0;
}

int residency_take(struct residency *residency, uint32_t *out_units, uint32_t *out_n, uint32_t max, bool wait,
                   struct lode_error *error)
{
    if (residency->pool)
        return pool_take(residency->pool, out_units, out_n, max, wait, error);
    *out_n = residency->n_chosen < max ? residency->n_chosen : max;
    if (*out_n == 0)
        return 0;
    memcpy(out_units, residency->chosen, *out_n * sizeof *out_units);
    residency->chosen += *out_n;
    residency->n_chosen -= *out_n;
    return 0;
}

bool residency_has(const struct residency *residency, uint32_t unit)
{
    return residency_copies(residency, unit) || residency_host_has(residency, unit);
}

bool residency_host_has(const struct residency *residency, uint32_t unit)
{
    return !residency->pool || residency->homes.home[unit] != HOME_POOL || pool_has(residency->pool, unit);
}

bool residency_awaits(const struct residency *residency)
{
    return residency->pool && pool_awaits(residency->pool);
}

bool residency_wants_guess(const struct residency *residency, uint32_t layer)
{
    if (!residency->pool || residency->options.no_prefetch)
        return false;
    if (residency_decodes(residency) && !prefetch_gate_open(&residency->gate))
        return false;
    return pool_wants_guess(residency->pool, layer);
}

// Of many tokens those of the lower ranks are read by the vote of others.
uint32_t residency_guess_ranks(const struct residency *residency)
{
    const struct residency_options *options = &residency->options;
    return options->prefetch_ranks && residency_decodes(residency) ? options->prefetch_ranks
                                                                   : options->used_per_layer;
}

void residency_guess(struct residency *residency, const uint32_t *units, uint32_t n, bool certain)
{
    if (residency->pool)
        pool_guess(residency->pool, units, n, certain);
}

bool residency_has_rows(const struct residency *residency, uint32_t unit)
{
    return residency->homes.home[unit] == HOME_ROWS;
}

int residency_fetch_rows(struct residency *residency, uint32_t unit, uint32_t part, uint64_t row_bytes,
                         const int32_t *ids, uint32_t n, void *out, struct lode_error *error)
{
    return rows_fetch(residency->rows, unit, part, row_bytes, ids, n, out, error);
}

// ---- passes and figures
// --------------------------------------------------------------------------------------

uint64_t residency_now_ns(const struct residency *residency)
{
    return io_now_ns(residency->io);
}

void residency_pass_begin(struct residency *residency, uint32_t n_tokens, bool (*keep_going)(void *user),
                          void *user)
{
    residency->keep_going = keep_going;
    residency->user = user;
    residency->pass_tokens = n_tokens;
    residency->pass_start_ns = io_now_ns(residency->io);
    residency->stall = (struct residency_stall){0};
    uploads_begin_pass(residency);
}

void residency_pass_end(struct residency *residency, bool complete)
{
    struct residency_figures *figures = &residency->figures;
    const uint64_t pass_ns = io_now_ns(residency->io) - residency->pass_start_ns;
    residency->keep_going = NULL;
    struct io_counters now;
    io_count(residency->io, &now);
    const uint64_t bytes = now.read_bytes - residency->counted.read_bytes;
    const uint64_t busy_ns = now.busy_ns - residency->counted.busy_ns;
    residency->counted = now;
    if (complete && residency->options.heat)
        heat_pass_end(residency->options.heat, residency->pass_tokens);
    if (residency_decodes(residency)) {
        residency->n_decoded += complete;
        figures->decode_bytes += bytes;
        figures->decode_busy_ns += busy_ns;
        figures->decode_passes++;
        figures->decode_ns += pass_ns;
        figures->decode_stall_ns += residency->stall.total_ns;
        if (complete && residency->pool && !residency->options.no_prefetch)
            prefetch_gate_token(&residency->gate, pass_ns);
    } else {
        figures->prefill_bytes += bytes;
        figures->prefill_stall_ns += residency->stall.total_ns;
    }
    if (complete && residency->pool)
        pool_pass_end(residency->pool, residency->pass_tokens, busy_ns ? (double)bytes / (double)busy_ns : 0);
}

void residency_stalled(struct residency *residency, uint32_t unit, enum residency_wait kind, uint64_t ns)
{
    struct residency_stall *stall = &residency->stall;
    const uint32_t layer = residency->table->units[unit].layer;
    stall->total_ns += ns;
    residency->figures.stall_ns[kind] += ns;
    if (ns > stall->worst_ns) {
        stall->worst_ns = ns;
        stall->worst_unit = unit;
        stall->worst_kind = kind;
    }
    if (residency_decodes(residency) && layer != UNIT_NO_LAYER)
        residency->layers[layer].stall_ns += ns;
}

struct residency_stall residency_last_stall(const struct residency *residency)
{
    return residency->stall;
}

const char *residency_stall_text(const struct residency *residency, const struct residency_stall *stall,
                                 char *buffer, size_t capacity)
{
    static const char *const kinds[] = {
        [WAIT_DEMAND] = "demand read",
        [WAIT_GUESSED] = "prefetch that came late",
        [WAIT_STREAM] = "streamed read",
        [WAIT_ROWS] = "rows",
    };
    if (stall->worst_kind == WAIT_NONE)
        return "";
    char name[64];
    snprintf(buffer, capacity, "%s, %s",
             unit_table_name(residency->table, stall->worst_unit, name, sizeof name),
             kinds[stall->worst_kind]);
    return buffer;
}

void residency_count(const struct residency *residency, struct residency_figures *out)
{
    *out = residency->figures;
    for (uint32_t l = 0; l < residency->n_layers; l++) {
        out->choices += residency->layers[l].choices;
        out->hits += residency->layers[l].hits;
    }
    struct io_counters now;
    io_count(residency->io, &now);
    out->busy_ns = now.busy_ns;
    out->read_bytes = now.read_bytes;
    out->prefetch_on =
        residency->pool && !residency->options.no_prefetch && prefetch_gate_open(&residency->gate);
}

void residency_count_layer(const struct residency *residency, uint32_t layer,
                           struct residency_layer_figures *out)
{
    *out = layer < residency->n_layers ? residency->layers[layer] : (struct residency_layer_figures){0};
}
