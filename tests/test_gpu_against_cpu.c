// Operations of a GPU device against the CPU's: lists that the caller overwrites after the call, tables of
// experts, and many calls between two waits.
#include "backends/cpu/cpu.h"
#include "tests/gpu_devices.h"
#include "tests/product_reference.h"

static const struct lode_limits limits = {
    .rows = 64, .cols = 256, .ffn_width = 96, .n_heads = 4, .head_size = 64, .expert_rows = 256};

static struct lode_device *open_cpu(void)
{
    struct lode_device *cpu;
    struct lode_error error;
    const struct cpu_options options = {.isa = "portable", .threads = 1};
    gpu_must(cpu_open(&cpu, &options, &error), &error);
    gpu_reserve_for(cpu, &limits);
    return cpu;
}

static void check_rows_close(struct lode_rows got, struct lode_rows want, const char *what)
{
    double most = 0;
    for (uint32_t i = 0; i < want.n; i++)
        for (uint32_t j = 0; j < want.cols; j++)
            most = fmax(most, fabs((double)want.data[i * want.stride + j]));
    for (uint32_t i = 0; i < want.n; i++)
        for (uint32_t j = 0; j < want.stride && i * want.stride + j < (want.n - 1) * want.stride + want.cols;
             j++) {
            const double a = (double)got.data[i * want.stride + j],
                         b = (double)want.data[i * want.stride + j];
            cr_assert(fabs(a - b) <= most * 1e-5 + 1e-6, "%s: row %u, column %u: %g, want %g", what, i, j, a,
                      b);
        }
}

Test(gpu_against_cpu, embeds_with_ids_of_many_calls_at_once)
{
    struct lode_device *cpu = open_cpu();
    uint64_t state = 1;
    struct test_matrix table = random_matrix(LODE_Q4_0, 40, 64, 0, &state);
    FOR_GPU_DEVICES(device)
    {
        enum { CALLS = 60, ROWS = 20 };
        gpu_reserve_for(device, &limits);
        struct lode_matrix there = gpu_matrix_up(device, &table.matrix);
        struct lode_rows outs[CALLS];
        int32_t ids[ROWS], all[CALLS][ROWS];
        struct lode_rows blank = make_rows(ROWS, 64, 1, &state);
        for (int c = 0; c < CALLS; c++)
            outs[c] = gpu_rows_up(device, blank);
        for (int c = 0; c < CALLS; c++) {
            for (int i = 0; i < ROWS; i++)
                all[c][i] = ids[i] = (int32_t)(random_bits(&state) % 40);
            device->ops->embed(device, outs[c], &there, ids, 1.5f);
            memset(ids, 0xff, sizeof ids); // they are not looked at after the call
        }
        for (int c = 0; c < CALLS; c++) {
            struct lode_rows want = copy_rows(blank), got = copy_rows(blank);
            cpu->ops->embed(cpu, want, &table.matrix, all[c], 1.5f);
            gpu_rows_down(device, got, outs[c]);
            check_rows_close(got, want, device->name);
            free(want.data), free(got.data);
            gpu_release(device, outs[c].data);
        }
        free(blank.data);
        gpu_release(device, there.data);
    }
    test_matrix_free(&table);
    cpu->ops->close(cpu);
}

