// The GPUs' small operations against the same formulas in double, and what is stored in a cache against the
// CPU's bytes.
#include "tests/gpu_devices.h"
#include "tests/ops_reference.h"

static const struct lode_limits limits = {.rows = 64, .n_heads = 32, .head_size = 512};

// Of the group of lanes that takes short rows, of the block that takes wide ones, and around both.
static const uint32_t widths[] = {1, 3, 31, 32, 100, 256, 257, 512, 513, 704, 2816, 5376};
#define N_WIDTHS (sizeof widths / sizeof *widths)

static void free_rows(struct lode_rows rows)
{
    free(rows.data);
}

// ---- norms

static void check_rms_norm(struct lode_device *device, struct lode_rows x, const struct lode_rows *weight,
                           uint64_t *state)
{
    struct lode_rows out = make_rows(x.n, x.cols, 1, state);
    struct lode_rows x_up = gpu_rows_up(device, x), out_up = gpu_rows_up(device, out);
    struct lode_rows weight_up = {0};
    if (weight)
        weight_up = gpu_rows_up(device, *weight);
    device->ops->rms_norm(device, out_up, x_up, weight_up.data, 1e-6f, 0.5f);
    gpu_rows_down(device, out, out_up);
    for (uint32_t i = 0; i < x.n; i++) {
        const double factor = inverse_rms(x, i, 1e-6f) * 0.5;
        for (uint32_t j = 0; j < x.cols; j++)
            check_close(at(out, i, j), (double)at(x, i, j) * factor * (weight ? (double)weight->data[j] : 1),
                        4e-7, 1e-30, "%s: row %u of %u columns", device->name, i, x.cols);
    }
    check_gaps(out, device->name);

    device->ops->rms_norm(device, x_up, x_up, weight_up.data, 1e-6f, 0.5f);
    struct lode_rows in_place = copy_rows(x);
    gpu_rows_down(device, in_place, x_up);
    check_same_bits(in_place, out, device->name);
    check_gaps(in_place, device->name);
    gpu_release(device, x_up.data), gpu_release(device, out_up.data), gpu_release(device, weight_up.data);
    free_rows(out), free_rows(in_place);
}

Test(gpu_ops, rms_norm_follows_its_formula)
{
    uint64_t state = 1;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            struct lode_rows x = make_rows(1 + random_below(&state, 20), widths[w], 3, &state);
            struct lode_rows weight = make_rows(1, widths[w], 2, &state);
            check_rms_norm(device, x, &weight, &state);
            check_rms_norm(device, x, NULL, &state);
            free_rows(x), free_rows(weight);
        }
    }
}

Test(gpu_ops, rms_norm_of_zeros_is_zero)
{
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t cols = 40; cols <= 640; cols += 600) {
            float x[640] = {0};
            struct lode_rows rows = {x, 1, cols, cols}, up = gpu_rows_up(device, rows);
            device->ops->rms_norm(device, up, up, NULL, 1e-6f, 1);
            gpu_rows_down(device, rows, up);
            for (uint32_t j = 0; j < cols; j++)
                cr_assert_eq(x[j], 0);
            gpu_release(device, up.data);
        }
    }
}

Test(gpu_ops, add_rms_norm_follows_its_formula)
{
    uint64_t state = 2;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            const uint32_t n = 1 + random_below(&state, 20);
            struct lode_rows x = make_rows(n, widths[w], 3, &state), old = make_rows(n, widths[w], 4, &state);
            struct lode_rows weight = make_rows(1, widths[w], 2, &state), residual = copy_rows(old);
            struct lode_rows x_up = gpu_rows_up(device, x), weight_up = gpu_rows_up(device, weight),
                             residual_up = gpu_rows_up(device, residual);
            device->ops->add_rms_norm(device, residual_up, x_up, weight_up.data, 1e-6f, 0.75f);
            gpu_rows_down(device, residual, residual_up);
            for (uint32_t i = 0; i < n; i++) {
                const double factor = inverse_rms(x, i, 1e-6f);
                for (uint32_t j = 0; j < x.cols; j++) {
                    const double term = (double)at(x, i, j) * factor * (double)weight.data[j];
                    check_close(at(residual, i, j), ((double)at(old, i, j) + term) * 0.75, 3e-7,
                                3e-7 * fabs(term), "%s: row %u of %u columns", device->name, i, x.cols);
                }
            }
            check_gaps(residual, device->name);
            gpu_release(device, x_up.data), gpu_release(device, weight_up.data);
            gpu_release(device, residual_up.data);
            free_rows(x), free_rows(old), free_rows(weight), free_rows(residual);
        }
    }
}

