// The CPU device: opening it, its memory, and the table of its operations.
#include "backends/cpu/cpu_device.h"

#include "backends/cpu/cpu.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/tasks.h"
#include "backends/cpu/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void cpu_close(struct lode_device *device)
{
    if (!device)
        return;
    struct cpu_device *cpu = cpu_device_of(device);
    cpu_matmul_release(&cpu->matmul_scratch);
    cpu_vector_release(&cpu->vector_scratch);
    cpu_workers_close(cpu);
    cpu_team_close(cpu->team);
    free(cpu);
}

static int cpu_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    return cpu_memory_alloc_on(out, bytes, &cpu_device_of(device)->places.nodes, error);
}

static void cpu_free(struct lode_device *device, void *memory, size_t bytes)
{
    (void)device;
    cpu_memory_free(memory, bytes);
}

static int cpu_copy(struct lode_device *device, void *to, const void *from, size_t bytes,
                    struct lode_error *error)
{
    (void)device;
    (void)error;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return LODE_OK;
}

// Operations are done when they return.
static int cpu_sync(struct lode_device *device, struct lode_error *error)
{
    (void)device;
    (void)error;
    return LODE_OK;
}

static void raise_to(uint32_t *limit, uint32_t value)
{
    if (value > *limit)
        *limit = value;
}

static int cpu_reserve(struct lode_device *device, const struct lode_limits *limits, struct lode_error *error)
{
    struct cpu_device *cpu = cpu_device_of(device);
    struct lode_limits raised = cpu->limits;
    raise_to(&raised.rows, limits->rows);
    raise_to(&raised.cols, limits->cols);
    raise_to(&raised.ffn_width, limits->ffn_width);
    raise_to(&raised.n_heads, limits->n_heads);
    raise_to(&raised.head_size, limits->head_size);
    raise_to(&raised.expert_rows, limits->expert_rows);

    int code =
        cpu_matmul_reserve(&cpu->matmul_scratch, cpu->threads, cpu->matmul->workspace_bytes, &raised, error);
    if (code == LODE_OK)
        code = cpu_vector_reserve(&cpu->vector_scratch, cpu->threads, &raised, error);
    if (code == LODE_OK)
        cpu->limits = raised;
    return code;
}

static size_t cpu_scratch_bytes(const struct lode_device *device)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    return cpu_matmul_scratch_bytes(&cpu->matmul_scratch) + cpu_vector_scratch_bytes(&cpu->vector_scratch);
}

static void cpu_pass(struct lode_device *device, void (*body)(void *user), void *user)
{
    struct cpu_device *cpu = cpu_device_of(device);
    cpu_team_pass(cpu->team, body, user);
}

static const struct lode_device_ops cpu_ops = {
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .reserve = cpu_reserve,
    .scratch_bytes = cpu_scratch_bytes,
    .pass = cpu_pass,
    .arrange = cpu_arrange,
    .restore = cpu_restore,
    .embed = cpu_embed,
    .matmul = cpu_timed_matmul,
    .matmul_geglu = cpu_timed_matmul_geglu,
    .experts = cpu_timed_experts,
    .experts_combine = cpu_experts_combine,
    .router = cpu_router,
    .rms_norm = cpu_rms_norm,
    .add_rms_norm = cpu_add_rms_norm,
    .add = cpu_add,
    .geglu = cpu_geglu,
    .scale = cpu_scale,
    .softcap = cpu_softcap,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_timed_attention,
};

int cpu_open(struct lode_device **out, const struct cpu_options *options, struct lode_error *error)
{
    *out = NULL;
    enum cpu_isa isa;
    uint32_t threads;
    int code = cpu_isa_choose(&isa, options ? options->isa : NULL, error);
    if (code == LODE_OK)
        code = cpu_threads_choose(&threads, options ? options->threads : 0, error);
    if (code != LODE_OK)
        return code;

    struct cpu_device *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the CPU device");
    cpu->base.ops = &cpu_ops;
    cpu->base.host_memory = true;
    snprintf(cpu->base.name, sizeof cpu->base.name, "cpu");
    cpu->threads = threads;
    cpu->isa = isa;
    cpu->vector = cpu_vector_kernels_for(isa);
    cpu->matmul = cpu_matmul_kernels_for(isa);
    if (!cpu->vector || !cpu->matmul) {
        free(cpu);
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "this build has no kernels for the instruction set \"%s\"", cpu_isa_name(isa));
    }
    code = cpu_team_open(&cpu->team, threads, error);
    if (code == LODE_OK)
        code = cpu_workers_open(cpu, error);
    if (code != LODE_OK) {
        cpu_close(&cpu->base);
        return code;
    }
    cpu_threads_bind(&cpu->places, threads);
    cpu_team_place(cpu->team, &cpu->places);
    *out = &cpu->base;
    return LODE_OK;
}

uint32_t cpu_threads(const struct lode_device *device)
{
    return ((const struct cpu_device *)device)->threads;
}

const char *cpu_isa(const struct lode_device *device)
{
    return cpu_isa_name(((const struct cpu_device *)device)->isa);
}
