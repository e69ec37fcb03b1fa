// Decoding of weights to floats, against formulas written a second time and against vectors made by another
// program (the gguf package for Python), and the rounding of activations to int8.
#include "backends/cpu/dequantize.h"
#include "backends/cpu/quantize.h"
#include "tests/test_data.h"
#include "tests/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void check_decoded(float got, struct test_weight want, enum lode_type type, unsigned i)
{
    double value = want.product + want.addend;
    double allowed = 1.5e-7 * (fabs(want.product) + fabs(want.addend));
    cr_assert(fabs(got - value) <= allowed, "%s element %u: got %.9g, want %.9g", lode_type_name(type), i,
              got, value);
}

Test(dequantize, decodes_random_blocks_of_every_type_as_the_formulas_say)
{
    struct test_random random = {1};
    uint8_t blocks[3 * 256];
    float out[3 * 256];
    for (unsigned t = 0; t < test_n_types; t++) {
        enum lode_type type = test_types[t];
        const struct lode_type_traits *traits = lode_type_find(type);
        for (int round = 0; round < 50; round++) {
            for (unsigned b = 0; b < 3; b++)
                test_random_block(&random, type, blocks + 1 + b * traits->block_bytes);
            cpu_dequantize(out, type, blocks + 1, 3 * traits->block_elems);
            for (unsigned i = 0; i < 3 * traits->block_elems; i++) {
                const uint8_t *block = blocks + 1 + i / traits->block_elems * traits->block_bytes;
                check_decoded(out[i], test_weight_of(type, block, i % traits->block_elems), type, i);
            }
        }
    }
}

static uint32_t read_u32(FILE *file)
{
    uint8_t b[4];
    cr_assert_eq(fread(b, 1, 4, file), 4);
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

Test(dequantize, agrees_with_the_values_that_the_gguf_package_decodes)
{
    char path[4096];
    if (!test_data_find(path, sizeof path, "tensor-types.bin"))
        cr_skip_test("tensor-types.bin is not there");
    FILE *file = fopen(path, "rb");
    unsigned n_types = 0;
    for (int c; (c = fgetc(file)) != EOF; n_types++) {
        ungetc(c, file);
        enum lode_type type = read_u32(file);
        uint32_t n = read_u32(file);
        uint64_t bytes;
        cr_assert(lode_type_row_bytes(&bytes, type, n));
        uint8_t *row = malloc(bytes);
        float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
        cr_assert_eq(fread(row, 1, bytes, file), bytes);
        cr_assert_eq(fread(want, sizeof *want, n, file), n);
        cpu_dequantize(got, type, row, n);
        for (uint32_t i = 0; i < n; i++) // minima are added to a rounded product, in another order perhaps
            cr_assert(fabsf(got[i] - want[i]) <= 2e-7f * fabsf(want[i]) + 2e-6f * (type != LODE_MXFP4),
                      "%s element %u: got %.9g, want %.9g", lode_type_name(type), i, got[i], want[i]);
        free(row);
        free(want);
        free(got);
    }
    fclose(file);
    cr_assert_eq(n_types, test_n_types - 1, "all types but F32");
}

Test(dequantize, keeps_the_smallest_mxfp4_scales_as_denormals)
{
    uint8_t block[17] = {0, 0x21};
    float out[32];
    cpu_dequantize(out, LODE_MXFP4, block, 32);
    cr_assert_eq(out[0], 0x1p-128f); // 0.5 * 2^(0 - 127)
    cr_assert_eq(out[16], 0x1p-127f);
    block[0] = 1;
    cpu_dequantize(out, LODE_MXFP4, block, 32);
    cr_assert_eq(out[0], 0x1p-127f);
    block[0] = 2;
    cpu_dequantize(out, LODE_MXFP4, block, 32);
    cr_assert_eq(out[0], 0x1p-126f);
}

Test(dequantize, decodes_the_extremes_of_q8_0)
{
    uint8_t block[34] = {0, 0x3c, 0x80, 0x7f};
    float out[32];
    cpu_dequantize(out, LODE_Q8_0, block, 32);
    cr_assert_eq(out[0], -128.0f);
    cr_assert_eq(out[1], 127.0f);
    cr_assert_eq(out[2], 0.0f);
}

static void check_block(const struct cpu_block *block, const float *x)
{
    double largest = 0;
    int sums[2] = {0};
    for (int i = 0; i < 32; i++) {
        largest = fmax(largest, fabs(x[i]));
        sums[i / 16] += block->q[i];
        cr_assert(block->q[i] >= -127);
    }
    double scale = largest < CPU_BLOCK_TINY ? 0 : largest / 127;
    cr_assert(fabs(block->scale - scale) <= 1e-6 * scale, "scale %g, want %g", block->scale, scale);
    for (int i = 0; i < 32; i++)
        cr_assert(fabs(block->scale * (double)block->q[i] - x[i]) <= block->scale * 0.50001 + CPU_BLOCK_TINY,
                  "value %d: %g became %d * %g", i, x[i], block->q[i], block->scale);
    cr_assert_eq(block->sums[0], sums[0]);
    cr_assert_eq(block->sums[1], sums[1]);
    cr_assert_eq(block->scaled_sum, block->scale * (float)(sums[0] + sums[1]));
}

Test(quantize, rounds_each_value_by_at_most_half_a_step)
{
    struct test_random random = {2};
    for (int round = 0; round < 2000; round++) {
        float x[32];
        struct cpu_block block;
        float size = ldexpf(1, round % 120 - 60);
        for (int i = 0; i < 32; i++)
            x[i] = size * test_random_float(&random);
        cpu_quantize_portable(&block, x, 1);
        check_block(&block, x);
    }
}

Test(quantize, takes_zeros_and_numbers_near_the_ends_of_the_range)
{
    const float sizes[] = {0, 1e-45f, 1e-38f, 0x1p-121f, 0x1p-120f, 3e38f, 3.4028234e38f};
    for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        float x[32];
        struct cpu_block block;
        for (int i = 0; i < 32; i++)
            x[i] = i % 3 ? sizes[s] : -sizes[s];
        cpu_quantize_portable(&block, x, 1);
        check_block(&block, x);
        cr_assert_eq(block.q[1], sizes[s] < CPU_BLOCK_TINY ? 0 : 127);
    }
}

Test(quantize, rounds_ties_to_even)
{
    float x[32] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 3.5f, 0.50001f};
    struct cpu_block block;
    cpu_quantize_portable(&block, x, 1);
    const int8_t want[8] = {127, 0, 2, 2, 0, -2, 4, 1};
    for (int i = 0; i < 8; i++)
        cr_assert_eq(block.q[i], want[i], "value %d: %d", i, block.q[i]);
}
