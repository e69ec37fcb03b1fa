// The gated feed-forward: gelu_tanh(x gate^T) * (x up^T), alone or inside of the experts, which multiply it
// with down.
//
// A task computes 32 columns of gate and up for up to 128 tokens and applies the gate while they are in the
// cache; for an expert with quantised down weights it also quantises them, which needs no more than these 32
// columns. So experts take two phases, gate and up of all, then down of all, and the floats in between never
// reach memory.
#include "backends/cpu/tasks.h"

#include <assert.h>

struct gated_call {
    const struct lode_expert_job *jobs; // down, tokens and slots are not used by matmul_geglu
    uint32_t n_jobs;
    struct lode_rows x, out;
    const struct cpu_block *blocks; // of x
    char *intermediate;             // the jobs' intermediate rows, one behind the other
    uint32_t gate_rows, down_rows;  // of a task
};

static uint32_t token_chunks(const struct lode_expert_job *job)
{
    return cpu_ceil_div(job->n, CPU_PRODUCT_TOKENS);
}

static uint32_t gate_tasks(const struct gated_call *call, const struct lode_expert_job *job)
{
    return cpu_ceil_div(job->gate.rows, call->gate_rows) * token_chunks(job);
}

// Down rows are short (704 columns at Q4_0 are 396 bytes), so a task takes four times as many.
#define DOWN_ROWS (4 * CPU_PRODUCT_ROWS)

static uint32_t down_tasks(const struct gated_call *call, const struct lode_expert_job *job)
{
    return cpu_ceil_div(job->down.rows, call->down_rows) * token_chunks(job);
}

static size_t intermediate_bytes(const struct lode_expert_job *job)
{
    return (size_t)job->n * job->gate.rows * sizeof(float); // quantised ones take less
}

// Moves the worker to the job that the task belongs to; returns the task's number within the job.
static uint32_t find_job(struct cpu_worker *worker, const struct gated_call *call, uint32_t task,
                         uint32_t (*tasks_of)(const struct gated_call *, const struct lode_expert_job *))
{
    assert(task >= worker->item_first_task);
    for (;;) {
        const struct lode_expert_job *job = &call->jobs[worker->item];
        uint32_t tasks = tasks_of(call, job);
        if (task - worker->item_first_task < tasks)
            return task - worker->item_first_task;
        worker->item_first_task += tasks;
        worker->item_offset += intermediate_bytes(job);
        worker->item++;
    }
}

static struct cpu_product product_of_x(const struct cpu_worker *worker, const struct gated_call *call,
                                       const struct lode_expert_job *job, uint32_t token)
{
    size_t row_blocks = call->x.cols / CPU_BLOCK, skip = job->tokens ? 0 : token;
    return (struct cpu_product){
        .blocks = call->blocks + skip * row_blocks,
        .block_stride = row_blocks,
        .x = call->x.data + skip * call->x.stride,
        .x_stride = call->x.stride,
        .x_ids = job->tokens ? job->tokens + token : NULL,
        .n = cpu_least(job->n - token, CPU_PRODUCT_TOKENS),
        .workspace = worker->workspace,
    };
}

static void multiply(const struct cpu_worker *worker, struct cpu_product *product,
                     const struct lode_matrix *weight, uint32_t first_row, uint32_t n_rows)
{
    product->weight = weight;
    product->first_row = first_row;
    product->n_rows = n_rows;
    worker->device->matmul->multiply[weight->type](product);
}

// Rows first_row .. first_row + n_rows - 1 of gate and up for up to CPU_PRODUCT_TOKENS tokens; returns the
// gated tile, whose rows lie CPU_PRODUCT_ROWS floats apart.
static const float *gated_tile(struct cpu_worker *worker, const struct gated_call *call,
                               const struct lode_expert_job *job, uint32_t token, uint32_t first_row,
                               uint32_t n_rows)
{
    struct cpu_product product = product_of_x(worker, call, job, token);
    float *gate = worker->tiles, *up = gate + CPU_PRODUCT_TOKENS * CPU_PRODUCT_ROWS;
    product.out_stride = CPU_PRODUCT_ROWS;
    product.out = gate;
    multiply(worker, &product, &job->gate, first_row, n_rows);
    product.out = up;
    multiply(worker, &product, &job->up, first_row, n_rows);
    for (uint32_t i = 0; i < product.n; i++) {
        size_t row = (size_t)i * CPU_PRODUCT_ROWS;
        worker->device->vector->geglu(gate + row, gate + row, up + row, n_rows);
    }
    return gate;
}

static void copy_rows(float *out, size_t out_stride, const float *tile, uint32_t n, uint32_t n_rows)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t r = 0; r < n_rows; r++)
            out[i * out_stride + r] = tile[i * CPU_PRODUCT_ROWS + r];
}

// Gated rows first .. first + n_rows - 1 of n tokens to where the next phase, or the caller, wants them.
static void put_tile(struct cpu_worker *worker, const struct gated_call *call,
                     const struct lode_expert_job *job, const float *tile, uint32_t token, uint32_t n,
                     uint32_t first, uint32_t n_rows)
{
    const uint32_t width = job->gate.rows;
    if (!call->intermediate) {
        copy_rows(call->out.data + token * call->out.stride + first, call->out.stride, tile, n, n_rows);
    } else if (!cpu_is_quantised(job->down.type)) {
        float *rows = (float *)(void *)(call->intermediate + worker->item_offset);
        copy_rows(rows + (size_t)token * width + first, width, tile, n, n_rows);
    } else {
        struct cpu_block *blocks = (struct cpu_block *)(void *)(call->intermediate + worker->item_offset);
        for (uint32_t i = 0; i < n; i++)
            worker->device->matmul->quantize(
                &blocks[(size_t)(token + i) * (width / CPU_BLOCK) + first / CPU_BLOCK],
                tile + (size_t)i * CPU_PRODUCT_ROWS, n_rows / CPU_BLOCK);
    }
}

