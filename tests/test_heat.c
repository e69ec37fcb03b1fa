// Heat: the mean against plain arithmetic, the file against every kind of damage, rivals and full disks.
#include "placement/heat.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LAYERS = 3,
    UNITS = 24,
    HEADER_BYTES = 40,
    MEANS_AT = HEADER_BYTES + 8 * LAYERS,
    FILE_BYTES = MEANS_AT + 4 * UNITS + 8
};
#define FINGERPRINT UINT64_C(0x0123456789abcdef)

static char folder[TEST_FOLDER_SIZE], path[256], temporary[300];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    char deeper[128];
    snprintf(deeper, sizeof deeper, "%s/cache/heat", folder);
    cr_assert(heat_file_path(path, sizeof path, deeper, FINGERPRINT));
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(heat, .init = make_folder, .fini = remove_folder);

static struct heat new_heat(void)
{
    struct heat heat;
    struct lode_error error;
    cr_assert_eq(heat_open(&heat, LAYERS, UNITS, FINGERPRINT, &error), 0);
    return heat;
}

// One that has seen `n_tokens`, each of which chose unit `unit`.
static struct heat heat_of(uint32_t unit, uint32_t n_tokens)
{
    struct heat heat = new_heat();
    heat_count(&heat, unit, n_tokens);
    heat_pass_end(&heat, n_tokens);
    return heat;
}

static void write_heat(uint32_t unit, uint32_t n_tokens)
{
    struct heat heat = heat_of(unit, n_tokens);
    struct lode_error error = {0};
    cr_assert_eq(heat_write(&heat, path, &error), 0, "%s", error.text);
    heat_close(&heat);
}

static struct heat inspect(void)
{
    struct heat heat;
    struct lode_error error = {0};
    cr_assert_eq(heat_inspect(&heat, path, &error), 0, "%s", error.text);
    return heat;
}

static bool exists(const char *name)
{
    struct stat status;
    return lstat(name, &status) == 0;
}

// ---- the mean
// ------------------------------------------------------------------------------------------------

Test(heat, is_the_plain_mean_of_the_first_tokens)
{
    struct heat heat = new_heat();
    for (uint32_t token = 0; token < 1000; token++) {
        heat_count(&heat, 0, 1);
        if (token % 4 == 0)
            heat_count(&heat, 1, 1);
        heat_pass_end(&heat, 1);
    }
    heat_count(&heat, 2, 500);
    heat_pass_end(&heat, 1000);
    cr_assert_eq(heat.n_tokens, 2000);
    cr_assert_float_eq((double)heat.mean[0], 0.5, 1e-5);
    cr_assert_float_eq((double)heat.mean[1], 0.125, 1e-5);
    cr_assert_float_eq((double)heat.mean[2], 0.25, 1e-5);
    cr_assert_eq(heat.mean[3], 0);
    heat_close(&heat);
}

Test(heat, forgets_with_the_memory_that_the_header_tells)
{
    struct heat heat = heat_of(0, HEAT_TOKENS);
    for (uint32_t token = 0; token < HEAT_TOKENS; token++) {
        heat_count(&heat, 1, 1);
        heat_pass_end(&heat, 1);
    }
    cr_assert_float_eq((double)heat.mean[0], exp(-1), 1e-3);
    cr_assert_float_eq((double)heat.mean[1], 1 - exp(-1), 1e-3);
    heat_count(&heat, 2, 2 * HEAT_TOKENS);
    heat_pass_end(&heat, 2 * HEAT_TOKENS);
    cr_assert_eq(heat.mean[0], 0, "a pass beyond the memory is all that is left");
    cr_assert_eq(heat.mean[2], 1);
    heat_close(&heat);
}

