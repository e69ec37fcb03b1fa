// Copies beside the operations: a stream of their own, fences that say where in the operations a copy may
// begin, and tickets that say when it is done. The events of both are made when the device is opened and used
// again in turn; an event is used again only when what it stood for is done or replaced by something later.
#include "backends/gpu/gpu_device.h"

int gpu_copies_open(struct gpu_device *gpu, struct lode_error *error)
{
    struct gpu_copies *copies = &gpu->copies;
    int code = gpu_stream_open(gpu->context, &copies->stream, error);
    for (uint32_t i = 0; i < GPU_COPY_RING && code == LODE_OK; i++) {
        code = gpu_event_open(gpu->context, &copies->done[i], false, error);
        if (code == LODE_OK)
            code = gpu_event_open(gpu->context, &copies->fences[i], false, error);
    }
    return code;
}

void gpu_copies_close(struct gpu_device *gpu)
{
    struct gpu_copies *copies = &gpu->copies;
    for (uint32_t i = 0; i < GPU_COPY_RING; i++) {
        if (copies->done[i])
            gpu_event_close(gpu->context, copies->done[i]);
        if (copies->fences[i])
            gpu_event_close(gpu->context, copies->fences[i]);
    }
    if (copies->stream)
        gpu_stream_close(gpu->context, copies->stream);
}

// A fence whose event has been recorded again since stands for a later point, which is safe: nothing that
// came before a copy's call waits for that copy.
uint64_t gpu_fence(struct lode_device *device)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (gpu_has_fault(gpu))
        return 0;
    struct lode_error error;
    const uint64_t fence = gpu->copies.n_fences + 1;
    if (gpu_event_record(gpu->context, gpu->copies.fences[fence % GPU_COPY_RING], gpu->queue.stream,
                         &error) != LODE_OK) {
        gpu_set_fault(gpu, &error);
        return 0;
    }
    return gpu->copies.n_fences = fence;
}

// Copies are done in the order of their calls.
static bool is_done(struct gpu_device *gpu, uint64_t ticket)
{
    struct gpu_copies *copies = &gpu->copies;
    if (ticket > copies->known_done && gpu_event_done(gpu->context, copies->done[ticket % GPU_COPY_RING]))
        copies->known_done = ticket;
    return ticket <= copies->known_done;
}

// The event of the ring's oldest copy is needed again.
static int wait_for_place(struct gpu_device *gpu, uint64_t ticket, struct lode_error *error)
{
    if (ticket <= GPU_COPY_RING || is_done(gpu, ticket - GPU_COPY_RING))
        return LODE_OK;
    const int code = gpu_event_wait(gpu->context, gpu->copies.done[ticket % GPU_COPY_RING], error);
    if (code == LODE_OK)
        gpu->copies.known_done = ticket - GPU_COPY_RING;
    return code;
}

static int wait_for_fence(struct gpu_device *gpu, uint64_t after, struct lode_error *error)
{
    struct gpu_copies *copies = &gpu->copies;
    if (after <= copies->ordered)
        return LODE_OK;
    const int code =
        gpu_event_order(gpu->context, copies->stream, copies->fences[after % GPU_COPY_RING], error);
    if (code == LODE_OK)
        copies->ordered = after;
    return code;
}

static int start_copy(struct gpu_device *gpu, void *to, const void *from, size_t bytes, uint64_t after,
                      struct lode_error *error)
{
    struct gpu_copies *copies = &gpu->copies;
    const uint64_t ticket = copies->n_copies + 1;
    int code = wait_for_place(gpu, ticket, error);
    if (code == LODE_OK)
        code = wait_for_fence(gpu, after, error);
    if (code != LODE_OK)
        return code;
    struct gpu_timed_span *span = nullptr;
    if (gpu->base.timeline)
        span =
            gpu_timed_begin(gpu, &gpu->copies_timed, copies->stream, gpu->base.copies_lane, "copy in", bytes);
    if (bytes > 0)
        code = gpu_stream_copy(gpu->context, copies->stream, to, from, bytes, GPU_COPY_IN, error);
    if (span)
        gpu_timed_end(gpu, span, copies->stream);
    if (code == LODE_OK)
        code = gpu_event_record(gpu->context, copies->done[ticket % GPU_COPY_RING], copies->stream, error);
    if (code == LODE_OK)
        copies->n_copies = ticket;
    return code;
}

int gpu_copy_in(struct lode_device *device, void *to, const void *from, size_t bytes, uint64_t after,
                uint64_t *out_ticket, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    *out_ticket = 0;
    if (gpu_has_fault(gpu))
        return gpu_tell_fault(gpu, error);
    if (after > gpu->copies.n_fences)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: a copy is to follow a fence that there has not been",
                         device->name);
    gpu_context_select(gpu->context);
    struct lode_error failure;
    if (start_copy(gpu, to, from, bytes, after, &failure) != LODE_OK) {
        gpu_set_fault(gpu, &failure);
        return gpu_tell_fault(gpu, error);
    }
    *out_ticket = gpu->copies.n_copies;
    return LODE_OK;
}

// On a device with a fault everything counts as done: nobody shall wait for what will not come.
bool gpu_copy_done(struct lode_device *device, uint64_t ticket)
{
    struct gpu_device *gpu = gpu_device_of(device);
    return gpu_has_fault(gpu) || ticket > gpu->copies.n_copies || is_done(gpu, ticket);
}

void gpu_copy_await(struct lode_device *device, uint64_t ticket)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (gpu_has_fault(gpu) || ticket > gpu->copies.n_copies || is_done(gpu, ticket))
        return;
    struct lode_error error;
    if (gpu_event_order(gpu->context, gpu->queue.stream, gpu->copies.done[ticket % GPU_COPY_RING], &error) !=
        LODE_OK)
        gpu_set_fault(gpu, &error);
}
