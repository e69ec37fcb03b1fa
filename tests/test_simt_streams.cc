// The simulated device as a runtime: memory, streams, events, copies and their time.
#include "tests/simt_world.h"

#include "base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

// Waits for the host, as no kernel of ours does on a GPU: so that a test knows what has not happened yet.
GPU_KERNEL void wait_for_host(int *gate)
{
    if (threadIdx.x == 0)
        while (!__atomic_load_n(gate, __ATOMIC_ACQUIRE))
            usleep(100);
}

GPU_KERNEL void add_one(int *memory)
{
    if (threadIdx.x == 0)
        *memory += 1;
}

GPU_KERNEL void fault(int *memory)
{
    *static_cast<volatile int *>(memory + 4096) = 1;
}

static int *open_gate(struct simt_world *world)
{
    void *gate;
    cr_assert_eq(gpu_pinned_alloc(world->context, &gate, sizeof(int), &world->error), 0);
    *static_cast<int *>(gate) = 0;
    return static_cast<int *>(gate);
}

static void let_go(int *gate)
{
    __atomic_store_n(gate, 1, __ATOMIC_RELEASE);
}

static gpu_event new_event(struct simt_world *world, bool timed)
{
    gpu_event event;
    cr_assert_eq(gpu_event_open(world->context, &event, timed, &world->error), 0);
    return event;
}

static gpu_stream new_stream(struct simt_world *world)
{
    gpu_stream stream;
    cr_assert_eq(gpu_stream_open(world->context, &stream, &world->error), 0);
    return stream;
}

static void record(struct simt_world *world, gpu_event event, gpu_stream stream)
{
    cr_assert_eq(gpu_event_record(world->context, event, stream, &world->error), 0);
}

Test(simt_streams, a_launch_returns_before_the_kernel_is_executed)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *gate = open_gate(&world);
    gpu_event event = new_event(&world, false);
    cr_expect(gpu_event_done(world.context, event), "an event that was never recorded waits for nothing");
    GPU_LAUNCH(wait_for_host, 1, 32, world.stream, gate);
    record(&world, event, world.stream);
    cr_expect_not(gpu_event_done(world.context, event));
    let_go(gate);
    cr_expect_eq(gpu_event_wait(world.context, event, &world.error), 0);
    cr_expect(gpu_event_done(world.context, event));
    gpu_event_close(world.context, event);
    simt_world_close(&world);
}

Test(simt_streams, an_event_orders_two_streams)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    gpu_stream second = new_stream(&world);
    int *gate = open_gate(&world), *memory = simt_world_alloc<int>(&world, 1), host = -1;
    gpu_event first_done = new_event(&world, false), second_done = new_event(&world, false);
    gpu_stream_zero(world.context, world.stream, memory, sizeof(int), &world.error);
    GPU_LAUNCH(wait_for_host, 1, 32, world.stream, gate);
    GPU_LAUNCH(add_one, 1, 32, world.stream, memory);
    record(&world, first_done, world.stream);
    cr_assert_eq(gpu_event_order(world.context, second, first_done, &world.error), 0);
    cr_assert_eq(
        gpu_stream_copy(world.context, second, &host, memory, sizeof host, GPU_COPY_OUT, &world.error), 0);
    record(&world, second_done, second);
    gpu_event_close(world.context, first_done); // what is queued keeps it
    usleep(20000);
    cr_expect_not(gpu_event_done(world.context, second_done), "the second stream did not wait");
    let_go(gate);
    cr_expect_eq(gpu_stream_wait(world.context, second, &world.error), 0);
    cr_expect_eq(host, 1);
    gpu_event_close(world.context, second_done);
    simt_world_close(&world);
}

Test(simt_streams, two_streams_work_at_the_same_time)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    gpu_stream second = new_stream(&world);
    int *gate = open_gate(&world), *memory = simt_world_alloc<int>(&world, 1);
    GPU_LAUNCH(wait_for_host, 1, 32, world.stream, gate);
    gpu_stream_zero(world.context, second, memory, sizeof(int), &world.error);
    GPU_LAUNCH(add_one, 1, 32, second, memory);
    cr_expect_eq(gpu_stream_wait(world.context, second, &world.error), 0);
    let_go(gate);
    gpu_stream_close(world.context, second);
    simt_world_close(&world);
}