Test(heat, of_a_layer_that_fewer_tokens_reach_is_not_lower)
{
    struct heat heat = new_heat();
    const uint32_t last = UNITS - 1, before_last = UNITS - 2;
    for (uint32_t turn = 0; turn < 100; turn++) {
        heat_count(&heat, 0, 500); // all tokens of a prompt
        heat_count(&heat, last, 1);
        heat_pass_end(&heat, 500);
        for (uint32_t token = 0; token < 100; token++) {
            heat_count(&heat, 1, 1);
            heat_count(&heat, before_last, 1);
            heat_pass_end(&heat, 1);
        }
    }
    cr_assert_float_eq((double)heat.mean[0] + (double)heat.mean[1], 1, 1e-5);
    cr_assert_float_eq((double)heat.mean[last] + (double)heat.mean[before_last], 1, 1e-5);
    cr_assert_gt(heat.mean[before_last], 0.98f, "%f", (double)heat.mean[before_last]);
    cr_assert_float_eq((double)heat.mean[0], 5.0 / 6, 0.03);
    heat_close(&heat);
}

Test(heat, stays_between_0_and_1_after_passes_that_were_given_up)
{
    struct heat heat = new_heat();
    for (uint32_t i = 0; i < 100; i++)
        heat_count(&heat, 0, UINT32_MAX / 8); // of passes without an end
    heat_pass_end(&heat, 0);
    cr_assert_eq(heat.n_tokens, 0);
    heat_pass_end(&heat, 3);
    cr_assert_eq(heat.mean[0], 1);
    heat_count(&heat, 1, 1);
    heat_pass_end(&heat, 1);
    cr_assert_eq(heat.mean[0], 0.75f, "its counts are used up");
    heat.n_tokens = UINT64_MAX;
    heat_pass_end(&heat, 1);
    cr_assert_eq(heat.n_tokens, UINT64_MAX);
    heat_close(&heat);
    heat_close(&heat);
}

Test(heat, refuses_absurdly_many_units)
{
    struct heat heat;
    struct lode_error error;
    cr_assert_eq(heat_open(&heat, 1, UINT32_MAX, 0, &error), LODE_ERR_UNSUPPORTED);
    cr_assert_null(heat.mean);
    heat_close(&heat);
}

// ---- the file
// ------------------------------------------------------------------------------------------------

Test(heat, file_is_named_by_the_fingerprint)
{
    char buffer[64];
    cr_assert(heat_file_path(buffer, sizeof buffer, "/a/b", 0xabc));
    cr_assert_str_eq(buffer, "/a/b/0000000000000abc.heat");
    cr_assert(heat_file_path(buffer, sizeof "/a/b/0000000000000abc.heat", "/a/b", 0xabc));
    cr_assert_not(heat_file_path(buffer, sizeof "/a/b/0000000000000abc.heat" - 1, "/a/b", 0xabc));
}

Test(heat, comes_back_as_it_was_written)
{
    struct heat written = heat_of(3, 100), read = new_heat();
    heat_count(&written, 5, 7);
    heat_pass_end(&written, 20);
    struct lode_error error = {0};
    cr_assert_eq(heat_write(&written, path, &error), 0, "%s", error.text);
    cr_assert_eq(heat_read(&read, path, &error), 0, "%s", error.text);
    cr_assert_eq(read.n_tokens, 120);
    cr_assert_arr_eq(read.layer_tokens, written.layer_tokens, sizeof(uint64_t[LAYERS]));
    cr_assert_eq(read.layer_tokens[0], 120);
    cr_assert_arr_eq(read.mean, written.mean, sizeof(float[UNITS]));
    struct heat found = inspect();
    cr_assert_eq(found.n_layers, LAYERS);
    cr_assert_eq(found.n_units, UNITS);
    cr_assert_eq(found.fingerprint, FINGERPRINT);
    cr_assert_eq(found.n_tokens, 120);
    cr_assert_arr_eq(found.mean, written.mean, sizeof(float[UNITS]));
    heat_count(&found, 0, 1); // it is whole
    heat_pass_end(&found, 1);
    heat_close(&found);
    heat_close(&written);
    heat_close(&read);
}

