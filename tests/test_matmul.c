// The matmul kernels of every instruction set and tensor type against sums in double precision.
//
// Two references: the product with the activations as the kernel rounded them, from which only the float
// additions may differ; and with the activations as they were, which bounds what the rounding costs.
#include "tests/matmul_variants.h"
#include "tests/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

// One product and everything around it. Rows of activations and of results have gaps; those of the results
// must keep their value.
struct fixture {
    struct test_matrix weights;
    uint32_t tokens, n_blocks;
    float *x, *out;
    size_t x_stride, out_stride;
    struct cpu_block *blocks;
    void *workspace;
};

#define GAP_VALUE 12345.0f

static struct fixture make_fixture(struct test_random *random, const struct cpu_matmul_kernels *kernels,
                                   enum lode_type type, uint32_t rows, uint32_t cols, uint32_t tokens)
{
    struct fixture f = {
        .tokens = tokens, .n_blocks = cols / 32, .x_stride = cols + 3, .out_stride = rows + 5};
    f.weights = test_matrix_make(random, type, rows, cols, random->state % 3 * 7);
    f.x = malloc((tokens * f.x_stride + 1) * sizeof(float));
    for (size_t i = 0; i < tokens * f.x_stride; i++)
        f.x[i] = i % f.x_stride < cols ? test_random_float(random) : NAN;
    for (uint32_t i = 0; i < tokens; i++) // an outlier in each row
        f.x[i * f.x_stride + test_random_u32(random) % cols] *= 30;
    f.out = malloc(tokens * f.out_stride * sizeof(float));
    for (size_t i = 0; i < tokens * f.out_stride; i++)
        f.out[i] = GAP_VALUE;
    f.blocks = malloc((tokens * (f.n_blocks + 1) + 1) * sizeof *f.blocks);
    if (is_quantised(type))
        for (uint32_t i = 0; i < tokens; i++)
            kernels->quantize(f.blocks + i * (f.n_blocks + 1), f.x + i * f.x_stride, f.n_blocks);
    f.workspace = aligned_alloc(64, (kernels->workspace_bytes + 63) / 64 * 64);
    memset(f.workspace, 0xff, kernels->workspace_bytes);
    return f;
}

static void free_fixture(struct fixture *f)
{
    test_matrix_free(&f->weights);
    free(f->x);
    free(f->out);
    free(f->blocks);
    free(f->workspace);
}

static struct cpu_product product_of(const struct fixture *f)
{
    return (struct cpu_product){
        .weight = &f->weights.matrix,
        .n_rows = f->weights.matrix.rows,
        .blocks = f->blocks,
        .block_stride = f->n_blocks + 1,
        .x = f->x,
        .x_stride = f->x_stride,
        .n = f->tokens,
        .out = f->out,
        .out_stride = f->out_stride,
        .workspace = f->workspace,
    };
}

struct reference {
    double rounded_x, exact_x; // the product with the activations as they were rounded, and as they were
    double magnitude;          // sum of |w| |x|
    double rounding;           // what the rounding of the activations may change
};

static struct reference reference_of(const struct fixture *f, uint32_t row, uint32_t token)
{
    struct reference sum = {0};
    bool quantised = is_quantised(f->weights.matrix.type);
    for (uint32_t c = 0; c < f->weights.matrix.cols; c++) {
        struct test_weight w = test_matrix_at(&f->weights.matrix, row, c);
        double value = w.product + w.addend, x = f->x[token * f->x_stride + c], rounded = x;
        if (quantised) {
            const struct cpu_block *block = &f->blocks[token * (f->n_blocks + 1) + c / 32];
            rounded = (double)block->scale * block->q[c % 32];
            sum.rounding += fabs(value) * block->scale * 0.50001;
        }
        sum.rounded_x += value * rounded;
        sum.exact_x += value * x;
        sum.magnitude += (fabs(w.product) + fabs(w.addend)) * fabs(rounded);
    }
    return sum;
}

static void check_value(const struct fixture *f, float got, uint32_t row, uint32_t token, const char *name)
{
    struct reference want = reference_of(f, row, token);
    const struct lode_matrix *w = &f->weights.matrix;
    double tight = 1e-6 * want.magnitude;
    cr_assert(fabs(got - want.rounded_x) <= tight,
              "%s %s %ux%u, %u rows of x: [%u][%u] is %.9g, want %.9g, off by %.2g of the magnitudes' sum",
              name, lode_type_name(w->type), w->rows, w->cols, f->tokens, token, row, got, want.rounded_x,
              fabs(got - want.rounded_x) / want.magnitude);
    cr_assert(fabs(got - want.exact_x) <= tight + want.rounding, "%s %s: rounding of x costs %g, allowed %g",
              name, lode_type_name(w->type), fabs(got - want.exact_x), want.rounding);
}

