// The link between a GPU's memory and the host's, both ways, by the bytes of a copy: each is called and
// waited for. From pinned memory a copy goes beside the operations, as weights do; what is not pinned, and
// all that comes back, goes through the device's own pinned pieces.
#include "profiles/probe_internal.h"

#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

enum way { UP_PINNED, UP_PAGEABLE, DOWN };

struct link_cell {
    struct probe *probe;
    void *host;
    size_t bytes;
    enum way way;
};

// Of a device with a fault every copy counts as done.
static int copy_beside(const struct link_cell *cell, struct lode_error *error)
{
    struct lode_device *device = cell->probe->device;
    uint64_t ticket;
    int code = device->ops->copy_in(device, cell->probe->arena, cell->host, cell->bytes, 0, &ticket, error);
    while (!code && !device->ops->copy_done(device, ticket))
        continue;
    return code;
}

static void run_copy(void *user)
{
    struct link_cell *cell = user;
    struct probe *probe = cell->probe;
    struct lode_device *device = probe->device;
    struct lode_error *error = &probe->fault_error;
    if (probe->fault)
        return;
    if (cell->way == UP_PINNED) {
        probe->fault = copy_beside(cell, error);
    } else if (cell->way == UP_PAGEABLE) {
        probe->fault = device->ops->upload(device, probe->arena, cell->host, cell->bytes, error);
        if (!probe->fault)
            probe->fault = device->ops->sync(device, error);
    } else {
        probe->fault = device->ops->download(device, cell->host, probe->arena, cell->bytes, error);
    }
}

// The smallest first; those that the memory on both sides holds, one at least.
static uint32_t copy_sizes(const size_t **out, const struct probe *probe)
{
    static const size_t quick[] = {64 << 10, 4 * MIB, 32 * MIB},
                        all[] = {4 << 10, 64 << 10, 512 << 10, 4 * MIB, 32 * MIB, 128 * MIB};
    enum { N_QUICK = sizeof quick / sizeof *quick, N_ALL = sizeof all / sizeof *all };
    const bool is_quick = probe->options->mode == PROBE_QUICK;
    uint32_t n = is_quick ? N_QUICK : probe->options->mode == PROBE_FULL ? N_ALL - 1 : N_ALL;
    *out = is_quick ? quick : all;
    while (n > 1 && ((*out)[n - 1] > probe->arena_bytes || (*out)[n - 1] > probe->memory_bytes / 2))
        n--;
    return n;
}

static int measure_way(struct probe *probe, void *host, enum way way, uint64_t end_ns,
                       struct profile_curve *curve, struct lode_error *error)
{
    const size_t *bytes;
    const uint32_t n = copy_sizes(&bytes, probe);
    struct probe_group group = {end_ns, n};
    double last_s = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct link_cell cell = {probe, host, bytes[i], way};
        if (i && !probe_has_time(&group, last_s * (double)bytes[i] / (double)bytes[i - 1]))
            break;
        const struct probe_figure figure = probe_time(probe, &group, run_copy, &cell);
        int code = probe_stopped(probe, error);
        if (code)
            return code;
        last_s = figure.median;
        if (figure.median > 0)
            probe_add_point(curve, (double)bytes[i], (double)bytes[i] / figure.median / 1e9, figure.spread);
    }
    return LODE_OK;
}

// A GPU that shares the CPU's memory has no link.
int probe_gpu_link(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    const struct lode_device_ops *ops = probe->device->ops;
    struct profile_device *figures = probe->figures;
    if (figures->shares_memory)
        return LODE_OK;
    const size_t *bytes;
    const uint32_t n = copy_sizes(&bytes, probe);
    const size_t most = bytes[n - 1];
    void *pinned = NULL, *pageable = malloc(most);
    if (!pageable)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for copies to %s", probe->device->name);
    memset(pageable, 1, most); // its pages are there
    int code = ops->alloc_pinned(probe->device, &pinned, most, error);
    if (!code) {
        memset(pinned, 1, most);
        const struct {
            void *host;
            enum way way;
            struct profile_curve *curve;
        } ways[] = {{pinned, UP_PINNED, &figures->upload_pinned_gbps},
                    {pinned, DOWN, &figures->download_pinned_gbps},
                    {pageable, UP_PAGEABLE, &figures->upload_pageable_gbps},
                    {pageable, DOWN, &figures->download_pageable_gbps}};
        for (int i = 0; i < 4 && !code; i++)
            code = measure_way(probe, ways[i].host, ways[i].way, probe_part_end(end_ns, 1, 4 - i),
                               ways[i].curve, error);
        ops->free_pinned(probe->device, pinned);
    }
    free(pageable);
    return code;
}
