// Times of single operations, added up over whole passes of real shapes, against what the cost model says of
// the pass.
#include "core/workload.h"
#include "tests/cost_subject.h"
#include "tests/sim_run.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static const struct io_sim_drive drive = {.n_points = 1, .points = {{1, 3}}, .align_bytes = 4096};

// Every expert is chosen as often as any other.
static int choose_evenly(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                         struct lode_error *error)
{
    uint32_t *state = user;
    (void)error;
    for (uint32_t row = 0; row < route->n_rows; row++)
        for (uint32_t i = 0; i < route->k; i++) {
            bool again = true;
            while (again) {
                *state = *state * 1664525 + 1013904223;
                ids[row * route->k + i] = (int32_t)((*state >> 8) % route->n_experts);
                again = false;
                for (uint32_t j = 0; j < i; j++)
                    again = again || ids[row * route->k + j] == ids[row * route->k + i];
            }
            weights[row * route->k + i] = 1.0f / (float)route->k;
        }
    return 0;
}

static void read_machine(struct machine_profile *out, const char *name)
{
    char file[128], path[512];
    struct lode_error error;
    snprintf(file, sizeof file, "profiles/machines/%s.json", name);
    test_project_path(path, sizeof path, file);
    cr_assert_eq(machine_profile_read(out, path, &error), 0, "%s", error.text);
}

struct parts {
    double kernels_s, attention_s, operations_s;
};

// Runs steps of n tokens behind a context and takes the time of the CPU.
static struct parts run_steps(struct sim_run *run, struct sim_times *times, uint32_t context,
                              uint32_t n_tokens, uint32_t batch)
{
    static const int32_t ids[512];
    struct lode_device_times device = {0};
    struct sim_device_figures before, after;
    run->device->times = &device;
    sim_device_count(run->device, &before);
    forward_move(run->forward, context);
    for (uint32_t done = 0, n; done < n_tokens; done += n) {
        n = n_tokens - done < batch ? n_tokens - done : batch;
        sim_times_pass(times, n);
        cr_assert_eq(forward_step(run->forward, ids, n, done + n == n_tokens, run->logits, &run->error), 0,
                     "%s", run->error.text);
    }
    sim_device_count(run->device, &after);
    run->device->times = NULL;
    return (struct parts){
        (double)device.kernels_ns * 1e-9, (double)device.attention_ns * 1e-9,
        (double)(after.total_ns - before.total_ns - device.kernels_ns - device.attention_ns) * 1e-9};
}

static void compare(const struct parts *got, const struct cost *cost, const char *what)
{
    const double got_s = got->kernels_s + got->attention_s + got->operations_s;
    const double wanted_s = cost->kernels_s + cost->attention_s + cost->operations_s;
    expect_near(got_s, wanted_s, 0.03, what);
    expect_near(got->kernels_s, cost->kernels_s, 0.03, what);
    expect_near(got->attention_s, cost->attention_s, 0.03, what);
    expect_near(got->operations_s, cost->operations_s, 0.10, what);
}

static void compare_model(const char *shape, const struct machine_profile *profile, uint32_t threads)
{
    static const uint32_t contexts[] = {0, 1000, 8000};
    enum { BATCH = 512, PROMPT = 700 };
    struct sim_model model;
    struct workload work;
    struct sim_times *times;
    struct sim_run run;
    struct cost_model cost;
    struct lode_error error;
    uint32_t random = 1;
    sim_model_open_shape(&model, shape, "q4_0");
    cr_assert_eq(gemma_workload(&work, &model.model, &error), 0, "%s", error.text);
    const struct sim_times_options options = {.threads = threads};
    cr_assert_eq(sim_times_open(&times, &work, profile, &options, &error), 0, "%s", error.text);
    const struct sim_run_options run_options = {.context = 9000,
                                                .batch = BATCH,
                                                .no_prefetch = true,
                                                .drive = drive,
                                                .times = times,
                                                .choose = choose_evenly,
                                                .user = &random};
    sim_run_open(&run, &model, &run_options);
    const struct cost_options cost_options = {.threads = threads, .batch = BATCH, .no_prefetch = true};
    cr_assert_eq(cost_open(&cost, &work, sim_times_homes(times), profile, &cost_options, &error), 0, "%s",
                 error.text);
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        char what[128];
        struct cost decode, prefill;
        snprintf(what, sizeof what, "%s on %s with %u threads behind %u", shape, profile->name, threads,
                 contexts[i]);
        cr_assert_eq(cost_decode_mean(&decode, &cost, contexts[i], &error), 0);
        struct parts parts = run_steps(&run, times, contexts[i], 1, 1);
        compare(&parts, &decode, what);
        cr_assert_eq(cost_prefill_mean(&prefill, &cost, contexts[i], PROMPT, &error), 0);
        parts = run_steps(&run, times, contexts[i], PROMPT, BATCH);
        compare(&parts, &prefill, what);
    }
    cost_close(&cost);
    sim_run_close(&run);
    sim_times_close(times);
    workload_close(&work);
    sim_model_close(&model);
}

