// Which GPUs a machine has, opening them to be measured, and whether they are those of a profile.
#include "backends/devices.h"
#include "base/bytes_text.h"
#include "profiles/probe_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct probe_gpus {
    struct device_list list;
    uint32_t n;
    struct probe_gpu gpus[PROFILE_GPUS];
    uint32_t found[PROFILE_GPUS]; // of the list's
};

static const char *backend_of(const struct device_list *list, const struct device_found *found)
{
    return list->backends[found->backend].name;
}

bool probe_gpu_is_executed_on_cpu(const char *backend)
{
    return strcmp(backend, "simt") == 0;
}

static bool is_of_machine(const struct device_list *list, const struct device_found *found)
{
    return found->usable && !probe_gpu_is_executed_on_cpu(backend_of(list, found));
}

void probe_gpu_describe(struct profile_device *out, const struct lode_gpu *about, const char *backend)
{
    *out =
        (struct profile_device){.memory_bytes = about->memory_bytes, .shares_memory = about->shares_memory};
    snprintf(out->name, sizeof out->name, "%s", about->name[0] ? about->name : "unknown GPU");
    probe_tame(out->name);
    snprintf(out->backend, sizeof out->backend, "%s", backend);
}

void probe_gpus_find(struct machine_profile *out)
{
    struct device_list list;
    out->n_gpus = 0;
    if (!devices_have_driver())
        return;
    devices_find(&list);
    for (uint32_t i = 0; i < list.n && out->n_gpus < PROFILE_GPUS; i++)
        if (is_of_machine(&list, &list.found[i]))
            probe_gpu_describe(&out->gpus[out->n_gpus++], &list.found[i].gpu,
                               backend_of(&list, &list.found[i]));
    devices_close(&list);
}

// ---- opening them

static int open_one(struct probe_gpus *gpus, const struct device_wish *wish, struct lode_error *error)
{
    uint32_t i = 0;
    while (i < gpus->list.n && strcmp(gpus->list.found[i].name, wish->name) != 0)
        i++;
    for (uint32_t g = 0; g < gpus->n; g++)
        if (gpus->found[g] == i)
            return lode_fail(error, LODE_ERR_ARGUMENT, "%s is named twice", wish->name);
    if (gpus->n == PROFILE_GPUS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a profile has at most %d GPUs", PROFILE_GPUS);
    struct probe_gpu *gpu = &gpus->gpus[gpus->n];
    int code = devices_open(&gpu->device, &gpus->list, wish, error); // says why a name is unknown
    if (code)
        return code;
    gpus->found[gpus->n++] = i;
    if (i == gpus->list.n)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s is not in the list of devices", wish->name);
    gpu->about = gpus->list.found[i].gpu;
    snprintf(gpu->backend, sizeof gpu->backend, "%s", backend_of(&gpus->list, &gpus->list.found[i]));
    // The memory of one that is executed on the CPU is as large as it was wished to be.
    uint64_t free_bytes;
    return gpu->device->ops->memory(gpu->device, &free_bytes, &gpu->about.memory_bytes, error);
}

static int open_named(struct probe_gpus *gpus, const char *names, struct lode_error *error)
{
    int code = LODE_OK;
    for (const char *at = names; !code;) {
        const size_t length = strcspn(at, ",");
        struct device_wish wish;
        code = device_wish_parse(&wish, at, length, error);
        if (!code && strcmp(wish.name, "cpu") != 0)
            code = open_one(gpus, &wish, error);
        if (!at[length])
            break;
        at += length + 1;
    }
    return code;
}

static int open_all(struct probe_gpus *gpus, struct lode_error *error)
{
    int code = LODE_OK;
    for (uint32_t i = 0; i < gpus->list.n && gpus->n < PROFILE_GPUS && !code; i++) {
        struct device_wish wish = {.name = ""};
        snprintf(wish.name, sizeof wish.name, "%s", gpus->list.found[i].name);
        if (is_of_machine(&gpus->list, &gpus->list.found[i]))
            code = open_one(gpus, &wish, error);
    }
    return code;
}

int probe_gpus_open(struct probe_gpus **out, const char *names, struct lode_error *error)
{
    struct probe_gpus *gpus = *out = calloc(1, sizeof *gpus);
    if (!gpus)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a list of GPUs");
    if (names || devices_have_driver())
        devices_find(&gpus->list);
    int code = names ? open_named(gpus, names, error) : open_all(gpus, error);
    if (code) {
        probe_gpus_close(gpus);
        *out = NULL;
    }
    return code;
}

void probe_gpus_close(struct probe_gpus *gpus)
{
    if (!gpus)
        return;
    for (uint32_t g = 0; g < gpus->n; g++)
        gpus->gpus[g].device->ops->close(gpus->gpus[g].device);
    devices_close(&gpus->list);
    free(gpus);
}

const struct probe_gpu *probe_gpus_list(const struct probe_gpus *gpus, uint32_t *out_n)
{
    *out_n = gpus->n;
    return gpus->gpus;
}

bool probe_gpus_are_all(const struct probe_gpus *gpus, char *why, size_t capacity)
{
    for (uint32_t g = 0; g < gpus->n; g++)
        if (probe_gpu_is_executed_on_cpu(gpus->gpus[g].backend)) {
            snprintf(why, capacity, "%s is no GPU of this machine: its kernels are executed on the CPU",
                     gpus->gpus[g].device->name);
            return false;
        }
    uint32_t n_there = 0;
    for (uint32_t i = 0; i < gpus->list.n && n_there < PROFILE_GPUS; i++) {
        if (!is_of_machine(&gpus->list, &gpus->list.found[i]))
            continue;
        if (n_there == gpus->n || gpus->found[n_there] != i) {
            snprintf(why, capacity, "%s, %s, is left out or out of order", gpus->list.found[i].name,
                     gpus->list.found[i].gpu.name);
            return false;
        }
        n_there++;
    }
    return true;
}

// ---- those of a profile

static bool is_same(const struct profile_device *a, const struct profile_device *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->backend, b->backend) == 0 &&
           probe_whole_gib(a->memory_bytes) == probe_whole_gib(b->memory_bytes);
}

