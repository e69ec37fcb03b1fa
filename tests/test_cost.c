// The cost model on machines of round figures: closed forms where there are some, and what must hold anyway.
#include "tests/cost_subject.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct answers {
    struct cost decode, prefill;
    struct cost_model model;
    struct homes homes; // of model only the figures are used
};

// Budget 0: all in memory.
static struct answers ask(const struct subject *s, uint64_t budget, uint32_t context,
                          const struct cost_options *options)
{
    const struct cost_options defaults = {.batch = 512};
    struct answers a;
    struct lode_error error;
    const uint64_t full = homes_full_bytes(&s->model.units, true);
    cr_assert_eq(homes_solve(&a.homes, &s->model.units, budget ? budget : full, true, &error), 0, "%s",
                 error.text);
    cr_assert_eq(cost_open(&a.model, &s->work, &a.homes, &s->profile, options ? options : &defaults, &error),
                 0, "%s", error.text);
    cr_assert_eq(cost_decode(&a.decode, &a.model, context, &error), 0, "%s", error.text);
    cr_assert_eq(cost_prefill(&a.prefill, &a.model, context, 512, &error), 0, "%s", error.text);
    const struct cost *costs[] = {&a.decode, &a.prefill};
    for (int i = 0; i < 2; i++) {
        const struct cost *c = costs[i];
        cr_expect(isfinite(c->seconds) && c->seconds > 0);
        cr_expect(c->fast_s > 0 && c->fast_s <= c->seconds && c->seconds <= c->slow_s);
        cr_expect_float_eq(c->kernels_s + c->attention_s + c->operations_s + c->stall_s, c->seconds,
                           1e-9 + 1e-6 * c->seconds);
        cr_expect(c->kernels_s >= 0 && c->attention_s >= 0 && c->operations_s >= 0 && c->stall_s >= 0);
        cr_expect(c->gpu_s == 0 && c->link_s == 0 && c->gpu_share == 0);
    }
    struct cost mean;
    cr_assert_eq(cost_decode_mean(&mean, &a.model, context, &error), 0, "%s", error.text);
    cr_expect_float_eq(mean.seconds, a.decode.seconds, 1e-12 + 1e-9 * mean.seconds);
    cr_expect(mean.fast_s == mean.seconds && mean.slow_s == mean.seconds);
    cr_assert_eq(cost_prefill_mean(&mean, &a.model, context, 512, &error), 0, "%s", error.text);
    cr_expect_float_eq(mean.seconds, a.prefill.seconds, 1e-12 + 1e-9 * mean.seconds);
    cost_close(&a.model);
    homes_free(&a.homes);
    return a;
}

Test(cost, weights_in_memory_take_their_bytes_by_the_rate)
{
    static const char *const shapes[] = {"26b-a4b", "31b", "12b"};
    for (int i = 0; i < 3; i++) {
        struct subject *s = open_subject(shapes[i], "q4_0");
        const struct answers a = ask(s, 0, 0, NULL);
        // The vectors are the small operations' business: 3 MB of 26B.
        expect_near(a.decode.kernels_s, (double)workload_bytes_per_token(&s->work) / 20e9, 2e-3, shapes[i]);
        cr_expect_eq(a.decode.stall_s, 0);
        cr_expect_eq(a.decode.drive_bytes, 0);
        cr_expect_eq(a.decode.hit_rate, 1);
        close_subject(s);
    }
}

