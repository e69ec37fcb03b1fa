// The rates at which threads read, and the machine's figures together; see roofline.h.
#include "bench/roofline.h"

#include "backends/cpu/memory.h"
#include "profiles/read_bandwidth.h"

#include <string.h>
#include <time.h>

#define MEMORY_BYTES ((size_t)512 << 20)
#define CHUNK_BYTES ((size_t)512 << 10)
#define PASS_CHUNKS 4 // of each thread are timed at once, 8 at least; passes go through all of the memory
#define UPDATE_SECONDS 0.4
#define READ_TRIES 3                    // of a quarter of a second each
#define CACHED_BYTES ((size_t)16 << 10) // of each thread: within every first-level cache
#define CACHED_ROUNDS 1000
#define THREAD_SECONDS 0.15 // longer than another program keeps a core from us at once

typedef uint64_t lanes __attribute__((vector_size(32)));
typedef uint64_t (*walk_fn)(lanes *data, size_t n);

#define LANES(bytes) ((bytes) / sizeof(lanes))

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#define ALWAYS_INLINE inline __attribute__((always_inline))

static ALWAYS_INLINE uint64_t read_all(lanes *data, size_t n)
{
    lanes sums[4] = {0};
    for (size_t i = 0; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            sums[j] += data[i + j];
    lanes sum = sums[0] + sums[1] + sums[2] + sums[3];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static ALWAYS_INLINE uint64_t update_all(lanes *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        data[i] += 1;
    return data[0][0];
}

struct walks {
    walk_fn read, update;
};

// The same for a set of instructions.
#define WALKS(name, attribute)                                                                               \
    attribute static uint64_t read_##name(lanes *data, size_t n)                                             \
    {                                                                                                        \
        return read_all(data, n);                                                                            \
    }                                                                                                        \
    attribute static uint64_t update_##name(lanes *data, size_t n)                                           \
    {                                                                                                        \
        return update_all(data, n);                                                                          \
    }                                                                                                        \
    static const struct walks walks_##name = {read_##name, update_##name};

WALKS(portable, )
#if defined(__x86_64__)
WALKS(avx2, __attribute__((target("avx2"))))
#endif

static struct walks walks(void)
{
#if defined(__x86_64__)
    if (cpu_isa_available(CPU_ISA_AVX2))
        return walks_avx2;
#endif
    return walks_portable;
}

static double pass_seconds(walk_fn walk_chunk, char *data, size_t n_chunks, uint32_t threads)
{
    double start = seconds_now();
    uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(+ : sum)
    for (size_t chunk = 0; chunk < n_chunks; chunk++)
        sum += walk_chunk((lanes *)(void *)(data + chunk * CHUNK_BYTES), LANES(CHUNK_BYTES));
    __asm__ volatile("" : : "r"(sum));
    return seconds_now() - start;
}

static double best_update_gbps(char *memory, uint32_t threads)
{
    const size_t n_chunks = threads > 2 ? threads * PASS_CHUNKS : 2 * PASS_CHUNKS;
    const size_t pass_bytes = n_chunks * CHUNK_BYTES, n_passes = MEMORY_BYTES / pass_bytes;
    double best = 1e9, begin = seconds_now();
    for (size_t pass = 0; seconds_now() - begin < UPDATE_SECONDS; pass++) {
        char *part = memory + pass % n_passes * pass_bytes;
        double taken = pass_seconds(walks().update, part, n_chunks, threads);
        best = taken < best ? taken : best;
    }
    return 2 * (double)pass_bytes / best * 1e-9;
}

// Memory like the engine's, with huge pages where the system has them.
static void measure_memory(struct roofline *roofline, uint32_t threads)
{
    for (int i = 0; i < READ_TRIES; i++) {
        double gbps;
        if (read_bandwidth_measure(&gbps, threads, 0, NULL) == LODE_OK && gbps > roofline->read_gbps)
            roofline->read_gbps = gbps;
    }
    void *memory;
    if (cpu_memory_alloc(&memory, MEMORY_BYTES, NULL) != LODE_OK)
        return;
    memset(memory, 1, MEMORY_BYTES);
    roofline->update_gbps = best_update_gbps(memory, threads);
    cpu_memory_free(memory, MEMORY_BYTES);
}

double best_calls_per_second(void (*call)(void), uint32_t threads)
{
    double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        double best = 1e9, begin = seconds_now(), now = begin;
        while (now - begin < THREAD_SECONDS) {
            double start = now;
            call();
            now = seconds_now();
            best = now - start < best ? now - start : best;
        }
        total += 1 / best;
    }
    return total;
}

static void read_cached(void)
{
    lanes data[LANES(CACHED_BYTES)];
    const walk_fn walk_cached = walks().read;
    memset(data, 1, sizeof data);
    for (int round = 0; round < CACHED_ROUNDS; round++) {
        uint64_t sum = walk_cached(data, LANES(CACHED_BYTES));
        __asm__ volatile("" : : "r"(sum), "r"(data) : "memory");
    }
}

struct roofline roofline_measure(uint32_t threads)
{
    struct roofline roofline = {0};
    measure_memory(&roofline, threads);
    roofline.cached_gbps =
        (double)CACHED_BYTES * CACHED_ROUNDS * best_calls_per_second(read_cached, threads) * 1e-9;
    for (unsigned p = 0; p < CPU_ISA_END; p++)
        roofline.peaks[p] = peak_measure(p, threads);
    return roofline;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

struct roofline roofline_better(const struct roofline *a, const struct roofline *b)
{
    struct roofline better = {.read_gbps = larger(a->read_gbps, b->read_gbps),
                              .update_gbps = larger(a->update_gbps, b->update_gbps),
                              .cached_gbps = larger(a->cached_gbps, b->cached_gbps)};
    for (unsigned p = 0; p < CPU_ISA_END; p++)
        better.peaks[p] = (struct peak){larger(a->peaks[p].float_gflops, b->peaks[p].float_gflops),
                                        larger(a->peaks[p].bf16_gflops, b->peaks[p].bf16_gflops),
                                        larger(a->peaks[p].int8_gflops, b->peaks[p].int8_gflops),
                                        larger(a->peaks[p].narrow_gflops, b->peaks[p].narrow_gflops)};
    return better;
}
