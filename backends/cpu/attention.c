// Attention over the KV cache with the softmax taken on the fly, block of keys by block of keys.
//
// The queries that read one KV head (all its query heads, of several rows) are cut into tiles of 32, which
// pass over the keys together. Keys lie in blocks and chunks of fixed positions; each chunk has a softmax of
// its own, and the chunks of a query are joined in order. A tile takes its chunks one after the other when
// there are tiles enough for all threads, else each chunk is an item of work of its own: one KV head at a
// long context keeps all threads busy.
//
// Where blocks and chunks begin follows from a query's own position alone, and what lies outside of its span
// weighs exactly 0: a row has the same bits alone, in any batch, and with any number of threads.
#include "backends/cpu/attention.h"

#include "backends/cpu/parallel.h"
#include "backends/cpu/tasks.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define QUERY_TILE 32
#define ROW_PADDING 16 // floats; rows a power of two apart would fall into the same few cache sets
#define MAX_CHUNKS 64  // that a query's keys fill: work for many cores, and few enough partial results
#define SPAN_CHUNKS (MAX_CHUNKS + 2) // that a tile's keys touch: a window begins and moves within a chunk
#define SLOT_QUERIES 64              // whose partial results are kept at a time, if that is one row at least
#define TILES_PER_THREAD 4           // that even out without chunks as items
#define PARTS_PER_THREAD 8           // of the chunks

struct attention {
    const struct cpu_device *device;
    struct lode_rows out, q;
    const struct lode_kv *kv;
    uint32_t group; // query heads that share a KV head
    uint32_t first_position, window;
    uint32_t queries, tiles; // of one KV head
    uint32_t units;          // tiles of all KV heads
    uint32_t chunk_keys;
    uint32_t chunks; // of each unit with a slot of their own; 0: a unit is an item
    uint32_t parts;  // items of each unit then
    uint32_t chunks_a_part;
    size_t row_bytes, stride; // of the cache, and in floats of the rows in scratch
};

// A tile: queries first .. first + n - 1 of a KV head. Query i is head i % group of row i / group.
struct tile {
    uint32_t kv_head, first, n;
    const float *q; // its rows of head_size floats
    size_t q_stride;
};

// Positions begin .. end - 1.
struct span {
    uint32_t begin, end;
};

// The softmax of each query over some keys.
struct softmax {
    float max[QUERY_TILE];
    double weight[QUERY_TILE]; // sum of exp(score - max)
};

// Sums of values over some keys, a row for each query, and how their scores were weighted.
struct sums {
    float *rows;
    struct softmax softmax;
};

static size_t stride_of(uint32_t head_size)
{
    return (size_t)head_size + ROW_PADDING;
}

static uint64_t slot_rows_of(uint32_t n_heads)
{
    return n_heads < SLOT_QUERIES ? SLOT_QUERIES / n_heads : 1;
}

// Queries, sums of a chunk and sums of all.
size_t cpu_attention_thread_floats(uint32_t head_size)
{
    return 3 * QUERY_TILE * stride_of(head_size);
}

size_t cpu_attention_partial_floats(uint32_t rows, uint32_t n_heads, uint32_t head_size)
{
    if (!n_heads)
        return 0; // a device for products alone
    uint64_t most = slot_rows_of(n_heads);
    return (rows < most ? rows : most) * n_heads * SPAN_CHUNKS * stride_of(head_size);
}

static struct tile tile_of(const struct attention *call, uint32_t unit)
{
    uint32_t first = unit % call->tiles * QUERY_TILE, left = call->queries - first;
    return (struct tile){
        .kv_head = unit / call->tiles, .first = first, .n = left < QUERY_TILE ? left : QUERY_TILE};
}

// The positions that a query sees.
static struct span span_of_query(const struct attention *call, uint32_t query)
{
    uint32_t end = call->first_position + query / call->group + 1;
    uint32_t begin = call->window && end > call->window ? end - call->window : 0;
    return (struct span){begin, end};
}

static struct span span_of_tile(const struct attention *call, struct tile tile)
{
    return (struct span){span_of_query(call, tile.first).begin,
                         span_of_query(call, tile.first + tile.n - 1).end};
}

