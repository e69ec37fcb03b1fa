// The instruction sets' table: names, what each needs, and what is said of a machine that lacks it.
#include "backends/cpu/isa.h"
#include "backends/cpu/matmul.h"
#include "backends/cpu/vector.h"

#include <criterion/criterion.h>
#include <string.h>

#define HAS(feature) (1u << ISA_FEATURE_##feature)
#define HASWELL (HAS(AVX2) | HAS(FMA) | HAS(F16C) | HAS(AVX_STATE))
#define ICE_LAKE                                                                                             \
    (HASWELL | HAS(AVX512F) | HAS(AVX512BW) | HAS(AVX512VL) | HAS(AVX512DQ) | HAS(AVX512_VNNI) |             \
     HAS(AVX512_STATE))
#define SAPPHIRE_RAPIDS                                                                                      \
    (ICE_LAKE | HAS(AVX_VNNI) | HAS(AMX_TILE) | HAS(AMX_INT8) | HAS(AMX_BF16) | HAS(AMX_STATE) |             \
     HAS(AMX_PERMISSION))

static void check_missing(enum cpu_isa isa, isa_features features, const char *want)
{
    char missing[256];
    cr_expect_str_eq(cpu_isa_missing_of(isa, features, missing, sizeof missing), want, "%s: \"%s\"",
                     cpu_isa_name(isa), missing);
}

Test(isa, every_one_has_a_name_of_its_own_and_a_summary)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        cr_assert_gt(strlen(cpu_isa_name(isa)), 0);
        cr_assert_gt(strlen(cpu_isa_summary(isa)), 0);
        for (int other = 0; other < isa; other++)
            cr_assert_str_neq(cpu_isa_name(isa), cpu_isa_name(other));
    }
}

Test(isa, what_is_built_in_has_kernels_of_both_kinds)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        cr_assert_eq(cpu_isa_built_in(isa), cpu_matmul_kernels_for(isa) != NULL);
        cr_assert_eq(cpu_isa_built_in(isa), cpu_vector_kernels_for(isa) != NULL);
    }
    cr_assert(cpu_isa_built_in(CPU_ISA_PORTABLE));
    cr_assert_not(cpu_isa_built_in(CPU_ISA_END));
    cr_assert_not(cpu_isa_available(CPU_ISA_END));
    cr_assert_null(cpu_matmul_kernels_for(CPU_ISA_END));
    cr_assert_null(cpu_vector_kernels_for(CPU_ISA_END));
}

Test(isa, the_portable_kernels_miss_nothing_anywhere)
{
    check_missing(CPU_ISA_PORTABLE, 0, "");
}

#if defined(__x86_64__)
Test(isa, all_is_available_where_all_features_are)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        check_missing(isa, SAPPHIRE_RAPIDS, "");
}

Test(isa, what_the_processor_lacks_is_listed)
{
    check_missing(CPU_ISA_AVX2, HASWELL & ~HAS(F16C), "the processor has no F16C");
    check_missing(CPU_ISA_AVX2_VNNI, HASWELL, "the processor has no AVX-VNNI");
    check_missing(CPU_ISA_AVX512, ICE_LAKE & ~HAS(AVX512VL) & ~HAS(AVX512_VNNI),
                  "the processor has no AVX-512VL, AVX-512-VNNI");
    check_missing(CPU_ISA_AMX, SAPPHIRE_RAPIDS & ~HAS(AMX_INT8), "the processor has no AMX-INT8");
    check_missing(CPU_ISA_AMX, ICE_LAKE, "the processor has no AMX-TILE, AMX-INT8, AMX-BF16");
}

