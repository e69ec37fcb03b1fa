// The vector kernels of attention and of the KV cache, over the layer that vector_body.h describes: a part of
// that body, and included by it alone.
//
// Keys and values are converted in registers, in tiles of 4 queries x 3 or 8 x 3 with more registers: 12 sums
// hide the latency of FMA, and 7 loads and 3 conversions hide behind 12 of them (Zen 3, F16: 88 to 97% of the
// FMA peak; 2 x 4 out of a block of floats had 70 to 85, and unpacking that took 2.5 cycles for 8 values
// besides). Each product of a query and a key is summed in the same order by every shape of tile, and each
// sum of values over rising keys, so that a query's bits do not depend on its neighbours.

static void kv_pack_f16(void *row, const float *x, size_t n)
{
    uint16_t *half = row;
    for (size_t i = 0; i < n; i += VF)
        v_store_f16(half + i, v_load(x + i));
}

// Quantises with the scale as it is stored, so that its rounding to half costs nothing.
static void kv_pack_q8_0(void *row, const float *x, size_t n)
{
    struct cpu_kv_q8_0 *block = row;
    for (size_t b = 0; b < n / 32; b++, block++, x += 32) {
        vf lanes = v_set1(0);
        for (size_t i = 0; i < 32; i += VF)
            lanes = v_max(lanes, v_abs(v_load(x + i)));
        block->scale = lode_f32_to_f16(v_max_lane(lanes) / 127);
        float scale = lode_f16_to_f32(block->scale);
        vf inverse = v_set1(scale > 0 ? 1 / scale : 0);
        for (size_t i = 0; i < 32; i += VF) {
            vf q = v_mul(v_load(x + i), inverse);
            q = v_min(v_max(q, v_set1(-127)), v_set1(127));
            v_store_i8(block->values + i, v_sub(v_add(q, v_set1(ROUND_SHIFT)), v_set1(ROUND_SHIFT)));
        }
    }
}

static void kv_pack_f32(void *row, const float *x, size_t n)
{
    memcpy(row, x, n * sizeof *x);
}

static ALWAYS_INLINE size_t kv_bytes(enum lode_kv_format format, size_t n)
{
    return format == LODE_CACHE_F16    ? n * sizeof(uint16_t)
           : format == LODE_CACHE_Q8_0 ? n / 32 * sizeof(struct cpu_kv_q8_0)
                                       : n * sizeof(float);
}

static ALWAYS_INLINE const int8_t *q8_0_values(const void *row, size_t i)
{
    return ((const struct cpu_kv_q8_0 *)row + i / 32)->values + i % 32;
}

static ALWAYS_INLINE vf kv_load(enum lode_kv_format format, const void *row, size_t i)
{
    if (format == LODE_CACHE_F16)
        return v_load_f16((const uint16_t *)row + i);
    if (format == LODE_CACHE_F32)
        return v_load((const float *)row + i);
    const struct cpu_kv_q8_0 *block = (const struct cpu_kv_q8_0 *)row + i / 32;
    return v_mul(v_set1(v_f16_scalar(block->scale)), v_load_i8(q8_0_values(row, i)));
}

// Sums stay in registers only if the loops over them are unrolled, which gcc does unasked from -O3 on: -O2
// had a third of the speed.
#if defined(__clang__) || defined(LODE_SIMDE)
#define UNROLL_SUMS
#else
#define UNROLL_SUMS _Pragma("GCC unroll 8")
#endif

#define CACHE_LINE 64

// The block that is asked for while another is in work. One ascending walk over it, which the processor's own
// prefetch follows, evenly spread over the work: asking for the rows beside those in use took 20% longer
// where two queries share a key (Zen 3).
struct ahead {
    uintptr_t at; // 0: nothing
    size_t step;  // cache lines at each step of 32 columns of keys; bytes at each value
};

