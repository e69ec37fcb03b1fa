// The GPUs' attention against softmax(q K) V in double, over what the cache really holds.
#include "tests/attention_reference.h"
#include "tests/gpu_devices.h"

static void *cache_up(struct lode_device *device, const struct lode_kv *kv, const void *cache)
{
    return gpu_bytes_up(device, cache,
                        lode_kv_row_bytes(kv->format, kv->head_size) * kv->n_heads * kv->capacity);
}

static struct lode_rows attend(struct lode_device *device, const struct scene *scene)
{
    const struct shape *shape = &scene->shape;
    const struct lode_limits limits = {
        .rows = shape->rows, .n_heads = shape->n_heads, .head_size = shape->head_size};
    gpu_reserve_for(device, &limits);
    struct lode_rows out = copy_rows(scene->q);
    for (uint32_t i = 0; i < out.n; i++)
        memset(out.data + i * out.stride, 0xff, out.cols * sizeof(float));
    struct lode_kv kv = scene->kv;
    kv.k = cache_up(device, &kv, scene->kv.k);
    kv.v = cache_up(device, &kv, scene->kv.v);
    struct lode_rows q_up = gpu_rows_up(device, scene->q), out_up = gpu_rows_up(device, out);
    device->ops->attention(device, out_up, q_up, shape->n_heads, &kv, shape->first_position, shape->window);
    gpu_rows_down(device, out, out_up);
    gpu_release(device, kv.k), gpu_release(device, kv.v);
    gpu_release(device, q_up.data), gpu_release(device, out_up.data);
    check_gaps(out, device->name);
    return out;
}

static void check_shape(struct lode_device *device, struct shape shape, uint64_t *state)
{
    struct scene scene = make_scene(shape, state);
    struct lode_rows out = attend(device, &scene);
    check_attention(device->name, &scene, out);
    free(out.data);
    free_scene(&scene);
}

Test(gpu_attention, equals_softmax_over_random_shapes)
{
    uint64_t state = 21;
    FOR_GPU_DEVICES(device)
    {
        for (int round = 0; round < 40; round++)
            check_shape(device, random_shape(&state), &state);
    }
}

Test(gpu_attention, reads_a_ring_that_is_as_small_as_window_and_batch_allow)
{
    uint64_t state = 22;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t rows = 1; rows <= 40; rows += 13)
            for (uint32_t first = 500; first < 503; first++)
                for (enum lode_kv_format format = 0; format < CPU_KV_FORMATS; format++)
                    check_shape(device, (struct shape){4, 2, 64, rows, first, 33, 33 + rows - 1, format, 1},
                                &state);
        check_shape(device, (struct shape){2, 1, 32, 1, 1000, 1, 1, LODE_CACHE_F16, 1}, &state);
        check_shape(device, (struct shape){2, 1, 32, 5, 1000, 3, 7, LODE_CACHE_Q8_0, 1}, &state);
        check_shape(device, (struct shape){2, 1, 32, 9, 0, 1000, 9, LODE_CACHE_F16, 1}, &state);
    }
}

Test(gpu_attention, sees_the_only_position_there_is)
{
    uint64_t state = 23;
    FOR_GPU_DEVICES(device)
    {
        check_shape(device, (struct shape){8, 1, 512, 1, 0, 0, 1, LODE_CACHE_F16, 1}, &state);
        check_shape(device, (struct shape){1, 1, 32, 1, 0, 0, 1, LODE_CACHE_F32, 1}, &state);
    }
}

// Few queries: the keys are cut into parts.
Test(gpu_attention, adds_up_the_parts_of_a_long_context)
{
    uint64_t state = 24;
    FOR_GPU_DEVICES(device)
    {
        check_shape(device, (struct shape){8, 1, 64, 1, 4500, 0, 4501, LODE_CACHE_F16, 0.5f}, &state);
        check_shape(device, (struct shape){3, 1, 32, 1, 4095, 0, 5000, LODE_CACHE_Q8_0, 12},
                    &state); // sharp: most parts weigh 0
        check_shape(device, (struct shape){4, 2, 256, 2, 2100, 1024, 1030, LODE_CACHE_F16, 1}, &state);
        check_shape(device, (struct shape){2, 1, 32, 1, 13000, 0, 13001, LODE_CACHE_F32, 4}, &state);
        for (uint32_t first = 60; first < 70; first++) // parts that end where the keys do, and before
            check_shape(device, (struct shape){8, 1, 32, 1, first, 0, 100, LODE_CACHE_F16, 1}, &state);
    }
}

