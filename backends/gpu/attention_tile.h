// The kernel of attention: a block of threads has a tile of queries that read one KV head and passes over its
// keys, 32 at a time, with the softmax taken on the fly. See attention.cc for the sizes of tiles and how
// calls are cut into blocks.
//
// Of each 32 keys: the groups of lanes share the keys and make scores, a lane having 8 values of a key (of
// each 256), so that K is read in whole lines and only once; the groups share the queries and turn scores
// into weights; the threads share the values' columns and add up V, read in whole lines and once, too.
#ifndef LODE_GPU_ATTENTION_TILE_H
#define LODE_GPU_ATTENTION_TILE_H

#include "backends/gpu/gpu_math.h"
#include "backends/gpu/kv_cache.h"

// How many blocks a multiprocessor shall hold. Without being told nvcc takes 160 to 200 registers a thread,
// and a block waits for memory alone; with 128 some sums are spilled once in 32 keys.
#define ATTENTION_BLOCKS(groups, dims) ((groups) == 8 ? 2 : (dims) > 256 ? 3 : 4)

#define ATTENTION_KEYS 32 // that a block takes at a time, a lane each in the softmax

struct attention_shape {
    size_t out_stride, q_stride;
    uint32_t group; // query heads that share a KV head
    uint32_t head_size, capacity, first_position, window;
    uint32_t queries;          // of one KV head: query i is head i % group of row i / group
    uint32_t parts, part_keys; // that the keys of a tile are cut into
};

// Positions begin .. end - 1.
struct attention_span {
    uint32_t begin, end;
};

// The positions that a query sees which sees none from `end` on.
GPU_FN attention_span attention_span_to(const attention_shape &shape, uint32_t end)
{
    return {shape.window && end > shape.window ? end - shape.window : 0, end};
}

// The positions that a query sees.
GPU_FN attention_span attention_span_of(const attention_shape &shape, uint32_t query)
{
    return attention_span_to(shape, shape.first_position + query / shape.group + 1);
}

// Keys whose scores for 8 queries a group makes at a time: one score a lane, but for keys of 2 KiB, of which
// a lane has registers for two.
template <enum lode_kv_format FORMAT, uint32_t DIMS> GPU_FN constexpr uint32_t attention_group_keys()
{
    return FORMAT == LODE_CACHE_F32 && DIMS > 256 ? 2 : 4;
}

// Where the values of a query lie in rows of q and out.
GPU_FN size_t attention_place(const attention_shape &shape, size_t stride, uint32_t kv_head, uint32_t query)
{
    const uint32_t head = kv_head * shape.group + query % shape.group;
    return query / shape.group * stride + static_cast<size_t>(head) * shape.head_size;
}

struct alignas(16) attention_words {
    uint32_t words[4];
};
struct alignas(16) attention_floats {
    float values[4];
};

// Eight values of a row of the cache as they are loaded, from a place that is a multiple of 8, and unpacked
// four at a time, which takes fewer registers. Rows of F16 and F32 begin at multiples of 16 bytes, as K and V
// do.
template <enum lode_kv_format FORMAT> struct attention_eight;

template <> struct attention_eight<LODE_CACHE_F16> {
    attention_words halves;

    GPU_FN void load(const char *row, uint32_t at)
    {
        halves = *reinterpret_cast<const attention_words *>(row + at * sizeof(uint16_t));
    }
    GPU_FN void unpack(float *out, uint32_t half) const
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t word = halves.words[half * 2 + i];
            out[2 * i] = gpu_half_to_float(static_cast<uint16_t>(word));
            out[2 * i + 1] = gpu_half_to_float(static_cast<uint16_t>(word >> 16));
        }
    }
};

template <> struct attention_eight<LODE_CACHE_F32> {
    attention_floats floats[2];

    GPU_FN void load(const char *row, uint32_t at)
    {
        const attention_floats *from = reinterpret_cast<const attention_floats *>(row + at * sizeof(float));
        floats[0] = from[0];
        floats[1] = from[1];
    }
    GPU_FN void unpack(float *out, uint32_t half) const
    {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            out[i] = floats[half].values[i];
    }
};

