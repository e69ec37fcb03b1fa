// The AMX kernels over emulated tiles: which products use tiles, that none are left behind, and that the bits
// are those of AVX-512.
#include "backends/cpu/rows8.h"
#include "tests/matmul_variants.h"
#include "tests/weights.h"

#include <stdlib.h>
#include <string.h>

bool emulated_tiles_are_configured(void) __attribute__((weak));
unsigned long emulated_tile_products(void) __attribute__((weak));

#define ROWS 40
#define MAX_TOKENS 40

static bool is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

static void needs_emulation(void)
{
    if (!&emulated_tile_products || !cpu_isa_available(CPU_ISA_AVX2))
        cr_skip_test("linked without the emulated tiles, or without AVX2 under them");
}

// A product of rows first .. first + n_rows - 1 with all activation rows, by both instruction sets.
static void multiply_both(float *amx, float *avx512, const struct lode_matrix *w, uint32_t first,
                          uint32_t n_rows, const float *x, uint32_t tokens, const int32_t *x_ids)
{
    const size_t row_blocks = w->cols / CPU_BLOCK;
    struct cpu_block *blocks = malloc((MAX_TOKENS * row_blocks + 1) * sizeof *blocks);
    for (size_t i = 0; i < MAX_TOKENS; i++)
        cpu_quantize_portable(blocks + i * row_blocks, x + i * w->cols, (uint32_t)row_blocks);
    struct cpu_product product = {
        .weight = w,
        .first_row = first,
        .n_rows = n_rows,
        .blocks = blocks,
        .block_stride = row_blocks,
        .x = x,
        .x_stride = w->cols,
        .x_ids = x_ids,
        .n = tokens,
        .out_stride = ROWS,
        .workspace = aligned_alloc(64, (cpu_matmul_amx_simde.workspace_bytes + 63) / 64 * 64),
    };
    memset(product.workspace, 0xff, cpu_matmul_amx_simde.workspace_bytes);
    product.out = amx;
    cpu_matmul_amx_simde.multiply[w->type](&product);
    product.out = avx512;
    cpu_matmul_avx512_simde.multiply[w->type](&product);
    free(product.workspace);
    free(blocks);
}

static float *make_x(struct test_random *random, uint32_t cols)
{
    float *x = malloc((size_t)MAX_TOKENS * cols * sizeof *x);
    for (size_t i = 0; i < (size_t)MAX_TOKENS * cols; i++)
        x[i] = test_random_float(random);
    return x;
}

Test(matmul_amx, quantised_products_have_the_bits_of_avx512)
{
    needs_emulation();
    for (unsigned t = 0; t < test_n_types; t++)
        for (uint32_t tokens = 1; is_quantised(test_types[t]) && tokens <= MAX_TOKENS; tokens++) {
            struct test_random random = {t * 1000 + tokens};
            uint32_t cols = tokens % 8 ? 256 * (1 + tokens % 3) : 1024 + 256 * (tokens % 3);
            struct test_matrix w = test_matrix_make(&random, test_types[t], ROWS, cols, 0);
            float *x = make_x(&random, cols), amx[MAX_TOKENS * ROWS], avx512[MAX_TOKENS * ROWS];
            int32_t ids[MAX_TOKENS];
            for (uint32_t i = 0; i < tokens; i++)
                ids[i] = (int32_t)(test_random_u32(&random) % MAX_TOKENS);
            memset(amx, 0, sizeof amx);
            memset(avx512, 0, sizeof avx512);
            multiply_both(amx, avx512, &w.matrix, tokens % 9, 1 + (tokens * 7) % 31, x, tokens,
                          tokens % 2 ? ids : NULL);
            cr_assert_eq(memcmp(amx, avx512, sizeof amx), 0, "%s, %u rows of x",
                         lode_type_name(test_types[t]), tokens);
            free(x);
            test_matrix_free(&w);
        }
}

// Weights that the device has arranged for itself.
Test(matmul_amx, interleaved_weights_give_the_bits_of_those_in_the_order_of_the_file)
{
    needs_emulation();
    for (unsigned t = 0; t < test_n_types; t++) {
        if (!cpu_rows8_format(test_types[t]))
            continue;
        struct test_random random = {t};
        struct test_matrix w = test_matrix_make(&random, test_types[t], ROWS, 1280, 0);
        float *x = make_x(&random, 1280), amx[MAX_TOKENS * ROWS] = {0}, want[MAX_TOKENS * ROWS] = {0};
        float ignored[MAX_TOKENS * ROWS] = {0};
        multiply_both(ignored, want, &w.matrix, 8, 32, x, MAX_TOKENS, NULL);
        void *spare = malloc(8 * w.matrix.row_bytes);
        for (uint32_t r = 0; r < ROWS; r += 8)
            cpu_rows8_interleave(test_matrix_row(&w.matrix, r), test_types[t], w.matrix.row_bytes, spare);
        w.matrix.layout = LODE_LAYOUT_ROWS8;
        multiply_both(amx, ignored, &w.matrix, 8, 32, x, MAX_TOKENS, NULL);
        cr_assert_eq(memcmp(amx, want, sizeof amx), 0, "%s", lode_type_name(test_types[t]));
        free(spare);
        free(x);
        test_matrix_free(&w);
    }
}

