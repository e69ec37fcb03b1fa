// Experts: tables of what goes where are put together on the host, sent in one copy, and read by the kernels.
//
// A decode step has a handful of choices of as many experts, and each choice reads its expert for itself. A
// batch has many choices of each expert: then the choices of one expert are taken together, in tiles.
#include "backends/gpu/gpu_device.h"

#include <string.h>

// Up to so many choices an expert, on average, each choice reads the expert again: the level-2 cache answers
// a second read, and a tile of so few rows would idle.
#define FEW_CHOICES 2

// Where the tables lie, one behind the other: the same in the host's memory and the device's.
struct expert_tables {
    struct gpu_expert *experts;
    int32_t *which, *tokens, *slots;
    uint32_t *begin;
};

size_t gpu_expert_tables_bytes(uint32_t n_choices)
{
    const size_t n = n_choices > GPU_EXPERTS_MAX ? n_choices : GPU_EXPERTS_MAX;
    return n * (sizeof(struct gpu_expert) + 3 * sizeof(int32_t) + sizeof(uint32_t)) + 64;
}

// Returns the bytes that are used.
static size_t lay_tables(struct expert_tables *out, char *memory, uint32_t n_experts, uint32_t n_choices)
{
    out->experts = reinterpret_cast<struct gpu_expert *>(memory);
    out->which = reinterpret_cast<int32_t *>(out->experts + n_experts);
    out->tokens = out->which + n_choices;
    out->slots = out->tokens + n_choices;
    out->begin = reinterpret_cast<uint32_t *>(out->slots + n_choices);
    return static_cast<size_t>(reinterpret_cast<char *>(out->begin + n_experts + 1) - memory);
}

static struct gpu_expert_shape shape_of(const struct lode_expert_job *job)
{
    struct gpu_expert_shape shape = {};
    shape.gate_type = job->gate.type;
    shape.up_type = job->up.type;
    shape.down_type = job->down.type;
    shape.hidden = job->gate.cols;
    shape.width = job->gate.rows;
    shape.gate_row_bytes = job->gate.row_bytes;
    shape.up_row_bytes = job->up.row_bytes;
    shape.down_row_bytes = job->down.row_bytes;
    return shape;
}

static uint64_t bytes_of(const struct lode_expert_job *job)
{
    return static_cast<uint64_t>(job->gate.rows) * job->gate.row_bytes +
           static_cast<uint64_t>(job->up.rows) * job->up.row_bytes +
           static_cast<uint64_t>(job->down.rows) * job->down.row_bytes;
}

static bool fits(struct gpu_device *gpu, const struct gpu_expert_shape *shape, uint64_t n_choices)
{
    if (n_choices > gpu->limits.expert_rows) {
        gpu_set_fault_of_limits(gpu, "experts' choices", n_choices, gpu->limits.expert_rows);
        return false;
    }
    if (shape->width > gpu->limits.ffn_width) {
        gpu_set_fault_of_limits(gpu, "an expert's width", shape->width, gpu->limits.ffn_width);
        return false;
    }
    return true;
}

static struct gpu_expert_scratch scratch_for(const struct gpu_device *gpu, uint32_t n_choices, uint32_t width)
{
    struct gpu_expert_scratch scratch;
    scratch.middle = {gpu->middle, n_choices, width, width};
    scratch.quantized = gpu_activations_in(gpu->middle_quantized, n_choices, width);
    return scratch;
}

static bool prepare(struct gpu_device *gpu, struct gpu_activations *quantized, struct lode_rows x,
                    const struct gpu_expert_shape *shape)
{
    return gpu_quantize_rows(gpu, quantized, x,
                             gpu_is_quantized(shape->gate_type) || gpu_is_quantized(shape->up_type));
}

// ---- experts of jobs

static uint32_t fill_tables(const struct expert_tables *tables, const struct lode_expert_job *jobs,
                            uint32_t n_jobs)
{
    uint32_t n = 0, most = 0;
    for (uint32_t j = 0; j < n_jobs; j++) {
        const struct lode_expert_job *job = &jobs[j];
        tables->experts[j] = {job->gate.data, job->up.data, job->down.data};
        tables->begin[j] = n;
        most = job->n > most ? job->n : most;
        for (uint32_t i = 0; i < job->n; i++, n++) {
            tables->which[n] = static_cast<int32_t>(j);
            tables->tokens[n] = job->tokens[i];
            tables->slots[n] = job->slots[i];
        }
    }
    tables->begin[n_jobs] = n;
    return most;
}

