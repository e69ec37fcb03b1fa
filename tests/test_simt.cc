// Kernels executed on the CPU: threads of a block, what they exchange, and what they may not do.
#include "tests/simt_world.h"

#include <stdlib.h>

#if defined __SANITIZE_ADDRESS__
#define ADDRESS_SANITIZER
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER
#endif
#endif

// ---- indices

struct where {
    uint32_t thread, block, threads, blocks;
};

GPU_KERNEL void write_where(struct where *out)
{
    const uint32_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const uint32_t threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = {thread, block, threads, gridDim.x * gridDim.y * gridDim.z};
}

Test(simt, every_thread_of_every_block_runs_once_and_knows_where_it_is)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    const uint32_t threads = 8 * 4 * 3, blocks = 3 * 2 * 5, n = threads * blocks;
    struct where *out = simt_world_alloc<struct where>(&world, n), host[n];
    GPU_LAUNCH(write_where, dim3(3, 2, 5), dim3(8, 4, 3), world.stream, out);
    simt_world_out(&world, host, out, sizeof host);
    for (uint32_t i = 0; i < n; i++)
        cr_assert(host[i].thread == i % threads && host[i].block == i / threads &&
                      host[i].threads == threads && host[i].blocks == blocks,
                  "element %u", i);
    simt_world_close(&world);
}

// ---- arguments

struct pair {
    const int *from;
    int factor;
};

template <typename T, int ADD> GPU_KERNEL void GPU_BLOCK(32) take(T *out, struct pair pair, size_t n, T more)
{
    if (threadIdx.x < n)
        out[threadIdx.x] = pair.from[threadIdx.x] * pair.factor + more + ADD;
}

Test(simt, arguments_are_copied_and_converted_at_the_launch)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int host[32];
    for (int i = 0; i < 32; i++)
        host[i] = i;
    int *in = simt_world_alloc<int>(&world, 32);
    float *out = simt_world_alloc<float>(&world, 32), result[32];
    simt_world_in(&world, in, host, sizeof host);
    struct pair pair = {in, 3};
    GPU_LAUNCH((take<float, 7>), 1, 32, world.stream, out, pair, 31u, 1);
    pair = {NULL, 0};
    simt_world_out(&world, result, out, sizeof result);
    for (int i = 0; i < 31; i++)
        cr_assert_eq(result[i], static_cast<float>(3 * i + 8));
    cr_expect(isnan(result[31]), "memory that nobody wrote is not NaN");
    simt_world_close(&world);
}

// ---- exchanges and barriers

GPU_KERNEL void shuffles(int *out, double *wide)
{
    const unsigned lane = threadIdx.x % 32;
    int value = static_cast<int>(threadIdx.x);
    // Without a barrier between them: each must read what belongs to it.
    for (int i = 0; i < 50; i++)
        value = gpu_shuffle(value, lane + 1);
    value = value * 1000 + gpu_shuffle_xor(static_cast<int>(lane), 5);
    out[threadIdx.x] = value;
    wide[threadIdx.x] = gpu_shuffle(0.5 + threadIdx.x, 3);
}

Test(simt, shuffles_exchange_values_within_groups_of_32)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *out = simt_world_alloc<int>(&world, 96), host[96];
    double *wide = simt_world_alloc<double>(&world, 96), host_wide[96];
    for (int turn = 0; turn < 2; turn++) { // upwards and downwards
        GPU_LAUNCH(shuffles, 1, 96, world.stream, out, wide);
        simt_world_out(&world, host, out, sizeof host);
        simt_world_out(&world, host_wide, wide, sizeof host_wide);
        for (int i = 0; i < 96; i++) {
            cr_assert_eq(host[i], (i / 32 * 32 + (i + 50) % 32) * 1000 + (i % 32 ^ 5), "thread %d", i);
            cr_assert_eq(host_wide[i], i / 32 * 32 + 3.5);
        }
    }
    simt_world_close(&world);
}

GPU_KERNEL void block_sum(float *out, const float *in, uint32_t n)
{
    GPU_SHARED(float, part, 32);
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += in[i];
    sum = gpu_lanes_sum(sum);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    for (uint32_t round = 0; round < 10; round++) { // every thread writes what another reads
        const float mine = part[(threadIdx.x / 32 + round) % (blockDim.x / 32)];
        __syncthreads();
        if (threadIdx.x % 32 == 0)
            part[threadIdx.x / 32] = mine;
        __syncthreads();
    }
    sum = 0;
    for (uint32_t i = 0; i < blockDim.x / 32; i++)
        sum += part[i];
    if (threadIdx.x == blockDim.x - 1)
        out[blockIdx.x] = sum;
}