// ---- single values

enum operation { ADD, GEGLU_OF_A, GEGLU_OF_B, SCALE, SOFTCAP, OPERATIONS };

static void operate(struct lode_device *device, enum operation operation, struct lode_rows out,
                    struct lode_rows a, struct lode_rows b)
{
    switch (operation) {
    case ADD:
        device->ops->add(device, out, a, b, 0.7f);
        break;
    case GEGLU_OF_A:
    case GEGLU_OF_B:
        device->ops->geglu(device, out, a, b);
        break;
    case SCALE:
        device->ops->scale(device, out, -1.3f);
        break;
    default:
        device->ops->softcap(device, out, 5);
    }
}

static void check_value(enum operation operation, const char *name, float got, double x, double y)
{
    switch (operation) {
    case ADD:
        check_close(got, (x + y) * (double)0.7f, 2e-7, 1e-6, "%s: add", name);
        break;
    case GEGLU_OF_A:
    case GEGLU_OF_B:
        check_close(got, gelu_tanh(x) * y, 5e-7, 2e-7, "%s: geglu of %g", name, x);
        break;
    case SCALE:
        check_close(got, x * (double)-1.3f, 1e-7, 0, "%s: scale", name);
        break;
    default:
        check_close(got, 5 * tanh(x / 5), 4e-7, 0, "%s: softcap of %g", name, x);
    }
}

// The result takes the place of a, or for GEGLU_OF_B that of b.
static void check_operation(struct lode_device *device, enum operation operation, struct lode_rows a,
                            struct lode_rows b)
{
    struct lode_rows a_up = gpu_rows_up(device, a), b_up = gpu_rows_up(device, b);
    struct lode_rows out = copy_rows(a), out_up = operation == GEGLU_OF_B ? b_up : a_up;
    operate(device, operation, out_up, a_up, b_up);
    gpu_rows_down(device, out, out_up);
    for (uint32_t i = 0; i < a.n; i++)
        for (uint32_t j = 0; j < a.cols; j++)
            check_value(operation, device->name, at(out, i, j), (double)at(a, i, j), (double)at(b, i, j));
    check_gaps(out, device->name);
    gpu_release(device, a_up.data), gpu_release(device, b_up.data);
    free_rows(out);
}

Test(gpu_ops, add_scale_geglu_and_softcap_follow_their_formulas)
{
    uint64_t state = 3;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            const uint32_t n = 1 + random_below(&state, 6);
            struct lode_rows a = make_rows(n, widths[w], 12, &state), b = make_rows(n, widths[w], 3, &state);
            for (enum operation operation = 0; operation < OPERATIONS; operation++)
                check_operation(device, operation, a, b);
            free_rows(a), free_rows(b);
        }
    }
}

Test(gpu_ops, a_row_as_long_as_a_vocabulary_is_capped)
{
    uint64_t state = 4;
    struct lode_rows x = make_rows(1, 262144, 90, &state);
    FOR_GPU_DEVICES(device)
    {
        struct lode_rows out = copy_rows(x), up = gpu_rows_up(device, x);
        device->ops->softcap(device, up, 30);
        gpu_rows_down(device, out, up);
        for (uint32_t j = 0; j < x.cols; j += 37)
            check_close(at(out, 0, j), 30 * tanh((double)at(x, 0, j) / 30), 4e-7, 0, "%s", device->name);
        gpu_release(device, up.data);
        free_rows(out);
    }
    free_rows(x);
}

Test(gpu_ops, tanh_and_gelu_are_close_over_their_whole_range)
{
    enum { n = 20001 };
    uint64_t state = 5;
    struct lode_rows x = make_rows(1, n, 1, &state), ones = copy_rows(x);
    for (int i = 0; i < n; i++) {
        x.data[i] = 20 * (float)(i - n / 2) / (n / 2);
        ones.data[i] = 1;
    }
    FOR_GPU_DEVICES(device)
    {
        struct lode_rows out = copy_rows(x), up = gpu_rows_up(device, x), ones_up = gpu_rows_up(device, ones);
        device->ops->softcap(device, up, 1);
        gpu_rows_down(device, out, up);
        for (int i = 0; i < n; i++)
            check_close(out.data[i], tanh((double)x.data[i]), 2.4e-7, 0, "%s: tanh(%g)", device->name,
                        (double)x.data[i]);
        gpu_release(device, up.data);
        up = gpu_rows_up(device, x);
        device->ops->geglu(device, up, up, ones_up);
        gpu_rows_down(device, out, up);
        for (int i = 0; i < n; i++)
            check_close(out.data[i], gelu_tanh((double)x.data[i]), x.data[i] > -3 ? 1e-6 : 0, 1e-7,
                        "%s: gelu(%g)", device->name, (double)x.data[i]);
        gpu_release(device, up.data), gpu_release(device, ones_up.data);
        free_rows(out);
    }
    free_rows(x), free_rows(ones);
}

