// The memory of a GPU device: what is allocated, uploaded and brought back, and copies beside the operations
// in their order.
#include "base/clock.h"
#include "tests/gpu_devices.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *make_bytes(size_t n, unsigned seed)
{
    unsigned char *bytes = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)((i * 2654435761u + seed * 40503u) >> 13);
    return bytes;
}

// A simulated device with a link that takes its time, in a list of its own.
Test(gpu_memory, brings_back_what_was_uploaded_of_any_size)
{
    static const size_t sizes[] = {0, 1, 3, 64, 4097, 1 << 20, (1 << 20) + 1, 5000001, 9 << 20};
    FOR_GPU_DEVICES(device)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            unsigned char *bytes = make_bytes(sizes[i], (unsigned)i), *back = malloc(sizes[i] + 1);
            back[sizes[i]] = 77;
            void *memory = gpu_bytes_up(device, bytes, sizes[i]);
            gpu_bytes_down(device, back, memory, sizes[i]);
            cr_assert_eq(memcmp(back, bytes, sizes[i]), 0, "%s: %zu bytes", device->name, sizes[i]);
            cr_assert_eq(back[sizes[i]], 77);
            gpu_release(device, memory);
            free(bytes), free(back);
        }
    }
}

Test(gpu_memory, gives_aligned_memory_full_of_zeros_with_slack)
{
    static const size_t sizes[] = {1, 100, 65536, 1000001};
    FOR_GPU_DEVICES(device)
    {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            // What others have written there does not stay.
            for (int round = 0; round < 2; round++) {
                void *memory;
                struct lode_error error;
                gpu_must(device->ops->alloc(device, &memory, sizes[i], &error), &error);
                cr_assert_eq((uintptr_t)memory % LODE_DEVICE_ALIGN, 0);
                const size_t bytes = sizes[i] + LODE_DEVICE_SLACK;
                unsigned char *back = malloc(bytes);
                gpu_bytes_down(device, back, memory, bytes);
                for (size_t at = 0; at < bytes; at++)
                    cr_assert_eq(back[at], 0, "%s: byte %zu of %zu", device->name, at, sizes[i]);
                memset(back, 0x5a, bytes);
                gpu_must(device->ops->upload(device, memory, back, bytes, &error), &error);
                device->ops->free(device, memory, sizes[i]);
                free(back);
            }
        }
        device->ops->free(device, NULL, 0);
    }
}

Test(gpu_memory, refuses_more_memory_than_there_is_and_goes_on)
{
    FOR_GPU_DEVICES(device)
    {
        static const size_t sizes[] = {(size_t)1 << 45, SIZE_MAX - 16, SIZE_MAX};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *memory = device;
            struct lode_error error = {0};
            cr_assert_eq(device->ops->alloc(device, &memory, sizes[i], &error), LODE_ERR_MEMORY);
            cr_assert_null(memory);
            cr_assert_not_null(strstr(error.text, device->name), "%s", error.text);
        }
        unsigned char byte = 7, back = 0;
        void *memory = gpu_bytes_up(device, &byte, 1);
        gpu_bytes_down(device, &back, memory, 1);
        cr_assert_eq(back, 7);
        gpu_release(device, memory);
    }
}

Test(gpu_memory, counts_its_memory)
{
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt0:memory=16M");
    uint64_t before, with, after, total;
    struct lode_error error;
    void *memory;
    gpu_must(device->ops->memory(device, &before, &total, &error), &error);
    cr_assert_eq(total, 16u << 20);
    cr_assert_leq(before, total);
    gpu_must(device->ops->alloc(device, &memory, 4 << 20, &error), &error);
    gpu_must(device->ops->memory(device, &with, &total, &error), &error);
    cr_assert_leq(with + (4 << 20), before);
    device->ops->free(device, memory, 4 << 20);
    gpu_must(device->ops->memory(device, &after, &total, &error), &error);
    cr_assert_eq(after, before);
    gpu_test_close(&list, device);
}

