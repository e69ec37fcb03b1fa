// The probe of GPUs on simt0, a small one: everything is filled in, its memory is left alone, what fails is
// told; and which GPUs are those of a machine.
#include "backends/devices.h"
#include "base/clock.h"
#include "profiles/probe.h"
#include "profiles/probe_internal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define SMALL_GPU "simt0:memory=160M"

struct subject {
    struct device_list list;
    struct probe_gpu gpu;
};

static void open_subject(struct subject *s, const char *name)
{
    struct device_wish wish;
    struct lode_error error = {0};
    devices_find(&s->list);
    cr_assert_eq(device_wish_parse(&wish, name, strlen(name), &error), 0, "%s", error.text);
    cr_assert_eq(devices_open(&s->gpu.device, &s->list, &wish, &error), 0, "%s", error.text);
    for (uint32_t i = 0; i < s->list.n; i++)
        if (strcmp(s->list.found[i].name, wish.name) == 0)
            s->gpu.about = s->list.found[i].gpu;
    strcpy(s->gpu.backend, "simt");
}

static void close_subject(struct subject *s)
{
    s->gpu.device->ops->close(s->gpu.device);
    devices_close(&s->list);
}

static uint64_t free_bytes(struct lode_device *device)
{
    uint64_t bytes, total;
    struct lode_error error = {0};
    cr_assert_eq(device->ops->memory(device, &bytes, &total, &error), 0, "%s", error.text);
    return bytes;
}

// Of what the probe says while it works.
struct listener {
    const char *stop_at; // the part to stop in; NULL: none
    struct lode_device *device;
    uint64_t least_free_bytes;
    char notes[1024];
};

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct listener *listener = user;
    cr_expect_leq(done, total);
    const uint64_t bytes = free_bytes(listener->device);
    if (strstr(what, "GPU") && bytes < listener->least_free_bytes)
        listener->least_free_bytes = bytes;
    return !listener->stop_at || strcmp(what, listener->stop_at) != 0;
}

static void on_note(void *user, const char *text)
{
    struct listener *listener = user;
    const size_t len = strlen(listener->notes);
    snprintf(listener->notes + len, sizeof listener->notes - len, "%s\n", text);
}

static struct probe_options quick(struct listener *listener, const struct subject *s)
{
    listener->device = s->gpu.device;
    listener->least_free_bytes = UINT64_MAX;
    return (struct probe_options){.mode = PROBE_QUICK,
                                  .threads = 1,
                                  .isa = "portable",
                                  .gpus = &s->gpu,
                                  .n_gpus = 1,
                                  .seconds = 3,
                                  .memory_bytes = 96 * MIB,
                                  .on_progress = on_progress,
                                  .on_note = on_note,
                                  .user = listener};
}

static void check_curve(const char *name, const struct profile_curve *curve, uint32_t least_points)
{
    cr_expect_geq(curve->n_points, least_points, "%s: %u points", name, curve->n_points);
    for (uint32_t i = 0; i < curve->n_points; i++) {
        cr_expect(curve->points[i].y > 1e-5 && curve->points[i].y < 1e5, "%s: %g", name, curve->points[i].y);
        cr_expect_geq(curve->points[i].spread, 0);
        if (i)
            cr_expect_gt(curve->points[i].x, curve->points[i - 1].x, "%s", name);
    }
}

static void check_gpu(const struct profile_device *gpu)
{
    static const enum lode_type types[] = {LODE_Q4_0, LODE_Q8_0, LODE_Q4_K, LODE_Q6_K, LODE_Q5_K, LODE_BF16};
    cr_expect_str_eq(gpu->backend, "simt");
    cr_expect_gt(strlen(gpu->name), 0);
    cr_expect_eq(gpu->cores, 0);
    cr_expect_eq(gpu->threads, 0);
    check_curve("copy", &gpu->read_gbps, 1);
    cr_expect_eq(gpu->read_gbps.points[0].x, 1);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct profile_kernels *kernels = &gpu->kernels[types[i]];
        cr_expect(kernels->known, "%s", lode_type_name(types[i]));
        check_curve(lode_type_name(types[i]), &kernels->dense_gbps, 1);
        check_curve(lode_type_name(types[i]), &kernels->expert_gbps, 1);
    }
    check_curve("attention, decode", &gpu->attention_decode_gbps, 1);
    check_curve("attention, prefill", &gpu->attention_prefill_gflops, 1);
    check_curve("up, pinned", &gpu->upload_pinned_gbps, 1);
    check_curve("up, pageable", &gpu->upload_pageable_gbps, 1);
    check_curve("down, pinned", &gpu->download_pinned_gbps, 1);
    check_curve("down, pageable", &gpu->download_pageable_gbps, 1);
    cr_expect(gpu->operation_us > 0.01 && gpu->operation_us < 1e5, "%g us", gpu->operation_us);
    cr_expect_geq(gpu->sync_us, 0);
}

