// Matrix products of random shapes against double precision, within the bounds that matmul.h states, on every
// instruction set, and how much of the bounds they use.
#include "tests/matmul_variants.h"
#include "tests/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_SHAPES 1000
#define MAX_ROWS 80
#define MAX_TOKENS 200
#define SAMPLES 32
#define UNIT 0x1p-24

static bool is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

static bool has_minimum(enum lode_type type)
{
    return type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q4_K || type == LODE_Q5_K ||
           type == LODE_Q2_K;
}

static uint32_t below(struct test_random *random, uint32_t n)
{
    return (uint32_t)((uint64_t)test_random_u32(random) * n >> 32);
}

// A product of some rows of a matrix with some rows of activations, picked and scattered by lists of ids.
struct shape {
    struct test_matrix weights;
    uint32_t first_row, n_rows, cols, tokens;
    float *x;
    struct cpu_block *blocks;
    int32_t x_ids[MAX_TOKENS], out_ids[MAX_TOKENS];
    bool has_ids;
};

static uint32_t random_tokens(struct test_random *random)
{
    static const uint32_t most[] = {3, 16, 64, MAX_TOKENS};
    return 1 + below(random, most[below(random, 4)]);
}

static uint32_t random_cols(struct test_random *random, enum lode_type type)
{
    if (!is_quantised(type))
        return 1 + below(random, 900);
    uint32_t block = lode_type_find(type)->block_elems;
    return block * (1 + below(random, 1600 / block));
}

// Activations of any size, some blocks of zeros, some outliers.
static void fill_activations(struct test_random *random, float *x, size_t n)
{
    float size = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 32 == 0)
            size = below(random, 20) ? ldexpf(1, (int)below(random, 41) - 20) : 0;
        x[i] = test_random_float(random) * size * (below(random, 100) ? 1 : 40);
    }
}

static void random_ids(struct test_random *random, struct shape *s)
{
    for (uint32_t i = 0; i < s->tokens; i++)
        s->x_ids[i] = s->out_ids[i] = (int32_t)i;
    for (uint32_t i = 0; s->has_ids && i < s->tokens; i++) {
        uint32_t other = below(random, s->tokens);
        int32_t id = s->out_ids[i];
        s->out_ids[i] = s->out_ids[other];
        s->out_ids[other] = id;
        s->x_ids[i] = (int32_t)below(random, s->tokens);
    }
}

static struct shape make_shape(struct test_random *random, enum lode_type type)
{
    uint32_t rows = 1 + below(random, MAX_ROWS);
    struct shape s = {.tokens = random_tokens(random),
                      .cols = random_cols(random, type),
                      .first_row = below(random, rows),
                      .has_ids = below(random, 2)};
    s.n_rows = 1 + below(random, rows - s.first_row);
    s.weights = test_matrix_make(random, type, rows, s.cols, below(random, 3) * 7);
    s.x = malloc((size_t)s.tokens * s.cols * sizeof *s.x);
    fill_activations(random, s.x, (size_t)s.tokens * s.cols);
    s.blocks = malloc(((size_t)s.tokens * s.cols / 32 + 1) * sizeof *s.blocks);
    if (is_quantised(type))
        cpu_quantize_portable(s.blocks, s.x, s.tokens * s.cols / 32);
    random_ids(random, &s);
    return s;
}

static void free_shape(struct shape *s)
{
    test_matrix_free(&s->weights);
    free(s->x);
    free(s->blocks);
}

// In pieces of what a product takes at most, as the operations do.
static void multiply_shape(float *out, const struct shape *s, const struct cpu_matmul_kernels *kernels)
{
    void *workspace = aligned_alloc(64, (kernels->workspace_bytes + 63) / 64 * 64);
    memset(workspace, 0xff, kernels->workspace_bytes);
    const struct lode_matrix *w = &s->weights.matrix;
    for (uint32_t token = 0; token < s->tokens; token += CPU_PRODUCT_TOKENS)
        for (uint32_t row = 0; row < s->n_rows; row += CPU_PRODUCT_ROWS) {
            uint32_t skip = s->has_ids ? 0 : token, n = s->tokens - token, n_rows = s->n_rows - row;
            struct cpu_product product = {
                .weight = w,
                .first_row = s->first_row + row,
                .n_rows = n_rows < CPU_PRODUCT_ROWS ? n_rows : CPU_PRODUCT_ROWS,
                .blocks = s->blocks + (size_t)skip * (s->cols / 32),
                .block_stride = s->cols / 32,
                .x = s->x + (size_t)skip * s->cols,
                .x_stride = s->cols,
                .x_ids = s->has_ids ? s->x_ids + token : NULL,
                .n = n < CPU_PRODUCT_TOKENS ? n : CPU_PRODUCT_TOKENS,
                .out = out + (size_t)skip * s->n_rows + row,
                .out_stride = s->n_rows,
                .out_ids = s->has_ids ? s->out_ids + token : NULL,
                .workspace = workspace,
            };
            kernels->multiply[w->type](&product);
        }
    free(workspace);
}

struct reference {
    uint32_t token, row;        // in the lists
    double exact, rounded;      // with the activations as they were, and as they were rounded
    double magnitude, rounding; // sum of |w| |x|; what the rounding may cost
};