// Tiles that begin and end within a row of queries, and whose parts are empty for early rows.
Test(gpu_attention, cuts_the_keys_of_a_few_tiles_too)
{
    uint64_t state = 25;
    FOR_GPU_DEVICES(device)
    {
        check_shape(device, (struct shape){8, 1, 64, 3, 700, 0, 703, LODE_CACHE_F16, 1}, &state);
        check_shape(device, (struct shape){5, 1, 64, 9, 300, 0, 309, LODE_CACHE_Q8_0, 1}, &state);
        check_shape(device, (struct shape){1, 1, 32, 40, 0, 0, 40, LODE_CACHE_F32, 1}, &state);
        check_shape(device, (struct shape){1, 1, 32, 200, 0, 0, 200, LODE_CACHE_F16, 1}, &state);
        check_shape(device, (struct shape){2, 1, 512, 11, 150, 100, 111, LODE_CACHE_F16, 1}, &state);
    }
}

Test(gpu_attention, keeps_the_shapes_of_published_models)
{
    uint64_t state = 26;
    FOR_GPU_DEVICES(device)
    {
        check_shape(device, (struct shape){8, 1, 256, 3, 600, 512, 514, LODE_CACHE_F16, 0.3f},
                    &state); // E2B local
        check_shape(device, (struct shape){8, 1, 512, 2, 300, 0, 512, LODE_CACHE_F16, 0.3f},
                    &state); // E2B global
        check_shape(device, (struct shape){16, 8, 256, 1, 1100, 1024, 1100, LODE_CACHE_Q8_0, 0.3f},
                    &state); // 26B local
        check_shape(device, (struct shape){32, 16, 256, 2, 300, 1024, 400, LODE_CACHE_F16, 0.3f},
                    &state); // 31B local
        check_shape(device, (struct shape){16, 1, 512, 3, 100, 0, 128, LODE_CACHE_F16, 0.3f},
                    &state); // 12B global
    }
}

// Without care e^500 would overflow, and the largest score may come first or last.
Test(gpu_attention, stands_large_scores)
{
    uint64_t state = 27;
    FOR_GPU_DEVICES(device)
    {
        for (int round = 0; round < 3; round++)
            check_shape(device, (struct shape){2, 1, 512, 4, 200, 0, 256, LODE_CACHE_F32, 60}, &state);
    }
}

// What a query does not see must not be multiplied with 0 either: it may never have been written.
Test(gpu_attention, passes_on_a_nan_that_it_sees_and_no_other)
{
    uint64_t state = 28;
    FOR_GPU_DEVICES(device)
    {
        for (enum lode_kv_format format = 0; format < CPU_KV_FORMATS; format++)
            for (uint32_t rows = 1; rows <= 9; rows += 8) {
                struct scene scene =
                    make_scene((struct shape){2, 1, 32, rows, 400, 100, 500, format, 1}, &state);
                struct lode_rows out = attend(device, &scene);
                for (uint32_t j = 0; j < out.cols; j++)
                    cr_assert(isfinite(at(out, 0, j)), "%s", device->name);
                free(out.data);
                scene.q.data[3] = NAN; // of head 0
                out = attend(device, &scene);
                for (uint32_t i = 0; i < rows; i++)
                    for (uint32_t j = 0; j < out.cols; j++)
                        cr_assert_eq(!!isnan(at(out, i, j)), i == 0 && j < 32, "%s: row %u value %u",
                                     device->name, i, j);
                free(out.data);
                free_scene(&scene);
            }
    }
}

Test(gpu_attention, gives_the_same_bits_again)
{
    uint64_t state = 29;
    struct shape shapes[] = {{8, 1, 256, 1, 900, 0, 901, LODE_CACHE_F16, 1},
                             {8, 2, 64, 40, 200, 150, 260, LODE_CACHE_Q8_0, 1}};
    FOR_GPU_DEVICES(device)
    {
        for (int i = 0; i < 2; i++) {
            struct scene scene = make_scene(shapes[i], &state);
            struct lode_rows once = attend(device, &scene), again = attend(device, &scene);
            check_same_bits(once, again, device->name);
            free(once.data), free(again.data);
            free_scene(&scene);
        }
    }
}
