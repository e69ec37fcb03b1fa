// The matrix operations of the CPU device: sharing of prepared activations, experts, threads, scratch and
// embedding.
#include "tests/matmul_variants.h"
#include "tests/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct lode_limits limits = {
    .rows = 300, .cols = 512, .ffn_width = 96, .n_heads = 1, .head_size = 32, .expert_rows = 700};

static struct lode_rows make_rows(struct test_random *random, uint32_t n, uint32_t cols)
{
    struct lode_rows rows = {.n = n, .cols = cols, .stride = cols + 2};
    rows.data = malloc(n * rows.stride * sizeof(float));
    for (size_t i = 0; i < n * rows.stride; i++)
        rows.data[i] = test_random_float(random);
    return rows;
}

static const float *row_of(struct lode_rows rows, uint32_t i)
{
    return rows.data + i * rows.stride;
}

static bool is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

// The product with the activations rounded as Lode rounds them, in double precision; *magnitude the sum of
// |w| |x|.
static double dot(const struct lode_matrix *w, uint32_t row, const float *x, double *magnitude)
{
    double sum = 0;
    *magnitude = 0;
    for (uint32_t c = 0; c < w->cols; c++) {
        struct test_weight weight = test_matrix_at(w, row, c);
        double value = x[c];
        if (is_quantised(w->type)) {
            struct cpu_block block;
            cpu_quantize_portable(&block, x + c / 32 * 32, 1);
            value = (double)block.scale * block.q[c % 32];
        }
        sum += (weight.product + weight.addend) * value;
        *magnitude += (fabs(weight.product) + fabs(weight.addend)) * fabs(value);
    }
    return sum;
}

static void check_product(const struct lode_matrix *w, struct lode_rows x, struct lode_rows out,
                          const char *name)
{
    for (uint32_t i = 0; i < x.n; i += 1 + x.n / 6)
        for (uint32_t r = 0; r < w->rows; r += 1 + w->rows / 11) {
            double magnitude, want = dot(w, r, row_of(x, i), &magnitude);
            cr_assert(fabs(row_of(out, i)[r] - want) <= 1e-6 * magnitude, "%s %s [%u][%u]: got %g, want %g",
                      name, lode_type_name(w->type), i, r, row_of(out, i)[r], want);
        }
}

Test(matmul_ops, several_weights_share_the_activations)
{
    const enum lode_type types[] = {LODE_Q4_0, LODE_F32, LODE_Q6_K, LODE_BF16, LODE_IQ4_XS};
    const uint32_t rows[] = {300, 77, 1, 64, 129}, tokens[] = {1, 2, 3, 33, 300};
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t t = 0; t < 5; t++) {
        struct test_random random = {t};
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct test_matrix weights[5];
        struct lode_matrix matrices[5];
        struct lode_rows outs[5], x = make_rows(&random, tokens[t], 512);
        for (int i = 0; i < 5; i++) {
            weights[i] = test_matrix_make(&random, types[i], rows[i], 512, 0);
            matrices[i] = weights[i].matrix;
            outs[i] = make_rows(&random, x.n, rows[i]);
        }
        cpu_matmul(&device.base, outs, matrices, 5, x);
        for (int i = 0; i < 5; i++) {
            check_product(&matrices[i], x, outs[i], variant->name);
            test_matrix_free(&weights[i]);
            free(outs[i].data);
        }
        free(x.data);
        close_matmul_device(&device);
    }
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

// What one column of the gated product is, and what it may be off by.
static double gated(const struct lode_matrix *gate, const struct lode_matrix *up, uint32_t row,
                    const float *x, double *allowed)
{
    double gate_magnitude, up_magnitude;
    double g = dot(gate, row, x, &gate_magnitude), u = dot(up, row, x, &up_magnitude);
    *allowed = 2e-6 * (gate_magnitude * (fabs(u) + 1) + up_magnitude * (fabs(g) + 1));
    return gelu_tanh(g) * u;
}

