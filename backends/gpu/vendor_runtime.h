// runtime.h over a vendor's runtime. CUDA's and HIP's have the same functions under two prefixes, so that
// this is written once: GPU_API(Malloc) is cudaMalloc or hipMalloc. Included by backends/cuda/runtime.cc and
// backends/hip/runtime.cc, which define GPU_API, vendor_status and vendor_properties before, the three names
// at the end of runtime.h, and the functions that are declared below.
//
// Faults: a failed launch stays in the runtime's "last error" until somebody asks, and a failed kernel comes
// back from every later call. Both are noted in the context when they are seen; "not ready", which asking an
// event leaves behind, is neither.
#ifndef LODE_GPU_VENDOR_RUNTIME_H
#define LODE_GPU_VENDOR_RUNTIME_H

#include "backends/gpu/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gpu_context {
    int device;
    char name[16];
    uint32_t features, multiprocessors;
    struct lode_error fault; // code LODE_OK: none
};

#define VENDOR_OK GPU_API(Success)

// "12" where x is defined as 12.
#define VENDOR_TEXT_OF(x) #x
#define VENDOR_TEXT(x) VENDOR_TEXT_OF(x)

// ---- of the vendor's file

// Fails with the reason why the runtime does not start, or has no device.
static int explain(vendor_status status, struct lode_error *error);

// What the two ask for in ways of their own: architecture, free_bytes (0: only the runtime knows),
// has_display, is_built. The rest of *out is written.
static void describe_own(struct lode_gpu *out, uint32_t index, const vendor_properties *properties);

// GPU_HAS_* of the code that the GPU runs.
static uint32_t features_of(const struct lode_gpu *gpu);

// ---- faults

static const char *vendor_text(vendor_status status)
{
    return GPU_API(GetErrorString)(status);
}

static void note_status(struct gpu_context *context, vendor_status status)
{
    if (status == VENDOR_OK || status == GPU_API(ErrorNotReady) || context->fault.code != LODE_OK)
        return;
    lode_fail(&context->fault, LODE_ERR_UNSUPPORTED, "%s: the device failed: %s", context->name,
              vendor_text(status));
}

static void note_last(struct gpu_context *context)
{
    note_status(context, GPU_API(GetLastError)());
}

// Of a call that does not fail but by the device's fault, or by arguments that we have got wrong.
static int finish(struct gpu_context *context, vendor_status status, const char *what,
                  struct lode_error *error)
{
    if (status == VENDOR_OK)
        return LODE_OK;
    note_last(context);
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s: %s: %s", context->name, what, vendor_text(status));
}

// Of an allocation: there being too little is no fault.
static int finish_alloc(struct gpu_context *context, vendor_status status, size_t bytes, const char *of,
                        struct lode_error *error)
{
    if (status == VENDOR_OK)
        return LODE_OK;
    const vendor_status last = GPU_API(GetLastError)();
    if (status != GPU_API(ErrorMemoryAllocation))
        note_status(context, last);
    return lode_fail(error, LODE_ERR_MEMORY, "%s: no %zu bytes of %s: %s", context->name, bytes, of,
                     vendor_text(status));
}

int gpu_context_fault(struct gpu_context *context, struct lode_error *error)
{
    note_last(context);
    if (context->fault.code != LODE_OK && error)
        *error = context->fault;
    return context->fault.code;
}

void gpu_context_close(struct gpu_context *context)
{
    free(context); // the runtime's own context is shared by all who opened this device
}

void gpu_context_select(struct gpu_context *context)
{
    int current = -1;
    if (GPU_API(GetDevice)(&current) != VENDOR_OK || current != context->device)
        note_status(context, GPU_API(SetDevice)(context->device));
}

uint32_t gpu_context_features(const struct gpu_context *context)
{
    return context->features;
}

uint32_t gpu_context_multiprocessors(const struct gpu_context *context)
{
    return context->multiprocessors;
}

// ---- memory

int gpu_memory_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error)
{
    gpu_context_select(context);
    note_last(context);
    *out = NULL;
    return finish_alloc(context, GPU_API(Malloc)(out, bytes), bytes, "its memory", error);
}

void gpu_memory_free(struct gpu_context *context, void *memory)
{
    gpu_context_select(context);
    note_status(context, GPU_API(Free)(memory));
}

