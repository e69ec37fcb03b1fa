// The CPU's small operations against the same formulas in double.
#include "tests/ops_reference.h"

static const struct lode_limits limits = {.rows = 64, .n_heads = 32, .head_size = 512};
static const uint32_t widths[] = {1, 3, 7, 16, 31, 100, 256, 704, 5376, 9000};
#define N_WIDTHS (sizeof widths / sizeof *widths)

Test(cpu_ops, rms_norm_follows_its_formula)
{
    uint64_t state = 1;
    FOR_VARIANTS(variant)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            for (uint32_t threads = 1; threads <= 2; threads++) {
                struct cpu_device device = make_device(variant, threads, &limits);
                uint32_t n = 1 + random_below(&state, 40);
                struct lode_rows x = make_rows(n, widths[w], 3, &state),
                                 out = make_rows(n, widths[w], 1, &state);
                struct lode_rows weight = make_rows(1, widths[w], 2, &state);
                const float *weights[] = {weight.data, NULL};
                for (int given = 0; given < 2; given++) {
                    cpu_rms_norm(&device.base, out, x, weights[given], 1e-6f, 0.5f);
                    for (uint32_t i = 0; i < n; i++) {
                        double factor = inverse_rms(x, i, 1e-6f) * 0.5;
                        for (uint32_t j = 0; j < x.cols; j++)
                            check_close(at(out, i, j),
                                        (double)at(x, i, j) * factor * (given ? 1 : (double)weight.data[j]),
                                        4e-7, 1e-30, "%s: row %u of %u columns", variant->name, i, x.cols);
                    }
                    check_gaps(out, variant->name);
                }
                struct lode_rows in_place = copy_rows(x);
                cpu_rms_norm(&device.base, in_place, in_place, NULL, 1e-6f, 0.5f);
                check_same_bits(in_place, out, variant->name);
                free(in_place.data), free(x.data), free(out.data), free(weight.data);
                cpu_vector_release(&device.vector_scratch);
            }
        }
    }
}

Test(cpu_ops, rms_norm_of_zeros_is_zero)
{
    FOR_VARIANTS(variant)
    {
        struct cpu_device device = make_device(variant, 1, &limits);
        float x[40] = {0};
        struct lode_rows rows = {x, 1, 40, 40};
        cpu_rms_norm(&device.base, rows, rows, NULL, 1e-6f, 1);
        for (int j = 0; j < 40; j++)
            cr_assert_eq(x[j], 0);
        cpu_vector_release(&device.vector_scratch);
    }
}

