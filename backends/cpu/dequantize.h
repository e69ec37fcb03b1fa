// Rows of any tensor type to floats, in plain C: for the embedding and as the reference of the kernels'
// tests.
#ifndef LODE_CPU_DEQUANTIZE_H
#define LODE_CPU_DEQUANTIZE_H

#include "base/tensor_type.h"

#include <stddef.h>

// Decodes n elements, a multiple of the type's block. `row` needs no alignment.
void cpu_dequantize(float *out, enum lode_type type, const void *row, size_t n);

#endif
