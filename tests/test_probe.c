// The probe on a tiny budget: everything is filled in, nothing is left behind, and what fails is told.
#include "backends/cpu/dequantize.h"
#include "profiles/probe.h"
#include "profiles/probe_internal.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static char folder[TEST_FOLDER_SIZE];

// Of what the probe says while it works.
struct listener {
    const char *stop_at;     // the first words of the part to stop in; NULL: none
    const char *truncate_at; // the same, for cutting off the file that is read
    const char *file;
    uint32_t calls, seen_in_folder;
    uint64_t last_done;
    char notes[1024];
};

static uint32_t count_entries(const char *path)
{
    uint32_t n = 0;
    DIR *entries = opendir(path);
    cr_assert(entries, "%s", path);
    for (struct dirent *entry; (entry = readdir(entries));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(entries);
    return n;
}

static void make_folder(void)
{
    test_folder_make(folder, "/var/tmp"); // /tmp is often no drive
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(probe, .init = make_folder, .fini = remove_folder, .timeout = 100);

static bool starts_with(const char *text, const char *words)
{
    return words && strncmp(text, words, strlen(words)) == 0;
}

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct listener *listener = user;
    cr_expect_not_null(what);
    cr_expect_leq(done, total);
    cr_expect_geq(done, listener->last_done);
    listener->last_done = done;
    listener->calls++;
    const uint32_t n = count_entries(folder);
    listener->seen_in_folder = n > listener->seen_in_folder ? n : listener->seen_in_folder;
    if (starts_with(what, listener->truncate_at))
        cr_expect_eq(truncate(listener->file, 4096), 0);
    return !starts_with(what, listener->stop_at);
}

static void on_note(void *user, const char *text)
{
    struct listener *listener = user;
    const size_t len = strlen(listener->notes);
    snprintf(listener->notes + len, sizeof listener->notes - len, "%s\n", text);
}

static struct probe_options tiny(struct listener *listener, const char *drive_path)
{
    return (struct probe_options){.mode = PROBE_QUICK,
                                  .threads = 2,
                                  .drive_path = drive_path,
                                  .seconds = 2,
                                  .memory_bytes = 96 * MIB,
                                  .file_bytes = 32 * MIB,
                                  .on_progress = on_progress,
                                  .on_note = on_note,
                                  .user = listener};
}

// A folder in memory is no drive to measure.
static int run(struct machine_profile *out, const struct probe_options *options, struct lode_error *error)
{
    int code = probe_machine(out, options, error);
    if (code == LODE_ERR_UNSUPPORTED && strstr(error->text, "in memory"))
        cr_skip_test("%s", error->text);
    return code;
}

static void check_curve(const char *name, const struct profile_curve *curve, uint32_t least_points)
{
    cr_expect_geq(curve->n_points, least_points, "%s: %u points", name, curve->n_points);
    for (uint32_t i = 0; i < curve->n_points; i++) {
        cr_expect(curve->points[i].y > 1e-4 && curve->points[i].y < 1e5, "%s: %g", name, curve->points[i].y);
        cr_expect_geq(curve->points[i].spread, 0);
        if (i)
            cr_expect_gt(curve->points[i].x, curve->points[i - 1].x, "%s", name);
    }
}

static uint32_t count_known(const struct profile_device *cpu)
{
    uint32_t n_known = 0;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        n_known += cpu->kernels[type].known;
    return n_known;
}

static void check_kernels(const struct profile_device *cpu)
{
    static const enum lode_type types[] = {LODE_Q4_0, LODE_Q8_0, LODE_Q4_K, LODE_Q6_K, LODE_Q5_K, LODE_BF16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct profile_kernels *kernels = &cpu->kernels[types[i]];
        cr_expect(kernels->known, "%s", lode_type_name(types[i]));
        check_curve(lode_type_name(types[i]), &kernels->dense_gbps, 1);
        check_curve(lode_type_name(types[i]), &kernels->expert_gbps, 1);
        cr_expect_eq(kernels->dense_gbps.points[0].x, 1);
        cr_expect_eq(kernels->expert_gbps.points[0].x, 1);
    }
}

Test(probe, fills_every_curve_and_leaves_nothing_behind)
{
    struct listener listener = {.stop_at = NULL};
    const struct probe_options options = tiny(&listener, folder);
    struct machine_profile profile;
    struct lode_error error = {0};
    const uint32_t descriptors = count_entries("/proc/self/fd");
    cr_assert_eq(run(&profile, &options, &error), 0, "%s", error.text);
    cr_expect_eq(count_entries("/proc/self/fd"), descriptors);
    cr_expect_eq(listener.seen_in_folder, 0, "the file that is measured has a name");
    cr_expect_eq(count_entries(folder), 0);
    cr_expect_gt(listener.calls, 5);

    cr_expect_eq(machine_profile_check(&profile, "profile", &error), 0, "%s", error.text);
    cr_expect_eq(profile.origin, PROFILE_MEASURED);
    cr_expect_str_eq(profile.mode, "quick");
    cr_expect_str_eq(profile.cpu.backend, "cpu");
    cr_expect_eq(profile.cpu.threads, 2);
    cr_expect_eq(strlen(profile.made), strlen("2000-01-01T00:00:00Z"), "%s", profile.made);
    cr_expect_eq(strspn(profile.fingerprint, "0123456789abcdef"), 16, "%s", profile.fingerprint);
    check_curve("read", &profile.cpu.read_gbps, 2);
    check_kernels(&profile.cpu);
    cr_expect_eq(count_known(&profile.cpu), 6);
    check_curve("attention, decode", &profile.cpu.attention_decode_gbps, 1);
    check_curve("attention, prefill", &profile.cpu.attention_prefill_gflops, 1);
    cr_expect(profile.cpu.operation_us > 0.01 && profile.cpu.operation_us < 1e4, "%g us",
              profile.cpu.operation_us);
    cr_expect_gt(profile.cpu.sync_us, 0);

    cr_assert_eq(profile.n_drives, 1);
    const struct profile_drive *drive = &profile.drives[0];
    cr_expect_gt(strlen(drive->name), 0);
    cr_expect_leq(drive->record_bytes, 32 * MIB / 4);
    check_curve("direct", &drive->direct_gbps, 3);
    check_curve("buffered", &drive->buffered_gbps, 3);
    cr_expect_gt(drive->sustained_gbps, 0);
    cr_expect_gt(drive->latency_us, 0);
    for (int i = 0; i < PROFILE_LANES; i++)
        for (int j = 0; j < PROFILE_LANES; j++)
            cr_expect(profile.interference[i][j] > 0 && profile.interference[i][j] <= 1, "[%d][%d] %g", i, j,
                      profile.interference[i][j]);

    bool same = false;
    char why[256];
    cr_assert_eq(probe_recognise(&same, why, sizeof why, &profile, &error), 0, "%s", error.text);
    cr_expect(same, "%s", why);
}

Test(probe, without_a_drive_measures_the_processor_alone)
{
    struct listener listener = {.stop_at = NULL};
    struct probe_options options = tiny(&listener, NULL);
    options.isa = "portable";
    options.threads = 1;
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_assert_eq(probe_machine(&profile, &options, &error), 0, "%s", error.text);
    cr_expect_eq(profile.n_drives, 0);
    cr_expect_str_eq(profile.cpu.isa, "portable");
    check_curve("read", &profile.cpu.read_gbps, 1);
    cr_expect_eq(profile.cpu.read_gbps.n_points, 1);
    check_kernels(&profile.cpu);
    cr_expect_eq(profile.interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE], 1);
}

