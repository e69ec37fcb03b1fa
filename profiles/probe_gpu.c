// One GPU: the same parts as of the CPU on operands in its memory, how fast that memory copies, and its link.
//
// Memory: a quarter of what is free, of which the activations take what many rows need; where that is little,
// there are fewer rows. The first part copies for a while before anything counts, for an idle GPU takes
// tenths of a second to run at its full clock.
#include "profiles/probe_internal.h"

#include "base/bytes_text.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define WARM_SECONDS 0.3
#define LEAST_ARENA_BYTES (4 * MIB)
#define ROUNDING_BYTES MIB // of allocations, by the device

// Larger than the caches of GPUs, which have up to 128 MB.
static const uint64_t arena_bytes[] = {
    [PROBE_QUICK] = 384 * MIB, [PROBE_FULL] = 512 * MIB, [PROBE_THOROUGH] = 1024 * MIB};

static const struct size {
    uint64_t least_bytes; // of the memory that may be taken
    uint32_t rows, choices;
} sizes[] = {
    {192 * MIB, PROBE_ROWS, PROBE_JOBS *PROBE_EXPERT_ROWS}, {64 * MIB, 128, 512}, {16 * MIB, 32, 128}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static int too_small(const struct probe *probe, uint64_t free_bytes, struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_MEMORY,
                     "%s: %s of its memory are free, and a quarter of that is too little to measure with; at "
                     "least %s have to be free. --devices leaves a GPU out",
                     probe->device->name, bytes_text(free_bytes).text,
                     bytes_text(4 * sizes[N_SIZES - 1].least_bytes).text);
}

// Opens the library of the GPU's vendor and makes scratch for it, where that is little beside the rest. No
// product goes there yet.
#define LIBRARY_LEAST_BYTES (256 * MIB)

static int prepare_library(struct probe *probe, uint64_t most_bytes, const struct lode_limits *limits,
                           struct lode_error *error)
{
    struct lode_device *device = probe->device;
    struct lode_error cause = {0};
    probe->has_library = false;
    if (!device->ops->use_library)
        return LODE_OK;
    if (most_bytes < LIBRARY_LEAST_BYTES) {
        probe_note(probe, "%s: too little memory is free to measure the vendor's library", device->name);
        return LODE_OK;
    }
    int code = device->ops->use_library(device, LODE_Q4_0, PROBE_LIBRARY_ROWS, &cause);
    if (code == LODE_ERR_UNSUPPORTED) {
        probe_note(probe, "%s: the vendor's library is not measured: %s", device->name, cause.text);
        return LODE_OK;
    }
    if (!code)
        code = device->ops->reserve(device, limits, &cause);
    if (!code)
        code = device->ops->use_library(device, LODE_Q4_0, 0, &cause);
    probe->has_library = !code;
    if (code)
        *error = cause;
    return code;
}

// Reserves scratch for as many rows as there is memory for, and makes the operands with the rest.
static int make_operands(struct probe *probe, struct lode_error *error)
{
    const struct lode_device_ops *ops = probe->device->ops;
    uint64_t free_bytes, total_bytes;
    int code = ops->memory(probe->device, &free_bytes, &total_bytes, error);
    if (code)
        return code;
    const uint64_t most_bytes = free_bytes / 4;
    int i = 0;
    while (i < N_SIZES && most_bytes < sizes[i].least_bytes)
        i++;
    if (i == N_SIZES)
        return too_small(probe, free_bytes, error);
    probe->most_rows = sizes[i].rows;
    probe->most_choices = sizes[i].choices;
    const struct lode_limits limits = probe_limits(probe->most_rows, probe->most_choices);
    code = ops->reserve(probe->device, &limits, error);
    if (!code)
        code = prepare_library(probe, most_bytes, &limits, error);
    if (code)
        return code;
    const uint64_t others = probe_operands_bytes(probe->most_rows, probe->most_choices) +
                            ops->scratch_bytes(probe->device) + ROUNDING_BYTES;
    if (others + LEAST_ARENA_BYTES > most_bytes)
        return too_small(probe, free_bytes, error);
    const uint64_t left = (most_bytes - others) / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
    const uint64_t wanted = arena_bytes[probe->options->mode];
    return probe_operands_make(probe, left < wanted ? left : wanted, error);
}

// ---- memory

static void copy_half(void *user)
{
    struct probe *probe = user;
    const size_t half = probe->arena_bytes / 2 / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
    if (!probe->fault)
        probe->fault = probe->device->ops->copy(probe->device, probe->arena + half, probe->arena, half,
                                                &probe->fault_error);
}

static void warm_up(struct probe *probe, uint64_t end_ns)
{
    const uint64_t start_ns = clock_now_ns();
    const double left_s = end_ns > start_ns ? (double)(end_ns - start_ns) * 1e-9 : 0;
    const double seconds = left_s / 2 < WARM_SECONDS ? left_s / 2 : WARM_SECONDS;
    do {
        copy_half(probe);
        if (!probe->fault)
            probe->fault = probe->device->ops->sync(probe->device, &probe->fault_error);
    } while (probe_goes_on(probe) && clock_seconds_since(start_ns) < seconds);
}

// A copy reads and writes: both count.
static int measure_memory(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    struct probe_group group = {end_ns, 1};
    probe_put_blocks(probe, 0, LODE_F16, probe->arena_bytes);
    warm_up(probe, end_ns);
    const struct probe_figure figure = probe_time(probe, &group, copy_half, probe);
    const int code = probe_stopped(probe, error);
    const size_t half = probe->arena_bytes / 2 / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
    if (!code && figure.median > 0)
        probe_add_point(&probe->figures->read_gbps, 1, 2.0 * (double)half / figure.median / 1e9,
                        figure.spread);
    return code;
}

// ---- the parts

static int measure(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    static const struct {
        const char *what;
        double weight;
        int (*measure)(struct probe *probe, uint64_t end_ns, struct lode_error *error);
    } parts[] = {{"measuring memory of the GPU", 3, measure_memory},
                 {"measuring the link of the GPU", 4, probe_gpu_link},
                 {"measuring products of the GPU", 17, probe_dense},
                 {"measuring experts of the GPU", 11, probe_experts},
                 {"measuring attention of the GPU", 6, probe_attention},
                 {"measuring small operations of the GPU", 1, probe_operations}};
    double left = 42;
    int code = LODE_OK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !code; i++) {
        probe->what = parts[i].what;
        code = parts[i].measure(probe, probe_part_end(end_ns, parts[i].weight, left), error);
        left -= parts[i].weight;
    }
    return code;
}

int probe_gpu(struct probe *probe, uint32_t index, uint64_t end_ns, struct lode_error *error)
{
    probe->device = probe->options->gpus[index].device;
    probe->figures = &probe->profile->gpus[index];
    probe->what = "measuring the GPU";
    int code = make_operands(probe, error);
    if (!code)
        code = measure(probe, end_ns, error);
    if (!code)
        code = probe_stopped(probe, error);
    probe_operands_free(probe);
    return code;
}
