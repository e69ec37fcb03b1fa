// Where the time of a session goes: products with weights and attention on the CPU, waiting for the drive and
// for GPUs, and the rest.
//
// The device counts products and attention while it runs a pass, residency and timeline count waits, and the
// rest is what is left of the time that the session takes itself, so that the parts always add up to it.
//
// Reading the clock around the operations takes 4 us of a token of the demo model (130 times 32 ns), of which
// such a token has 240. So of decode passes that short only one in 16 is counted by its operations; the
// computing of those between is divided as it was in that one.
#include "base/clock.h"
#include "core/session_internal.h"

// Reading the clock in 30 layers (500 times, 16 us) is 0.2% of that.
#define LONG_PASS_NS 8000000
#define SHORT_PASSES 16

void session_parts_pass_begin(struct lode_session *session, size_t count)
{
    struct session_parts *parts = &session->parts;
    parts->decodes = count == 1;
    parts->known = parts->known && parts->decodes;
    parts->counts = !parts->decodes || !parts->known || parts->last_decode_ns >= LONG_PASS_NS ||
                    ++parts->uncounted == SHORT_PASSES;
    parts->times = (struct lode_device_times){0};
    session->engine->device->times = parts->counts ? &parts->times : NULL;
    parts->gpu_wait_ns = forward_gpu_wait_ns(session->forward);
    parts->pass_start_ns = clock_now_ns();
}

void session_parts_pass_end(struct lode_session *session, bool complete)
{
    struct session_parts *parts = &session->parts;
    struct session_lanes *lanes = &parts->lanes;
    const uint64_t pass_ns = clock_now_ns() - parts->pass_start_ns;
    const uint64_t stall_ns = residency_last_stall(session->engine->residency).total_ns;
    const uint64_t gpu_ns = forward_gpu_wait_ns(session->forward) - parts->gpu_wait_ns;
    const uint64_t waited_ns = stall_ns + gpu_ns;
    const double computed_ns = pass_ns > waited_ns ? (double)(pass_ns - waited_ns) : 0;
    session->engine->device->times = NULL;
    lanes->drive_ns += stall_ns;
    lanes->gpu_ns += gpu_ns;
    if (parts->counts) {
        lanes->kernels_ns += parts->times.kernels_ns;
        lanes->attention_ns += parts->times.attention_ns;
    } else {
        lanes->kernels_ns += (uint64_t)(computed_ns * parts->kernels_share);
        lanes->attention_ns += (uint64_t)(computed_ns * parts->attention_share);
    }
    if (!parts->decodes)
        return;
    parts->last_decode_ns = pass_ns;
    if (!parts->counts || !complete || computed_ns <= 0)
        return;
    parts->known = true;
    parts->uncounted = 0;
    parts->kernels_share = (double)parts->times.kernels_ns / computed_ns;
    parts->attention_share = (double)parts->times.attention_ns / computed_ns;
}

void session_parts_moved(struct lode_session *session)
{
    session->parts.known = false;
}

void session_parts_mark(struct lode_session *session)
{
    session->parts.mark = session->parts.lanes;
}

void session_parts_add(struct lode_session *session, struct session_lanes *to)
{
    const struct session_lanes *now = &session->parts.lanes, *mark = &session->parts.mark;
    to->kernels_ns += now->kernels_ns - mark->kernels_ns;
    to->attention_ns += now->attention_ns - mark->attention_ns;
    to->drive_ns += now->drive_ns - mark->drive_ns;
    to->gpu_ns += now->gpu_ns - mark->gpu_ns;
    session->parts.mark = session->parts.lanes;
}

struct lode_parts session_parts_of(const struct session_lanes *lanes, double total_s)
{
    struct lode_parts out = {.kernels_s = (double)lanes->kernels_ns * 1e-9,
                             .attention_s = (double)lanes->attention_ns * 1e-9,
                             .drive_s = (double)lanes->drive_ns * 1e-9,
                             .gpu_s = (double)lanes->gpu_ns * 1e-9};
    const double counted_s = out.kernels_s + out.attention_s + out.drive_s + out.gpu_s;
    if (counted_s <= total_s) {
        out.operations_s = total_s - counted_s;
        return out;
    }
    // Latencies are floats: by their rounding the whole may be less than the parts.
    const double scale = total_s / counted_s;
    out.kernels_s *= scale;
    out.attention_s *= scale;
    out.drive_s *= scale;
    out.gpu_s *= scale;
    return out;
}