Test(sim_times, a_pass_takes_what_the_cost_model_says)
{
    static const char *const shapes[] = {"26b-a4b", "e2b", "31b"};
    static const char *const machines[] = {"laptop-8gb", "desktop-ddr4"};
    struct machine_profile *profile = malloc(sizeof *profile);
    cr_assert(profile);
    for (size_t m = 0; m < 2; m++) {
        read_machine(profile, machines[m]);
        for (size_t s = 0; s < 3; s++)
            compare_model(shapes[s], profile, 0);
    }
    compare_model("26b-a4b", profile, 2);
    free(profile);
}

Test(sim_times, what_runs_have_taught_counts)
{
    static const double factors[PROFILE_PARTS] = {1.2, 0.8, 1.4, 0.7, 1.3, 1.1};
    struct machine_profile *profile = malloc(sizeof *profile);
    cr_assert(profile);
    read_machine(profile, "laptop-8gb");
    for (int part = 0; part < PROFILE_PARTS; part++)
        profile->learned[part] = (struct profile_learned){factors[part], 10};
    compare_model("26b-a4b", profile, 0);
    free(profile);
}

// ---- beside the drive
// ----------------------------------------------------------------------------------------

// A read of 30 MB at 3 GB/s takes 10 ms; a product of 20 MB at 20 GB/s 1 ms.
Test(sim_times, operations_and_reads_slow_each_other_down)
{
    struct subject *s = open_subject("tiny-moe", "q4_0");
    s->profile.interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE] = 0.5;
    s->profile.interference[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU] = 0.25;
    s->profile.drives[0].direct_gbps = flat(3);
    s->profile.drives[0].latency_us = 0;
    struct sim_times *times;
    struct lode_error error;
    const struct sim_times_options options = {0};
    cr_assert_eq(sim_times_open(&times, &s->work, &s->profile, &options, &error), 0, "%s", error.text);
    struct sim_clock clock = {SIM_CLOCK_START_NS};
    struct io_sim *below = NULL;
    const uint64_t file_bytes = 100000000;
    struct io_sim_options io_options = {
        .clock = &clock, .share_beside = sim_times_drive_share(times), .out_drive = &below};
    cr_assert(sim_times_drive(&io_options.drive, times));
    struct io *io;
    io_options.share_beside = 1.5;
    cr_assert_eq(io_sim_open(&io, &file_bytes, 1, &io_options, &error), LODE_ERR_ARGUMENT);
    io_options.share_beside = sim_times_drive_share(times);
    cr_assert_eq(io_sim_open(&io, &file_bytes, 1, &io_options, &error), 0, "%s", error.text);
    sim_times_beside(times, below);
    cr_assert_float_eq(sim_times_drive_share(times), 0.25, 1e-9);

    const struct lode_matrix matrix = {.type = LODE_Q4_0, .rows = 1000, .cols = 20000, .row_bytes = 20000};
    const struct sim_work work = {
        .op = SIM_MATMUL, .n_rows = 1, .cols = 20000, .bytes = 20000000, .matrix = &matrix};
    sim_times_pass(times, 1);
    const double alone_s = sim_times_seconds(times, &work);
    cr_assert_float_eq(alone_s, 1e-3, 1e-6);
    cr_assert_eq(io_sim_reads(below), 0);

    char *buffer = mmap(NULL, 30000000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(buffer, MAP_FAILED);
    const struct io_request request = {.length = 30000000, .buffer = buffer, .tag = 1, .padded = true};
    cr_assert_eq(io_submit(io, &request, &error), 0, "%s", error.text);
    cr_assert_gt(io_sim_reads(below), 0);
    const double beside_s = sim_times_seconds(times, &work);
    cr_assert_float_eq(beside_s, 2 * alone_s, 1e-9);
    // 20 ms of computing read half of it, at a quarter of the rate; the rest is waited for at all of it.
    for (int i = 0; i < 10; i++) {
        clock.now_ns += (uint64_t)llround(sim_times_seconds(times, &work) * 1e9);
        cr_assert_gt(io_sim_reads(below), 0);
    }
    cr_assert_eq(clock.now_ns - SIM_CLOCK_START_NS, 20000000);
    struct io_completion completion;
    cr_assert_eq(io_reap(io, &completion, 1, 1, -1), 1);
    cr_assert_float_eq((double)(clock.now_ns - SIM_CLOCK_START_NS), 25e6, 5e4);
    cr_assert_eq(io_sim_reads(below), 0);
    cr_assert_float_eq(sim_times_seconds(times, &work), alone_s, 1e-12);
    io_close(io);
    munmap(buffer, 30000000);
    sim_times_close(times);
    close_subject(s);
}
