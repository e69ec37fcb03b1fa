// The CPU's vector kernels as tests go through them: every instruction set that this processor has, and
// AVX-512 through SIMDe where the program was linked with it.
#ifndef LODE_TEST_CPU_VARIANTS_H
#define LODE_TEST_CPU_VARIANTS_H

#include "backends/cpu/cpu_device.h"
#include "tests/float_rows.h"

#include <criterion/criterion.h>

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

#endif
