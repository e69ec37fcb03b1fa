// The devices that a run names (struct lode_engine_options: devices), found among those that there are.
#ifndef LODE_CORE_DEVICES_H
#define LODE_CORE_DEVICES_H

#include "backends/devices.h"
#include "core/lode.h"

// GPUs in the order that they were named in, or found in where nothing was named.
struct device_choice {
    bool by_default; // no list was given: every GPU that can be used, and no emulation
    uint32_t n;
    struct device_wish wishes[LODE_PLAN_GPUS];
    uint32_t found[LODE_PLAN_GPUS]; // of the list's; set by device_choice_find
};

// Reads a list, NULL: the default. "cpu" names nothing, for the CPU computes in any case. LODE_ERR_ARGUMENT
// for what is no list, for a device that is named twice, and for too many.
int device_choice_parse(struct device_choice *out, const char *text, struct lode_error *error);

// Looks the choice up. LODE_ERR_UNSUPPORTED with the reason for a device that is not there or cannot be used.
// Then devices_open opens wishes[0..n). Beyond LODE_PLAN_GPUS the default
// leaves GPUs out.
int device_choice_find(struct device_choice *choice, const struct device_list *list,
                       struct lode_error *error);

#endif
