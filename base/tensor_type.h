// The tensor types that Lode reads, with the geometry of their blocks. Values are those of GGUF files.
// Layouts of the blocks: docs/tensor-types.md; what they decode to: backends/cpu/dequantize.c.
#ifndef LODE_TENSOR_TYPE_H
#define LODE_TENSOR_TYPE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum lode_type {
    LODE_F32 = 0,
    LODE_F16 = 1,
    LODE_Q4_0 = 2,
    LODE_Q4_1 = 3,
    LODE_Q5_0 = 6,
    LODE_Q5_1 = 7,
    LODE_Q8_0 = 8,
    LODE_Q2_K = 10,
    LODE_Q3_K = 11,
    LODE_Q4_K = 12,
    LODE_Q5_K = 13,
    LODE_Q6_K = 14,
    LODE_IQ4_NL = 20,
    LODE_IQ4_XS = 23,
    LODE_BF16 = 30,
    LODE_MXFP4 = 39,
    LODE_TYPE_END = 40, // one past the largest value that is understood
};

struct lode_type_traits {
    const char *name;     // "Q4_0"
    uint32_t block_elems; // elements of a block, along the contiguous dimension
    uint32_t block_bytes;
};

// NULL for a value that is no type we read. Any value may be asked.
const struct lode_type_traits *lode_type_find(uint32_t type);

// Name of any type id that GGUF files use, also of those that are not supported; "unknown" else.
const char *lode_type_name(uint32_t type);

// Bytes of a row of n elements; false when n is no multiple of the block or the type is not understood.
bool lode_type_row_bytes(uint64_t *out_bytes, uint32_t type, uint64_t n_elems);

// The types that are understood, comma separated, for error texts.
const char *lode_type_list(void);

#ifdef __cplusplus
}
#endif

#endif