Test(cost, attention_reads_what_the_windows_leave)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    const uint32_t context = 32767; // the token itself is the 32768th position
    const struct answers a = ask(s, 0, context, NULL);
    // 25 local layers of 8 KV heads of 256 see 1024, shared by 2 query heads; 5 global ones of 2 of 512.
    const double local = 25 * 2.0 * 8 * 512 * 1024 * (0.065 + 0.0075 * 2) / (0.065 + 0.0075 * 8);
    const double global = 5 * 2.0 * 2 * 1024 * 32768;
    expect_near(a.decode.attention_s, (local + global) / 20e9, 1e-6, "F16");
    const struct cost_options q8 = {.batch = 512, .kv = LODE_CACHE_Q8_0};
    expect_near(ask(s, 0, context, &q8).decode.attention_s, 0.75 * (local + global) / 20e9, 1e-6, "Q8_0");
    double operations = 0; // 4 for a head, a value and a position
    for (uint32_t i = 0; i < 512; i++)
        operations += 25 * 4.0 * 16 * 256 * fmin(1024, i + 1) + (i == 511 ? 5 : 4) * 4.0 * 16 * 512 * (i + 1);
    expect_near(ask(s, 0, 0, NULL).prefill.attention_s, operations / 200e9, 1e-3, "prefill");
    close_subject(s);
}

Test(cost, deeper_contexts_and_less_memory_are_never_faster)
{
    static const char *const shapes[] = {"e2b", "26b-a4b", "31b", "tiny-moe"};
    for (int i = 0; i < 4; i++) {
        struct subject *s = open_subject(shapes[i], "q4_0");
        double last = 0;
        for (uint32_t context = 0; context <= 32768; context = context ? 2 * context : 512) {
            const double now = ask(s, 0, context, NULL).decode.seconds;
            cr_expect_geq(now, last, "%s at %u", shapes[i], context);
            last = now;
        }
        const uint64_t floor = homes_floor_bytes(&s->model.units, true);
        const uint64_t full = homes_full_bytes(&s->model.units, true);
        last = INFINITY;
        for (int step = 0; step <= 16; step++) {
            const uint64_t budget = floor + (full - floor) / 16 * (uint64_t)step;
            const struct answers a = ask(s, step == 16 ? 0 : budget, 0, NULL);
            // A ring takes memory of its own, so a byte more may stream a unit more.
            cr_expect_leq(a.decode.seconds, last * 1.03, "%s, step %d", shapes[i], step);
            last = a.decode.seconds;
        }
        close_subject(s);
    }
}

Test(cost, streaming_overlaps_with_computing)
{
    struct subject *s = open_subject("31b", "q4_0");
    const uint64_t full = homes_full_bytes(&s->model.units, true);
    static const double drives[] = {0.5, 2, 8, 30};
    for (int i = 0; i < 4; i++) {
        make_machine(&s->profile, 20, drives[i]);
        const struct answers a = ask(s, full / 2, 0, NULL);
        const double cpu_s = a.decode.kernels_s + a.decode.attention_s + a.decode.operations_s;
        const double drive_s = a.decode.drive_bytes / (drives[i] * 1e9);
        expect_near(a.decode.drive_bytes, (double)full / 2, 0.1, "bytes streamed");
        const double both = fmax(cpu_s, drive_s);
        cr_expect_geq(a.decode.seconds, both * 0.999, "drive of %g", drives[i]);
        cr_expect_leq(a.decode.seconds, both * 1.12, "drive of %g: %g beside %g", drives[i], a.decode.seconds,
                      both);
        // A prompt passes the weights once.
        expect_near(a.prefill.drive_bytes, a.decode.drive_bytes, 0.1, "bytes in prefill");
    }
    close_subject(s);
}

Test(cost, interference_slows_both)
{
    struct subject *s = open_subject("31b", "q4_0");
    const uint64_t full = homes_full_bytes(&s->model.units, true);
    const double cpu_bound = (make_machine(&s->profile, 20, 30), ask(s, full / 2, 0, NULL).decode.seconds);
    const double drive_bound = (make_machine(&s->profile, 20, 1), ask(s, full / 2, 0, NULL).decode.seconds);
    s->profile.interference[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU] = 0.5;
    const double drive_slow = ask(s, full / 2, 0, NULL).decode.seconds;
    cr_expect_gt(drive_slow, drive_bound * 1.02);
    cr_expect_lt(drive_slow, drive_bound * 2);
    make_machine(&s->profile, 20, 30);
    s->profile.interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE] = 0.5;
    const double cpu_slow = ask(s, full / 2, 0, NULL).decode.seconds;
    cr_expect_gt(cpu_slow, cpu_bound * 1.05);
    cr_expect_lt(cpu_slow, cpu_bound * 2);
    close_subject(s);
}