Test(gpu_ops, extreme_values_stay_what_they_are)
{
    float values[] = {0, -0.0f, INFINITY, NAN, 1e30f, -1e30f, -1e-30f}, ones[] = {1, 1, 1, 1, 1, 1, 1}, y[7];
    const struct lode_rows x = {values, 1, 7, 7}, one = {ones, 1, 7, 7}, out = {y, 1, 7, 7};
    FOR_GPU_DEVICES(device)
    {
        struct lode_rows up = gpu_rows_up(device, x), ones_up = gpu_rows_up(device, one);
        device->ops->geglu(device, up, up, ones_up);
        gpu_rows_down(device, out, up);
        cr_assert(y[0] == 0 && y[1] == 0 && y[2] == INFINITY && isnan(y[3]) && y[4] == 1e30f);
        cr_assert(fabsf(y[5]) < 1e-6f);
        gpu_release(device, up.data);
        up = gpu_rows_up(device, x);
        device->ops->softcap(device, up, 30);
        gpu_rows_down(device, out, up);
        cr_assert(y[0] == 0 && y[2] == 30 && isnan(y[3]) && y[4] == 30 && y[5] == -30);
        cr_assert(fabsf(y[6] / -1e-30f - 1) < 1e-6f);
        gpu_release(device, up.data), gpu_release(device, ones_up.data);
    }
}

// ---- RoPE

static void check_rope(struct lode_device *device, uint32_t n, uint32_t n_heads, uint32_t head_size,
                       uint32_t first_position, double base, uint64_t *state)
{
    const uint32_t half = head_size / 2;
    float frequency[256];
    for (uint32_t j = 0; j < half; j++)
        frequency[j] = j % 9 == 8 ? 0 : (float)pow(base, -2.0 * j / head_size); // some elements do not rotate
    struct lode_rows x = make_rows(n, n_heads * head_size, 1, state), out = copy_rows(x);
    struct lode_rows up = gpu_rows_up(device, x);
    const float *frequency_up = gpu_bytes_up(device, frequency, half * sizeof *frequency);
    device->ops->rope(device, up, n_heads, head_size, first_position, frequency_up);
    gpu_rows_down(device, out, up);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < half; j++) {
            const double angle = (double)(first_position + i) * (double)frequency[j], c = cos(angle),
                         s = sin(angle);
            for (uint32_t h = 0; h < n_heads; h++) {
                const uint32_t at_a = h * head_size + j, at_b = at_a + half;
                const double a = (double)at(x, i, at_a), b = (double)at(x, i, at_b);
                check_close(at(out, i, at_a), a * c - b * s, 0, 2.5e-7, "%s: position %u pair %u",
                            device->name, first_position + i, j);
                check_close(at(out, i, at_b), b * c + a * s, 0, 2.5e-7, "%s: position %u pair %u",
                            device->name, first_position + i, j);
            }
        }
    check_gaps(out, device->name);
    gpu_release(device, up.data), gpu_release(device, frequency_up);
    free_rows(x), free_rows(out);
}

Test(gpu_ops, rope_turns_pairs_by_angles_exact_up_to_the_longest_context)
{
    uint64_t state = 6;
    FOR_GPU_DEVICES(device)
    {
        check_rope(device, 7, 3, 32, 0, 1e4, &state);
        check_rope(device, 33, 8, 256, 1000, 1e4, &state);
        check_rope(device, 5, 2, 256, 262139, 1e4, &state);
        check_rope(device, 40, 1, 512, 262104, 1e6, &state);
        check_rope(device, 1, 5, 96, 131071, 1e4, &state);
        for (uint32_t i = 0; i < 40; i++)
            check_rope(device, 9, 1, 256, random_below(&state, 262144), 2, &state);
    }
}

// ---- KV store