GPU_KERNEL void rotate(int *out)
{
    GPU_SHARED(int, ring, SIMT_THREADS);
    ring[threadIdx.x] = static_cast<int>(threadIdx.x);
    for (int i = 0; i < 7; i++) {
        __syncthreads();
        const int next = ring[(threadIdx.x + 1) % blockDim.x];
        __syncthreads();
        ring[threadIdx.x] = next;
    }
    out[threadIdx.x] = ring[threadIdx.x];
}

Test(simt, barriers_separate_writes_of_one_thread_from_reads_of_another)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *out = simt_world_alloc<int>(&world, SIMT_THREADS), host[SIMT_THREADS];
    for (unsigned threads = 32; threads <= SIMT_THREADS; threads *= 2) {
        GPU_LAUNCH(rotate, 2, threads, world.stream, out);
        simt_world_out(&world, host, out, threads * sizeof *out);
        for (unsigned i = 0; i < threads; i++)
            cr_assert_eq(host[i], static_cast<int>((i + 7) % threads), "%u threads, thread %u", threads, i);
    }
    float in[1000], sums[3];
    for (int i = 0; i < 1000; i++)
        in[i] = static_cast<float>(i);
    float *from = simt_world_alloc<float>(&world, 1000), *to = simt_world_alloc<float>(&world, 3);
    simt_world_in(&world, from, in, sizeof in);
    // Every round rotates the parts of the groups.
    GPU_LAUNCH(block_sum, 3, 256, world.stream, to, from, 1000u);
    simt_world_out(&world, sums, to, sizeof sums);
    for (float sum : sums)
        cr_expect_eq(sum, 499500.0f);
    simt_world_close(&world);
}

// Reads what its neighbour wrote without waiting for it.
GPU_KERNEL void no_barrier(int *out, bool lanes)
{
    GPU_SHARED(int, ring, 64);
    ring[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (lanes)
        gpu_sync_lanes();
    out[blockIdx.x * 64 + threadIdx.x] = ring[(threadIdx.x + 32) % 64];
}

Test(simt, a_missing_barrier_shows_in_both_directions)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *out = simt_world_alloc<int>(&world, 128), host[128];
    for (int lanes = 0; lanes < 2; lanes++) {
        GPU_LAUNCH(no_barrier, 2, 64, world.stream, out, lanes != 0);
        simt_world_out(&world, host, out, sizeof host);
        int stale[2] = {0, 0};
        for (int i = 0; i < 128; i++)
            stale[i / 64] += host[i] != (i % 64 + 32) % 64;
        cr_expect(stale[0] >= 32 && stale[1] >= 32, "%d and %d stale", stale[0], stale[1]);
        // One block went up, the other down: different halves saw nothing yet.
        cr_expect((host[0] != 32) != (host[64] != 32), "both blocks in the same order");
    }
    simt_world_close(&world);
}

// ---- matrices

