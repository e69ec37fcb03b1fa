// CPUID, the register states that the operating system saves (XCR0), and Linux's permission for AMX tiles.
//
// Bits are read directly and not with the compiler's builtins, which know neither F16C (clang 14) nor AMX.
#include "backends/cpu/isa_features.h"

#include <stdbool.h>

static const char *const words[ISA_FEATURE_END] = {
    [ISA_FEATURE_AVX2] = "AVX2",
    [ISA_FEATURE_FMA] = "FMA",
    [ISA_FEATURE_F16C] = "F16C",
    [ISA_FEATURE_AVX_VNNI] = "AVX-VNNI",
    [ISA_FEATURE_AVX512F] = "AVX-512F",
    [ISA_FEATURE_AVX512BW] = "AVX-512BW",
    [ISA_FEATURE_AVX512VL] = "AVX-512VL",
    [ISA_FEATURE_AVX512DQ] = "AVX-512DQ",
    [ISA_FEATURE_AVX512_VNNI] = "AVX-512-VNNI",
    [ISA_FEATURE_AVX512_BF16] = "AVX-512-BF16",
    [ISA_FEATURE_AMX_TILE] = "AMX-TILE",
    [ISA_FEATURE_AMX_INT8] = "AMX-INT8",
    [ISA_FEATURE_AMX_BF16] = "AMX-BF16",
    [ISA_FEATURE_AVX_STATE] = "the operating system does not save AVX registers",
    [ISA_FEATURE_AVX512_STATE] = "the operating system does not save AVX-512 registers",
    [ISA_FEATURE_AMX_STATE] = "the operating system does not save AMX tiles",
    [ISA_FEATURE_AMX_PERMISSION] = "the kernel refused permission for AMX tiles",
};

const char *isa_feature_words(enum isa_feature feature)
{
    return words[feature];
}

#if defined(__x86_64__)
#include <cpuid.h>

enum cpuid_register { EAX, EBX, ECX, EDX };

static const struct {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
} places[ISA_FEATURE_OF_SYSTEM] = {
    [ISA_FEATURE_AVX2] = {7, 0, EBX, 5},         [ISA_FEATURE_FMA] = {1, 0, ECX, 12},
    [ISA_FEATURE_F16C] = {1, 0, ECX, 29},        [ISA_FEATURE_AVX_VNNI] = {7, 1, EAX, 4},
    [ISA_FEATURE_AVX512F] = {7, 0, EBX, 16},     [ISA_FEATURE_AVX512BW] = {7, 0, EBX, 30},
    [ISA_FEATURE_AVX512VL] = {7, 0, EBX, 31},    [ISA_FEATURE_AVX512DQ] = {7, 0, EBX, 17},
    [ISA_FEATURE_AVX512_VNNI] = {7, 0, ECX, 11}, [ISA_FEATURE_AVX512_BF16] = {7, 1, EAX, 5},
    [ISA_FEATURE_AMX_TILE] = {7, 0, EDX, 24},    [ISA_FEATURE_AMX_INT8] = {7, 0, EDX, 25},
    [ISA_FEATURE_AMX_BF16] = {7, 0, EDX, 22},
};

// Leaf 7 says in EAX how many subleaves it has; what lies beyond reads as anything.
static bool cpuid(uint32_t out[4], uint32_t leaf, uint32_t subleaf)
{
    if (subleaf > 0) {
        uint32_t first[4];
        if (!cpuid(first, leaf, 0) || first[EAX] < subleaf)
            return false;
    }
    return __get_cpuid_count(leaf, subleaf, &out[EAX], &out[EBX], &out[ECX], &out[EDX]) != 0;
}

static isa_features of_processor(void)
{
    isa_features features = 0;
    for (unsigned f = 0; f < ISA_FEATURE_OF_SYSTEM; f++) {
        uint32_t registers[4];
        if (cpuid(registers, places[f].leaf, places[f].subleaf) &&
            registers[places[f].reg] >> places[f].bit & 1)
            features |= 1u << f;
    }
    return features;
}

static uint64_t saved_states(void)
{
    uint32_t registers[4], low, high;
    if (!cpuid(registers, 1, 0) || !(registers[ECX] & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

// Bits of XCR0: halves of the 256-bit registers; masks, upper halves and upper 16 of the 512-bit ones; the
// tiles' configuration and data.
#define STATE_AVX 0x6u
#define STATE_AVX512 0xe6u
#define STATE_AMX 0x60000u

static isa_features of_system(uint64_t states)
{
    return (uint32_t)((states & STATE_AVX) == STATE_AVX) << ISA_FEATURE_AVX_STATE |
           (uint32_t)((states & STATE_AVX512) == STATE_AVX512) << ISA_FEATURE_AVX512_STATE |
           (uint32_t)((states & STATE_AMX) == STATE_AMX) << ISA_FEATURE_AMX_STATE;
}

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static bool ask_for_tiles(void)
{
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#else
static bool ask_for_tiles(void)
{
    return false;
}
#endif

isa_features isa_features_detect(isa_features wanted)
{
    const isa_features permission = 1u << ISA_FEATURE_AMX_PERMISSION;
    isa_features features = of_processor() | of_system(saved_states());
    if ((wanted & ~features) == permission && ask_for_tiles())
        features |= permission;
    return features;
}

#else
isa_features isa_features_detect(isa_features wanted)
{
    (void)wanted;
    return 0;
}
#endif
