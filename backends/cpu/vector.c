// The scratch memory of attention.
#include "backends/cpu/vector.h"

#include "backends/cpu/attention.h"
#include "backends/cpu/memory.h"
#include "base/checked.h"

int cpu_vector_reserve(struct cpu_vector_scratch *scratch, uint32_t threads, const struct lode_limits *limits,
                       struct lode_error *error)
{
    struct cpu_vector_scratch next = {
        .thread_floats = cpu_attention_thread_floats(limits->head_size),
        .partial_floats = cpu_attention_partial_floats(limits->rows, limits->n_heads, limits->head_size),
        .threads = threads,
        .max_head_size = limits->head_size,
    };
    if (scratch->memory && next.thread_floats <= scratch->thread_floats &&
        next.partial_floats <= scratch->partial_floats && next.max_head_size <= scratch->max_head_size)
        return LODE_OK;

    uint64_t floats, bytes;
    if (!checked_mul(&floats, threads, next.thread_floats) ||
        !checked_add(&floats, floats, next.partial_floats) || !checked_mul(&bytes, floats, sizeof(float)))
        return lode_fail(error, LODE_ERR_MEMORY,
                         "scratch for attention with heads of %u values has no size in bytes",
                         limits->head_size);
    void *memory;
    if (cpu_memory_alloc(&memory, bytes, error) != LODE_OK)
        return lode_fail_in(error, "scratch for attention of %u rows with %u heads of %u values",
                            limits->rows, limits->n_heads, limits->head_size);
    cpu_vector_release(scratch);
    next.memory = memory;
    next.bytes = bytes;
    *scratch = next;
    return LODE_OK;
}

void cpu_vector_release(struct cpu_vector_scratch *scratch)
{
    cpu_memory_free(scratch->memory, scratch->bytes);
    *scratch = (struct cpu_vector_scratch){0};
}

size_t cpu_vector_scratch_bytes(const struct cpu_vector_scratch *scratch)
{
    return scratch->bytes;
}