Test(matmul_ops, geglu_gates_the_products)
{
    const enum lode_type types[][2] = {{LODE_Q4_0, LODE_Q4_0}, {LODE_F16, LODE_F16}, {LODE_Q4_K, LODE_Q8_0}};
    const uint32_t tokens[] = {1, 5, 130};
    FOR_MATMUL_VARIANTS(variant)
    for (int t = 0; t < 3; t++) {
        struct test_random random = {(uint64_t)t};
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct test_matrix gate = test_matrix_make(&random, types[t][0], 83, 256, 0);
        struct test_matrix up = test_matrix_make(&random, types[t][1], 83, 256, 0);
        struct lode_rows x = make_rows(&random, tokens[t], 256), out = make_rows(&random, x.n, 83);
        cpu_matmul_geglu(&device.base, out, &gate.matrix, &up.matrix, x);
        for (uint32_t i = 0; i < x.n; i += 1 + x.n / 4)
            for (uint32_t r = 0; r < 83; r += 3) {
                double allowed, want = gated(&gate.matrix, &up.matrix, r, row_of(x, i), &allowed);
                cr_assert(fabs(row_of(out, i)[r] - want) <= allowed, "%s [%u][%u]: got %g, want %g",
                          variant->name, i, r, row_of(out, i)[r], want);
            }
        test_matrix_free(&gate);
        test_matrix_free(&up);
        free(x.data);
        free(out.data);
        close_matmul_device(&device);
    }
}

#define N_EXPERTS 9
#define N_USED 3
#define WIDTH 96
#define COLS 256

// A routing of all tokens to N_USED of N_EXPERTS experts, with experts of several types.
struct routing {
    struct test_matrix gate[N_EXPERTS], up[N_EXPERTS], down[N_EXPERTS];
    int32_t *tokens[N_EXPERTS], *slots[N_EXPERTS];
    struct lode_expert_job jobs[N_EXPERTS];
    struct lode_rows x, out;
};

static struct routing make_routing(struct test_random *random, uint32_t n_tokens)
{
    const enum lode_type gates[] = {LODE_Q4_0, LODE_Q4_K, LODE_F16},
                         downs[] = {LODE_Q5_0, LODE_BF16, LODE_Q8_0};
    struct routing routing = {.x = make_rows(random, n_tokens, COLS),
                              .out = make_rows(random, n_tokens * N_USED, COLS)};
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        routing.gate[e] = test_matrix_make(random, gates[e % 3], WIDTH, COLS, 0);
        routing.up[e] = test_matrix_make(random, gates[e % 3], WIDTH, COLS, 0);
        routing.down[e] = test_matrix_make(random, downs[e / 3], COLS, WIDTH, 0);
        routing.tokens[e] = malloc(n_tokens * sizeof(int32_t));
        routing.slots[e] = malloc(n_tokens * sizeof(int32_t));
        routing.jobs[e] = (struct lode_expert_job){.gate = routing.gate[e].matrix,
                                                   .up = routing.up[e].matrix,
                                                   .down = routing.down[e].matrix,
                                                   .tokens = routing.tokens[e],
                                                   .slots = routing.slots[e]};
    }
    for (uint32_t i = 0; i < n_tokens; i++) {
        uint32_t first = test_random_u32(random) % N_EXPERTS;
        for (uint32_t k = 0; k < N_USED; k++) {
            uint32_t e = i == 0 ? k : (first + k * k) % N_EXPERTS; // k * k: 0, 1, 4 are distinct
            struct lode_expert_job *job = &routing.jobs[e];
            routing.tokens[e][job->n] = (int32_t)i;
            routing.slots[e][job->n++] = (int32_t)(i * N_USED + k);
        }
    }
    return routing;
}

static void free_routing(struct routing *routing)
{
    for (int e = 0; e < N_EXPERTS; e++) {
        test_matrix_free(&routing->gate[e]);
        test_matrix_free(&routing->up[e]);
        test_matrix_free(&routing->down[e]);
        free(routing->tokens[e]);
        free(routing->slots[e]);
    }
    free(routing->x.data);
    free(routing->out.data);
}

