// The runtime of the simulated devices simt0 and simt1: backends/gpu/runtime.h over memory, streams and
// events of our own. A stream is worked by a thread; kernels of two streams run at the same time, as on a GPU
// they may.
#include "backends/simt/stream.h"
#include "backends/simt/trap.h"

#include <stdio.h>
#include <stdlib.h>

#define DEVICES 2
#define DEFAULT_MEMORY_BYTES (UINT64_C(1) << 30)
#define MULTIPROCESSORS 4

extern const char gpu_runtime_name[] = "simt";
#ifdef __clang__
extern const char gpu_runtime_toolkit[] = "clang " __clang_version__;
#else
extern const char gpu_runtime_toolkit[] = "gcc " __VERSION__;
#endif
extern const char gpu_runtime_architectures[] = "simt";

// What a kernel did that a GPU would stop at has no code of its own.
#define FAULT LODE_ERR_UNSUPPORTED

int gpu_runtime_count(uint32_t *out, struct lode_error *error)
{
    (void)error;
    *out = DEVICES;
    return 0;
}

static int check_index(uint32_t index, struct lode_error *error)
{
    if (index < DEVICES)
        return 0;
    return lode_fail(error, LODE_ERR_ARGUMENT, "there is no simt%u: simt0 to simt%d", index, DEVICES - 1);
}

int gpu_runtime_describe(struct lode_gpu *out, uint32_t index, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    const int failed = check_index(index, error);
    if (failed)
        return failed;
    snprintf(out->name, sizeof out->name, "GPU kernels executed on the CPU (its time is not a GPU's)");
    snprintf(out->architecture, sizeof out->architecture, "simt");
    out->memory_bytes = out->free_bytes = DEFAULT_MEMORY_BYTES;
    out->multiprocessors = MULTIPROCESSORS;
    out->is_built = true;
    return 0;
}

// ---- contexts

void simt_context_fail(struct gpu_context *context, const char *text)
{
    pthread_mutex_lock(&context->fault_lock);
    if (!context->faulted) {
        lode_fail(&context->fault, FAULT, "%s: %s", context->name, text);
        __atomic_store_n(&context->faulted, true, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&context->fault_lock);
}

bool simt_context_faulted(const struct gpu_context *context)
{
    return __atomic_load_n(&context->faulted, __ATOMIC_ACQUIRE);
}

int gpu_context_fault(struct gpu_context *context, struct lode_error *error)
{
    if (!simt_context_faulted(context))
        return 0;
    return lode_fail(error, context->fault.code, "%s", context->fault.text);
}

int gpu_context_open(struct gpu_context **out, uint32_t index, const struct lode_gpu_options *options,
                     struct lode_error *error)
{
    *out = NULL;
    const int failed = check_index(index, error);
    if (failed)
        return failed;
    const struct lode_gpu_options defaults = {};
    if (!options)
        options = &defaults;
    if (!(options->link_gbps >= 0 && options->link_gbps <= 1e6 && options->link_latency_us >= 0 &&
          options->link_latency_us <= 1e6))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "simt%u: a link has 0 to 1000000 GB/s and 0 to 1000000 microseconds", index);
    struct gpu_context *context = static_cast<struct gpu_context *>(calloc(1, sizeof *context));
    if (!context)
        return lode_fail(error, LODE_ERR_MEMORY, "simt%u: no memory for the device", index);
    snprintf(context->name, sizeof context->name, "simt%u", index);
    context->index = index;
    simt_memory_open(&context->memory, context->name,
                     options->memory_bytes ? options->memory_bytes : DEFAULT_MEMORY_BYTES);
    context->link.gbps = options->link_gbps;
    context->link.latency_ns = static_cast<uint64_t>(options->link_latency_us * 1e3);
    pthread_mutex_init(&context->link.lock, NULL);
    pthread_mutex_init(&context->streams_lock, NULL);
    pthread_mutex_init(&context->fault_lock, NULL);
    trap_open();
    *out = context;
    return 0;
}

void gpu_context_close(struct gpu_context *context)
{
    if (!context)
        return;
    while (context->streams)
        simt_stream_close(context->streams);
    trap_close();
    simt_memory_close(&context->memory);
    pthread_mutex_destroy(&context->link.lock);
    pthread_mutex_destroy(&context->streams_lock);
    pthread_mutex_destroy(&context->fault_lock);
    free(context);
}