Test(cpu_ops, add_rms_norm_follows_its_formula)
{
    uint64_t state = 2;
    FOR_VARIANTS(variant)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            struct cpu_device device = make_device(variant, 1 + w % 2, &limits);
            uint32_t n = 1 + random_below(&state, 40);
            struct lode_rows x = make_rows(n, widths[w], 3, &state), old = make_rows(n, widths[w], 4, &state);
            struct lode_rows residual = copy_rows(old), weight = make_rows(1, widths[w], 2, &state);
            cpu_add_rms_norm(&device.base, residual, x, weight.data, 1e-6f, 0.75f);
            for (uint32_t i = 0; i < n; i++) {
                double factor = inverse_rms(x, i, 1e-6f);
                for (uint32_t j = 0; j < x.cols; j++) {
                    double term = (double)at(x, i, j) * factor * (double)weight.data[j];
                    check_close(at(residual, i, j), ((double)at(old, i, j) + term) * 0.75, 3e-7,
                                3e-7 * fabs(term), "%s: row %u of %u columns", variant->name, i, x.cols);
                }
            }
            check_gaps(residual, variant->name);
            free(x.data), free(old.data), free(residual.data), free(weight.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

Test(cpu_ops, add_scale_geglu_and_softcap_follow_their_formulas)
{
    uint64_t state = 3;
    FOR_VARIANTS(variant)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            struct cpu_device device = make_device(variant, 1 + w % 2, &limits);
            uint32_t n = 1 + random_below(&state, 12);
            struct lode_rows a = make_rows(n, widths[w], 12, &state), b = make_rows(n, widths[w], 3, &state);
            struct lode_rows sum = copy_rows(a), product = copy_rows(a), gate = copy_rows(b);
            struct lode_rows scaled = copy_rows(a), capped = copy_rows(a);
            cpu_add(&device.base, sum, sum, b, 0.7f);
            cpu_geglu(&device.base, product, product, b);
            cpu_geglu(&device.base, gate, a, gate);
            cpu_scale(&device.base, scaled, -1.3f);
            cpu_softcap(&device.base, capped, 5);
            check_same_bits(product, gate, "aliasing either operand");
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < a.cols; j++) {
                    double x = (double)at(a, i, j), y = (double)at(b, i, j);
                    check_close(at(sum, i, j), (x + y) * (double)0.7f, 2e-7, 1e-6, "%s: add", variant->name);
                    check_close(at(product, i, j), gelu_tanh(x) * y, 5e-7, 2e-7, "%s: geglu of %g",
                                variant->name, x);
                    check_close(at(scaled, i, j), x * (double)-1.3f, 1e-7, 0, "%s: scale", variant->name);
                    check_close(at(capped, i, j), 5 * tanh(x / 5), 4e-7, 0, "%s: softcap of %g",
                                variant->name, x);
                }
            check_gaps(sum, "add"), check_gaps(product, "geglu"), check_gaps(scaled, "scale");
            check_gaps(capped, "softcap");
            free(a.data), free(b.data), free(sum.data), free(product.data), free(gate.data),
                free(scaled.data);
            free(capped.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

Test(cpu_ops, exp_tanh_and_gelu_are_close_over_their_whole_range)
{
    enum { n = 200001 };
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y), *ones = malloc(n * sizeof *ones);
    FOR_VARIANTS(variant)
    {
        for (int i = 0; i < n; i++) {
            x[i] = -86.9f * (float)i / (n - 1);
            ones[i] = 1;
        }
        double sum = variant->kernels->exp_sum(y, x, 0, 2000), want_sum = 0;
        for (int i = 0; i < 2000; i++)
            want_sum += exp((double)x[i]);
        check_close(sum, want_sum, 3e-7, 0, "%s: sum of powers", variant->name);
        variant->kernels->exp_sum(y, x, 0, n);
        for (int i = 0; i < n; i++)
            check_close(y[i], exp((double)x[i]), 2.4e-7, 0, "%s: exp(%g)", variant->name, (double)x[i]);

        for (int i = 0; i < n; i++)
            x[i] = y[i] = 20 * (float)(i - n / 2) / (n / 2);
        variant->kernels->softcap(y, 1, n);
        for (int i = 0; i < n; i++)
            check_close(y[i], tanh((double)x[i]), 2.4e-7, 0, "%s: tanh(%g)", variant->name, (double)x[i]);
        variant->kernels->geglu(y, x, ones, n);
        for (int i = 0; i < n; i++)
            check_close(y[i], gelu_tanh((double)x[i]), x[i] > -3 ? 1e-6 : 0, 1e-7, "%s: gelu(%g)",
                        variant->name, (double)x[i]);
    }
    free(x), free(y), free(ones);
}

Test(cpu_ops, extreme_values_stay_what_they_are)
{
    FOR_VARIANTS(variant)
    {
        float x[19], ones[19], y[19];
        const float values[] = {0, -0.0f, INFINITY, NAN, 1e30f, -1e30f, -1e-30f};
        for (int i = 0; i < 19; i++) {
            x[i] = values[i % 7];
            ones[i] = 1;
        }
        variant->kernels->geglu(y, x, ones, 19);
        for (int i = 0; i < 19; i++) {
            cr_assert(i % 7 != 3 || isnan(y[i]), "%s: gelu hides NaN", variant->name);
            cr_assert(i % 7 != 2 || y[i] == INFINITY, "%s: gelu of infinity", variant->name);
            cr_assert(i % 7 != 4 || y[i] == 1e30f, "%s: gelu of 1e30", variant->name);
            cr_assert(i % 7 != 5 || fabsf(y[i]) < 1e-6f, "%s: gelu of -1e30", variant->name);
        }
        memcpy(y, x, sizeof y);
        variant->kernels->softcap(y, 30, 19);
        for (int i = 0; i < 19; i++) {
            cr_assert(i % 7 != 3 || isnan(y[i]), "%s: softcap hides NaN", variant->name);
            cr_assert(i % 7 != 2 || y[i] == 30, "%s: softcap of infinity", variant->name);
            cr_assert(i % 7 != 5 || y[i] == -30, "%s: softcap of -1e30", variant->name);
            cr_assert(i % 7 != 6 || fabsf(y[i] / -1e-30f - 1) < 1e-6f, "%s: softcap of -1e-30",
                      variant->name);
        }
        float far[2] = {-200, -INFINITY};
        cr_assert_eq(variant->kernels->exp_sum(far, far, 0, 2), 0, "%s: exp does not underflow to 0",
                     variant->name);
    }
}

Test(cpu_ops, a_long_row_is_shared_by_threads_with_the_same_bits)
{
    uint64_t state = 4;
    struct lode_rows x = make_rows(1, 262144, 90, &state), first = {0};
    FOR_VARIANTS(variant)
    {
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct cpu_device device = make_device(variant, threads, &limits);
            struct lode_rows capped = copy_rows(x);
            cpu_softcap(&device.base, capped, 30);
            if (threads == 1) {
                first = capped;
                for (uint32_t j = 0; j < x.cols; j += 97)
                    check_close(at(capped, 0, j), 30 * tanh((double)at(x, 0, j) / 30), 4e-7, 0, "%s",
                                variant->name);
            } else {
                check_same_bits(capped, first, variant->name);
                free(capped.data);
            }
            cpu_vector_release(&device.vector_scratch);
        }
        free(first.data);
    }
    free(x.data);
}

// ---- RoPE
// ----------------------------------------------------------------------------------------------------

static void check_rope(const struct variant *variant, uint32_t threads, uint32_t n, uint32_t n_heads,
                       uint32_t head_size, uint32_t first_position, double base, uint64_t *state)
{
    struct cpu_device device = make_device(variant, threads, &limits);
    uint32_t half = head_size / 2;
    float frequency[256];
    for (uint32_t j = 0; j < half; j++)
        frequency[j] = j % 9 == 8 ? 0 : (float)pow(base, -2.0 * j / head_size); // some elements do not rotate
    struct lode_rows x = make_rows(n, n_heads * head_size, 1, state), out = copy_rows(x);
    cpu_rope(&device.base, out, n_heads, head_size, first_position, frequency);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)(first_position + i) * (double)frequency[j], c = cos(angle),
                   s = sin(angle);
            for (uint32_t h = 0; h < n_heads; h++) {
                uint32_t at_a = h * head_size + j, at_b = at_a + half;
                double a = (double)at(x, i, at_a), b = (double)at(x, i, at_b);
                check_close(at(out, i, at_a), a * c - b * s, 0, 2.5e-7, "%s: position %u pair %u",
                            variant->name, first_position + i, j);
                check_close(at(out, i, at_b), b * c + a * s, 0, 2.5e-7, "%s: position %u pair %u",
                            variant->name, first_position + i, j);
            }
        }
    check_gaps(out, variant->name);
    free(x.data), free(out.data);
    cpu_vector_release(&device.vector_scratch);
}