Test(gpu_against_cpu, multiplies_few_and_many_rows_by_weights_of_several_types)
{
    struct lode_device *cpu = open_cpu();
    uint64_t state = 2;
    static const enum lode_type types[] = {LODE_Q4_0, LODE_F32, LODE_Q8_0};
    struct test_matrix weights[3];
    for (int j = 0; j < 3; j++)
        weights[j] = random_matrix(types[j], 33 + 7 * (uint32_t)j, 256, 0, &state);
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        static const uint32_t ns[] = {0, 1, 8, 9, 40};
        for (size_t r = 0; r < sizeof ns / sizeof *ns; r++) {
            struct lode_rows x = make_rows(ns[r], 256, 1, &state), there_x = gpu_rows_up(device, x);
            struct lode_matrix here[3], there[3];
            struct lode_rows want[3], got[3], outs[3];
            for (int j = 0; j < 3; j++) {
                here[j] = weights[j].matrix;
                there[j] = gpu_matrix_up(device, &here[j]);
                want[j] = make_rows(ns[r], here[j].rows, 1, &state);
                got[j] = copy_rows(want[j]);
                outs[j] = gpu_rows_up(device, got[j]);
            }
            if (ns[r] > 0)
                cpu->ops->matmul(cpu, want, here, 3, x);
            device->ops->matmul(device, outs, there, 3, there_x);
            for (int j = 0; j < 3; j++) {
                gpu_rows_down(device, got[j], outs[j]);
                if (ns[r] > 0)
                    check_rows_close(got[j], want[j], device->name);
                free(want[j].data), free(got[j].data);
                gpu_release(device, there[j].data), gpu_release(device, outs[j].data);
            }
            gpu_release(device, there_x.data);
            free(x.data);
        }
    }
    for (int j = 0; j < 3; j++)
        test_matrix_free(&weights[j]);
    cpu->ops->close(cpu);
}

// Experts of one shape on both devices.
#define EXPERTS 6
#define HIDDEN 64
#define WIDTH 96

struct expert_world {
    struct random_expert here[EXPERTS];
    struct lode_expert_job there[EXPERTS];
};

static void make_experts(struct expert_world *world, struct lode_device *device, uint64_t *state)
{
    static const enum lode_type types[] = {LODE_Q4_0, LODE_Q4_0, LODE_Q8_0};
    for (int e = 0; e < EXPERTS; e++) {
        world->here[e] = random_expert_make(types, HIDDEN, WIDTH, 0, state);
        world->there[e] = gpu_expert_up(device, &world->here[e].job);
    }
}

static void free_experts(struct expert_world *world, struct lode_device *device)
{
    for (int e = 0; e < EXPERTS; e++) {
        gpu_expert_release(device, &world->there[e]);
        random_expert_free(&world->here[e]);
    }
}

// The choices of `rows` rows, k each, sorted into jobs. Returns how many jobs there are.
struct job_lists {
    int32_t ids[256], tokens[EXPERTS][256], slots[EXPERTS][256];
};

static uint32_t sort_jobs(struct job_lists *lists, struct lode_expert_job *here,
                          struct lode_expert_job *there, const struct expert_world *world, uint32_t n_choices,
                          uint32_t k)
{
    uint32_t n_jobs = 0;
    for (int e = 0; e < EXPERTS; e++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < n_choices; i++)
            if (lists->ids[i] == e) {
                lists->tokens[n_jobs][n] = (int32_t)(i / k);
                lists->slots[n_jobs][n++] = (int32_t)i;
            }
        if (n == 0)
            continue;
        here[n_jobs] = world->here[e].job;
        there[n_jobs] = world->there[e];
        here[n_jobs].n = there[n_jobs].n = n;
        here[n_jobs].tokens = there[n_jobs].tokens = lists->tokens[n_jobs];
        here[n_jobs].slots = there[n_jobs].slots = lists->slots[n_jobs];
        n_jobs++;
    }
    return n_jobs;
}

// k distinct experts for each row; some choices are nobody's.
static void choose(int32_t *ids, uint32_t rows, uint32_t k, uint64_t *state, bool some_absent)
{
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t r = 0, first = random_bits(state); r < k; r++)
            ids[i * k + r] =
                some_absent && random_bits(state) % 5 == 0 ? -1 : (int32_t)((first + r) % EXPERTS);
}