Test(probe, thoroughly_measures_every_type)
{
    struct listener listener = {.stop_at = NULL};
    struct probe_options options = tiny(&listener, NULL);
    options.mode = PROBE_THOROUGH;
    options.seconds = 4;
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_assert_eq(probe_machine(&profile, &options, &error), 0, "%s", error.text);
    check_kernels(&profile.cpu);
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        cr_expect_eq(profile.cpu.kernels[type].known, lode_type_find(type) != NULL, "%u", type);
    cr_expect_str_eq(profile.mode, "thorough");
}

// Of so many threads each would have less to read than a pass takes.
Test(probe, more_threads_than_memory_is_there_for_end_the_curve_early)
{
    struct listener listener = {.stop_at = NULL};
    struct probe_options options = tiny(&listener, NULL);
    options.threads = 48;
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_assert_eq(probe_machine(&profile, &options, &error), 0, "%s", error.text);
    cr_expect_eq(profile.cpu.threads, 48);
    cr_expect_lt(profile.cpu.read_gbps.points[profile.cpu.read_gbps.n_points - 1].x, 48);
    cr_expect_not_null(strstr(listener.notes, "threads read it"), "%s", listener.notes);
}

Test(probe, figures_have_five_digits)
{
    cr_expect_float_eq(probe_rounded(12.3456789), 12.346, 1e-9);
    cr_expect_float_eq(probe_rounded(0.000123456789), 0.00012346, 1e-12);
    cr_expect_float_eq(probe_rounded(98765432), 98765000, 1e-3);
    cr_expect_eq(probe_rounded(0), 0);
    cr_expect_eq(probe_rounded(-1), 0);
    cr_expect_eq(probe_rounded(NAN), 0);
    cr_expect_eq(probe_rounded(INFINITY), 0);
}

