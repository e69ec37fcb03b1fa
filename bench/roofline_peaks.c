// Peaks of multiplying and adding, by loops that do nothing else, one set an instruction set. Each function
// is compiled for its own, and runs only where the processor has it.
#include "bench/roofline.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define STEPS 50000

// Sums by name: arrays of vectors stay in memory at some levels of optimisation. Ten chains hide the latency
// of the multiply-adds of all processors so far (4 cycles, two a cycle). The empty assembly keeps the
// compiler from seeing that the sums are never used, and from taking a product out of the loop.
#define TEN(macro) macro(0) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9)
#define SUMS 10
#if defined(__x86_64__)
#define KEEP(value) __asm__ volatile("" : "+v"(value))
#define KEEP_SSE(value) __asm__ volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define KEEP_SSE(value) __asm__ volatile("" : "+w"(value))
#else
#define KEEP_SSE(value) __asm__ volatile("" : "+m"(value))
#endif

#define LOOP(declare, step)                                                                                  \
    TEN(declare)                                                                                             \
    for (int i_ = 0; i_ < STEPS; i_++) {                                                                     \
        TEN(step)                                                                                            \
    }

// ---- any processor ----

typedef float float_lanes __attribute__((vector_size(16)));

// Without fused multiply-adds the products must not wait for the sums.
static void float_loop_portable(void)
{
    float_lanes factor = {0.5f, 0.5f, 0.5f, 0.5f};
#define DECLARE(i) float_lanes sum##i = factor;
#if defined(__x86_64__)
#define STEP(i)                                                                                              \
    {                                                                                                        \
        KEEP_SSE(factor);                                                                                    \
        float_lanes product = factor * factor;                                                               \
        KEEP_SSE(product);                                                                                   \
        sum##i += product;                                                                                   \
        KEEP_SSE(sum##i);                                                                                    \
    }
#else
#define STEP(i)                                                                                              \
    sum##i = sum##i * factor + factor;                                                                       \
    KEEP_SSE(sum##i);
#endif
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

#if defined(__x86_64__)
static void int8_loop_portable(void) // bytes are widened to 16 bits first
{
    __m128i codes = _mm_set1_epi16(3), x = _mm_set1_epi16(-5);
#define DECLARE(i) __m128i sum##i = x;
#define STEP(i)                                                                                              \
    {                                                                                                        \
        KEEP_SSE(codes);                                                                                     \
        __m128i product = _mm_madd_epi16(codes, x);                                                          \
        KEEP_SSE(product);                                                                                   \
        sum##i = _mm_add_epi32(sum##i, product);                                                             \
        KEEP_SSE(sum##i);                                                                                    \
    }
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

// ---- AVX2 ----

__attribute__((target("avx2,fma"))) static void float_loop_avx2(void)
{
    __m256 factor = _mm256_set1_ps(0.5f);
#define DECLARE(i) __m256 sum##i = factor;
#define STEP(i)                                                                                              \
    sum##i = _mm256_fmadd_ps(sum##i, factor, factor);                                                        \
    KEEP(sum##i);
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

__attribute__((target("avx2"))) static void int8_loop_avx2(void)
{
    __m256i codes = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
#define DECLARE(i) __m256i sum##i = x;
#define STEP(i)                                                                                              \
    {                                                                                                        \
        KEEP(codes);                                                                                         \
        __m256i product = _mm256_maddubs_epi16(codes, x);                                                    \
        KEEP(product);                                                                                       \
        product = _mm256_madd_epi16(product, ones);                                                          \
        KEEP(product);                                                                                       \
        sum##i = _mm256_add_epi32(sum##i, product);                                                          \
        KEEP(sum##i);                                                                                        \
    }
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

__attribute__((target("avx2"))) static void narrow_loop_avx2(void)
{
    __m256i codes = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
#define DECLARE(i) __m256i sum##i = x;
#define STEP(i)                                                                                              \
    {                                                                                                        \
        KEEP(codes);                                                                                         \
        __m256i product = _mm256_maddubs_epi16(codes, x);                                                    \
        KEEP(product);                                                                                       \
        sum##i = _mm256_add_epi16(sum##i, product);                                                          \
        KEEP(sum##i);                                                                                        \
    }
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

__attribute__((target("avx2,avxvnni"))) static void int8_loop_avx2_vnni(void)
{
    __m256i codes = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
#define DECLARE(i) __m256i sum##i = x;
#define STEP(i)                                                                                              \
    sum##i = _mm256_dpbusd_avx_epi32(sum##i, codes, x);                                                      \
    KEEP(sum##i);
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

// ---- AVX-512 ----

__attribute__((target("avx512f"))) static void float_loop_avx512(void)
{
    __m512 factor = _mm512_set1_ps(0.5f);
#define DECLARE(i) __m512 sum##i = factor;
#define STEP(i)                                                                                              \
    sum##i = _mm512_fmadd_ps(sum##i, factor, factor);                                                        \
    KEEP(sum##i);
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

__attribute__((target("avx512f,avx512vnni"))) static void int8_loop_avx512(void)
{
    __m512i codes = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
#define DECLARE(i) __m512i sum##i = x;
#define STEP(i)                                                                                              \
    sum##i = _mm512_dpbusd_epi32(sum##i, codes, x);                                                          \
    KEEP(sum##i);
    LOOP(DECLARE, STEP)
#undef DECLARE
#undef STEP
}

// ---- AMX ----

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64
#define AMX_STEPS (STEPS / 10)
#define TILE_LOOP(depth) ((double)TILE_ROWS * 16 * (depth)*6 * AMX_STEPS) // multiply-adds of a loop

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

// Six tiles of sums, each from the same two tiles of factors.
#define AMX_LOOP(multiply)                                                                                   \
    struct tile_config config = {.palette = 1};                                                              \
    for (int t = 0; t < 8; t++) {                                                                            \
        config.row_bytes[t] = TILE_ROW_BYTES;                                                                \
        config.rows[t] = TILE_ROWS;                                                                          \
    }                                                                                                        \
    _tile_loadconfig(&config);                                                                               \
    _tile_zero(0);                                                                                           \
    _tile_zero(1);                                                                                           \
    _tile_zero(2);                                                                                           \
    _tile_zero(3);                                                                                           \
    _tile_zero(4);                                                                                           \
    _tile_zero(5);                                                                                           \
    _tile_zero(6);                                                                                           \
    _tile_zero(7);                                                                                           \
    for (int i = 0; i < AMX_STEPS; i++) {                                                                    \
        multiply(0, 6, 7);                                                                                   \
        multiply(1, 6, 7);                                                                                   \
        multiply(2, 6, 7);                                                                                   \
        multiply(3, 6, 7);                                                                                   \
        multiply(4, 6, 7);                                                                                   \
        multiply(5, 6, 7);                                                                                   \
    }                                                                                                        \
    _tile_release();

__attribute__((target("amx-tile,amx-int8"))) static void int8_loop_amx(void)
{
    AMX_LOOP(_tile_dpbusd)
}

__attribute__((target("amx-tile,amx-bf16"))) static void bf16_loop_amx(void)
{
    AMX_LOOP(_tile_dpbf16ps)
}

#endif

static double gflops(void (*loop)(void), double multiply_adds, uint32_t threads)
{
    return 2 * multiply_adds * best_calls_per_second(loop, threads) * 1e-9;
}

#define LOOP_LANES(lanes) ((double)(lanes)*SUMS * STEPS)

#if defined(__x86_64__)
static void measure_x86(struct peak *peak, enum cpu_isa isa, uint32_t threads)
{
    switch (isa) {
    case CPU_ISA_PORTABLE:
        peak->int8_gflops = gflops(int8_loop_portable, LOOP_LANES(8), threads);
        break;
    case CPU_ISA_AVX2:
        peak->float_gflops = gflops(float_loop_avx2, LOOP_LANES(8), threads);
        peak->int8_gflops = gflops(int8_loop_avx2, LOOP_LANES(32), threads);
        peak->narrow_gflops = gflops(narrow_loop_avx2, LOOP_LANES(32), threads);
        break;
    case CPU_ISA_AVX2_VNNI:
        peak->float_gflops = gflops(float_loop_avx2, LOOP_LANES(8), threads);
        peak->int8_gflops = gflops(int8_loop_avx2_vnni, LOOP_LANES(32), threads);
        break;
    case CPU_ISA_AVX512:
        peak->float_gflops = gflops(float_loop_avx512, LOOP_LANES(16), threads);
        peak->int8_gflops = gflops(int8_loop_avx512, LOOP_LANES(64), threads);
        break;
    case CPU_ISA_AMX:
        peak->float_gflops = gflops(float_loop_avx512, LOOP_LANES(16), threads);
        peak->int8_gflops = gflops(int8_loop_amx, TILE_LOOP(TILE_ROW_BYTES), threads);
        peak->bf16_gflops = gflops(bf16_loop_amx, TILE_LOOP(TILE_ROW_BYTES / 2), threads);
        break;
    default:
        break;
    }
}
#endif

struct peak peak_measure(enum cpu_isa isa, uint32_t threads)
{
    struct peak peak = {0};
    if (!cpu_isa_available(isa))
        return peak;
    if (isa == CPU_ISA_PORTABLE)
        peak.float_gflops = gflops(float_loop_portable, LOOP_LANES(4), threads);
#if defined(__x86_64__)
    measure_x86(&peak, isa, threads);
#endif
    if (peak.bf16_gflops == 0)
        peak.bf16_gflops = peak.float_gflops;
    if (peak.narrow_gflops == 0)
        peak.narrow_gflops = peak.int8_gflops;
    return peak;
}
