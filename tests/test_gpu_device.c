// The GPU device around its kernels: memory, copies and their order, tables, scratch, faults, the timeline.
#include "backends/cpu/cpu.h"
#include "base/clock.h"
#include "base/timeline.h"
#include "tests/gpu_devices.h"
#include "tests/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned char *make_bytes(size_t n, unsigned seed)
{
    unsigned char *bytes = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)((i * 2654435761u + seed * 40503u) >> 13);
    return bytes;
}

// A simulated device with a link that takes its time, in a list of its own.
static struct lode_device *open_simt(struct device_list *list, const char *text)
{
    struct device_wish wish;
    struct lode_device *device;
    struct lode_error error;
    devices_find(list);
    cr_assert_eq(device_wish_parse(&wish, text, strlen(text), &error), LODE_OK, "%s", error.text);
    cr_assert_eq(devices_open(&device, list, &wish, &error), LODE_OK, "%s", error.text);
    return device;
}

static void close_simt(struct device_list *list, struct lode_device *device)
{
    device->ops->close(device);
    devices_close(list);
}

static void must(int code, const struct lode_error *error)
{
    cr_assert_eq(code, LODE_OK, "%s", error->text);
}

// ---- memory

Test(gpu_device, fills_every_operation)
{
    FOR_GPU_DEVICES(device)
    {
        const void *const *table = (const void *const *)device->ops;
        for (size_t i = 0; i < sizeof *device->ops / sizeof *table; i++)
            cr_assert_not_null(table[i], "%s: operation %zu", device->name, i);
    }
}

Test(gpu_device, brings_back_what_was_uploaded_of_any_size)
{
    static const size_t sizes[] = {0, 1, 3, 64, 4097, 1 << 20, (1 << 20) + 1, 5000001, 9 << 20};
    FOR_GPU_DEVICES(device)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            unsigned char *bytes = make_bytes(sizes[i], (unsigned)i), *back = malloc(sizes[i] + 1);
            back[sizes[i]] = 77;
            void *memory = gpu_bytes_up(device, bytes, sizes[i]);
            gpu_bytes_down(device, back, memory, sizes[i]);
            cr_assert_eq(memcmp(back, bytes, sizes[i]), 0, "%s: %zu bytes", device->name, sizes[i]);
            cr_assert_eq(back[sizes[i]], 77);
            gpu_release(device, memory);
            free(bytes), free(back);
        }
    }
}

Test(gpu_device, gives_aligned_memory_full_of_zeros_with_slack)
{
    static const size_t sizes[] = {1, 100, 65536, 1000001};
    FOR_GPU_DEVICES(device)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            // What others have written there does not stay.
            for (int round = 0; round < 2; round++) {
                void *memory;
                struct lode_error error;
                must(device->ops->alloc(device, &memory, sizes[i], &error), &error);
                cr_assert_eq((uintptr_t)memory % LODE_DEVICE_ALIGN, 0);
                const size_t bytes = sizes[i] + LODE_DEVICE_SLACK;
                unsigned char *back = malloc(bytes);
                gpu_bytes_down(device, back, memory, bytes);
                for (size_t at = 0; at < bytes; at++)
                    cr_assert_eq(back[at], 0, "%s: byte %zu of %zu", device->name, at, sizes[i]);
                memset(back, 0x5a, bytes);
                must(device->ops->upload(device, memory, back, bytes, &error), &error);
                device->ops->free(device, memory, sizes[i]);
                free(back);
            }
        }
        device->ops->free(device, NULL, 0);
    }
}

