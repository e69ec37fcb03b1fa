// Products of activations with one or several weight matrices.
#include "backends/cpu/tasks.h"

#include <assert.h>

struct matmul_call {
    const struct lode_rows *outs;
    const struct lode_matrix *weights;
    uint32_t n_weights;
    struct lode_rows x;
    const struct cpu_block *blocks;
    uint32_t least_task_rows;
};

// Rows of a task: enough bytes that taking the task costs nothing beside reading them.
#define TASK_BYTES 32768
#define TASK_MAX_ROWS (8 * CPU_PRODUCT_ROWS)

static uint32_t task_rows(const struct matmul_call *call, const struct lode_matrix *weight)
{
    uint32_t rows = call->least_task_rows;
    while (rows < TASK_MAX_ROWS && rows * weight->row_bytes < TASK_BYTES)
        rows += CPU_PRODUCT_ROWS;
    return rows;
}

static uint32_t weight_tasks(const struct matmul_call *call, const struct lode_matrix *weight)
{
    return cpu_ceil_div(weight->rows, task_rows(call, weight)) * cpu_ceil_div(call->x.n, CPU_PRODUCT_TOKENS);
}

static void multiply_block(struct cpu_worker *worker, const struct matmul_call *call, uint32_t weight,
                           uint32_t row, uint32_t n_rows, uint32_t token)
{
    const struct lode_matrix *w = &call->weights[weight];
    const struct lode_rows *x = &call->x, *out = &call->outs[weight];
    size_t row_blocks = x->cols / CPU_BLOCK;
    struct cpu_product product = {
        .weight = w,
        .first_row = row,
        .n_rows = n_rows,
        .blocks = call->blocks + token * row_blocks,
        .block_stride = row_blocks,
        .x = x->data + token * x->stride,
        .x_stride = x->stride,
        .n = cpu_least(x->n - token, CPU_PRODUCT_TOKENS),
        .out = out->data + token * out->stride + row,
        .out_stride = out->stride,
        .workspace = worker->workspace,
    };
    worker->device->matmul->multiply[w->type](&product);
}

static void matmul_task(struct cpu_worker *worker, const void *opaque, uint32_t task)
{
    const struct matmul_call *call = opaque;
    uint32_t weight = 0, tasks;
    while (task >= (tasks = weight_tasks(call, &call->weights[weight]))) {
        task -= tasks;
        weight++;
    }
    const struct lode_matrix *w = &call->weights[weight];
    uint32_t chunks = cpu_ceil_div(call->x.n, CPU_PRODUCT_TOKENS), rows = task_rows(call, w);
    uint32_t token = task % chunks * CPU_PRODUCT_TOKENS, first = task / chunks * rows;
    uint32_t end = cpu_least(first + rows, w->rows);
    for (uint32_t row = first; row < end; row += CPU_PRODUCT_ROWS)
        multiply_block(worker, call, weight, row, cpu_least(end - row, CPU_PRODUCT_ROWS), token);
}

void cpu_matmul(struct lode_device *device, const struct lode_rows *outs, const struct lode_matrix *weights,
                uint32_t n_weights, struct lode_rows x)
{
    struct cpu_device *cpu = cpu_device_of(device);
    struct cpu_quantize_call quantize;
    struct cpu_phase phases[2] = {0};
    struct matmul_call call = {.outs = outs,
                               .weights = weights,
                               .n_weights = n_weights,
                               .x = x,
                               .blocks = cpu->matmul_scratch.memory};
    bool quantised = false;
    uint64_t total_rows = 0;
    uint32_t n_tasks = 0;
    for (uint32_t i = 0; i < n_weights; i++) {
        assert(weights[i].cols == x.cols && outs[i].cols == weights[i].rows && outs[i].n == x.n);
        quantised |= cpu_is_quantised(weights[i].type);
        total_rows += weights[i].rows;
    }
    call.least_task_rows = x.n <= CPU_FEW_TOKENS ? cpu_long_task_rows(cpu, total_rows) : CPU_PRODUCT_ROWS;
    for (uint32_t i = 0; i < n_weights; i++)
        n_tasks += weight_tasks(&call, &weights[i]);
    if (quantised)
        phases[0] = cpu_quantize_phase(cpu, &quantize, x);
    phases[1] = (struct cpu_phase){.run = matmul_task, .call = &call, .n_tasks = n_tasks};
    cpu_run_phases(cpu, phases, 2);
}