static void check_expert_row(const struct lode_expert_job *job, const float *x, const float *out,
                             const char *name)
{
    double middle[WIDTH], allowed[WIDTH], largest[WIDTH / 32] = {0};
    for (uint32_t r = 0; r < WIDTH; r++) {
        middle[r] = gated(&job->gate, &job->up, r, x, &allowed[r]);
        largest[r / 32] = fmax(largest[r / 32], fabs(middle[r]));
    }
    for (uint32_t c = 0; c < COLS; c += 37) {
        double want = 0, tolerance = 0;
        for (uint32_t r = 0; r < WIDTH; r++) {
            struct test_weight w = test_matrix_at(&job->down, c, r);
            double weight = w.product + w.addend;
            want += weight * middle[r];
            // Rounding of the intermediate row to int8, at most half a step, and what it was off by before.
            double step = is_quantised(job->down.type) ? largest[r / 32] / 127 * 0.501 : 0;
            tolerance += fabs(weight) * (step + allowed[r] + 1e-6 * fabs(middle[r]));
        }
        cr_assert(fabs(out[c] - want) <= tolerance, "%s: got %g, want %g within %g", name, out[c], want,
                  tolerance);
    }
}

Test(matmul_ops, experts_write_each_slot_with_their_own_weights)
{
    const uint32_t n_tokens[] = {1, 7, 200};
    FOR_MATMUL_VARIANTS(variant)
    for (int t = 0; t < 3; t++) {
        struct test_random random = {(uint64_t)t};
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct routing routing = make_routing(&random, n_tokens[t]);
        cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
        for (int e = 0; e < N_EXPERTS; e++) {
            const struct lode_expert_job *job = &routing.jobs[e];
            for (uint32_t i = 0; i < job->n; i += 1 + job->n / 3)
                check_expert_row(job, row_of(routing.x, (uint32_t)job->tokens[i]),
                                 row_of(routing.out, (uint32_t)job->slots[i]), variant->name);
        }
        free_routing(&routing);
        close_matmul_device(&device);
    }
}

static float *copy_of(struct lode_rows rows)
{
    size_t bytes = rows.n * rows.stride * sizeof(float);
    float *copy = malloc(bytes);
    memcpy(copy, rows.data, bytes);
    return copy;
}

static void check_same(struct lode_rows rows, const float *want, const char *what)
{
    for (uint32_t i = 0; i < rows.n; i++)
        cr_assert_eq(memcmp(row_of(rows, i), want + i * rows.stride, rows.cols * sizeof(float)), 0,
                     "%s: row %u", what, i);
}

Test(matmul_ops, experts_give_the_same_bits_in_any_order_and_number_of_calls)
{
    FOR_MATMUL_VARIANTS(variant)
    {
        struct test_random random = {11};
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct routing routing = make_routing(&random, 150);
        cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
        float *want = copy_of(routing.out);
        memset(routing.out.data, 0, routing.out.n * routing.out.stride * sizeof(float));
        struct lode_expert_job reversed[N_EXPERTS];
        for (int e = 0; e < N_EXPERTS; e++)
            reversed[e] = routing.jobs[N_EXPERTS - 1 - e];
        cpu_experts(&device.base, routing.out, routing.x, reversed, 4);
        cpu_experts(&device.base, routing.out, routing.x, reversed + 4, 1);
        cpu_experts(&device.base, routing.out, routing.x, reversed + 5, N_EXPERTS - 5);
        check_same(routing.out, want, variant->name);
        free(want);
        free_routing(&routing);
        close_matmul_device(&device);
    }
}

Test(matmul_ops, any_number_of_threads_gives_the_same_bits)
{
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t tokens = 1; tokens <= 141; tokens += 70) {
        struct test_random random = {tokens};
        struct test_matrix weights = test_matrix_make(&random, LODE_Q4_K, 333, 512, 0);
        struct routing routing = make_routing(&random, tokens);
        struct lode_rows x = make_rows(&random, tokens, 512), out = make_rows(&random, tokens, 333);
        float *want = NULL, *want_experts = NULL;
        for (uint32_t threads = 1; threads <= 5; threads += 2) {
            struct cpu_device device = open_matmul_device(variant, threads, &limits);
            cpu_matmul(&device.base, &out, &weights.matrix, 1, x);
            cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
            if (!want) {
                want = copy_of(out);
                want_experts = copy_of(routing.out);
            }
            check_same(out, want, variant->name);
            check_same(routing.out, want_experts, variant->name);
            close_matmul_device(&device);
        }
        free(want);
        free(want_experts);
        free(x.data);
        free(out.data);
        free_routing(&routing);
        test_matrix_free(&weights);
    }
}

