// The GPUs' router and the sum of experts' results against the same formulas in double.
#include "tests/gpu_devices.h"
#include "tests/ops_reference.h"

static void check_router(struct lode_device *device, struct lode_rows logits, uint32_t k,
                         const struct lode_rows *scale)
{
    const uint32_t n = logits.n;
    int32_t *ids = malloc((n * k + 1) * sizeof *ids);
    float *weights = malloc((n * k + 1) * sizeof *weights);
    for (uint32_t i = 0; i <= n * k; i++) {
        ids[i] = 777;
        weights[i] = 777;
    }
    struct lode_rows logits_up = gpu_rows_up(device, logits), scale_up = {0};
    if (scale)
        scale_up = gpu_rows_up(device, *scale);
    int32_t *ids_up = gpu_bytes_up(device, ids, (n * k + 1) * sizeof *ids);
    float *weights_up = gpu_bytes_up(device, weights, (n * k + 1) * sizeof *weights);
    device->ops->router(device, ids_up, weights_up, logits_up, k, scale_up.data);
    gpu_bytes_down(device, ids, ids_up, (n * k + 1) * sizeof *ids);
    gpu_bytes_down(device, weights, weights_up, (n * k + 1) * sizeof *weights);
    for (uint32_t i = 0; i < n; i++)
        check_routing(device->name, ids + i * k, weights + i * k, logits.data + i * logits.stride,
                      logits.cols, k, scale ? scale->data : NULL);
    cr_assert(ids[n * k] == 777 && weights[n * k] == 777);
    gpu_release(device, logits_up.data), gpu_release(device, scale_up.data);
    gpu_release(device, ids_up), gpu_release(device, weights_up);
    free(ids), free(weights);
}

Test(gpu_router, takes_the_largest_and_of_equals_the_lower_id)
{
    uint64_t state = 6;
    FOR_GPU_DEVICES(device)
    {
        for (int round = 0; round < 60; round++) {
            const uint32_t n_experts = 1 + random_below(&state, 200), n = 1 + random_below(&state, 40);
            const uint32_t k = 1 + random_below(&state, n_experts < 12 ? n_experts : 12);
            struct lode_rows logits = make_rows(n, n_experts, 8, &state),
                             scale = make_rows(1, n_experts, 2, &state);
            if (round % 3 == 0) // many ties, of zeros of both signs too
                for (uint32_t i = 0; i < n * logits.stride; i++)
                    logits.data[i] = roundf(logits.data[i] / 4);
            check_router(device, logits, k, round % 2 ? &scale : NULL);
            free(logits.data), free(scale.data);
        }
    }
}

Test(gpu_router, orders_all_experts_of_a_row)
{
    uint64_t state = 7;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t n_experts = 1; n_experts <= 256; n_experts *= 2)
            for (uint32_t ties = 0; ties < 2; ties++) {
                struct lode_rows logits = make_rows(1 + ties, n_experts, 8, &state);
                for (uint32_t i = 0; ties && i < logits.n * logits.stride; i++)
                    logits.data[i] = roundf(logits.data[i] / 4);
                check_router(device, logits, n_experts, NULL);
                free(logits.data);
            }
    }
}

// More logits than are looked at in one go, all equal: the largest probability is below 2^-14.
Test(gpu_router, bounds_the_divisor_when_the_chosen_are_improbable)
{
    enum { n = 17000 };
    uint64_t state = 8;
    struct lode_rows logits = make_rows(1, n, 0, &state);
    FOR_GPU_DEVICES(device)
    {
        struct lode_rows up = gpu_rows_up(device, logits);
        int32_t id = 0, *id_up = gpu_bytes_up(device, &id, sizeof id);
        float weight = 0, *weight_up = gpu_bytes_up(device, &weight, sizeof weight);
        device->ops->router(device, id_up, weight_up, up, 1, NULL);
        gpu_bytes_down(device, &id, id_up, sizeof id);
        gpu_bytes_down(device, &weight, weight_up, sizeof weight);
        cr_assert_eq(id, 0);
        check_close(weight, 1.0 / n / 0x1p-14, 1e-6, 0, "%s", device->name);
        gpu_release(device, up.data), gpu_release(device, id_up), gpu_release(device, weight_up);
    }
    free(logits.data);
}

Test(gpu_router, names_valid_experts_even_for_nan)
{
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t n_nan = 1; n_nan <= 10; n_nan++) {
            float logits[10], weights[10];
            int32_t ids[10];
            for (uint32_t i = 0; i < 10; i++) {
                logits[i] = i < n_nan ? NAN : (float)i;
                ids[i] = -5;
            }
            const struct lode_rows up = gpu_rows_up(device, (struct lode_rows){logits, 1, 10, 10});
            int32_t *ids_up = gpu_bytes_up(device, ids, sizeof ids);
            float *weights_up = gpu_bytes_up(device, logits, sizeof weights);
            device->ops->router(device, ids_up, weights_up, up, 10, NULL);
            gpu_bytes_down(device, ids, ids_up, sizeof ids);
            uint32_t named = 0;
            for (uint32_t r = 0; r < 10; r++) {
                cr_assert(ids[r] >= 0 && ids[r] < 10);
                named |= 1u << ids[r];
            }
            cr_assert_eq(named, 0x3ff, "%s: an expert is named twice", device->name);
            gpu_release(device, up.data), gpu_release(device, ids_up), gpu_release(device, weights_up);
        }
    }
}

// Slots of weight 0 hold NaN.
static void check_combine(struct lode_device *device, uint32_t cols, uint64_t *state)
{
    const uint32_t n = 1 + random_below(state, 20), k = 1 + random_below(state, 9);
    struct lode_rows slots = make_rows(n * k, cols, 2, state), out = make_rows(n, cols, 1, state);
    struct lode_rows weights = make_rows(1, n * k, 1, state);
    for (uint32_t i = 0; i < n * k; i++)
        if (random_below(state, 3) == 0) {
            weights.data[i] = i % 2 ? 0.0f : -0.0f;
            for (uint32_t j = 0; j < cols; j++)
                slots.data[i * slots.stride + j] = i % 5 ? NAN : INFINITY;
        }
    struct lode_rows slots_up = gpu_rows_up(device, slots), out_up = gpu_rows_up(device, out),
                     weights_up = gpu_rows_up(device, weights);
    device->ops->experts_combine(device, out_up, slots_up, weights_up.data, k);
    gpu_rows_down(device, out, out_up);
    check_combined(device->name, out, slots, weights.data, k);
    check_gaps(out, device->name);
    gpu_release(device, slots_up.data), gpu_release(device, out_up.data);
    gpu_release(device, weights_up.data);
    free(slots.data), free(out.data), free(weights.data);
}

Test(gpu_router, experts_combine_adds_weighted_slots_and_reads_none_of_weight_0)
{
    static const uint32_t widths[] = {1, 31, 255, 256, 257, 704, 2816};
    uint64_t state = 9;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t w = 0; w < sizeof widths / sizeof *widths; w++)
            check_combine(device, widths[w], &state);
    }
}