Test(probe, stops_where_it_is_told_to_and_leaves_nothing_behind)
{
    static const char *const parts[] = {"measuring the drive", "measuring memory", "measuring products",
                                        "measuring experts", "measuring attention"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct listener listener = {.stop_at = parts[i]};
        const struct probe_options options = tiny(&listener, folder);
        struct machine_profile profile;
        struct lode_error error = {0};
        const uint32_t descriptors = count_entries("/proc/self/fd");
        cr_expect_eq(run(&profile, &options, &error), LODE_ERR_CANCELLED, "%s: %s", parts[i], error.text);
        cr_expect_eq(count_entries("/proc/self/fd"), descriptors, "%s", parts[i]);
        cr_expect_eq(count_entries(folder), 0, "%s", parts[i]);
        cr_expect_eq(listener.seen_in_folder, 0, "%s", parts[i]);
    }
}

static void write_file(const char *path, uint64_t bytes)
{
    static char chunk[1 << 20];
    memset(chunk, 7, sizeof chunk);
    FILE *file = fopen(path, "wb");
    cr_assert(file, "%s", path);
    for (uint64_t at = 0; at < bytes; at += sizeof chunk)
        cr_assert_eq(fwrite(chunk, 1, sizeof chunk, file), sizeof chunk);
    cr_assert_eq(fclose(file), 0);
}

Test(probe, a_drive_that_fails_while_it_is_read_is_told)
{
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    write_file(path, 32 * MIB);
    struct listener listener = {.truncate_at = "measuring the drive", .file = path};
    const struct probe_options options = tiny(&listener, path);
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_assert_eq(run(&profile, &options, &error), LODE_ERR_IO, "%s", error.text);
    cr_expect_not_null(strstr(error.text, path), "%s", error.text);
}

Test(probe, paths_that_are_no_place_for_a_drive_are_refused)
{
    struct listener listener = {.stop_at = NULL};
    struct machine_profile profile;
    struct lode_error error = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/absent", folder);
    struct probe_options options = tiny(&listener, path);
    cr_expect_eq(probe_machine(&profile, &options, &error), LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, path), "%s", error.text);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(probe_machine(&profile, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, path), "%s", error.text);
}

Test(probe, other_programs_that_are_busy_are_told)
{
    if (access("/proc/stat", R_OK) != 0)
        cr_skip_test("the system does not tell what its processors do");
    struct listener listener = {.stop_at = NULL};
    const struct probe_options options = tiny(&listener, NULL);
    struct machine_profile profile;
    struct lode_error error = {0};
    const pid_t other = fork();
    if (other == 0)
        for (volatile uint64_t i = 0;; i++)
            continue;
    cr_assert_gt(other, 0);
    const int code = probe_machine(&profile, &options, &error);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    cr_expect_eq(code, 0, "%s", error.text);
    cr_expect_not_null(strstr(listener.notes, "processors busy"), "%s", listener.notes);
}

Test(probe, too_little_memory_is_told)
{
    struct listener listener = {.stop_at = NULL};
    struct probe_options options = tiny(&listener, NULL);
    options.memory_bytes = MIB;
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_expect_eq(probe_machine(&profile, &options, &error), LODE_ERR_MEMORY);
    cr_expect_not_null(strstr(error.text, "1.0 MiB"), "%s", error.text);
}

Test(probe, an_instruction_set_that_is_not_there_is_told)
{
    struct listener listener = {.stop_at = NULL};
    struct probe_options options = tiny(&listener, NULL);
    options.isa = "z80";
    struct machine_profile profile;
    struct lode_error error = {0};
    cr_expect_lt(probe_machine(&profile, &options, &error), 0);
    cr_expect_not_null(strstr(error.text, "z80"), "%s", error.text);
}

