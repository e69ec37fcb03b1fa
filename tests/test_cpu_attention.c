// Attention against softmax(q K) V in double, over what the cache really holds.
#include "tests/attention_reference.h"

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