Test(simt_streams, two_devices_work_at_the_same_time_and_fault_alone)
{
    struct simt_world first, second;
    simt_world_open(&first, 0, NULL);
    simt_world_open(&second, 1, NULL);
    int *gate = open_gate(&first), *memory = simt_world_alloc<int>(&second, 1), host = 0;
    GPU_LAUNCH(wait_for_host, 1, 32, first.stream, gate);
    // An event of one device orders a stream of the other.
    gpu_event event = new_event(&first, false);
    record(&first, event, first.stream);
    gpu_stream_zero(second.context, second.stream, memory, sizeof(int), &second.error);
    cr_assert_eq(gpu_event_order(second.context, second.stream, event, &second.error), 0);
    GPU_LAUNCH(add_one, 3, 32, second.stream, memory);
    let_go(gate);
    const char *words[] = {"simt0", "kernel fault", NULL};
    int *bad = simt_world_alloc<int>(&first, 1);
    GPU_LAUNCH(fault, 1, 32, first.stream, bad);
    simt_world_faults(&first, words);
    simt_world_out(&second, &host, memory, sizeof host);
    cr_expect_eq(host, 3);
    gpu_event_close(first.context, event);
    simt_world_close(&first);
    simt_world_close(&second);
}

// ---- the queue

struct giver {
    struct simt_world *world;
    int *memory;
    uint32_t given; // atomic
};

#define MANY 700 // more than the queue holds

static void *give_many(void *memory)
{
    struct giver *giver = static_cast<struct giver *>(memory);
    for (uint32_t i = 0; i < MANY; i++) {
        GPU_LAUNCH(add_one, 1, 32, giver->world->stream, giver->memory);
        __atomic_store_n(&giver->given, i + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

Test(simt_streams, a_full_queue_makes_the_caller_wait_and_loses_nothing)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *gate = open_gate(&world), *memory = simt_world_alloc<int>(&world, 1), host = 0;
    gpu_stream_zero(world.context, world.stream, memory, sizeof(int), &world.error);
    GPU_LAUNCH(wait_for_host, 1, 32, world.stream, gate);
    struct giver giver = {&world, memory, 0};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, give_many, &giver), 0);
    for (uint32_t before = 0, quiet = 0; quiet < 50; usleep(1000)) { // until no more are taken
        const uint32_t now = __atomic_load_n(&giver.given, __ATOMIC_ACQUIRE);
        quiet = now && now == before ? quiet + 1 : 0;
        before = now;
    }
    cr_expect_lt(__atomic_load_n(&giver.given, __ATOMIC_ACQUIRE), static_cast<uint32_t>(MANY));
    let_go(gate);
    pthread_join(thread, NULL);
    simt_world_out(&world, &host, memory, sizeof host);
    cr_expect_eq(host, MANY);
    simt_world_close(&world);
}

Test(simt_streams, closing_a_device_waits_for_its_work)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *memory = simt_world_alloc<int>(&world, 1), host = 0;
    gpu_stream_zero(world.context, world.stream, memory, sizeof(int), &world.error);
    for (int i = 0; i < 200; i++)
        GPU_LAUNCH(add_one, 50, 32, world.stream, memory);
    cr_assert_eq(
        gpu_stream_copy(world.context, world.stream, &host, memory, sizeof host, GPU_COPY_OUT, &world.error),
        0);
    simt_world_close(&world);
    cr_expect_eq(host, 200 * 50);
}

// ---- time

static double copy_ms(struct simt_world *world, void *to, const void *from, size_t bytes,
                      enum gpu_copy_kind kind)
{
    gpu_event before = new_event(world, true), behind = new_event(world, true);
    record(world, before, world->stream);
    cr_assert_eq(gpu_stream_copy(world->context, world->stream, to, from, bytes, kind, &world->error), 0);
    record(world, behind, world->stream);
    cr_assert_eq(gpu_event_wait(world->context, behind, &world->error), 0);
    const double ms = static_cast<double>(gpu_event_between_ms(world->context, before, behind));
    gpu_event_close(world->context, before);
    gpu_event_close(world->context, behind);
    return ms;
}

