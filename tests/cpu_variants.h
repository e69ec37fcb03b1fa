// The CPU's vector kernels as tests go through them: every instruction set that this processor has, and
// AVX-512 through SIMDe where the program was linked with it. Also random numbers and comparisons.
#ifndef LODE_TEST_CPU_VARIANTS_H
#define LODE_TEST_CPU_VARIANTS_H

#include "backends/cpu/cpu_device.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

extern const struct cpu_vector_kernels cpu_vector_avx512_simde __attribute__((weak));

struct variant {
    const char *name;
    const struct cpu_vector_kernels *kernels;
};

#define MAX_VARIANTS (CPU_ISA_END + 1)

static inline int list_variants(struct variant *out)
{
    int n = 0;
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        bool has_own = n == 0 || cpu_vector_kernels_for(isa) != out[n - 1].kernels;
        if (cpu_isa_available(isa) && has_own)
            out[n++] = (struct variant){cpu_isa_name(isa), cpu_vector_kernels_for(isa)};
    }
    if (&cpu_vector_avx512_simde && cpu_isa_available(CPU_ISA_AVX2)) // SIMDe's code is compiled with AVX2
        out[n++] = (struct variant){"avx512 by SIMDe", &cpu_vector_avx512_simde};
    return n;
}

// One team of each size, kept for all tests of the program.
static inline struct cpu_team *shared_team(uint32_t threads)
{
    static struct cpu_team *teams[64];
    struct lode_error error;
    cr_assert(threads < sizeof teams / sizeof *teams);
    if (!teams[threads])
        cr_assert_eq(cpu_team_open(&teams[threads], threads, &error), LODE_OK);
    return teams[threads];
}

// A device that has only vector kernels.
static inline struct cpu_device make_device(const struct variant *variant, uint32_t threads,
                                            const struct lode_limits *limits)
{
    struct cpu_device device = {
        .threads = threads, .team = shared_team(threads), .vector = variant->kernels, .limits = *limits};
    struct lode_error error;
    cr_assert_eq(cpu_vector_reserve(&device.vector_scratch, threads, limits, &error), LODE_OK);
    return device;
}

#define FOR_VARIANTS(variant)                                                                                \
    struct variant variants_[MAX_VARIANTS];                                                                  \
    int n_variants_ = list_variants(variants_);                                                              \
    for (const struct variant *variant = variants_; variant < variants_ + n_variants_; variant++)

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((uint64_t)random_bits(state) * n >> 32);
}

// Between -size and size.
static inline float random_float(uint64_t *state, float size)
{
    return ((float)(random_bits(state) >> 8) * 0x1p-23f - 1.0f) * size;
}

// n rows with some floats between them, which must stay what they were.
#define ROW_GAP 5
#define GAP_VALUE 12345.0f

static inline struct lode_rows make_rows(uint32_t n, uint32_t cols, float size, uint64_t *state)
{
    struct lode_rows rows = {NULL, n, cols, cols + ROW_GAP};
    rows.data = malloc((n * rows.stride + 1) * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < rows.stride; j++)
            rows.data[i * rows.stride + j] = j < cols ? random_float(state, size) : GAP_VALUE;
    return rows;
}

static inline struct lode_rows copy_rows(struct lode_rows rows)
{
    struct lode_rows copy = rows;
    size_t bytes = (rows.n * rows.stride + 1) * sizeof(float);
    copy.data = malloc(bytes);
    memcpy(copy.data, rows.data, bytes - sizeof(float));
    return copy;
}

static inline float at(struct lode_rows rows, uint32_t row, uint32_t col)
{
    return rows.data[row * rows.stride + col];
}

static inline void check_gaps(struct lode_rows rows, const char *name)
{
    for (uint32_t i = 0; i < rows.n; i++)
        for (uint32_t j = rows.cols; j < rows.stride; j++)
            cr_assert_eq(at(rows, i, j), GAP_VALUE, "%s: wrote behind row %u", name, i);
}

static inline void check_same_bits(struct lode_rows a, struct lode_rows b, const char *name)
{
    for (uint32_t i = 0; i < a.n; i++)
        cr_assert_eq(memcmp(a.data + i * a.stride, b.data + i * b.stride, a.cols * sizeof(float)), 0,
                     "%s: row %u differs", name, i);
}

#define check_close(got, want, relative, absolute, ...)                                                      \
    do {                                                                                                     \
        double got_ = (double)(got), want_ = (want);                                                         \
        double allowed_ = (relative)*fabs(want_) + (absolute);                                               \
        if (!(fabs(got_ - want_) <= allowed_)) {                                                             \
            cr_log_error(__VA_ARGS__);                                                                       \
            cr_assert_fail("got %.9g, want %.9g, allowed %.3g", got_, want_, allowed_);                      \
        }                                                                                                    \
    } while (0)

#endif
