// Peaks by loops that do nothing else; see roofline.h.
#include "bench/roofline.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define READ_BYTES ((size_t)512 << 20)
#define PASS_BYTES ((size_t)16 << 20) // timed at once; passes go through all of it before they come back
#define PASSES 128
#define ROUNDS 50
#define STEPS 200000

typedef uint64_t lanes __attribute__((vector_size(32)));

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#define PAGE_LANES (4096 / sizeof(lanes))

// Four pages side by side: more reads in flight than one stream gets, 26 instead of 21 GB/s on a Zen 3 core.
static uint64_t sum_words(const lanes *data, size_t n)
{
    lanes sums[4] = {0};
    for (size_t page = 0; page + 4 * PAGE_LANES <= n; page += 4 * PAGE_LANES)
        for (size_t i = 0; i < PAGE_LANES; i += 2)
            for (size_t j = 0; j < 4; j++)
                sums[j] += data[page + j * PAGE_LANES + i] + data[page + j * PAGE_LANES + i + 1];
    lanes sum = sums[0] + sums[1] + sums[2] + sums[3];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static double read_gbps(uint32_t threads)
{
    lanes *data = aligned_alloc(64, READ_BYTES);
    if (!data)
        return 0;
    memset(data, 1, READ_BYTES);
    double best = 1e9;
    volatile uint64_t sink = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        const lanes *part = data + pass * PASS_BYTES % READ_BYTES / sizeof *data;
        double start = seconds_now();
        uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
        for (size_t chunk = 0; chunk < PASS_BYTES >> 18; chunk++)
            sum += sum_words(part + (chunk << 18) / sizeof *data, ((size_t)1 << 18) / sizeof *data);
        sink += sum;
        double taken = seconds_now() - start;
        best = taken < best ? taken : best;
    }
    (void)sink;
    free(data);
    return (double)PASS_BYTES / best * 1e-9;
}

#if defined(__x86_64__)
// Eight sums by name: arrays of vectors stay in memory at some levels of optimisation. The empty assembly
// keeps the compiler from seeing that the sums are never used.
#define EIGHT(macro) macro(0) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7)
#define KEEP(value) __asm__ volatile("" : "+v"(value))

__attribute__((target("avx2,fma"))) static void float_loop_avx2(void)
{
    __m256 factor = _mm256_set1_ps(0.5f);
#define SUM(i) __m256 sum##i = factor;
#define STEP(i)                                                                                              \
    sum##i = _mm256_fmadd_ps(sum##i, factor, factor);                                                        \
    KEEP(sum##i);
    EIGHT(SUM)
    for (int step = 0; step < STEPS; step++) {
        EIGHT(STEP)
    }
#undef SUM
#undef STEP
}

__attribute__((target("avx2"))) static void int8_loop_avx2(void)
{
    __m256i codes = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
#define SUM(i) __m256i sum##i = x, product##i;
#define STEP(i)                                                                                              \
    product##i = _mm256_maddubs_epi16(codes, x);                                                             \
    KEEP(product##i);                                                                                        \
    sum##i = _mm256_add_epi16(sum##i, product##i);                                                           \
    KEEP(sum##i);
    EIGHT(SUM)
    for (int step = 0; step < STEPS; step++) {
        EIGHT(STEP)
    }
#undef SUM
#undef STEP
}

__attribute__((target("avx512f"))) static void float_loop_avx512(void)
{
    __m512 factor = _mm512_set1_ps(0.5f);
#define SUM(i) __m512 sum##i = factor;
#define STEP(i)                                                                                              \
    sum##i = _mm512_fmadd_ps(sum##i, factor, factor);                                                        \
    KEEP(sum##i);
    EIGHT(SUM)
    for (int step = 0; step < STEPS; step++) {
        EIGHT(STEP)
    }
#undef SUM
#undef STEP
}

__attribute__((target("avx512f,avx512vnni"))) static void int8_loop_avx512(void)
{
    __m512i codes = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
#define SUM(i) __m512i sum##i = x;
#define STEP(i)                                                                                              \
    sum##i = _mm512_dpbusd_epi32(sum##i, codes, x);                                                          \
    KEEP(sum##i);
    EIGHT(SUM)
    for (int step = 0; step < STEPS; step++) {
        EIGHT(STEP)
    }
#undef SUM
#undef STEP
}

static double gflops(void (*loop)(void), double multiply_adds, uint32_t threads)
{
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
#pragma omp parallel num_threads(threads)
        loop();
        double taken = seconds_now() - start;
        best = taken < best ? taken : best;
    }
    return 2 * multiply_adds * STEPS * threads / best * 1e-9;
}
#endif

struct roofline measure_roofline(enum cpu_isa isa, uint32_t threads)
{
    struct roofline roofline = {.read_gbps = read_gbps(threads)};
#if defined(__x86_64__)
    if (isa == CPU_ISA_AVX2) {
        roofline.float_gflops = gflops(float_loop_avx2, 8 * 8, threads);
        roofline.int8_gflops = gflops(int8_loop_avx2, 8 * 32, threads);
    } else if (isa == CPU_ISA_AVX512) {
        roofline.float_gflops = gflops(float_loop_avx512, 8 * 16, threads);
        roofline.int8_gflops = gflops(int8_loop_avx512, 8 * 64, threads);
    }
#else
    (void)isa;
#endif
    return roofline;
}