Test(gpu_device, refuses_more_memory_than_there_is_and_goes_on)
{
    FOR_GPU_DEVICES(device)
    {
        static const size_t sizes[] = {(size_t)1 << 45, SIZE_MAX - 16, SIZE_MAX};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *memory = device;
            struct lode_error error = {0};
            cr_assert_eq(device->ops->alloc(device, &memory, sizes[i], &error), LODE_ERR_MEMORY);
            cr_assert_null(memory);
            cr_assert_not_null(strstr(error.text, device->name), "%s", error.text);
        }
        unsigned char byte = 7, back = 0;
        void *memory = gpu_bytes_up(device, &byte, 1);
        gpu_bytes_down(device, &back, memory, 1);
        cr_assert_eq(back, 7);
        gpu_release(device, memory);
    }
}

Test(gpu_device, counts_its_memory)
{
    struct device_list list;
    struct lode_device *device = open_simt(&list, "simt0:memory=16M");
    uint64_t before, with, after, total;
    struct lode_error error;
    void *memory;
    must(device->ops->memory(device, &before, &total, &error), &error);
    cr_assert_eq(total, 16u << 20);
    cr_assert_leq(before, total);
    must(device->ops->alloc(device, &memory, 4 << 20, &error), &error);
    must(device->ops->memory(device, &with, &total, &error), &error);
    cr_assert_leq(with + (4 << 20), before);
    device->ops->free(device, memory, 4 << 20);
    must(device->ops->memory(device, &after, &total, &error), &error);
    cr_assert_eq(after, before);
    close_simt(&list, device);
}

Test(gpu_device, copies_within_itself_in_order)
{
    FOR_GPU_DEVICES(device)
    {
        enum { BYTES = 100003 };
        struct lode_error error;
        unsigned char *first = make_bytes(BYTES, 1), *second = make_bytes(BYTES, 2), *back = malloc(BYTES);
        unsigned char *a = gpu_bytes_up(device, first, BYTES), *b = gpu_bytes_up(device, second, BYTES);
        unsigned char *c = gpu_bytes_up(device, second, BYTES);
        must(device->ops->copy(device, b, a, BYTES, &error), &error);
        must(device->ops->upload(device, a, second, BYTES, &error), &error);
        must(device->ops->copy(device, c + 3, b, 1000, &error), &error);
        must(device->ops->copy(device, c, b, 0, &error), &error);
        gpu_bytes_down(device, back, b, BYTES);
        cr_assert_eq(memcmp(back, first, BYTES), 0);
        gpu_bytes_down(device, back, c, BYTES);
        cr_assert_eq(memcmp(back + 3, first, 1000), 0);
        cr_assert_eq(memcmp(back + 1003, second + 1003, BYTES - 1003), 0);
        cr_assert_eq(memcmp(back, second, 3), 0);
        gpu_release(device, a), gpu_release(device, b), gpu_release(device, c);
        free(first), free(second), free(back);
    }
}

Test(gpu_device, uploads_stand_when_their_source_is_overwritten)
{
    FOR_GPU_DEVICES(device)
    {
        // Together many times the memory that uploads go through.
        enum { N = 40, BYTES = 300000 };
        struct lode_error error;
        void *memory[N];
        unsigned char *source = malloc(BYTES), *back = malloc(BYTES);
        for (int i = 0; i < N; i++)
            must(device->ops->alloc(device, &memory[i], BYTES, &error), &error);
        for (int i = 0; i < N; i++) {
            memset(source, i + 1, BYTES);
            must(device->ops->upload(device, memory[i], source, BYTES - (size_t)i, &error), &error);
        }
        for (int i = 0; i < N; i++) {
            gpu_bytes_down(device, back, memory[i], BYTES);
            for (int at = 0; at < BYTES; at++)
                cr_assert_eq(back[at], at < BYTES - i ? i + 1 : 0, "upload %d, byte %d", i, at);
            device->ops->free(device, memory[i], BYTES);
        }
        free(source), free(back);
    }
}

// ---- copies beside the operations