// Jobs of one shape, of which there are n choices.
static void run_jobs(struct gpu_device *gpu, struct lode_rows out, struct lode_rows x,
                     struct gpu_activations quantized, const struct lode_expert_job *jobs, uint32_t n_jobs,
                     uint32_t n_choices)
{
    const struct gpu_expert_shape shape = shape_of(jobs);
    struct expert_tables here, there;
    const size_t bytes = lay_tables(&here, gpu->host_tables, n_jobs, n_choices);
    lay_tables(&there, gpu->tables, n_jobs, n_choices);
    const uint32_t most = fill_tables(&here, jobs, n_jobs);
    struct lode_error error;
    if (gpu_send(gpu, gpu->tables, gpu->host_tables, bytes, &error) != LODE_OK) {
        gpu_set_fault(gpu, &error);
        return;
    }
    const struct gpu_expert_choices choices = {there.experts, there.which, there.tokens,
                                               there.slots,   n_choices,   1};
    const struct gpu_expert_scratch scratch = scratch_for(gpu, n_choices, shape.width);
    if (n_choices <= FEW_CHOICES * n_jobs) {
        gpu_experts_few(&gpu->queue, out, quantized, x, &shape, &choices, &scratch);
    } else {
        const struct gpu_expert_jobs sorted = {there.begin, n_jobs, most};
        gpu_experts_many(&gpu->queue, out, quantized, x, &shape, &choices, &sorted, &scratch);
    }
}

static bool same_shape(const struct lode_expert_job *a, const struct lode_expert_job *b)
{
    const struct gpu_expert_shape first = shape_of(a), second = shape_of(b);
    return first.gate_type == second.gate_type && first.up_type == second.up_type &&
           first.down_type == second.down_type && first.hidden == second.hidden &&
           first.width == second.width && first.gate_row_bytes == second.gate_row_bytes &&
           first.up_row_bytes == second.up_row_bytes && first.down_row_bytes == second.down_row_bytes;
}

void gpu_op_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                    const struct lode_expert_job *jobs, uint32_t n_jobs)
{
    uint64_t n_choices = 0, bytes = 0;
    bool any_quantized = false;
    uint32_t width = 0;
    for (uint32_t j = 0; j < n_jobs; j++) {
        n_choices += jobs[j].n;
        bytes += bytes_of(&jobs[j]);
        any_quantized |= gpu_is_quantized(jobs[j].gate.type) || gpu_is_quantized(jobs[j].up.type);
        width = jobs[j].gate.rows > width ? jobs[j].gate.rows : width;
    }
    if (n_choices == 0)
        return;
    const struct gpu_operation op(device, "experts", bytes);
    struct gpu_expert_shape widest = shape_of(jobs);
    widest.width = width;
    struct gpu_activations quantized;
    if (!op.gpu || !fits(op.gpu, &widest, n_choices) ||
        !gpu_quantize_rows(op.gpu, &quantized, x, any_quantized))
        return;
    // Jobs are of one shape but in models that give layers or experts types of their own; such go in runs.
    for (uint32_t first = 0, end; first < n_jobs; first = end) {
        uint32_t n = 0;
        for (end = first;
             end < n_jobs && end - first < GPU_EXPERTS_MAX && same_shape(&jobs[first], &jobs[end]); end++)
            n += jobs[end].n;
        if (n > 0)
            run_jobs(op.gpu, out, x, quantized, &jobs[first], end - first, n);
    }
}

// ---- experts of choices

