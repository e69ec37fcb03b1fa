// Cells of the operations that choose, gather, store and join rows: embedding, KV store, router, combine.
#include "bench/cell.h"

#include "backends/cpu/dequantize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ERROR_SAMPLES 64
#define N_EXPERTS 128
#define N_USED 8
#define EMBED_SCALE 53.0f // sqrt(2816)

// Puts a call's bytes where they belong: from the caches when they are few.
static bool cost_bytes(struct cell *cell, double bytes)
{
    const bool cached = bytes <= (double)CACHED_LIMIT_BYTES;
    cell->cost.writes = true;
    cell->cost.memory_bytes = cached ? 0 : bytes;
    cell->cost.cached_bytes = cached ? bytes : 0;
    cell->n_copies = cached ? 1 : ring_copies(bytes);
    return cached;
}

// ---- embedding ----

struct embed_spec {
    enum lode_type type;
    uint32_t rows, cols;
};

struct embed {
    struct lode_matrix table;
    struct lode_rows out;
    int32_t *ids; // of all copies
};

static void make_embed(struct cell *cell)
{
    const struct embed_spec *spec = cell->spec;
    struct embed *e = cell->state = cell_memory(cell, sizeof *e);
    cell->n_copies = 1;
    const struct lode_type_traits *traits = lode_type_find(spec->type);
    const double row_bytes = (double)spec->cols / traits->block_elems * traits->block_bytes;
    cell->file_layout = true; // a table that is read by the row
    e->table = cell_matrix(cell, spec->type, (uint32_t)((double)RING_BYTES / row_bytes), spec->cols, 1);
    e->out = cell_rows(cell, spec->rows, spec->cols, 1);
    cell->n_copies = ring_copies(row_bytes * spec->rows);
    if (cell->n_copies > 1024)
        cell->n_copies = 1024;
    e->ids = cell_memory(cell, (size_t)spec->rows * cell->n_copies * sizeof *e->ids);
    for (size_t i = 0; i < (size_t)spec->rows * cell->n_copies; i++)
        e->ids[i] = (int32_t)(test_random_u32(&cell->random) % e->table.rows);
    cell->cost = (struct cost){.memory_bytes = row_bytes * spec->rows,
                               .cached_bytes = (double)spec->rows * spec->cols * sizeof(float),
                               .float_ops = 2.0 * spec->rows * spec->cols};
}

static void run_embed(struct cell *cell, uint32_t copy)
{
    const struct embed *e = cell->state;
    cell->device->ops->embed(cell->device, e->out, &e->table, e->ids + (size_t)copy * e->out.n, EMBED_SCALE);
}

static double embed_error(struct cell *cell)
{
    const struct embed *e = cell->state;
    float *row = cell_memory(cell, e->table.cols * sizeof *row);
    double worst = 0;
    run_embed(cell, 0);
    for (uint32_t i = 0; i < e->out.n; i += 1 + e->out.n / 16) {
        const char *data = (const char *)e->table.data + (size_t)e->ids[i] * e->table.row_bytes;
        cpu_dequantize(row, e->table.type, data, e->table.cols);
        for (uint32_t c = 0; c < e->table.cols; c++) {
            double want = (double)row[c] * (double)EMBED_SCALE;
            worst = fmax(worst, error_of((double)e->out.data[i * e->out.stride + c],
                                         (struct exact){want, fabs(want)}));
        }
    }
    return worst;
}

static const struct cell_ops embed_ops = {make_embed, run_embed, embed_error};

// ---- KV store ----

struct store_spec {
    enum lode_kv_format format;
    uint32_t rows, n_heads, head_size;
};

struct store {
    struct lode_kv kv;
    size_t copy_bytes;
    struct lode_rows k, v;
};

static void make_store(struct cell *cell)
{
    const struct store_spec *spec = cell->spec;
    struct store *s = cell->state = cell_memory(cell, sizeof *s);
    s->kv = (struct lode_kv){NULL, NULL, spec->format, spec->n_heads, spec->head_size, 2 * spec->rows};
    const size_t row_bytes = lode_kv_row_bytes(spec->format, spec->head_size) * spec->n_heads;
    const uint32_t cols = spec->n_heads * spec->head_size;
    cost_bytes(cell, 2.0 * spec->rows * ((double)row_bytes + cols * sizeof(float)));
    cell->cost.float_ops = 2.0 * 2 * spec->rows * cols;
    s->copy_bytes = row_bytes * s->kv.capacity;
    s->kv.k = cell_memory(cell, s->copy_bytes * cell->n_copies);
    s->kv.v = cell_memory(cell, s->copy_bytes * cell->n_copies);
    s->k = cell_rows(cell, spec->rows, cols, 3);
    s->v = cell_rows(cell, spec->rows, cols, 3);
}

