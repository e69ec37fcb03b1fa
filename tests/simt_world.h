// A simulated device with one stream, for tests of kernels of their own.
#ifndef LODE_TEST_SIMT_WORLD_H
#define LODE_TEST_SIMT_WORLD_H

#include "backends/gpu/runtime.h"

#include <criterion/criterion.h>
#include <string.h>

struct simt_world {
    struct gpu_context *context;
    gpu_stream stream;
    struct lode_error error;
};

static inline void simt_world_open(struct simt_world *world, uint32_t index,
                                   const struct lode_gpu_options *options)
{
    memset(world, 0, sizeof *world);
    cr_assert_eq(gpu_context_open(&world->context, index, options, &world->error), 0, "%s",
                 world->error.text);
    cr_assert_eq(gpu_stream_open(world->context, &world->stream, &world->error), 0, "%s", world->error.text);
}

static inline void simt_world_close(struct simt_world *world)
{
    gpu_context_close(world->context);
}

template <typename T> static T *simt_world_alloc(struct simt_world *world, size_t count)
{
    void *memory;
    cr_assert_eq(gpu_memory_alloc(world->context, &memory, count * sizeof(T), &world->error), 0, "%s",
                 world->error.text);
    return static_cast<T *>(memory);
}

static inline void simt_world_in(struct simt_world *world, void *to, const void *from, size_t bytes)
{
    cr_assert_eq(gpu_stream_copy(world->context, world->stream, to, from, bytes, GPU_COPY_IN, &world->error),
                 0, "%s", world->error.text);
}

// Waits for everything before it.
static inline void simt_world_out(struct simt_world *world, void *to, const void *from, size_t bytes)
{
    cr_assert_eq(gpu_stream_copy(world->context, world->stream, to, from, bytes, GPU_COPY_OUT, &world->error),
                 0, "%s", world->error.text);
    cr_assert_eq(gpu_stream_wait(world->context, world->stream, &world->error), 0, "%s", world->error.text);
}

// The work of the stream must end in a fault whose text has all of these; NULL ends them.
static inline void simt_world_faults(struct simt_world *world, const char *const *words)
{
    cr_assert_lt(gpu_stream_wait(world->context, world->stream, &world->error), 0, "no fault");
    for (; *words; words++)
        cr_expect(strstr(world->error.text, *words), "no '%s' in: %s", *words, world->error.text);
    struct lode_error again;
    cr_expect_lt(gpu_context_fault(world->context, &again), 0, "the fault does not stay");
    cr_expect_str_eq(again.text, world->error.text);
}

#endif
