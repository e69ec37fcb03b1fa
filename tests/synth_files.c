// A temporary folder for the files of the synthetic models' tests, and what all of those tests do with it.
#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static char directory[64];

const char *synth_directory(void)
{
    return directory;
}

void synth_make_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/lode-synth-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

size_t synth_count_files(void)
{
    size_t count = 0;
    DIR *open = opendir(directory);
    for (struct dirent *entry; (entry = readdir(open));)
        count += entry->d_name[0] != '.';
    closedir(open);
    return count;
}

void synth_remove_directory(void)
{
    char path[400];
    DIR *open = opendir(directory);
    for (struct dirent *entry; (entry = readdir(open));) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    closedir(open);
    rmdir(directory);
}

const char *synth_path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

char *synth_read_file(const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s is not there", path);
    fseek(file, 0, SEEK_END);
    *out_size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*out_size);
    cr_assert_eq(fread(bytes, 1, *out_size, file), *out_size);
    fclose(file);
    return bytes;
}

struct lode_synth_options synth_options_of(const char *shape, const char *type)
{
    struct lode_synth_options options = lode_synth_options_default();
    options.shape = shape;
    options.type = type;
    options.threads = 1; // suites run side by side
    return options;
}

void synth_write_model(const char *path, const struct lode_synth_options *options)
{
    struct lode_error error = {0};
    cr_assert_eq(lode_synth_write(path, options, NULL, NULL, &error), 0, "%s %s: %s", options->shape,
                 options->type, error.text);
}

void synth_limit_file_size(uint64_t bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {bytes, RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

struct lode_synth_size synth_size_of(const struct lode_synth_options *options)
{
    struct lode_synth_size size;
    struct lode_error error = {0};
    cr_assert_eq(lode_synth_measure(&size, options, &error), 0, "%s", error.text);
    return size;
}

struct gguf_write *synth_begin(const char *path)
{
    struct gguf_write *file;
    struct lode_error error = {0};
    cr_assert_eq(gguf_write_create(&file, path, &error), 0, "%s", error.text);
    return file;
}