static struct span overlap(struct span a, struct span b)
{
    return (struct span){a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

// The chunks, or the blocks, of `keys` positions that a span touches.
static struct span cells_of(struct span span, uint32_t keys)
{
    return (struct span){span.begin / keys, (span.end - 1) / keys + 1};
}

// Its end may lie beyond what a position can be.
static struct span span_of_cell(uint32_t cell, uint32_t keys)
{
    uint64_t end = ((uint64_t)cell + 1) * keys;
    return (struct span){cell * keys, end < UINT32_MAX ? (uint32_t)end : UINT32_MAX};
}

static float *row_of_query(const struct attention *call, struct lode_rows rows, struct tile tile, uint32_t i)
{
    uint32_t query = tile.first + i, head = tile.kv_head * call->group + query % call->group;
    return rows.data + query / call->group * rows.stride + (size_t)head * call->kv->head_size;
}

// Heads of one row lie one behind the other; those of several rows are gathered.
static void find_queries(const struct attention *call, struct tile *tile, float *scratch)
{
    uint32_t head_size = call->kv->head_size;
    tile->q = row_of_query(call, call->q, *tile, 0);
    tile->q_stride = head_size;
    if (tile->first / call->group == (tile->first + tile->n - 1) / call->group)
        return;
    for (uint32_t i = 0; i < tile->n; i++)
        memcpy(scratch + i * call->stride, row_of_query(call, call->q, *tile, i), head_size * sizeof(float));
    tile->q = scratch;
    tile->q_stride = call->stride;
}

static const char *cache_row(const struct attention *call, const void *cache, uint32_t kv_head,
                             uint32_t position)
{
    size_t slot = position % call->kv->capacity;
    return (const char *)cache + ((size_t)kv_head * call->kv->capacity + slot) * call->row_bytes;
}

// How many of the positions in a span lie one behind the other in the ring.
static uint32_t run_of(const struct attention *call, struct span span)
{
    uint32_t left = call->kv->capacity - span.begin % call->kv->capacity;
    return left < span.end - span.begin ? left : span.end - span.begin;
}

static uintptr_t ahead_of(const struct attention *call, const void *cache, struct tile tile,
                          uint32_t position)
{
    return (uintptr_t)cache_row(call, cache, tile.kv_head, position);
}

// Scores of a block stand where its positions stand, whatever part of it is seen.
static void score_keys(const struct attention *call, struct tile tile, struct span seen, float *scores)
{
    const struct lode_kv *kv = call->kv;
    uintptr_t ahead = ahead_of(call, kv->v, tile, seen.begin);
    for (uint32_t run; seen.begin < seen.end; seen.begin += run) {
        run = run_of(call, seen);
        call->device->vector->dot_tile[kv->format](scores + seen.begin % CPU_KEY_BLOCK, tile.q, tile.q_stride,
                                                   tile.n, cache_row(call, kv->k, tile.kv_head, seen.begin),
                                                   run, kv->head_size, ahead);
    }
}

// The thread goes on to `end`, so far it is worth asking for keys.
static void sum_values(const struct attention *call, struct tile tile, struct span seen, uint32_t end,
                       const float *p, struct cpu_sums out)
{
    const struct lode_kv *kv = call->kv;
    float *totals = out.totals;
    uintptr_t ahead = seen.end < end ? ahead_of(call, kv->k, tile, seen.end) : 0;
    for (uint32_t run; seen.begin < seen.end; seen.begin += run, out.fresh = false) {
        run = run_of(call, seen);
        out.totals = run == seen.end - seen.begin ? totals : NULL;
        call->device->vector->sum_tile[kv->format](out, p + seen.begin % CPU_KEY_BLOCK, tile.n,
                                                   cache_row(call, kv->v, tile.kv_head, seen.begin), run,
                                                   kv->head_size, ahead);
    }
}

// Turns the scores of a block into weights, and makes the sums so far relative to the new maxima.
static void soften_scores(const struct attention *call, struct tile tile, struct span block, float *scores,
                          struct sums *sums, bool fresh)
{
    const struct cpu_vector_kernels *kernels = call->device->vector;
    for (uint32_t i = 0; i < tile.n; i++, scores += CPU_SCORE_STRIDE) {
        struct span seen = overlap(span_of_query(call, tile.first + i), block);
        if (seen.begin >= seen.end) {
            memset(scores, 0, CPU_KEY_BLOCK * sizeof *scores);
            continue;
        }
        float decay = kernels->soften(scores, seen.begin - block.begin, seen.end - block.begin,
                                      &sums->softmax.max[i], &sums->softmax.weight[i]);
        float *row = sums->rows + i * call->stride;
        if (decay != 1 && !fresh)
            kernels->scale_weighted(row, row, decay, NULL, call->kv->head_size);
    }
}

// How a query's sums over some keys (max, weight) and over the keys behind them (more) are joined. A query
// that sees none of the latter has the weight 0 there.
static void join_softmax(float *max, double *weight, float more_max, double more_weight, float *keep,
                         float *gain)
{
    *keep = 1;
    *gain = 0;
    if (more_weight == 0)
        return;
    float top = more_max > *max ? more_max : *max;
    *keep = expf(*max - top); // 0 if there was nothing
    *gain = expf(more_max - top);
    *max = top;
    *weight = *weight * (double)*keep + more_weight * (double)*gain;
}

static void join_chunk(struct sums *totals, const struct sums *sums, uint32_t n, float *keep, float *gain)
{
    for (uint32_t i = 0; i < n; i++)
        join_softmax(&totals->softmax.max[i], &totals->softmax.weight[i], sums->softmax.max[i],
                     sums->softmax.weight[i], &keep[i], &gain[i]);
}

static void start_sums(struct sums *sums, float *rows, uint32_t n)
{
    sums->rows = rows;
    for (uint32_t i = 0; i < n; i++) {
        sums->softmax.max[i] = -INFINITY;
        sums->softmax.weight[i] = 0;
    }
}

// Sums over the keys of one chunk of those before `end`; with the last block they are joined to the totals,
// if there are any.
static void attend_chunk(const struct attention *call, struct tile tile, struct span chunk, uint32_t end,
                         struct sums *sums, struct sums *totals)
{
    float scores[QUERY_TILE * CPU_SCORE_STRIDE], keep[QUERY_TILE], gain[QUERY_TILE];
    struct span blocks = cells_of(chunk, CPU_KEY_BLOCK);
    for (uint32_t b = blocks.begin; b < blocks.end; b++) {
        struct span block = span_of_cell(b, CPU_KEY_BLOCK), seen = overlap(block, chunk);
        struct cpu_sums out = {.sums = sums->rows, .stride = call->stride, .fresh = b == blocks.begin};
        score_keys(call, tile, seen, scores);
        soften_scores(call, tile, block, scores, sums, out.fresh);
        if (b + 1 == blocks.end && totals) {
            join_chunk(totals, sums, tile.n, keep, gain);
            out.totals = totals->rows;
            out.keep = keep;
            out.gain = gain;
        }
        sum_values(call, tile, seen, end, scores, out);
    }
}

static void finish_tile(const struct attention *call, struct tile tile, const struct sums *totals)
{
    for (uint32_t i = 0; i < tile.n; i++)
        call->device->vector->scale_weighted(
            row_of_query(call, call->out, tile, i), totals->rows + i * call->stride,
            (float)(1 / totals->softmax.weight[i]), NULL, call->kv->head_size);
}

static void attend_tile(const struct attention *call, struct tile tile, float *scratch)
{
    struct span all = span_of_tile(call, tile), chunks = cells_of(all, call->chunk_keys);
    struct sums sums, totals;
    start_sums(&totals, scratch, tile.n);
    for (uint32_t c = chunks.begin; c < chunks.end; c++) {
        struct span chunk = overlap(span_of_cell(c, call->chunk_keys), all);
        start_sums(&sums, scratch + QUERY_TILE * call->stride, tile.n);
        if (c == chunks.begin)
            attend_chunk(call, tile, chunk, all.end, &totals, NULL);
        else
            attend_chunk(call, tile, chunk, all.end, &sums, &totals);
    }
    finish_tile(call, tile, &totals);
}

// Of each query of a KV head there are as many rows as a tile has chunks.
static float *slot_of(const struct attention *call, struct tile tile, uint32_t chunk)
{
    const struct cpu_vector_scratch *scratch = &call->device->vector_scratch;
    float *slots = scratch->memory + scratch->threads * scratch->thread_floats;
    size_t query = (size_t)tile.kv_head * call->queries + tile.first;
    return slots + (query * call->chunks + (size_t)chunk * tile.n) * call->stride;
}

// Behind the sums of a query in its slot.
struct slot_softmax {
    float max;
    double weight;
};

static void keep_softmax(const struct attention *call, struct tile tile, const struct sums *sums)
{
    for (uint32_t i = 0; i < tile.n; i++) {
        struct slot_softmax softmax = {sums->softmax.max[i], sums->softmax.weight[i]};
        memcpy(sums->rows + i * call->stride + call->kv->head_size, &softmax, sizeof softmax);
    }
}

// Chunks `first` and following of those that the tile touches, if it touches so many.
static void attend_part(const struct attention *call, struct tile tile, uint32_t first)
{
    struct span all = span_of_tile(call, tile), chunks = cells_of(all, call->chunk_keys);
    uint32_t n = chunks.end - chunks.begin, behind = first + call->chunks_a_part;
    behind = behind < n ? behind : n;
    for (uint32_t c = first; c < behind; c++) {
        struct sums sums;
        start_sums(&sums, slot_of(call, tile, c), tile.n);
        struct span chunk = overlap(span_of_cell(chunks.begin + c, call->chunk_keys), all);
        struct span last = overlap(span_of_cell(chunks.begin + behind - 1, call->chunk_keys), all);
        attend_chunk(call, tile, chunk, last.end, &sums, NULL);
        keep_softmax(call, tile, &sums);
    }
}

static void attend_item(const struct attention *call, uint32_t item, uint32_t thread)
{
    float *scratch = cpu_thread_scratch(call->device, thread);
    uint32_t unit = item / call->parts, part = item % call->parts;
    struct tile tile = tile_of(call, unit);
    find_queries(call, &tile, scratch);
    if (call->chunks == 0)
        attend_tile(call, tile, scratch + QUERY_TILE * call->stride);
    else
        attend_part(call, tile, part * call->chunks_a_part);
}

// Joins the slots of one query as attend_tile joins its chunks: place place % QUERY_TILE of a unit.
static void merge_unit(const struct attention *call, uint32_t place)
{
    uint32_t head_size = call->kv->head_size, unit = place / QUERY_TILE, i = place % QUERY_TILE;
    struct tile tile = tile_of(call, unit);
    if (i >= tile.n)
        return;
    struct span chunks = cells_of(span_of_tile(call, tile), call->chunk_keys);
    float *out = row_of_query(call, call->out, tile, i), max = -INFINITY;
    double weight = 0;
    memset(out, 0, head_size * sizeof *out);
    for (uint32_t c = 0; c < chunks.end - chunks.begin; c++) {
        const float *part = slot_of(call, tile, c) + i * call->stride;
        struct slot_softmax more;
        float keep, gain;
        memcpy(&more, part + head_size, sizeof more);
        join_softmax(&max, &weight, more.max, more.weight, &keep, &gain);
        call->device->vector->join(out, keep, part, gain, head_size);
    }
    call->device->vector->scale_weighted(out, out, (float)(1 / weight), NULL, head_size);
}

// From the last item to the first: late tiles see more keys, and the long ones should not start last. The
// parts of a tile are alike, and go up with the keys.
static void attend_task(const void *arguments, uint32_t task, uint32_t thread)
{
    const struct attention *call = arguments;
    attend_item(call, call->chunks == 0 ? call->units - 1 - task : task, thread);
}

static void merge_task(const void *arguments, uint32_t task, uint32_t thread)
{
    (void)thread;
    merge_unit(arguments, task);
}

static uint64_t keys_seen(uint32_t position, uint32_t window)
{
    uint64_t keys = (uint64_t)position + 1;
    return window && window < keys ? window : keys;
}

// Of the least size that MAX_CHUNKS of them hold the keys of a query at that position.
static uint32_t chunk_keys_at(uint32_t position, uint32_t window)
{
    uint64_t keys = keys_seen(position, window), chunk = CPU_KEY_BLOCK;
    while (chunk * MAX_CHUNKS < keys)
        chunk *= 2;
    return (uint32_t)chunk;
}

// How many of n rows from a position on have chunks of the same size as the first.
static uint32_t rows_alike(uint32_t n, uint32_t position, uint32_t window)
{
    uint64_t last = (uint64_t)chunk_keys_at(position, window) * MAX_CHUNKS - 1;
    if (position + (uint64_t)n - 1 <= last || (window && window <= last + 1))
        return n;
    return (uint32_t)(last + 1 - position);
}

// The most chunks that a tile touches.
static uint32_t most_chunks(const struct attention *call)
{
    uint32_t most = 1;
    for (uint32_t t = 0; t < call->tiles; t++) {
        struct span chunks = cells_of(span_of_tile(call, tile_of(call, t)), call->chunk_keys);
        most = chunks.end - chunks.begin > most ? chunks.end - chunks.begin : most;
    }
    return most;
}

static void cut_queries(struct attention *call)
{
    call->queries = call->q.n * call->group;
    call->tiles = cpu_ceil_div(call->queries, QUERY_TILE);
    call->units = call->tiles * call->kv->n_heads;
}

// Takes rows that have chunks of one size, and no more of them than the slots hold if chunks become items.
static void cut_call(struct attention *call, uint32_t n_heads)
{
    call->chunk_keys = chunk_keys_at(call->first_position, call->window);
    call->q.n = rows_alike(call->q.n, call->first_position, call->window);
    call->chunks = 0;
    call->parts = 1;
    cut_queries(call);
    uint32_t threads = call->device->threads;
    if (threads == 1 || call->units >= TILES_PER_THREAD * threads)
        return;
    uint64_t most = slot_rows_of(n_heads);
    call->q.n = call->q.n < most ? call->q.n : (uint32_t)most;
    cut_queries(call);
    call->chunks = most_chunks(call);
    call->chunks_a_part = cpu_ceil_div(call->units * call->chunks, PARTS_PER_THREAD * threads);
    call->parts = cpu_ceil_div(call->chunks, call->chunks_a_part);
}

static void attend_rows(const struct attention *call, uint32_t n_heads)
{
    const struct cpu_vector_scratch *scratch = &call->device->vector_scratch;
    assert((size_t)call->q.n * n_heads * call->chunks * call->stride <= scratch->partial_floats);
    uint64_t keys = keys_seen(call->first_position + call->q.n - 1, call->window);
    uint64_t products = (uint64_t)call->q.n * n_heads * keys * call->kv->head_size;
    bool worth_it = products >= 4 * CPU_PARALLEL_MIN_FLOATS;
    cpu_run_tasks(call->device, worth_it, call->units * call->parts, attend_task, call);
    if (call->chunks > 0)
        cpu_run_tasks(call->device, worth_it, call->units * QUERY_TILE, merge_task, call);
}

void cpu_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                   const struct lode_kv *kv, uint32_t first_position, uint32_t window)
{
    assert(kv->head_size <= cpu_device_of(device)->vector_scratch.max_head_size);
    for (uint32_t row = 0; row < q.n;) {
        struct attention call = {
            .device = cpu_device_of(device),
            .out = out,
            .q = q,
            .kv = kv,
            .group = n_heads / kv->n_heads,
            .first_position = first_position + row,
            .window = window,
            .row_bytes = lode_kv_row_bytes(kv->format, kv->head_size),
            .stride = stride_of(kv->head_size),
        };
        call.q.data += row * q.stride;
        call.q.n -= row;
        call.out.data += row * out.stride;
        cut_call(&call, n_heads);
        attend_rows(&call, n_heads);
        row += call.q.n;
    }
}
