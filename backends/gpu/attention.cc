// Attention over the KV cache: how calls are cut into blocks of the kernel in attention_tile.h, and how parts
// are put together.
//
// Few queries (a token of decode): the bound is the bytes of K and V over the memory's bandwidth. Each is
// read once, for all query heads of its KV head, and the keys are cut into parts so that all multiprocessors
// read; a second kernel adds the parts up in their order. Many queries (prefill): the bound is the
// multiplications, 4 * head_size for a query and a key; a tile of queries shares the keys it loads, and
// reaches from the first key that its first query sees to the last of its last, so that windows skip the
// rest. Parts are made there, too, when there are fewer tiles than multiprocessors.
//
// Queries and sums are 32-bit floats: a tile is as large as 32 KiB of queries.
#include "backends/gpu/attention_tile.h"
#include "backends/gpu/kernels.h"

#define FEW_QUERIES 8 // of a KV head: one tile of the kernel's small variant
#define FEW_GROUPS 4
#define MANY_GROUPS 8
#define MANY_FLOATS 8192 // in shared memory

// Blocks that keep a multiprocessor busy.
#define FEW_BLOCKS 4
#define MANY_BLOCKS 2

#define MAX_PARTS 256  // of a tile
#define MAX_SLOTS 4096 // parts of all queries: 8 MiB of scratch with heads of 512

#define MERGE_COLUMNS 64 // of a block
#define MERGE_SLICES 4   // of the parts, each added up by threads of its own
#define MERGE_THREADS (MERGE_COLUMNS * MERGE_SLICES)

namespace
{

// Block x is of query x % queries of KV head x / queries, block y of MERGE_COLUMNS columns.
GPU_KERNEL void GPU_BLOCK(MERGE_THREADS)
    merge(float *out, const float *sums, const float *softmax, attention_shape shape)
{
    GPU_SHARED(float, gains, MAX_PARTS);
    GPU_SHARED(float, tops, MERGE_THREADS / GPU_LANES);
    GPU_SHARED(float, totals, MERGE_THREADS / GPU_LANES);
    GPU_SHARED(float, slices, MERGE_THREADS);
    const uint32_t lane = threadIdx.x % GPU_LANES, group = threadIdx.x / GPU_LANES;
    const size_t slot = static_cast<size_t>(blockIdx.x) * shape.parts;

    // A thread has at most one part.
    static_assert(MAX_PARTS <= MERGE_THREADS, "parts");
    const bool has_part = threadIdx.x < shape.parts;
    const float largest = has_part ? softmax[2 * (slot + threadIdx.x)] : -INFINITY;
    const float weight = has_part ? softmax[2 * (slot + threadIdx.x) + 1] : 0.0f;
    float top = gpu_lanes_max(largest);
    if (lane == 0)
        tops[group] = top;
    __syncthreads();
    top = gpu_lanes_max(tops[lane % (MERGE_THREADS / GPU_LANES)]);
    const float gain = has_part ? gpu_exp(largest - (top == -INFINITY ? 0.0f : top)) : 0.0f;
    if (has_part)
        gains[threadIdx.x] = gain;
    float total = gpu_lanes_sum(weight * gain);
    if (lane == 0)
        totals[group] = total;
    __syncthreads();
    total = gpu_lanes_sum(lane < MERGE_THREADS / GPU_LANES ? totals[lane] : 0.0f);

    const uint32_t column = blockIdx.y * MERGE_COLUMNS + threadIdx.x % MERGE_COLUMNS;
    const uint32_t slice = threadIdx.x / MERGE_COLUMNS;
    const uint32_t slice_parts = (shape.parts + MERGE_SLICES - 1) / MERGE_SLICES;
    const uint32_t first = slice * slice_parts;
    const uint32_t behind = first + slice_parts < shape.parts ? first + slice_parts : shape.parts;
    float sum = 0;
    if (column < shape.head_size) {
#pragma unroll 8
        for (uint32_t part = first; part < behind; part++)
            sum += gains[part] * sums[(slot + part) * shape.head_size + column];
    }
    slices[threadIdx.x] = sum;
    __syncthreads();
    if (slice == 0 && column < shape.head_size) {
        for (uint32_t s = 1; s < MERGE_SLICES; s++)
            sum += slices[s * MERGE_COLUMNS + threadIdx.x];
        const uint32_t kv_head = blockIdx.x / shape.queries, query = blockIdx.x % shape.queries;
        out[attention_place(shape, shape.out_stride, kv_head, query) + column] = sum / total;
    }
}

uint32_t ceil_div(uint64_t a, uint64_t b)
{
    return static_cast<uint32_t>((a + b - 1) / b);
}

// What a call is made of.
struct attention_call {
    const struct gpu_queue *queue;
    float *out;
    const float *q;
    const struct lode_kv *kv;
    float *sums, *softmax; // NULL without parts
    uint32_t tile_queries, tiles;
    attention_shape shape;
};

template <enum lode_kv_format FORMAT> void launch(const attention_call &call)
{
    const dim3 grid(call.tiles * call.shape.parts, call.kv->n_heads);
    const void *k = call.kv->k, *v = call.kv->v;
    const gpu_stream stream = call.queue->stream;
    if (call.shape.head_size <= 256 && call.tile_queries == FEW_QUERIES)
        GPU_LAUNCH((attend<FORMAT, 256, FEW_QUERIES, FEW_GROUPS>), grid, FEW_GROUPS * GPU_LANES, stream,
                   call.out, call.sums, call.softmax, call.q, k, v, call.shape);
    else if (call.shape.head_size <= 256)
        GPU_LAUNCH((attend<FORMAT, 256, MANY_FLOATS / 256, MANY_GROUPS>), grid, MANY_GROUPS * GPU_LANES,
                   stream, call.out, call.sums, call.softmax, call.q, k, v, call.shape);
    else if (call.tile_queries == FEW_QUERIES)
        GPU_LAUNCH((attend<FORMAT, 512, FEW_QUERIES, FEW_GROUPS>), grid, FEW_GROUPS * GPU_LANES, stream,
                   call.out, call.sums, call.softmax, call.q, k, v, call.shape);
    else
        GPU_LAUNCH((attend<FORMAT, 512, MANY_FLOATS / 512, MANY_GROUPS>), grid, MANY_GROUPS * GPU_LANES,
                   stream, call.out, call.sums, call.softmax, call.q, k, v, call.shape);
}

// The most keys that a tile of a call with n rows reads.
uint32_t most_keys(const attention_shape &shape, uint32_t n, uint32_t tile_queries)
{
    const uint32_t end = shape.first_position + n;
    const uint32_t touched = (tile_queries + shape.group - 2) / shape.group + 1; // rows of a tile
    const uint64_t seen = static_cast<uint64_t>(shape.window) + (touched < n ? touched : n) - 1;
    return shape.window && seen < end ? static_cast<uint32_t>(seen) : end;
}

// Parts in sight of all multiprocessors, of one step of the kernel at least, and as many as have slots.
void cut_keys(attention_call *call, uint32_t n)
{
    attention_shape *shape = &call->shape;
    const bool few = call->tile_queries == FEW_QUERIES;
    const uint32_t blocks = call->tiles * call->kv->n_heads;
    const uint32_t wanted = ceil_div(
        static_cast<uint64_t>(call->queue->multiprocessors) * (few ? FEW_BLOCKS : MANY_BLOCKS), blocks);
    const uint32_t slots = MAX_SLOTS / (shape->queries * call->kv->n_heads);
    const uint32_t keys = most_keys(*shape, n, call->tile_queries);
    const uint32_t steps = ceil_div(keys, ATTENTION_KEYS);
    uint32_t parts = wanted < MAX_PARTS ? wanted : MAX_PARTS;
    parts = parts < slots ? parts : slots;
    parts = parts < steps ? parts : steps;
    parts = parts > 0 ? parts : 1;
    shape->part_keys = ceil_div(steps, parts) * ATTENTION_KEYS;
    shape->parts = ceil_div(keys, shape->part_keys);
}

} // namespace

