// Memory of the device, and the copies between it and the host that are in the order of the operations.
//
// The host's memory is mostly not pinned, and a copy from such memory would make the driver wait for all that
// is before it. So such copies go through a ring of pinned segments: an upload returns when its bytes are in
// the ring, a download overlaps the link with the copying out of the ring.
#include "backends/gpu/gpu_device.h"

#include <string.h>

// ---- the ring of pinned segments

int gpu_staging_open(struct gpu_device *gpu, struct lode_error *error)
{
    struct gpu_staging *staging = &gpu->staging;
    void *memory = nullptr;
    int code =
        gpu_pinned_alloc(gpu->context, &memory, GPU_STAGING_SEGMENTS * GPU_STAGING_SEGMENT_BYTES, error);
    staging->memory = static_cast<char *>(memory);
    for (uint32_t i = 0; i < GPU_STAGING_SEGMENTS && code == LODE_OK; i++)
        code = gpu_event_open(gpu->context, &staging->passed[i], false, error);
    return code;
}

void gpu_staging_close(struct gpu_device *gpu)
{
    struct gpu_staging *staging = &gpu->staging;
    for (uint32_t i = 0; i < GPU_STAGING_SEGMENTS; i++)
        if (staging->passed[i])
            gpu_event_close(gpu->context, staging->passed[i]);
    if (staging->memory)
        gpu_pinned_free(gpu->context, staging->memory);
}

static int wait_for_segment(struct gpu_device *gpu, uint32_t segment, struct lode_error *error)
{
    struct gpu_staging *staging = &gpu->staging;
    if (!staging->in_use[segment])
        return LODE_OK;
    const int code = gpu_event_wait(gpu->context, staging->passed[segment], error);
    if (code == LODE_OK)
        staging->in_use[segment] = false;
    return code;
}

// Leaves the current segment to the stream and waits until the next one is free.
static int next_segment(struct gpu_device *gpu, struct lode_error *error)
{
    struct gpu_staging *staging = &gpu->staging;
    if (staging->used > 0) {
        const int code =
            gpu_event_record(gpu->context, staging->passed[staging->current], gpu->queue.stream, error);
        if (code != LODE_OK)
            return code;
        staging->in_use[staging->current] = true;
        staging->current = (staging->current + 1) % GPU_STAGING_SEGMENTS;
        staging->used = 0;
    }
    return wait_for_segment(gpu, staging->current, error);
}

static char *segment_memory(const struct gpu_staging *staging, uint32_t segment)
{
    return staging->memory + segment * GPU_STAGING_SEGMENT_BYTES;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

int gpu_send(struct gpu_device *gpu, void *to_device, const void *from_host, size_t bytes,
             struct lode_error *error)
{
    struct gpu_staging *staging = &gpu->staging;
    char *to = static_cast<char *>(to_device);
    const char *from = static_cast<const char *>(from_host);
    while (bytes > 0) {
        // What fits nowhere whole is cut at segments; what is small is kept in one piece.
        const size_t wanted = least(bytes, GPU_STAGING_SEGMENT_BYTES);
        if (wanted > GPU_STAGING_SEGMENT_BYTES - staging->used) {
            const int code = next_segment(gpu, error);
            if (code != LODE_OK)
                return code;
        }
        char *piece = segment_memory(staging, staging->current) + staging->used;
        memcpy(piece, from, wanted);
        const int code =
            gpu_stream_copy(gpu->context, gpu->queue.stream, to, piece, wanted, GPU_COPY_IN, error);
        if (code != LODE_OK)
            return code;
        staging->used = least((staging->used + wanted + 63) / 64 * 64, GPU_STAGING_SEGMENT_BYTES);
        to += wanted;
        from += wanted;
        bytes -= wanted;
    }
    return LODE_OK;
}

// Two segments at a time: while one is copied out of the ring the link fills the other.
static int receive(struct gpu_device *gpu, void *to_host, const void *from_device, size_t bytes,
                   struct lode_error *error)
{
    struct gpu_staging *staging = &gpu->staging;
    char *to = static_cast<char *>(to_host);
    const char *from = static_cast<const char *>(from_device);
    uint32_t segments[2];
    size_t asked = 0, done = 0;
    for (uint32_t n = 0; done < bytes;) {
        while (asked < bytes && asked - done <= GPU_STAGING_SEGMENT_BYTES) {
            int code = next_segment(gpu, error);
            const size_t piece = least(bytes - asked, GPU_STAGING_SEGMENT_BYTES);
            const uint32_t segment = staging->current;
            if (code == LODE_OK)
                code = gpu_stream_copy(gpu->context, gpu->queue.stream, segment_memory(staging, segment),
                                       from + asked, piece, GPU_COPY_OUT, error);
            staging->used = GPU_STAGING_SEGMENT_BYTES;
            if (code == LODE_OK)
                code = next_segment(gpu, error);
            if (code != LODE_OK)
                return code;
            segments[asked / GPU_STAGING_SEGMENT_BYTES % 2] = segment;
            asked += piece;
        }
        const uint32_t segment = segments[n++ % 2];
        const int code = wait_for_segment(gpu, segment, error);
        if (code != LODE_OK)
            return code;
        const size_t piece = least(bytes - done, GPU_STAGING_SEGMENT_BYTES);
        memcpy(to + done, segment_memory(staging, segment), piece);
        done += piece;
    }
    return LODE_OK;
}

// ---- operations

// Both streams are idle afterwards: nobody uses the memory that comes and goes.
static int wait_for_all(struct gpu_device *gpu, struct lode_error *error)
{
    int code = gpu_stream_wait(gpu->context, gpu->queue.stream, error);
    if (code == LODE_OK)
        code = gpu_stream_wait(gpu->context, gpu->copies.stream, error);
    return code;
}

int gpu_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    *out = nullptr;
    if (gpu_has_fault(gpu))
        return gpu_tell_fault(gpu, error);
    gpu_context_select(gpu->context);
    size_t with_slack;
    if (__builtin_add_overflow(bytes, static_cast<size_t>(LODE_DEVICE_SLACK), &with_slack))
        return lode_fail(error, LODE_ERR_MEMORY, "%s: cannot allocate %zu bytes", device->name, bytes);
    int code = gpu_memory_alloc(gpu->context, out, with_slack, error);
    if (code != LODE_OK)
        return code;
    // Copies beside the operations must find it zeroed.
    code = gpu_stream_zero(gpu->context, gpu->queue.stream, *out, with_slack, error);
    if (code == LODE_OK)
        code = gpu_stream_wait(gpu->context, gpu->queue.stream, error);
    if (code != LODE_OK) {
        gpu_memory_free(gpu->context, *out);
        *out = nullptr;
        return code;
    }
    device->allocated_bytes += with_slack;
    return LODE_OK;
}