Test(simt_streams, copies_take_the_time_of_the_link)
{
    struct lode_gpu_options options = {};
    options.link_gbps = 0.1; // 1 MB in 10 ms
    options.link_latency_us = 5000;
    struct simt_world world;
    simt_world_open(&world, 0, &options);
    const size_t bytes = 1000000;
    char *memory = simt_world_alloc<char>(&world, bytes), *other = simt_world_alloc<char>(&world, bytes);
    void *host;
    cr_assert_eq(gpu_pinned_alloc(world.context, &host, bytes, &world.error), 0);
    memset(host, 42, bytes);
    const double in_ms = copy_ms(&world, memory, host, bytes, GPU_COPY_IN);
    cr_expect(in_ms >= 15 && in_ms < 150, "%g ms", in_ms);
    const double small_ms = copy_ms(&world, memory, host, 1, GPU_COPY_IN);
    cr_expect(small_ms >= 5, "%g ms", small_ms);
    const double within_ms = copy_ms(&world, other, memory, bytes, GPU_COPY_WITHIN);
    cr_expect_lt(within_ms, in_ms);
    memset(host, 0, bytes);
    const double out_ms = copy_ms(&world, host, other, bytes, GPU_COPY_OUT);
    cr_expect(out_ms >= 15 && out_ms < 150, "%g ms", out_ms);
    cr_expect_eq(static_cast<char *>(host)[bytes - 1], 42);
    simt_world_close(&world);
}

Test(simt_streams, copies_of_two_streams_share_a_direction_of_the_link)
{
    struct lode_gpu_options options = {};
    options.link_gbps = 0.01; // 1 MB in 100 ms
    struct simt_world world;
    simt_world_open(&world, 0, &options);
    gpu_stream second = new_stream(&world);
    const size_t bytes = 1000000;
    char *memory = simt_world_alloc<char>(&world, bytes), *other = simt_world_alloc<char>(&world, bytes);
    void *host, *back;
    cr_assert_eq(gpu_pinned_alloc(world.context, &host, bytes, &world.error), 0);
    cr_assert_eq(gpu_pinned_alloc(world.context, &back, bytes, &world.error), 0);
    double ms[2];
    for (int same = 0; same < 2; same++) {
        const uint64_t start_ns = clock_now_ns();
        gpu_stream_copy(world.context, world.stream, memory, host, bytes, GPU_COPY_IN, &world.error);
        if (same)
            gpu_stream_copy(world.context, second, other, host, bytes, GPU_COPY_IN, &world.error);
        else
            gpu_stream_copy(world.context, second, back, other, bytes, GPU_COPY_OUT, &world.error);
        cr_assert_eq(gpu_stream_wait(world.context, world.stream, &world.error), 0);
        cr_assert_eq(gpu_stream_wait(world.context, second, &world.error), 0);
        ms[same] = clock_seconds_since(start_ns) * 1e3;
    }
    cr_expect(ms[0] >= 100 && ms[0] < 190, "both ways %g ms", ms[0]);
    cr_expect(ms[1] >= 200, "one way %g ms", ms[1]);
    simt_world_close(&world);
}

// ---- memory

Test(simt_streams, a_device_has_so_much_memory_and_no_more)
{
    struct lode_gpu_options options = {};
    options.memory_bytes = 1 << 20;
    struct simt_world world;
    simt_world_open(&world, 0, &options);
    uint64_t free_bytes, total_bytes;
    char *memory = simt_world_alloc<char>(&world, 1000000);
    void *more;
    cr_expect_eq(gpu_memory_alloc(world.context, &more, 100000, &world.error), LODE_ERR_MEMORY);
    cr_expect(strstr(world.error.text, "simt0: no memory for 100000 bytes"), "%s", world.error.text);
    cr_expect_null(more);
    cr_expect_eq(gpu_memory_alloc(world.context, &more, SIZE_MAX - 10, &world.error), LODE_ERR_MEMORY);
    cr_expect_eq(gpu_memory_count(world.context, &free_bytes, &total_bytes, &world.error), 0);
    cr_expect_eq(total_bytes, 1u << 20);
    cr_expect(free_bytes < (1 << 20) - 1000000 && free_bytes > 47000);
    gpu_memory_free(world.context, memory);
    gpu_memory_count(world.context, &free_bytes, &total_bytes, &world.error);
    cr_expect_eq(free_bytes, total_bytes);
    simt_world_alloc<char>(&world, 1 << 20);
    // Of the host there is more.
    cr_expect_eq(gpu_pinned_alloc(world.context, &more, 4 << 20, &world.error), 0);
    cr_expect_eq(reinterpret_cast<uintptr_t>(more) % 4096, 0u);
    gpu_pinned_free(world.context, more);
    cr_expect_eq(gpu_context_fault(world.context, &world.error), 0);
    simt_world_close(&world);
}

