// The GPU of the tests of placement; see fake_gpu.h.
#include "tests/fake_gpu.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fake_gpu *fake(struct lode_device *device)
{
    return (struct fake_gpu *)device;
}

// ---- the queues
// --------------------------------------------------------------------------------------------------

static bool run_copy(struct fake_gpu *gpu)
{
    const struct fake_gpu_copy *copy = &gpu->copies[gpu->copies_done % FAKE_GPU_QUEUE];
    if (gpu->copies_done == gpu->n_copies || copy->after > gpu->reads_done)
        return false;
    memcpy(copy->to, copy->from, copy->bytes);
    gpu->copies_done++;
    return true;
}

static bool run_read(struct fake_gpu *gpu)
{
    const struct fake_gpu_read *read = &gpu->reads[gpu->reads_done % FAKE_GPU_QUEUE];
    if (gpu->reads_done == gpu->n_reads || read->await > gpu->copies_done)
        return false;
    for (uint64_t i = 0; i < read->bytes; i++)
        cr_assert_eq(read->data[i], world_content_at(read->offset + i), "operation %llu finds a wrong byte",
                     (unsigned long long)gpu->reads_done);
    gpu->reads_done++;
    return true;
}

static void run_all(struct fake_gpu *gpu)
{
    while (run_read(gpu) || run_copy(gpu))
        ;
    cr_assert(gpu->reads_done == gpu->n_reads && gpu->copies_done == gpu->n_copies,
              "operations and copies wait for each other");
}

static void run_early(struct fake_gpu *gpu)
{
    while (gpu->eager ? run_copy(gpu) : run_read(gpu))
        ;
}

void fake_gpu_read(struct fake_gpu *gpu, const void *data, uint64_t offset, uint64_t bytes)
{
    cr_assert_lt(gpu->n_reads - gpu->reads_done, FAKE_GPU_QUEUE);
    gpu->reads[gpu->n_reads++ % FAKE_GPU_QUEUE] = (struct fake_gpu_read){data, offset, bytes, gpu->await};
    run_early(gpu);
}

// ---- the device
// --------------------------------------------------------------------------------------------------

static int fake_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    struct fake_gpu *gpu = fake(device);
    if (gpu->n_allocs++ == gpu->fail_alloc || gpu->live_bytes + bytes > gpu->limit_bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "the fake GPU is full");
    const size_t with_slack = (bytes + 2 * LODE_DEVICE_SLACK) & ~(size_t)(LODE_DEVICE_ALIGN - 1);
    *out = aligned_alloc(LODE_DEVICE_ALIGN, with_slack);
    cr_assert(*out);
    memset(*out, 0, with_slack);
    gpu->n_live++;
    gpu->live_bytes += bytes;
    gpu->most_bytes = gpu->live_bytes > gpu->most_bytes ? gpu->live_bytes : gpu->most_bytes;
    return 0;
}

static void fake_free(struct lode_device *device, void *memory, size_t bytes)
{
    fake(device)->n_live--;
    fake(device)->live_bytes -= bytes;
    free(memory);
}

static int fake_upload(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
                       struct lode_error *error)
{
    if (fake(device)->n_uploads++ == fake(device)->fail_upload)
        return lode_fail(error, LODE_ERR_IO, "the fake link is cut");
    run_all(fake(device));
    memcpy(to_device, from_host, bytes);
    return 0;
}

static int fake_sync(struct lode_device *device, struct lode_error *error)
{
    run_all(fake(device));
    if (fake(device)->fail_sync)
        return lode_fail(error, LODE_ERR_IO, "the fake GPU has stopped");
    return 0;
}

static int fake_alloc_pinned(struct lode_device *device, void **out, size_t bytes, struct lode_error *error)
{
    if (fake(device)->fail_pinned)
        return lode_fail(error, LODE_ERR_MEMORY, "no page can be locked");
    *out = malloc(bytes);
    cr_assert(*out);
    fake(device)->n_pinned_live++;
    return 0;
}

static void fake_free_pinned(struct lode_device *device, void *memory)
{
    fake(device)->n_pinned_live--;
    free(memory);
}

static int fake_copy(struct lode_device *device, void *to, const void *from, size_t bytes,
                     struct lode_error *error)
{
    (void)error;
    run_all(fake(device));
    fake(device)->n_moves++;
    memcpy(to, from, bytes);
    return 0;
}

static uint64_t fake_fence(struct lode_device *device)
{
    return fake(device)->n_reads;
}

static int fake_copy_in(struct lode_device *device, void *to, const void *from, size_t bytes, uint64_t after,
                        uint64_t *out_ticket, struct lode_error *error)
{
    struct fake_gpu *gpu = fake(device);
    if (gpu->n_copies_in++ == gpu->fail_copy_in)
        return lode_fail(error, LODE_ERR_IO, "the fake link is cut");
    cr_assert_lt(gpu->n_copies - gpu->copies_done, FAKE_GPU_QUEUE);
    gpu->copies[gpu->n_copies++ % FAKE_GPU_QUEUE] = (struct fake_gpu_copy){to, from, bytes, after};
    *out_ticket = gpu->n_copies;
    run_early(gpu);
    return 0;
}

// Who asks often enough gets on.
static bool fake_copy_done(struct lode_device *device, uint64_t ticket)
{
    struct fake_gpu *gpu = fake(device);
    cr_assert(ticket > 0 && ticket <= gpu->n_copies);
    if (ticket > gpu->copies_done && ++gpu->polls % 3 == 0 && !run_copy(gpu))
        cr_assert(run_read(gpu), "a copy that is waited for cannot happen");
    return ticket <= gpu->copies_done;
}

static void fake_copy_await(struct lode_device *device, uint64_t ticket)
{
    struct fake_gpu *gpu = fake(device);
    cr_assert(ticket > 0 && ticket <= gpu->n_copies);
    gpu->await = ticket > gpu->await ? ticket : gpu->await;
}

static const struct lode_device_ops fake_ops = {
    .alloc = fake_alloc,
    .free = fake_free,
    .upload = fake_upload,
    .sync = fake_sync,
    .alloc_pinned = fake_alloc_pinned,
    .free_pinned = fake_free_pinned,
    .copy = fake_copy,
    .fence = fake_fence,
    .copy_in = fake_copy_in,
    .copy_done = fake_copy_done,
    .copy_await = fake_copy_await,
};

void fake_gpu_init(struct fake_gpu *gpu, const char *name, uint64_t limit_bytes)
{
    *gpu = (struct fake_gpu){
        .base = {.ops = &fake_ops},
        .limit_bytes = limit_bytes,
        .fail_alloc = UINT32_MAX,
        .fail_upload = UINT32_MAX,
        .fail_copy_in = UINT32_MAX,
    };
    snprintf(gpu->base.name, sizeof gpu->base.name, "%s", name);
}

void fake_gpu_check_empty(const struct fake_gpu *gpu)
{
    cr_assert(gpu->n_live == 0 && gpu->live_bytes == 0 && gpu->n_pinned_live == 0,
              "%u allocations and %u of pinned memory are left on %s", gpu->n_live, gpu->n_pinned_live,
              gpu->base.name);
    cr_assert(gpu->copies_done == gpu->n_copies, "a copy into memory that is gone");
}