void gpu_context_select(struct gpu_context *context)
{
    (void)context; // a stream knows its own
}

uint32_t gpu_context_features(const struct gpu_context *context)
{
    (void)context;
    return GPU_HAS_DOT4 | GPU_HAS_MMA_S8;
}

uint32_t gpu_context_multiprocessors(const struct gpu_context *context)
{
    (void)context;
    return MULTIPROCESSORS;
}

// ---- memory

int gpu_memory_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error)
{
    return simt_memory_alloc(&context->memory, out, bytes, false, error);
}

// As a GPU's runtime does, when the device is done with everything.
static void free_memory(struct gpu_context *context, void *memory)
{
    pthread_mutex_lock(&context->streams_lock);
    for (struct simt_stream *stream = context->streams; stream; stream = stream->next)
        simt_stream_wait(stream);
    pthread_mutex_unlock(&context->streams_lock);
    char text[256];
    if (!simt_memory_free(&context->memory, memory, text, sizeof text))
        simt_context_fail(context, text);
}

void gpu_memory_free(struct gpu_context *context, void *memory)
{
    if (memory)
        free_memory(context, memory);
}

int gpu_memory_count(struct gpu_context *context, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
                     struct lode_error *error)
{
    (void)error;
    pthread_mutex_lock(&context->memory.lock);
    *out_free_bytes = context->memory.total_bytes - context->memory.used_bytes;
    *out_total_bytes = context->memory.total_bytes;
    pthread_mutex_unlock(&context->memory.lock);
    return 0;
}

int gpu_pinned_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error)
{
    return simt_memory_alloc(&context->memory, out, bytes, true, error);
}

void gpu_pinned_free(struct gpu_context *context, void *memory)
{
    if (memory)
        free_memory(context, memory);
}

// ---- streams

int gpu_stream_open(struct gpu_context *context, gpu_stream *out, struct lode_error *error)
{
    return simt_stream_open(context, out, error);
}

void gpu_stream_close(struct gpu_context *context, gpu_stream stream)
{
    (void)context;
    if (stream)
        simt_stream_close(stream);
}

int gpu_stream_wait(struct gpu_context *context, gpu_stream stream, struct lode_error *error)
{
    simt_stream_wait(stream);
    return gpu_context_fault(context, error);
}

static int check_range(struct gpu_context *context, const void *at, size_t bytes, const char *what,
                       struct lode_error *error)
{
    if (simt_memory_has(&context->memory, at, bytes, true))
        return 0;
    char near[128];
    simt_memory_near(&context->memory, reinterpret_cast<uintptr_t>(at), near, sizeof near);
    return lode_fail(error, LODE_ERR_ARGUMENT, "%s: %s %zu bytes is not within its memory (%s)",
                     context->name, what, bytes, near);
}

int gpu_stream_copy(struct gpu_context *context, gpu_stream stream, void *to, const void *from, size_t bytes,
                    enum gpu_copy_kind kind, struct lode_error *error)
{
    int failed = gpu_context_fault(context, error);
    if (!failed && kind != GPU_COPY_OUT)
        failed = check_range(context, to, bytes, "a copy to", error);
    if (!failed && kind != GPU_COPY_IN)
        failed = check_range(context, from, bytes, "a copy from", error);
    const void *host = kind == GPU_COPY_IN ? from : kind == GPU_COPY_OUT ? to : NULL;
    if (!failed && host && simt_memory_has(&context->memory, host, 0, true))
        failed = lode_fail(error, LODE_ERR_ARGUMENT, "%s: the host's side of a copy is the device's memory",
                           context->name);
    if (failed || !bytes)
        return failed;
    struct simt_command *command = simt_stream_take(stream, SIMT_COPY);
    command->to = to;
    command->from = from;
    command->bytes = bytes;
    command->copy = kind;
    simt_stream_give(stream);
    return 0;
}

int gpu_stream_zero(struct gpu_context *context, gpu_stream stream, void *memory, size_t bytes,
                    struct lode_error *error)
{
    int failed = gpu_context_fault(context, error);
    if (!failed)
        failed = check_range(context, memory, bytes, "zeroing of", error);
    if (failed || !bytes)
        return failed;
    struct simt_command *command = simt_stream_take(stream, SIMT_ZERO);
    command->to = memory;
    command->bytes = bytes;
    simt_stream_give(stream);
    return 0;
}