Test(probe_gpu, fills_every_curve_within_a_quarter_of_its_memory, .timeout = 280)
{
    struct subject s;
    struct listener listener = {.stop_at = NULL};
    open_subject(&s, SMALL_GPU);
    const struct probe_options options = quick(&listener, &s);
    struct machine_profile *profile = malloc(sizeof *profile), *again = malloc(sizeof *again);
    struct lode_error error = {0};
    cr_assert(profile && again);
    const uint64_t before = free_bytes(s.gpu.device);
    cr_assert_eq(probe_machine(profile, &options, &error), 0, "%s", error.text);
    cr_assert_eq(profile->n_gpus, 1);
    check_gpu(&profile->gpus[0]);
    cr_expect_gt(profile->cpu.read_gbps.n_points, 0);

    cr_expect_geq(listener.least_free_bytes, before - before / 4, "%llu bytes of %llu were taken",
                  (unsigned long long)(before - listener.least_free_bytes), (unsigned long long)before);
    cr_expect_geq(free_bytes(s.gpu.device), before - before / 8, "only scratch may stay until it is closed");

    cr_expect_not_null(strstr(profile->source, "executed on the CPU"), "%s", profile->source);
    cr_expect_eq(profile->origin, PROFILE_MEASURED);
    char *text, why[256];
    size_t len;
    bool same = true;
    cr_assert_eq(machine_profile_write_text(&text, &len, profile, "profile", &error), 0, "%s", error.text);
    cr_assert_eq(machine_profile_read_text(again, text, len, "profile", &error), 0, "%s", error.text);
    cr_expect_str_eq(again->gpus[0].name, profile->gpus[0].name);
    cr_expect_eq(again->gpus[0].operation_us, profile->gpus[0].operation_us);
    cr_assert_eq(probe_recognise(&same, why, sizeof why, again, &error), 0, "%s", error.text);
    cr_expect_not(same, "a GPU that is executed on the CPU is not one of the machine");
    free(text);
    free(profile);
    free(again);
    close_subject(&s);
}

// 2 GB/s after 200 us: 4 MiB take 2.3 ms, of which the latency is a tenth; 64 KiB take 233 us.
Test(probe_gpu, measures_the_link_that_there_is, .timeout = 100)
{
    struct subject s;
    struct listener listener = {.stop_at = NULL};
    open_subject(&s, "simt0:memory=80M:link=2:latency=200");
    const struct probe_options options = quick(&listener, &s);
    struct machine_profile *profile = malloc(sizeof *profile);
    struct lode_error error = {0};
    cr_assert(profile);
    machine_profile_clear(profile);
    struct probe probe = {.options = &options,
                          .profile = profile,
                          .memory_bytes = 64 * MIB,
                          .device = s.gpu.device,
                          .figures = &profile->gpus[0],
                          .most_rows = 32,
                          .most_choices = 128,
                          .what = "measuring the link of the GPU"};
    probe.start_ns = 0;
    cr_assert_eq(probe_operands_make(&probe, 8 * MIB, &error), 0, "%s", error.text);
    cr_assert_eq(probe_gpu_link(&probe, UINT64_MAX / 4, &error), 0, "%s", error.text);
    const struct profile_curve *const curves[] = {
        &probe.figures->upload_pinned_gbps, &probe.figures->download_pinned_gbps,
        &probe.figures->upload_pageable_gbps, &probe.figures->download_pageable_gbps};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(curves[i]->n_points, 2, "curve %d: 64 KiB and 4 MiB", i);
        cr_expect_leq(curves[i]->points[0].y, 65536 / 233e-6 / 1e9, "curve %d", i);
        cr_expect_leq(curves[i]->points[1].y, 2, "curve %d", i);
        cr_expect_gt(curves[i]->points[1].y, curves[i]->points[0].y, "curve %d", i);
    }
    cr_expect_gt(curves[0]->points[1].y, 0.5, "pinned copies reach the link");

    machine_profile_clear(profile);
    probe.figures->shares_memory = true;
    cr_assert_eq(probe_gpu_link(&probe, UINT64_MAX / 4, &error), 0, "%s", error.text);
    cr_expect_eq(probe.figures->upload_pinned_gbps.n_points, 0, "there is no link to measure");
    probe_operands_free(&probe);
    free(profile);
    close_subject(&s);
}