Test(cost, experts_that_n_tokens_choose)
{
    cr_expect_float_eq(cost_experts_touched(128, 8, 1), 8, 1e-9);
    cr_expect_float_eq(cost_experts_touched(128, 8, 2), 15.5, 1e-9);
    cr_expect_float_eq(cost_experts_touched(128, 8, 512), 128, 1e-9);
    cr_expect_eq(cost_experts_touched(0, 0, 5), 0);
    cr_expect_float_eq(cost_experts_touched(8, 8, 1), 8, 1e-9);
}

Test(cost, hits_follow_the_heat)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    const uint32_t n = workload_experts(&s->work);
    const uint64_t budget = homes_full_bytes(&s->model.units, true) / 2;
    float *heat = malloc(n * sizeof *heat);
    const struct answers prior = ask(s, budget, 0, NULL);
    for (uint32_t e = 0; e < n; e++)
        heat[e] = 8.0f / 128;
    const struct cost_options options = {.batch = 512, .heat = heat};
    const struct answers alike = ask(s, budget, 0, &options);
    const double share = (double)alike.model.n_slots / n;
    expect_near(1 - alike.decode.hit_rate, (1 - share) * 16 / 17, 1e-6, "all alike");
    for (uint32_t e = 0; e < n; e++)
        heat[e] = e % 128 < 8 ? 1 : 0;
    const struct answers few = ask(s, budget, 0, &options);
    cr_expect_float_eq(few.decode.hit_rate, 1, 1e-9);
    cr_expect_gt(few.decode.hit_rate, prior.decode.hit_rate);
    cr_expect_gt(prior.decode.hit_rate, alike.decode.hit_rate);
    cr_expect_lt(few.decode.seconds, prior.decode.seconds);
    cr_expect_lt(prior.decode.seconds, alike.decode.seconds);
    // Reads of a token: those that were missing, and wrong guesses on top of them.
    const double missed =
        (1 - alike.decode.hit_rate) * 240 * (double)workload_expert_bytes(&s->work, &s->work.layers[0]);
    cr_expect_geq(alike.decode.drive_bytes, missed * 0.999);
    cr_expect_leq(alike.decode.drive_bytes, missed * 1.12);
    memset(heat, 0, n * sizeof *heat); // says nothing: the prior
    cr_expect_float_eq(ask(s, budget, 0, &options).decode.hit_rate, prior.decode.hit_rate, 1e-9);
    free(heat);
    close_subject(s);
}

Test(cost, a_layer_waits_for_reads_that_its_own_work_does_not_hide)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    const uint64_t budget = homes_full_bytes(&s->model.units, true) / 2;
    make_machine(&s->profile, 20, 1000);
    const struct answers fast = ask(s, budget, 0, NULL);
    make_machine(&s->profile, 20, 0.2);
    const struct answers slow = ask(s, budget, 0, NULL);
    cr_expect_lt(fast.decode.stall_s, fast.decode.seconds * 0.25);
    const double drive_s = slow.decode.drive_bytes / 0.2e9;
    cr_expect_geq(slow.decode.seconds, 0.8 * drive_s);
    cr_expect_leq(slow.decode.seconds, drive_s + slow.decode.kernels_s * 1.5 + 30 * 2e-4);
    // The whole prompt reads an expert at most once in a step of 512.
    const double all = 3840.0 * (double)workload_expert_bytes(&s->work, &s->work.layers[0]);
    cr_expect_leq(slow.prefill.drive_bytes, all);
    cr_expect_geq(slow.prefill.drive_bytes, 0.3 * all);
    const struct cost_options small = {.batch = 64};
    cr_expect_gt(ask(s, budget, 0, &small).prefill.drive_bytes, 4 * slow.prefill.drive_bytes);
    close_subject(s);
}

