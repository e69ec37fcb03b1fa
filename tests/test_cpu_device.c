// The CPU device as a whole: what it opens with, its memory, its threads, and that operations allocate
// nothing.
#include "backends/cpu/cpu.h"
#include "backends/cpu/cpu_device.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/threads.h"

#include <criterion/criterion.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct lode_device *open_device(uint32_t threads, const char *isa)
{
    struct lode_device *device;
    struct lode_error error;
    struct cpu_options options = {threads, isa};
    cr_assert_eq(cpu_open(&device, &options, &error), LODE_OK, "%s", error.text);
    return device;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

Test(cpu_device, opens_with_the_best_of_this_processor)
{
    struct lode_device *device = open_device(0, NULL);
    cr_assert_str_eq(device->name, "cpu");
    cr_assert(device->host_memory);
    cr_assert_geq(cpu_threads(device), 1);
    enum cpu_isa best = CPU_ISA_PORTABLE;
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        best = cpu_isa_available(isa) ? (enum cpu_isa)isa : best;
    cr_assert_str_eq(cpu_isa(device), cpu_isa_name(best));
    device->ops->close(device);
}

Test(cpu_device, opens_without_options)
{
    struct lode_device *device;
    cr_assert_eq(cpu_open(&device, NULL, NULL), LODE_OK);
    void (*close)(struct lode_device *) = device->ops->close;
    close(device);
    close(NULL);
}

Test(cpu_device, takes_the_instruction_set_and_threads_that_it_is_told)
{
    struct lode_device *device = open_device(3, "portable");
    cr_assert_str_eq(cpu_isa(device), "portable");
    cr_assert_eq(cpu_threads(device), 3);
    device->ops->close(device);
}

// Those from `memory` on are of devices without host memory.
Test(cpu_device, fills_every_operation_of_the_host)
{
    struct lode_device *device = open_device(1, NULL);
    const void *const *table = (const void *const *)device->ops;
    for (size_t i = 0; i < offsetof(struct lode_device_ops, memory) / sizeof *table; i++)
        cr_assert_not_null(table[i], "operation %zu", i);
    device->ops->close(device);
}

Test(cpu_device, opens_twice)
{
    struct lode_device *first = open_device(0, NULL), *second = open_device(0, NULL);
    cr_assert_neq(first, second);
    cr_assert_eq(cpu_threads(first), cpu_threads(second));
    first->ops->close(first);
    second->ops->close(second);
}

Test(cpu_device, rejects_an_instruction_set_that_does_not_exist)
{
    struct lode_device *device;
    struct lode_error error;
    struct cpu_options options = {.isa = "sse9"};
    cr_assert_eq(cpu_open(&device, &options, &error), LODE_ERR_ARGUMENT);
    cr_assert_null(device);
    cr_assert(strstr(error.text, "sse9") && strstr(error.text, "portable"), "%s", error.text);
}

Test(cpu_device, rejects_an_instruction_set_that_the_processor_lacks)
{
    if (cpu_isa_available(CPU_ISA_AVX512))
        cr_skip_test("this processor lacks none of them");
    struct lode_device *device;
    struct lode_error error;
    struct cpu_options options = {.isa = "avx512"};
    cr_assert_eq(cpu_open(&device, &options, &error), LODE_ERR_UNSUPPORTED);
    cr_assert(strstr(error.text, "avx512") && strstr(error.text, "portable"), "%s", error.text);
}

Test(cpu_device, rejects_more_threads_than_any_machine_has)
{
    struct lode_device *device;
    struct lode_error error;
    struct cpu_options options = {.threads = CPU_MAX_THREADS + 1};
    cr_assert_eq(cpu_open(&device, &options, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "1025") && strstr(error.text, "1024"), "%s", error.text);
}

// ---- memory
// --------------------------------------------------------------------------------------------------

Test(cpu_device, gives_memory_that_is_aligned_zero_and_has_slack)
{
    struct lode_device *device = open_device(1, NULL);
    const size_t sizes[] = {0, 1, 63, 64, 4096, (2 << 20) - 64, (2 << 20) - 63, 2 << 20, (5 << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int round = 0; round < 2;
             round++) { // the second finds what the first wrote, if it were not cleared
            unsigned char *memory;
            cr_assert_eq(device->ops->alloc(device, (void **)&memory, sizes[i], NULL), LODE_OK);
            cr_assert_eq((uintptr_t)memory % LODE_DEVICE_ALIGN, 0);
            for (size_t b = 0; b < sizes[i] + LODE_DEVICE_SLACK; b++)
                cr_assert_eq(memory[b], 0);
            memset(memory, 0xee, sizes[i] + LODE_DEVICE_SLACK);
            device->ops->free(device, memory, sizes[i]);
        }
    device->ops->free(device, NULL, 0);
    device->ops->close(device);
}

Test(cpu_device, untouched_memory_takes_no_pages)
{
    struct lode_device *device = open_device(1, NULL);
    size_t bytes = (size_t)256 << 20;
    void *memory;
    cr_assert_eq(device->ops->alloc(device, &memory, bytes, NULL), LODE_OK);
    long total, resident = -1;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2)
        cr_skip_test("this system does not tell what is resident");
    fclose(file);
    cr_assert_lt((size_t)resident * (size_t)sysconf(_SC_PAGESIZE), bytes / 2);
    device->ops->free(device, memory, bytes);
    device->ops->close(device);
}

Test(cpu_device, says_how_much_memory_it_could_not_get)
{
    struct lode_device *device = open_device(1, NULL);
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 64, (size_t)1 << 62, (size_t)1 << 55};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *memory = device;
        struct lode_error error;
        char number[32];
        cr_assert_eq(device->ops->alloc(device, &memory, sizes[i], &error), LODE_ERR_MEMORY);
        cr_assert_null(memory);
        snprintf(number, sizeof number, "%zu", sizes[i]);
        cr_assert(strstr(error.text, number), "%s", error.text);
    }
    device->ops->close(device);
}