void gpu_free(struct lode_device *device, void *memory, size_t bytes)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (!memory)
        return;
    device->allocated_bytes -= bytes + LODE_DEVICE_SLACK;
    gpu_context_select(gpu->context);
    struct lode_error error;
    if (wait_for_all(gpu, &error) != LODE_OK)
        gpu_set_fault(gpu, &error);
    gpu_memory_free(gpu->context, memory);
}

int gpu_upload(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
               struct lode_error *error)
{
    const struct gpu_operation op(device, "upload", bytes);
    struct gpu_device *gpu = gpu_device_of(device);
    struct lode_error failure;
    if (op.gpu && gpu_send(gpu, to_device, from_host, bytes, &failure) != LODE_OK)
        gpu_set_fault(gpu, &failure);
    return gpu_has_fault(gpu) ? gpu_tell_fault(gpu, error) : LODE_OK;
}

int gpu_download(struct lode_device *device, void *to_host, const void *from_device, size_t bytes,
                 struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    {
        const struct gpu_operation op(device, "download", bytes);
        struct lode_error failure;
        if (op.gpu && receive(gpu, to_host, from_device, bytes, &failure) != LODE_OK)
            gpu_set_fault(gpu, &failure);
    }
    if (bytes == 0)
        return device->ops->sync(device, error);
    gpu_timed_tell(gpu);
    return gpu_tell_fault(gpu, error);
}

int gpu_memory(struct lode_device *device, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
               struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    gpu_context_select(gpu->context);
    return gpu_memory_count(gpu->context, out_free_bytes, out_total_bytes, error);
}

int gpu_alloc_pinned(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    *out = nullptr;
    gpu_context_select(gpu->context);
    return gpu_pinned_alloc(gpu->context, out, bytes, error);
}

void gpu_free_pinned(struct lode_device *device, void *memory)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (!memory)
        return;
    gpu_context_select(gpu->context);
    struct lode_error error;
    if (wait_for_all(gpu, &error) != LODE_OK)
        gpu_set_fault(gpu, &error);
    gpu_pinned_free(gpu->context, memory);
}

int gpu_copy(struct lode_device *device, void *to, const void *from, size_t bytes, struct lode_error *error)
{
    const struct gpu_operation op(device, "copy", bytes);
    struct gpu_device *gpu = gpu_device_of(device);
    struct lode_error failure;
    if (op.gpu && bytes > 0 &&
        gpu_stream_copy(gpu->context, gpu->queue.stream, to, from, bytes, GPU_COPY_WITHIN, &failure) !=
            LODE_OK)
        gpu_set_fault(gpu, &failure);
    return gpu_has_fault(gpu) ? gpu_tell_fault(gpu, error) : LODE_OK;
}