Test(gpu_memory, copies_within_itself_in_order)
{
    FOR_GPU_DEVICES(device)
    {
        enum { BYTES = 100003 };
        struct lode_error error;
        unsigned char *first = make_bytes(BYTES, 1), *second = make_bytes(BYTES, 2), *back = malloc(BYTES);
        unsigned char *a = gpu_bytes_up(device, first, BYTES), *b = gpu_bytes_up(device, second, BYTES);
        unsigned char *c = gpu_bytes_up(device, second, BYTES);
        gpu_must(device->ops->copy(device, b, a, BYTES, &error), &error);
        gpu_must(device->ops->upload(device, a, second, BYTES, &error), &error);
        gpu_must(device->ops->copy(device, c + 3, b, 1000, &error), &error);
        gpu_must(device->ops->copy(device, c, b, 0, &error), &error);
        gpu_bytes_down(device, back, b, BYTES);
        cr_assert_eq(memcmp(back, first, BYTES), 0);
        gpu_bytes_down(device, back, c, BYTES);
        cr_assert_eq(memcmp(back + 3, first, 1000), 0);
        cr_assert_eq(memcmp(back + 1003, second + 1003, BYTES - 1003), 0);
        cr_assert_eq(memcmp(back, second, 3), 0);
        gpu_release(device, a), gpu_release(device, b), gpu_release(device, c);
        free(first), free(second), free(back);
    }
}

Test(gpu_memory, uploads_stand_when_their_source_is_overwritten)
{
    FOR_GPU_DEVICES(device)
    {
        // Together many times the memory that uploads go through.
        enum { N = 40, BYTES = 300000 };
        struct lode_error error;
        void *memory[N];
        unsigned char *source = malloc(BYTES), *back = malloc(BYTES);
        for (int i = 0; i < N; i++)
            gpu_must(device->ops->alloc(device, &memory[i], BYTES, &error), &error);
        for (int i = 0; i < N; i++) {
            memset(source, i + 1, BYTES);
            gpu_must(device->ops->upload(device, memory[i], source, BYTES - (size_t)i, &error), &error);
        }
        for (int i = 0; i < N; i++) {
            gpu_bytes_down(device, back, memory[i], BYTES);
            for (int at = 0; at < BYTES; at++)
                cr_assert_eq(back[at], at < BYTES - i ? i + 1 : 0, "upload %d, byte %d", i, at);
            device->ops->free(device, memory[i], BYTES);
        }
        free(source), free(back);
    }
}

// ---- copies beside the operations

Test(gpu_memory, copies_begin_behind_their_fence_and_are_awaited)
{
    struct device_list list;
    struct lode_device *slow = gpu_test_open(&list, "simt1:link=0.1:latency=200");
    FOR_GPU_DEVICES(fast)
    {
        struct lode_device *const both[] = {fast, slow};
        for (int d = 0; d < 2; d++) {
            struct lode_device *device = both[d];
            enum { BYTES = 1 << 20, ROUNDS = 4 };
            struct lode_error error;
            void *pinned[ROUNDS], *before[ROUNDS], *after[ROUNDS];
            unsigned char *bytes = make_bytes(BYTES, 3), *back = malloc(BYTES);
            unsigned char *slot = gpu_bytes_up(device, bytes, BYTES);
            for (int r = 0; r < ROUNDS; r++) {
                gpu_must(device->ops->alloc_pinned(device, &pinned[r], BYTES, &error), &error);
                memset(pinned[r], r + 1, BYTES);
                gpu_must(device->ops->alloc(device, &before[r], BYTES, &error), &error);
                gpu_must(device->ops->alloc(device, &after[r], BYTES, &error), &error);
            }
            // The slot is read, refilled beside, read: all without the host's waiting.
            for (int r = 0; r < ROUNDS; r++) {
                uint64_t ticket;
                gpu_must(device->ops->copy(device, before[r], slot, BYTES, &error), &error);
                const uint64_t fence = device->ops->fence(device);
                cr_assert_gt(fence, 0);
                gpu_must(device->ops->copy_in(device, slot, pinned[r], BYTES, fence, &ticket, &error),
                         &error);
                cr_assert_eq(ticket, (uint64_t)r + 1);
                device->ops->copy_await(device, ticket);
                gpu_must(device->ops->copy(device, after[r], slot, BYTES, &error), &error);
            }
            for (int r = 0; r < ROUNDS; r++) {
                gpu_bytes_down(device, back, before[r], BYTES);
                for (int at = 0; at < BYTES; at++)
                    cr_assert_eq(back[at], r ? r : bytes[at], "%s: round %d, before", device->name, r);
                gpu_bytes_down(device, back, after[r], BYTES);
                for (int at = 0; at < BYTES; at++)
                    cr_assert_eq(back[at], r + 1, "%s: round %d, after", device->name, r);
                cr_assert(device->ops->copy_done(device, (uint64_t)r + 1));
                device->ops->free_pinned(device, pinned[r]);
                device->ops->free(device, before[r], BYTES);
                device->ops->free(device, after[r], BYTES);
            }
            gpu_release(device, slot);
            free(bytes), free(back);
        }
    }
    gpu_test_close(&list, slow);
}