Test(gpu_device, copies_begin_behind_their_fence_and_are_awaited)
{
    struct device_list list;
    struct lode_device *slow = open_simt(&list, "simt1:link=0.1:latency=200");
    FOR_GPU_DEVICES(fast)
    {
        struct lode_device *const both[] = {fast, slow};
        for (int d = 0; d < 2; d++) {
            struct lode_device *device = both[d];
            enum { BYTES = 1 << 20, ROUNDS = 4 };
            struct lode_error error;
            void *pinned[ROUNDS], *before[ROUNDS], *after[ROUNDS];
            unsigned char *bytes = make_bytes(BYTES, 3), *back = malloc(BYTES);
            unsigned char *slot = gpu_bytes_up(device, bytes, BYTES);
            for (int r = 0; r < ROUNDS; r++) {
                must(device->ops->alloc_pinned(device, &pinned[r], BYTES, &error), &error);
                memset(pinned[r], r + 1, BYTES);
                must(device->ops->alloc(device, &before[r], BYTES, &error), &error);
                must(device->ops->alloc(device, &after[r], BYTES, &error), &error);
            }
            // The slot is read, refilled beside, read: all without the host's waiting.
            for (int r = 0; r < ROUNDS; r++) {
                uint64_t ticket;
                must(device->ops->copy(device, before[r], slot, BYTES, &error), &error);
                const uint64_t fence = device->ops->fence(device);
                cr_assert_gt(fence, 0);
                must(device->ops->copy_in(device, slot, pinned[r], BYTES, fence, &ticket, &error), &error);
                cr_assert_eq(ticket, (uint64_t)r + 1);
                device->ops->copy_await(device, ticket);
                must(device->ops->copy(device, after[r], slot, BYTES, &error), &error);
            }
            for (int r = 0; r < ROUNDS; r++) {
                gpu_bytes_down(device, back, before[r], BYTES);
                for (int at = 0; at < BYTES; at++)
                    cr_assert_eq(back[at], r ? r : bytes[at], "%s: round %d, before", device->name, r);
                gpu_bytes_down(device, back, after[r], BYTES);
                for (int at = 0; at < BYTES; at++)
                    cr_assert_eq(back[at], r + 1, "%s: round %d, after", device->name, r);
                cr_assert(device->ops->copy_done(device, (uint64_t)r + 1));
                device->ops->free_pinned(device, pinned[r]);
                device->ops->free(device, before[r], BYTES);
                device->ops->free(device, after[r], BYTES);
            }
            gpu_release(device, slot);
            free(bytes), free(back);
        }
    }
    close_simt(&list, slow);
}

Test(gpu_device, copies_take_their_time_beside_the_caller)
{
    struct device_list list;
    struct lode_device *device = open_simt(&list, "simt0:link=0.02"); // 52 ms for a MiB
    enum { BYTES = 1 << 20 };
    struct lode_error error;
    void *pinned, *to;
    uint64_t first, second;
    must(device->ops->alloc_pinned(device, &pinned, BYTES, &error), &error);
    must(device->ops->alloc(device, &to, BYTES, &error), &error);
    const uint64_t start = clock_now_ns();
    must(device->ops->copy_in(device, to, pinned, BYTES, 0, &first, &error), &error);
    must(device->ops->copy_in(device, to, pinned, BYTES, 0, &second, &error), &error);
    const bool early = device->ops->copy_done(device, second);
    // A machine under load may come back late, but then it cannot say that it was early.
    cr_assert(!early || clock_seconds_since(start) > 0.1);
    while (!device->ops->copy_done(device, second))
        cr_assert_lt(clock_seconds_since(start), 60);
    cr_assert_gt(clock_seconds_since(start), 0.1);
    cr_assert(device->ops->copy_done(device, first));
    device->ops->free(device, to, BYTES);
    device->ops->free_pinned(device, pinned);
    close_simt(&list, device);
}