Test(cost, prefill_goes_by_the_rows)
{
    struct subject *s = open_subject("31b", "q4_0");
    const double once_s = ask(s, 0, 0, NULL).prefill.kernels_s;
    // Beyond the last point the time grows with the rows; between points it is linear.
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        s->profile.cpu.kernels[type].dense_gbps = s->profile.cpu.kernels[type].expert_gbps =
            (struct profile_curve){.n_points = 2, .points = {{1, 20, 0}, {256, 10, 0}}};
    const double now_s = ask(s, 0, 0, NULL).prefill.kernels_s;
    const double head_gb = (double)s->work.matrices[0].bytes * 1e-9; // for one row, as it was
    cr_expect_gt(now_s, 3.8 * (once_s - head_gb / 20));
    cr_expect_lt(now_s, 4.2 * once_s);
    // What experts were measured with goes on as dense products do.
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        s->profile.cpu.kernels[type].expert_gbps = flat(20);
        s->profile.cpu.kernels[type].dense_gbps.n_points = 1;
    }
    const struct answers level = ask(s, 0, 0, NULL);
    expect_near(level.prefill.kernels_s, once_s, 1e-6, "level beyond the only point");
    cr_expect_gt(level.model.measured_rows, COST_ENOUGH_ROWS);
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        s->profile.cpu.kernels[type].expert_gbps.n_points = 1;
    const struct answers guess = ask(s, 0, 0, NULL);
    cr_expect_eq(guess.model.measured_rows, 1);
    cr_expect_gt(guess.prefill.slow_s, 1.4 * guess.prefill.seconds);
    close_subject(s);
}

Test(cost, threads_by_memory_or_by_cores)
{
    struct subject *s = open_subject("31b", "q4_0");
    s->profile.cpu.read_gbps =
        (struct profile_curve){.n_points = 3, .points = {{1, 15, 0}, {2, 20, 0}, {4, 20, 0}}};
    const struct cost_options two = {.threads = 2, .batch = 512}, one = {.threads = 1, .batch = 512};
    const double all = ask(s, 0, 0, NULL).decode.kernels_s;
    expect_near(ask(s, 0, 0, &two).decode.kernels_s, all, 1e-6, "two threads read as fast");
    expect_near(ask(s, 0, 0, &one).decode.kernels_s, all * 20 / 15, 1e-6, "one reads at 15");
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) // far from what memory gives
        s->profile.cpu.kernels[type].dense_gbps = flat(0.02);
    const double slow = ask(s, 0, 0, NULL).decode.kernels_s;
    expect_near(ask(s, 0, 0, &two).decode.kernels_s, 2 * slow, 0.01, "two of four compute half as fast");
    close_subject(s);
}

Test(cost, what_is_not_measured_is_derived_and_told)
{
    struct subject *s = open_subject("12b", "q4_k");
    const double known = ask(s, 0, 0, NULL).decode.kernels_s;
    s->profile.cpu.kernels[LODE_Q4_K].known = false;
    const struct answers a = ask(s, 0, 0, NULL);
    cr_expect(a.model.assumed >> LODE_Q4_K & 1);
    cr_expect_not(a.model.assumed >> LODE_Q6_K & 1);
    expect_near(a.decode.kernels_s, known, 0.15, "a neighbour in its place");
    cr_expect_not(a.model.attention_assumed);
    memset(&s->profile.cpu.attention_decode_gbps, 0, sizeof s->profile.cpu.attention_decode_gbps);
    cr_expect(ask(s, 0, 0, NULL).model.attention_assumed);
    close_subject(s);
}

Test(cost, what_cannot_be_derived_is_refused)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    struct homes homes;
    struct cost_model model;
    struct lode_error error = {0};
    const struct cost_options options = {.batch = 512};
    cr_assert_eq(homes_solve(&homes, &s->model.units, 6 * GIB, true, &error), 0);
    s->profile.n_drives = 0;
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cost_close(&model);
    cr_expect_not_null(strstr(error.text, "drive"), "%s", error.text);
    s->profile.n_drives = 1;
    memset(s->profile.cpu.kernels, 0, sizeof s->profile.cpu.kernels);
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cost_close(&model);
    cr_expect_not_null(strstr(error.text, "cpu.kernels"), "%s", error.text);
    make_machine(&s->profile, 20, 2);
    s->profile.cpu.read_gbps.n_points = s->profile.cpu.attention_decode_gbps.n_points = 0;
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cost_close(&model);
    cr_expect_not_null(strstr(error.text, "read_gbps"), "%s", error.text);
    homes_free(&homes);
    close_subject(s);
}

