// Experts of a batch on GPUs: gathered rows, both types of kernels, jobs of any size and slots that nobody
// writes.
#include "tests/gpu_products.h"

#define N_EXPERTS 5
#define N_USED 2
#define N_TOKENS 70
#define WIDTH 96
#define COLS 256

static const struct lode_limits limits = {.rows = N_TOKENS,
                                          .cols = COLS,
                                          .ffn_width = WIDTH,
                                          .n_heads = 1,
                                          .head_size = 32,
                                          .expert_rows = N_TOKENS * N_USED};

struct experts {
    struct test_matrix gate[N_EXPERTS], up[N_EXPERTS], down[N_EXPERTS];
    int32_t tokens[N_EXPERTS][N_TOKENS], slots[N_EXPERTS][N_TOKENS];
    struct lode_expert_job jobs[N_EXPERTS];
    struct lode_rows x, out;
};

static void add_choice(struct experts *experts, uint32_t e, uint32_t token, uint32_t slot)
{
    struct lode_expert_job *job = &experts->jobs[e];
    experts->tokens[e][job->n] = (int32_t)token;
    experts->slots[e][job->n++] = (int32_t)slot;
}

// All tokens choose expert 0 (more than a tile has rows), one of them expert 1, none expert 2, and the others
// in turns 3 and 4. Every seventh token has no second expert: its slot is nobody's.
static void make_experts(struct experts *out, struct test_random *random, const enum lode_type *types)
{
    memset(out, 0, sizeof *out);
    out->x = make_rows(random, N_TOKENS, COLS);
    out->out = make_results(N_TOKENS * N_USED, COLS);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        out->gate[e] = test_matrix_make(random, types[0], WIDTH, COLS, 0);
        out->up[e] = test_matrix_make(random, types[1], WIDTH, COLS, 0);
        out->down[e] = test_matrix_make(random, types[2], COLS, WIDTH, 0);
        out->jobs[e].tokens = out->tokens[e];
        out->jobs[e].slots = out->slots[e];
    }
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        uint32_t token = (i * 37 + 5) % N_TOKENS; // not in their order
        add_choice(out, 0, token, token * N_USED + 1);
        if (token == 9)
            add_choice(out, 1, token, token * N_USED);
        else if (token % 7 != 0)
            add_choice(out, 3 + token % 2, token, token * N_USED);
    }
}

static void free_experts(struct experts *experts)
{
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        test_matrix_free(&experts->gate[e]);
        test_matrix_free(&experts->up[e]);
        test_matrix_free(&experts->down[e]);
    }
    free(experts->x.data);
    free(experts->out.data);
}

static void run_experts(struct lode_device *device, struct experts *experts)
{
    struct lode_rows x = gpu_rows_up(device, experts->x), out = gpu_rows_up(device, experts->out);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        experts->jobs[e].gate = gpu_matrix_up(device, &experts->gate[e].matrix);
        experts->jobs[e].up = gpu_matrix_up(device, &experts->up[e].matrix);
        experts->jobs[e].down = gpu_matrix_up(device, &experts->down[e].matrix);
    }
    device->ops->experts(device, out, x, experts->jobs, N_EXPERTS);
    gpu_rows_down(device, experts->out, out);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        gpu_release(device, experts->jobs[e].gate.data);
        gpu_release(device, experts->jobs[e].up.data);
        gpu_release(device, experts->jobs[e].down.data);
    }
    gpu_release(device, x.data);
    gpu_release(device, out.data);
}

