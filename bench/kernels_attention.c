// Cells of attention: a decoded token and a prefill step, on the KV cache of a layer of each kind.
#include "bench/cell.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define STORE_ROWS 512
#define PREFILL_ROWS 512
#define ERROR_SAMPLES 8
#define QUERY_SIZE 0.3f

struct attention_spec {
    uint32_t n_heads, n_kv_heads, head_size, window; // window 0: all positions
    enum lode_kv_format format;
    uint32_t rows, first_position;
};

struct attention {
    struct lode_kv kv; // of the first copy
    size_t copy_bytes; // of K, and of V
    struct lode_rows q, out;
};

// An element of K (which 0) or V (1): sign and 7 bits over 128, the largest magnitude once in 32, so that F16
// and Q8_0 hold it exactly, and the exact result needs no look into the cache.
static float kv_value(uint32_t which, uint32_t position, uint32_t head, uint32_t i)
{
    uint32_t hash = ((position * 2 + which) * 16 + head) * 512 + i;
    hash = (hash ^ hash >> 15) * 0x2c1b3c6du;
    hash = (hash ^ hash >> 12) * 0x297a2d39u;
    int value = i % 32 == 0 ? (hash >> 31 ? 127 : -127) : (int)((hash >> 15) % 255) - 127;
    return (float)value / 128;
}

static uint32_t first_seen(const struct attention_spec *spec, uint32_t position)
{
    return spec->window && position + 1 > spec->window ? position + 1 - spec->window : 0;
}

static uint32_t end_of(const struct attention_spec *spec)
{
    return spec->first_position + spec->rows;
}

static void fill_rows(struct lode_rows rows, const struct attention_spec *spec, uint32_t which,
                      uint32_t first_position)
{
    for (uint32_t r = 0; r < rows.n; r++)
        for (uint32_t c = 0; c < rows.cols; c++)
            rows.data[r * rows.stride + c] =
                kv_value(which, first_position + r, c / spec->head_size, c % spec->head_size);
}

static void fill_cache(struct cell *cell, uint32_t n_copies)
{
    const struct attention_spec *spec = cell->spec;
    struct attention *a = cell->state;
    struct lode_rows k = cell_rows(cell, STORE_ROWS, spec->n_kv_heads * spec->head_size, 1), v;
    v = cell_rows(cell, STORE_ROWS, k.cols, 1);
    for (uint32_t p = first_seen(spec, spec->first_position); p < end_of(spec); p += STORE_ROWS) {
        k.n = v.n = end_of(spec) - p < STORE_ROWS ? end_of(spec) - p : STORE_ROWS;
        fill_rows(k, spec, 0, p);
        fill_rows(v, spec, 1, p);
        cell->device->ops->kv_store(cell->device, &a->kv, k, v, p);
    }
    for (uint32_t c = 1; c < n_copies; c++) {
        memcpy((char *)a->kv.k + c * a->copy_bytes, a->kv.k, a->copy_bytes);
        memcpy((char *)a->kv.v + c * a->copy_bytes, a->kv.v, a->copy_bytes);
    }
}

static void make_attention(struct cell *cell)
{
    const struct attention_spec *spec = cell->spec;
    struct attention *a = cell->state = cell_memory(cell, sizeof *a);
    const uint32_t keys = end_of(spec) - first_seen(spec, spec->first_position);
    cell->n_copies = 1;
    a->q = cell_rows(cell, spec->rows, spec->n_heads * spec->head_size, QUERY_SIZE);
    a->out = cell_rows(cell, spec->rows, spec->n_heads * spec->head_size, 1);

    a->kv = (struct lode_kv){
        NULL, NULL, spec->format, spec->n_kv_heads, spec->head_size, spec->window ? keys : end_of(spec)};
    const size_t row_bytes = lode_kv_row_bytes(spec->format, spec->head_size) * spec->n_kv_heads;
    a->copy_bytes = row_bytes * a->kv.capacity;
    cell->cost.memory_bytes = 2.0 * (double)row_bytes * keys;
    const uint32_t n_copies = ring_copies(2.0 * (double)a->copy_bytes);
    a->kv.k = cell_memory(cell, a->copy_bytes * n_copies);
    a->kv.v = cell_memory(cell, a->copy_bytes * n_copies);
    fill_cache(cell, n_copies);
    cell->n_copies = n_copies;

    double seen = 0;
    for (uint32_t r = 0; r < spec->rows; r++)
        seen += spec->first_position + r + 1 - first_seen(spec, spec->first_position + r);
    cell->cost.float_ops = 4.0 * seen * spec->n_heads * spec->head_size;
    cell->cost.cached_bytes = 2.0 * spec->rows * spec->n_heads * spec->head_size * sizeof(float);
}

