// Machine profiles in files, the sample machines, the documentation, and machines in a line of text.
#include "profiles/machine_profile.h"
#include "profiles/machine_profile_fields.h"
#include "tests/profile_checks.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct machine_profile profile, second; // large, and cleared by what fills them

// ---- files
// ---------------------------------------------------------------------------------------------------

static char folder[TEST_FOLDER_SIZE], path[256];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    snprintf(path, sizeof path, "%s/config/lode/machine.json", folder);
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_parse(&profile, "ram=16G@40,gpu=8G,gpu=12G@360,drive=3.5", &error), 0, "%s",
                 error.text);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(machine_file, .init = make_folder, .fini = remove_folder);

static void set_name(const char *name)
{
    memset(profile.name, 0, sizeof profile.name);
    strcpy(profile.name, name);
}

static void write_profile(const char *to)
{
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_write(&profile, to, &error), 0, "%s", error.text);
}

static void expect_file(const char *from)
{
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_read(&second, from, &error), 0, "%s", error.text);
    cr_assert_eq(memcmp(&profile, &second, sizeof profile), 0);
}

static int count_files(const char *in)
{
    DIR *dir = opendir(in);
    cr_assert(dir, "%s", in);
    int n = -2; // itself and the one above
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void expect_write_fails(const char *to, int code, const char *reason)
{
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_write(&profile, to, &error), code, "%s", to);
    cr_assert(strstr(error.text, reason), "'%s' lacks '%s'", error.text, reason);
}

Test(machine_file, writing_makes_folders_and_leaves_one_file)
{
    char parent[128];
    snprintf(parent, sizeof parent, "%s/config/lode", folder);
    write_profile(path);
    expect_file(path);
    cr_assert_eq(count_files(parent), 1);
    struct stat status;
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
    set_name("another");
    write_profile(path);
    expect_file(path);
    cr_assert_eq(count_files(parent), 1);
}

Test(machine_file, a_link_is_followed)
{
    char real[128], link[128];
    snprintf(real, sizeof real, "%s/real.json", folder);
    snprintf(link, sizeof link, "%s/link.json", folder);
    write_profile(real);
    cr_assert_eq(symlink("real.json", link), 0);
    set_name("through the link");
    write_profile(link);
    expect_file(real);
    struct stat status;
    cr_assert(lstat(link, &status) == 0 && S_ISLNK(status.st_mode));
}

Test(machine_file, what_is_no_regular_file_is_left_alone)
{
    struct lode_error error = {0};
    char fifo[128];
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    cr_assert_eq(mkfifo(fifo, 0600), 0);
    expect_write_fails(fifo, LODE_ERR_IO, "no regular file");
    expect_write_fails(folder, LODE_ERR_IO, "no regular file");
    cr_assert_eq(machine_profile_read(&second, fifo, &error), LODE_ERR_FORMAT);
    cr_assert_eq(machine_profile_read(&second, folder, &error), LODE_ERR_FORMAT);
    cr_assert_eq(machine_profile_read(&second, "/dev/zero", &error), LODE_ERR_FORMAT);
    cr_assert_eq(count_files(folder), 1);
}

Test(machine_file, failures_name_the_file)
{
    struct lode_error error = {0};
    static char name[5000];
    memset(name, 'a', sizeof name - 1);
    cr_assert_eq(machine_profile_read(&second, path, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, path) && strstr(error.text, "No such file"), "%s", error.text);
    cr_assert_eq(second.interference[0][1], 1, "cleared");
    expect_write_fails("/proc/none/machine.json", LODE_ERR_IO, "/proc/none");
    expect_write_fails(name, LODE_ERR_ARGUMENT, "too long");
    expect_write_fails("", LODE_ERR_ARGUMENT, "empty");
    write_profile(path);
    char below[300];
    snprintf(below, sizeof below, "%s/machine.json", path);
    expect_write_fails(below, LODE_ERR_IO, "Not a directory");
    profile.cpu.cores = 0;
    expect_write_fails(path, LODE_ERR_FORMAT, "cpu.cores");
}

Test(machine_file, a_write_that_fails_leaves_the_old_file_and_nothing_else)
{
    char parent[128];
    snprintf(parent, sizeof parent, "%s/config/lode", folder);
    write_profile(path);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 100;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct lode_error error = {0};
    const int rc = machine_profile_write(&profile, path, &error);
    limit.rlim_cur = before;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(rc, LODE_ERR_IO);
    cr_assert(strstr(error.text, "File too large") && strstr(error.text, path), "%s", error.text);
    cr_assert_eq(count_files(parent), 1);
    expect_file(path);
}

