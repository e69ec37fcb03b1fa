// The simulated device: its operations ask what they take, and move the clock on.
#include "backends/sim/sim_device.h"

#include "backends/sim/sim_memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Beyond it an answer is a mistake: two years.
#define MOST_SECONDS 6e7

struct sim_device {
    struct lode_device base;
    struct sim_device_options options;
    struct sim_memory memory;
    struct sim_device_figures figures;
    uint32_t n_attended, n_routed; // of the pass, as in struct sim_route
    struct lode_error fault;       // code LODE_OK: none
};

static struct sim_device *sim_of(struct lode_device *device)
{
    return (struct sim_device *)device;
}

const char *sim_op_name(enum sim_op op)
{
    static const char *const names[SIM_OPS] = {
        [SIM_UPLOAD] = "upload",
        [SIM_DOWNLOAD] = "download",
        [SIM_SYNC] = "sync",
        [SIM_EMBED] = "embed",
        [SIM_MATMUL] = "matmul",
        [SIM_MATMUL_GEGLU] = "matmul_geglu",
        [SIM_EXPERTS] = "experts",
        [SIM_EXPERTS_COMBINE] = "experts_combine",
        [SIM_ROUTER] = "router",
        [SIM_RMS_NORM] = "rms_norm",
        [SIM_ADD_RMS_NORM] = "add_rms_norm",
        [SIM_ADD] = "add",
        [SIM_GEGLU] = "geglu",
        [SIM_SCALE] = "scale",
        [SIM_SOFTCAP] = "softcap",
        [SIM_ROPE] = "rope",
        [SIM_KV_STORE] = "kv_store",
        [SIM_ATTENTION] = "attention",
    };
    return names[op];
}

// ---- time
// --------------------------------------------------------------------------------------------------------

static bool has_fault(const struct sim_device *sim)
{
    return sim->fault.code != LODE_OK;
}

static int tell_fault(const struct sim_device *sim, struct lode_error *error)
{
    if (error && has_fault(sim))
        *error = sim->fault;
    return sim->fault.code;
}

static double ask(struct sim_device *sim, const struct sim_work *work)
{
    if (has_fault(sim))
        return 0;
    const double seconds = sim->options.seconds(sim->options.user, work);
    if (seconds >= 0 && seconds <= MOST_SECONDS)
        return seconds;
    lode_fail(&sim->fault, LODE_ERR_ARGUMENT, "%s of %u rows was said to take %g s", sim_op_name(work->op),
              work->n_rows, seconds);
    return 0;
}

// Returns the nanoseconds that an operation has taken.
static uint64_t take_time(struct sim_device *sim, enum sim_op op, double seconds)
{
    if (has_fault(sim))
        return 0;
    const uint64_t ns = (uint64_t)llround(seconds * 1e9);
    sim->options.clock->now_ns += ns;
    sim->figures.calls[op]++;
    sim->figures.ns[op] += ns;
    sim->figures.total_ns += ns;
    return ns;
}

static uint64_t work_through(struct lode_device *device, const struct sim_work *work)
{
    struct sim_device *sim = sim_of(device);
    return take_time(sim, work->op, ask(sim, work));
}

static void count_kernels(const struct lode_device *device, uint64_t ns)
{
    if (device->times)
        device->times->kernels_ns += ns;
}

// ---- memory
// ------------------------------------------------------------------------------------------------------

static void sim_close(struct lode_device *device)
{
    if (!device)
        return;
    sim_memory_close(&sim_of(device)->memory);
    free(sim_of(device));
}

static int sim_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    return sim_memory_alloc(&sim_of(device)->memory, out, bytes, error);
}

static void sim_free(struct lode_device *device, void *memory, size_t bytes)
{
    (void)bytes;
    sim_memory_free(&sim_of(device)->memory, memory);
}

static int sim_upload(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
                      struct lode_error *error)
{
    struct sim_device *sim = sim_of(device);
    const struct sim_work work = {.op = SIM_UPLOAD, .bytes = bytes};
    if (bytes > 0 && !has_fault(sim)) {
        if (sim_memory_touch(&sim->memory, to_device, &sim->fault) == LODE_OK)
            memcpy(to_device, from_host, bytes);
    }
    work_through(device, &work);
    return tell_fault(sim, error);
}

static int sim_download(struct lode_device *device, void *to_host, const void *from_device, size_t bytes,
                        struct lode_error *error)
{
    struct sim_device *sim = sim_of(device);
    const struct sim_work work = {.op = SIM_DOWNLOAD, .bytes = bytes};
    work_through(device, &work);
    if (!has_fault(sim))
        sim_memory_read(&sim->memory, to_host, from_device, bytes);
    return tell_fault(sim, error);
}

static int sim_sync(struct lode_device *device, struct lode_error *error)
{
    const struct sim_work work = {.op = SIM_SYNC};
    work_through(device, &work);
    return tell_fault(sim_of(device), error);
}

