// The GPU device around its kernels: its table of operations, scratch, faults that stay, the timeline.
#include "base/timeline.h"
#include "tests/gpu_devices.h"

#include <criterion/criterion.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// All but `restore`: there is nothing to restore, for arrange leaves everything alone.
Test(gpu_device, fills_every_operation)
{
    FOR_GPU_DEVICES(device)
    {
        const void *const *table = (const void *const *)device->ops;
        const size_t restore = offsetof(struct lode_device_ops, restore) / sizeof *table;
        for (size_t i = 0; i < sizeof *device->ops / sizeof *table; i++)
            cr_assert(table[i] || i == restore, "%s: operation %zu", device->name, i);
    }
}

// ---- scratch

static const struct lode_limits limits = {
    .rows = 64, .cols = 256, .ffn_width = 96, .n_heads = 4, .head_size = 64, .expert_rows = 256};

Test(gpu_device, grows_its_scratch_and_never_shrinks_it)
{
    FOR_GPU_DEVICES(device)
    {
        struct lode_limits larger = limits, other = {.rows = 1, .cols = 4096};
        cr_assert_eq(device->ops->scratch_bytes(device), 0);
        gpu_reserve_for(device, &limits);
        const size_t first = device->ops->scratch_bytes(device);
        cr_assert_gt(first, limits.rows * limits.cols);
        gpu_reserve_for(device, &other);
        const size_t second = device->ops->scratch_bytes(device);
        cr_assert_gt(second, first);
        gpu_reserve_for(device, &larger);
        cr_assert_eq(device->ops->scratch_bytes(device), second);
    }
}

static void body(void *user)
{
    ++*(int *)user;
}

Test(gpu_device, keeps_the_scratch_that_it_has_where_there_is_no_memory_for_more)
{
    static const struct lode_limits small = {
        .rows = 16, .cols = 256, .ffn_width = 64, .n_heads = 1, .head_size = 32, .expert_rows = 8};
    struct lode_limits large = small;
    large.rows = 1 << 20;
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt0:memory=16M");
    struct lode_error error = {0};
    float values[256] = {1, 2, 3}, back[256];
    gpu_reserve_for(device, &small);
    const size_t scratch = device->ops->scratch_bytes(device);
    const uint64_t allocated = device->allocated_bytes;
    cr_assert_eq(device->ops->reserve(device, &large, &error), LODE_ERR_MEMORY, "%s", error.text);
    cr_assert_eq(device->ops->scratch_bytes(device), scratch);
    cr_assert_eq(device->allocated_bytes, allocated);
    // A product that quantises its input needs scratch.
    static uint8_t blocks[64][256 / 32 * 34];
    const struct lode_matrix weights = {blocks, LODE_Q8_0, 64, 256, sizeof blocks[0], LODE_LAYOUT_FILE};
    struct lode_rows x = gpu_rows_up(device, (struct lode_rows){values, 1, 256, 256}),
                     out = gpu_rows_up(device, (struct lode_rows){back, 1, 64, 64});
    struct lode_matrix matrix = gpu_matrix_up(device, &weights);
    device->ops->matmul(device, &out, &matrix, 1, x);
    gpu_must(device->ops->sync(device, &error), &error);
    gpu_release(device, x.data);
    gpu_release(device, out.data);
    gpu_release(device, matrix.data);
    gpu_test_close(&list, device);
}

Test(gpu_device, runs_a_pass_once)
{
    FOR_GPU_DEVICES(device)
    {
        int calls = 0;
        device->ops->pass(device, body, &calls);
        cr_assert_eq(calls, 1);
    }
}

// ---- faults