Test(probe_gpu, stops_where_it_is_told_to_and_gives_memory_back, .timeout = 280)
{
    static const char *const parts[] = {"measuring memory of the GPU", "measuring products of the GPU",
                                        "measuring attention of the GPU"};
    struct subject s;
    open_subject(&s, SMALL_GPU);
    struct machine_profile *profile = malloc(sizeof *profile);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct listener listener = {.stop_at = parts[i]};
        struct probe_options options = quick(&listener, &s);
        struct lode_error error = {0};
        options.seconds = 1;
        const uint64_t before = free_bytes(s.gpu.device);
        cr_expect_eq(probe_machine(profile, &options, &error), LODE_ERR_CANCELLED, "%s: %s", parts[i],
                     error.text);
        cr_expect_geq(free_bytes(s.gpu.device), before - before / 8, "%s", parts[i]);
    }
    free(profile);
    close_subject(&s);
}

// ---- a vendor's library

static struct lode_device_ops paced_ops;
static uint32_t library_from; // rows

static int pace_library(struct lode_device *device, enum lode_type type, uint32_t rows,
                        struct lode_error *error)
{
    (void)device, (void)type, (void)error;
    library_from = rows;
    return LODE_OK;
}

static int no_library(struct lode_device *device, enum lode_type type, uint32_t rows,
                      struct lode_error *error)
{
    (void)type, (void)rows;
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s has none", device->name);
}

// 1 ms by the device's own kernels, a quarter of it by the library.
static void paced_matmul(struct lode_device *device, const struct lode_rows *outs,
                         const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x)
{
    (void)device, (void)outs, (void)weights, (void)n_weights;
    const uint64_t end_ns = clock_now_ns() + (library_from && x.n >= library_from ? 250000 : 1000000);
    while (clock_now_ns() < end_ns)
        continue;
}

Test(probe_gpu, a_library_is_measured_beside_the_devices_own_kernels, .timeout = 280)
{
    struct subject s;
    open_subject(&s, "simt0:memory=1100M"); // a quarter of which has room for its scratch
    struct machine_profile *profile = malloc(sizeof *profile);
    paced_ops = *s.gpu.device->ops;
    paced_ops.matmul = paced_matmul;
    for (int there = 0; there < 2; there++) {
        struct listener listener = {.stop_at = "measuring experts of the GPU"};
        struct probe_options options = quick(&listener, &s);
        struct lode_error error = {0};
        const struct lode_device_ops *ops = s.gpu.device->ops;
        paced_ops.use_library = there ? pace_library : no_library;
        s.gpu.device->ops = &paced_ops;
        cr_expect_eq(probe_machine(profile, &options, &error), LODE_ERR_CANCELLED, "%s", error.text);
        s.gpu.device->ops = ops;
        cr_expect_eq(library_from, 0, "no product is left to the library");
        const struct profile_kernels *kernels = profile->gpus[0].kernels;
        cr_expect(!there == !!strstr(listener.notes, "is not measured: simt0 has none"), "%s",
                  listener.notes);
        cr_expect_eq(kernels[LODE_F32].library_gbps.n_points, 0, "F32 is not rounded");
        const struct profile_curve *own = &kernels[LODE_Q4_0].dense_gbps,
                                   *library = &kernels[LODE_Q4_0].library_gbps;
        cr_assert_eq(library->n_points > 0, there, "%u points", library->n_points);
        if (!there)
            continue;
        cr_expect_eq(library->points[0].x, 128);
        const double gain = library->points[0].y / profile_curve_at(own, 128);
        cr_expect(gain > 1.5 && gain < 10, "%g times as fast: %g of %g", gain, library->points[0].y,
                  own->points[own->n_points - 1].y);
        cr_expect_eq(profile_library_rows(&kernels[LODE_Q4_0]), 128);
    }
    free(profile);
    close_subject(&s);
}

// ---- a device that fails

static struct lode_device_ops failing_ops;
static const struct lode_device_ops *real_ops;
static int syncs_left;