Test(cpu_ops, rope_turns_pairs_by_angles_exact_up_to_the_longest_context)
{
    uint64_t state = 5;
    FOR_VARIANTS(variant)
    {
        check_rope(variant, 1, 7, 3, 32, 0, 1e4, &state);
        check_rope(variant, 2, 33, 8, 256, 1000, 1e4, &state);
        check_rope(variant, 2, 5, 2, 256, 262139, 1e4, &state);
        check_rope(variant, 1, 40, 1, 512, 262104, 1e6, &state);
        check_rope(variant, 1, 1, 4, 96, 131071, 1e4, &state);
    }
}

// ---- router
// --------------------------------------------------------------------------------------------------

Test(cpu_ops, router_takes_the_largest_and_of_equals_the_lower_id)
{
    uint64_t state = 6;
    FOR_VARIANTS(variant)
    {
        for (int round = 0; round < 60; round++) {
            struct cpu_device device = make_device(variant, 1 + (uint32_t)round % 2, &limits);
            uint32_t n_experts = 1 + random_below(&state, 200), n = 1 + random_below(&state, 40);
            uint32_t k = 1 + random_below(&state, n_experts < 12 ? n_experts : 12);
            struct lode_rows logits = make_rows(n, n_experts, 8, &state),
                             scale = make_rows(1, n_experts, 2, &state);
            if (round % 3 == 0) // many ties
                for (uint32_t i = 0; i < n * logits.stride; i++)
                    logits.data[i] = roundf(logits.data[i] / 4);
            int32_t *ids = malloc((n * k + 1) * sizeof *ids);
            float *weights = malloc((n * k + 1) * sizeof *weights);
            ids[n * k] = 777;
            weights[n * k] = 777;
            const float *scales = round % 2 ? scale.data : NULL;
            cpu_router(&device.base, ids, weights, logits, k, scales);
            for (uint32_t i = 0; i < n; i++)
                check_routing(variant->name, ids + i * k, weights + i * k, logits.data + i * logits.stride,
                              n_experts, k, scales);
            cr_assert(ids[n * k] == 777 && weights[n * k] == 777);
            free(ids), free(weights), free(logits.data), free(scale.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

Test(cpu_ops, router_bounds_the_divisor_when_the_chosen_are_improbable)
{
    enum { n = 60000 }; // equal logits: the sum of two probabilities is 1/30000, below 2^-14
    float *logits = calloc(n, sizeof *logits);
    FOR_VARIANTS(variant)
    {
        struct cpu_device device = make_device(variant, 1, &limits);
        int32_t ids[2];
        float weights[2];
        cpu_router(&device.base, ids, weights, (struct lode_rows){logits, 1, n, n}, 2, NULL);
        cr_assert(ids[0] == 0 && ids[1] == 1);
        check_close(weights[0], 1.0 / n / 0x1p-14, 1e-6, 0, "%s", variant->name);
        cpu_vector_release(&device.vector_scratch);
    }
    free(logits);
}

Test(cpu_ops, router_names_valid_experts_even_for_nan)
{
    FOR_VARIANTS(variant)
    {
        struct cpu_device device = make_device(variant, 1, &limits);
        float logits[10], weights[4];
        int32_t ids[4];
        for (int i = 0; i < 10; i++)
            logits[i] = NAN;
        cpu_router(&device.base, ids, weights, (struct lode_rows){logits, 1, 10, 10}, 4, NULL);
        for (int r = 0; r < 4; r++)
            cr_assert(ids[r] >= 0 && ids[r] < 10);
        cpu_vector_release(&device.vector_scratch);
    }
}

Test(cpu_ops, experts_combine_adds_weighted_slots)
{
    uint64_t state = 7;
    FOR_VARIANTS(variant)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            struct cpu_device device = make_device(variant, 1 + w % 2, &limits);
            uint32_t n = 1 + random_below(&state, 20), k = 1 + random_below(&state, 8);
            struct lode_rows slots = make_rows(n * k, widths[w], 2, &state),
                             out = make_rows(n, widths[w], 1, &state);
            struct lode_rows weights = make_rows(1, n * k, 1, &state);
            cpu_experts_combine(&device.base, out, slots, weights.data, k);
            check_combined(variant->name, out, slots, weights.data, k);
            check_gaps(out, variant->name);
            free(slots.data), free(out.data), free(weights.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

Test(cpu_ops, experts_combine_does_not_read_slots_of_weight_0)
{
    uint64_t state = 9;
    FOR_VARIANTS(variant)
    {
        for (uint32_t w = 0; w < N_WIDTHS; w++) {
            struct cpu_device device = make_device(variant, 1 + w % 2, &limits);
            uint32_t n = 1 + random_below(&state, 9), k = 1 + random_below(&state, 8);
            struct lode_rows slots = make_rows(n * k, widths[w], 2, &state),
                             out = make_rows(n, widths[w], 1, &state), all = copy_rows(out);
            struct lode_rows weights = make_rows(1, n * k, 1, &state);
            cpu_experts_combine(&device.base, all, slots, weights.data, k);
            for (uint32_t i = k; i < n * k; i++) // of the first row nothing is left out
                if (random_below(&state, 2)) {
                    weights.data[i] = i % 2 ? 0.0f : -0.0f;
                    for (uint32_t j = 0; j < slots.cols; j++)
                        slots.data[i * slots.stride + j] = i % 3 ? NAN : INFINITY;
                }
            cpu_experts_combine(&device.base, out, slots, weights.data, k);
            check_combined(variant->name, out, slots, weights.data, k);
            all.n = 1;
            check_same_bits(all, out, variant->name);
            check_gaps(out, variant->name);
            free(slots.data), free(out.data), free(all.data), free(weights.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

// ---- KV store
// ------------------------------------------------------------------------------------------------

Test(cpu_ops, kv_store_puts_rows_into_the_ring_in_every_format)
{
    uint64_t state = 8;
    FOR_VARIANTS(variant)
    {
        for (int round = 0; round < 60; round++) {
            struct cpu_device device = make_device(variant, 1 + (uint32_t)round % 2, &limits);
            uint32_t head_size = 32 * (1 + random_below(&state, 16)), n_heads = 1 + random_below(&state, 4);
            uint32_t n = 1 + random_below(&state, 40), capacity = 1 + random_below(&state, 60);
            uint32_t first = random_below(&state, 1000);
            struct cache cache = make_cache(round % CPU_KV_FORMATS, n_heads, head_size, capacity);
            struct lode_rows k = make_rows(n, n_heads * head_size, 5, &state);
            struct lode_rows v = make_rows(n, n_heads * head_size, round % 5 ? 1 : 1e-6f, &state);
            cpu_kv_store(&device.base, &cache.kv, k, v, first);
            for (uint32_t i = n > capacity ? n - capacity : 0; i < n; i++) {
                check_stored_row(variant->name, &cache.kv, cache.kv.k, first + i, k.data + i * k.stride);
                check_stored_row(variant->name, &cache.kv, cache.kv.v, first + i, v.data + i * v.stride);
            }
            if (n < capacity) { // the slot behind the last row is untouched
                size_t row_bytes = lode_kv_row_bytes(cache.kv.format, head_size);
                const unsigned char *next = (unsigned char *)cache.kv.k + (first + n) % capacity * row_bytes;
                for (size_t b = 0; b < row_bytes; b++)
                    cr_assert_eq(next[b], 0xa5, "%s: wrote behind the last row", variant->name);
            }
            free(cache.kv.k), free(cache.kv.v), free(k.data), free(v.data);
            cpu_vector_release(&device.vector_scratch);
        }
    }
}

// A row of the cache as attention reads it.
static void read_back(const struct variant *variant, enum lode_kv_format format, float *out, const void *row,
                      size_t n)
{
    const float weights[CPU_SCORE_STRIDE] = {1};
    struct cpu_sums sums = {.sums = out, .stride = n, .fresh = true};
    variant->kernels->sum_tile[format](sums, weights, 1, row, 1, n, 0);
}

Test(cpu_ops, halves_round_to_nearest_even_over_their_whole_range)
{
    enum { n = 1 << 17 };
    float *x = malloc(n * sizeof *x);
    uint16_t *half = malloc(n * sizeof *half);
    float *back = malloc(n * sizeof *back);
    for (uint32_t i = 0; i < n; i++) // every half and the point between it and the next
        x[i] = i % 2
                   ? lode_f16_to_f32((uint16_t)(i / 2)) * 0.5f + lode_f16_to_f32((uint16_t)(i / 2 + 1)) * 0.5f
                   : lode_f16_to_f32((uint16_t)(i / 2));
    FOR_VARIANTS(variant)
    {
        variant->kernels->kv_pack[LODE_CACHE_F16](half, x, n);
        read_back(variant, LODE_CACHE_F16, back, half, n);
        for (uint32_t i = 0; i < n; i++) {
            if (isnan(x[i])) {
                cr_assert(isnan(lode_f16_to_f32(half[i])) && isnan(back[i]), "%s: NaN", variant->name);
                continue;
            }
            cr_assert_eq(half[i], lode_f32_to_f16(x[i]), "%s: %a became %04x", variant->name, (double)x[i],
                         half[i]);
            cr_assert_eq(back[i], lode_f16_to_f32(half[i]), "%s: %04x", variant->name, half[i]);
        }
    }
    free(x), free(half), free(back);
}

Test(cpu_ops, q8_0_of_zeros_is_zero)
{
    FOR_VARIANTS(variant)
    {
        float x[32] = {0}, back[32];
        struct cpu_kv_q8_0 block;
        variant->kernels->kv_pack[LODE_CACHE_Q8_0](&block, x, 32);
        read_back(variant, LODE_CACHE_Q8_0, back, &block, 32);
        for (int i = 0; i < 32; i++)
            cr_assert_eq(back[i], 0, "%s", variant->name);
    }
}

Test(cpu_ops, avx512_runs_natively)
{
    if (!cpu_isa_available(CPU_ISA_AVX512))
        cr_skip_test(
            "this processor has no AVX-512; its kernels run through SIMDe where the test was linked so");
    cr_assert_not_null(cpu_vector_kernels_for(CPU_ISA_AVX512));
}

Test(cpu_ops, avx512_runs_through_simde)
{
    if (!&cpu_vector_avx512_simde)
        cr_skip_test("linked without SIMDe: AVX-512 kernels are tested only where the processor has them");
    cr_assert(cpu_vector_avx512_simde.soften);
}
