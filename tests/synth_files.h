// Files of synthetic models for tests: a temporary folder, and models that are written, measured and read
// there. Whatever fails, fails the test.
#ifndef LODE_TESTS_SYNTH_FILES_H
#define LODE_TESTS_SYNTH_FILES_H

#include "core/gguf_write.h"
#include "core/lode.h"

#include <stddef.h>
#include <stdint.h>

// Set up and tear down a test suite.
void synth_make_directory(void);
void synth_remove_directory(void);

const char *synth_directory(void);
size_t synth_count_files(void);

// A file in the folder; the text lasts until the next call.
const char *synth_path_of(const char *name);

// Released with free.
char *synth_read_file(const char *path, size_t *out_size);

struct lode_synth_options synth_options_of(const char *shape, const char *type);
struct lode_synth_size synth_size_of(const struct lode_synth_options *options);
void synth_write_model(const char *path, const struct lode_synth_options *options);

struct gguf_write *synth_begin(const char *path);

// What this process writes beyond that many bytes of a file fails from now on.
void synth_limit_file_size(uint64_t bytes);

#endif