Test(machine_file, a_file_that_is_too_large_is_refused)
{
    write_profile(path);
    cr_assert_eq(truncate(path, (off_t)1 << 40), 0);
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_read(&second, path, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "no profile has more than"), "%s", error.text);
}

// ---- the sample machines
// -------------------------------------------------------------------------------------

#define MACHINES LODE_SOURCE_ROOT "/profiles/machines"

static double largest(const struct profile_curve *curve)
{
    double most = 0;
    for (uint32_t i = 0; i < curve->n_points; i++)
        most = fmax(most, curve->points[i].y);
    return most;
}

// No kernel reads faster than the memory, and more rows never make it faster.
static void expect_sane_kernels(const struct profile_device *device, const char *name)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        const struct profile_kernels *kernels = &device->kernels[type];
        cr_assert_eq(kernels->known, lode_type_find(type) != NULL, "%s: %s", name, lode_type_name(type));
        const struct profile_curve *const curves[] = {&kernels->dense_gbps, &kernels->expert_gbps};
        for (size_t c = 0; c < 2 && kernels->known; c++) {
            cr_assert_geq(curves[c]->n_points, 1);
            cr_assert_leq(curves[c]->points[0].y, 1.001 * largest(&device->read_gbps), "%s: %s", name,
                          lode_type_name(type));
            for (uint32_t i = 1; i < curves[c]->n_points; i++)
                cr_assert_leq(curves[c]->points[i].y, curves[c]->points[i - 1].y);
        }
        if (kernels->known)
            cr_assert_leq(profile_curve_at(&kernels->expert_gbps, 64),
                          profile_curve_at(&kernels->dense_gbps, 64));
    }
}

Test(machine, sample_machines_are_usable_and_say_their_source)
{
    DIR *dir = opendir(MACHINES);
    cr_assert(dir);
    int n = 0, n_cuda = 0, n_hip = 0, n_shared = 0, n_without_gpu = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".json") != 0)
            continue;
        char file[512];
        struct lode_error error = {0};
        snprintf(file, sizeof file, "%s/%s", MACHINES, entry->d_name);
        cr_assert_eq(machine_profile_read(&profile, file, &error), 0, "%s", error.text);
        cr_assert(profile.origin == PROFILE_MEASURED || strstr(profile.source, "data sheet"), "%s", file);
        expect_sane_kernels(&profile.cpu, file);
        n_without_gpu += profile.n_gpus == 0;
        for (uint32_t i = 0; i < profile.n_gpus; i++) {
            expect_sane_kernels(&profile.gpus[i], file);
            n_cuda += strcmp(profile.gpus[i].backend, "cuda") == 0;
            n_hip += strcmp(profile.gpus[i].backend, "hip") == 0;
            n_shared += profile.gpus[i].shares_memory;
        }
        cr_assert_geq(profile.n_drives, 1);
        profile_expect_same_after_writing(&profile);
        n++;
    }
    closedir(dir);
    cr_assert(n >= 10 && n_cuda >= 3 && n_hip >= 3 && n_shared >= 1 && n_without_gpu >= 3, "%d machines", n);
}

// ---- the documentation
// ---------------------------------------------------------------------------------------

static char *read_documentation(void)
{
    FILE *file = fopen(LODE_SOURCE_ROOT "/docs/profile-format.md", "r");
    cr_assert(file);
    char *text = calloc(1, 1 << 16);
    cr_assert(text && fread(text, 1, (1 << 16) - 1, file) > 0 && feof(file));
    fclose(file);
    return text;
}