int gpu_memory_count(struct gpu_context *context, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
                     struct lode_error *error)
{
    size_t free_bytes = 0, total_bytes = 0;
    gpu_context_select(context);
    const vendor_status status = GPU_API(MemGetInfo)(&free_bytes, &total_bytes);
    *out_free_bytes = free_bytes;
    *out_total_bytes = total_bytes;
    return finish(context, status, "cannot ask for its memory", error);
}

int gpu_pinned_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error)
{
    gpu_context_select(context);
    note_last(context);
    *out = NULL;
    return finish_alloc(context, GPU_API(HostAlloc)(out, bytes, GPU_API(HostAllocPortable)), bytes,
                        "pinned memory of the host", error);
}

void gpu_pinned_free(struct gpu_context *context, void *memory)
{
    gpu_context_select(context);
    note_status(context, GPU_API(FreeHost)(memory));
}

// ---- streams

int gpu_stream_open(struct gpu_context *context, gpu_stream *out, struct lode_error *error)
{
    gpu_context_select(context);
    return finish(context, GPU_API(StreamCreateWithFlags)(out, GPU_API(StreamNonBlocking)),
                  "cannot make a stream", error);
}

void gpu_stream_close(struct gpu_context *context, gpu_stream stream)
{
    gpu_context_select(context);
    note_status(context, GPU_API(StreamDestroy)(stream));
}

int gpu_stream_wait(struct gpu_context *context, gpu_stream stream, struct lode_error *error)
{
    gpu_context_select(context);
    const vendor_status status = GPU_API(StreamSynchronize)(stream);
    note_status(context, status);
    return finish(context, status, "an operation failed", error);
}

int gpu_stream_copy(struct gpu_context *context, gpu_stream stream, void *to, const void *from, size_t bytes,
                    enum gpu_copy_kind kind, struct lode_error *error)
{
    gpu_context_select(context);
    const vendor_status status = GPU_API(MemcpyAsync)(to, from, bytes,
                                                      kind == GPU_COPY_IN    ? GPU_API(MemcpyHostToDevice)
                                                      : kind == GPU_COPY_OUT ? GPU_API(MemcpyDeviceToHost)
                                                                             : GPU_API(MemcpyDeviceToDevice),
                                                      stream);
    return finish(context, status, "a copy cannot be started", error);
}

int gpu_stream_zero(struct gpu_context *context, gpu_stream stream, void *memory, size_t bytes,
                    struct lode_error *error)
{
    gpu_context_select(context);
    return finish(context, GPU_API(MemsetAsync)(memory, 0, bytes, stream), "memory cannot be zeroed", error);
}

// ---- events

int gpu_event_open(struct gpu_context *context, gpu_event *out, bool timed, struct lode_error *error)
{
    gpu_context_select(context);
    return finish(
        context,
        GPU_API(EventCreateWithFlags)(out, timed ? GPU_API(EventDefault) : GPU_API(EventDisableTiming)),
        "cannot make an event", error);
}

void gpu_event_close(struct gpu_context *context, gpu_event event)
{
    gpu_context_select(context);
    note_status(context, GPU_API(EventDestroy)(event));
}

int gpu_event_record(struct gpu_context *context, gpu_event event, gpu_stream stream,
                     struct lode_error *error)
{
    gpu_context_select(context);
    return finish(context, GPU_API(EventRecord)(event, stream), "an event cannot be recorded", error);
}

int gpu_event_order(struct gpu_context *context, gpu_stream stream, gpu_event event, struct lode_error *error)
{
    gpu_context_select(context);
    return finish(context, GPU_API(StreamWaitEvent)(stream, event, 0), "a stream cannot wait", error);
}

int gpu_event_wait(struct gpu_context *context, gpu_event event, struct lode_error *error)
{
    gpu_context_select(context);
    const vendor_status status = GPU_API(EventSynchronize)(event);
    note_status(context, status);
    return finish(context, status, "an operation failed", error);
}

// After a fault everything counts as done, so that nobody waits for what will not come.
bool gpu_event_done(struct gpu_context *context, gpu_event event)
{
    note_last(context); // asking overwrites it
    const vendor_status status = GPU_API(EventQuery)(event);
    note_last(context);
    note_status(context, status);
    return status != GPU_API(ErrorNotReady);
}

float gpu_event_between_ms(struct gpu_context *context, gpu_event first, gpu_event second)
{
    float ms = 0;
    const vendor_status status = GPU_API(EventElapsedTime)(&ms, first, second);
    if (status != VENDOR_OK)
        note_last(context);
    return status == VENDOR_OK ? ms : 0;
}

