// Phases of tasks on OpenMP threads, the quantising phase, and the scratch memory that all this works in.
#include "backends/cpu/tasks.h"

#include "backends/cpu/memory.h"
#include "base/checked.h"

#include <assert.h>
#include <omp.h>

#define TILE_BYTES (CPU_PRODUCT_TOKENS * CPU_PRODUCT_ROWS * sizeof(float))
#define PART_ALIGN 64

// Fewer values are quantised by the calling thread: 10 values take about a nanosecond, a barrier some 1,000.
#define QUANTIZE_ALONE 16384
#define QUANTIZE_TASK_BLOCKS 128

bool cpu_is_quantised(enum lode_type type)
{
    return type != LODE_F32 && type != LODE_F16 && type != LODE_BF16;
}

static size_t largest_workspace(void)
{
    size_t largest = 0;
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        const struct cpu_matmul_kernels *kernels = cpu_matmul_kernels_for(isa);
        if (kernels && kernels->workspace_bytes > largest)
            largest = kernels->workspace_bytes;
    }
    return largest;
}

static bool scratch_size(struct cpu_matmul_scratch *out, uint32_t threads, const struct lode_limits *limits)
{
    uint64_t activations, intermediate, part, all_parts, total;
    bool fits = checked_mul(&activations, limits->rows, cpu_ceil_div(limits->cols, CPU_BLOCK)) &&
                checked_mul(&activations, activations, sizeof(struct cpu_block)) &&
                checked_align(&activations, activations, PART_ALIGN) &&
                checked_mul(&intermediate, limits->expert_rows, limits->ffn_width) &&
                checked_mul(&intermediate, intermediate, sizeof(float)) &&
                checked_align(&intermediate, intermediate, PART_ALIGN) &&
                checked_align(&part, largest_workspace() + 2 * TILE_BYTES, PART_ALIGN) &&
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

int cpu_matmul_reserve(struct cpu_matmul_scratch *scratch, uint32_t threads, const struct lode_limits *limits,
                       struct lode_error *error)
{
    struct cpu_matmul_scratch next;
    if (!scratch_size(&next, threads, limits))
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

static struct cpu_worker make_worker(struct cpu_device *device, uint32_t thread)
{
    const struct cpu_matmul_scratch *scratch = &device->matmul_scratch;
    assert(thread < scratch->threads);
    char *part = (char *)scratch->memory + scratch->activation_bytes + scratch->intermediate_bytes +
                 thread * scratch->thread_bytes;
    return (struct cpu_worker){
        .device = device, .tiles = (float *)(void *)part, .workspace = part + 2 * TILE_BYTES};
}

static void start_phase(struct cpu_worker *worker)
{
    worker->item = worker->item_first_task = 0;
    worker->item_offset = 0;
}

static void run_alone(struct cpu_device *device, const struct cpu_phase *phases, uint32_t n_phases)
{
    struct cpu_worker worker = make_worker(device, 0);
    for (uint32_t p = 0; p < n_phases; p++) {
        start_phase(&worker);
        for (uint32_t task = 0; task < phases[p].n_tasks; task++)
            phases[p].run(&worker, phases[p].call, task);
    }
}

void cpu_run_phases(struct cpu_device *device, const struct cpu_phase *phases, uint32_t n_phases)
{
    if (device->threads == 1) {
        run_alone(device, phases, n_phases);
        return;
    }
    cpu_threads_part(&device->places);
#pragma omp parallel num_threads(device->threads)
    {
        struct cpu_worker worker = make_worker(device, (uint32_t)omp_get_thread_num());
        for (uint32_t p = 0; p < n_phases; p++) {
            if (phases[p].n_tasks == 0)
                continue;
            start_phase(&worker);
#pragma omp for schedule(monotonic : dynamic, 1)
            for (uint32_t task = 0; task < phases[p].n_tasks; task++)
                phases[p].run(&worker, phases[p].call, task);
        }
    }
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