GPU_KERNEL void multiply(int *d, const int8_t *a, const int8_t *b) // D [16][8] += A [16][32] B [32][8]
{
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    int a_words[4], b_words[2] = {0, 0}, sums[4];
    for (unsigned i = 0; i < 4; i++)
        memcpy(&a_words[i], a + (g + i % 2 * 8) * 32 + 4 * t + i / 2 * 16, 4);
    for (unsigned i = 0; i < 2; i++)
        for (unsigned byte = 0; byte < 4; byte++)
            b_words[i] |= static_cast<uint8_t>(b[(4 * t + byte + 16 * i) * 8 + g]) << 8 * byte;
    for (unsigned i = 0; i < 4; i++)
        sums[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    gpu_mma_s8_16x8x32(sums, a_words, b_words);
    gpu_mma_s8_16x8x32(sums, a_words, b_words);
    for (unsigned i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

Test(simt, matrix_product_of_32_lanes_equals_plain_loops)
{
    struct simt_world world;
    simt_world_open(&world, 1, NULL);
    int8_t a[16 * 32], b[32 * 8];
    int d[16 * 8], result[16 * 8];
    srand(5);
    for (int8_t &x : a)
        x = static_cast<int8_t>(rand() % 256 - 128);
    for (int8_t &x : b)
        x = static_cast<int8_t>(rand() % 256 - 128);
    for (int &x : d)
        x = rand() % 1000 - 500;
    int8_t *on_a = simt_world_alloc<int8_t>(&world, sizeof a),
           *on_b = simt_world_alloc<int8_t>(&world, sizeof b);
    int *on_d = simt_world_alloc<int>(&world, 16 * 8);
    simt_world_in(&world, on_a, a, sizeof a);
    simt_world_in(&world, on_b, b, sizeof b);
    simt_world_in(&world, on_d, d, sizeof d);
    GPU_LAUNCH(multiply, 1, 32, world.stream, on_d, on_a, on_b);
    simt_world_out(&world, result, on_d, sizeof result);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            int sum = d[row * 8 + column];
            for (int k = 0; k < 32; k++)
                sum += 2 * a[row * 32 + k] * b[k * 8 + column];
            cr_expect_eq(result[row * 8 + column], sum, "row %d, column %d", row, column);
        }
    simt_world_close(&world);
}

// ---- shared memory

GPU_KERNEL void read_shared(float *out)
{
    GPU_SHARED(float, unset, 32);
    GPU_SHARED(uint16_t, halves, 33);
    out[blockIdx.x * 64 + threadIdx.x] = unset[threadIdx.x];
    out[blockIdx.x * 64 + 32 + threadIdx.x] = gpu_half_to_float(halves[threadIdx.x + 1]);
    __syncthreads();
    unset[threadIdx.x] = 1;
    halves[threadIdx.x] = 1;
}

Test(simt, shared_memory_that_nobody_wrote_is_nan_in_every_block)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    float *out = simt_world_alloc<float>(&world, 3 * 64), host[3 * 64];
    simt_world_in(&world, out, host, 0);
    GPU_LAUNCH(read_shared, 3, 32, world.stream, out);
    simt_world_out(&world, host, out, sizeof host);
    for (float value : host)
        cr_assert(isnan(value), "%g", static_cast<double>(value));
    simt_world_close(&world);
}

GPU_KERNEL void overrun_shared(int *out, int index)
{
    GPU_SHARED(int, left, 5);
    GPU_SHARED(int, right, 32);
    right[threadIdx.x] = 1;
    if (threadIdx.x == 3 && blockIdx.x == 1)
        static_cast<volatile int *>(left)[index] = 1;
    __syncthreads();
    out[threadIdx.x] = right[threadIdx.x];
}

#ifndef ADDRESS_SANITIZER // it ends the process there
Test(simt, a_write_beyond_shared_memory_is_a_fault)
{
    for (int index = -1; index <= 5; index += 6) {
        struct simt_world world;
        simt_world_open(&world, 0, NULL);
        int *out = simt_world_alloc<int>(&world, 32);
        GPU_LAUNCH(overrun_shared, 4, 32, world.stream, out, index);
        const char *words[] = {"simt0", "kernel overrun_shared", "block (1, 0, 0)", "'left'", NULL};
        simt_world_faults(&world, words);
        simt_world_close(&world);
    }
}
#endif

GPU_KERNEL void much_shared(int *out)
{
    GPU_SHARED(int, first, 12 * 1024);
    first[threadIdx.x] = 0;
    __syncthreads();
    GPU_SHARED(int, second, 1);
    second[0] = 0;
    out[threadIdx.x] = first[threadIdx.x];
}

GPU_KERNEL void other_shared(int *out)
{
    if (threadIdx.x % 2) {
        GPU_SHARED(int, odd, 32);
        odd[threadIdx.x] = 1;
    } else {
        GPU_SHARED(int, even, 32);
        even[threadIdx.x] = 1;
    }
    out[threadIdx.x] = 0;
}

Test(simt, shared_memory_of_no_gpu_is_a_fault)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *out = simt_world_alloc<int>(&world, 32);
    GPU_LAUNCH(much_shared, 1, 32, world.stream, out);
    const char *much[] = {"kernel much_shared", "49152 bytes", NULL};
    simt_world_faults(&world, much);
    simt_world_close(&world);

    simt_world_open(&world, 0, NULL);
    out = simt_world_alloc<int>(&world, 32);
    GPU_LAUNCH(other_shared, 1, 32, world.stream, out);
    const char *other[] = {"kernel other_shared", "thread (1, 0, 0)", "other shared memory", NULL};
    simt_world_faults(&world, other);
    simt_world_close(&world);
}