static ALWAYS_INLINE void prefetch(uintptr_t address)
{
    __builtin_prefetch((const void *)address, 0, 2); // the first-level cache holds what is in use
}

// n_q and n_k are constants wherever this is inlined.
static ALWAYS_INLINE void dot_shape(enum lode_kv_format format, size_t n_q, size_t n_k, float *scores,
                                    const float *q, size_t q_stride, const char *keys, size_t n,
                                    struct ahead ahead)
{
    size_t row_bytes = kv_bytes(format, n);
    vf sums[8][4];
    UNROLL_SUMS
    for (size_t i = 0; i < n_q; i++) {
        UNROLL_SUMS
        for (size_t j = 0; j < n_k; j++)
            sums[i][j] = v_set1(0);
    }
    for (size_t d = 0; d < n; d += 32) {
        for (size_t line = 0; line < ahead.step; line++, ahead.at += CACHE_LINE)
            prefetch(ahead.at);
        UNROLL_SUMS
        for (size_t e = d; e < d + 32; e += VF) {
            vf key[4];
            UNROLL_SUMS
            for (size_t j = 0; j < n_k; j++)
                key[j] = kv_load(format, keys + j * row_bytes, e);
            UNROLL_SUMS
            for (size_t i = 0; i < n_q; i++) {
                vf query = v_load(q + i * q_stride + e);
                UNROLL_SUMS
                for (size_t j = 0; j < n_k; j++)
                    sums[i][j] = v_fma(query, key[j], sums[i][j]);
            }
        }
    }
    if (n_k == 1 && n_q % 4 == 0) {
        float four[4];
        UNROLL_SUMS
        for (size_t i = 0; i < n_q; i++) {
            if (i % 4 == 0)
                v_sum4(four, sums[i][0], sums[i + 1][0], sums[i + 2][0], sums[i + 3][0]);
            scores[i * CPU_SCORE_STRIDE] = four[i % 4];
        }
        return;
    }
    UNROLL_SUMS
    for (size_t i = 0; i < n_q; i++)
        v_sum4(scores + i * CPU_SCORE_STRIDE, sums[i][0], sums[i][n_k > 1 ? 1 : 0], sums[i][n_k > 2 ? 2 : 0],
               sums[i][n_k > 3 ? 3 : 0]);
}

// A last tile that is not full begins earlier, and takes some keys twice.
static ALWAYS_INLINE void dot_keys(enum lode_kv_format format, size_t n_q, size_t n_k, float *scores,
                                   const float *q, size_t q_stride, const char *keys, size_t count, size_t n,
                                   struct ahead ahead)
{
    size_t row_bytes = kv_bytes(format, n);
    if (count < n_k) {
        for (size_t i = 0; i < n_q; i++)
            for (size_t j = 0; j < count; j++)
                dot_shape(format, 1, 1, scores + i * CPU_SCORE_STRIDE + j, q + i * q_stride, q_stride,
                          keys + j * row_bytes, n, (struct ahead){0, 0});
        return;
    }
    for (size_t j = 0; j < count; j += n_k, ahead.at += n / 32 * ahead.step * CACHE_LINE) {
        size_t first = j + n_k <= count ? j : count - n_k;
        dot_shape(format, n_q, n_k, scores + first, q, q_stride, keys + first * row_bytes, n, ahead);
    }
}

#define SUM_QUERIES (TILE_SUMS >= 24 ? 8 : 4)

// Conversion from Q8_0 takes three times as long as that from F16, and where the processor has no conversion
// of halves that is slow, too: then it pays to convert one key for 8 queries rather than three for 4, and for
// many queries to convert once for all of them, through memory (Q8_0 and 32 queries: 71% of the FMA peak
// instead of 62, Zen 3). The numbers are the same either way.
#define MANY_QUERIES (VF == 4 ? 8 : 16)

static ALWAYS_INLINE bool is_slow(enum lode_kv_format format)
{
    return format == LODE_CACHE_Q8_0 || (format == LODE_CACHE_F16 && VF == 4);
}