// ---- what there is

int gpu_runtime_count(uint32_t *out, struct lode_error *error)
{
    int n = 0;
    *out = 0;
    const vendor_status status = GPU_API(GetDeviceCount)(&n);
    if (status == VENDOR_OK && n <= 0)
        return explain(GPU_API(ErrorNoDevice), error);
    if (status != VENDOR_OK)
        return explain(status, error);
    *out = static_cast<uint32_t>(n);
    return LODE_OK;
}

// Asking opens the GPU, which takes memory of it.
static uint64_t free_bytes_by_runtime(uint32_t index)
{
    int previous = 0;
    size_t free_bytes = 0, total_bytes = 0;
    const bool had_one = GPU_API(GetDevice)(&previous) == VENDOR_OK;
    if (GPU_API(SetDevice)(static_cast<int>(index)) != VENDOR_OK ||
        GPU_API(MemGetInfo)(&free_bytes, &total_bytes) != VENDOR_OK)
        free_bytes = 0;
    if (had_one)
        (void)GPU_API(SetDevice)(previous);
    (void)GPU_API(GetLastError)();
    return free_bytes;
}

int gpu_runtime_describe(struct lode_gpu *out, uint32_t index, struct lode_error *error)
{
    *out = {};
    uint32_t n;
    const int code = gpu_runtime_count(&n, error);
    if (code != LODE_OK)
        return code;
    if (index >= n)
        return lode_fail(error, LODE_ERR_ARGUMENT, "there is no %s%u; there are %u", gpu_runtime_name, index,
                         n);
    vendor_properties properties = {};
    const vendor_status status = GPU_API(GetDeviceProperties)(&properties, static_cast<int>(index));
    if (status != VENDOR_OK)
        return explain(status, error);

    int driver = 0, runtime = 0;
    (void)GPU_API(DriverGetVersion)(&driver);
    (void)GPU_API(RuntimeGetVersion)(&runtime);
    snprintf(out->name, sizeof out->name, "%.*s", static_cast<int>(sizeof out->name - 1), properties.name);
    snprintf(out->pci, sizeof out->pci, "%04x:%02x:%02x.0", properties.pciDomainID & 0xffff,
             properties.pciBusID & 0xff, properties.pciDeviceID & 0xff);
    out->memory_bytes = properties.totalGlobalMem;
    out->multiprocessors = static_cast<uint32_t>(properties.multiProcessorCount);
    out->driver = static_cast<uint32_t>(driver);
    out->runtime = static_cast<uint32_t>(runtime);
    out->shares_memory = properties.integrated;
    describe_own(out, index, &properties);
    if (!out->free_bytes)
        out->free_bytes = free_bytes_by_runtime(index);
    return LODE_OK;
}

// ---- a device that is opened

static struct gpu_context *make_context(uint32_t index)
{
    struct gpu_context *context = static_cast<struct gpu_context *>(calloc(1, sizeof *context));
    if (!context)
        return NULL;
    context->device = static_cast<int>(index);
    snprintf(context->name, sizeof context->name, "%s%u", gpu_runtime_name, index);
    return context;
}

int gpu_context_open(struct gpu_context **out, uint32_t index, const struct lode_gpu_options *options,
                     struct lode_error *error)
{
    (void)options; // all of them are of the device that executes on the CPU
    *out = NULL;
    struct lode_gpu gpu;
    const int code = gpu_runtime_describe(&gpu, index, error);
    if (code != LODE_OK)
        return code;
    if (!gpu.is_built)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s%u is %s, and this build has kernels for %s",
                         gpu_runtime_name, index, gpu.architecture, gpu_runtime_architectures);
    struct gpu_context *context = make_context(index);
    if (!context)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the device %s%u", gpu_runtime_name, index);
    context->multiprocessors = gpu.multiprocessors;
    context->features = features_of(&gpu);
    // The first call that needs the device's own context makes it, which is where most of what can fail does.
    const vendor_status status = GPU_API(SetDevice)(context->device);
    const vendor_status started = status == VENDOR_OK ? GPU_API(Free)(NULL) : status;
    if (started != VENDOR_OK) {
        lode_fail(error, LODE_ERR_UNSUPPORTED, "%s cannot be started: %s", context->name,
                  vendor_text(started));
        (void)GPU_API(GetLastError)();
        free(context);
        return error ? error->code : LODE_ERR_UNSUPPORTED;
    }
    *out = context;
    return LODE_OK;
}

#endif