static int sim_reserve(struct lode_device *device, const struct lode_limits *limits, struct lode_error *error)
{
    (void)limits;
    return tell_fault(sim_of(device), error);
}

static size_t sim_scratch_bytes(const struct lode_device *device)
{
    return ((const struct sim_device *)device)->options.scratch_bytes;
}

static void sim_pass(struct lode_device *device, void (*body)(void *user), void *user)
{
    struct sim_device *sim = sim_of(device);
    sim->n_attended = sim->n_routed = 0;
    body(user);
}

// The same bytes in another order take the same time here: what an order gains is in the answers.
static void sim_arrange(struct lode_device *device, struct lode_matrix *matrix)
{
    (void)device;
    (void)matrix;
}

// ---- products
// ----------------------------------------------------------------------------------------------------

static uint64_t matrix_bytes(const struct lode_matrix *matrix)
{
    return (uint64_t)matrix->rows * matrix->row_bytes;
}

static double ask_product(struct sim_device *sim, enum sim_op op, const struct lode_matrix *matrix,
                          uint32_t n_rows)
{
    const struct sim_work work = {
        .op = op, .n_rows = n_rows, .cols = matrix->cols, .bytes = matrix_bytes(matrix), .matrix = matrix};
    return ask(sim, &work);
}

// Somebody may read what lies in the host's own memory.
static void clear_for_host(const struct sim_device *sim, struct lode_rows rows)
{
    if (rows.n == 0 || sim_memory_holds(&sim->memory, rows.data))
        return;
    for (uint32_t i = 0; i < rows.n; i++)
        memset(rows.data + i * rows.stride, 0, rows.cols * sizeof *rows.data);
}

static void sim_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
                      const int32_t *ids, float scale)
{
    (void)ids;
    (void)scale;
    const struct sim_work work = {.op = SIM_EMBED,
                                  .n_rows = out.n,
                                  .cols = out.cols,
                                  .bytes = (uint64_t)out.n * table->row_bytes,
                                  .matrix = table};
    work_through(device, &work);
}

static void sim_matmul(struct lode_device *device, const struct lode_rows *outs,
                       const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x)
{
    struct sim_device *sim = sim_of(device);
    double seconds = 0;
    for (uint32_t j = 0; j < n_weights; j++) {
        seconds += ask_product(sim, SIM_MATMUL, &weights[j], x.n);
        clear_for_host(sim, outs[j]);
    }
    count_kernels(device, take_time(sim, SIM_MATMUL, seconds));
}

static void sim_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                             const struct lode_matrix *up, struct lode_rows x)
{
    struct sim_device *sim = sim_of(device);
    const double seconds =
        ask_product(sim, SIM_MATMUL_GEGLU, gate, x.n) + ask_product(sim, SIM_MATMUL_GEGLU, up, x.n);
    clear_for_host(sim, out);
    count_kernels(device, take_time(sim, SIM_MATMUL_GEGLU, seconds));
}

static void sim_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                        const struct lode_expert_job *jobs, uint32_t n_jobs)
{
    (void)out;
    (void)x;
    struct sim_device *sim = sim_of(device);
    double seconds = 0;
    for (uint32_t j = 0; j < n_jobs; j++)
        seconds += ask_product(sim, SIM_EXPERTS, &jobs[j].gate, jobs[j].n) +
                   ask_product(sim, SIM_EXPERTS, &jobs[j].up, jobs[j].n) +
                   ask_product(sim, SIM_EXPERTS, &jobs[j].down, jobs[j].n);
    count_kernels(device, take_time(sim, SIM_EXPERTS, seconds));
}

static void sim_experts_combine(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                                const float *weights, uint32_t k)
{
    (void)weights;
    const struct sim_work work = {.op = SIM_EXPERTS_COMBINE, .n_rows = slots.n, .cols = out.cols, .k = k};
    work_through(device, &work);
}

static void sim_router(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits,
                       uint32_t k, const float *expert_scale)
{
    (void)expert_scale;
    struct sim_device *sim = sim_of(device);
    const struct sim_work work = {.op = SIM_ROUTER, .n_rows = logits.n, .cols = logits.cols, .k = k};
    const struct sim_route route = {.n_rows = logits.n,
                                    .k = k,
                                    .n_experts = logits.cols,
                                    .n_attended = sim->n_attended,
                                    .n_routed = sim->n_routed};
    sim->n_routed++;
    if (has_fault(sim) || sim_memory_touch(&sim->memory, ids, &sim->fault) != LODE_OK ||
        sim_memory_touch(&sim->memory, weights, &sim->fault) != LODE_OK)
        return;
    if (!sim->options.choose)
        lode_fail(&sim->fault, LODE_ERR_UNSUPPORTED, "nobody says what the routers of this model choose");
    else if (sim->options.choose(sim->options.user, &route, ids, weights, &sim->fault) == 0)
        sim->fault.code = LODE_OK;
    else if (!has_fault(sim))
        lode_fail(&sim->fault, LODE_ERR_ARGUMENT, "a router's choice failed without a reason");
    work_through(device, &work);
}

