// What the kernels may ask of the processor and the operating system, as bits, and each in words.
#ifndef LODE_CPU_ISA_FEATURES_H
#define LODE_CPU_ISA_FEATURES_H

#include <stdint.h>

enum isa_feature {
    ISA_FEATURE_AVX2,
    ISA_FEATURE_FMA,
    ISA_FEATURE_F16C,
    ISA_FEATURE_AVX_VNNI,
    ISA_FEATURE_AVX512F,
    ISA_FEATURE_AVX512BW,
    ISA_FEATURE_AVX512VL,
    ISA_FEATURE_AVX512DQ,
    ISA_FEATURE_AVX512_VNNI,
    ISA_FEATURE_AVX512_BF16,
    ISA_FEATURE_AMX_TILE,
    ISA_FEATURE_AMX_INT8,
    ISA_FEATURE_AMX_BF16,
    ISA_FEATURE_OF_SYSTEM, // those above are the processor's, those below the operating system's
    ISA_FEATURE_AVX_STATE = ISA_FEATURE_OF_SYSTEM,
    ISA_FEATURE_AVX512_STATE,
    ISA_FEATURE_AMX_STATE,
    ISA_FEATURE_AMX_PERMISSION,
    ISA_FEATURE_END,
};

// A set of them: bit 1 << enum isa_feature.
typedef uint32_t isa_features;

// What there is. If the permission for AMX tiles is among the wanted and only that is missing, asks Linux for
// it: it holds for all threads of the process and for its life.
isa_features isa_features_detect(isa_features wanted);

// "AVX2"; for those of the operating system a clause, "the operating system does not save AVX registers".
const char *isa_feature_words(enum isa_feature feature);

#endif
