// The timeline of a run: a lane for the CPU, lanes for each GPU and its copies, and one for reads of the
// drive; written when the engine closes.
#include "core/engine.h"

#include "base/timeline.h"

#include <inttypes.h>

// A lane of 30 layers' operations has some 500 a token, so this holds hundreds of tokens, in 16 MB.
#define TIMELINE_SPANS (1 << 18)

int engine_timeline_open(struct lode_engine *engine, struct lode_error *error)
{
    if (!engine->options.timeline_path)
        return 0;
    const int rc = lode_timeline_open(&engine->timeline, TIMELINE_SPANS, error);
    if (rc)
        return rc;
    lode_device_timeline(engine->device, engine->timeline);
    for (uint32_t g = 0; g < engine->gpus.n; g++)
        lode_device_timeline(engine->gpus.devices[g], engine->timeline);
    if (!engine->mapped) // there the kernel reads
        io_tell_timeline(engine->io, engine->timeline, lode_timeline_lane_of_rows(engine->timeline, "drive"));
    return 0;
}

void engine_timeline_close(struct lode_engine *engine)
{
    struct lode_error cause;
    if (!engine->timeline)
        return;
    io_tell_timeline(engine->io, NULL, 0);
    if (lode_timeline_write(engine->timeline, engine->options.timeline_path, &cause))
        engine_note(engine, "the timeline is not kept: %s", cause.text);
    else if (lode_timeline_dropped(engine->timeline))
        engine_note(engine, "the timeline is full: %" PRIu64 " later spans are not in it",
                    lode_timeline_dropped(engine->timeline));
    lode_device_timeline(engine->device, NULL);
    for (uint32_t g = 0; g < engine->gpus.n; g++)
        lode_device_timeline(engine->gpus.devices[g], NULL);
    lode_timeline_close(engine->timeline);
    engine->timeline = NULL;
}
