// Experts of a batch on GPUs: gathered rows, both types of kernels, jobs of any size and slots that nobody
// writes.
#include "tests/gpu_devices.h"
#include "tests/gpu_features.h"
#include "tests/product_reference.h"

#include <stdio.h>

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
    struct random_expert experts[N_EXPERTS];
    int32_t tokens[N_EXPERTS][N_TOKENS], slots[N_EXPERTS][N_TOKENS];
    struct lode_expert_job jobs[N_EXPERTS];
    struct product_expert exact[N_EXPERTS];
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
static void make_experts(struct experts *out, uint64_t *state, const enum lode_type *types)
{
    memset(out, 0, sizeof *out);
    out->x = make_rows(N_TOKENS, COLS, 1, state);
    out->out = make_results(N_TOKENS * N_USED, COLS);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        out->experts[e] = random_expert_make(types, COLS, WIDTH, 0, state);
        out->exact[e] = product_expert_make(&out->experts[e].job);
        out->jobs[e] = out->experts[e].job;
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
        random_expert_free(&experts->experts[e]);
        product_expert_free(&experts->exact[e]);
    }
    free(experts->x.data);
    free(experts->out.data);
}

static void run_experts(struct lode_device *device, struct experts *experts)
{
    struct lode_rows x = gpu_rows_up(device, experts->x), out = gpu_rows_up(device, experts->out);
    struct lode_expert_job jobs[N_EXPERTS];
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        jobs[e] = gpu_expert_up(device, &experts->jobs[e]);
    device->ops->experts(device, out, x, jobs, N_EXPERTS);
    gpu_rows_down(device, experts->out, out);
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        gpu_expert_release(device, &jobs[e]);
    gpu_release(device, x.data);
    gpu_release(device, out.data);
}

static void check_choice(const struct experts *experts, uint32_t e, uint32_t choice, const char *name)
{
    const uint32_t token = (uint32_t)experts->tokens[e][choice], slot = (uint32_t)experts->slots[e][choice];
    char what[64];
    snprintf(what, sizeof what, "%s: expert %u, choice %u", name, e, choice);
    product_check_expert(row_of(experts->out, slot), &experts->exact[e], row_of(experts->x, token),
                         PRODUCT_TILES, what);
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
            uint64_t state = k;
            make_experts(&experts, &state, kinds[k]);
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
        uint64_t state = 3;
        make_experts(&experts, &state, kinds[1]);
        run_experts(device, &experts);
        struct lode_rows first = copy_rows(experts.out);
        for (uint32_t e = 0; e < N_EXPERTS / 2; e++) {
            const uint32_t other = N_EXPERTS - 1 - e;
            const struct lode_expert_job job = experts.jobs[e];
            experts.jobs[e] = experts.jobs[other], experts.jobs[other] = job;
        }
        run_experts(device, &experts);
        check_same_bits(experts.out, first, "in another order");
        free(first.data);
        free_experts(&experts);
    }
}
