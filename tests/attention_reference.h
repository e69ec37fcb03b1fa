// Attention by its definition: softmax(q K) V in double, over what the cache really holds; and scenes for it.
// The cache is filled by the CPU's portable kernels.
#ifndef LODE_TEST_ATTENTION_REFERENCE_H
#define LODE_TEST_ATTENTION_REFERENCE_H

#include "backends/cpu/kv_q8_0.h"
#include "tests/cpu_variants.h"

struct shape {
    uint32_t n_heads, n_kv_heads, head_size;
    uint32_t rows, first_position, window, capacity;
    enum lode_kv_format format;
    float query_size;
};

struct scene {
    struct shape shape;
    struct lode_kv kv;
    struct lode_rows q;
    double *k, *v; // [position][n_kv_heads * head_size] as the cache holds them
};

static inline double decode_f16(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double size = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -size : size;
}

static inline double decode(const struct lode_kv *kv, const void *cache, uint32_t head, uint32_t position,
                            uint32_t j)
{
    size_t index = ((size_t)head * kv->capacity + position % kv->capacity) * kv->head_size + j;
    if (kv->format == LODE_CACHE_F32)
        return (double)((const float *)cache)[index];
    if (kv->format == LODE_CACHE_F16)
        return decode_f16(((const uint16_t *)cache)[index]);
    const struct cpu_kv_q8_0 *block = (const struct cpu_kv_q8_0 *)cache + index / 32;
    return decode_f16(block->scale) * block->values[index % 32];
}

static inline uint32_t first_seen(const struct shape *shape, uint32_t position)
{
    return shape->window && position + 1 > shape->window ? position + 1 - shape->window : 0;
}

// Stores the positions that some query sees, and no others: the rest of the cache is NaN.
static inline void fill_cache(struct scene *scene, uint64_t *state)
{
    const struct shape *shape = &scene->shape;
    struct variant portable = {"portable", cpu_vector_kernels_for(CPU_ISA_PORTABLE)};
    struct lode_limits limits = {.rows = 1, .n_heads = 1, .head_size = shape->head_size};
    struct cpu_device device = make_device(&portable, 1, &limits);
    size_t bytes = lode_kv_row_bytes(shape->format, shape->head_size) * shape->n_kv_heads * shape->capacity;
    scene->kv = (struct lode_kv){malloc(bytes),     malloc(bytes),    shape->format,
                                 shape->n_kv_heads, shape->head_size, shape->capacity};
    memset(scene->kv.k, 0xff, bytes);
    memset(scene->kv.v, 0xff, bytes);

    uint32_t begin = first_seen(shape, shape->first_position), end = shape->first_position + shape->rows;
    uint32_t cols = shape->n_kv_heads * shape->head_size;
    struct lode_rows k = make_rows(end - begin, cols, 1, state), v = make_rows(end - begin, cols, 1, state);
    cpu_kv_store(&device.base, &scene->kv, k, v, begin);
    scene->k = malloc((size_t)end * cols * sizeof(double));
    scene->v = malloc((size_t)end * cols * sizeof(double));
    for (uint32_t p = begin; p < end; p++)
        for (uint32_t c = 0; c < cols; c++) {
            scene->k[(size_t)p * cols + c] =
                decode(&scene->kv, scene->kv.k, c / shape->head_size, p, c % shape->head_size);
            scene->v[(size_t)p * cols + c] =
                decode(&scene->kv, scene->kv.v, c / shape->head_size, p, c % shape->head_size);
        }
    free(k.data), free(v.data);
    cpu_vector_release(&device.vector_scratch);
}

static inline struct scene make_scene(struct shape shape, uint64_t *state)
{
    struct scene scene = {.shape = shape};
    fill_cache(&scene, state);
    scene.q = make_rows(shape.rows, shape.n_heads * shape.head_size, shape.query_size, state);
    return scene;
}

static inline void free_scene(struct scene *scene)
{
    free(scene->kv.k), free(scene->kv.v), free(scene->k), free(scene->v), free(scene->q.data);
}

static inline void attend_by_definition(double *out, const struct scene *scene, uint32_t row, uint32_t head,
                                        double *p)
{
    const struct shape *shape = &scene->shape;
    uint32_t position = shape->first_position + row, begin = first_seen(shape, position);
    size_t cols = (size_t)shape->n_kv_heads * shape->head_size;
    size_t at_head = (size_t)(head / (shape->n_heads / shape->n_kv_heads)) * shape->head_size;
    double max = -INFINITY, sum = 0;
    for (uint32_t i = begin; i <= position; i++) {
        p[i] = 0;
        for (uint32_t j = 0; j < shape->head_size; j++)
            p[i] += (double)at(scene->q, row, head * shape->head_size + j) * scene->k[i * cols + at_head + j];
        max = fmax(max, p[i]);
    }
    for (uint32_t i = begin; i <= position; i++)
        sum += p[i] = exp(p[i] - max);
    for (uint32_t j = 0; j < shape->head_size; j++) {
        out[j] = 0;
        for (uint32_t i = begin; i <= position; i++)
            out[j] += p[i] / sum * scene->v[i * cols + at_head + j];
    }
}

// Values of V are within 1, so an error of a score moves the result by about as much at most. The products of
// a score sum to query_size * head_size / 4 in absolute values; a rounding of that is the scale of its error.
static inline void check_attention(const char *name, const struct scene *scene, struct lode_rows out)
{
    const struct shape *s = &scene->shape;
    double *p = malloc((s->first_position + s->rows) * sizeof *p), want[512];
    double allowed = 2e-6 + 0x1p-24 * (double)s->query_size * s->head_size / 4;
    for (uint32_t row = 0; row < s->rows; row++)
        for (uint32_t head = 0; head < s->n_heads; head++) {
            attend_by_definition(want, scene, row, head, p);
            for (uint32_t j = 0; j < s->head_size; j++)
                check_close(
                    at(out, row, head * s->head_size + j), want[j], 0, allowed,
                    "%s: format %d, heads %u/%u of %u, rows %u at %u, window %u, capacity %u: row %u head %u",
                    name, s->format, s->n_heads, s->n_kv_heads, s->head_size, s->rows, s->first_position,
                    s->window, s->capacity, row, head);
        }
    free(p);
}

static inline struct shape random_shape(uint64_t *state)
{
    static const uint32_t head_sizes[] = {32, 64, 96, 128, 256, 512}, groups[] = {1, 2, 3, 4, 8, 40};
    struct shape shape = {.n_kv_heads = 1 + random_below(state, 3)};
    shape.head_size = head_sizes[random_below(state, 6)];
    shape.n_heads = shape.n_kv_heads * groups[random_below(state, shape.head_size > 128 ? 4 : 6)];
    shape.rows = 1 + random_below(state, random_below(state, 2) ? 3 : 40);
    shape.first_position = random_below(state, 2) ? random_below(state, 300) : 0;
    shape.window = random_below(state, 2) ? 1 + random_below(state, 200) : 0;
    uint32_t end = shape.first_position + shape.rows;
    uint32_t least =
        shape.window && shape.window + shape.rows - 1 < end ? shape.window + shape.rows - 1 : end;
    shape.capacity = least + (random_below(state, 2) ? random_below(state, 50) : 0);
    shape.format = random_below(state, CPU_KV_FORMATS);
    shape.query_size = random_below(state, 4) ? 0.5f : 4;
    return shape;
}

#endif