// The lines that are set as code behind the heading.
static char *take_example(char *documentation)
{
    char *at = strstr(documentation, "## An example");
    cr_assert(at);
    char *example = calloc(1, strlen(at) + 1);
    cr_assert(example);
    for (char *line = strtok(at, "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, "    ", 4) == 0)
            sprintf(example + strlen(example), "%s\n", line + 4);
    return example;
}

Test(machine, the_documented_example_is_what_would_be_written)
{
    char *documentation = read_documentation(), *example = take_example(documentation);
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_read_text(&profile, example, strlen(example), "example", &error), 0, "%s",
                 error.text);
    char *text = profile_written(&profile);
    cr_assert_str_eq(text, example);
    free(text);
    free(example);
    free(documentation);
}

static void expect_documented(const char *documentation, const struct profile_record *record)
{
    for (size_t i = 0; i < record->n_fields; i++) {
        cr_assert(strstr(documentation, record->fields[i].name), "%s", record->fields[i].name);
        if (record->fields[i].record)
            expect_documented(documentation, record->fields[i].record);
    }
}

Test(machine, every_member_is_documented)
{
    char *documentation = read_documentation();
    *strstr(documentation, "## An example") = '\0';
    expect_documented(documentation, &profile_machine_record);
    expect_documented(documentation, &profile_kernels_record);
    free(documentation);
}

// ---- machines in a line
// --------------------------------------------------------------------------------------

static void expect_parsed(const char *text)
{
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_parse(&profile, text, &error), 0, "%s", error.text);
    cr_assert_eq(profile.origin, PROFILE_DESCRIBED);
    cr_assert(strstr(profile.source, text), "%s", profile.source);
    expect_sane_kernels(&profile.cpu, text);
    for (uint32_t i = 0; i < profile.n_gpus; i++)
        expect_sane_kernels(&profile.gpus[i], text);
    profile_expect_same_after_writing(&profile);
}

Test(machine, a_line_describes_a_machine)
{
    expect_parsed("ram=32G@60,cores=8,gpu=12G@360,link=12,drive=3.5");
    cr_assert_str_eq(profile.name, "ram=32G@60,cores=8,gpu=12G@360,link=12,drive=3.5");
    cr_assert_eq(profile.cpu.memory_bytes, (uint64_t)32 << 30);
    cr_assert_eq(profile.cpu.cores, 8);
    cr_assert_float_eq(largest(&profile.cpu.read_gbps), 0.8 * 60, 1e-9);
    cr_assert_float_eq(profile_curve_at(&profile.cpu.read_gbps, 1), 25, 1e-9);
    cr_assert_eq(profile.n_gpus, 1);
    cr_assert_eq(profile.gpus[0].memory_bytes, (uint64_t)12 << 30);
    cr_assert_float_eq(profile_curve_at(&profile.gpus[0].kernels[LODE_Q4_0].dense_gbps, 1), 0.8 * 360, 1e-9);
    // 0.04 TFLOP/s for each GB/s, two operations a weight and row, 4.5 bits a weight
    cr_assert_float_eq(profile_curve_at(&profile.gpus[0].kernels[LODE_Q4_0].dense_gbps, 4096),
                       14400 * 0.5625 / 2 / 4096, 1e-3);
    const double large = profile_curve_at(&profile.gpus[0].upload_pinned_gbps, 1e9);
    cr_assert(large < 0.8 * 12 && large > 0.75 * 12, "%g", large);
    cr_assert_float_eq(profile_curve_at(&profile.drives[0].direct_gbps, 32), 0.9 * 3.5, 1e-9);
}

Test(machine, what_a_line_leaves_out_follows)
{
    expect_parsed("ram=16G");
    cr_assert_eq(profile.cpu.cores, 6);
    cr_assert_float_eq(largest(&profile.cpu.read_gbps), 40.96, 1e-9);
    cr_assert_eq(profile.n_gpus, 0);
    cr_assert_eq(profile.n_drives, 1);
    expect_parsed("ram=64G@96");
    cr_assert_eq(profile.cpu.cores, 12);
    expect_parsed("ram=4G@8");
    cr_assert_eq(profile.cpu.cores, 4);
    expect_parsed("ram=16G,gpu=8G");
    cr_assert_float_eq(profile_curve_at(&profile.gpus[0].read_gbps, 1), 0.9 * 240, 1e-9);
}

Test(machine, a_line_has_several_gpus_and_drives_in_any_order)
{
    expect_parsed("drive=7, gpu=24G@936@35.6 ,gpu=8.5GiB,link=6,drive=14.5, ram=1.5T@400 ,cores=64");
    cr_assert_eq(profile.cpu.memory_bytes, (uint64_t)3 << 39);
    cr_assert_eq(profile.n_gpus, 2);
    cr_assert_eq(profile.gpus[1].memory_bytes, (uint64_t)17 << 29);
    cr_assert_gt(profile_curve_at(&profile.gpus[0].upload_pinned_gbps, 1e9),
                 2 * profile_curve_at(&profile.gpus[1].upload_pinned_gbps, 1e9));
    cr_assert_eq(profile.n_drives, 2);
    cr_assert_float_eq(profile_curve_at(&profile.drives[1].direct_gbps, 32), 0.9 * 14.5, 1e-9);
}