void simt_launch_run(gpu_stream stream, const char *name, void (*run)(const void *arguments), dim3 grid,
                     dim3 block, const void *arguments, size_t bytes, const void *const *pointers,
                     uint32_t n_pointers)
{
    struct gpu_context *context = stream->context;
    if (simt_context_faulted(context))
        return;
    char text[512];
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (!threads || threads > SIMT_THREADS || threads % 32 || block.x > 1024 || block.y > 1024 ||
        block.z > 64) {
        snprintf(text, sizeof text, "kernel %s cannot be launched with blocks of (%u, %u, %u) threads", name,
                 block.x, block.y, block.z);
        simt_context_fail(context, text);
        return;
    }
    if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX) {
        snprintf(text, sizeof text, "kernel %s cannot be launched with a grid of (%u, %u, %u) blocks", name,
                 grid.x, grid.y, grid.z);
        simt_context_fail(context, text);
        return;
    }
    for (uint32_t i = 0; i < n_pointers; i++)
        if (pointers[i] && !simt_memory_has(&context->memory, pointers[i], 0, false)) {
            snprintf(text, sizeof text, "kernel %s: its pointer %u, %p, is not to memory of the device", name,
                     i + 1, pointers[i]);
            simt_context_fail(context, text);
            return;
        }
    struct simt_command *command = simt_stream_take(stream, SIMT_LAUNCH);
    command->name = name;
    command->run = run;
    command->grid = grid;
    command->block = block;
    memcpy(command->arguments, arguments, bytes);
    simt_stream_give(stream);
}

// ---- events

int gpu_event_open(struct gpu_context *context, gpu_event *out, bool timed, struct lode_error *error)
{
    *out = simt_event_open(timed);
    return *out ? 0 : lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for an event", context->name);
}

void gpu_event_close(struct gpu_context *context, gpu_event event)
{
    (void)context;
    if (event)
        simt_event_release(event);
}

int gpu_event_record(struct gpu_context *context, gpu_event event, gpu_stream stream,
                     struct lode_error *error)
{
    (void)context, (void)error;
    struct simt_command *command = simt_stream_take(stream, SIMT_RECORD);
    pthread_mutex_lock(&event->lock);
    event->owners++;
    command->record = ++event->recorded;
    pthread_mutex_unlock(&event->lock);
    command->event = event;
    simt_stream_give(stream);
    return 0;
}

int gpu_event_order(struct gpu_context *context, gpu_stream stream, gpu_event event, struct lode_error *error)
{
    (void)context, (void)error;
    pthread_mutex_lock(&event->lock);
    const uint64_t record = event->recorded;
    const bool done = event->done >= record;
    event->owners += !done;
    pthread_mutex_unlock(&event->lock);
    if (done)
        return 0;
    struct simt_command *command = simt_stream_take(stream, SIMT_ORDER);
    command->event = event;
    command->record = record;
    simt_stream_give(stream);
    return 0;
}

int gpu_event_wait(struct gpu_context *context, gpu_event event, struct lode_error *error)
{
    pthread_mutex_lock(&event->lock);
    const uint64_t record = event->recorded;
    pthread_mutex_unlock(&event->lock);
    simt_event_wait_for(event, record);
    return gpu_context_fault(context, error);
}

bool gpu_event_done(struct gpu_context *context, gpu_event event)
{
    (void)context;
    pthread_mutex_lock(&event->lock);
    const bool done = event->done >= event->recorded;
    pthread_mutex_unlock(&event->lock);
    return done;
}

float gpu_event_between_ms(struct gpu_context *context, gpu_event first, gpu_event second)
{
    (void)context;
    pthread_mutex_lock(&first->lock);
    const uint64_t first_ns = first->time_ns;
    pthread_mutex_unlock(&first->lock);
    pthread_mutex_lock(&second->lock);
    const uint64_t second_ns = second->time_ns;
    pthread_mutex_unlock(&second->lock);
    return static_cast<float>(static_cast<double>(static_cast<int64_t>(second_ns - first_ns)) * 1e-6);
}
