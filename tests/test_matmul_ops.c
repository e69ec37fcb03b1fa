// The matrix operations of the CPU device: sharing of prepared activations, experts, threads, scratch and
// embedding.
#include "tests/matmul_variants.h"
#include "tests/product_reference.h"

static const struct lode_limits limits = {
    .rows = 300, .cols = 512, .ffn_width = 96, .n_heads = 1, .head_size = 32, .expert_rows = 700};

Test(matmul_ops, several_weights_share_the_activations)
{
    const enum lode_type types[] = {LODE_Q4_0, LODE_F32, LODE_Q6_K, LODE_BF16, LODE_IQ4_XS};
    const uint32_t rows[] = {300, 77, 1, 64, 129}, tokens[] = {1, 2, 3, 33, 300};
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t t = 0; t < 5; t++) {
        uint64_t state = t;
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct test_matrix weights[5];
        struct lode_matrix matrices[5];
        struct lode_rows outs[5], x = make_rows(tokens[t], 512, 1, &state);
        for (int i = 0; i < 5; i++) {
            weights[i] = random_matrix(types[i], rows[i], 512, 0, &state);
            matrices[i] = weights[i].matrix;
            outs[i] = make_results(x.n, rows[i]);
        }
        cpu_matmul(&device.base, outs, matrices, 5, x);
        for (int i = 0; i < 5; i++) {
            product_check(outs[i], &matrices[i], x, PRODUCT_LANES, variant->name);
            test_matrix_free(&weights[i]);
            free(outs[i].data);
        }
        free(x.data);
        close_matmul_device(&device);
    }
}

Test(matmul_ops, geglu_gates_the_products)
{
    const enum lode_type types[][2] = {{LODE_Q4_0, LODE_Q4_0}, {LODE_F16, LODE_F16}, {LODE_Q4_K, LODE_Q8_0}};
    const uint32_t tokens[] = {1, 5, 130};
    FOR_MATMUL_VARIANTS(variant)
    for (int t = 0; t < 3; t++) {
        uint64_t state = (uint64_t)t;
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct test_matrix gate = random_matrix(types[t][0], 83, 256, 0, &state);
        struct test_matrix up = random_matrix(types[t][1], 83, 256, 0, &state);
        struct lode_rows x = make_rows(tokens[t], 256, 1, &state), out = make_results(x.n, 83);
        cpu_matmul_geglu(&device.base, out, &gate.matrix, &up.matrix, x);
        product_check_geglu(out, &gate.matrix, &up.matrix, x, PRODUCT_LANES, variant->name);
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
    struct random_expert experts[N_EXPERTS];
    int32_t *tokens[N_EXPERTS], *slots[N_EXPERTS];
    struct lode_expert_job jobs[N_EXPERTS];
    struct lode_rows x, out;
};

static struct routing make_routing(uint64_t *state, uint32_t n_tokens)
{
    const enum lode_type gates[] = {LODE_Q4_0, LODE_Q4_K, LODE_F16},
                         downs[] = {LODE_Q5_0, LODE_BF16, LODE_Q8_0};
    struct routing routing = {.x = make_rows(n_tokens, COLS, 1, state),
                              .out = make_results(n_tokens * N_USED, COLS)};
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        const enum lode_type types[] = {gates[e % 3], gates[e % 3], downs[e / 3]};
        routing.experts[e] = random_expert_make(types, COLS, WIDTH, 0, state);
        routing.tokens[e] = malloc(n_tokens * sizeof(int32_t));
        routing.slots[e] = malloc(n_tokens * sizeof(int32_t));
        routing.jobs[e] = routing.experts[e].job;
        routing.jobs[e].tokens = routing.tokens[e];
        routing.jobs[e].slots = routing.slots[e];
    }
    for (uint32_t i = 0; i < n_tokens; i++) {
        uint32_t first = random_bits(state) % N_EXPERTS;
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
        random_expert_free(&routing->experts[e]);
        free(routing->tokens[e]);
        free(routing->slots[e]);
    }
    free(routing->x.data);
    free(routing->out.data);
}

Test(matmul_ops, experts_write_each_slot_with_their_own_weights)
{
    const uint32_t n_tokens[] = {1, 7, 200};
    FOR_MATMUL_VARIANTS(variant)
    for (int t = 0; t < 3; t++) {
        uint64_t state = (uint64_t)t;
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct routing routing = make_routing(&state, n_tokens[t]);
        cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
        for (int e = 0; e < N_EXPERTS; e++) {
            const struct lode_expert_job *job = &routing.jobs[e];
            struct product_expert exact = product_expert_make(job);
            for (uint32_t i = 0; i < job->n; i += 1 + job->n / 3)
                product_check_expert(row_of(routing.out, (uint32_t)job->slots[i]), &exact,
                                     row_of(routing.x, (uint32_t)job->tokens[i]), PRODUCT_LANES,
                                     variant->name);
            product_expert_free(&exact);
        }
        free_routing(&routing);
        close_matmul_device(&device);
    }
}

Test(matmul_ops, experts_give_the_same_bits_in_any_order_and_number_of_calls)
{
    FOR_MATMUL_VARIANTS(variant)
    {
        uint64_t state = 11;
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        struct routing routing = make_routing(&state, 150);
        cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
        struct lode_rows want = copy_rows(routing.out);
        memset(routing.out.data, 0, routing.out.n * routing.out.stride * sizeof(float));
        struct lode_expert_job reversed[N_EXPERTS];
        for (int e = 0; e < N_EXPERTS; e++)
            reversed[e] = routing.jobs[N_EXPERTS - 1 - e];
        cpu_experts(&device.base, routing.out, routing.x, reversed, 4);
        cpu_experts(&device.base, routing.out, routing.x, reversed + 4, 1);
        cpu_experts(&device.base, routing.out, routing.x, reversed + 5, N_EXPERTS - 5);
        check_same_bits(routing.out, want, variant->name);
        free(want.data);
        free_routing(&routing);
        close_matmul_device(&device);
    }
}

Test(matmul_ops, any_number_of_threads_gives_the_same_bits)
{
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t tokens = 1; tokens <= 141; tokens += 70) {
        uint64_t state = tokens;
        struct test_matrix weights = random_matrix(LODE_Q4_K, 333, 512, 0, &state);
        struct routing routing = make_routing(&state, tokens);
        struct lode_rows x = make_rows(tokens, 512, 1, &state), out = make_results(tokens, 333);
        struct lode_rows want = {0}, want_experts = {0};
        for (uint32_t threads = 1; threads <= 5; threads += 2) {
            struct cpu_device device = open_matmul_device(variant, threads, &limits);
            cpu_matmul(&device.base, &out, &weights.matrix, 1, x);
            cpu_experts(&device.base, routing.out, routing.x, routing.jobs, N_EXPERTS);
            if (!want.data) {
                want = copy_rows(out);
                want_experts = copy_rows(routing.out);
            }
            check_same_bits(out, want, variant->name);
            check_same_bits(routing.out, want_experts, variant->name);
            close_matmul_device(&device);
        }
        free(want.data);
        free(want_experts.data);
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
        uint64_t state = t;
        struct matmul_variant portable = {"portable", CPU_ISA_PORTABLE, &cpu_matmul_portable};
        struct cpu_device device = open_matmul_device(&portable, 2, &limits);
        struct test_matrix table = random_matrix(test_types[t], 13, 512, 6, &state);
        struct lode_rows out = make_results(4, 512);
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