static void run_store(struct cell *cell, uint32_t copy)
{
    const struct store *s = cell->state;
    struct lode_kv kv = s->kv;
    kv.k = (char *)kv.k + copy * s->copy_bytes;
    kv.v = (char *)kv.v + copy * s->copy_bytes;
    cell->device->ops->kv_store(cell->device, &kv, rows_of_copy(s->k, copy), rows_of_copy(s->v, copy), 0);
}

// A query that sees one position gets its V back, whatever its score: what the cache holds of V. A block of
// 32 has one scale, so the error is told in parts of the block's largest value.
static double store_error(struct cell *cell)
{
    const struct store_spec *spec = cell->spec;
    const struct store *s = cell->state;
    cell->n_copies = 1;
    struct lode_rows q = cell_rows(cell, 1, s->v.cols, 0.1f), out = cell_rows(cell, 1, s->v.cols, 1);
    double worst = 0;
    run_store(cell, 0);
    for (uint32_t i = 0; i < spec->rows; i += 1 + spec->rows / 16) {
        cell->device->ops->attention(cell->device, out, q, spec->n_heads, &s->kv, i, 1);
        const float *v = s->v.data + i * s->v.stride;
        for (uint32_t c = 0; c < s->v.cols; c++) {
            double largest = 0;
            for (uint32_t j = c / 32 * 32; j < c / 32 * 32 + 32; j++)
                largest = fmax(largest, fabs((double)v[j]));
            worst = fmax(worst, error_of((double)out.data[c], (struct exact){(double)v[c], largest}));
        }
    }
    return worst;
}

static const struct cell_ops store_ops = {make_store, run_store, store_error};

// ---- router ----

struct router {
    struct lode_rows logits;
    int32_t *ids;
    float *weights;
};

static void make_router(struct cell *cell)
{
    const uint32_t rows = *(const uint32_t *)cell->spec;
    struct router *r = cell->state = cell_memory(cell, sizeof *r);
    cost_bytes(cell, (double)rows * (N_EXPERTS + 2 * N_USED) * sizeof(float));
    cell->cost.float_ops = 22.0 * rows * N_EXPERTS; // a power of e, its sum, a comparison
    r->logits = cell_rows(cell, rows, N_EXPERTS, 8);
    r->ids = cell_memory(cell, (size_t)rows * N_USED * sizeof *r->ids);
    r->weights = cell_memory(cell, (size_t)rows * N_USED * sizeof *r->weights);
}

static void run_router(struct cell *cell, uint32_t copy)
{
    const struct router *r = cell->state;
    cell->device->ops->router(cell->device, r->ids, r->weights, rows_of_copy(r->logits, copy), N_USED, NULL);
}

// The weights of the chosen; a wrong choice is an infinite error.
static double route_error(const float *logits, const int32_t *ids, const float *weights)
{
    double chosen = 0, worst = 0;
    uint32_t above = 0;
    for (uint32_t r = 0; r < N_USED; r++)
        chosen += exp((double)logits[ids[r]] - (double)logits[ids[0]]);
    for (uint32_t i = 0; i < N_EXPERTS; i++)
        above += logits[i] > logits[ids[N_USED - 1]];
    if (above != N_USED - 1)
        return INFINITY;
    for (uint32_t r = 0; r < N_USED; r++) {
        double want = exp((double)logits[ids[r]] - (double)logits[ids[0]]) / chosen;
        worst = fmax(worst, error_of((double)weights[r], (struct exact){want, want}));
    }
    return worst;
}

static double router_error(struct cell *cell)
{
    const struct router *r = cell->state;
    double worst = 0;
    run_router(cell, 0);
    for (uint32_t i = 0; i < r->logits.n; i++)
        worst = fmax(worst, route_error(r->logits.data + i * r->logits.stride, r->ids + (size_t)i * N_USED,
                                        r->weights + (size_t)i * N_USED));
    return worst;
}