Test(gpu_device, keeps_thousands_of_tickets_and_fences_apart)
{
    FOR_GPU_DEVICES(device)
    {
        enum { N = 5000, PIECES = 64 };
        struct lode_error error;
        uint32_t *pinned, back[PIECES];
        void *to, *memory;
        must(device->ops->alloc_pinned(device, (void **)&pinned, N * sizeof *pinned, &error), &error);
        must(device->ops->alloc(device, &to, sizeof back, &error), &error);
        memory = to;
        for (uint32_t i = 0; i < N; i++) {
            uint64_t ticket;
            pinned[i] = i;
            const uint64_t fence = i % 3 ? device->ops->fence(device) : 0;
            must(device->ops->copy_in(device, (uint32_t *)memory + i % PIECES, &pinned[i], sizeof *pinned,
                                      fence, &ticket, &error),
                 &error);
            cr_assert_eq(ticket, i + 1u);
            if (i % 7 == 0)
                device->ops->copy_await(device, ticket > 2000 ? ticket - 1999 : 1);
            if (i % 500 == 0 && i > 2500)
                cr_assert(device->ops->copy_done(device, 1));
        }
        device->ops->copy_await(device, N);
        gpu_bytes_down(device, back, memory, sizeof back);
        for (uint32_t i = N - PIECES; i < N; i++)
            cr_assert_eq(back[i % PIECES], i);
        for (uint64_t ticket = 0; ticket <= N; ticket += 50)
            cr_assert(device->ops->copy_done(device, ticket), "%u", (unsigned)ticket);

        // A fence that there has not been is a mistake of the caller, not a fault.
        uint64_t ticket;
        cr_assert_eq(device->ops->copy_in(device, memory, pinned, 4, 1u << 20, &ticket, &error),
                     LODE_ERR_ARGUMENT);
        device->ops->free(device, to, sizeof back);
        device->ops->free_pinned(device, pinned);
    }
}

// ---- operations with tables, against the CPU

static const struct lode_limits limits = {
    .rows = 64, .cols = 256, .ffn_width = 96, .n_heads = 4, .head_size = 64, .expert_rows = 256};

static struct lode_device *open_cpu(void)
{
    struct lode_device *cpu;
    struct lode_error error;
    const struct cpu_options options = {.isa = "portable", .threads = 1};
    must(cpu_open(&cpu, &options, &error), &error);
    gpu_reserve_for(cpu, &limits);
    return cpu;
}

static struct lode_rows make_rows(struct test_random *random, uint32_t n, uint32_t cols)
{
    struct lode_rows rows = {malloc(n * (cols + 4) * sizeof(float) + 64), n, cols, cols + 4};
    for (size_t i = 0; i < n * rows.stride; i++)
        rows.data[i] = test_random_float(random);
    return rows;
}

static struct lode_rows copy_rows(struct lode_rows rows)
{
    struct lode_rows copy = rows;
    copy.data = malloc(rows.n * rows.stride * sizeof(float) + 64);
    memcpy(copy.data, rows.data, rows.n * rows.stride * sizeof(float));
    return copy;
}

static void check_close(struct lode_rows got, struct lode_rows want, const char *what)
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

Test(gpu_device, embeds_with_ids_of_many_calls_at_once)
{
    struct lode_device *cpu = open_cpu();
    struct test_random random = {1};
    struct test_matrix table = test_matrix_make(&random, LODE_Q4_0, 40, 64, 0);
    FOR_GPU_DEVICES(device)
    {
        enum { CALLS = 60, ROWS = 20 };
        gpu_reserve_for(device, &limits);
        struct lode_matrix there = gpu_matrix_up(device, &table.matrix);
        struct lode_rows outs[CALLS];
        int32_t ids[ROWS], all[CALLS][ROWS];
        struct lode_rows blank = make_rows(&random, ROWS, 64);
        for (int c = 0; c < CALLS; c++)
            outs[c] = gpu_rows_up(device, blank);
        for (int c = 0; c < CALLS; c++) {
            for (int i = 0; i < ROWS; i++)
                all[c][i] = ids[i] = (int32_t)(test_random_u32(&random) % 40);
            device->ops->embed(device, outs[c], &there, ids, 1.5f);
            memset(ids, 0xff, sizeof ids); // they are not looked at after the call
        }
        for (int c = 0; c < CALLS; c++) {
            struct lode_rows want = copy_rows(blank), got = copy_rows(blank);
            cpu->ops->embed(cpu, want, &table.matrix, all[c], 1.5f);
            gpu_rows_down(device, got, outs[c]);
            check_close(got, want, device->name);
            free(want.data), free(got.data);
            gpu_release(device, outs[c].data);
        }
        free(blank.data);
        gpu_release(device, there.data);
    }
    test_matrix_free(&table);
    cpu->ops->close(cpu);
}