// Every way of asking tells the same, and operations do nothing.
static void check_faulted(struct lode_device *device, float *there, float was, const char *words)
{
    struct lode_error error = {0}, again = {0};
    struct lode_rows rows = {there, 1, 1, 1};
    float back = -1;
    cr_assert_lt(device->ops->sync(device, &error), 0);
    cr_assert_not_null(strstr(error.text, words), "%s", error.text);
    cr_assert_not_null(strstr(error.text, device->name), "%s", error.text);
    device->ops->add(device, rows, rows, rows, 1);
    cr_assert_eq(device->ops->download(device, &back, there, sizeof back, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    cr_assert_eq(back, -1, "what there was: %g", (double)was);
    cr_assert_eq(device->ops->upload(device, there, &back, sizeof back, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    cr_assert_eq(device->ops->sync(device, NULL), error.code);
    void *memory;
    cr_assert_eq(device->ops->alloc(device, &memory, 1, &again), error.code);
    cr_assert_str_eq(again.text, error.text);
    uint64_t ticket;
    cr_assert_eq(device->ops->copy_in(device, there, &back, 4, 0, &ticket, &again), error.code);
    cr_assert(device->ops->copy_done(device, 12)); // nobody shall wait
    device->ops->copy_await(device, 12);
    cr_assert_eq(device->ops->fence(device), 0);
}

Test(gpu_device, keeps_the_fault_of_a_call_beyond_its_scratch)
{
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt0");
    const float one[256] = {1};
    float *there = gpu_bytes_up(device, one, sizeof one);
    const struct lode_matrix weight = {there, LODE_Q8_0, 1, 32, 34, LODE_LAYOUT_FILE};
    const struct lode_rows x = {there, 1, 32, 32}, out = {there + 64, 1, 1, 1};
    device->ops->matmul(device, &out, &weight, 1, x); // nothing was reserved
    check_faulted(device, there, 1, "reserved");
    gpu_release(device, there);
    gpu_test_close(&list, device);
}

Test(gpu_device, keeps_the_fault_of_memory_that_is_not_its_own)
{
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt1");
    float one = 1, mine = 3;
    float *there = gpu_bytes_up(device, &one, sizeof one);
    struct lode_error error;
    cr_assert_lt(device->ops->upload(device, &mine, &one, sizeof one, &error), 0);
    cr_assert_eq(mine, 3);
    check_faulted(device, there, 1, "memory");
    gpu_release(device, there);
    gpu_test_close(&list, device);
}

Test(gpu_device, keeps_the_fault_of_a_kernel_until_the_next_wait_and_ever_after)
{
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt0");
    float one[64] = {1};
    float *there = gpu_bytes_up(device, one, sizeof one);
    const struct lode_rows beyond = {there, 4096, 64, 64};
    device->ops->scale(device, beyond, 2); // far beyond what was allocated
    check_faulted(device, there, 1, "simt0");
    gpu_release(device, there);
    gpu_test_close(&list, device);
}

// ---- the timeline

static size_t count_in(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word))
        n++;
    return n;
}

static char *written(const struct lode_timeline *timeline)
{
    char path[] = "/tmp/lode-timeline-XXXXXX";
    struct lode_error error;
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    gpu_must(lode_timeline_write(timeline, path, &error), &error);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    char *text = calloc(1, 8 << 20);
    cr_assert_gt(fread(text, 1, (8 << 20) - 1, file), 0);
    fclose(file);
    unlink(path);
    return text;
}

Test(gpu_device, tells_when_its_operations_and_copies_ran)
{
    FOR_GPU_DEVICES(device)
    {
        enum { SCALES = 5000, COPIES = 30 }; // more than are kept untold
        struct lode_timeline *timeline;
        struct lode_error error;
        float one[32] = {1};
        void *pinned;
        float *there = gpu_bytes_up(device, one, sizeof one), *other = gpu_bytes_up(device, one, sizeof one);
        const struct lode_rows rows = {there, 1, 32, 32};
        gpu_must(device->ops->alloc_pinned(device, &pinned, sizeof one, &error), &error);
        gpu_must(lode_timeline_open(&timeline, 20000, &error), &error);
        lode_device_timeline(device, timeline);
        device->layer = 3;
        uint64_t ticket = 0;
        for (int i = 0; i < SCALES; i++) {
            device->ops->scale(device, rows, 1);
            if (i < COPIES)
                gpu_must(device->ops->copy_in(device, other, pinned, sizeof one, 0, &ticket, &error), &error);
        }
        device->ops->copy_await(device, ticket);
        gpu_must(device->ops->sync(device, &error), &error);
        lode_device_timeline(device, NULL);
        device->ops->scale(device, rows, 1); // not told
        gpu_must(device->ops->sync(device, &error), &error);

        char *text = written(timeline), lane[64];
        cr_assert_eq(lode_timeline_dropped(timeline), 0);
        cr_assert_eq(count_in(text, "\"scale\""), SCALES);
        cr_assert_eq(count_in(text, "\"copy in\""), COPIES);
        snprintf(lane, sizeof lane, "\"%s\"", device->name);
        cr_assert_gt(count_in(text, lane), 0);
        snprintf(lane, sizeof lane, "\"%s copies\"", device->name);
        cr_assert_gt(count_in(text, lane), 0);
        free(text);
        lode_timeline_close(timeline);
        device->ops->free_pinned(device, pinned);
        gpu_release(device, there), gpu_release(device, other);
    }
}
