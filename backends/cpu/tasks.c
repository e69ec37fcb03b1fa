// Phases of tasks on the team of threads, the quantising phase, and the scratch memory that all this works
// in.
#include "backends/cpu/tasks.h"

#include "backends/cpu/memory.h"
#include "base/checked.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TILE_BYTES (CPU_PRODUCT_TOKENS * CPU_PRODUCT_ROWS * sizeof(float))
#define PART_ALIGN 64

// Fewer values are quantised by the calling thread: 10 values take about a nanosecond, a barrier some 1,000.
#define QUANTIZE_ALONE 16384
#define QUANTIZE_TASK_BLOCKS 128

bool cpu_is_quantised(enum lode_type type)
{
    return type != LODE_F32 && type != LODE_F16 && type != LODE_BF16;
}

static bool scratch_size(struct cpu_matmul_scratch *out, uint32_t threads, size_t workspace_bytes,
                         const struct lode_limits *limits)
{
    uint64_t activations, intermediate, part, all_parts, total;
    bool fits = checked_mul(&activations, limits->rows, cpu_ceil_div(limits->cols, CPU_BLOCK)) &&
                checked_mul(&activations, activations, sizeof(struct cpu_block)) &&
                checked_align(&activations, activations, PART_ALIGN) &&
                checked_mul(&intermediate, limits->expert_rows, limits->ffn_width) &&
                checked_mul(&intermediate, intermediate, sizeof(float)) &&
                checked_align(&intermediate, intermediate, PART_ALIGN) &&
                checked_align(&part, workspace_bytes + 2 * TILE_BYTES, PART_ALIGN) &&
                checked_mul(&all_parts, part, threads) && checked_add(&total, activations, intermediate) &&
                checked_add(&total, total, all_parts) && total <= SIZE_MAX;
    if (!fits)
        return false;
    *out = (struct cpu_matmul_scratch){.bytes = total,
                                       .activation_bytes = activations,
                                       .intermediate_bytes = intermediate,
                                       .thread_bytes = part,
                                       .threads = threads};
    return true;
}

int cpu_matmul_reserve(struct cpu_matmul_scratch *scratch, uint32_t threads, size_t workspace_bytes,
                       const struct lode_limits *limits, struct lode_error *error)
{
    struct cpu_matmul_scratch next;
    if (!scratch_size(&next, threads, workspace_bytes, limits))
        return lode_fail(error, LODE_ERR_MEMORY,
                         "scratch for %u rows of %u columns and %u expert rows of %u has no size in bytes",
                         limits->rows, limits->cols, limits->expert_rows, limits->ffn_width);
    if (scratch->memory && next.activation_bytes <= scratch->activation_bytes &&
        next.intermediate_bytes <= scratch->intermediate_bytes && threads <= scratch->threads)
        return LODE_OK;
    if (cpu_memory_alloc(&next.memory, next.bytes, error) != LODE_OK)
        return lode_fail_in(error, "scratch for %u rows of %u columns and %u expert rows of %u", limits->rows,
                            limits->cols, limits->expert_rows, limits->ffn_width);
    cpu_matmul_release(scratch);
    *scratch = next;
    return LODE_OK;
}

void cpu_matmul_release(struct cpu_matmul_scratch *scratch)
{
    cpu_memory_free(scratch->memory, scratch->bytes);
    *scratch = (struct cpu_matmul_scratch){0};
}

size_t cpu_matmul_scratch_bytes(const struct cpu_matmul_scratch *scratch)
{
    return scratch->bytes;
}

int cpu_workers_open(struct cpu_device *device, struct lode_error *error)
{
    const size_t bytes = device->threads * sizeof *device->workers;
    device->workers = aligned_alloc(_Alignof(struct cpu_worker), bytes);
    if (!device->workers)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the state of %u threads", device->threads);
    memset(device->workers, 0, bytes);
    return LODE_OK;
}

void cpu_workers_close(struct cpu_device *device)
{
    free(device->workers);
    device->workers = NULL;
}

static struct cpu_worker make_worker(const struct cpu_device *device, uint32_t thread, uint64_t phase)
{
    const struct cpu_matmul_scratch *scratch = &device->matmul_scratch;
    assert(thread < scratch->threads);
    char *part = (char *)scratch->memory + scratch->activation_bytes + scratch->intermediate_bytes +
                 thread * scratch->thread_bytes;
    return (struct cpu_worker){
        .device = device, .tiles = (float *)(void *)part, .workspace = part + 2 * TILE_BYTES, .phase = phase};
}

struct phase_job {
    const struct cpu_device *device;
    const struct cpu_phase *phase;
    uint64_t number;
};

static void run_task(const void *arguments, uint32_t task, uint32_t thread)
{
    const struct phase_job *job = arguments;
    struct cpu_worker *worker = &job->device->workers[thread];
    if (worker->phase != job->number)
        *worker = make_worker(job->device, thread, job->number);
    job->phase->run(worker, job->phase->call, task);
}

struct phases_call {
    struct cpu_device *device;
    const struct cpu_phase *phases;
    uint32_t n_phases;
};

static void run_phases(void *user)
{
    const struct phases_call *call = user;
    for (uint32_t p = 0; p < call->n_phases; p++) {
        const struct phase_job job = {call->device, &call->phases[p], ++call->device->phases_run};
        cpu_team_run(call->device->team, call->phases[p].n_tasks, run_task, &job);
    }
}

void cpu_run_phases(struct cpu_device *device, const struct cpu_phase *phases, uint32_t n_phases)
{
    cpu_team_pass(device->team, run_phases, &(struct phases_call){device, phases, n_phases});
}

static void quantize_task(struct cpu_worker *worker, const void *opaque, uint32_t task)
{
    const struct cpu_quantize_call *call = opaque;
    uint32_t row_blocks = call->x.cols / CPU_BLOCK, segments = cpu_ceil_div(row_blocks, QUANTIZE_TASK_BLOCKS);
    uint32_t row = task / segments, first = task % segments * QUANTIZE_TASK_BLOCKS;
    uint32_t n = row_blocks - first < QUANTIZE_TASK_BLOCKS ? row_blocks - first : QUANTIZE_TASK_BLOCKS;
    worker->device->matmul->quantize(call->blocks + (size_t)row * row_blocks + first,
                                     call->x.data + row * call->x.stride + (size_t)first * CPU_BLOCK, n);
}

struct cpu_phase cpu_quantize_phase(struct cpu_device *device, struct cpu_quantize_call *call,
                                    struct lode_rows x)
{
    uint32_t row_blocks = x.cols / CPU_BLOCK;
    assert((size_t)x.n * row_blocks * sizeof(struct cpu_block) <= device->matmul_scratch.activation_bytes);
    *call = (struct cpu_quantize_call){.x = x, .blocks = device->matmul_scratch.memory};
    struct cpu_phase phase = {.run = quantize_task, .call = call};
    if ((size_t)x.n * x.cols > QUANTIZE_ALONE) {
        phase.n_tasks = x.n * cpu_ceil_div(row_blocks, QUANTIZE_TASK_BLOCKS);
        return phase;
    }
    for (uint32_t row = 0; row < x.n; row++)
        device->matmul->quantize(call->blocks + (size_t)row * row_blocks, x.data + row * x.stride,
                                 row_blocks);
    return phase;
}