template <> struct attention_eight<LODE_CACHE_Q8_0> {
    uint32_t codes[2];
    uint16_t scale;

    GPU_FN void load(const char *row, uint32_t at)
    {
        const gpu_kv_q8_0 *block = reinterpret_cast<const gpu_kv_q8_0 *>(row) + at / 32;
        scale = block->scale;
        codes[0] = gpu_load_u16x2(block->values + at % 32);
        codes[1] = gpu_load_u16x2(block->values + at % 32 + 4);
    }
    GPU_FN void unpack(float *out, uint32_t half) const
    {
        const float factor = gpu_half_to_float(scale);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            out[i] = factor * static_cast<float>(static_cast<int8_t>(codes[half] >> (i * 8)));
    }
};

// N values of a row (1, 2 or 4), from a place that is a multiple of N.
template <enum lode_kv_format FORMAT, uint32_t N>
GPU_FN void attention_load(float *out, const char *row, uint32_t at)
{
    if (FORMAT == LODE_CACHE_F16) {
        struct alignas(N * sizeof(uint16_t)) halves {
            uint16_t bits[N];
        };
        const halves loaded = *reinterpret_cast<const halves *>(row + at * sizeof(uint16_t));
#pragma unroll
        for (uint32_t i = 0; i < N; i++)
            out[i] = gpu_half_to_float(loaded.bits[i]);
    } else if (FORMAT == LODE_CACHE_F32) {
        struct alignas(N * sizeof(float)) floats {
            float values[N];
        };
        const floats loaded = *reinterpret_cast<const floats *>(row + at * sizeof(float));
#pragma unroll
        for (uint32_t i = 0; i < N; i++)
            out[i] = loaded.values[i];
    } else {
        const gpu_kv_q8_0 *block = reinterpret_cast<const gpu_kv_q8_0 *>(row) + at / 32;
        const float factor = gpu_half_to_float(block->scale);
#pragma unroll
        for (uint32_t i = 0; i < N; i++)
            out[i] = factor * static_cast<float>(block->values[at % 32 + i]);
    }
}

// Lane l gets the sum, over the 2 HALF lanes that it is among, of what each has in values[l % (2 HALF)]: at
// every step a lane keeps half of its sums and hands the other half over, 31 exchanges for 32 sums.
template <uint32_t HALF> GPU_FN float attention_transposed_sum(float (&values)[2 * HALF], uint32_t lane)
{
    const bool upper = lane & HALF;
    float left[HALF];
#pragma unroll
    for (uint32_t i = 0; i < HALF; i++) {
        const float low = values[i], high = values[i + HALF];
        left[i] = (upper ? high : low) + gpu_shuffle_xor(upper ? low : high, HALF);
    }
    if constexpr (HALF > 1)
        return attention_transposed_sum<HALF / 2>(left, lane);
    else
        return left[0];
}

// Where value `dim` of a query stands in shared memory, so that 16 bytes of each lane lie one behind the
// other: of the 8 values of a lane the first four in one half of 256, the others in the other half.
GPU_FN uint32_t attention_query_place(uint32_t dim)
{
    return (dim & ~255u) + (dim & 4) * 32 + dim % 256 / 8 * 4 + dim % 4;
}

// Scores of keys, in `held`, for the 8 queries at `queries`: that of key lane / 8 and query lane % 8. Lanes
// beyond the keys have those of others again.
template <enum lode_kv_format FORMAT, uint32_t DIMS, uint32_t KEYS>
GPU_FN float attention_score(const attention_eight<FORMAT> (&held)[KEYS][DIMS / 256], const float *queries,
                             uint32_t head_size, uint32_t lane)
{
    float scores[KEYS * 8];
#pragma unroll
    for (uint32_t i = 0; i < KEYS * 8; i++)
        scores[i] = 0;
#pragma unroll
    for (uint32_t chunk = 0; chunk < DIMS / 256; chunk++) {
        if (chunk * 256 + lane * 8 < head_size) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                float keys[KEYS][4];
#pragma unroll
                for (uint32_t key = 0; key < KEYS; key++)
                    held[key][chunk].unpack(keys[key], half);
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) {
                    const attention_floats query = *reinterpret_cast<const attention_floats *>(
                        queries + i * DIMS + chunk * 256 + half * 128 + lane * 4);
#pragma unroll
                    for (uint32_t key = 0; key < KEYS; key++)
#pragma unroll
                        for (uint32_t e = 0; e < 4; e++)
                            scores[key * 8 + i] += keys[key][e] * query.values[e];
                }
            }
        }
    }
    float score = attention_transposed_sum<KEYS * 4>(scores, lane);
