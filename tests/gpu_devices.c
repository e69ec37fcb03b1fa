// GPUs for tests; see gpu_devices.h.
#include "tests/gpu_devices.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void gpu_must(int code, const struct lode_error *error)
{
    cr_assert_eq(code, LODE_OK, "%s", error->text);
}

static struct lode_device *open_in(const struct device_list *list, const char *text)
{
    struct device_wish wish;
    struct lode_device *device;
    struct lode_error error;
    gpu_must(device_wish_parse(&wish, text, strlen(text), &error), &error);
    gpu_must(devices_open(&device, list, &wish, &error), &error);
    return device;
}

struct lode_device *gpu_test_open(struct device_list *list, const char *text)
{
    devices_find(list);
    return open_in(list, text);
}

void gpu_test_close(struct device_list *list, struct lode_device *device)
{
    device->ops->close(device);
    devices_close(list);
}

void gpu_test_devices_open(struct gpu_test_devices *out)
{
    out->n = 0;
    devices_find(&out->list);
    bool has_simt = false;
    for (uint32_t i = 0; i < out->list.n; i++) {
        const struct device_found *found = &out->list.found[i];
        // One device that executes on the CPU is enough, and takes long enough.
        if (!found->usable || strcmp(found->name, "simt1") == 0)
            continue;
        out->devices[out->n++] = open_in(&out->list, found->name);
        has_simt |= strcmp(found->name, "simt0") == 0;
    }
    cr_assert(has_simt, "simt0 is missing: %s", out->list.backends[2].why);
}

void gpu_test_devices_close(struct gpu_test_devices *devices)
{
    for (uint32_t i = 0; i < devices->n; i++) {
        struct lode_device *device = devices->devices[i];
        struct lode_error error;
        gpu_must(device->ops->sync(device, &error), &error);
        device->ops->close(device);
    }
    devices_close(&devices->list);
}

void gpu_reserve_for(struct lode_device *device, const struct lode_limits *limits)
{
    struct lode_error error;
    gpu_must(device->ops->reserve(device, limits, &error), &error);
}

// Allocations are aligned to more than is promised; this leaves the promise.
#define OFFSET LODE_DEVICE_ALIGN

void *gpu_bytes_up(struct lode_device *device, const void *bytes, size_t n)
{
    struct lode_error error;
    void *memory;
    char *with_slack = malloc(n + LODE_DEVICE_SLACK);
    cr_assert_not_null(with_slack);
    if (n > 0)
        memcpy(with_slack, bytes, n);
    memset(with_slack + n, 0xff, LODE_DEVICE_SLACK);
    gpu_must(device->ops->alloc(device, &memory, OFFSET + n + LODE_DEVICE_SLACK, &error), &error);
    char *begin = (char *)memory + OFFSET;
    gpu_must(device->ops->upload(device, begin, with_slack, n + LODE_DEVICE_SLACK, &error), &error);
    free(with_slack);
    return begin;
}

void gpu_bytes_down(struct lode_device *device, void *out, const void *memory, size_t n)
{
    struct lode_error error;
    gpu_must(device->ops->download(device, out, memory, n, &error), &error);
}

void gpu_release(struct lode_device *device, const void *memory)
{
    if (memory)
        device->ops->free(device, (char *)(uintptr_t)memory - OFFSET, 0);
}

static size_t rows_bytes(struct lode_rows rows)
{
    return rows.n ? ((rows.n - 1) * rows.stride + rows.cols) * sizeof *rows.data : 0;
}

struct lode_rows gpu_rows_up(struct lode_device *device, struct lode_rows host)
{
    struct lode_rows rows = host;
    rows.data = gpu_bytes_up(device, host.data, rows_bytes(host));
    return rows;
}

void gpu_rows_down(struct lode_device *device, struct lode_rows host, struct lode_rows rows)
{
    cr_assert(host.n == rows.n && host.cols == rows.cols && host.stride == rows.stride);
    gpu_bytes_down(device, host.data, rows.data, rows_bytes(host));
}

struct lode_matrix gpu_matrix_up(struct lode_device *device, const struct lode_matrix *host)
{
    uint64_t row_bytes;
    cr_assert(lode_type_row_bytes(&row_bytes, host->type, host->cols));
    struct lode_matrix matrix = *host;
    const size_t bytes = host->rows ? (host->rows - 1) * host->row_bytes + row_bytes : 0;
    matrix.data = gpu_bytes_up(device, host->data, bytes);
    return matrix;
}

struct lode_expert_job gpu_expert_up(struct lode_device *device, const struct lode_expert_job *host)
{
    struct lode_expert_job expert = *host;
    expert.gate = gpu_matrix_up(device, &host->gate);
    expert.up = gpu_matrix_up(device, &host->up);
    expert.down = gpu_matrix_up(device, &host->down);
    return expert;
}

void gpu_expert_release(struct lode_device *device, const struct lode_expert_job *expert)
{
    gpu_release(device, expert->gate.data);
    gpu_release(device, expert->up.data);
    gpu_release(device, expert->down.data);
}
