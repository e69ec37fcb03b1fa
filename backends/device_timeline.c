// Lanes of a device in a timeline.
#include "backends/backend.h"

#include "base/timeline.h"

#include <stdio.h>

void lode_device_timeline(struct lode_device *device, struct lode_timeline *timeline)
{
    device->timeline = timeline;
    device->layer = UINT32_MAX;
    device->operations_lane = device->copies_lane = UINT32_MAX;
    if (!timeline)
        return;
    device->operations_lane = lode_timeline_lane(timeline, device->name);
    if (device->host_memory)
        return;
    char name[sizeof device->name + 8];
    snprintf(name, sizeof name, "%s copies", device->name);
    device->copies_lane = lode_timeline_lane(timeline, name);
}