#pragma unroll
    for (uint32_t mask = KEYS * 8; mask < GPU_LANES; mask *= 2)
        score += gpu_shuffle_xor(score, mask);
    return score;
}

// Block x is of part x % parts of a tile of QUERIES queries, the last tile first because it sees most keys;
// block y of KV head y. With one part the result goes to out, else the sums of V go to sums[slot] and the
// largest score and the sum of weights to softmax[slot], where slot = (kv_head * queries + query) * parts +
// part.
template <enum lode_kv_format FORMAT, uint32_t DIMS, uint32_t QUERIES, uint32_t GROUPS>
GPU_KERNEL void GPU_BLOCKS(GROUPS *GPU_LANES, ATTENTION_BLOCKS(GROUPS, DIMS))
    attend(float *out, float *sums, float *softmax, const float *q, const void *k, const void *v,
           attention_shape shape)
{
    constexpr uint32_t KEYS = ATTENTION_KEYS, OF_GROUP = attention_group_keys<FORMAT, DIMS>();
    constexpr uint32_t ROUNDS = KEYS / OF_GROUP / GROUPS; // of a group
    constexpr uint32_t OWN = QUERIES / GROUPS;            // queries whose softmax a group has
    constexpr uint32_t WIDTH = DIMS / GROUPS / GPU_LANES; // columns of V of a thread
    constexpr uint32_t STRIDE = QUERIES + 4;              // of weights; 16 bytes, and few banks alike
    GPU_SHARED(float, queries, QUERIES *DIMS);
    GPU_SHARED(float, weights, KEYS *STRIDE); // scores first: key, query
    GPU_SHARED(float, factors, QUERIES);

    const uint32_t lane = threadIdx.x % GPU_LANES, group = threadIdx.x / GPU_LANES;
    const uint32_t tile = gridDim.x / shape.parts - 1 - blockIdx.x / shape.parts, first = tile * QUERIES;
    const uint32_t part = blockIdx.x % shape.parts, kv_head = blockIdx.y;
    const uint32_t left = shape.queries - first, n = left < QUERIES ? left : QUERIES;

    const size_t row_bytes = gpu_kv_row_bytes<FORMAT>(shape.head_size);
    const size_t head_bytes = static_cast<size_t>(kv_head) * shape.capacity * row_bytes;
    const char *keys = static_cast<const char *>(k) + head_bytes;
    const char *values = static_cast<const char *>(v) + head_bytes;

    for (uint32_t i = group; i < QUERIES; i += GROUPS) {
        const float *query = q + (i < n ? attention_place(shape, shape.q_stride, kv_head, first + i) : 0);
        for (uint32_t dim = lane; dim < DIMS; dim += GPU_LANES)
            queries[i * DIMS + attention_query_place(dim)] =
                i < n && dim < shape.head_size ? query[dim] : 0.0f;
    }

    // Of the tile's span this part; it may be empty.
    const uint32_t end_of_all = attention_span_of(shape, first + n - 1).end;
    const uint32_t begin = attention_span_of(shape, first).begin + part * shape.part_keys;
    const uint32_t end = begin + shape.part_keys < end_of_all ? begin + shape.part_keys : end_of_all;

    // Lane j has these of the group's query j, and gives them to the others when they need them: a register
    // each, whatever OWN is.
    const uint32_t own = group * OWN + lane % OWN;
    const uint32_t own_end = own < n ? attention_span_of(shape, first + own).end : 0;
    float largest = -INFINITY, weight = 0;
    float sum[QUERIES][WIDTH];
#pragma unroll
    for (uint32_t i = 0; i < QUERIES; i++)
#pragma unroll
        for (uint32_t w = 0; w < WIDTH; w++)
            sum[i][w] = 0;

    const uint32_t column = threadIdx.x * WIDTH;
    __syncthreads();
    for (uint32_t key0 = begin, n_keys; key0 < end; key0 += n_keys) {
        // A step ends where the ring does, so that rows lie one behind the other.
        const uint32_t slot0 = key0 % shape.capacity, run = shape.capacity - slot0;
        n_keys = end - key0 < KEYS ? end - key0 : KEYS;
        n_keys = n_keys < run ? n_keys : run;

        // Scores. Keys beyond the last are the last again: they are loaded, and not looked at below.
#pragma unroll
        for (uint32_t round = 0; round < ROUNDS; round++) {
            const uint32_t key = (group * ROUNDS + round) * OF_GROUP;
            if (key >= n_keys)
                continue;
            attention_eight<FORMAT> held[OF_GROUP][DIMS / 256];
#pragma unroll
            for (uint32_t r = 0; r < OF_GROUP; r++) {
                const uint32_t ahead = key + r < n_keys ? key + r : n_keys - 1;
                const char *row = keys + (slot0 + ahead) * row_bytes;
#pragma unroll
                for (uint32_t chunk = 0; chunk < DIMS / 256; chunk++)
                    if (chunk * 256 + lane * 8 < shape.head_size)
                        held[r][chunk].load(row, chunk * 256 + lane * 8);
            }
#pragma unroll 1
            for (uint32_t i = 0; i < n; i += 8) {
                const float score =
                    attention_score<FORMAT, DIMS>(held, queries + i * DIMS, shape.head_size, lane);
                if (lane < OF_GROUP * 8)
                    weights[(key + lane / 8) * STRIDE + i + lane % 8] = score;
            }
        }
        __syncthreads();

        // Weights: lane l has key l.
#pragma unroll
        for (uint32_t j = 0; j < OWN; j++) {
            const uint32_t i = group * OWN + j, position = key0 + lane;
            const attention_span seen = attention_span_to(shape, gpu_shuffle(own_end, j));
            const float before = gpu_shuffle(largest, j);
            const bool sees = lane < n_keys && position >= seen.begin && position < seen.end;
            const float score = sees ? weights[lane * STRIDE + i] : -INFINITY;
            const float tile_largest = gpu_lanes_max(score);
            const float top = tile_largest > before ? tile_largest : before;
            const float base = top == -INFINITY ? 0.0f : top; // nothing seen yet
            const float power = sees ? gpu_exp(score - base) : 0.0f, factor = gpu_exp(before - base);
            const float total = gpu_lanes_sum(power);
            if (lane == j) {
                weight = weight * factor + total;
                largest = top;
            }
            weights[lane * STRIDE + i] = power;
            if (lane == 0)
                factors[i] = factor;
        }
        __syncthreads();

        // Sums of V, made relative to the new largest scores first.
        if (column < shape.head_size) {
#pragma unroll
            for (uint32_t i = 0; i < QUERIES; i++)
#pragma unroll
                for (uint32_t w = 0; w < WIDTH; w++)
                    sum[i][w] *= factors[i];
#pragma unroll 4
            for (uint32_t key = 0; key < n_keys; key++) {
                float value[WIDTH];
                attention_load<FORMAT, WIDTH>(value, values + (slot0 + key) * row_bytes, column);
                const attention_floats *of_key =
                    reinterpret_cast<const attention_floats *>(weights + key * STRIDE);
#pragma unroll
                for (uint32_t i = 0; i < QUERIES; i++)
#pragma unroll
                    for (uint32_t w = 0; w < WIDTH; w++)
                        sum[i][w] += of_key[i / 4].values[i % 4] * value[w];
            }
        }
        __syncthreads();
    }

    const size_t slot = (static_cast<size_t>(kv_head) * shape.queries + first) * shape.parts + part;
    if (lane < OWN)
        factors[own] = shape.parts == 1 ? 1.0f / weight : 1.0f;
    if (lane < OWN && own < n && shape.parts > 1) {
        softmax[2 * (slot + own * shape.parts)] = largest;
        softmax[2 * (slot + own * shape.parts) + 1] = weight;
    }
    __syncthreads();
    if (column < shape.head_size) {
#pragma unroll
        for (uint32_t i = 0; i < QUERIES; i++)
            if (i < n) {
                float *to = shape.parts == 1
                                ? out + attention_place(shape, shape.out_stride, kv_head, first + i)
                                : sums + (slot + i * shape.parts) * shape.head_size;
#pragma unroll
                for (uint32_t w = 0; w < WIDTH; w++)
                    to[column + w] = sum[i][w] * factors[i];
            }
    }
}

#endif
