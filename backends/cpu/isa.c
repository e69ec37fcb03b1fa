// The table of instruction sets: what each needs, its kernels, and the choice among them.
#include "backends/cpu/isa.h"

#include "backends/cpu/matmul.h"
#include "backends/cpu/vector.h"

#include <stdio.h>
#include <string.h>

#define HAS(feature) (1u << ISA_FEATURE_##feature)
#define AVX2_NEEDS (HAS(AVX2) | HAS(FMA) | HAS(F16C) | HAS(AVX_STATE))
#define AVX512_NEEDS                                                                                         \
    (AVX2_NEEDS | HAS(AVX512F) | HAS(AVX512BW) | HAS(AVX512VL) | HAS(AVX512DQ) | HAS(AVX512_VNNI) |          \
     HAS(AVX512_STATE))
#define AMX_NEEDS                                                                                            \
    (AVX512_NEEDS | HAS(AMX_TILE) | HAS(AMX_INT8) | HAS(AMX_BF16) | HAS(AMX_STATE) | HAS(AMX_PERMISSION))

#if defined(__x86_64__)
#define X86_KERNELS(matmul_isa, vector_isa) &cpu_matmul_##matmul_isa, &cpu_vector_##vector_isa
#else
#define X86_KERNELS(matmul_isa, vector_isa) NULL, NULL
#endif

static const struct isa {
    const char *name, *summary;
    isa_features needs;
    const struct cpu_matmul_kernels *matmul; // NULL: not built in
    const struct cpu_vector_kernels *vector;
} isas[CPU_ISA_END] = {
    [CPU_ISA_PORTABLE] = {"portable", "plain C, for any processor", 0, &cpu_matmul_portable,
                          &cpu_vector_portable},
    [CPU_ISA_AVX2] = {"avx2", "256-bit vectors: AVX2, FMA and F16C", AVX2_NEEDS, X86_KERNELS(avx2, avx2)},
    [CPU_ISA_AVX2_VNNI] = {"avx2-vnni", "AVX2 with byte dot products: AVX-VNNI", AVX2_NEEDS | HAS(AVX_VNNI),
                           X86_KERNELS(avx2_vnni, avx2)},
    [CPU_ISA_AVX512] = {"avx512", "512-bit vectors with byte dot products: AVX-512 and VNNI", AVX512_NEEDS,
                        X86_KERNELS(avx512, avx512)},
    [CPU_ISA_AMX] = {"amx", "AVX-512, and tiles for many rows at once: AMX-INT8 and AMX-BF16", AMX_NEEDS,
                     X86_KERNELS(amx, avx512)},
};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return isas[isa].name;
}

const char *cpu_isa_summary(enum cpu_isa isa)
{
    return isas[isa].summary;
}

const struct cpu_matmul_kernels *cpu_matmul_kernels_for(enum cpu_isa isa)
{
    return isa < CPU_ISA_END ? isas[isa].matmul : NULL;
}

const struct cpu_vector_kernels *cpu_vector_kernels_for(enum cpu_isa isa)
{
    return isa < CPU_ISA_END ? isas[isa].vector : NULL;
}

bool cpu_isa_built_in(enum cpu_isa isa)
{
    return isa < CPU_ISA_END && isas[isa].matmul && isas[isa].vector;
}

bool cpu_isa_available(enum cpu_isa isa)
{
    return cpu_isa_built_in(isa) && (isas[isa].needs & ~isa_features_detect(isas[isa].needs)) == 0;
}

static void append(char *out, size_t capacity, const char *text)
{
    size_t used = strlen(out);
    snprintf(out + used, capacity - used, "%s", text);
}

// The processor's lacks in one list; only where it lacks nothing, the first of the operating system's, from
// which the others follow.
static void list_missing(isa_features missing, char *out, size_t capacity)
{
    for (unsigned f = 0; f < ISA_FEATURE_OF_SYSTEM; f++)
        if (missing >> f & 1) {
            append(out, capacity, out[0] ? ", " : "the processor has no ");
            append(out, capacity, isa_feature_words(f));
        }
    for (unsigned f = ISA_FEATURE_OF_SYSTEM; f < ISA_FEATURE_END && !out[0]; f++)
        if (missing >> f & 1)
            append(out, capacity, isa_feature_words(f));
}

const char *cpu_isa_missing_of(enum cpu_isa isa, isa_features features, char *out, size_t capacity)
{
    if (capacity > 0)
        out[0] = '\0';
    if (capacity > 0 && !cpu_isa_built_in(isa))
        append(out, capacity, "this build has no kernels for it");
    else if (capacity > 0)
        list_missing(isas[isa].needs & ~features, out, capacity);
    return out;
}

const char *cpu_isa_missing(enum cpu_isa isa, char *out, size_t capacity)
{
    return cpu_isa_missing_of(isa, isa_features_detect(isas[isa].needs), out, capacity);
}

static void list_available(char *out, size_t capacity)
{
    for (unsigned isa = 0; isa < CPU_ISA_END; isa++)
        if (cpu_isa_available(isa)) {
            append(out, capacity, out[0] ? ", " : "");
            append(out, capacity, isas[isa].name);
        }
}

int cpu_isa_choose(enum cpu_isa *out, const char *name, struct lode_error *error)
{
    for (unsigned isa = CPU_ISA_END; isa-- > 0;)
        if ((!name || strcmp(name, isas[isa].name) == 0) && cpu_isa_available(isa)) {
            *out = isa;
            return LODE_OK;
        }

    char available[128] = "", missing[256];
    list_available(available, sizeof available);
    for (unsigned isa = 0; isa < CPU_ISA_END; isa++)
        if (strcmp(name, isas[isa].name) == 0)
            return lode_fail(error, LODE_ERR_UNSUPPORTED,
                             "the instruction set \"%s\" cannot be used: %s; there are: %s", name,
                             cpu_isa_missing(isa, missing, sizeof missing), available);
    return lode_fail(error, LODE_ERR_ARGUMENT,
                     "there is no instruction set \"%.64s\"; this processor has: %s", name, available);
}