// All values of small results, a random choice of large ones; and the gaps.
static void check_results(const struct fixture *f, struct test_random *random, const char *name)
{
    uint32_t rows = f->weights.matrix.rows;
    size_t n = (size_t)rows * f->tokens, budget = 60000 / f->weights.matrix.cols + 8;
    for (size_t i = 0; i < (n < budget ? n : budget); i++) {
        size_t at = n < budget ? i : test_random_u32(random) % n;
        uint32_t token = (uint32_t)(at / rows), row = (uint32_t)(at % rows);
        check_value(f, f->out[token * f->out_stride + row], row, token, name);
    }
    for (uint32_t i = 0; i < f->tokens; i++) {
        for (size_t g = rows; g < f->out_stride; g++)
            cr_assert_eq(f->out[i * f->out_stride + g], GAP_VALUE, "%s wrote behind its rows", name);
        for (size_t r = 0; r < rows; r++)
            cr_assert(isfinite(f->out[i * f->out_stride + r]) && f->out[i * f->out_stride + r] != GAP_VALUE);
    }
}

static void check_shape(const struct matmul_variant *variant, enum lode_type type, uint32_t rows,
                        uint32_t cols, uint32_t tokens)
{
    struct test_random random = {rows * 1000003u + cols * 1009u + tokens};
    struct fixture f = make_fixture(&random, variant->kernels, type, rows, cols, tokens);
    struct cpu_product product = product_of(&f);
    variant->kernels->multiply[type](&product);
    check_results(&f, &random, variant->name);
    free_fixture(&f);
}

static const uint32_t some_rows[] = {1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32};

Test(matmul, one_row_of_activations_gives_the_product)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned r = 0; r < sizeof some_rows / sizeof *some_rows; r++) {
            uint32_t block = lode_type_find(test_types[t])->block_elems;
            check_shape(variant, test_types[t], some_rows[r], block * (1 + r), 1);
        }
}

Test(matmul, any_number_of_rows_of_activations_gives_the_product)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++) {
        uint32_t block = lode_type_find(test_types[t])->block_elems;
        for (uint32_t tokens = 2; tokens <= 19; tokens++)
            check_shape(variant, test_types[t], some_rows[tokens % 13], block * (1 + tokens % 3), tokens);
        check_shape(variant, test_types[t], 32, 512, 70);
        check_shape(variant, test_types[t], 9, 256, 128);
    }
}

Test(matmul, wide_rows_are_summed_over_several_panels)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++)
        for (uint32_t tokens = 1; tokens <= 9; tokens += 4)
            check_shape(variant, test_types[t], 19, 4096 - 256 * tokens, tokens);
}

Test(matmul, float_weights_may_have_any_number_of_columns)
{
    const enum lode_type types[] = {LODE_F32, LODE_F16, LODE_BF16};
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < 3; t++)
        for (uint32_t cols = 1; cols < 40; cols++)
            check_shape(variant, types[t], 1 + cols % 13, cols, 1 + cols % 5);
}

#define N_IDS 37

// A block of the matrix's rows, activations picked by id and results scattered by id, as experts do.
Test(matmul, picks_rows_by_their_ids)
{
    const uint32_t counts[] = {1, 2, 3, 5, 7, 16, 23, N_IDS};
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned c = 0; c < sizeof counts / sizeof *counts; c++) {
            const uint32_t n = counts[c];
            struct test_random random = {n};
            struct fixture f = make_fixture(&random, variant->kernels, test_types[t], 40, 256, N_IDS);
            int32_t x_ids[N_IDS], out_ids[N_IDS], job_of[N_IDS];
            for (uint32_t i = 0; i < N_IDS; i++) {
                x_ids[i] = (int32_t)(test_random_u32(&random) % N_IDS);
                out_ids[i] = (int32_t)((i * 5 + n) % N_IDS);
                job_of[out_ids[i]] = i < n ? (int32_t)i : -1;
            }
            struct cpu_product product = product_of(&f);
            product.first_row = 35 - c;
            product.n_rows = 5;
            product.n = n;
            product.x_ids = x_ids;
            product.out_ids = out_ids;
            variant->kernels->multiply[test_types[t]](&product);
            for (uint32_t i = 0; i < N_IDS; i++)
                for (uint32_t r = 0; r < f.out_stride; r++) {
                    float got = f.out[i * f.out_stride + r];
                    if (job_of[i] < 0 || r >= 5)
                        cr_assert_eq(got, GAP_VALUE);
                    else
                        check_value(&f, got, product.first_row + r, (uint32_t)x_ids[job_of[i]],
                                    variant->name);
                }
            free_fixture(&f);
        }
}