static void gate_task(struct cpu_worker *worker, const void *opaque, uint32_t task)
{
    const struct gated_call *call = opaque;
    task = find_job(worker, call, task, gate_tasks);
    const struct lode_expert_job *job = &call->jobs[worker->item];
    const uint32_t chunks = token_chunks(job), token = task % chunks * CPU_PRODUCT_TOKENS;
    const uint32_t n = cpu_least(job->n - token, CPU_PRODUCT_TOKENS);
    const uint32_t begin = task / chunks * call->gate_rows,
                   end = cpu_least(begin + call->gate_rows, job->gate.rows);
    for (uint32_t first = begin; first < end; first += CPU_PRODUCT_ROWS) {
        const uint32_t n_rows = cpu_least(end - first, CPU_PRODUCT_ROWS);
        const float *tile = gated_tile(worker, call, job, token, first, n_rows);
        put_tile(worker, call, job, tile, token, n, first, n_rows);
    }
}

static void down_task(struct cpu_worker *worker, const void *opaque, uint32_t task)
{
    const struct gated_call *call = opaque;
    task = find_job(worker, call, task, down_tasks);
    const struct lode_expert_job *job = &call->jobs[worker->item];
    uint32_t chunks = token_chunks(job), token = task % chunks * CPU_PRODUCT_TOKENS;
    uint32_t first = task / chunks * call->down_rows,
             end = cpu_least(first + call->down_rows, job->down.rows);
    size_t width = job->down.cols;
    const void *rows = call->intermediate + worker->item_offset;
    for (uint32_t row = first; row < end; row += CPU_PRODUCT_ROWS) {
        struct cpu_product product = {
            .blocks = (const struct cpu_block *)rows + token * (width / CPU_BLOCK),
            .block_stride = width / CPU_BLOCK,
            .x = (const float *)rows + token * width,
            .x_stride = width,
            .n = cpu_least(job->n - token, CPU_PRODUCT_TOKENS),
            .out = call->out.data + row,
            .out_stride = call->out.stride,
            .out_ids = job->slots + token,
            .workspace = worker->workspace,
        };
        multiply(worker, &product, &job->down, row, cpu_least(end - row, CPU_PRODUCT_ROWS));
    }
}

static uint32_t count_tasks(const struct gated_call *call,
                            uint32_t (*tasks_of)(const struct gated_call *, const struct lode_expert_job *))
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < call->n_jobs; j++)
        n += tasks_of(call, &call->jobs[j]);
    return n;
}

static bool wants_blocks(const struct lode_expert_job *jobs, uint32_t n_jobs)
{
    for (uint32_t j = 0; j < n_jobs; j++)
        if (cpu_is_quantised(jobs[j].gate.type) || cpu_is_quantised(jobs[j].up.type))
            return true;
    return false;
}

static void choose_task_rows(const struct cpu_device *cpu, struct gated_call *call)
{
    uint64_t gate_rows = 0, down_rows = 0;
    bool few = true;
    for (uint32_t j = 0; j < call->n_jobs; j++) {
        gate_rows += call->jobs[j].gate.rows;
        down_rows += call->jobs[j].down.rows;
        few &= call->jobs[j].n <= CPU_FEW_TOKENS;
    }
    call->gate_rows = few ? cpu_long_task_rows(cpu, gate_rows) : CPU_PRODUCT_ROWS;
    call->down_rows = few ? cpu_long_task_rows(cpu, down_rows) : DOWN_ROWS;
}

static void run_gated(struct cpu_device *cpu, struct gated_call *call)
{
    choose_task_rows(cpu, call);
    struct cpu_quantize_call quantize;
    struct cpu_phase phases[3] = {0};
    call->blocks = cpu->matmul_scratch.memory;
    if (wants_blocks(call->jobs, call->n_jobs))
        phases[0] = cpu_quantize_phase(cpu, &quantize, call->x);
    phases[1] = (struct cpu_phase){.run = gate_task, .call = call, .n_tasks = count_tasks(call, gate_tasks)};
    if (call->intermediate)
        phases[2] =
            (struct cpu_phase){.run = down_task, .call = call, .n_tasks = count_tasks(call, down_tasks)};
    cpu_run_phases(cpu, phases, 3);
}

void cpu_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct lode_rows x)
{
    struct lode_expert_job job = {.gate = *gate, .up = *up, .n = x.n};
    struct gated_call call = {.jobs = &job, .n_jobs = 1, .x = x, .out = out};
    run_gated(cpu_device_of(device), &call);
}

void cpu_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                 const struct lode_expert_job *jobs, uint32_t n_jobs)
{
    struct cpu_device *cpu = cpu_device_of(device);
    const struct cpu_matmul_scratch *scratch = &cpu->matmul_scratch;
    size_t needed = 0;
    for (uint32_t j = 0; j < n_jobs; j++)
        needed += intermediate_bytes(&jobs[j]);
    assert(needed <= scratch->intermediate_bytes);
    (void)needed;
    struct gated_call call = {.jobs = jobs,
                              .n_jobs = n_jobs,
                              .x = x,
                              .out = out,
                              .intermediate = (char *)scratch->memory + scratch->activation_bytes};
    run_gated(cpu, &call);
}