Test(gpu_device, multiplies_few_and_many_rows_by_weights_of_several_types)
{
    struct lode_device *cpu = open_cpu();
    struct test_random random = {2};
    static const enum lode_type types[] = {LODE_Q4_0, LODE_F32, LODE_Q8_0};
    struct test_matrix weights[3];
    for (int j = 0; j < 3; j++)
        weights[j] = test_matrix_make(&random, types[j], 33 + 7 * (uint32_t)j, 256, 0);
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        static const uint32_t ns[] = {0, 1, 8, 9, 40};
        for (size_t r = 0; r < sizeof ns / sizeof *ns; r++) {
            struct lode_rows x = make_rows(&random, ns[r], 256), there_x = gpu_rows_up(device, x);
            struct lode_matrix here[3], there[3];
            struct lode_rows want[3], got[3], outs[3];
            for (int j = 0; j < 3; j++) {
                here[j] = weights[j].matrix;
                there[j] = gpu_matrix_up(device, &here[j]);
                want[j] = make_rows(&random, ns[r], here[j].rows);
                got[j] = copy_rows(want[j]);
                outs[j] = gpu_rows_up(device, got[j]);
            }
            if (ns[r] > 0)
                cpu->ops->matmul(cpu, want, here, 3, x);
            device->ops->matmul(device, outs, there, 3, there_x);
            for (int j = 0; j < 3; j++) {
                gpu_rows_down(device, got[j], outs[j]);
                if (ns[r] > 0)
                    check_close(got[j], want[j], device->name);
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
    struct test_matrix gate[EXPERTS], up[EXPERTS], down[EXPERTS];
    struct lode_expert_job here[EXPERTS], there[EXPERTS];
};

static void make_experts(struct expert_world *world, struct lode_device *device, struct test_random *random)
{
    for (int e = 0; e < EXPERTS; e++) {
        world->gate[e] = test_matrix_make(random, LODE_Q4_0, WIDTH, HIDDEN, 0);
        world->up[e] = test_matrix_make(random, LODE_Q4_0, WIDTH, HIDDEN, 0);
        world->down[e] = test_matrix_make(random, LODE_Q8_0, HIDDEN, WIDTH, 0);
        world->here[e] = (struct lode_expert_job){
            .gate = world->gate[e].matrix, .up = world->up[e].matrix, .down = world->down[e].matrix};
        world->there[e] = (struct lode_expert_job){.gate = gpu_matrix_up(device, &world->gate[e].matrix),
                                                   .up = gpu_matrix_up(device, &world->up[e].matrix),
                                                   .down = gpu_matrix_up(device, &world->down[e].matrix)};
    }
}

static void free_experts(struct expert_world *world, struct lode_device *device)
{
    for (int e = 0; e < EXPERTS; e++) {
        gpu_release(device, world->there[e].gate.data);
        gpu_release(device, world->there[e].up.data);
        gpu_release(device, world->there[e].down.data);
        test_matrix_free(&world->gate[e]);
        test_matrix_free(&world->up[e]);
        test_matrix_free(&world->down[e]);
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
        here[n_jobs] = world->here[e];
        there[n_jobs] = world->there[e];
        here[n_jobs].n = there[n_jobs].n = n;
        here[n_jobs].tokens = there[n_jobs].tokens = lists->tokens[n_jobs];
        here[n_jobs].slots = there[n_jobs].slots = lists->slots[n_jobs];
        n_jobs++;
    }
    return n_jobs;
}

// k distinct experts for each row; some choices are nobody's.
static void choose(int32_t *ids, uint32_t rows, uint32_t k, struct test_random *random, bool some_absent)
{
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t r = 0, first = test_random_u32(random); r < k; r++)
            ids[i * k + r] =
                some_absent && test_random_u32(random) % 5 == 0 ? -1 : (int32_t)((first + r) % EXPERTS);
}

Test(gpu_device, computes_experts_of_many_calls_at_once)
{
    struct lode_device *cpu = open_cpu();
    struct test_random random = {3};
    FOR_GPU_DEVICES(device)
    {
        enum { CALLS = 12, K = 3 };
        static const uint32_t rows_of[CALLS] = {1, 2, 30, 1, 5, 64, 1, 1, 17, 3, 8, 9};
        struct expert_world world;
        struct lode_rows want[CALLS], outs[CALLS], x[CALLS];
        gpu_reserve_for(device, &limits);
        make_experts(&world, device, &random);
        for (int c = 0; c < CALLS; c++) {
            x[c] = make_rows(&random, rows_of[c], HIDDEN);
            want[c] = make_rows(&random, rows_of[c] * K, HIDDEN);
            outs[c] = gpu_rows_up(device, want[c]);
            struct lode_rows there = gpu_rows_up(device, x[c]);
            free(x[c].data);
            x[c].data = there.data;
        }
        for (int c = 0; c < CALLS; c++) {
            // The lists are gone when the call has returned.
            struct job_lists *lists = malloc(sizeof *lists);
            struct lode_expert_job here[EXPERTS], there[EXPERTS];
            choose(lists->ids, rows_of[c], K, &random, false);
            const uint32_t n_jobs = sort_jobs(lists, here, there, &world, rows_of[c] * K, K);
            device->ops->experts(device, outs[c], x[c], there, n_jobs);
            struct lode_rows host_x = make_rows(&random, rows_of[c], HIDDEN);
            gpu_rows_down(device, host_x, x[c]);
            cpu->ops->experts(cpu, want[c], host_x, here, n_jobs);
            free(host_x.data);
            memset(lists, 0xff, sizeof *lists);
            free(lists);
        }
        for (int c = 0; c < CALLS; c++) {
            struct lode_rows got = copy_rows(want[c]);
            gpu_rows_down(device, got, outs[c]);
            check_close(got, want[c], device->name);
            free(got.data), free(want[c].data);
            gpu_release(device, outs[c].data), gpu_release(device, x[c].data);
        }
        device->ops->experts(device, outs[0], x[0], NULL, 0); // of no jobs: nothing
        free_experts(&world, device);
    }
    cpu->ops->close(cpu);
}

Test(gpu_device, computes_experts_that_were_chosen_on_the_device)
{
    struct lode_device *cpu = open_cpu();
    struct test_random random = {4};
    FOR_GPU_DEVICES(device)
    {
        enum { K = 3 };
        static const uint32_t rows_of[] = {1, 4, 8, 9, 50};
        struct expert_world world;
        struct lode_expert_entry entries[EXPERTS];
        gpu_reserve_for(device, &limits);
        make_experts(&world, device, &random);
        for (int e = 0; e < EXPERTS; e++)
            entries[e] = (struct lode_expert_entry){world.there[e].gate.data, world.there[e].up.data,
                                                    world.there[e].down.data};
        void *there_entries = gpu_bytes_up(device, entries, sizeof entries);
        for (size_t r = 0; r < 2 * sizeof rows_of / sizeof *rows_of; r++) {
            const uint32_t n = rows_of[r / 2];
            struct job_lists lists;
            struct lode_expert_job here[EXPERTS], there[EXPERTS];
            choose(lists.ids, n, K, &random, r % 2);
            const uint32_t n_jobs = sort_jobs(&lists, here, there, &world, n * K, K);
            struct lode_rows x = make_rows(&random, n, HIDDEN), want = make_rows(&random, n * K, HIDDEN);
            struct lode_rows got = copy_rows(want), there_x = gpu_rows_up(device, x);
            struct lode_rows out = gpu_rows_up(device, want);
            void *ids = gpu_bytes_up(device, lists.ids, n * K * sizeof *lists.ids);
            cpu->ops->experts(cpu, want, x, here, n_jobs);
            device->ops->experts_routed(device, out, there_x, &world.there[0], there_entries, ids, K);
            gpu_rows_down(device, got, out);
            check_close(got, want, device->name);
            gpu_release(device, there_x.data), gpu_release(device, out.data), gpu_release(device, ids);
            free(x.data), free(want.data), free(got.data);
        }
        gpu_release(device, there_entries);
        free_experts(&world, device);
    }
    cpu->ops->close(cpu);
}

// ---- scratch

Test(gpu_device, grows_its_scratch_and_never_shrinks_it)
{
    FOR_GPU_DEVICES(device)
    {
        struct lode_limits larger = limits, other = {.rows = 1, .cols = 4096};
        cr_assert_eq(device->ops->scratch_bytes(device), 0);
        gpu_reserve_for(device, &limits);
        const size_t first = device->ops->scratch_bytes(device);
        cr_assert_gt(first, limits.rows * limits.cols);
        gpu_reserve_for(device, &other);
        const size_t second = device->ops->scratch_bytes(device);
        cr_assert_gt(second, first);
        gpu_reserve_for(device, &larger);
        cr_assert_eq(device->ops->scratch_bytes(device), second);
    }
}

static void body(void *user)
{
    ++*(int *)user;
}

Test(gpu_device, runs_a_pass_once)
{
    FOR_GPU_DEVICES(device)
    {
        int calls = 0;
        device->ops->pass(device, body, &calls);
        cr_assert_eq(calls, 1);
    }
}

// ---- faults

// Every way of asking tells the same, and operations do nothing.
static void check_faulted(struct lode_device *device, float *there, float was, const char *words)
{
    struct lode_error error = {0}, again = {0};
    struct lode_rows rows = {there, 1, 1, 1};
    float back = -1;
    cr_assert_lt(device->ops->sync(device, &error), 0);
    cr_assert_not_null(strstr(error.text, words), "%s", error.text);
    cr_assert_not_null(strstr(error.text, device->name), "%s", error.text);
    device->ops->add(device, rows, rows, rows, 1);
    cr_assert_eq(device->ops->download(device, &back, there, sizeof back, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    cr_assert_eq(back, -1, "what there was: %g", (double)was);
    cr_assert_eq(device->ops->upload(device, there, &back, sizeof back, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    cr_assert_eq(device->ops->sync(device, NULL), error.code);
    void *memory;
    cr_assert_eq(device->ops->alloc(device, &memory, 1, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    uint64_t ticket;
    cr_assert_eq(device->ops->copy_in(device, there, &back, 4, 0, &ticket, &again), error.code);
    cr_assert(device->ops->copy_done(device, 12)); // nobody shall wait
    device->ops->copy_await(device, 12);
    cr_assert_eq(device->ops->fence(device), 0);
}

Test(gpu_device, keeps_the_fault_of_a_call_beyond_its_scratch)
{
    struct device_list list;
    struct lode_device *device = open_simt(&list, "simt0");
    const float one[256] = {1};
    float *there = gpu_bytes_up(device, one, sizeof one);
    const struct lode_matrix weight = {there, LODE_Q8_0, 1, 32, 34, LODE_LAYOUT_FILE};
    const struct lode_rows x = {there, 1, 32, 32}, out = {there + 64, 1, 1, 1};
    device->ops->matmul(device, &out, &weight, 1, x); // nothing was reserved
    check_faulted(device, there, 1, "reserved");
    gpu_release(device, there);
    close_simt(&list, device);
}

Test(gpu_device, keeps_the_fault_of_memory_that_is_not_its_own)
{
    struct device_list list;
    struct lode_device *device = open_simt(&list, "simt1");
    float one = 1, mine = 3;
    float *there = gpu_bytes_up(device, &one, sizeof one);
    struct lode_error error;
    cr_assert_lt(device->ops->upload(device, &mine, &one, sizeof one, &error), 0);
    cr_assert_eq(mine, 3);
    check_faulted(device, there, 1, "memory");
    gpu_release(device, there);
    close_simt(&list, device);
}

Test(gpu_device, keeps_the_fault_of_a_kernel_until_the_next_wait_and_ever_after)
{
    struct device_list list;
    struct lode_device *device = open_simt(&list, "simt0");
    float one[64] = {1};
    float *there = gpu_bytes_up(device, one, sizeof one);
    const struct lode_rows beyond = {there, 4096, 64, 64};
    device->ops->scale(device, beyond, 2); // far beyond what was allocated
    check_faulted(device, there, 1, "simt0");
    gpu_release(device, there);
    close_simt(&list, device);
}

// ---- the timeline

static size_t count_in(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word))
        n++;
    return n;
}

static char *written(const struct lode_timeline *timeline)
{
    char path[] = "/tmp/lode-timeline-XXXXXX";
    struct lode_error error;
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    must(lode_timeline_write(timeline, path, &error), &error);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    char *text = calloc(1, 8 << 20);
    cr_assert_gt(fread(text, 1, (8 << 20) - 1, file), 0);
    fclose(file);
    unlink(path);
    return text;
}

Test(gpu_device, tells_when_its_operations_and_copies_ran)
{
    FOR_GPU_DEVICES(device)
    {
        enum { SCALES = 5000, COPIES = 30 }; // more than are kept untold
        struct lode_timeline *timeline;
        struct lode_error error;
        float one[32] = {1};
        void *pinned;
        float *there = gpu_bytes_up(device, one, sizeof one), *other = gpu_bytes_up(device, one, sizeof one);
        const struct lode_rows rows = {there, 1, 32, 32};
        must(device->ops->alloc_pinned(device, &pinned, sizeof one, &error), &error);
        must(lode_timeline_open(&timeline, 20000, &error), &error);
        lode_device_timeline(device, timeline);
        device->layer = 3;
        uint64_t ticket = 0;
        for (int i = 0; i < SCALES; i++) {
            device->ops->scale(device, rows, 1);
            if (i < COPIES)
                must(device->ops->copy_in(device, other, pinned, sizeof one, 0, &ticket, &error), &error);
        }
        device->ops->copy_await(device, ticket);
        must(device->ops->sync(device, &error), &error);
        lode_device_timeline(device, NULL);
        device->ops->scale(device, rows, 1); // not told
        must(device->ops->sync(device, &error), &error);

        char *text = written(timeline), lane[64];
        cr_assert_eq(lode_timeline_dropped(timeline), 0);
        cr_assert_eq(count_in(text, "\"scale\""), SCALES);
        cr_assert_eq(count_in(text, "\"copy in\""), COPIES);
        snprintf(lane, sizeof lane, "\"%s\"", device->name);
        cr_assert_gt(count_in(text, lane), 0);
        snprintf(lane, sizeof lane, "\"%s copies\"", device->name);
        cr_assert_gt(count_in(text, lane), 0);
        free(text);
        lode_timeline_close(timeline);
        device->ops->free_pinned(device, pinned);
        gpu_release(device, there), gpu_release(device, other);
    }
}