// The smallest sums underflow, where not even the sign of a zero may differ.
Test(matmul_amx, has_the_bits_of_avx512_where_sums_underflow)
{
    needs_emulation();
    for (unsigned t = 0; t < test_n_types; t++) {
        const struct lode_type_traits *traits = lode_type_find(test_types[t]);
        if (traits->block_elems == 1)
            continue;
        struct test_random random = {t};
        struct test_matrix w = test_matrix_make(&random, test_types[t], ROWS, 256, 0);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t b = 0; b < 256 / traits->block_elems; b++)
                test_set_scales(test_types[t],
                                test_matrix_row(&w.matrix, r) + (size_t)b * traits->block_bytes,
                                r % 2 ? 0x8001 : 0x0001, 0);
        float *x = make_x(&random, 256), amx[MAX_TOKENS * ROWS] = {0}, avx512[MAX_TOKENS * ROWS] = {0};
        for (uint32_t i = 0; i < MAX_TOKENS * 256; i++)
            x[i] *= 0x1p-118f;
        multiply_both(amx, avx512, &w.matrix, 0, 32, x, MAX_TOKENS, NULL);
        cr_assert_eq(memcmp(amx, avx512, sizeof amx), 0, "%s", lode_type_name(test_types[t]));
        free(x);
        test_matrix_free(&w);
    }
}

// Codes and lane scales at all ends of their ranges at once.
Test(matmul_amx, has_the_bits_of_avx512_at_the_ends_of_the_codes)
{
    needs_emulation();
    const uint8_t fills[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0};
    for (unsigned t = 0; t < test_n_types; t++) {
        const struct lode_type_traits *traits = lode_type_find(test_types[t]);
        if (traits->block_elems == 1)
            continue;
        struct test_random random = {t};
        struct test_matrix w = test_matrix_make(&random, test_types[t], ROWS, 256, 0);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t b = 0; b < 256 / traits->block_elems; b++) {
                uint8_t *block = test_matrix_row(&w.matrix, r) + (size_t)b * traits->block_bytes;
                for (uint32_t i = 0; i < traits->block_bytes; i++)
                    block[i] = fills[(r + i / 16 * (r / 6)) % 6];
                test_set_scales(test_types[t], block, 0x3c00, 127);
            }
        float *x = make_x(&random, 256), amx[MAX_TOKENS * ROWS] = {0}, avx512[MAX_TOKENS * ROWS] = {0};
        for (uint32_t i = 0; i < MAX_TOKENS * 256; i++)
            x[i] = (i % 256 >> i / 256 % 8) & 1 ? -1.0f : 1.0f;
        multiply_both(amx, avx512, &w.matrix, 0, 32, x, MAX_TOKENS, NULL);
        cr_assert_eq(memcmp(amx, avx512, sizeof amx), 0, "%s", lode_type_name(test_types[t]));
        free(x);
        test_matrix_free(&w);
    }
}

static unsigned long products_of(enum lode_type type, uint32_t rows, uint32_t tokens)
{
    struct test_random random = {tokens};
    struct test_matrix w = test_matrix_make(&random, type, rows, 256, 0);
    float *x = make_x(&random, 256), amx[MAX_TOKENS * ROWS], avx512[MAX_TOKENS * ROWS];
    unsigned long before = emulated_tile_products();
    multiply_both(amx, avx512, &w.matrix, 0, rows < 32 ? rows : 32, x, tokens, NULL);
    cr_assert_not(emulated_tiles_are_configured(), "%s left tiles behind", lode_type_name(type));
    free(x);
    test_matrix_free(&w);
    return emulated_tile_products() - before;
}

Test(matmul_amx, many_rows_use_tiles_and_leave_none_behind)
{
    needs_emulation();
    // 256 columns are 8 parts; 32 rows of weights 2 strips; 40 rows of activations 3 groups.
    cr_expect_eq(products_of(LODE_Q4_0, 32, 40), 8 * 2 * 3);
    cr_expect_eq(products_of(LODE_Q6_K, 32, 40), 2 * 8 * 2 * 3);
    cr_expect_eq(products_of(LODE_Q4_K, 16, 16), 8);
    cr_expect_eq(products_of(LODE_BF16, 32, 40), 3 * 8 * 2 * 3);
    cr_expect_eq(products_of(LODE_BF16, 9, 1), 3 * 8);
}

Test(matmul_amx, few_rows_and_other_float_types_use_none)
{
    needs_emulation();
    cr_expect_eq(products_of(LODE_Q4_0, 32, 1), 0);
    cr_expect_eq(products_of(LODE_Q4_0, 7, 40), 0);
    cr_expect_eq(products_of(LODE_BF16, 7, 40), 0);
    cr_expect_eq(products_of(LODE_F16, 32, 40), 0);
    cr_expect_eq(products_of(LODE_F32, 32, 40), 0);
}
