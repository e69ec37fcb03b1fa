// When operations and copies ran, by events of the device that are recorded around them and read when the
// host waits for the device anyway.
//
// Events are made once, at the first operation that is timed. Their times are differences; the host's clock
// comes in by an event that the host has waited for. Differences are floats of milliseconds, so that event is
// renewed every second: a float has 24 bits, a second of them 60 ns.
#include "backends/gpu/gpu_device.h"

#include "base/clock.h"
#include "base/timeline.h"

#include <stdlib.h>

#define BASE_AGE_NS 1000000000u

static int renew_base(struct gpu_device *gpu, struct gpu_timed *timed, gpu_stream stream,
                      struct lode_error *error)
{
    int code = gpu_event_record(gpu->context, timed->base, stream, error);
    if (code == LODE_OK)
        code = gpu_event_wait(gpu->context, timed->base, error);
    timed->base_ns = clock_now_ns();
    return code;
}

static int open_timed(struct gpu_device *gpu, struct gpu_timed *timed, gpu_stream stream,
                      struct lode_error *error)
{
    timed->spans = static_cast<struct gpu_timed_span *>(calloc(GPU_TIMED_SPANS, sizeof *timed->spans));
    if (!timed->spans)
        return lode_fail(error, LODE_ERR_MEMORY, "cannot allocate the timeline of %s", gpu->base.name);
    int code = gpu_event_open(gpu->context, &timed->base, true, error);
    for (uint32_t i = 0; i < GPU_TIMED_SPANS && code == LODE_OK; i++) {
        code = gpu_event_open(gpu->context, &timed->spans[i].begin, true, error);
        if (code == LODE_OK)
            code = gpu_event_open(gpu->context, &timed->spans[i].end, true, error);
    }
    return code == LODE_OK ? renew_base(gpu, timed, stream, error) : code;
}

void gpu_timed_close(struct gpu_device *gpu, struct gpu_timed *timed)
{
    for (uint32_t i = 0; timed->spans && i < GPU_TIMED_SPANS; i++) {
        if (timed->spans[i].begin)
            gpu_event_close(gpu->context, timed->spans[i].begin);
        if (timed->spans[i].end)
            gpu_event_close(gpu->context, timed->spans[i].end);
    }
    if (timed->base)
        gpu_event_close(gpu->context, timed->base);
    free(timed->spans);
    *timed = {};
}

static uint64_t time_of(struct gpu_device *gpu, const struct gpu_timed *timed, gpu_event event)
{
    const double ns = static_cast<double>(gpu_event_between_ms(gpu->context, timed->base, event)) * 1e6;
    return timed->base_ns + static_cast<uint64_t>(ns > 0 ? ns : 0);
}

// Spans of a stream end in their order.
static void tell(struct gpu_device *gpu, struct gpu_timed *timed)
{
    while (timed->n_told < timed->n_begun) {
        const struct gpu_timed_span *span = &timed->spans[timed->n_told % GPU_TIMED_SPANS];
        if (!gpu_event_done(gpu->context, span->end))
            return;
        if (gpu->base.timeline)
            lode_timeline_span(gpu->base.timeline, span->lane, span->what, span->layer, span->bytes,
                               time_of(gpu, timed, span->begin), time_of(gpu, timed, span->end));
        timed->n_told++;
    }
}

static void renew_if_old(struct gpu_device *gpu, struct gpu_timed *timed, gpu_stream stream)
{
    struct lode_error error;
    if (timed->spans && timed->n_told == timed->n_begun && clock_now_ns() - timed->base_ns > BASE_AGE_NS &&
        renew_base(gpu, timed, stream, &error) != LODE_OK)
        gpu_set_fault(gpu, &error);
}

void gpu_timed_tell(struct gpu_device *gpu)
{
    if (gpu_has_fault(gpu))
        return;
    tell(gpu, &gpu->operations_timed);
    tell(gpu, &gpu->copies_timed);
    if (!gpu->base.timeline)
        return;
    renew_if_old(gpu, &gpu->operations_timed, gpu->queue.stream);
    renew_if_old(gpu, &gpu->copies_timed, gpu->copies.stream);
}

struct gpu_timed_span *gpu_timed_begin(struct gpu_device *gpu, struct gpu_timed *timed, gpu_stream stream,
                                       uint32_t lane, const char *what, uint64_t bytes)
{
    struct lode_error error;
    int code = timed->spans ? LODE_OK : open_timed(gpu, timed, stream, &error);
    // The ring is full when nobody has waited for so long: its oldest half is told first.
    if (code == LODE_OK && timed->n_begun - timed->n_told == GPU_TIMED_SPANS) {
        const uint64_t middle = timed->n_told + GPU_TIMED_SPANS / 2;
        code = gpu_event_wait(gpu->context, timed->spans[middle % GPU_TIMED_SPANS].end, &error);
        if (code == LODE_OK)
            tell(gpu, timed);
    }
    struct gpu_timed_span *span = code == LODE_OK ? &timed->spans[timed->n_begun % GPU_TIMED_SPANS] : nullptr;
    if (code == LODE_OK)
        code = gpu_event_record(gpu->context, span->begin, stream, &error);
    if (code != LODE_OK) {
        gpu_set_fault(gpu, &error);
        return nullptr;
    }
    span->what = what;
    span->lane = lane;
    span->layer = gpu->base.layer;
    span->bytes = bytes;
    timed->n_begun++;
    return span;
}

void gpu_timed_end(struct gpu_device *gpu, struct gpu_timed_span *span, gpu_stream stream)
{
    struct lode_error error;
    if (!gpu_has_fault(gpu) && gpu_event_record(gpu->context, span->end, stream, &error) != LODE_OK)
        gpu_set_fault(gpu, &error);
}
