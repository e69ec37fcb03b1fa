// Attention against softmax(q K) V in double, over what the cache really holds.
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

static double decode_f16(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double size = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return half & 0x8000 ? -size : size;
}

static double decode(const struct lode_kv *kv, const void *cache, uint32_t head, uint32_t position,
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

static uint32_t first_seen(const struct shape *shape, uint32_t position)
{
    return shape->window && position + 1 > shape->window ? position + 1 - shape->window : 0;
}

// Stores the positions that some query sees, and no others: the rest of the cache is NaN.
static void fill_cache(struct scene *scene, uint64_t *state)
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

static struct scene make_scene(struct shape shape, uint64_t *state)
{
    struct scene scene = {.shape = shape};
    fill_cache(&scene, state);
    scene.q = make_rows(shape.rows, shape.n_heads * shape.head_size, shape.query_size, state);
    return scene;
}

static void free_scene(struct scene *scene)
{
    free(scene->kv.k), free(scene->kv.v), free(scene->k), free(scene->v), free(scene->q.data);
}

static struct lode_rows attend(const struct variant *variant, uint32_t threads, const struct scene *scene)
{
    const struct shape *shape = &scene->shape;
    struct lode_limits limits = {
        .rows = shape->rows, .n_heads = shape->n_heads, .head_size = shape->head_size};
    struct cpu_device device = make_device(variant, threads, &limits);
    struct lode_rows out = copy_rows(scene->q);
    for (uint32_t i = 0; i < out.n; i++)
        memset(out.data + i * out.stride, 0xff, out.cols * sizeof(float));
    cpu_attention(&device.base, out, scene->q, shape->n_heads, &scene->kv, shape->first_position,
                  shape->window);
    cpu_vector_release(&device.vector_scratch);
    check_gaps(out, variant->name);
    return out;
}

static void attend_by_definition(double *out, const struct scene *scene, uint32_t row, uint32_t head,
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
static void check_attention(const char *name, const struct scene *scene, struct lode_rows out)
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

static void check_shape(struct shape shape, uint64_t *state)
{
    struct scene scene = make_scene(shape, state);
    FOR_VARIANTS(variant)
    {
        struct lode_rows one = attend(variant, 1, &scene), two = attend(variant, 2, &scene);
        check_attention(variant->name, &scene, one);
        check_same_bits(one, two, variant->name);
        free(one.data), free(two.data);
    }
    free_scene(&scene);
}

static struct shape random_shape(uint64_t *state)
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

Test(cpu_attention, equals_softmax_over_random_shapes)
{
    uint64_t state = 11;
    for (int round = 0; round < 60; round++)
        check_shape(random_shape(&state), &state);
}

Test(cpu_attention, reads_a_ring_that_is_as_small_as_window_and_batch_allow)
{
    uint64_t state = 12;
    for (uint32_t rows = 1; rows <= 40; rows += 13)
        for (uint32_t first = 500; first < 504; first++)
            for (enum lode_kv_format format = 0; format < CPU_KV_FORMATS; format++)
                check_shape((struct shape){4, 2, 64, rows, first, 33, 33 + rows - 1, format, 1}, &state);
    check_shape((struct shape){2, 1, 32, 1, 1000, 1, 1, LODE_CACHE_F16, 1}, &state);  // sees itself only
    check_shape((struct shape){2, 1, 32, 5, 1000, 3, 7, LODE_CACHE_Q8_0, 1}, &state); // shorter than a block
    check_shape((struct shape){2, 1, 32, 9, 0, 1000, 9, LODE_CACHE_F16, 1},
                &state); // wider than what there is
}

Test(cpu_attention, sees_the_only_position_there_is)
{
    uint64_t state = 13;
    check_shape((struct shape){8, 1, 512, 1, 0, 0, 1, LODE_CACHE_F16, 1}, &state);
}

// Few KV heads and rows: the keys are cut into as many chunks as there can be.
Test(cpu_attention, merges_the_chunks_of_a_long_context)
{
    uint64_t state = 14;
    check_shape((struct shape){8, 1, 64, 1, 4500, 0, 4501, LODE_CACHE_F16, 0.5f}, &state);
    check_shape((struct shape){3, 1, 32, 1, 4095, 0, 5000, LODE_CACHE_Q8_0, 12},
                &state); // sharp: most chunks weigh 0
    check_shape((struct shape){4, 2, 256, 2, 2100, 1024, 1030, LODE_CACHE_F16, 1}, &state);
}

// From 6,144 keys on a row has chunks of twice the size.
Test(cpu_attention, grows_its_chunks_within_a_batch)
{
    uint64_t state = 19;
    check_shape((struct shape){2, 1, 32, 4, 6142, 0, 6146, LODE_CACHE_F16, 0.5f}, &state);
    check_shape((struct shape){1, 1, 32, 3, 6143, 6200, 6146, LODE_CACHE_F32, 0.5f}, &state);
    check_shape((struct shape){1, 1, 32, 3, 6500, 6144, 6146, LODE_CACHE_F32, 0.5f}, &state);
    check_shape((struct shape){2, 1, 32, 1, 13000, 0, 13001, LODE_CACHE_Q8_0, 12}, &state); // maxima rise
}

Test(cpu_attention, keeps_the_shapes_of_published_models)
{
    uint64_t state = 15;
    check_shape((struct shape){8, 1, 256, 3, 600, 512, 514, LODE_CACHE_F16, 0.3f}, &state);      // E2B local
    check_shape((struct shape){8, 1, 512, 2, 300, 0, 512, LODE_CACHE_F16, 0.3f}, &state);        // E2B global
    check_shape((struct shape){32, 16, 256, 2, 1100, 1024, 1100, LODE_CACHE_F16, 0.3f}, &state); // 31B local
    check_shape((struct shape){16, 1, 512, 3, 100, 0, 128, LODE_CACHE_F16, 0.3f}, &state);       // 12B global
}

// Without care e^500 would overflow, and the largest score may come first or last.
Test(cpu_attention, stands_large_scores)
{
    uint64_t state = 16;
    for (int round = 0; round < 4; round++)
        check_shape((struct shape){2, 1, 512, 4, 200, 0, 256, LODE_CACHE_F32, 60}, &state);
}

// Rows begin .. begin + n - 1 of a scene as a batch of their own.
static void check_rows_alone(const struct variant *variant, const struct scene *scene, struct lode_rows batch,
                             uint32_t begin, uint32_t n, uint32_t threads)
{
    struct scene part = *scene;
    part.shape.rows = part.q.n = n;
    part.shape.first_position += begin;
    part.q.data += begin * part.q.stride;
    struct lode_rows out = attend(variant, threads, &part), want = batch;
    want.data += begin * batch.stride;
    want.n = n;
    check_same_bits(want, out, variant->name);
    free(out.data);
}

Test(cpu_attention, gives_a_row_the_same_bits_alone_and_in_any_batch)
{
    uint64_t state = 17;
    struct shape shapes[] = {
        {8, 2, 128, 20, 100, 50, 69, LODE_CACHE_F16, 1},     {8, 1, 64, 40, 300, 0, 350, LODE_CACHE_Q8_0, 1},
        {3, 3, 32, 37, 500, 260, 300, LODE_CACHE_F32, 1},  // tiles of 32 rows
        {40, 1, 32, 5, 90, 0, 95, LODE_CACHE_F16, 1},      // two tiles a row
        {2, 1, 32, 7, 6140, 0, 6147, LODE_CACHE_F16, 4},   // chunks of two sizes
        {8, 1, 256, 9, 1200, 512, 520, LODE_CACHE_F16, 4}, // the ring ends within a block
        {4, 2, 96, 12, 1500, 1024, 1040, LODE_CACHE_Q8_0, 1}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct scene scene = make_scene(shapes[s], &state);
        FOR_VARIANTS(variant)
        {
            struct lode_rows batch = attend(variant, 1, &scene);
            for (uint32_t row = 0; row < shapes[s].rows; row += 1 + row % 3)
                check_rows_alone(variant, &scene, batch, row, 1, 1 + row % 5);
            for (uint32_t row = 0; row + 5 <= shapes[s].rows; row += 4)
                check_rows_alone(variant, &scene, batch, row, 5, 1 + row % 3);
            free(batch.data);
        }
        free_scene(&scene);
    }
}

// What a query does not see must not be multiplied with 0 either: it may never have been written.
Test(cpu_attention, passes_on_a_nan_that_it_sees_and_no_other)
{
    uint64_t state = 20;
    for (enum lode_kv_format format = 0; format < CPU_KV_FORMATS; format++) {
        struct scene scene = make_scene((struct shape){2, 1, 32, 1, 400, 100, 500, format, 1}, &state);
        FOR_VARIANTS(variant)
        {
            struct lode_rows out = attend(variant, 2, &scene);
            for (uint32_t j = 0; j < out.cols; j++)
                cr_assert(isfinite(at(out, 0, j)), "%s", variant->name);
            free(out.data);
            float saved = scene.q.data[3];
            scene.q.data[3] = NAN; // of head 0
            out = attend(variant, 2, &scene);
            for (uint32_t j = 0; j < out.cols; j++)
                cr_assert_eq(!!isnan(at(out, 0, j)), j < 32, "%s: value %u", variant->name, j);
            free(out.data);
            scene.q.data[3] = saved;
        }
        free_scene(&scene);
    }
}

Test(cpu_attention, has_the_same_bits_with_any_number_of_threads)
{
    uint64_t state = 18;
    struct shape shapes[] = {{8, 1, 256, 1, 3000, 0, 3001, LODE_CACHE_F16, 1},
                             {8, 2, 64, 40, 700, 512, 551, LODE_CACHE_Q8_0, 1},
                             {80, 2, 32, 3, 700, 0, 703, LODE_CACHE_F16, 1}}; // more heads than slots
    for (int i = 0; i < 3; i++) {
        struct scene scene = make_scene(shapes[i], &state);
        FOR_VARIANTS(variant)
        {
            struct lode_rows one = attend(variant, 1, &scene);
            for (uint32_t threads = 2; threads <= 7; threads++) {
                struct lode_rows many = attend(variant, threads, &scene);
                check_same_bits(one, many, variant->name);
                free(many.data);
            }
            free(one.data);
        }
        free_scene(&scene);
    }
}