// The rounding of the middle row to int8 is at most half a step, and what it was off by before; when that
// moves the largest value of a block, the step moves too.
static void check_choice(const struct experts *experts, uint32_t e, uint32_t choice, const char *name)
{
    const struct lode_matrix *down = &experts->down[e].matrix;
    const uint32_t token = (uint32_t)experts->tokens[e][choice], slot = (uint32_t)experts->slots[e][choice];
    double x_gate[COLS], x_up[COLS], middle[WIDTH], off[WIDTH], largest[WIDTH / 32] = {0};
    round_row(x_gate, row_of(experts->x, token), COLS, is_quantised(experts->gate[e].matrix.type));
    round_row(x_up, row_of(experts->x, token), COLS, is_quantised(experts->up[e].matrix.type));
    for (uint32_t r = 0; r < WIDTH; r++) {
        middle[r] = exact_gated(&experts->gate[e].matrix, &experts->up[e].matrix, r, x_gate, x_up, &off[r]);
        largest[r / 32] = fmax(largest[r / 32], fabs(middle[r]) + off[r]);
    }
    for (uint32_t c = 0; c < COLS; c += 5) {
        double want = 0, allowed = 0, rounding;
        for (uint32_t r = 0; r < WIDTH; r++) {
            struct test_weight w = test_matrix_at(down, c, r);
            double step = is_quantised(down->type) ? largest[r / 32] / 127 * 0.5001 : 0;
            want += (w.product + w.addend) * middle[r];
            allowed += fabs(w.product + w.addend) * (step + off[r]);
        }
        exact_dot(down, c, middle, &rounding);
        double got = row_of(experts->out, slot)[c];
        cr_assert(fabs(got - want) <= allowed + 1.01 * rounding,
                  "%s expert %u choice %u [%u]: %g, not %g +- %g", name, e, choice, c, got, want, allowed);
    }
}

static const enum lode_type kinds[][3] = {
    {LODE_Q4_0, LODE_Q4_0, LODE_Q4_0},  {LODE_Q4_K, LODE_Q4_K, LODE_Q5_0},
    {LODE_Q6_K, LODE_Q4_K, LODE_Q8_0},  {LODE_F16, LODE_F16, LODE_BF16},
    {LODE_Q5_1, LODE_F32, LODE_IQ4_NL}, {LODE_IQ4_XS, LODE_IQ4_XS, LODE_MXFP4},
    {LODE_Q2_K, LODE_Q3_K, LODE_F32},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

Test(gpu_experts_many, each_choice_goes_through_its_expert_to_its_slot)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        FOR_GPU_KERNELS(device, features)
        for (unsigned k = 0; k < N_KINDS; k++) {
            static struct experts experts;
            struct test_random random = {k};
            make_experts(&experts, &random, kinds[k]);
            run_experts(device, &experts);
            for (uint32_t e = 0; e < N_EXPERTS; e++)
                for (uint32_t i = 0; i < experts.jobs[e].n; i++)
                    check_choice(&experts, e, i, features & TEST_GPU_HAS_MMA_S8 ? "mma" : "dot4");
            for (uint32_t token = 0; token < N_TOKENS; token += 7)
                for (uint32_t c = 0; c < COLS; c++)
                    cr_assert(isnan(row_of(experts.out, token * N_USED)[c]), "wrote to nobody's slot");
            check_gaps(experts.out, "experts");
            free_experts(&experts);
        }
    }
}

// A batch may come in several calls, as experts arrive: a job's result does not depend on the others.
Test(gpu_experts_many, jobs_in_another_order_give_the_same_bits)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        static struct experts experts;
        struct test_random random = {3};
        make_experts(&experts, &random, kinds[1]);
        run_experts(device, &experts);
        size_t bytes = experts.out.n * experts.out.stride * sizeof(float);
        float *first = malloc(bytes);
        memcpy(first, experts.out.data, bytes);
        for (uint32_t e = 0; e < N_EXPERTS / 2; e++) {
            const uint32_t other = N_EXPERTS - 1 - e;
            struct lode_expert_job job = experts.jobs[e];
            struct test_matrix gate = experts.gate[e], up = experts.up[e], down = experts.down[e];
            experts.jobs[e] = experts.jobs[other], experts.jobs[other] = job;
            experts.gate[e] = experts.gate[other], experts.gate[other] = gate;
            experts.up[e] = experts.up[other], experts.up[other] = up;
            experts.down[e] = experts.down[other], experts.down[other] = down;
        }
        run_experts(device, &experts);
        for (uint32_t i = 0; i < experts.out.n; i++)
            cr_assert_eq(memcmp(first + i * experts.out.stride, row_of(experts.out, i), COLS * sizeof(float)),
                         0, "row %u", i);
        free(first);
        free_experts(&experts);
    }
}