Test(cpu_device, copies_up_and_down)
{
    struct lode_device *device = open_device(1, NULL);
    void *memory;
    char text[] = "a vein of gems", back[sizeof text] = "";
    cr_assert_eq(device->ops->alloc(device, &memory, sizeof text, NULL), LODE_OK);
    cr_assert_eq(device->ops->upload(device, memory, text, sizeof text, NULL), LODE_OK);
    cr_assert_eq(device->ops->sync(device, NULL), LODE_OK);
    cr_assert_eq(device->ops->download(device, back, memory, sizeof text, NULL), LODE_OK);
    cr_assert_str_eq(back, text);
    cr_assert_eq(device->ops->download(device, NULL, NULL, 0, NULL), LODE_OK);
    device->ops->free(device, memory, sizeof text);
    device->ops->close(device);
}

static const struct lode_limits small_limits = {
    .rows = 4, .cols = 256, .ffn_width = 256, .n_heads = 4, .head_size = 64, .expert_rows = 8};

Test(cpu_device, scratch_grows_and_never_shrinks)
{
    struct lode_device *device = open_device(2, NULL);
    cr_assert_eq(device->ops->scratch_bytes(device), 0);
    cr_assert_eq(device->ops->reserve(device, &small_limits, NULL), LODE_OK);
    size_t small = device->ops->scratch_bytes(device);
    cr_assert_gt(small, 0);
    struct lode_limits larger = small_limits;
    larger.head_size = 512;
    larger.rows = 2; // one larger, one smaller: both maxima hold
    cr_assert_eq(device->ops->reserve(device, &larger, NULL), LODE_OK);
    size_t large = device->ops->scratch_bytes(device);
    cr_assert_gt(large, small);
    cr_assert_eq(cpu_device_of(device)->limits.rows, 4);
    cr_assert_eq(device->ops->reserve(device, &small_limits, NULL), LODE_OK);
    cr_assert_eq(device->ops->scratch_bytes(device), large);
    device->ops->close(device);
}

Test(cpu_device, keeps_its_scratch_when_more_cannot_be_had)
{
    struct cpu_vector_scratch scratch = {0};
    struct lode_error error;
    cr_assert_eq(cpu_vector_reserve(&scratch, 2, &small_limits, &error), LODE_OK);
    struct cpu_vector_scratch before = scratch;
    struct lode_limits absurd = {.rows = 512, .n_heads = 32, .head_size = UINT32_MAX};
    cr_assert_eq(cpu_vector_reserve(&scratch, CPU_MAX_THREADS, &absurd, &error), LODE_ERR_MEMORY);
    cr_assert(strstr(error.text, "attention"), "%s", error.text);
    cr_assert_eq(memcmp(&scratch, &before, sizeof scratch), 0);
    cpu_vector_release(&scratch);
}

// ---- threads
// -------------------------------------------------------------------------------------------------