Test(heat, file_and_its_folders_are_for_their_owner_alone)
{
    umask(0);
    write_heat(0, 1);
    char name[128];
    struct stat status;
    static const char *const folders[] = {"cache", "cache/heat"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s/%s", folder, folders[i]);
        cr_assert_eq(stat(name, &status), 0);
        cr_assert_eq(status.st_mode & 0777, 0700, "%s: %o", name, status.st_mode & 0777);
    }
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
    cr_assert_eq(status.st_size, FILE_BYTES);
}

Test(heat, absent_file_is_no_error_and_no_heat)
{
    struct heat heat = new_heat(), found;
    struct lode_error error = {0};
    cr_assert_eq(heat_read(&heat, path, &error), 0);
    cr_assert_eq(heat.n_tokens, 0);
    cr_assert_eq(heat_inspect(&found, path, &error), 0);
    cr_assert_null(found.mean);
    cr_assert_eq(found.n_tokens, 0);
    heat_close(&found);
    heat_close(&heat);
}

Test(heat, of_another_model_or_shape_is_refused)
{
    write_heat(0, 1);
    static const struct {
        uint32_t n_layers, n_units;
        uint64_t fingerprint;
        const char *text;
    } cases[] = {
        {LAYERS, UNITS, FINGERPRINT + 1, "another model"},
        {LAYERS, 2 * UNITS, FINGERPRINT, "another shape"},
        {LAYERS * 2, UNITS, FINGERPRINT, "another shape"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct heat heat;
        struct lode_error error = {0};
        cr_assert_eq(heat_open(&heat, cases[i].n_layers, cases[i].n_units, cases[i].fingerprint, &error), 0);
        cr_assert_eq(heat_read(&heat, path, &error), LODE_ERR_ARGUMENT);
        cr_assert(strstr(error.text, cases[i].text) && strstr(error.text, path), "%s", error.text);
        cr_assert_eq(heat.n_tokens, 0);
        cr_assert_eq(heat.mean[0], 0);
        heat_close(&heat);
    }
}

// ---- damage
// --------------------------------------------------------------------------------------------------

static uint64_t fnv1a(const uint8_t *bytes, size_t n)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static void load(uint8_t bytes[FILE_BYTES])
{
    FILE *file = fopen(path, "rb");
    cr_assert(file && fread(bytes, 1, FILE_BYTES, file) == FILE_BYTES && fgetc(file) == EOF);
    fclose(file);
}

static void store(const uint8_t *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

static void expect_broken(const char *text)
{
    struct heat heat = heat_of(7, 5), found;
    struct lode_error error = {0};
    cr_assert_eq(heat_read(&heat, path, &error), LODE_ERR_FORMAT, "%s", text);
    cr_assert(strstr(error.text, path) && strstr(error.text, text), "'%s' lacks '%s'", error.text, text);
    cr_assert_eq(heat.n_tokens, 5);
    cr_assert_eq(heat.mean[7], 1, "what was there stays");
    cr_assert_eq(heat_inspect(&found, path, &error), LODE_ERR_FORMAT);
    cr_assert_null(found.mean);
    heat_close(&heat);
}

Test(heat, every_changed_byte_is_noticed)
{
    write_heat(3, 100);
    uint8_t bytes[FILE_BYTES];
    load(bytes);
    for (size_t i = 0; i < FILE_BYTES; i++)
        for (unsigned bit = 0; bit < 8; bit += 7) {
            bytes[i] ^= (uint8_t)(1u << bit);
            store(bytes, FILE_BYTES);
            expect_broken("heat file");
            bytes[i] ^= (uint8_t)(1u << bit);
        }
}

Test(heat, every_cut_is_noticed)
{
    write_heat(3, 100);
    uint8_t bytes[FILE_BYTES + 1] = {0};
    load(bytes);
    for (size_t n = 0; n < FILE_BYTES; n++) {
        store(bytes, n);
        expect_broken("heat file");
    }
    store(bytes, FILE_BYTES + 1);
    expect_broken("its length");
}

// A file whose sum is right and whose content is not.
static void expect_nonsense(size_t offset, const void *value, size_t n, const char *text)
{
    write_heat(3, 100);
    uint8_t bytes[FILE_BYTES];
    load(bytes);
    memcpy(bytes + offset, value, n);
    const uint64_t sum = fnv1a(bytes, FILE_BYTES - 8);
    memcpy(bytes + FILE_BYTES - 8, &sum, 8);
    store(bytes, FILE_BYTES);
    expect_broken(text);
}

Test(heat, means_that_are_no_rate_are_refused)
{
    const float values[] = {NAN, -NAN, INFINITY, -INFINITY, -0.001f, 1.001f, 1e30f};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        expect_nonsense(MEANS_AT, &values[i], 4, "between 0 and 1");
        expect_nonsense(FILE_BYTES - 12, &values[i], 4, "between 0 and 1");
    }
}

Test(heat, counts_that_make_no_sense_are_refused)
{
    const uint32_t zero = 0, odd = 5, huge = UINT32_MAX, more = UNITS + LAYERS, version = 2;
    expect_nonsense(8, &version, 4, "another version");
    expect_nonsense(12, &zero, 4, "counts");
    expect_nonsense(12, &odd, 4, "counts");
    expect_nonsense(16, &zero, 4, "counts");
    expect_nonsense(16, &huge, 4, "counts");
    expect_nonsense(16, &more, 4, "its length");
    expect_nonsense(20, &odd, 4, "counts");
    const uint64_t beyond = 101; // of 100 tokens
    expect_nonsense(HEADER_BYTES + 8, &beyond, 8, "counts");
    expect_nonsense(0, "GGUF", 4, "does not begin");
}

Test(heat, what_is_no_regular_file_is_refused_without_waiting)
{
    write_heat(0, 1);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(mkfifo(path, 0600), 0);
    expect_broken("no regular file");
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(mkdir(path, 0700), 0);
    expect_broken("no regular file");
}

Test(heat, a_file_too_large_to_be_one_is_not_read)
{
    write_heat(0, 1);
    cr_assert_eq(truncate(path, (off_t)1 << 40), 0);
    expect_broken("too long");
}

Test(heat, a_file_that_cannot_be_opened_is_an_io_error)
{
    write_heat(0, 1);
    char below[300];
    snprintf(below, sizeof below, "%s/x.heat", path);
    struct heat heat = new_heat();
    struct lode_error error = {0};
    cr_assert_eq(heat_read(&heat, below, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "Not a directory"), "%s", error.text);
    cr_assert_eq(heat_write(&heat, below, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, below), "%s", error.text);
    heat_close(&heat);
}

// ---- writers
// -------------------------------------------------------------------------------------------------

Test(heat, a_write_takes_over_what_a_killed_writer_left)
{
    write_heat(0, 1);
    FILE *file = fopen(temporary, "wb");
    cr_assert(file);
    for (int i = 0; i < 10000; i++)
        fputc('x', file);
    fclose(file);
    write_heat(1, 2);
    cr_assert_not(exists(temporary));
    struct heat heat = inspect();
    cr_assert_eq(heat.n_tokens, 2);
    heat_close(&heat);
}

Test(heat, a_writer_that_is_at_work_wins)
{
    write_heat(0, 1);
    int fd = open(temporary, O_CREAT | O_RDWR, 0600);
    cr_assert(fd >= 0 && write(fd, "half", 4) == 4 && flock(fd, LOCK_EX) == 0);
    write_heat(1, 2); // succeeds and does nothing
    struct heat heat = inspect();
    cr_assert_eq(heat.n_tokens, 1);
    heat_close(&heat);
    struct stat status;
    cr_assert_eq(stat(temporary, &status), 0);
    cr_assert_eq(status.st_size, 4, "its work is not touched");
    close(fd);
    write_heat(1, 2);
    heat = inspect();
    cr_assert_eq(heat.n_tokens, 2);
    heat_close(&heat);
}

Test(heat, a_write_that_fails_leaves_the_old_file_and_nothing_else)
{
    write_heat(0, 1);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = FILE_BYTES - 1;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct heat heat = heat_of(1, 2);
    struct lode_error error = {0};
    const int rc = heat_write(&heat, path, &error);
    limit.rlim_cur = before;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(rc, LODE_ERR_IO);
    cr_assert(strstr(error.text, "File too large") && strstr(error.text, path), "%s", error.text);
    cr_assert_not(exists(temporary));
    heat_close(&heat);
    heat = inspect();
    cr_assert_eq(heat.n_tokens, 1);
    heat_close(&heat);
}

Test(heat, a_rename_that_fails_removes_the_temporary_file)
{
    write_heat(0, 1);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(mkdir(path, 0700), 0);
    struct heat heat = heat_of(1, 2);
    struct lode_error error = {0};
    cr_assert_eq(heat_write(&heat, path, &error), LODE_ERR_IO);
    cr_assert_not(exists(temporary));
    heat_close(&heat);
}

Test(heat, does_not_write_through_a_link)
{
    write_heat(0, 1);
    char target[128];
    snprintf(target, sizeof target, "%s/target", folder);
    cr_assert_eq(symlink(target, temporary), 0);
    struct heat heat = heat_of(1, 2);
    struct lode_error error = {0};
    cr_assert_eq(heat_write(&heat, path, &error), LODE_ERR_IO);
    cr_assert_not(exists(target));
    heat_close(&heat);
}

Test(heat, a_path_that_is_too_long_is_refused)
{
    static char name[5000];
    memset(name, 'a', sizeof name - 1);
    name[0] = '/';
    struct heat heat = heat_of(1, 2);
    struct lode_error error = {0};
    bool removed;
    cr_assert_eq(heat_write(&heat, name, &error), LODE_ERR_ARGUMENT);
    cr_assert_eq(heat_remove(&removed, name, &error), LODE_ERR_ARGUMENT);
    heat_close(&heat);
}

// Each writes one of two files whose length differs, over and over.
static pid_t start_writer(uint32_t n)
{
    pid_t pid = fork();
    cr_assert(pid >= 0);
    if (pid)
        return pid;
    struct heat heat;
    struct lode_error error;
    if (heat_open(&heat, LAYERS, UNITS * n, FINGERPRINT, &error))
        _exit(1);
    heat_count(&heat, n, 100 * n);
    heat_pass_end(&heat, 100 * n);
    for (;;)
        if (heat_write(&heat, path, &error))
            _exit(1);
}

Test(heat, readers_and_killed_writers_never_leave_half_a_file, .timeout = 60)
{
    write_heat(1, 100);
    for (uint32_t round = 0; round < 20; round++) {
        const pid_t writers[] = {start_writer(1), start_writer(200)};
        for (uint32_t i = 0; i < 50; i++) {
            struct heat heat = inspect();
            cr_assert(heat.mean);
            cr_assert_eq(heat.n_tokens, 100 * heat.n_units / UNITS);
            heat_close(&heat);
            usleep(200);
        }
        for (size_t w = 0; w < 2; w++) {
            int status;
            cr_assert_eq(waitpid(writers[w], &status, WNOHANG), 0, "a writer failed");
            kill(writers[w], SIGKILL);
            cr_assert_eq(waitpid(writers[w], &status, 0), writers[w]);
        }
        struct heat heat = inspect();
        heat_close(&heat);
    }
    write_heat(1, 100);
    cr_assert_not(exists(temporary));
}

Test(heat, remove_takes_the_file_and_what_a_killed_writer_left)
{
    write_heat(1, 100);
    FILE *file = fopen(temporary, "wb");
    cr_assert(file && fclose(file) == 0);
    bool removed = false;
    struct lode_error error = {0};
    cr_assert_eq(heat_remove(&removed, path, &error), 0);
    cr_assert(removed);
    cr_assert_not(exists(path));
    cr_assert_not(exists(temporary));
    cr_assert_eq(heat_remove(&removed, path, &error), 0);
    cr_assert_not(removed);
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_eq(heat_remove(&removed, path, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, path), "%s", error.text);
}