Test(probe, a_profile_of_another_machine_is_recognised_as_such)
{
    const struct probe_options options = {.drive_path = folder};
    struct machine_profile own, other;
    struct lode_error error = {0};
    char why[256];
    bool same = false;
    cr_assert_eq(probe_discover(&own, &options, &error), 0, "%s", error.text);
    cr_assert_eq(probe_recognise(&same, why, sizeof why, &own, &error), 0, "%s", error.text);
    cr_expect(same, "%s", why);

    static const char *const reasons[] = {
        "processor was Zilog Z80",         "there were 77 cores", "GiB of memory",
        "z80, which this processor lacks", "was Floppy",          "is not there"};
    for (int i = 0; i < 6; i++) {
        other = own;
        if (i == 0)
            strcpy(other.cpu.name, "Zilog Z80");
        if (i == 1)
            other.cpu.cores = 77;
        if (i == 2)
            other.cpu.memory_bytes += 3 * 1024 * MIB;
        if (i == 3)
            strcpy(other.cpu.isa, "z80");
        if (i == 4)
            strcpy(other.drives[0].name, "Floppy");
        if (i == 5) {
            strcpy(other.drives[0].device, "xyz0n1");
            strcpy(other.drives[0].name, "gone");
        }
        if (i == 4 && !own.drives[0].device[0])
            continue; // nothing of its own to compare with
        probe_fingerprint(other.fingerprint, &other);
        cr_expect_str_neq(other.fingerprint, own.fingerprint, "%s", reasons[i]);
        cr_assert_eq(probe_recognise(&same, why, sizeof why, &other, &error), 0, "%s", error.text);
        cr_expect_not(same, "%s", reasons[i]);
        cr_expect_not_null(strstr(why, reasons[i]), "%s: %s", reasons[i], why);
    }
}

Test(probe, memory_that_the_system_keeps_for_itself_does_not_change_the_fingerprint)
{
    struct machine_profile profile;
    char before[17], after[17];
    machine_profile_clear(&profile);
    profile.cpu.memory_bytes = 24 * 1024 * MIB - 400 * MIB;
    probe_fingerprint(before, &profile);
    profile.cpu.memory_bytes -= 60 * MIB;
    probe_fingerprint(after, &profile);
    cr_expect_str_eq(before, after);
}

Test(probe, medians_and_spreads_are_those_of_the_textbook)
{
    struct probe_samples samples = {.n = 0};
    static const double values[] = {9, 1, 5, 3, 100};
    cr_expect_eq(probe_median(&samples).median, 0);
    for (int i = 0; i < 5; i++)
        probe_sample(&samples, values[i]);
    const struct probe_figure figure = probe_median(&samples);
    cr_expect_eq(figure.median, 5);
    cr_expect_float_eq(figure.spread, (9.0 - 3.0) / 5.0, 1e-12);
}

// Subnormal numbers and infinities would be timed otherwise than weights.
Test(probe, weights_are_ordinary_numbers)
{
    enum lode_type types[LODE_TYPE_END];
    const uint32_t n = probe_types(types, PROBE_THOROUGH);
    cr_expect_geq(n, 16);
    for (uint32_t t = 0; t < n; t++) {
        const struct lode_type_traits *traits = lode_type_find(types[t]);
        const size_t n_blocks = 64, n_weights = n_blocks * traits->block_elems;
        uint8_t *blocks = calloc(n_blocks, traits->block_bytes);
        float *weights = calloc(n_weights, sizeof *weights);
        cr_assert(blocks && weights);
        probe_fill_blocks(blocks, types[t], n_blocks * traits->block_bytes);
        cpu_dequantize(weights, types[t], blocks, (uint32_t)n_weights);
        double sum = 0;
        for (size_t i = 0; i < n_weights; i++) {
            cr_assert(isfinite(weights[i]) && fabsf(weights[i]) < 1e4f, "%s: %g", traits->name,
                      (double)weights[i]);
            cr_assert(weights[i] == 0 || fabsf(weights[i]) > 1e-6f, "%s: %g", traits->name,
                      (double)weights[i]);
            sum += fabs((double)weights[i]);
        }
        cr_expect_gt(sum, 0, "%s", traits->name);
        free(blocks);
        free(weights);
    }
}
