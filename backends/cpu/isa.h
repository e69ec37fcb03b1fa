// The instruction sets that the CPU backend has kernels for, and which of them this processor has.
//
// To add one: a value here, a row in isa.c, a file of matmul kernels and one of vector kernels with their
// tables.
#ifndef LODE_CPU_ISA_H
#define LODE_CPU_ISA_H

#include "base/lode_error.h"

#include <stdbool.h>

enum cpu_isa {
    CPU_ISA_PORTABLE,
    CPU_ISA_AVX2,   // AVX2, FMA, F16C
    CPU_ISA_AVX512, // AVX-512 F, BW, VL, DQ and VNNI
    CPU_ISA_END,
};

const char *cpu_isa_name(enum cpu_isa isa);
bool cpu_isa_available(enum cpu_isa isa); // built in, and the processor and the operating system have it

// The best available one for name NULL; else the one named, or an error that lists what there is.
int cpu_isa_choose(enum cpu_isa *out, const char *name, struct lode_error *error);

#endif