Test(isa, what_the_operating_system_lacks_is_said_when_the_processor_lacks_nothing)
{
    check_missing(CPU_ISA_AVX2, HASWELL & ~HAS(AVX_STATE),
                  "the operating system does not save AVX registers");
    check_missing(CPU_ISA_AVX512, ICE_LAKE & ~HAS(AVX512_STATE),
                  "the operating system does not save AVX-512 registers");
    check_missing(CPU_ISA_AVX512, HASWELL & ~HAS(AVX_STATE),
                  "the processor has no AVX-512F, AVX-512BW, AVX-512VL, AVX-512DQ, AVX-512-VNNI");
    check_missing(CPU_ISA_AMX, SAPPHIRE_RAPIDS & ~HAS(AMX_STATE) & ~HAS(AMX_PERMISSION),
                  "the operating system does not save AMX tiles");
    check_missing(CPU_ISA_AMX, SAPPHIRE_RAPIDS & ~HAS(AMX_PERMISSION),
                  "the kernel refused permission for AMX tiles");
}

Test(isa, words_are_cut_where_the_space_ends)
{
    char missing[16] = "before";
    cr_assert_str_eq(cpu_isa_missing_of(CPU_ISA_AMX, 0, missing, sizeof missing), "the processor h");
    missing[0] = 'b';
    cpu_isa_missing_of(CPU_ISA_AMX, 0, missing, 0);
    cr_assert_eq(missing[0], 'b');
}
#endif

// The compiler's own words for those features that it knows, against the bits that are read here.
#if defined(__x86_64__)
Test(isa, the_features_are_those_that_the_compiler_finds)
{
    isa_features features = isa_features_detect(0);
    __builtin_cpu_init();
    cr_expect_eq(!!(features & HAS(AVX2)) && (features & HAS(AVX_STATE)), !!__builtin_cpu_supports("avx2"));
    cr_expect_eq(!!(features & HAS(FMA)) && (features & HAS(AVX_STATE)), !!__builtin_cpu_supports("fma"));
    bool saves = features & HAS(AVX512_STATE);
    cr_expect_eq((features & HAS(AVX512F)) && saves, !!__builtin_cpu_supports("avx512f"));
    cr_expect_eq((features & HAS(AVX512BW)) && saves, !!__builtin_cpu_supports("avx512bw"));
    cr_expect_eq((features & HAS(AVX512VL)) && saves, !!__builtin_cpu_supports("avx512vl"));
    cr_expect_eq((features & HAS(AVX512DQ)) && saves, !!__builtin_cpu_supports("avx512dq"));
    cr_expect_eq((features & HAS(AVX512_VNNI)) && saves, !!__builtin_cpu_supports("avx512vnni"));
}
#endif

Test(isa, every_feature_has_words)
{
    for (int f = 0; f < ISA_FEATURE_END; f++)
        cr_assert_gt(strlen(isa_feature_words(f)), 0);
}

Test(isa, the_last_available_one_is_the_best)
{
    struct lode_error error;
    enum cpu_isa best, want = CPU_ISA_PORTABLE;
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        want = cpu_isa_available(isa) ? (enum cpu_isa)isa : want;
    cr_assert_eq(cpu_isa_choose(&best, NULL, &error), LODE_OK);
    cr_assert_eq(best, want);
}

Test(isa, each_is_chosen_by_its_name_or_refused_with_what_is_missing)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        struct lode_error error;
        enum cpu_isa chosen;
        char missing[256];
        int code = cpu_isa_choose(&chosen, cpu_isa_name(isa), &error);
        cpu_isa_missing(isa, missing, sizeof missing);
        if (cpu_isa_available(isa)) {
            cr_assert_eq(code, LODE_OK);
            cr_assert_eq((int)chosen, isa);
            cr_assert_str_eq(missing, "");
        } else {
            cr_assert_eq(code, LODE_ERR_UNSUPPORTED);
            cr_assert_gt(strlen(missing), 0);
            cr_assert_not_null(strstr(error.text, missing), "%s", error.text);
            cr_assert_not_null(strstr(error.text, "portable"), "%s", error.text);
        }
    }
}

Test(isa, a_name_that_does_not_exist_is_refused_with_those_that_do)
{
    struct lode_error error;
    enum cpu_isa isa;
    cr_assert_eq(cpu_isa_choose(&isa, "sse9", &error), LODE_ERR_ARGUMENT);
    cr_assert_not_null(strstr(error.text, "\"sse9\""));
    cr_assert_not_null(strstr(error.text, "portable"));
}