Test(matmul, a_row_gets_the_same_bits_alone_and_in_a_batch)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++) {
        struct test_random random = {t};
        struct fixture f = make_fixture(&random, variant->kernels, test_types[t], 27, 1280, 23);
        struct cpu_product product = product_of(&f);
        variant->kernels->multiply[test_types[t]](&product);
        for (int32_t i = 0; i < 23; i++) {
            float alone[27];
            struct cpu_product single = product_of(&f);
            single.x_ids = &i;
            single.n = 1;
            single.out = alone;
            variant->kernels->multiply[test_types[t]](&single);
            cr_assert_eq(memcmp(alone, f.out + (size_t)i * f.out_stride, sizeof alone), 0, "%s %s row %d",
                         variant->name, lode_type_name(test_types[t]), i);
        }
        free_fixture(&f);
    }
}

Test(matmul, vector_instruction_sets_agree_bit_for_bit_on_quantised_weights)
{
    struct matmul_variant variants[MAX_MATMUL_VARIANTS];
    unsigned n = list_matmul_variants(variants), largest = 0;
    if (n < 3)
        cr_skip_test("there are not two vector instruction sets to compare");
    for (unsigned v = 1; v < n; v++)
        if (variants[v].kernels->workspace_bytes > variants[largest].kernels->workspace_bytes)
            largest = v;
    for (unsigned t = 0; t < test_n_types; t++) {
        if (!is_quantised(test_types[t]))
            continue;
        for (uint32_t tokens = 1; tokens <= 33; tokens += 4) {
            struct test_random random = {t};
            struct fixture f =
                make_fixture(&random, variants[largest].kernels, test_types[t], 21, 768, tokens);
            struct cpu_product product = product_of(&f);
            variants[1].kernels->multiply[test_types[t]](&product);
            float *first = malloc(tokens * f.out_stride * sizeof(float));
            memcpy(first, f.out, tokens * f.out_stride * sizeof(float));
            for (unsigned v = 2; v < n; v++) {
                variants[v].kernels->multiply[test_types[t]](&product);
                cr_assert_eq(memcmp(first, f.out, tokens * f.out_stride * sizeof(float)), 0, "%s %s",
                             variants[v].name, lode_type_name(test_types[t]));
            }
            free(first);
            free_fixture(&f);
        }
    }
}

Test(matmul, all_instruction_sets_quantise_activations_to_the_same_bits)
{
    struct test_random random = {5};
    enum { N_BLOCKS = 400 };
    float x[N_BLOCKS * 32];
    struct cpu_block want[N_BLOCKS], got[N_BLOCKS];
    for (int i = 0; i < N_BLOCKS * 32; i++)
        x[i] = ldexpf(test_random_float(&random), i / 32 % 260 - 135);
    x[32] = 0.5f;
    memset(x + 64, 0, 128);
    cpu_quantize_portable(want, x, N_BLOCKS);
    FOR_MATMUL_VARIANTS(variant)
    {
        variant->kernels->quantize(got, x, N_BLOCKS);
        cr_assert_eq(memcmp(got, want, sizeof got), 0, "%s", variant->name);
    }
}

// Every byte of the codes the same and every activation of the same size: what saturates first, if anything
// does.
static void check_extremes(const struct matmul_variant *variant, enum lode_type type, uint8_t fill,
                           int sign_pattern, uint32_t tokens)
{
    struct test_random random = {fill};
    struct fixture f = make_fixture(&random, variant->kernels, type, 16, 256, tokens);
    const struct lode_type_traits *traits = lode_type_find(type);
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t b = 0; b < 256 / traits->block_elems; b++) {
            uint8_t *block = test_matrix_row(&f.weights.matrix, r) + (size_t)b * traits->block_bytes;
            memset(block, fill, traits->block_bytes);
            test_set_scales(type, block, 0x3c00, 127);
        }
    for (uint32_t i = 0; i < tokens; i++) {
        for (uint32_t c = 0; c < 256; c++)
            f.x[i * f.x_stride + c] = (sign_pattern >> c % 8 & 1) ? -1.0f : 1.0f;
        variant->kernels->quantize(f.blocks + i * (f.n_blocks + 1), f.x + i * f.x_stride, f.n_blocks);
    }
    struct cpu_product product = product_of(&f);
    variant->kernels->multiply[type](&product);
    check_results(&f, &random, variant->name);
    free_fixture(&f);
}