static void run_attention(struct cell *cell, uint32_t copy)
{
    const struct attention_spec *spec = cell->spec;
    struct attention *a = cell->state;
    struct lode_kv kv = a->kv;
    kv.k = (char *)kv.k + copy * a->copy_bytes;
    kv.v = (char *)kv.v + copy * a->copy_bytes;
    cell->device->ops->attention(cell->device, a->out, a->q, spec->n_heads, &kv, spec->first_position,
                                 spec->window);
}

// One query of one row: the largest error of its values, in parts of the sum over the keys of p |v|.
static double query_error(const struct attention_spec *spec, const struct attention *a, uint32_t row,
                          uint32_t head, double *p)
{
    const uint32_t position = spec->first_position + row, begin = first_seen(spec, position);
    const uint32_t kv_head = head / (spec->n_heads / spec->n_kv_heads);
    const float *q = a->q.data + row * a->q.stride + (size_t)head * spec->head_size;
    double max = -INFINITY, sum = 0, worst = 0;
    for (uint32_t k = begin; k <= position; k++) {
        double score = 0;
        for (uint32_t i = 0; i < spec->head_size; i++)
            score += (double)q[i] * (double)kv_value(0, k, kv_head, i);
        p[k - begin] = score;
        max = fmax(max, score);
    }
    for (uint32_t k = 0; k <= position - begin; k++)
        sum += p[k] = exp(p[k] - max);
    for (uint32_t i = 0; i < spec->head_size; i += 7) {
        struct exact want = {0};
        for (uint32_t k = begin; k <= position; k++) {
            double term = p[k - begin] / sum * (double)kv_value(1, k, kv_head, i);
            want.value += term;
            want.magnitude += fabs(term);
        }
        size_t at = row * a->out.stride + (size_t)head * spec->head_size + i;
        worst = fmax(worst, error_of((double)a->out.data[at], want));
    }
    return worst;
}

static double attention_error(struct cell *cell)
{
    const struct attention_spec *spec = cell->spec;
    double *p = cell_memory(cell, end_of(spec) * sizeof *p), worst = 0;
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % spec->rows;
        uint32_t head = test_random_u32(&cell->random) % spec->n_heads;
        worst = fmax(worst, query_error(spec, cell->state, row, head, p));
    }
    return worst;
}

static const struct cell_ops attention_ops = {make_attention, run_attention, attention_error};

struct layer_shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_size, window;
};

static void offer(struct bench *bench, const struct layer_shape *layer, enum lode_kv_format format,
                  uint32_t rows, uint32_t first_position, uint32_t context)
{
    const struct attention_spec spec = {
        layer->n_heads, layer->n_kv_heads, layer->head_size, layer->window, format, rows, first_position};
    char shape[64];
    snprintf(shape, sizeof shape, "%s context=%u rows=%u", layer->name, context, rows);
    bench_offer(bench, rows == 1 ? "attention-decode" : "attention-prefill",
                format == LODE_CACHE_F16 ? "F16" : "Q8_0", shape, &attention_ops, &spec);
}

static void list_attention(struct bench *bench)
{
    static const struct layer_shape layers[] = {
        {"e2b-local", 8, 1, 256, 512}, {"e2b-global", 8, 1, 512, 0},     {"26b-local", 16, 8, 256, 1024},
        {"26b-global", 16, 2, 512, 0}, {"31b-local", 32, 16, 256, 1024}, {"31b-global", 32, 4, 512, 0}};
    static const uint32_t decode_contexts[] = {512, 4096, 32768}, prefill_contexts[] = {0, 4096};
    static const enum lode_kv_format formats[] = {LODE_CACHE_F16, LODE_CACHE_Q8_0};
    for (unsigned l = 0; l < sizeof layers / sizeof *layers; l++)
        for (unsigned f = 0; f < 2; f++) {
            const uint32_t window = layers[l].window;
            for (unsigned c = 0; c < 3; c++) {
                if (window && c > 0 && decode_contexts[c - 1] >= window)
                    continue; // sees no more than the context before
                offer(bench, &layers[l], formats[f], 1, decode_contexts[c] - 1, decode_contexts[c]);
            }
            for (unsigned c = 0; c < 2; c++)
                offer(bench, &layers[l], formats[f], PREFILL_ROWS, prefill_contexts[c], prefill_contexts[c]);
        }
}

const struct family attention_family = {
    "attention",
    {.rows = PREFILL_ROWS, .cols = 32, .ffn_width = 32, .n_heads = 32, .head_size = 512, .expert_rows = 1},
    list_attention};