Test(gpu_memory, copies_take_their_time_beside_the_caller)
{
    struct device_list list;
    struct lode_device *device = gpu_test_open(&list, "simt0:link=0.02"); // 52 ms for a MiB
    enum { BYTES = 1 << 20 };
    struct lode_error error;
    void *pinned, *to;
    uint64_t first, second;
    gpu_must(device->ops->alloc_pinned(device, &pinned, BYTES, &error), &error);
    gpu_must(device->ops->alloc(device, &to, BYTES, &error), &error);
    const uint64_t start = clock_now_ns();
    gpu_must(device->ops->copy_in(device, to, pinned, BYTES, 0, &first, &error), &error);
    gpu_must(device->ops->copy_in(device, to, pinned, BYTES, 0, &second, &error), &error);
    const bool early = device->ops->copy_done(device, second);
    // A machine under load may come back late, but then it cannot say that it was early.
    cr_assert(!early || clock_seconds_since(start) > 0.1);
    while (!device->ops->copy_done(device, second))
        cr_assert_lt(clock_seconds_since(start), 60);
    cr_assert_gt(clock_seconds_since(start), 0.1);
    cr_assert(device->ops->copy_done(device, first));
    device->ops->free(device, to, BYTES);
    device->ops->free_pinned(device, pinned);
    gpu_test_close(&list, device);
}

Test(gpu_memory, keeps_thousands_of_tickets_and_fences_apart)
{
    FOR_GPU_DEVICES(device)
    {
        enum { N = 5000, PIECES = 64 };
        struct lode_error error;
        uint32_t *pinned, back[PIECES];
        void *to, *memory;
        gpu_must(device->ops->alloc_pinned(device, (void **)&pinned, N * sizeof *pinned, &error), &error);
        gpu_must(device->ops->alloc(device, &to, sizeof back, &error), &error);
        memory = to;
        for (uint32_t i = 0; i < N; i++) {
            uint64_t ticket;
            pinned[i] = i;
            const uint64_t fence = i % 3 ? device->ops->fence(device) : 0;
            gpu_must(device->ops->copy_in(device, (uint32_t *)memory + i % PIECES, &pinned[i], sizeof *pinned,
                                          fence, &ticket, &error),
                     &error);
            cr_assert_eq(ticket, i + 1u);
            if (i % 7 == 0)
                device->ops->copy_await(device, ticket > 2000 ? ticket - 1999 : 1);
            if (i % 500 == 0 && i > 2500)
                cr_assert(device->ops->copy_done(device, 1));
        }
        device->ops->copy_await(device, N);
        gpu_bytes_down(device, back, memory, sizeof back);
        for (uint32_t i = N - PIECES; i < N; i++)
            cr_assert_eq(back[i % PIECES], i);
        for (uint64_t ticket = 0; ticket <= N; ticket += 50)
            cr_assert(device->ops->copy_done(device, ticket), "%u", (unsigned)ticket);

        // A fence that there has not been is a mistake of the caller, not a fault.
        uint64_t ticket;
        cr_assert_eq(device->ops->copy_in(device, memory, pinned, 4, 1u << 20, &ticket, &error),
                     LODE_ERR_ARGUMENT);
        device->ops->free(device, to, sizeof back);
        device->ops->free_pinned(device, pinned);
    }
}