// Queries that pass over the keys together.
static ALWAYS_INLINE size_t dot_queries(enum lode_kv_format format)
{
    return is_slow(format) ? 8 : SUM_QUERIES;
}

static ALWAYS_INLINE size_t next_queries(size_t most, size_t left)
{
    return left >= most ? most : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static ALWAYS_INLINE size_t passes_of(size_t most, size_t n_q)
{
    size_t passes = 0;
    for (; n_q > 0; n_q -= next_queries(most, n_q))
        passes++;
    return passes;
}

// For n_q queries, a constant.
static ALWAYS_INLINE size_t tile_keys(size_t n_q)
{
    return TILE_SUMS / n_q < 4 ? TILE_SUMS / n_q : 4;
}

// What one pass of several over n_k rows walks over, when it takes n_tile of them at a time.
static ALWAYS_INLINE struct ahead share_ahead(enum lode_kv_format format, uintptr_t at, size_t pass,
                                              size_t passes, size_t n_tile, size_t n_k, size_t n)
{
    size_t steps = (n_k + n_tile - 1) / n_tile * (n / 32), bytes = n_k * kv_bytes(format, n);
    size_t line_bytes = steps * passes * CACHE_LINE, lines = (bytes + line_bytes - 1) / line_bytes;
    size_t begin = pass * steps * lines * CACHE_LINE;
    return at && begin < bytes ? (struct ahead){at + begin, lines} : (struct ahead){0, 0};
}

// Queries outside: they stay in the first-level cache while the keys pass.
static ALWAYS_INLINE void dot_tile(enum lode_kv_format format, float *scores, const float *q, size_t q_stride,
                                   size_t n_q, const void *keys, size_t n_k, size_t n, uintptr_t ahead)
{
    size_t most = dot_queries(format), passes = passes_of(most, n_q), width;
    for (size_t pass = 0; pass < passes; pass++, n_q -= width) {
        width = next_queries(most, n_q);
        struct ahead share = share_ahead(format, ahead, pass, passes, tile_keys(width), n_k, n);
        if (most == 8 && width == 8)
            dot_keys(format, 8, tile_keys(8), scores, q, q_stride, keys, n_k, n, share);
        else if (width == 4)
            dot_keys(format, 4, tile_keys(4), scores, q, q_stride, keys, n_k, n, share);
        else if (width == 2)
            dot_keys(format, 2, tile_keys(2), scores, q, q_stride, keys, n_k, n, share);
        else
            dot_keys(format, 1, tile_keys(1), scores, q, q_stride, keys, n_k, n, share);
        scores += width * CPU_SCORE_STRIDE;
        q += width * q_stride;
    }
}

// Those of Q8_0 without their scales.
static ALWAYS_INLINE vf load_value(enum lode_kv_format format, const char *row, size_t i)
{
    return format == LODE_CACHE_Q8_0 ? v_load_i8(q8_0_values(row, i)) : kv_load(format, row, i);
}

// n_q and n_v, the number of vectors, are constants wherever this is inlined.
static ALWAYS_INLINE void sum_shape(enum lode_kv_format format, size_t n_q, size_t n_v,
                                    const struct cpu_sums *out, const float *p, const char *values,
                                    size_t n_k, size_t n, size_t d, struct ahead ahead)
{
    size_t row_bytes = kv_bytes(format, n);
    vf sums[8][4];
    UNROLL_SUMS
    for (size_t i = 0; i < n_q; i++) {
        UNROLL_SUMS
        for (size_t v = 0; v < n_v; v++)
            sums[i][v] = out->fresh ? v_set1(0) : v_load(out->sums + i * out->stride + d + v * VF);
    }
    for (size_t j = 0; j < n_k; j++, values += row_bytes) {
        vf value[4];
        UNROLL_SUMS
        for (size_t v = 0; v < n_v; v++)
            value[v] = load_value(format, values, d + v * VF);
        if (ahead.at)
            prefetch(ahead.at + j * ahead.step);
        UNROLL_SUMS
        for (size_t i = 0; i < n_q; i++) {
            vf weight = v_set1(p[i * CPU_SCORE_STRIDE + j]);
            UNROLL_SUMS
            for (size_t v = 0; v < n_v; v++)
                sums[i][v] = v_fma(weight, value[v], sums[i][v]);
        }
    }
    UNROLL_SUMS
    for (size_t i = 0; i < n_q; i++) {
        UNROLL_SUMS
        for (size_t v = 0; v < n_v; v++) {
            size_t at = i * out->stride + d + v * VF;
            if (out->totals)
                v_store(out->totals + at, v_fma(sums[i][v], v_set1(out->gain[i]),
                                                v_mul(v_load(out->totals + at), v_set1(out->keep[i]))));
            else
                v_store(out->sums + at, sums[i][v]);
        }
    }
}

static ALWAYS_INLINE void skip_queries(struct cpu_sums *out, size_t n_q)
{
    out->sums += n_q * out->stride;
    if (out->totals) {
        out->totals += n_q * out->stride;
        out->keep += n_q;
        out->gain += n_q;
    }
}

// Columns d .. d + n_v vectors of up to 8 queries.
static ALWAYS_INLINE void sum_queries(enum lode_kv_format format, size_t n_q, size_t n_v,
                                      const struct cpu_sums *out, const float *p, const char *values,
                                      size_t n_k, size_t n, size_t d, struct ahead ahead)
{
    if (SUM_QUERIES == 8 && n_q == 8)
        sum_shape(format, 8, n_v, out, p, values, n_k, n, d, ahead);
    else if (n_q == 4)
        sum_shape(format, 4, n_v, out, p, values, n_k, n, d, ahead);
    else if (n_q == 2)
        sum_shape(format, 2, n_v, out, p, values, n_k, n, d, ahead);
    else
        sum_shape(format, 1, n_v, out, p, values, n_k, n, d, ahead);
}

// What one pass walks over at columns d .. d + width.
static ALWAYS_INLINE struct ahead ahead_of_columns(enum lode_kv_format format, uintptr_t at, size_t passes,
                                                   size_t n_k, size_t n, size_t d, size_t width)
{
    size_t row_bytes = kv_bytes(format, n);
    return at ? (struct ahead){at + row_bytes * d / n * n_k, row_bytes * width / n / passes}
              : (struct ahead){0, 0};
}

// Columns outside: those of all values stay in the first-level cache while the queries pass.
static ALWAYS_INLINE void sum_columns(enum lode_kv_format format, size_t n_v, struct cpu_sums out,
                                      const float *p, size_t n_q, const char *values, size_t n_k, size_t n,
                                      size_t d, uintptr_t at)
{
    size_t passes = passes_of(SUM_QUERIES, n_q), width;
    struct ahead ahead = ahead_of_columns(format, at, passes, n_k, n, d, n_v * VF);
    for (; n_q > 0; n_q -= width, ahead.at += ahead.step * n_k) {
        width = next_queries(SUM_QUERIES, n_q);
        sum_queries(format, width, n_v, &out, p, values, n_k, n, d, ahead);
        skip_queries(&out, width);
        p += width * CPU_SCORE_STRIDE;
    }
}

static ALWAYS_INLINE void sum_tile(enum lode_kv_format format, struct cpu_sums out, const float *p,
                                   size_t n_q, const void *values, size_t n_k, size_t n, uintptr_t ahead)
{
    size_t d = 0;
    for (; d + 3 * VF <= n; d += 3 * VF)
        sum_columns(format, 3, out, p, n_q, values, n_k, n, d, ahead);
    if (d + 2 * VF <= n)
        sum_columns(format, 2, out, p, n_q, values, n_k, n, d, ahead);
    else if (d < n)
        sum_columns(format, 1, out, p, n_q, values, n_k, n, d, ahead);
}

// The scales of a column of blocks go into the weights, which are fewer than the values.
static void scale_weights(float *scaled, const float *p, size_t n_q, const float *scales, size_t n_k)
{
    for (size_t i = 0; i < n_q; i++)
        for (size_t j = 0; j < n_k; j += VF)
            v_store(scaled + i * CPU_SCORE_STRIDE + j,
                    v_mul(v_load(p + i * CPU_SCORE_STRIDE + j), v_load(scales + j)));
}

static void load_scales(float *scales, const char *blocks, size_t row_bytes, size_t n_k)
{
    uint16_t halves[CPU_KEY_BLOCK] = {0};
    for (size_t j = 0; j < n_k; j++)
        halves[j] = ((const struct cpu_kv_q8_0 *)(blocks + j * row_bytes))->scale;
    for (size_t j = 0; j < n_k; j += VF)
        v_store(scales + j, v_load_f16(halves + j));
}

// Values of a column of blocks, 32 to a row; those of Q8_0 without their scales.
static ALWAYS_INLINE void load_plain(enum lode_kv_format format, float *plain, const char *blocks,
                                     size_t row_bytes, size_t n_k)
{
    for (size_t j = 0; j < n_k; j++, blocks += row_bytes, plain += 32)
        for (size_t i = 0; i < 32; i += VF)
            v_store(plain + i, load_value(format, blocks, i));
}

static ALWAYS_INLINE void sum_tile_slow(enum lode_kv_format format, struct cpu_sums all, const float *weights,
                                        size_t n_q, const void *values, size_t n_k, size_t n, uintptr_t at)
{
    const bool many = n_q >= MANY_QUERIES;
    size_t row_bytes = kv_bytes(format, n), passes = passes_of(SUM_QUERIES, n_q), width;
    for (size_t d = 0; d < n; d += 32) {
        float scales[CPU_KEY_BLOCK], scaled[8 * CPU_SCORE_STRIDE], plain[CPU_KEY_BLOCK * 32];
        const char *blocks = (const char *)values + kv_bytes(format, d);
        if (format == LODE_CACHE_Q8_0)
            load_scales(scales, blocks, row_bytes, n_k);
        if (many)
            load_plain(format, plain, blocks, row_bytes, n_k);
        struct cpu_sums out = all;
        out.sums += d;
        if (out.totals)
            out.totals += d;
        struct ahead ahead = ahead_of_columns(format, at, passes * (16 / VF), n_k, n, d, 32);
        for (size_t i = 0; i < n_q; i += width) {
            const float *p = weights + i * CPU_SCORE_STRIDE;
            width = next_queries(SUM_QUERIES, n_q - i);
            if (format == LODE_CACHE_Q8_0) {
                scale_weights(scaled, p, width, scales, n_k);
                p = scaled;
            }
            for (size_t e = 0; e < 32; e += 2 * VF, ahead.at += ahead.step * n_k)
                if (many)
                    sum_queries(LODE_CACHE_F32, width, 2, &out, p, (const char *)plain, n_k, 32, e, ahead);
                else
                    sum_queries(format, width, 2, &out, p, blocks, n_k, n, e, ahead);
            skip_queries(&out, width);
        }
    }
}

#define UNPACKED_KEYS 6 // of 512 values: 12 KiB, in the first-level cache beside the queries
#define UNPACKED_COLUMNS 512

static ALWAYS_INLINE void unpack_keys(enum lode_kv_format format, float *out, const char *keys, size_t n)
{
    for (size_t j = 0; j < UNPACKED_KEYS; j++, keys += kv_bytes(format, n))
        for (size_t i = 0; i < n; i += VF)
            v_store(out + j * n + i, kv_load(format, keys, i));
}

static ALWAYS_INLINE void dot_tile_slow(enum lode_kv_format format, float *scores, const float *q,
                                        size_t q_stride, size_t n_q, const void *keys, size_t n_k, size_t n,
                                        uintptr_t ahead)
{
    if (n_q < MANY_QUERIES || n_k < UNPACKED_KEYS || n > UNPACKED_COLUMNS) {
        dot_tile(format, scores, q, q_stride, n_q, keys, n_k, n, ahead);
        return;
    }
    float unpacked[UNPACKED_KEYS * UNPACKED_COLUMNS];
    for (size_t j = 0; j < n_k; j += UNPACKED_KEYS) {
        size_t first = j + UNPACKED_KEYS <= n_k ? j : n_k - UNPACKED_KEYS;
        unpack_keys(format, unpacked, (const char *)keys + first * kv_bytes(format, n), n);
        dot_tile(LODE_CACHE_F32, scores + first, q, q_stride, n_q, unpacked, UNPACKED_KEYS, n, 0);
    }
}

#define TILES_OF(name, format)                                                                               \
    static void dot_tile_##name(float *scores, const float *q, size_t q_stride, size_t n_q,                  \
                                const void *keys, size_t n_k, size_t n, uintptr_t ahead)                     \
    {                                                                                                        \
        if (is_slow(format))                                                                                 \
            dot_tile_slow(format, scores, q, q_stride, n_q, keys, n_k, n, ahead);                            \
        else                                                                                                 \
            dot_tile(format, scores, q, q_stride, n_q, keys, n_k, n, ahead);                                 \
    }                                                                                                        \
    static void sum_tile_##name(struct cpu_sums out, const float *p, size_t n_q, const void *values,         \
                                size_t n_k, size_t n, uintptr_t ahead)                                       \
    {                                                                                                        \
        if (is_slow(format))                                                                                 \
            sum_tile_slow(format, out, p, n_q, values, n_k, n, ahead);                                       \
        else                                                                                                 \
            sum_tile(format, out, p, n_q, values, n_k, n, ahead);                                            \
    }