size_t gpu_attention_scratch_bytes(uint32_t rows, uint32_t n_heads, uint32_t head_size)
{
    const uint64_t most = static_cast<uint64_t>(rows) * n_heads * MAX_PARTS;
    const uint64_t slots = most < MAX_SLOTS ? most : MAX_SLOTS;
    return static_cast<size_t>(slots * (head_size + 2ull) * sizeof(float));
}

void gpu_attention(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                   const struct lode_kv *kv, uint32_t first_position, uint32_t window, void *scratch)
{
    if (q.n == 0)
        return;
    const uint32_t group = n_heads / kv->n_heads, queries = q.n * group;
    attention_call call = {};
    call.queue = queue;
    call.out = out.data;
    call.q = q.data;
    call.kv = kv;
    call.tile_queries = queries <= FEW_QUERIES ? FEW_QUERIES
                        : kv->head_size <= 256 ? MANY_FLOATS / 256
                                               : MANY_FLOATS / 512;
    call.tiles = ceil_div(queries, call.tile_queries);
    call.shape = {out.stride, q.stride, group, kv->head_size, kv->capacity, first_position, window,
                  queries,    1,        0};
    cut_keys(&call, q.n);
    if (call.shape.parts > 1) {
        call.sums = static_cast<float *>(scratch);
        call.softmax = call.sums + static_cast<size_t>(q.n) * n_heads * call.shape.parts * kv->head_size;
    }
    switch (kv->format) {
    case LODE_CACHE_F16:
        launch<LODE_CACHE_F16>(call);
        break;
    case LODE_CACHE_Q8_0:
        launch<LODE_CACHE_Q8_0>(call);
        break;
    case LODE_CACHE_F32:
        launch<LODE_CACHE_F32>(call);
        break;
    }
    if (call.shape.parts > 1) {
        const dim3 grid(q.n * n_heads, ceil_div(kv->head_size, MERGE_COLUMNS));
        const float *sums = call.sums, *softmax = call.softmax;
        GPU_LAUNCH(merge, grid, MERGE_THREADS, queue->stream, call.out, sums, softmax, call.shape);
    }
}
