// Choosing homes; see homes.h.
#include "placement/homes.h"
#include "base/bytes_text.h"
#include "base/checked.h"
#include "placement/layout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// A cache of rows: the 1,000 rows last used of the widest published table (E4B, 6 KB a row at Q4_0).
#define ROWS_BYTES ((uint64_t)6 << 20)

// With fewer slots than this a pass still works, in waves, but hardly anything is ever found in memory.
#define POOL_LEAST_SLOTS 16

struct sums {
    uint64_t fixed_bytes;
    uint64_t streams_bytes;  // dense
    uint64_t largest_stream; // of those, with its slot
    uint64_t largest_part;
    uint64_t experts_bytes, largest_expert;
    uint64_t rows_bytes;
    bool countable;
};

static bool on_gpu(const struct homes_request *request, const struct unit_table *table, uint32_t unit)
{
    const enum unit_class class = table->units[unit].class;
    if (request->gpu_has_copies && (class == UNIT_EXPERT || class == UNIT_ROWS))
        return false;
    return request->gpu && request->gpu[unit];
}

static struct sums sum_up(const struct unit_table *table, const struct homes_request *request)
{
    struct sums s = {.countable = true};
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const uint64_t bytes = layout_unit_bytes(table, u, request->host_memory);
        if (on_gpu(request, table, u))
            continue;
        uint64_t *sum = &s.fixed_bytes;
        if (unit->class == UNIT_ROWS) {
            s.rows_bytes = ROWS_BYTES;
            continue;
        }
        if (unit->class == UNIT_EXPERT) {
            sum = &s.experts_bytes;
            s.largest_expert = bytes > s.largest_expert ? bytes : s.largest_expert;
        } else if (unit->class == UNIT_DENSE) {
            sum = &s.streams_bytes;
            s.largest_stream = bytes > s.largest_stream ? bytes : s.largest_stream;
            for (uint32_t i = 0; i < unit->n_parts; i++) {
                uint64_t part = table->parts[unit->first_part + i].bytes;
                s.largest_part = part > s.largest_part ? part : s.largest_part;
            }
        }
        s.countable = s.countable && checked_add(sum, *sum, bytes);
    }
    s.countable = s.countable && s.fixed_bytes < UINT64_MAX / 8 && s.streams_bytes < UINT64_MAX / 8 &&
                  s.experts_bytes < UINT64_MAX / 8;
    return s;
}

// The unit that is computed with, and two parts on their way: while the first is being read the second has
// already been asked for.
static uint64_t ring_bytes(const struct sums *s)
{
    uint64_t part = s->largest_part / 4096 * 4096 + 2 * 4096;
    return s->largest_stream + 2 * part;
}

static uint64_t pool_least_bytes(const struct sums *s)
{
    if (s->largest_expert > s->experts_bytes / POOL_LEAST_SLOTS)
        return s->experts_bytes;
    return POOL_LEAST_SLOTS * s->largest_expert;
}

static uint64_t floor_bytes(const struct sums *s)
{
    uint64_t ring = ring_bytes(s);
    return s->fixed_bytes + s->rows_bytes + pool_least_bytes(s) +
           (ring < s->streams_bytes ? ring : s->streams_bytes);
}

struct homes_bounds homes_bounds(const struct unit_table *table, const struct homes_request *request)
{
    const struct sums s = sum_up(table, request);
    if (!s.countable)
        return (struct homes_bounds){UINT64_MAX, UINT64_MAX};
    return (struct homes_bounds){floor_bytes(&s),
                                 s.fixed_bytes + s.streams_bytes + s.experts_bytes + s.rows_bytes};
}

uint64_t homes_floor_bytes(const struct unit_table *table, bool host_memory)
{
    return homes_bounds(table, &(struct homes_request){.host_memory = host_memory}).floor_bytes;
}

uint64_t homes_full_bytes(const struct unit_table *table, bool host_memory)
{
    return homes_bounds(table, &(struct homes_request){.host_memory = host_memory}).full_bytes;
}

