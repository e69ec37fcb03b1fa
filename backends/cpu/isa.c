// What the processor and the operating system can do, and the choice among the instruction sets that we have
// kernels for.
#include "backends/cpu/isa.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[CPU_ISA_END] = {
    [CPU_ISA_PORTABLE] = "portable",
    [CPU_ISA_AVX2] = "avx2",
    [CPU_ISA_AVX512] = "avx512",
};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return names[isa];
}

#if defined(__x86_64__)
// The compiler's builtin checks that the operating system saves the wide registers, too; it has no word for
// F16C in clang 14.
static bool has_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#else
static bool has_avx2(void)
{
    return false;
}

static bool has_avx512(void)
{
    return false;
}
#endif

bool cpu_isa_available(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_PORTABLE:
        return true;
    case CPU_ISA_AVX2:
        return has_avx2();
    case CPU_ISA_AVX512:
        return has_avx512();
    default:
        return false;
    }
}

static void list_available(char *out, size_t capacity)
{
    size_t used = 0;
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        if (cpu_isa_available(isa) && used < capacity)
            used += (size_t)snprintf(out + used, capacity - used, "%s%s", used ? ", " : "", names[isa]);
}

int cpu_isa_choose(enum cpu_isa *out, const char *name, struct lode_error *error)
{
    for (int isa = CPU_ISA_END - 1; isa >= 0; isa--)
        if ((!name || strcmp(name, names[isa]) == 0) && cpu_isa_available(isa)) {
            *out = isa;
            return LODE_OK;
        }

    char available[64] = "";
    list_available(available, sizeof available);
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        if (strcmp(name, names[isa]) == 0)
            return lode_fail(
                error, LODE_ERR_UNSUPPORTED,
                "this processor or operating system lacks the instruction set \"%s\"; it has: %s", name,
                available);
    return lode_fail(error, LODE_ERR_ARGUMENT,
                     "there is no instruction set \"%.64s\"; this processor has: %s", name, available);
}
