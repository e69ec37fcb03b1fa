// Traces made up for tests: random events that are written by the writer and expected from the reader, and
// files put together by hand.
#ifndef LODE_TRACE_WORLD_H
#define LODE_TRACE_WORLD_H

#include "placement/trace.h"

struct trace_world {
    struct trace_header header;
    struct trace_event *events; // [n] in order, with the conversations that the reader finds by itself
    size_t n, capacity;
    uint64_t first_ns; // what the clock said at the first time
    uint32_t n_tokens, n_conversations;
};

// A header of `n_layers` layers, each choosing k of n_experts; layer 1 of more than two has no experts.
void trace_world_header(struct trace_header *out, uint32_t n_layers, uint32_t n_experts, uint32_t k);

// Random passes: prompts and decoded tokens, conversations told and not, reads, guesses, times. The last pass
// is whole.
void trace_world_make(struct trace_world *out, const struct trace_header *header, uint64_t seed,
                      uint32_t n_passes);
void trace_world_free(struct trace_world *world);

// Writes the events, ends the trace, and fails the test when that fails.
void trace_world_write(const struct trace_world *world, const char *path);

// Fails the test unless the file holds these events, and nothing else.
void trace_world_expect(const struct trace_world *world, const char *path);

// A file in memory, put together block by block, right or wrong.
struct trace_file {
    uint8_t *bytes;
    size_t n;
    uint32_t serial;
};

void trace_file_header(struct trace_file *file, const struct trace_header *header);
void trace_file_block(struct trace_file *file, const void *records, size_t n);
void trace_file_append(struct trace_file *file, const void *bytes, size_t n);
void trace_file_read(struct trace_file *file, const char *path);
void trace_file_write(const struct trace_file *file, size_t n, const char *path); // the first n bytes
void trace_file_free(struct trace_file *file);

// Where the blocks begin, and the end: *out_n + 1 offsets, for the caller to free.
size_t *trace_file_borders(const struct trace_file *file, size_t *out_n);

// trace_load_stream of the first n bytes.
int trace_file_load(struct trace *out, const struct trace_file *file, size_t n, struct lode_error *error);

uint64_t trace_random(uint64_t *state); // splitmix64

#endif
