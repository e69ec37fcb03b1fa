// The instruction sets that the CPU backend has kernels for, and which of them this processor has.
//
// To add one: a value here, a row in isa.c with what it needs and its tables of kernels, and a file of matmul
// kernels. Rising values are rising preference.
#ifndef LODE_CPU_ISA_H
#define LODE_CPU_ISA_H

#include "backends/cpu/isa_features.h"
#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>

enum cpu_isa {
    CPU_ISA_PORTABLE,
    CPU_ISA_AVX2,      // AVX2, FMA, F16C
    CPU_ISA_AVX2_VNNI, // and AVX-VNNI
    CPU_ISA_AVX512,    // AVX-512 F, BW, VL, DQ and VNNI
    CPU_ISA_AMX,       // and AMX-INT8 and AMX-BF16
    CPU_ISA_END,
};

const char *cpu_isa_name(enum cpu_isa isa);
const char *cpu_isa_summary(enum cpu_isa isa); // one line for a person
bool cpu_isa_built_in(enum cpu_isa isa);

// Built in, and the processor and the operating system have it. Where AMX lacks nothing but the permission,
// Linux is asked for it (isa_features.h).
bool cpu_isa_available(enum cpu_isa isa);

// What is missing, in words; "" if it is available. Returns out.
const char *cpu_isa_missing(enum cpu_isa isa, char *out, size_t capacity);

// The same for a machine that has `features`.
const char *cpu_isa_missing_of(enum cpu_isa isa, isa_features features, char *out, size_t capacity);

// The best available one for name NULL; else the one named, or an error that lists what there is.
int cpu_isa_choose(enum cpu_isa *out, const char *name, struct lode_error *error);

#endif