// ---- attention
// ---------------------------------------------------------------------------------------------------

// Of rows at first .. first + n - 1: each sees itself and what is before it, within the window.
static uint64_t count_positions(uint32_t first, uint32_t n, uint32_t window)
{
    uint64_t growing = n; // rows whose window is not full
    if (window && (uint64_t)first + n > window)
        growing = window > first ? window - first : 0;
    return growing * first + growing * (growing + 1) / 2 + (n - growing) * window;
}

static void sim_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q,
                          uint32_t n_heads, const struct lode_kv *kv, uint32_t first_position,
                          uint32_t window)
{
    (void)out;
    struct sim_device *sim = sim_of(device);
    const uint64_t positions = count_positions(first_position, q.n, window);
    const struct sim_work work = {
        .op = SIM_ATTENTION,
        .n_rows = q.n,
        .cols = q.cols,
        .bytes = 2 * positions * kv->n_heads * lode_kv_row_bytes(kv->format, kv->head_size),
        .kv = kv,
        .n_heads = n_heads,
        .first_position = first_position,
        .window = window,
        .positions = positions,
    };
    const uint64_t ns = work_through(device, &work);
    sim->n_attended++;
    sim->n_routed = 0;
    if (device->times)
        device->times->attention_ns += ns;
}

static void sim_kv_store(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                         struct lode_rows v, uint32_t first_position)
{
    (void)v;
    const struct sim_work work = {
        .op = SIM_KV_STORE, .n_rows = k.n, .cols = k.cols, .kv = kv, .first_position = first_position};
    work_through(device, &work);
}

// ---- rows
// --------------------------------------------------------------------------------------------------------

static void go_over(struct lode_device *device, enum sim_op op, struct lode_rows rows)
{
    const struct sim_work work = {.op = op, .n_rows = rows.n, .cols = rows.cols};
    work_through(device, &work);
}

static void sim_rms_norm(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                         const float *weight, float eps, float scale)
{
    (void)out, (void)weight, (void)eps, (void)scale;
    go_over(device, SIM_RMS_NORM, x);
}

static void sim_add_rms_norm(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                             const float *weight, float eps, float scale)
{
    (void)residual, (void)weight, (void)eps, (void)scale;
    go_over(device, SIM_ADD_RMS_NORM, x);
}

static void sim_add(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
                    float scale)
{
    (void)out, (void)b, (void)scale;
    go_over(device, SIM_ADD, a);
}

static void sim_geglu(struct lode_device *device, struct lode_rows out, struct lode_rows a,
                      struct lode_rows b)
{
    (void)out, (void)b;
    go_over(device, SIM_GEGLU, a);
}

static void sim_scale(struct lode_device *device, struct lode_rows x, float scale)
{
    (void)scale;
    go_over(device, SIM_SCALE, x);
}

static void sim_softcap(struct lode_device *device, struct lode_rows x, float cap)
{
    (void)cap;
    go_over(device, SIM_SOFTCAP, x);
}

static void sim_rope(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
                     uint32_t first_position, const float *inverse_frequency)
{
    (void)n_heads, (void)head_size, (void)first_position, (void)inverse_frequency;
    go_over(device, SIM_ROPE, x);
}

// ---- opening
// -----------------------------------------------------------------------------------------------------

static const struct lode_device_ops sim_ops = {
    .close = sim_close,
    .alloc = sim_alloc,
    .free = sim_free,
    .upload = sim_upload,
    .download = sim_download,
    .sync = sim_sync,
    .reserve = sim_reserve,
    .scratch_bytes = sim_scratch_bytes,
    .pass = sim_pass,
    .arrange = sim_arrange,
    .embed = sim_embed,
    .matmul = sim_matmul,
    .matmul_geglu = sim_matmul_geglu,
    .experts = sim_experts,
    .experts_combine = sim_experts_combine,
    .router = sim_router,
    .rms_norm = sim_rms_norm,
    .add_rms_norm = sim_add_rms_norm,
    .add = sim_add,
    .geglu = sim_geglu,
    .scale = sim_scale,
    .softcap = sim_softcap,
    .rope = sim_rope,
    .kv_store = sim_kv_store,
    .attention = sim_attention,
};

int sim_device_open(struct lode_device **out, const struct sim_device_options *options,
                    struct lode_error *error)
{
    *out = NULL;
    if (!options->clock || !options->seconds)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a simulated device needs a clock, and somebody who says what operations take");
    struct sim_device *sim = calloc(1, sizeof *sim);
    if (!sim)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a simulated device");
    sim->base = (struct lode_device){.ops = &sim_ops, .host_memory = true};
    snprintf(sim->base.name, sizeof sim->base.name, "simulated");
    sim->options = *options;
    *out = &sim->base;
    return LODE_OK;
}

void sim_device_count(const struct lode_device *device, struct sim_device_figures *out)
{
    *out = ((const struct sim_device *)device)->figures;
}