Test(cost, what_runs_have_taught_scales_its_part)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    const uint64_t budget = homes_full_bytes(&s->model.units, true) / 2;
    s->profile.cpu.operation_us = 3;
    const struct answers before = ask(s, 0, 4096, NULL);
    static const double taught[PROFILE_PARTS] = {1.2, 0.8, 1.3, 0.9, 1.1, 1};
    for (int part = 0; part < PROFILE_PARTS; part++)
        s->profile.learned[part].factor = taught[part];
    const struct answers a = ask(s, 0, 4096, NULL);
    expect_near(a.decode.kernels_s, 1.2 * before.decode.kernels_s, 1e-9, "kernels of decode");
    expect_near(a.prefill.kernels_s, 0.8 * before.prefill.kernels_s, 1e-9, "kernels of prefill");
    expect_near(a.decode.attention_s, 1.3 * before.decode.attention_s, 1e-9, "attention of decode");
    expect_near(a.prefill.attention_s, 0.9 * before.prefill.attention_s, 1e-9, "attention of prefill");
    expect_near(a.decode.operations_s, 1.1 * before.decode.operations_s, 1e-9, "operations");
    make_machine(&s->profile, 20, 2);
    const struct cost drive = ask(s, budget, 0, NULL).decode;
    s->profile.learned[PROFILE_PART_DRIVE].factor = 1.4;
    const struct cost slower = ask(s, budget, 0, NULL).decode;
    expect_near(slower.drive_s / slower.drive_bytes, 1.4 * drive.drive_s / drive.drive_bytes, 1e-9,
                "the drive");
    cr_expect_gt(slower.seconds, drive.seconds);
    // No more than what may be learned, and nothing from nothing.
    make_machine(&s->profile, 20, 2);
    s->profile.learned[PROFILE_PART_KERNELS_DECODE].factor = 100;
    expect_near(ask(s, 0, 4096, NULL).decode.kernels_s, PROFILE_LEARNED_MOST * before.decode.kernels_s, 1e-9,
                "most");
    s->profile.learned[PROFILE_PART_KERNELS_DECODE].factor = 0.001;
    expect_near(ask(s, 0, 4096, NULL).decode.kernels_s, before.decode.kernels_s / PROFILE_LEARNED_MOST, 1e-9,
                "least");
    s->profile.learned[PROFILE_PART_KERNELS_DECODE].factor = 0;
    expect_near(ask(s, 0, 4096, NULL).decode.kernels_s, before.decode.kernels_s, 1e-9, "unknown");
    close_subject(s);
}

Test(cost, without_prefetch_nothing_is_guessed)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    make_machine(&s->profile, 20, 10);
    const uint64_t budget = homes_full_bytes(&s->model.units, true) / 3;
    const struct cost_options options = {.batch = 512, .no_prefetch = true};
    const struct answers with = ask(s, budget, 0, NULL), without = ask(s, budget, 0, &options);
    const double expert = (double)workload_expert_bytes(&s->work, &s->work.layers[0]);
    expect_near(without.decode.drive_bytes, (1 - without.decode.hit_rate) * 240 * expert, 1e-6,
                "what was chosen");
    cr_expect_gt(with.decode.drive_bytes, without.decode.drive_bytes * 1.001);
    cr_expect_gt(with.decode.kernels_s, without.decode.kernels_s); // routers meet their rows twice
    cr_expect_gt(without.decode.stall_s, with.decode.stall_s);
    cr_expect_gt(without.prefill.stall_s, with.prefill.stall_s);
    close_subject(s);
}