// The cache must have the CPU's bytes, also where nothing is stored.
static void check_store(struct lode_device *device, struct lode_kv shape, uint32_t n, uint32_t first,
                        uint64_t *state)
{
    struct variant portable = {"portable", cpu_vector_kernels_for(CPU_ISA_PORTABLE)};
    struct cpu_device cpu = make_device(&portable, 1, &limits);
    struct cache want = make_cache(shape.format, shape.n_heads, shape.head_size, shape.capacity);
    struct lode_kv kv = want.kv;
    kv.k = gpu_bytes_up(device, want.kv.k, want.bytes);
    kv.v = gpu_bytes_up(device, want.kv.v, want.bytes);
    struct lode_rows k = make_rows(n, shape.n_heads * shape.head_size, 5, state);
    struct lode_rows v = make_rows(n, k.cols, random_below(state, 4) ? 1 : 1e-6f, state);
    for (uint32_t j = 0; j < 32; j++)
        k.data[j] = 0;
    v.data[5] = -70000; // beyond what a half holds
    struct lode_rows k_up = gpu_rows_up(device, k), v_up = gpu_rows_up(device, v);
    cpu_kv_store(&cpu.base, &want.kv, k, v, first);
    device->ops->kv_store(device, &kv, k_up, v_up, first);
    char *got = malloc(want.bytes);
    gpu_bytes_down(device, got, kv.k, want.bytes);
    cr_assert_eq(memcmp(got, want.kv.k, want.bytes), 0, "%s: K", device->name);
    gpu_bytes_down(device, got, kv.v, want.bytes);
    cr_assert_eq(memcmp(got, want.kv.v, want.bytes), 0, "%s: V", device->name);
    gpu_release(device, kv.k), gpu_release(device, kv.v);
    gpu_release(device, k_up.data), gpu_release(device, v_up.data);
    free(got), free(want.kv.k), free(want.kv.v), free_rows(k), free_rows(v);
    cpu_vector_release(&cpu.vector_scratch);
}

Test(gpu_ops, kv_store_puts_rows_into_the_ring_as_the_cpu_does)
{
    uint64_t state = 8;
    FOR_GPU_DEVICES(device)
    {
        for (uint32_t round = 0; round < 60; round++) {
            const struct lode_kv shape = {.format = round % CPU_KV_FORMATS,
                                          .n_heads = 1 + random_below(&state, 4),
                                          .head_size = 32 * (1 + random_below(&state, 16)),
                                          .capacity = 1 + random_below(&state, 60)};
            check_store(device, shape, 1 + random_below(&state, 40), random_below(&state, 1000), &state);
        }
    }
}

Test(gpu_ops, halves_round_to_nearest_even_over_their_whole_range)
{
    enum { n = 1 << 15, head_size = 512 };
    uint64_t state = 9;
    struct lode_rows x = make_rows(n / head_size, head_size, 1, &state);
    FOR_GPU_DEVICES(device)
    {
        // Every positive half and the point between it and the next, negative ones in V.
        for (uint32_t part = 0; part < 2; part++) {
            for (uint32_t i = 0; i < n; i++) {
                const uint32_t step = part * n + i;
                const float below = lode_f16_to_f32((uint16_t)(step / 2)),
                            above = lode_f16_to_f32((uint16_t)(step / 2 + 1));
                x.data[i / head_size * x.stride + i % head_size] =
                    step % 2 ? below * 0.5f + above * 0.5f : below;
            }
            struct lode_rows negative = copy_rows(x);
            for (uint32_t i = 0; i < x.n * x.stride; i++)
                negative.data[i] = -negative.data[i];
            struct lode_rows k_up = gpu_rows_up(device, x), v_up = gpu_rows_up(device, negative);
            uint16_t *half = calloc(n, sizeof *half);
            const struct lode_kv kv = {gpu_bytes_up(device, half, n * 2),
                                       gpu_bytes_up(device, half, n * 2),
                                       LODE_CACHE_F16,
                                       1,
                                       head_size,
                                       x.n};
            device->ops->kv_store(device, &kv, k_up, v_up, 0);
            for (uint32_t sign = 0; sign < 2; sign++) {
                gpu_bytes_down(device, half, sign ? kv.v : kv.k, n * 2);
                for (uint32_t i = 0; i < n; i++) {
                    const float value = (sign ? negative : x).data[i / head_size * x.stride + i % head_size];
                    if (isnan(value))
                        cr_assert(isnan(lode_f16_to_f32(half[i])), "%s: NaN", device->name);
                    else
                        cr_assert_eq(half[i], lode_f32_to_f16(value), "%s: %a became %04x", device->name,
                                     (double)value, half[i]);
                }
            }
            gpu_release(device, kv.k), gpu_release(device, kv.v);
            gpu_release(device, k_up.data), gpu_release(device, v_up.data);
            free(half), free_rows(negative);
        }
    }
    free_rows(x);
}