// ---- threads that do not come

GPU_KERNEL void some_wait(int *out, int how)
{
    out[threadIdx.x] = 0;
    if (how == 0 && threadIdx.x >= 40)
        __syncthreads();
    if (how == 1 && threadIdx.x != 7)
        out[threadIdx.x] = gpu_shuffle(1, 0);
    if (how == 2) {
        if (threadIdx.x < 5)
            gpu_sync_lanes();
        else
            __syncthreads();
    }
    if (how == 3) {
        if (threadIdx.x % 32 < 16)
            out[threadIdx.x] = gpu_shuffle(1, 0);
        else
            gpu_sync_lanes();
    }
}

Test(simt, threads_that_wait_for_others_that_never_come_are_a_fault)
{
    const char *const words[4][4] = {
        {"24 of 64 threads wait at __syncthreads", "the first is thread 40", "40 have ended", NULL},
        {"31 of 64 threads wait at gpu_shuffle", "33 have ended", "block (0, 0, 0)", NULL},
        {"59 of 64 threads wait at __syncthreads", "5 of 64 threads wait at gpu_sync_lanes", "0 have ended",
         NULL},
        {"thread (16, 0, 0)", "another exchange", "gpu_shuffle", NULL},
    };
    for (int how = 0; how < 4; how++) {
        struct simt_world world;
        simt_world_open(&world, 0, NULL);
        int *out = simt_world_alloc<int>(&world, 64);
        GPU_LAUNCH(some_wait, 2, 64, world.stream, out, how);
        simt_world_faults(&world, words[how]);
        cr_expect(strstr(world.error.text, "kernel some_wait"), "%s", world.error.text);
        simt_world_close(&world);
    }
}

// ---- memory that is not there

GPU_KERNEL void touch(int *memory, int64_t offset, bool write, int *out)
{
    gpu_sync_lanes();
    if (threadIdx.x == 9 && blockIdx.x == 2) {
        volatile int *at = memory + offset;
        if (write)
            *at = 1;
        else
            *out = *at;
    }
    gpu_sync_lanes();
}

Test(simt, reads_and_writes_beside_an_allocation_are_a_fault)
{
    const struct {
        int64_t offset;
        bool write;
        const char *what;
    } cases[] = {
        {64, true, "0 bytes behind an allocation of 256 bytes"},
        {64, false, "0 bytes behind an allocation of 256 bytes"},
        {1000, true, "3744 bytes behind an allocation of 256 bytes"},
        {-1024, false, "4096 bytes before an allocation of 256 bytes"},
    };
    for (const auto &one : cases) {
        struct simt_world world;
        simt_world_open(&world, 1, NULL);
        int *memory = simt_world_alloc<int>(&world, 64), *out = simt_world_alloc<int>(&world, 1);
        GPU_LAUNCH(touch, 3, 32, world.stream, memory, one.offset, one.write, out);
#ifdef __x86_64__
        const char *access = one.write ? "wrote memory" : "read memory";
#else
        const char *access = "memory";
#endif
        const char *words[] = {
            "simt1", "kernel touch", "block (2, 0, 0)", "thread (9, 0, 0)", one.what, access, NULL};
        simt_world_faults(&world, words);

        // It stays the device's: what comes later is not done.
        int host = 0;
        cr_expect_lt(
            gpu_stream_copy(world.context, world.stream, memory, &host, 4, GPU_COPY_IN, &world.error), 0);
        cr_expect_lt(gpu_stream_zero(world.context, world.stream, memory, 4, &world.error), 0);
        GPU_LAUNCH(touch, 3, 32, world.stream, memory, static_cast<int64_t>(0), false, out);
        const char *same[] = {"kernel touch", one.what, NULL};
        simt_world_faults(&world, same);
        simt_world_close(&world);
    }
    struct simt_world world; // and another's is not
    simt_world_open(&world, 1, NULL);
    int *memory = simt_world_alloc<int>(&world, 64), *out = simt_world_alloc<int>(&world, 1);
    GPU_LAUNCH(touch, 3, 32, world.stream, memory, static_cast<int64_t>(63), true, out);
    cr_expect_eq(gpu_stream_wait(world.context, world.stream, &world.error), 0);
    simt_world_close(&world);
}