Test(simt_streams, copies_beyond_memory_are_refused_and_do_nothing)
{
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    char *memory = simt_world_alloc<char>(&world, 100), host[200] = {0};
    const struct {
        void *to;
        const void *from;
        size_t bytes;
        enum gpu_copy_kind kind;
    } cases[] = {{memory, host, 101, GPU_COPY_IN},       {memory + 50, host, 51, GPU_COPY_IN},
                 {memory - 1, host, 1, GPU_COPY_IN},     {host, memory, 200, GPU_COPY_OUT},
                 {host, host, 10, GPU_COPY_OUT},         {host, host, 10, GPU_COPY_IN},
                 {memory, host, 10, GPU_COPY_WITHIN},    {memory, memory, 10, GPU_COPY_IN},
                 {memory + 10, memory, 10, GPU_COPY_OUT}};
    for (const auto &one : cases)
        cr_expect_eq(
            gpu_stream_copy(world.context, world.stream, one.to, one.from, one.bytes, one.kind, &world.error),
            LODE_ERR_ARGUMENT);
    cr_expect_eq(gpu_stream_zero(world.context, world.stream, memory + 1, 100, &world.error),
                 LODE_ERR_ARGUMENT);
    cr_expect_eq(
        gpu_stream_copy(world.context, world.stream, memory, memory + 50, 50, GPU_COPY_WITHIN, &world.error),
        0);
    cr_expect_eq(gpu_stream_wait(world.context, world.stream, &world.error), 0);
    simt_world_close(&world);
}

Test(simt_streams, there_are_two_devices_and_options_are_checked)
{
    struct lode_error error;
    struct lode_gpu gpu;
    struct gpu_context *context;
    uint32_t n;
    cr_expect_eq(gpu_runtime_count(&n, &error), 0);
    cr_expect_eq(n, 2u);
    cr_expect_eq(gpu_runtime_describe(&gpu, 1, &error), 0);
    cr_expect_str_eq(gpu.architecture, "simt");
    cr_expect(gpu.is_built && gpu.memory_bytes == UINT64_C(1) << 30);
    cr_expect_eq(gpu_runtime_describe(&gpu, 2, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(gpu_context_open(&context, 2, NULL, &error), LODE_ERR_ARGUMENT);
    struct lode_gpu_options options = {};
    options.link_gbps = -1;
    cr_expect_eq(gpu_context_open(&context, 0, &options, &error), LODE_ERR_ARGUMENT);
    options.link_gbps = NAN;
    cr_expect_eq(gpu_context_open(&context, 0, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_str_eq(gpu_runtime_name, "simt");
}

// ---- what is not ours

static void on_segv(int number)
{
    (void)number;
    _exit(7);
}

Test(simt_streams, faults_outside_of_kernels_go_where_they_went_before, .exit_code = 7)
{
    struct sigaction action = {}, now;
    action.sa_handler = on_segv;
    sigaction(SIGSEGV, &action, NULL);
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    int *memory = simt_world_alloc<int>(&world, 1);
    GPU_LAUNCH(fault, 1, 32, world.stream, memory);
    const char *words[] = {"kernel fault", NULL};
    simt_world_faults(&world, words);
    simt_world_close(&world);
    sigaction(SIGSEGV, NULL, &now);
    cr_assert_eq(now.sa_handler, on_segv, "the handler from before is not back");
    simt_world_open(&world, 0, NULL);
    *static_cast<volatile int *>(simt_world_alloc<int>(&world, 1) + 16) = 1;
    cr_assert_fail("the host's own fault was kept");
}

Test(simt_streams, a_fault_signal_that_somebody_sends_ends_the_process, .signal = SIGSEGV)
{
    signal(SIGSEGV, SIG_DFL);
    struct simt_world world;
    simt_world_open(&world, 0, NULL);
    kill(getpid(), SIGSEGV);
    simt_world_close(&world);
}