Test(matmul, the_largest_codes_and_activations_do_not_saturate)
{
    const uint8_t fills[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x88, 0x77, 0xaa, 0x55};
    const int patterns[] = {0x00, 0xff, 0x55, 0x0f};
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned i = 0; is_quantised(test_types[t]) && i < sizeof fills; i++)
            for (unsigned p = 0; p < 4; p++)
                for (uint32_t tokens = 1; tokens <= 7; tokens += 6)
                    check_extremes(variant, test_types[t], fills[i], patterns[p], tokens);
}

// Scales at the ends of half precision; MXFP4 down to its denormals.
static void check_scales(const struct matmul_variant *variant, enum lode_type type, uint16_t half,
                         uint8_t exponent, float x_size)
{
    for (uint32_t tokens = 1; tokens <= 7; tokens += 6) {
        struct test_random random = {half};
        struct fixture f = make_fixture(&random, variant->kernels, type, 9, 256, tokens);
        const struct lode_type_traits *traits = lode_type_find(type);
        for (uint32_t r = 0; r < 9; r++)
            for (uint32_t b = 0; b < 256 / traits->block_elems; b++)
                test_set_scales(type, test_matrix_row(&f.weights.matrix, r) + (size_t)b * traits->block_bytes,
                                half, exponent);
        for (uint32_t i = 0; i < tokens; i++) {
            for (uint32_t c = 0; c < 256; c++)
                f.x[i * f.x_stride + c] *= x_size;
            variant->kernels->quantize(f.blocks + i * (f.n_blocks + 1), f.x + i * f.x_stride, f.n_blocks);
        }
        struct cpu_product product = product_of(&f);
        variant->kernels->multiply[type](&product);
        check_results(&f, &random, variant->name);
        free_fixture(&f);
    }
}

Test(matmul, takes_very_small_and_very_large_scales)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++) {
        if (!is_quantised(test_types[t]))
            continue;
        check_scales(variant, test_types[t], 0x0001, 60, 1);
        check_scales(variant, test_types[t], 0x03ff, 1, 0x1p60f);
        check_scales(variant, test_types[t], 0x0400, 0, 0x1p60f);
        check_scales(variant, test_types[t], 0x7bff, 180, 1e-20f);
        check_scales(variant, test_types[t], 0xfbff, 100, 1e20f);
    }
}

Test(matmul, zeros_on_either_side_give_exact_zeros)
{
    FOR_MATMUL_VARIANTS(variant)
    for (unsigned t = 0; t < test_n_types; t++)
        for (uint32_t tokens = 1; tokens <= 7; tokens += 6)
            for (int zero_x = 0; zero_x < 2; zero_x++) {
                struct test_random random = {t};
                enum lode_type type = test_types[t];
                struct fixture f = make_fixture(&random, variant->kernels, type, 11, 256, tokens);
                const struct lode_type_traits *traits = lode_type_find(type);
                for (uint32_t r = 0; r < 11 && !zero_x; r++)
                    for (uint32_t b = 0; b < 256 / traits->block_elems; b++) {
                        uint8_t *block =
                            test_matrix_row(&f.weights.matrix, r) + (size_t)b * traits->block_bytes;
                        if (type == LODE_MXFP4 || traits->block_elems == 1)
                            memset(block, 0, traits->block_bytes);
                        else
                            test_set_scales(type, block, 0, 0);
                    }
                for (uint32_t i = 0; i < tokens && zero_x; i++) {
                    memset(f.x + i * f.x_stride, 0, 256 * sizeof(float));
                    variant->kernels->quantize(f.blocks + i * (f.n_blocks + 1), f.x + i * f.x_stride,
                                               f.n_blocks);
                }
                struct cpu_product product = product_of(&f);
                variant->kernels->multiply[type](&product);
                for (uint32_t i = 0; i < tokens; i++)
                    for (uint32_t r = 0; r < 11; r++)
                        cr_assert_eq(f.out[i * f.out_stride + r], 0.0f, "%s %s", variant->name,
                                     lode_type_name(type));
                free_fixture(&f);
            }
}

// What ran only in emulation is said.
static void needs_natively(enum cpu_isa isa)
{
    char missing[256];
    if (!cpu_isa_available(isa))
        cr_skip_test("%s kernels were tested in emulation only: %s", cpu_isa_name(isa),
                     cpu_isa_missing(isa, missing, sizeof missing));
}

Test(matmul, tests_the_avx2_vnni_kernels_on_the_processor_itself)
{
    needs_natively(CPU_ISA_AVX2_VNNI);
}

Test(matmul, tests_the_avx512_kernels_on_the_processor_itself)
{
    needs_natively(CPU_ISA_AVX512);
}

Test(matmul, tests_the_amx_kernels_on_the_processor_itself)
{
    needs_natively(CPU_ISA_AMX);
}
