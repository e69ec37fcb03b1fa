// The CPU's matmul kernels as tests go through them: every instruction set that this processor has, and those
// that it may lack through emulation, where the program was linked with it.
#ifndef LODE_TEST_MATMUL_VARIANTS_H
#define LODE_TEST_MATMUL_VARIANTS_H

#include "backends/cpu/tasks.h"

#include <criterion/criterion.h>

extern const struct cpu_matmul_kernels cpu_matmul_avx2_vnni_simde __attribute__((weak)),
    cpu_matmul_avx512_simde __attribute__((weak)), cpu_matmul_amx_simde __attribute__((weak));

struct matmul_variant {
    const char *name;
    enum cpu_isa isa; // whose vector kernels go with it
    const struct cpu_matmul_kernels *kernels;
};

#define MAX_MATMUL_VARIANTS (CPU_ISA_END + 3)

static inline unsigned list_matmul_variants(struct matmul_variant *out)
{
    const struct matmul_variant emulated[] = {
        {"avx2-vnni emulated", CPU_ISA_AVX2, &cpu_matmul_avx2_vnni_simde},
        {"avx512 emulated", CPU_ISA_AVX2, &cpu_matmul_avx512_simde},
        {"amx emulated", CPU_ISA_AVX2, &cpu_matmul_amx_simde},
    };
    unsigned n = 0;
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        if (cpu_isa_available(isa))
            out[n++] = (struct matmul_variant){cpu_isa_name(isa), isa, cpu_matmul_kernels_for(isa)};
    for (unsigned e = 0; e < sizeof emulated / sizeof *emulated; e++)
        if (emulated[e].kernels && cpu_isa_available(CPU_ISA_AVX2)) // the emulation is compiled with AVX2
            out[n++] = emulated[e];
    return n;
}

#define FOR_MATMUL_VARIANTS(variant)                                                                         \
    struct matmul_variant variants_[MAX_MATMUL_VARIANTS];                                                    \
    unsigned n_variants_ = list_matmul_variants(variants_);                                                  \
    for (const struct matmul_variant *variant = variants_; variant < variants_ + n_variants_; variant++)

// A device that has only kernels for products, and a team.
static inline struct cpu_device open_matmul_device(const struct matmul_variant *variant, uint32_t threads,
                                                   const struct lode_limits *limits)
{
    struct cpu_device device = {
        .threads = threads, .matmul = variant->kernels, .vector = cpu_vector_kernels_for(variant->isa)};
    struct lode_error error;
    cr_assert_eq(cpu_matmul_reserve(&device.matmul_scratch, threads, variant->kernels->workspace_bytes,
                                    limits, &error),
                 LODE_OK);
    cr_assert_eq(cpu_team_open(&device.team, threads, &error), LODE_OK);
    cr_assert_eq(cpu_workers_open(&device, &error), LODE_OK);
    return device;
}

static inline void close_matmul_device(struct cpu_device *device)
{
    cpu_matmul_release(&device->matmul_scratch);
    cpu_workers_close(device);
    cpu_team_close(device->team);
}

#endif
