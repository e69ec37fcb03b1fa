// Attention over the KV cache with the softmax taken on the fly, block of keys by block of keys.
//
// The queries that read one KV head (all its query heads, of several rows) are cut into tiles of 32; a tile
// converts each block of 32 keys and values to floats once for all its queries. When a call has few tiles, as
// a decode step has, the keys of each are cut into chunks, whose partial results are merged in order: one KV
// head at a long context keeps all threads busy. All cuts follow from the shapes of the call alone, so the
// bits do not depend on the number of threads.
#include "backends/cpu/attention.h"

#include "backends/cpu/parallel.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define QUERY_TILE 32
#define KEY_BLOCK 32
#define ROW_PADDING 16  // floats; rows a power of two apart would fall into the same few cache sets
#define WANTED_ITEMS 64 // tiles times chunks: work for many cores, and few enough partial results
#define LEAST_CHUNK_KEYS                                                                                     \
    64 // some 5 us for 8 queries of 256 values; smaller ones would not pay for their merge

struct attention {
    const struct cpu_device *device;
    struct lode_rows out, q;
    const struct lode_kv *kv;
    uint32_t group; // query heads that share a KV head
    uint32_t first_position, window;
    uint32_t queries, tiles; // of one KV head
    uint32_t units, chunks;  // tiles of all KV heads, and into how many chunks of keys each is cut
    uint32_t chunk_keys;
    size_t row_bytes, stride; // of the cache, and in floats of the rows in scratch
    size_t partial_floats;    // of one unit's chunk
};

// A tile: queries first .. first + n - 1 of a KV head. Query i is head i % group of row i / group.
struct tile {
    uint32_t kv_head, first, n;
};

// Positions begin .. end - 1.
struct span {
    uint32_t begin, end;
};

// The working memory of a thread, and the state of the softmax of each query.
struct work {
    float *q, *sums, *block; // QUERY_TILE, QUERY_TILE and KEY_BLOCK rows
    float scores[QUERY_TILE * KEY_BLOCK];
    float max[QUERY_TILE], decay[QUERY_TILE];
    double weight[QUERY_TILE]; // sum of exp(score - max)
};

static size_t stride_of(uint32_t head_size)
{
    return (size_t)head_size + ROW_PADDING;
}

static size_t partial_floats_of(uint64_t queries, uint32_t head_size)
{
    return (size_t)(queries < QUERY_TILE ? queries : QUERY_TILE) * ((size_t)head_size + 2);
}

size_t cpu_attention_thread_floats(uint32_t head_size)
{
    return (2 * QUERY_TILE + KEY_BLOCK) * stride_of(head_size);
}

// Calls with chunks have fewer than WANTED_ITEMS units, rounded up to less than twice as many items.
size_t cpu_attention_partial_floats(uint32_t rows, uint32_t n_heads, uint32_t head_size)
{
    return 2 * WANTED_ITEMS * partial_floats_of((uint64_t)rows * n_heads, head_size);
}

static struct tile tile_of(const struct attention *call, uint32_t unit)
{
    uint32_t first = unit % call->tiles * QUERY_TILE, left = call->queries - first;
    return (struct tile){unit / call->tiles, first, left < QUERY_TILE ? left : QUERY_TILE};
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

static struct span span_of_chunk(const struct attention *call, struct tile tile, uint32_t chunk)
{
    struct span all = span_of_tile(call, tile);
    uint64_t begin = all.begin + (uint64_t)chunk * call->chunk_keys, end = begin + call->chunk_keys;
    return (struct span){begin < all.end ? (uint32_t)begin : all.end,
                         end < all.end ? (uint32_t)end : all.end};
}

static float *row_of_query(const struct attention *call, struct lode_rows rows, struct tile tile, uint32_t i)
{
    uint32_t query = tile.first + i, head = tile.kv_head * call->group + query % call->group;
    return rows.data + query / call->group * rows.stride + (size_t)head * call->kv->head_size;
}

// Rows of the ring at positions first .. first + n - 1, as floats.
static void load_block(const struct attention *call, float *out, const void *cache, uint32_t kv_head,
                       uint32_t first, uint32_t n)
{
    const struct lode_kv *kv = call->kv;
    while (n > 0) {
        uint32_t slot = first % kv->capacity, run = kv->capacity - slot < n ? kv->capacity - slot : n;
        const char *rows = (const char *)cache + ((size_t)kv_head * kv->capacity + slot) * call->row_bytes;
        call->device->vector->kv_unpack[kv->format](out, call->stride, rows, run, kv->head_size);
        out += run * call->stride;
        first += run;
        n -= run;
    }
}

// Turns the scores of a block into weights relative to the new maximum; those that the query does not see
// become 0.
static void soften_scores(const struct attention *call, struct work *work, struct tile tile, uint32_t i,
                          struct span block)
{
    const struct cpu_vector_kernels *kernels = call->device->vector;
    struct span seen = span_of_query(call, tile.first + i);
    uint32_t begin = seen.begin > block.begin ? seen.begin : block.begin;
    uint32_t end = seen.end < block.end ? seen.end : block.end;
    float *scores = work->scores + i * KEY_BLOCK;
    work->decay[i] = 1;
    if (begin >= end) {
        memset(scores, 0, (block.end - block.begin) * sizeof *scores);
        return;
    }

