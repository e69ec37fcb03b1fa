// The GPUs of this machine: finds the shared objects with kernels for them, asks each what there is, and
// opens devices by their names.
//
// A shared object lies in one of the folders of the search: beside the build that the program is from, or
// where it is installed. What cannot be used is kept with the reason, for `lode devices` to tell.
#ifndef LODE_DEVICES_H
#define LODE_DEVICES_H

#include "backends/gpu/gpu_backend.h"

#define DEVICES_MAX 16

struct device_found {
    char name[16]; // "cuda0"; of a backend that has no device, "cuda"
    struct lode_gpu gpu;
    bool usable;
    char why[256]; // what keeps it from being used; empty where it is usable
    uint32_t index;
    uint32_t backend; // of the list's
};

#define DEVICES_BACKENDS 3

struct device_list {
    uint32_t n;
    struct device_found found[DEVICES_MAX];
    struct {
        const char *name;                     // "cuda", "hip", "simt"
        void *handle;                         // NULL: no shared object, or it does not open
        const struct lode_gpu_backend *table; // NULL likewise
        char why[256];
    } backends[DEVICES_BACKENDS];
};

// Whether a driver of GPUs is loaded, by its device files: without one there is no GPU to find, and opening
// the objects, of which each takes some MiB of memory, tells only why.
bool devices_have_driver(void);

// Finds everything; never fails: what is missing is in the list. simt0 and simt1, which compute on the CPU,
// are there when their object is. Released by devices_close, after the devices that were opened from it.
void devices_find(struct device_list *out);
// The same with the shared objects of a folder.
void devices_find_in(struct device_list *out, const char *folder);
void devices_close(struct device_list *list);

// What a name of a list of devices means: "cuda0", "cpu", or "simt0:memory=64M:link=10:latency=5" (bytes,
// GB/s, microseconds; only of simt). Fails for what is none of these.
struct device_wish {
    char name[16];
    struct lode_gpu_options options;
};
int device_wish_parse(struct device_wish *out, const char *text, size_t length, struct lode_error *error);

// Opens the device of a name ("cpu" is not one of these). Fails with the reason that the list has.
int devices_open(struct lode_device **out, const struct device_list *list, const struct device_wish *wish,
                 struct lode_error *error);

#endif