// Pins units worth at most pinned_bytes, evenly over the layers: each unit brings its bytes' share of what
// can be pinned, and is pinned when enough has come together. What is left over goes to units that still fit.
static void spread(struct homes *out, const struct unit_table *table, const struct sums *s,
                   uint64_t pinned_bytes, bool host_memory)
{
    const double share = (double)pinned_bytes / (double)s->streams_bytes;
    double saved = 0;
    uint64_t left = pinned_bytes;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t u = 0; u < table->n_units; u++) {
            if (out->home[u] != HOME_RING)
                continue;
            const uint64_t bytes = layout_unit_bytes(table, u, host_memory);
            saved += share * (double)bytes;
            if (bytes > left || (pass == 0 && saved < (double)bytes))
                continue;
            saved -= (double)bytes;
            left -= bytes;
            out->home[u] = HOME_PINNED;
            out->pinned_bytes += bytes;
            out->streamed_bytes -= bytes;
        }
    }
}

static void assign(struct homes *out, const struct unit_table *table, const struct homes_request *request,
                   bool pin_experts, bool pin_dense)
{
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const uint64_t bytes = layout_unit_bytes(table, u, request->host_memory);
        unsigned home = HOME_PINNED;
        if (on_gpu(request, table, u)) {
            const unsigned g = request->gpu[u] - 1u;
            home = HOME_GPU + g;
            out->gpu_bytes[g] += layout_unit_bytes(table, u, false); // as a GPU has it, whatever the host
        } else if (unit->class == UNIT_ROWS)
            home = HOME_ROWS;
        else if (unit->class == UNIT_EXPERT)
            home = pin_experts ? HOME_PINNED : HOME_POOL;
        else if (unit->class == UNIT_DENSE && !pin_dense)
            home = HOME_RING;
        out->home[u] = (uint8_t)home;
        out->pinned_bytes += home == HOME_PINNED ? bytes : 0;
        out->streamed_bytes += home == HOME_RING ? bytes : 0;
    }
}

// A ring beyond the least, as far as there is room and something to fill it with.
static uint64_t wished_ring_bytes(const struct sums *s, const struct homes_request *request,
                                  uint64_t room_bytes)
{
    const uint64_t least = ring_bytes(s), most = s->streams_bytes > least ? s->streams_bytes : least;
    uint64_t wished = request->ring_bytes > least ? request->ring_bytes : least;
    wished = wished > room_bytes ? room_bytes : wished;
    wished = wished > most ? most : wished;
    return wished > least ? wished : least;
}

int homes_divide(struct homes *out, const struct unit_table *table, const struct homes_request *request,
                 struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    const uint64_t budget_bytes = request->budget_bytes;
    const struct sums s = sum_up(table, request);
    if (!s.countable)
        return lode_fail(error, LODE_ERR_MEMORY, "the sizes of the %u units are larger than any memory",
                         table->n_units);
    if (budget_bytes < floor_bytes(&s))
        return lode_fail(error, LODE_ERR_MEMORY, "the weights need at least %s of memory, but have %s",
                         bytes_text(floor_bytes(&s)).text, bytes_text(budget_bytes).text);
    out->home = calloc(table->n_units + 1, 1);
    if (!out->home)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the homes of %u units", table->n_units);
    out->rows_bytes = s.rows_bytes;
    const uint64_t left = budget_bytes - s.fixed_bytes - s.rows_bytes; // for streams and experts
    const bool pin_experts = s.streams_bytes + s.experts_bytes <= left;
    const bool pin_dense = s.streams_bytes + pool_least_bytes(&s) <= left;
    assign(out, table, request, pin_experts, pin_dense);
    if (!pin_dense) {
        const uint64_t for_streams = left - pool_least_bytes(&s);
        out->ring_bytes = wished_ring_bytes(&s, request, for_streams);
        if (for_streams > out->ring_bytes)
            spread(out, table, &s, for_streams - out->ring_bytes, request->host_memory);
    }
    if (!pin_experts && s.experts_bytes)
        out->pool_bytes = budget_bytes - out->pinned_bytes - out->ring_bytes - out->rows_bytes;
    return 0;
}

int homes_solve(struct homes *out, const struct unit_table *table, uint64_t budget_bytes, bool host_memory,
                struct lode_error *error)
{
    const struct homes_request request = {.budget_bytes = budget_bytes, .host_memory = host_memory};
    return homes_divide(out, table, &request, error);
}

void homes_free(struct homes *homes)
{
    free(homes->home);
    memset(homes, 0, sizeof *homes);
}