static const struct cell_ops router_ops = {make_router, run_router, router_error};

// ---- combine ----

struct combine {
    struct lode_rows slots, out;
    float *weights;
};

#define COMBINE_COLS 2816

static void make_combine(struct cell *cell)
{
    const uint32_t rows = *(const uint32_t *)cell->spec;
    struct combine *c = cell->state = cell_memory(cell, sizeof *c);
    cost_bytes(cell, (double)rows * (N_USED + 1) * COMBINE_COLS * sizeof(float));
    cell->cost.float_ops = 2.0 * rows * N_USED * COMBINE_COLS;
    c->slots = cell_rows(cell, rows * N_USED, COMBINE_COLS, 2);
    c->out = cell_rows(cell, rows, COMBINE_COLS, 1);
    c->weights = cell_rows(cell, 1, rows * N_USED, 1).data;
}

static void run_combine(struct cell *cell, uint32_t copy)
{
    const struct combine *c = cell->state;
    cell->device->ops->experts_combine(cell->device, rows_of_copy(c->out, copy), rows_of_copy(c->slots, copy),
                                       c->weights, N_USED);
}

static double combine_error(struct cell *cell)
{
    const struct combine *c = cell->state;
    double worst = 0;
    run_combine(cell, 0);
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % c->out.n;
        uint32_t col = test_random_u32(&cell->random) % COMBINE_COLS;
        struct exact want = {0};
        for (uint32_t r = 0; r < N_USED; r++) {
            size_t slot = (size_t)row * N_USED + r;
            double term = (double)c->weights[slot] * (double)c->slots.data[slot * c->slots.stride + col];
            want.value += term;
            want.magnitude += fabs(term);
        }
        worst = fmax(worst, error_of((double)c->out.data[row * c->out.stride + col], want));
    }
    return worst;
}

static const struct cell_ops combine_ops = {make_combine, run_combine, combine_error};

// ---- what there is ----

static void list_stores(struct bench *bench, uint32_t rows)
{
    static const struct {
        const char *name;
        uint32_t n_heads, head_size;
    } layers[] = {{"e2b-local", 1, 256}, {"26b-local", 8, 256}, {"26b-global", 2, 512}};
    static const enum lode_kv_format formats[] = {LODE_CACHE_F16, LODE_CACHE_Q8_0};
    for (unsigned l = 0; l < sizeof layers / sizeof *layers; l++)
        for (unsigned f = 0; f < 2; f++) {
            const struct store_spec spec = {formats[f], rows, layers[l].n_heads, layers[l].head_size};
            char shape[64];
            snprintf(shape, sizeof shape, "%s %ux%u rows=%u", layers[l].name, spec.n_heads, spec.head_size,
                     rows);
            bench_offer(bench, "kv_store", formats[f] == LODE_CACHE_F16 ? "F16" : "Q8_0", shape, &store_ops,
                        &spec);
        }
}

static void list_rows(struct bench *bench)
{
    static const enum lode_type embed_types[] = {LODE_F16, LODE_Q4_0, LODE_Q6_K, LODE_Q8_0};
    for (uint32_t rows = 1; rows <= 512; rows += 511) {
        char shape[64];
        for (unsigned t = 0; t < sizeof embed_types / sizeof *embed_types; t++) {
            const struct embed_spec spec = {embed_types[t], rows, 2816};
            snprintf(shape, sizeof shape, "26b 2816 rows=%u", rows);
            bench_offer(bench, "embed", lode_type_name(spec.type), shape, &embed_ops, &spec);
        }
        list_stores(bench, rows);
        snprintf(shape, sizeof shape, "26b 8-of-128 rows=%u", rows);
        bench_offer(bench, "router", "F32", shape, &router_ops, &rows);
        snprintf(shape, sizeof shape, "26b 8x2816 rows=%u", rows);
        bench_offer(bench, "experts_combine", "F32", shape, &combine_ops, &rows);
    }
}

const struct family rows_family = {
    "rows",
    {.rows = 512, .cols = 32, .ffn_width = 32, .n_heads = 8, .head_size = 512, .expert_rows = 1},
    list_rows};