Test(machine, extremes_of_a_line_are_still_profiles)
{
    expect_parsed("ram=256M@1,cores=1,gpu=256M@1@0.01,link=0.1,drive=0.01");
    expect_parsed("ram=16T@10000,cores=1024,gpu=1T,link=1000,drive=200");
    expect_parsed("ram=16T,gpu=1024G@50000@5000,gpu=1T,gpu=1T,gpu=1T,drive=1,drive=1,drive=1,drive=1");
}

Test(machine, a_wrong_word_is_named)
{
    static const struct {
        const char *text, *word, *reason;
    } wrong[] = {
        {"", "''", "not understood"},
        {"ram", "'ram'", "ram=SIZE"},
        {"ram=", "'ram='", "ram=SIZE"},
        {"ram=32G,", "''", "not understood"},
        {"ram=32G,,cores=8", "''", "not understood"},
        {"cores=8", "'cores=8'", "no memory"},
        {"ram=32G,ram=64G", "'ram=64G'", "second"},
        {"ram=32G@", "'ram=32G@'", "ram=SIZE"},
        {"ram=32G@60@7", "'ram=32G@60@7'", "ram=SIZE"},
        {"ram=32G@-60", "'ram=32G@-60'", "ram=SIZE"},
        {"ram=32G@1e3", "'ram=32G@1e3'", "ram=SIZE"},
        {"ram=32G@6.0.0", "'ram=32G@6.0.0'", "ram=SIZE"},
        {"ram=32G@.", "'ram=32G@.'", "ram=SIZE"},
        {"ram=32G@nan", "'ram=32G@nan'", "ram=SIZE"},
        {"ram=32G@0", "'ram=32G@0'", "between 1 and"},
        {"ram=32G@99999", "'ram=32G@99999'", "between 1 and"},
        {"ram=32X", "'ram=32X'", "ram=SIZE"},
        {"ram=32", "'ram=32'", "between 0.25 and"},
        {"ram=99999T", "'ram=99999T'", "between 0.25 and"},
        {"ram=99999999999999999999999999999999999999999999999999999G", "G'", "between 0.25 and"},
        {"ram=32G,cores=0", "'cores=0'", "between 1 and"},
        {"ram=32G,cores=2.5", "'cores=2.5'", "cores=N"},
        {"ram=32G,cores=2000", "'cores=2000'", "between 1 and"},
        {"ram=32G,cores=4,cores=4", "'cores=4'", "second"},
        {"ram=32G,link=12", "'link=12'", "no GPU before it"},
        {"ram=32G,gpu=8G,link=12,link=12", "'link=12'", "second"},
        {"ram=32G,gpu=8G,link=0", "'link=0'", "between 0.1 and"},
        {"ram=32G,gpu=", "'gpu='", "gpu=SIZE"},
        {"ram=32G,gpu=8G@300@", "'gpu=8G@300@'", "gpu=SIZE"},
        {"ram=32G,gpu=8G@", "'gpu=8G@'", "gpu=SIZE"},
        {"ram=32G,gpu=8G@0", "'gpu=8G@0'", "between 1 and"},
        {"ram=32G,gpu=8G@300@0", "'gpu=8G@300@0'", "between 0.01 and"},
        {"ram=32G,gpu=8G,gpu=8G,gpu=8G,gpu=8G,gpu=9G", "'gpu=9G'", "one GPU more"},
        {"ram=32G,drive=0", "'drive=0'", "between 0.01 and"},
        {"ram=32G,drive=fast", "'drive=fast'", "drive=GB/s"},
        {"ram=32G,drive=1,drive=1,drive=1,drive=1,drive=2", "'drive=2'", "one drive more"},
        {"ram=32G,vram=8G", "'vram=8G'", "not understood"},
        {"RAM=32G", "'RAM=32G'", "not understood"},
        {"ram=32G,\x1b[2J", "'?[2J'", "not understood"},
        {"ram=32G,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "word of 72 bytes", "63"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct lode_error error = {0};
        cr_assert_eq(machine_profile_parse(&profile, wrong[i].text, &error), LODE_ERR_ARGUMENT, "%s",
                     wrong[i].text);
        cr_assert(strstr(error.text, wrong[i].word) && strstr(error.text, wrong[i].reason),
                  "'%s' lacks %s or '%s'", error.text, wrong[i].word, wrong[i].reason);
        cr_assert_eq(profile.cpu.cores, 0);
    }
    static char text[5000];
    memset(text, ' ', sizeof text - 1);
    struct lode_error error = {0};
    cr_assert_eq(machine_profile_parse(&profile, text, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "4999 bytes"), "%s", error.text);
}