TILES_OF(f16, LODE_CACHE_F16)
TILES_OF(q8_0, LODE_CACHE_Q8_0)
TILES_OF(f32, LODE_CACHE_F32)

// The sum of the powers goes over the lanes of the whole block, unseen ones being 0: its rounding depends on
// the block alone.
static float soften(float *scores, size_t begin, size_t end, float *max, double *weight)
{
    size_t first = begin / VF * VF, last = (end + VF - 1) / VF * VF;
    for (size_t i = first; i < begin; i++)
        scores[i] = -INFINITY;
    for (size_t i = end; i < last; i++)
        scores[i] = -INFINITY;
    vf lanes = v_load(scores + first);
    for (size_t i = first + VF; i < last; i += VF)
        lanes = v_max(lanes, v_load(scores + i));
    float decay = 1, top = v_max_lane(lanes);
    if (top > *max) {
        decay = v_max_lane(v_exp(v_set1(*max - top))); // 0 at the first block
        *max = top;
    }

    vf sum = v_set1(0), limit = v_set1(*max);
    for (size_t i = first; i < last; i += VF) {
        vf power = v_exp(v_sub(v_load(scores + i), limit));
        v_store(scores + i, power);
        sum = v_add(sum, power);
    }
    *weight = *weight * (double)decay + (double)v_sum(sum);
    memset(scores, 0, first * sizeof *scores);
    memset(scores + last, 0, (CPU_KEY_BLOCK - last) * sizeof *scores);
    return decay;
}

static void join(float *total, float keep, const float *part, float gain, size_t n)
{
    vf k = v_set1(keep), g = v_set1(gain);
    for (size_t i = 0; i < n; i += VF)
        v_store(total + i, v_fma(v_load(part + i), g, v_mul(v_load(total + i), k)));
}