// Fills which, tokens, slots and begin of choices sorted by expert; a choice that is negative is left out.
// Returns how many choices there are, or 0 where an expert's number is too large for the tables.
static uint32_t sort_choices(const struct expert_tables *tables, uint32_t n_experts, const int32_t *ids,
                             uint32_t n, uint32_t k, uint32_t *out_most)
{
    uint32_t *begin = tables->begin;
    memset(begin, 0, (n_experts + 1) * sizeof *begin);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            begin[ids[i] + 1]++;
    *out_most = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        *out_most = begin[e + 1] > *out_most ? begin[e + 1] : *out_most;
        begin[e + 1] += begin[e];
    }
    // Filling moves each begin to its end, which is the next one's begin; they are moved back behind it.
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < 0)
            continue;
        const uint32_t place = begin[ids[i]]++;
        tables->which[place] = ids[i];
        tables->tokens[place] = static_cast<int32_t>(i / k);
        tables->slots[place] = static_cast<int32_t>(i);
    }
    memmove(begin + 1, begin, n_experts * sizeof *begin);
    begin[0] = 0;
    return begin[n_experts];
}

// Many choices: the host looks at them, which costs a wait that is short against the products it saves.
static bool run_sorted(struct gpu_device *gpu, struct lode_rows out, struct lode_rows x,
                       struct gpu_activations quantized, const struct gpu_expert_shape *shape,
                       const struct lode_expert_entry *entries, const int32_t *ids, uint32_t n, uint32_t k,
                       struct lode_error *error)
{
    int code = gpu_stream_copy(gpu->context, gpu->queue.stream, gpu->host_ids, ids, n * sizeof *ids,
                               GPU_COPY_OUT, error);
    if (code == LODE_OK)
        code = gpu_stream_wait(gpu->context, gpu->queue.stream, error);
    if (code != LODE_OK) {
        gpu_set_fault(gpu, error);
        return true;
    }
    int32_t highest = -1;
    for (uint32_t i = 0; i < n; i++)
        highest = gpu->host_ids[i] > highest ? gpu->host_ids[i] : highest;
    if (highest >= GPU_EXPERTS_MAX)
        return false;
    const uint32_t n_experts = static_cast<uint32_t>(highest + 1);
    struct expert_tables here, there;
    const size_t bytes = lay_tables(&here, gpu->host_tables, 0, n) + n_experts * sizeof *here.begin;
    lay_tables(&there, gpu->tables, 0, n);
    uint32_t most;
    const uint32_t n_sorted = sort_choices(&here, n_experts, gpu->host_ids, n, k, &most);
    if (n_sorted == 0)
        return true;
    if (gpu_send(gpu, gpu->tables, gpu->host_tables, bytes, error) != LODE_OK) {
        gpu_set_fault(gpu, error);
        return true;
    }
    const struct gpu_expert_choices choices = {reinterpret_cast<const struct gpu_expert *>(entries),
                                               there.which,
                                               there.tokens,
                                               there.slots,
                                               n_sorted,
                                               1};
    const struct gpu_expert_scratch scratch = scratch_for(gpu, n_sorted, shape->width);
    const struct gpu_expert_jobs sorted = {there.begin, n_experts, most};
    gpu_experts_many(&gpu->queue, out, quantized, x, shape, &choices, &sorted, &scratch);
    return true;
}

static_assert(sizeof(struct gpu_expert) == sizeof(struct lode_expert_entry), "the same three pointers");

void gpu_op_experts_routed(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                           const struct lode_expert_job *kind, const struct lode_expert_entry *entries,
                           const int32_t *ids, uint32_t k)
{
    const struct gpu_operation op(device, "experts", bytes_of(kind) * k);
    const struct gpu_expert_shape shape = shape_of(kind);
    const uint64_t n = static_cast<uint64_t>(x.n) * k;
    struct gpu_activations quantized;
    if (!op.gpu || n == 0 || !fits(op.gpu, &shape, n) || !prepare(op.gpu, &quantized, x, &shape))
        return;
    struct lode_error error;
    if (x.n > GPU_MATVEC_ROWS &&
        run_sorted(op.gpu, out, x, quantized, &shape, entries, ids, static_cast<uint32_t>(n), k, &error))
        return;
    const struct gpu_expert_choices choices = {reinterpret_cast<const struct gpu_expert *>(entries),
                                               ids,
                                               nullptr,
                                               nullptr,
                                               static_cast<uint32_t>(n),
                                               k};
    const struct gpu_expert_scratch scratch = scratch_for(op.gpu, static_cast<uint32_t>(n), shape.width);
    gpu_experts_few(&op.gpu->queue, out, quantized, x, &shape, &choices, &scratch);
}
