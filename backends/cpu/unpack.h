// 32 consecutive weights of any quantised type in one common form, in plain C: small signed codes and, for
// each half of 16, a scale and a minimum. The portable matmul and the decoding to floats are written over it.
#ifndef LODE_CPU_UNPACK_H
#define LODE_CPU_UNPACK_H

#include "base/tensor_type.h"

#include <stdint.h>

// weight i = scale[i / 16] * codes[i] + minimum[i / 16]
struct cpu_unpacked {
    int8_t codes[32];
    float scale[2], minimum[2];
};

// Unpacks weights 32 part .. 32 part + 31 of a block of a quantised type.
void cpu_unpack(struct cpu_unpacked *out, enum lode_type type, const uint8_t *block, unsigned part);

// What the four-bit codes of IQ4_NL and IQ4_XS, and of MXFP4 (doubled), stand for.
extern const int8_t cpu_iq4_values[16], cpu_mxfp4_values[16];

#endif