Test(gpu_against_cpu, computes_experts_of_many_calls_at_once)
{
    struct lode_device *cpu = open_cpu();
    uint64_t state = 3;
    FOR_GPU_DEVICES(device)
    {
        enum { CALLS = 12, K = 3 };
        static const uint32_t rows_of[CALLS] = {1, 2, 30, 1, 5, 64, 1, 1, 17, 3, 8, 9};
        struct expert_world world;
        struct lode_rows want[CALLS], outs[CALLS], x[CALLS];
        gpu_reserve_for(device, &limits);
        make_experts(&world, device, &state);
        for (int c = 0; c < CALLS; c++) {
            x[c] = make_rows(rows_of[c], HIDDEN, 1, &state);
            want[c] = make_rows(rows_of[c] * K, HIDDEN, 1, &state);
            outs[c] = gpu_rows_up(device, want[c]);
            struct lode_rows there = gpu_rows_up(device, x[c]);
            free(x[c].data);
            x[c].data = there.data;
        }
        for (int c = 0; c < CALLS; c++) {
            // The lists are gone when the call has returned.
            struct job_lists *lists = malloc(sizeof *lists);
            struct lode_expert_job here[EXPERTS], there[EXPERTS];
            choose(lists->ids, rows_of[c], K, &state, false);
            const uint32_t n_jobs = sort_jobs(lists, here, there, &world, rows_of[c] * K, K);
            device->ops->experts(device, outs[c], x[c], there, n_jobs);
            struct lode_rows host_x = make_rows(rows_of[c], HIDDEN, 1, &state);
            gpu_rows_down(device, host_x, x[c]);
            cpu->ops->experts(cpu, want[c], host_x, here, n_jobs);
            free(host_x.data);
            memset(lists, 0xff, sizeof *lists);
            free(lists);
        }
        for (int c = 0; c < CALLS; c++) {
            struct lode_rows got = copy_rows(want[c]);
            gpu_rows_down(device, got, outs[c]);
            check_rows_close(got, want[c], device->name);
            free(got.data), free(want[c].data);
            gpu_release(device, outs[c].data), gpu_release(device, x[c].data);
        }
        device->ops->experts(device, outs[0], x[0], NULL, 0); // of no jobs: nothing
        free_experts(&world, device);
    }
    cpu->ops->close(cpu);
}

Test(gpu_against_cpu, computes_experts_that_were_chosen_on_the_device)
{
    struct lode_device *cpu = open_cpu();
    uint64_t state = 4;
    FOR_GPU_DEVICES(device)
    {
        enum { K = 3 };
        static const uint32_t rows_of[] = {1, 4, 8, 9, 50};
        struct expert_world world;
        struct lode_expert_entry entries[EXPERTS];
        gpu_reserve_for(device, &limits);
        make_experts(&world, device, &state);
        for (int e = 0; e < EXPERTS; e++)
            entries[e] = (struct lode_expert_entry){world.there[e].gate.data, world.there[e].up.data,
                                                    world.there[e].down.data};
        void *there_entries = gpu_bytes_up(device, entries, sizeof entries);
        for (size_t r = 0; r < 2 * sizeof rows_of / sizeof *rows_of; r++) {
            const uint32_t n = rows_of[r / 2];
            struct job_lists lists;
            struct lode_expert_job here[EXPERTS], there[EXPERTS];
            choose(lists.ids, n, K, &state, r % 2);
            const uint32_t n_jobs = sort_jobs(&lists, here, there, &world, n * K, K);
            struct lode_rows x = make_rows(n, HIDDEN, 1, &state), want = make_rows(n * K, HIDDEN, 1, &state);
            struct lode_rows got = copy_rows(want), there_x = gpu_rows_up(device, x);
            struct lode_rows out = gpu_rows_up(device, want);
            void *ids = gpu_bytes_up(device, lists.ids, n * K * sizeof *lists.ids);
            cpu->ops->experts(cpu, want, x, here, n_jobs);
            device->ops->experts_routed(device, out, there_x, &world.there[0], there_entries, ids, K);
            gpu_rows_down(device, got, out);
            check_rows_close(got, want, device->name);
            gpu_release(device, there_x.data), gpu_release(device, out.data), gpu_release(device, ids);
            free(x.data), free(want.data), free(got.data);
        }
        gpu_release(device, there_entries);
        free_experts(&world, device);
    }
    cpu->ops->close(cpu);
}