static int failing_sync(struct lode_device *device, struct lode_error *error)
{
    if (syncs_left-- <= 0)
        return lode_fail(error, LODE_ERR_IO, "%s: it fell out of its slot", device->name);
    return real_ops->sync(device, error);
}

Test(probe_gpu, a_fault_is_told_and_ends_the_measurement, .timeout = 280)
{
    static const int syncs[] = {0, 2, 40};
    struct subject s;
    open_subject(&s, SMALL_GPU);
    struct machine_profile *profile = malloc(sizeof *profile);
    real_ops = s.gpu.device->ops;
    failing_ops = *real_ops;
    failing_ops.sync = failing_sync;
    for (size_t i = 0; i < sizeof syncs / sizeof *syncs; i++) {
        struct listener listener = {.stop_at = NULL};
        struct probe_options options = quick(&listener, &s);
        struct lode_error error = {0};
        options.seconds = 1;
        syncs_left = syncs[i];
        s.gpu.device->ops = &failing_ops;
        const uint64_t before = free_bytes(s.gpu.device);
        cr_expect_eq(probe_machine(profile, &options, &error), LODE_ERR_IO, "after %d: %s", syncs[i],
                     error.text);
        cr_expect_not_null(strstr(error.text, "fell out of its slot"), "%s", error.text);
        s.gpu.device->ops = real_ops;
        cr_expect_geq(free_bytes(s.gpu.device), before - before / 8, "after %d", syncs[i]);
    }
    free(profile);
    close_subject(&s);
}

Test(probe_gpu, too_little_memory_is_told, .timeout = 60)
{
    struct subject s;
    struct listener listener = {.stop_at = NULL};
    open_subject(&s, "simt0:memory=32M");
    struct probe_options options = quick(&listener, &s);
    options.seconds = 0.5;
    struct machine_profile *profile = malloc(sizeof *profile);
    struct lode_error error = {0};
    cr_expect_eq(probe_machine(profile, &options, &error), LODE_ERR_MEMORY);
    cr_expect_not_null(strstr(error.text, "simt0"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "64.0 MiB"), "%s", error.text);
    free(profile);
    close_subject(&s);
}

Test(probe_gpu, more_than_a_profile_has_are_refused)
{
    struct probe_gpu gpus[PROFILE_GPUS + 1] = {{.device = NULL}};
    const struct probe_options options = {.gpus = gpus, .n_gpus = PROFILE_GPUS + 1};
    struct machine_profile *profile = malloc(sizeof *profile);
    struct lode_error error = {0};
    cr_expect_eq(probe_machine(profile, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "at most 4"), "%s", error.text);
    free(profile);
}

// ---- which GPUs

Test(probe_gpu, lists_of_names_open_what_they_say)
{
    struct probe_gpus *gpus;
    struct lode_error error = {0};
    uint32_t n;
    char why[256];
    cr_assert_eq(probe_gpus_open(&gpus, "cpu", &error), 0, "%s", error.text);
    probe_gpus_list(gpus, &n);
    cr_expect_eq(n, 0);
    probe_gpus_close(gpus);

    cr_assert_eq(probe_gpus_open(&gpus, "simt0:memory=64M,cpu,simt1", &error), 0, "%s", error.text);
    const struct probe_gpu *list = probe_gpus_list(gpus, &n);
    cr_assert_eq(n, 2);
    cr_expect_str_eq(list[0].device->name, "simt0");
    cr_expect_str_eq(list[1].device->name, "simt1");
    cr_expect_str_eq(list[0].backend, "simt");
    cr_expect_eq(list[0].about.memory_bytes, 64 * MIB);
    cr_expect_not(probe_gpus_are_all(gpus, why, sizeof why));
    cr_expect_not_null(strstr(why, "simt0 is no GPU of this machine"), "%s", why);
    probe_gpus_close(gpus);

    // What is there by itself is the machine's, and nothing that executes on the CPU.
    cr_assert_eq(probe_gpus_open(&gpus, NULL, &error), 0, "%s", error.text);
    list = probe_gpus_list(gpus, &n);
    for (uint32_t g = 0; g < n; g++)
        cr_expect_str_neq(list[g].backend, "simt");
    cr_expect(probe_gpus_are_all(gpus, why, sizeof why), "%s", why);
    probe_gpus_close(gpus);
}