Test(cpu_device, uses_no_more_threads_than_affinity_allows)
{
    cpu_set_t all, one;
    cr_assert_eq(sched_getaffinity(0, sizeof all, &all), 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
    uint32_t threads;
    cr_assert_eq(cpu_threads_choose(&threads, 0, NULL), LODE_OK);
    cr_assert_eq(threads, 1);
    cr_assert_eq(sched_setaffinity(0, sizeof all, &all), 0);
    cr_assert_eq(cpu_threads_choose(&threads, 0, NULL), LODE_OK);
    cr_assert_leq(threads, (uint32_t)CPU_COUNT(&all));
}

Test(cpu_device, binds_its_workers_and_leaves_the_callers_thread_alone)
{
    cpu_set_t before, after, of_worker[2];
    cr_assert_eq(sched_getaffinity(0, sizeof before, &before), 0);
    struct lode_device *device = open_device(0, NULL);
    uint32_t threads = cpu_threads(device);
    if (threads < 2 || omp_get_proc_bind() != omp_proc_bind_false)
        cr_skip_test("this process may use one core only, or OpenMP was told how to bind");
    cr_assert_eq(sched_getaffinity(0, sizeof after, &after), 0);
    cr_assert(CPU_EQUAL(&before, &after), "the caller was bound");
    CPU_ZERO(&of_worker[1]);
#pragma omp parallel num_threads(threads)
    if (omp_get_thread_num() == 1)
        sched_getaffinity(0, sizeof of_worker[1], &of_worker[1]);
    cr_assert_geq(CPU_COUNT(&of_worker[1]), 1);
    cr_assert_lt(CPU_COUNT(&of_worker[1]), CPU_COUNT(&before), "the worker may run anywhere");
    CPU_AND(&of_worker[0], &of_worker[1], &before);
    cr_assert(CPU_EQUAL(&of_worker[0], &of_worker[1]), "the worker was bound outside of what is allowed");
    device->ops->close(device);
}

Test(cpu_device, does_not_bind_more_threads_than_hardware_threads)
{
    cpu_set_t before, of_worker;
    cr_assert_eq(sched_getaffinity(0, sizeof before, &before), 0);
    uint32_t threads = (uint32_t)CPU_COUNT(&before) + 1;
    if (threads > 64)
        cr_skip_test("too many processors for a quick test");
    struct lode_device *device = open_device(threads, NULL);
    CPU_ZERO(&of_worker);
#pragma omp parallel num_threads(threads)
    if (omp_get_thread_num() == 1)
        sched_getaffinity(0, sizeof of_worker, &of_worker);
    cr_assert(CPU_EQUAL(&before, &of_worker));
    device->ops->close(device);
}

// ---- no allocation in operations
// -----------------------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ALLOCATOR 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ALLOCATOR 1
#endif
#endif

static atomic_int allocations;

#if !defined(HAS_ALLOCATOR) && defined(__GLIBC__)
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes)
{
    allocations++;
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    allocations++;
    return __libc_calloc(n, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    allocations++;
    return __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    allocations++;
    return __libc_memalign(alignment, bytes);
}
#define COUNTS_ALLOCATIONS 1
#else
#define COUNTS_ALLOCATIONS 0
#endif

// Clang's OpenMP runtime allocates at each parallel region, GCC's does not: with Clang's one thread has to
// do.
#ifdef __clang__
#define OPENMP_ALLOCATES 1
#else
#define OPENMP_ALLOCATES 0
#endif

struct step {
    struct lode_rows x, y, z, logits;
    struct lode_kv kv;
    float frequency[32], weights[16];
    int32_t ids[16];
};

static void run_operations(struct lode_device *device, struct step *step, uint32_t position)
{
    const struct lode_device_ops *ops = device->ops;
    ops->rms_norm(device, step->y, step->x, NULL, 1e-6f, 1);
    ops->add_rms_norm(device, step->z, step->x, NULL, 1e-6f, 1);
    ops->add(device, step->z, step->x, step->y, 1);
    ops->geglu(device, step->z, step->x, step->y);
    ops->scale(device, step->z, 2);
    ops->softcap(device, step->z, 30);
    ops->rope(device, step->y, 4, 64, position, step->frequency);
    ops->kv_store(device, &step->kv, step->x, step->y, position);
    ops->attention(device, step->z, step->y, 4, &step->kv, position, 0);
    ops->router(device, step->ids, step->weights, step->logits, 2, NULL);
    ops->experts_combine(device, (struct lode_rows){step->z.data, 2, 256, 256}, step->x, step->weights, 2);
}

Test(cpu_device, operations_allocate_nothing)
{
    if (!COUNTS_ALLOCATIONS)
        cr_skip_test("allocations cannot be counted under a sanitizer or another C library");
    struct lode_device *device = open_device(OPENMP_ALLOCATES ? 1 : 2, NULL);
    struct lode_limits limits = {
        .rows = 400, .cols = 256, .ffn_width = 256, .n_heads = 4, .head_size = 64, .expert_rows = 8};
    cr_assert_eq(device->ops->reserve(device, &limits, NULL), LODE_OK);
    static struct step step;
    for (uint32_t n = 4; n <= 400; n += 396) { // 4 rows are too few for threads, 400 are not
        size_t floats = (size_t)n * 256;
        step.x = (struct lode_rows){calloc(floats, 4), n, 256, 256};
        step.y = (struct lode_rows){calloc(floats, 4), n, 256, 256};
        step.z = (struct lode_rows){calloc(floats, 4), n, 256, 256};
        step.logits = (struct lode_rows){calloc(128 * 4, 4), 4, 128, 128};
        step.kv = (struct lode_kv){calloc(2000 * 256, 2), calloc(2000 * 256, 2), LODE_CACHE_F16, 4, 64, 2000};
        run_operations(device, &step, 1000); // the threads exist from here on
        int before = allocations;
        run_operations(device, &step, 1100);
        run_operations(device, &step, 1500);
        cr_assert_eq(allocations, before, "%d allocations", allocations - before);
        free(step.x.data), free(step.y.data), free(step.z.data), free(step.logits.data);
        free(step.kv.k), free(step.kv.v);
    }
    int before = allocations;
    void *volatile one = malloc(1);
    free(one);
    cr_assert_eq(allocations, before + 1, "the count itself does not work");
    device->ops->close(device);
}