    float *from = scores + (begin - block.begin), *to = scores + (end - block.begin);
    float max = kernels->max(from, end - begin);
    if (max > work->max[i]) {
        work->decay[i] = expf(work->max[i] - max); // 0 at the first block
        work->max[i] = max;
    }
    double sum = kernels->exp_sum(from, from, work->max[i], end - begin);
    work->weight[i] = work->weight[i] * (double)work->decay[i] + sum;
    memset(scores, 0, (begin - block.begin) * sizeof *scores);
    memset(to, 0, (block.end - end) * sizeof *scores);
}

static void start_tile(const struct attention *call, struct work *work, struct tile tile)
{
    uint32_t head_size = call->kv->head_size;
    for (uint32_t i = 0; i < tile.n; i++) {
        memcpy(work->q + i * call->stride, row_of_query(call, call->q, tile, i), head_size * sizeof(float));
        memset(work->sums + i * call->stride, 0, head_size * sizeof(float));
        work->max[i] = -INFINITY;
        work->weight[i] = 0;
    }
}

static void attend_chunk(const struct attention *call, struct work *work, struct tile tile, struct span chunk)
{
    const struct cpu_vector_kernels *kernels = call->device->vector;
    const struct lode_kv *kv = call->kv;
    for (uint32_t begin = chunk.begin; begin < chunk.end; begin += KEY_BLOCK) {
        uint32_t n = chunk.end - begin < KEY_BLOCK ? chunk.end - begin : KEY_BLOCK;
        load_block(call, work->block, kv->k, tile.kv_head, begin, n);
        uint32_t whole = (n + 3) / 4 * 4; // what lies behind the block is scored, and not looked at
        kernels->dot_tile(work->scores, KEY_BLOCK, work->q, call->stride, tile.n, work->block, call->stride,
                          whole, kv->head_size);
        for (uint32_t i = 0; i < tile.n; i++)
            soften_scores(call, work, tile, i, (struct span){begin, begin + n});
        load_block(call, work->block, kv->v, tile.kv_head, begin, n);
        kernels->sum_tile(work->sums, call->stride, work->decay, work->scores, KEY_BLOCK, tile.n, work->block,
                          call->stride, n, kv->head_size);
    }
}

static float *partial_of(const struct attention *call, uint32_t unit, uint32_t chunk)
{
    const struct cpu_vector_scratch *scratch = &call->device->vector_scratch;
    float *partials = scratch->memory + scratch->threads * scratch->thread_floats;
    return partials + ((size_t)unit * call->chunks + chunk) * call->partial_floats;
}

// A partial result: rows of sums, then the maxima, then the weights.
static void keep_partial(const struct attention *call, const struct work *work, struct tile tile,
                         float *partial)
{
    uint32_t head_size = call->kv->head_size;
    float *max = partial + (size_t)tile.n * head_size, *weight = max + tile.n;
    for (uint32_t i = 0; i < tile.n; i++) {
        memcpy(partial + (size_t)i * head_size, work->sums + i * call->stride, head_size * sizeof(float));
        max[i] = work->max[i];
        weight[i] = (float)work->weight[i];
    }
}

static void finish_tile(const struct attention *call, const struct work *work, struct tile tile)
{
    for (uint32_t i = 0; i < tile.n; i++)
        call->device->vector->scale_weighted(row_of_query(call, call->out, tile, i),
                                             work->sums + i * call->stride, (float)(1 / work->weight[i]),
                                             NULL, call->kv->head_size);
}

static void attend_item(const struct attention *call, uint32_t item, uint32_t thread)
{
    struct work work;
    work.q = cpu_thread_scratch(call->device, thread);
    work.sums = work.q + QUERY_TILE * call->stride;
    work.block = work.sums + QUERY_TILE * call->stride;

    uint32_t unit = item / call->chunks, chunk = item % call->chunks;
    struct tile tile = tile_of(call, unit);
    start_tile(call, &work, tile);
    attend_chunk(call, &work, tile, span_of_chunk(call, tile, chunk));
    if (call->chunks == 1)
        finish_tile(call, &work, tile);
    else
        keep_partial(call, &work, tile, partial_of(call, unit, chunk));
}

// Joins the chunks of one query, in order. An empty chunk has a maximum of -infinity and sums of zero.
static void merge_query(const struct attention *call, uint32_t unit, struct tile tile, uint32_t i)
{
    uint32_t head_size = call->kv->head_size;
    const float *partial = partial_of(call, unit, 0), *maxima = partial + (size_t)tile.n * head_size + i;
    float max = -INFINITY;
    for (uint32_t c = 0; c < call->chunks; c++)
        max = maxima[c * call->partial_floats] > max ? maxima[c * call->partial_floats] : max;

    float factors[WANTED_ITEMS];
    double total = 0;
    for (uint32_t c = 0; c < call->chunks; c++) {
        const float *chunk_max = maxima + c * call->partial_floats;
        factors[c] = expf(*chunk_max - max);
        total += (double)factors[c] * (double)chunk_max[tile.n];
    }
    for (uint32_t c = 0; c < call->chunks; c++)
        factors[c] = (float)((double)factors[c] / total);
    call->device->vector->weighted_sum(row_of_query(call, call->out, tile, i),
                                       partial + (size_t)i * head_size, call->partial_floats, factors,
                                       call->chunks, head_size);
}

static void merge_unit(const struct attention *call, uint32_t unit)
{
    struct tile tile = tile_of(call, unit);
    for (uint32_t i = 0; i < tile.n; i++)
        merge_query(call, unit, tile, i);
}

// Chunks are whole blocks, so many that there are about WANTED_ITEMS items.
static void cut_keys(struct attention *call)
{
    uint64_t keys = (uint64_t)call->first_position + call->q.n;
    uint64_t in_window = (uint64_t)call->window + QUERY_TILE / call->group + 1; // of a tile's rows together
    if (call->window && in_window < keys)
        keys = in_window;
    uint32_t wanted = call->units < WANTED_ITEMS ? (WANTED_ITEMS + call->units - 1) / call->units : 1;
    uint64_t chunk_keys = (keys + wanted - 1) / wanted;
    chunk_keys = (chunk_keys + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
    if (chunk_keys < LEAST_CHUNK_KEYS)
        chunk_keys = LEAST_CHUNK_KEYS;
    call->chunk_keys = (uint32_t)chunk_keys;
    call->chunks = (uint32_t)((keys + chunk_keys - 1) / chunk_keys);
}

// From the last item to the first: late tiles see more keys, and the long ones should not start last.
static void attend_task(const void *arguments, uint32_t task, uint32_t thread)
{
    const struct attention *call = arguments;
    attend_item(call, call->units * call->chunks - 1 - task, thread);
}

static void merge_task(const void *arguments, uint32_t task, uint32_t thread)
{
    (void)thread;
    merge_unit(arguments, task);
}

void cpu_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                   const struct lode_kv *kv, uint32_t first_position, uint32_t window)
{
    if (q.n == 0)
        return;
    struct attention call = {
        .device = cpu_device_of(device),
        .out = out,
        .q = q,
        .kv = kv,
        .group = n_heads / kv->n_heads,
        .first_position = first_position,
        .window = window,
        .row_bytes = lode_kv_row_bytes(kv->format, kv->head_size),
        .stride = stride_of(kv->head_size),
    };
    call.queries = q.n * call.group;
    call.tiles = (call.queries + QUERY_TILE - 1) / QUERY_TILE;
    call.units = call.tiles * kv->n_heads;
    call.partial_floats = partial_floats_of(call.queries, kv->head_size);
    cut_keys(&call);

    assert(kv->head_size <= call.device->vector_scratch.max_head_size);
    assert(call.chunks == 1 ||
           call.units * call.chunks * call.partial_floats <= call.device->vector_scratch.partial_floats);

    uint64_t products = (uint64_t)q.n * n_heads * (call.chunk_keys * call.chunks) * kv->head_size;
    const bool worth_it = products >= 4 * CPU_PARALLEL_MIN_FLOATS;
    cpu_run_tasks(call.device, worth_it, call.units * call.chunks, attend_task, &call);
    if (call.chunks > 1)
        cpu_run_tasks(call.device, worth_it, call.units, merge_task, &call);
}