Test(matmul_ops, embedding_scales_the_rows_that_are_asked_for)
{
    const int32_t ids[] = {5, 0, 12, 5};
    for (unsigned t = 0; t < test_n_types; t++) {
        struct test_random random = {t};
        struct matmul_variant portable = {"portable", CPU_ISA_PORTABLE, &cpu_matmul_portable};
        struct cpu_device device = open_matmul_device(&portable, 2, &limits);
        struct test_matrix table = test_matrix_make(&random, test_types[t], 13, 512, 6);
        struct lode_rows out = make_rows(&random, 4, 512);
        cpu_embed(&device.base, out, &table.matrix, ids, 1.5f);
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t c = 0; c < 512; c++) {
                struct test_weight w = test_matrix_at(&table.matrix, (uint32_t)ids[i], c);
                double want = 1.5 * (w.product + w.addend);
                double allowed = 4e-7 * (fabs(w.product) + fabs(w.addend));
                cr_assert(fabs(row_of(out, i)[c] - want) <= allowed, "%s row %d column %u: got %g, want %g",
                          lode_type_name(test_types[t]), ids[i], c, row_of(out, i)[c], want);
            }
        test_matrix_free(&table);
        free(out.data);
        close_matmul_device(&device);
    }
}

Test(matmul_ops, scratch_grows_and_never_shrinks)
{
    struct cpu_matmul_scratch scratch = {0};
    struct lode_error error;
    struct lode_limits grown = limits;
    cr_assert_eq(cpu_matmul_scratch_bytes(&scratch), 0);
    cr_assert_eq(cpu_matmul_reserve(&scratch, 2, 1000, &limits, &error), LODE_OK);
    size_t first = cpu_matmul_scratch_bytes(&scratch);
    void *memory = scratch.memory;
    grown.rows /= 2;
    cr_assert_eq(cpu_matmul_reserve(&scratch, 1, 1000, &grown, &error), LODE_OK);
    cr_assert_eq(scratch.memory, memory);
    grown.rows = 2 * limits.rows;
    cr_assert_eq(cpu_matmul_reserve(&scratch, 2, 1000, &grown, &error), LODE_OK);
    cr_assert_gt(cpu_matmul_scratch_bytes(&scratch), first);
    cpu_matmul_release(&scratch);
    cr_assert_eq(cpu_matmul_scratch_bytes(&scratch), 0);
}

Test(matmul_ops, scratch_that_cannot_be_had_leaves_the_old_one)
{
    struct cpu_matmul_scratch scratch = {0};
    struct lode_error error;
    cr_assert_eq(cpu_matmul_reserve(&scratch, 2, 1000, &limits, &error), LODE_OK);
    struct cpu_matmul_scratch before = scratch;
    struct lode_limits huge = limits;
    huge.rows = huge.cols = huge.expert_rows = huge.ffn_width = UINT32_MAX;
    cr_assert_eq(cpu_matmul_reserve(&scratch, 2, 1000, &huge, &error), LODE_ERR_MEMORY);
    cr_assert_eq(error.code, LODE_ERR_MEMORY);
    huge.rows = huge.cols = 1u << 27; // a size, but no machine's
    huge.expert_rows = huge.ffn_width = 1;
    cr_assert_eq(cpu_matmul_reserve(&scratch, 2, 1000, &huge, &error), LODE_ERR_MEMORY);
    cr_assert_eq(memcmp(&scratch, &before, sizeof scratch), 0);
    cpu_matmul_release(&scratch);
}

Test(matmul_ops, kernels_exist_for_what_is_built_in_and_for_nothing_else)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        if (cpu_isa_available(isa))
            cr_assert_not_null(cpu_matmul_kernels_for(isa));
    cr_assert_null(cpu_matmul_kernels_for(CPU_ISA_END));
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        cr_assert_eq(variant->kernels->multiply[type] != NULL, lode_type_find(type) != NULL, "%s %u",
                     variant->name, type);
}
