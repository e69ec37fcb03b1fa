// The GPU device: opening it, its faults, waiting for it, the scratch of its operations, and their table.
#include "backends/gpu/gpu_device.h"

#include <stdio.h>
#include <stdlib.h>

// ---- faults

void gpu_set_fault(struct gpu_device *gpu, const struct lode_error *error)
{
    if (!gpu_has_fault(gpu))
        gpu->fault = *error;
}

void gpu_set_fault_of_limits(struct gpu_device *gpu, const char *what, uint64_t needed, uint64_t reserved)
{
    struct lode_error error;
    lode_fail(&error, LODE_ERR_ARGUMENT, "%s: %s: scratch for %llu is needed, and %llu is reserved",
              gpu->base.name, what, static_cast<unsigned long long>(needed),
              static_cast<unsigned long long>(reserved));
    gpu_set_fault(gpu, &error);
}

int gpu_tell_fault(struct gpu_device *gpu, struct lode_error *error)
{
    struct lode_error failure;
    if (!gpu_has_fault(gpu) && gpu_context_fault(gpu->context, &failure) != LODE_OK)
        gpu_set_fault(gpu, &failure);
    if (gpu_has_fault(gpu) && error)
        *error = gpu->fault;
    return gpu->fault.code;
}

static int gpu_sync(struct lode_device *device, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    struct lode_error failure;
    gpu_context_select(gpu->context);
    if (!gpu_has_fault(gpu) && gpu_stream_wait(gpu->context, gpu->queue.stream, &failure) != LODE_OK)
        gpu_set_fault(gpu, &failure);
    gpu_timed_tell(gpu);
    return gpu_tell_fault(gpu, error);
}

// ---- scratch