Test(probe_gpu, names_that_are_no_gpu_are_refused)
{
    static const struct {
        const char *names, *told;
    } cases[] = {{"simt0,simt0", "named twice"},
                 {"vulkan0", "vulkan0"},
                 {"", "device"},
                 {"cpu,,simt0", "device"},
                 {"simt7", "simt7"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct probe_gpus *gpus = NULL;
        struct lode_error error = {0};
        cr_expect_lt(probe_gpus_open(&gpus, cases[i].names, &error), 0, "'%s'", cases[i].names);
        cr_expect_not_null(strstr(error.text, cases[i].told), "'%s': %s", cases[i].names, error.text);
        cr_expect_null(gpus);
    }
}

static void add_gpu(struct machine_profile *profile, const char *name, uint64_t gib)
{
    struct profile_device *gpu = &profile->gpus[profile->n_gpus++];
    snprintf(gpu->name, sizeof gpu->name, "%s", name);
    strcpy(gpu->backend, "cuda");
    gpu->memory_bytes = gib << 30;
}

Test(probe_gpu, a_gpu_that_is_added_removed_or_exchanged_is_told)
{
    struct machine_profile *was = malloc(sizeof *was), *is = malloc(sizeof *is);
    char why[256];
    machine_profile_clear(was);
    machine_profile_clear(is);
    cr_expect_not(probe_gpus_differ(why, sizeof why, was, is));
    add_gpu(is, "RTX 4070", 12);
    cr_expect(probe_gpus_differ(why, sizeof why, was, is));
    cr_expect_str_eq(why, "the GPU RTX 4070 was not there, or was not measured");
    add_gpu(was, "RTX 4070", 12);
    cr_expect_not(probe_gpus_differ(why, sizeof why, was, is));
    add_gpu(was, "RTX 4070", 12);
    cr_expect(probe_gpus_differ(why, sizeof why, was, is));
    cr_expect_str_eq(why, "the GPU RTX 4070 is not there, or cannot be used");
    add_gpu(is, "RTX 3060", 12);
    cr_expect(probe_gpus_differ(why, sizeof why, was, is));
    cr_expect_not_null(strstr(why, "the GPU was RTX 4070 with 12.00 GiB and is RTX 3060"), "%s", why);
    strcpy(was->gpus[0].name, "RTX 3060");
    cr_expect(probe_gpus_differ(why, sizeof why, was, is));
    cr_expect_str_eq(why, "GPU 0 was RTX 3060 and is RTX 4070", "the same ones in another order");
    free(was);
    free(is);
}

Test(probe_gpu, profiles_without_gpus_keep_their_fingerprint)
{
    struct machine_profile *profile = malloc(sizeof *profile);
    char without[17], with[17], larger[17];
    machine_profile_clear(profile);
    strcpy(profile->cpu.name, "AMD Ryzen 5 5600");
    profile->cpu.cores = 6;
    profile->cpu.memory_bytes = (uint64_t)16 << 30;
    strcpy(profile->cpu.isa, "avx2");
    probe_fingerprint(without, profile);
    cr_expect_str_eq(without, "514293e2175bd325", "as before profiles had GPUs");
    add_gpu(profile, "RTX 4070", 12);
    probe_fingerprint(with, profile);
    profile->gpus[0].memory_bytes = (uint64_t)16 << 30;
    probe_fingerprint(larger, profile);
    cr_expect_str_neq(with, without);
    cr_expect_str_neq(with, larger);
    free(profile);
}

// A profile that says it was measured with a GPU which is not in this machine.
Test(probe_gpu, a_profile_with_another_gpu_is_not_of_this_machine)
{
    const struct probe_options options = {.drive_path = NULL};
    struct machine_profile *profile = malloc(sizeof *profile);
    struct lode_error error = {0};
    char why[256];
    bool same = false;
    cr_assert_eq(probe_discover(profile, &options, &error), 0, "%s", error.text);
    cr_assert_eq(probe_recognise(&same, why, sizeof why, profile, &error), 0, "%s", error.text);
    cr_expect(same, "%s", why);
    if (profile->n_gpus == PROFILE_GPUS)
        profile->n_gpus--;
    add_gpu(profile, "Voodoo 2", 12);
    probe_fingerprint(profile->fingerprint, profile);
    cr_assert_eq(probe_recognise(&same, why, sizeof why, profile, &error), 0, "%s", error.text);
    cr_expect_not(same);
    cr_expect_not_null(strstr(why, "Voodoo 2"), "%s", why);
    free(profile);
}