// How many of a profile's GPUs are like this one.
static uint32_t count_like(const struct machine_profile *profile, const struct profile_device *gpu)
{
    uint32_t n = 0;
    for (uint32_t g = 0; g < profile->n_gpus; g++)
        n += is_same(&profile->gpus[g], gpu);
    return n;
}

// The first GPU of which `many` has more than `few`; NULL: none.
static const struct profile_device *find_more(const struct machine_profile *many,
                                              const struct machine_profile *few)
{
    for (uint32_t g = 0; g < many->n_gpus; g++)
        if (count_like(many, &many->gpus[g]) > count_like(few, &many->gpus[g]))
            return &many->gpus[g];
    return NULL;
}

bool probe_gpus_differ(char *why, size_t capacity, const struct machine_profile *was,
                       const struct machine_profile *is)
{
    const struct profile_device *gone = find_more(was, is), *new = find_more(is, was);
    for (uint32_t g = 0; g < was->n_gpus; g++)
        if (probe_gpu_is_executed_on_cpu(was->gpus[g].backend)) {
            snprintf(why, capacity, "one of its GPUs was executed on the CPU");
            return true;
        }
    if (gone && new)
        snprintf(why, capacity, "the GPU was %s with %s and is %s with %s", gone->name,
                 bytes_text(gone->memory_bytes).text, new->name, bytes_text(new->memory_bytes).text);
    else if (gone)
        snprintf(why, capacity, "the GPU %s is not there, or cannot be used", gone->name);
    else if (new)
        snprintf(why, capacity, "the GPU %s was not there, or was not measured", new->name);
    else
        for (uint32_t g = 0; g < was->n_gpus; g++)
            if (!is_same(&was->gpus[g], &is->gpus[g])) {
                snprintf(why, capacity, "GPU %" PRIu32 " was %s and is %s", g, was->gpus[g].name,
                         is->gpus[g].name);
                return true;
            }
    return gone || new;
}