Test(simt, a_write_into_the_rounding_of_an_allocation_shows_when_it_is_freed)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *memory = simt_world_alloc<int>(&world, 3), *out = simt_world_alloc<int>(&world, 1);
    GPU_LAUNCH(touch, 3, 32, world.stream, memory, static_cast<int64_t>(3), true, out);
    cr_expect_eq(gpu_stream_wait(world.context, world.stream, &world.error), 0);
    gpu_memory_free(world.context, memory);
    const char *words[] = {"byte 12 of an allocation of 12 bytes", NULL};
    simt_world_faults(&world, words);
    simt_world_close(&world);
}

GPU_KERNEL void deep(int *out, int n)
{
    volatile char much[200 * 1024];
    for (int i = 0; i < n; i++)
        much[i] = static_cast<char>(i);
    out[threadIdx.x] = much[n / 2];
}

#ifndef ADDRESS_SANITIZER
Test(simt, local_variables_that_are_too_large_are_a_fault)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *out = simt_world_alloc<int>(&world, 32);
    GPU_LAUNCH(deep, 1, 32, world.stream, out, 200 * 1024);
    const char *words[] = {"kernel deep", "local variables", NULL};
    simt_world_faults(&world, words);
    simt_world_close(&world);
}
#endif

__attribute__((no_sanitize("undefined"))) GPU_KERNEL void divide(int *out, int by, bool trap)
{
    if (trap && threadIdx.x == 2)
        __builtin_trap();
    out[threadIdx.x] = 5 / static_cast<volatile int &>(by);
}

#ifdef __x86_64__ // others do not stop at a division by zero
Test(simt, divisions_by_zero_and_traps_are_a_fault)
{
    const char *const words[2][3] = {{"kernel divide", "divided an integer by zero", NULL},
                                     {"thread (2, 0, 0)", "came to a trap", NULL}};
    for (int trap = 0; trap < 2; trap++) {
        struct simt_world world;
        simt_world_open(&world, 0, NULL);
        int *out = simt_world_alloc<int>(&world, 32);
        GPU_LAUNCH(divide, 1, 32, world.stream, out, trap, trap != 0);
        simt_world_faults(&world, words[trap]);
        simt_world_close(&world);
    }
}
#endif

Test(simt, launches_that_no_gpu_takes_are_a_fault)
{
    const struct {
        dim3 grid, block;
        const char *what;
    } cases[] = {
        {1, 48, "blocks of (48, 1, 1) threads"},
        {1, 1056, "blocks of (1056, 1, 1) threads"},
        {1, dim3(32, 0), "blocks of (32, 0, 1) threads"},
        {0, 32, "a grid of (0, 1, 1) blocks"},
        {dim3(1, 70000), 32, "a grid of (1, 70000, 1) blocks"},
    };
    for (const auto &one : cases) {
        struct simt_world world;
        simt_world_open(&world, 0, NULL);
        int *out = simt_world_alloc<int>(&world, 64);
        GPU_LAUNCH(some_wait, one.grid, one.block, world.stream, out, 4);
        const char *words[] = {"kernel some_wait", one.what, NULL};
        simt_world_faults(&world, words);
        simt_world_close(&world);
    }
}

Test(simt, a_pointer_to_memory_of_the_host_or_another_device_is_a_fault)
{
    struct simt_world world, other;
    simt_world_open(&other, 1, NULL);
    int host[64], *on_other = simt_world_alloc<int>(&other, 64);
    for (int *pointer : {host, on_other}) {
        simt_world_open(&world, 0, NULL);
        GPU_LAUNCH(some_wait, 1, 64, world.stream, pointer, 4);
        const char *words[] = {"kernel some_wait", "pointer 1", "not to memory of the device", NULL};
        simt_world_faults(&world, words);
        simt_world_close(&world);
    }
    void *pinned; // which a GPU can reach
    simt_world_open(&world, 0, NULL);
    cr_assert_eq(gpu_pinned_alloc(world.context, &pinned, sizeof host, &world.error), 0);
    GPU_LAUNCH(some_wait, 1, 64, world.stream, static_cast<int *>(pinned), 4);
    cr_expect_eq(gpu_stream_wait(world.context, world.stream, &world.error), 0, "%s", world.error.text);
    cr_expect_eq(static_cast<int *>(pinned)[63], 0);
    simt_world_close(&world);
    simt_world_close(&other);
}