static void raise_to(uint32_t *limit, uint32_t value)
{
    if (value > *limit)
        *limit = value;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

// Few rows are cut along the positions into more parts than many, so the most is not always with the most
// rows.
static size_t attention_bytes(const struct lode_limits *limits)
{
    size_t bytes = 0;
    for (uint32_t rows = 1; rows < limits->rows && rows <= 128; rows++)
        bytes = most(bytes, gpu_attention_scratch_bytes(rows, limits->n_heads, limits->head_size));
    return most(bytes, gpu_attention_scratch_bytes(limits->rows, limits->n_heads, limits->head_size));
}

// Returns where a part of so many bytes begins and moves on behind it and its slack.
static size_t place(size_t *used, size_t bytes)
{
    const size_t begin = *used;
    *used += (bytes + LODE_DEVICE_SLACK + 255) / 256 * 256;
    return begin;
}

static void release_scratch(struct gpu_device *gpu)
{
    gpu_free(&gpu->base, gpu->scratch, gpu->scratch_bytes);
    free(gpu->host_tables);
    gpu_free_pinned(&gpu->base, gpu->host_ids);
    gpu->scratch = nullptr;
    gpu->host_tables = nullptr;
    gpu->host_ids = nullptr;
    gpu->library_scratch = nullptr;
    gpu->scratch_bytes = gpu->activations_bytes = gpu->attention_bytes = gpu->library_scratch_bytes = 0;
    gpu->limits = {};
}

// On failure there is no scratch: operations that need some become faults.
static int make_scratch(struct gpu_device *gpu, const struct lode_limits *limits, struct lode_error *error)
{
    const size_t rows = limits->rows, expert_rows = limits->expert_rows;
    const size_t activations_bytes = gpu_activations_bytes(limits->rows, limits->cols);
    const size_t attention = attention_bytes(limits);
    const size_t tables = expert_rows ? gpu_expert_tables_bytes(limits->expert_rows) : 0;
    size_t bytes = 0;
    const size_t at_activations = place(&bytes, activations_bytes);
    const size_t at_middle = place(&bytes, expert_rows * limits->ffn_width * sizeof(float));
    const size_t at_quantized =
        place(&bytes, expert_rows ? gpu_activations_bytes(limits->expert_rows, limits->ffn_width) : 0);
    const size_t at_attention = place(&bytes, attention);
    const size_t at_ids = place(&bytes, rows * sizeof(int32_t));
    const size_t at_tables = place(&bytes, tables);
    const size_t library = gpu_library_scratch_bytes(gpu, limits);
    const size_t at_library = library ? place(&bytes, library) : 0;

    void *ids = nullptr;
    int code = gpu_alloc(&gpu->base, &gpu->scratch, bytes, error);
    if (code == LODE_OK)
        code = gpu_alloc_pinned(&gpu->base, &ids, (expert_rows + 1) * sizeof(int32_t), error);
    gpu->host_ids = static_cast<int32_t *>(ids);
    gpu->host_tables = static_cast<char *>(malloc(tables + 1));
    if (code == LODE_OK && !gpu->host_tables)
        code = lode_fail(error, LODE_ERR_MEMORY, "%s: cannot allocate tables of experts", gpu->base.name);
    if (code != LODE_OK) {
        release_scratch(gpu);
        return code;
    }
    char *scratch = static_cast<char *>(gpu->scratch);
    gpu->scratch_bytes = bytes;
    gpu->activations = scratch + at_activations;
    gpu->activations_bytes = activations_bytes;
    gpu->middle = reinterpret_cast<float *>(scratch + at_middle);
    gpu->middle_quantized = scratch + at_quantized;
    gpu->attention = scratch + at_attention;
    gpu->attention_bytes = attention;
    gpu->ids = reinterpret_cast<int32_t *>(scratch + at_ids);
    gpu->tables = scratch + at_tables;
    gpu->library_scratch = library ? scratch + at_library : nullptr;
    gpu->library_scratch_bytes = library;
    gpu->limits = *limits;
    return LODE_OK;
}

static bool is_same(const struct lode_limits *a, const struct lode_limits *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->ffn_width == b->ffn_width &&
           a->n_heads == b->n_heads && a->head_size == b->head_size && a->expert_rows == b->expert_rows;
}

static int gpu_reserve(struct lode_device *device, const struct lode_limits *limits, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (gpu_has_fault(gpu))
        return gpu_tell_fault(gpu, error);
    struct lode_limits raised = gpu->limits;
    raise_to(&raised.rows, limits->rows);
    raise_to(&raised.cols, limits->cols);
    raise_to(&raised.ffn_width, limits->ffn_width);
    raise_to(&raised.n_heads, limits->n_heads);
    raise_to(&raised.head_size, limits->head_size);
    raise_to(&raised.expert_rows, limits->expert_rows);
    if (gpu->scratch && is_same(&raised, &gpu->limits) &&
        gpu_library_scratch_bytes(gpu, &raised) == gpu->library_scratch_bytes)
        return LODE_OK;
    const struct lode_limits before = gpu->limits;
    const bool had_scratch = gpu->scratch != nullptr;
    release_scratch(gpu);
    const int code = make_scratch(gpu, &raised, error);
    if (code != LODE_OK && had_scratch) { // sessions that are open go on with what they had
        struct lode_error ignored;
        make_scratch(gpu, &before, &ignored);
    }
    return code;
}

static size_t gpu_scratch_bytes(const struct lode_device *device)
{
    const struct gpu_device *gpu = reinterpret_cast<const struct gpu_device *>(device);
    return gpu->scratch_bytes + gpu->library_own_bytes;
}

// ---- what a GPU has nothing to do for

static void gpu_pass(struct lode_device *device, void (*body)(void *user), void *user)
{
    (void)device;
    body(user);
}

// The kernels read the order of the file.
static void gpu_arrange(struct lode_device *device, struct lode_matrix *matrix)
{
    (void)device;
    (void)matrix;
}

// ---- opening

static void gpu_close(struct lode_device *device)
{
    if (!device)
        return;
    struct gpu_device *gpu = gpu_device_of(device);
    if (gpu->context) {
        // Nothing may run on what is released; what fails here has been told or is told to nobody.
        struct lode_error ignored;
        gpu_context_select(gpu->context);
        if (gpu->queue.stream)
            gpu_stream_wait(gpu->context, gpu->queue.stream, &ignored);
        if (gpu->copies.stream)
            gpu_stream_wait(gpu->context, gpu->copies.stream, &ignored);
        release_scratch(gpu);
        gpu_library_close(gpu);
        gpu_timed_close(gpu, &gpu->operations_timed);
        gpu_timed_close(gpu, &gpu->copies_timed);
        gpu_staging_close(gpu);
        gpu_copies_close(gpu);
        if (gpu->queue.stream)
            gpu_stream_close(gpu->context, gpu->queue.stream);
        gpu_context_close(gpu->context);
    }
    free(gpu);
}

static const struct lode_device_ops gpu_ops = {
    .close = gpu_close,
    .alloc = gpu_alloc,
    .free = gpu_free,
    .upload = gpu_upload,
    .download = gpu_download,
    .sync = gpu_sync,
    .reserve = gpu_reserve,
    .scratch_bytes = gpu_scratch_bytes,
    .pass = gpu_pass,
    .arrange = gpu_arrange,
    .restore = nullptr,
    .embed = gpu_op_embed,
    .matmul = gpu_op_matmul,
    .matmul_geglu = gpu_op_matmul_geglu,
    .experts = gpu_op_experts,
    .experts_combine = gpu_op_experts_combine,
    .router = gpu_op_router,
    .rms_norm = gpu_op_rms_norm,
    .add_rms_norm = gpu_op_add_rms_norm,
    .add = gpu_op_add,
    .geglu = gpu_op_geglu,
    .scale = gpu_op_scale,
    .softcap = gpu_op_softcap,
    .rope = gpu_op_rope,
    .kv_store = gpu_op_kv_store,
    .attention = gpu_op_attention,
    .memory = gpu_memory,
    .alloc_pinned = gpu_alloc_pinned,
    .free_pinned = gpu_free_pinned,
    .copy = gpu_copy,
    .fence = gpu_fence,
    .copy_in = gpu_copy_in,
    .copy_done = gpu_copy_done,
    .copy_await = gpu_copy_await,
    .experts_routed = gpu_op_experts_routed,
    .use_library = gpu_use_library,
    .library_name = gpu_library_name,
};

static int open_parts(struct gpu_device *gpu, struct lode_error *error)
{
    gpu_context_select(gpu->context);
    gpu->queue.features = gpu_context_features(gpu->context);
    gpu->queue.multiprocessors = gpu_context_multiprocessors(gpu->context);
    int code = gpu_stream_open(gpu->context, &gpu->queue.stream, error);
    if (code == LODE_OK)
        code = gpu_copies_open(gpu, error);
    if (code == LODE_OK)
        code = gpu_staging_open(gpu, error);
    return code;
}

int gpu_device_open(struct lode_device **out, uint32_t index, const struct lode_gpu_options *options,
                    struct lode_error *error)
{
    *out = nullptr;
    struct gpu_device *gpu = static_cast<struct gpu_device *>(calloc(1, sizeof *gpu));
    if (!gpu)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the device %s%u", gpu_runtime_name, index);
    gpu->base.ops = &gpu_ops;
    gpu->base.host_memory = false;
    snprintf(gpu->base.name, sizeof gpu->base.name, "%s%u", gpu_runtime_name, index);
    int code = gpu_context_open(&gpu->context, index, options, error);
    if (code == LODE_OK)
        code = open_parts(gpu, error);
    if (code != LODE_OK) {
        gpu_close(&gpu->base);
        return code;
    }
    *out = &gpu->base;
    return LODE_OK;
}