static struct reference reference_at(const struct shape *s, uint32_t token, uint32_t row)
{
    struct reference r = {.token = token, .row = row};
    const struct lode_matrix *w = &s->weights.matrix;
    const float *x = s->x + (size_t)s->x_ids[token] * s->cols;
    for (uint32_t c = 0; c < s->cols; c++) {
        struct test_weight weight = test_matrix_at(w, s->first_row + row, c);
        double value = weight.product + weight.addend, rounded = x[c];
        if (is_quantised(w->type)) {
            double largest = 0;
            for (uint32_t i = c / 32 * 32; i < c / 32 * 32 + 32; i++)
                largest = fmax(largest, fabs(x[i]));
            const struct cpu_block *block = s->blocks + (x - s->x + c) / 32;
            rounded = (double)block->scale * block->q[c % 32];
            r.rounding += fabs(value) * largest / 254 * (1 + 0x1p-14);
        }
        r.exact += value * x[c];
        r.rounded += value * rounded;
        r.magnitude += (fabs(weight.product) + fabs(weight.addend)) * fabs(rounded);
    }
    return r;
}

// What matmul.h allows between the result and the product with the rounded activations.
static double allowed_error(const struct shape *s, const struct reference *r)
{
    enum lode_type type = s->weights.matrix.type;
    double additions = is_quantised(type) ? s->cols / 32 * (has_minimum(type) ? 2 : 1) + 8 : s->cols / 8 + 24;
    return additions * UNIT * r->magnitude;
}

struct worst {
    unsigned shapes;
    double units, of_bound,
        of_rounding; // error / (2^-24 magnitude), / its bound; of x's rounding / its bound
};

static void raise(double *to, double value)
{
    *to = value > *to ? value : *to;
}

static void check_output(struct worst *worst, const struct shape *s, const struct reference *r, float got,
                         const char *name)
{
    const struct lode_matrix *w = &s->weights.matrix;
    double error = fabs(got - r->rounded), allowed = allowed_error(s, r), whole = fabs(got - r->exact);
    cr_assert(error <= allowed, "%s %s %ux%u, %u rows of x: [%u][%u] is %.9g, want %.9g, off by %.3g of %.3g",
              name, lode_type_name(w->type), s->n_rows, s->cols, s->tokens, r->token, r->row, got, r->rounded,
              error, allowed);
    cr_assert(whole <= allowed + r->rounding, "%s %s: rounding of x costs %g, allowed %g", name,
              lode_type_name(w->type), whole, allowed + r->rounding);
    if (r->magnitude > 0) {
        raise(&worst->units, error / (UNIT * r->magnitude));
        raise(&worst->of_bound, error / allowed);
    }
    if (r->rounding > 0)
        raise(&worst->of_rounding, whole / (allowed + r->rounding));
}

static void check_shape(struct worst worst[MAX_MATMUL_VARIANTS], struct test_random *random,
                        enum lode_type type)
{
    struct shape s = make_shape(random, type);
    float *out = malloc((size_t)s.tokens * s.n_rows * sizeof *out);
    struct reference references[SAMPLES];
    for (unsigned i = 0; i < SAMPLES; i++)
        references[i] = reference_at(&s, below(random, s.tokens), below(random, s.n_rows));
    FOR_MATMUL_VARIANTS(variant)
    {
        struct worst *own = &worst[variant - variants_];
        for (size_t i = 0; i < (size_t)s.tokens * s.n_rows; i++)
            out[i] = NAN;
        multiply_shape(out, &s, variant->kernels);
        for (unsigned i = 0; i < SAMPLES; i++) {
            const struct reference *r = &references[i];
            check_output(own, &s, r, out[(size_t)s.out_ids[r->token] * s.n_rows + r->row], variant->name);
        }
        for (size_t i = 0; i < (size_t)s.tokens * s.n_rows; i++)
            cr_assert_not(isnan(out[i]), "%s %s left an output", variant->name, lode_type_name(type));
        own->shapes++;
    }
    free(out);
    free_shape(&s);
}

// Errors in units of 2^-24 times the sum of |w| |x|, and of what is allowed.
static void report(const struct worst *worst, unsigned n_variants, const struct matmul_variant *variants,
                   enum lode_type type)
{
    for (unsigned v = 0; v < n_variants; v++)
        fprintf(stderr,
                "  %-6s %-18s %u shapes: worst %5.2f units, %4.1f%% of the bound; rounded x %4.1f%%\n",
                lode_type_name(type), variants[v].name, worst[v].shapes, worst[v].units,
                100 * worst[v].of_bound, 100 * worst[v].of_rounding);
}

Test(matmul_accuracy, random_products_are_within_the_stated_bounds)
{
    struct matmul_variant variants[MAX_MATMUL_VARIANTS];
    unsigned n_variants = list_matmul_variants(variants);
    struct test_random random = {20};
    for (unsigned t = 0; t < test_n_types; t++) {
        struct worst worst[MAX_MATMUL_VARIANTS] = {{0}};
        unsigned n = N_SHAPES / test_n_types + (t < N_SHAPES % test_n_types);
        for (unsigned i = 0; i < n; i++)
            check_shape(worst, &random, test_types[t]);
        report(worst, n_variants, variants, test_types[t]);
    }
}
