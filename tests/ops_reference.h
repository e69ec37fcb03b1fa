// What the small operations shall give, by their formulas in double.
#ifndef LODE_TEST_OPS_REFERENCE_H
#define LODE_TEST_OPS_REFERENCE_H

#include "backends/cpu/kv_q8_0.h"
#include "base/half.h"
#include "tests/cpu_variants.h"

static inline double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static inline double inverse_rms(struct lode_rows x, uint32_t row, double eps)
{
    double sum = 0;
    for (uint32_t j = 0; j < x.cols; j++)
        sum += (double)at(x, row, j) * (double)at(x, row, j);
    return 1 / sqrt(sum / x.cols + eps);
}

// Chooses one after the other, each time looking through all: the definition itself.
static inline void check_routing(const char *name, const int32_t *ids, const float *weights,
                                 const float *logits, uint32_t n, uint32_t k, const float *scale)
{
    double max = -INFINITY, all = 0, chosen = 0;
    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, (double)logits[i]);
    for (uint32_t i = 0; i < n; i++)
        all += exp((double)logits[i] - max);
    bool taken[256] = {false};
    for (uint32_t r = 0; r < k; r++) {
        int32_t best = -1;
        for (uint32_t i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || logits[i] > logits[best]))
                best = (int32_t)i;
        taken[best] = true;
        cr_assert_eq(ids[r], best, "%s: place %u has %d, not %d", name, r, ids[r], best);
        chosen += exp((double)logits[best] - max) / all;
    }
    for (uint32_t r = 0; r < k; r++) {
        double p = exp((double)logits[ids[r]] - max) / all;
        check_close(weights[r], p / fmax(chosen, 0x1p-14) * (scale ? (double)scale[ids[r]] : 1), 6e-7, 1e-37,
                    "%s: weight %u", name, r);
    }
}

// The sum of weighted slots, of those whose weight is not 0.
static inline void check_combined(const char *name, struct lode_rows out, struct lode_rows slots,
                                  const float *weights, uint32_t k)
{
    for (uint32_t i = 0; i < out.n; i++)
        for (uint32_t j = 0; j < out.cols; j++) {
            double sum = 0;
            for (uint32_t r = 0; r < k; r++)
                if (weights[i * k + r] != 0)
                    sum += (double)weights[i * k + r] * (double)at(slots, i * k + r, j);
            check_close(at(out, i, j), sum, 1e-7, 2e-6, "%s: row %u", name, i);
        }
}

struct cache {
    struct lode_kv kv;
    size_t bytes;
};

static inline struct cache make_cache(enum lode_kv_format format, uint32_t n_heads, uint32_t head_size,
                                      uint32_t capacity)
{
    struct cache cache = {.kv = {NULL, NULL, format, n_heads, head_size, capacity}};
    cache.bytes = lode_kv_row_bytes(format, head_size) * n_heads * capacity;
    cache.kv.k = malloc(cache.bytes);
    cache.kv.v = malloc(cache.bytes);
    memset(cache.kv.k, 0xa5, cache.bytes);
    memset(cache.kv.v, 0xa5, cache.bytes);
    return cache;
}

// A block of 32 is as near to the values as its scale, rounded to half, allows.
static inline void check_q8_0(const char *name, const struct cpu_kv_q8_0 *block, const float *x)
{
    double max = 0, scale = (double)lode_f16_to_f32(block->scale);
    for (int i = 0; i < 32; i++)
        max = fmax(max, fabs((double)x[i]));
    check_close(scale, max / 127, 0x1p-11, 0x1p-25, "%s: scale", name);
    for (int i = 0; i < 32; i++)
        check_close(scale * block->values[i], (double)x[i], 0,
                    scale * 0.5001 + fmax(max * 0x1p-11, 127 * 0x1p-25), "%s: value %d", name, i);
}

static inline void check_stored_row(const char *name, const struct lode_kv *kv, const void *cache,
                                    uint32_t position, const float *row)
{
    for (uint32_t h = 0; h < kv->n_heads; h++, row += kv->head_size) {
        size_t index = (size_t)h * kv->capacity + position % kv->capacity;
        if (kv->format == LODE_CACHE_F32)
            cr_assert_eq(memcmp((const float *)cache + index * kv->head_size, row, kv->head_size * 4), 0,
                         "%s", name);
        const uint16_t *half = (const uint16_t *)cache + index * kv->head_size;
        const struct cpu_kv_q8_0 *block = (const struct cpu_kv_q8_0 *)cache + index * kv->head_size / 32;
        for (uint32_t j = 0; j < kv->head_size; j++) {
            if (kv->format == LODE_CACHE_F16)
                cr_assert_eq(half[j], lode_f32_to_f16(row[j]), "%s: %g", name, (double)row[j]);
            if (kv->format == LODE_CACHE_Q8_0 && j % 32 == 0)
                check_q8_0(name, block + j / 32, row + j);
        }
    }
}

#endif
