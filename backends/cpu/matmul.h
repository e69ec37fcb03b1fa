// Matrix products on the CPU: what an instruction set provides, and the scratch memory of the operations on
// top.
//
// A kernel computes one product: some rows of one weight matrix with some rows of activations. The operations
// (matmul.c, experts.c) prepare the activations once and cut their work into products, which threads take in
// turn.
//
// Order of the sums: with quantised weights an output is the chain, over the blocks of 32 in ascending order,
// of float(exact integer dot product) * (weight scale * activation scale), and with a minimum its product
// after each; with float weights lane i of a vector sums the elements i modulo its width. AMX multiplies BF16
// weights with activations split into three BF16 numbers each, without a remainder, and sums by 32 columns.
// An output depends on neither the number of threads nor that of activation rows, so a token gets the same
// bits alone and in a batch, and with quantised weights on all x86 instruction sets.
//
// Error, with u = 2^-24, M = sum of |w| |x| (for weights with a minimum, of both parts' magnitudes):
//   quantised weights, against the product with the rounded activations: (blocks of 32 * (1, or 2 for types
//   with a minimum) + 8) u M; the rounding of the activations adds at most the sum of |w| * largest |x| of
//   the block / 254 * (1 + 2^-14);
//   float weights: (columns / 8 + 24) u M, that of F32 arithmetic; AMX, which takes numbers below 2^-126 for
//   zero, adds up to 2^-125 (|w| + |x| + 1) a column with BF16 weights.
#ifndef LODE_CPU_MATMUL_H
#define LODE_CPU_MATMUL_H

#include "backends/backend.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/quantize.h"

// A product takes at most so many rows of weights and of activations: what a thread's workspace is made for.
#define CPU_PRODUCT_ROWS 32
#define CPU_PRODUCT_TOKENS 128

// out[out_ids[i] * out_stride + r] = weight row first_row + r . activation row x_ids[i], for r < n_rows, i <
// n. A NULL id list stands for 0, 1, 2, ... Quantised weights read `blocks`, float weights read `x`.
struct cpu_product {
    const struct lode_matrix *weight;
    uint32_t first_row, n_rows;
    const struct cpu_block *blocks;
    size_t block_stride; // blocks between rows
    const float *x;
    size_t x_stride; // floats between rows
    const int32_t *x_ids;
    uint32_t n;
    float *out;
    size_t out_stride;
    const int32_t *out_ids;
    void *workspace; // kernel_workspace_bytes, aligned to 64, of this thread
};

struct cpu_matmul_kernels {
    void (*quantize)(struct cpu_block *out, const float *x, uint32_t n_blocks);
    void (*multiply[LODE_TYPE_END])(const struct cpu_product *product);
    size_t workspace_bytes; // of a thread
    bool takes_rows8;       // interleaved weights (rows8.h) of the types that have that form
};

extern const struct cpu_matmul_kernels cpu_matmul_portable, cpu_matmul_avx2, cpu_matmul_avx2_vnni,
    cpu_matmul_avx512, cpu_matmul_amx;

// NULL if it is not built in. In isa.c, whose table it looks up.
const struct cpu_matmul_kernels *cpu_matmul_kernels_for(enum cpu_isa isa);

// One allocation: quantised activations, the experts' intermediate rows, and a part for each thread.
struct cpu_matmul_scratch {
    void *memory;
    size_t bytes;
    size_t activation_bytes, intermediate_bytes, thread_bytes; // of the parts, in this order
    uint32_t threads;
};

// Grows the scratch for calls up to the limits, with kernels that need workspace_bytes a thread; on failure
// the old one stays as it was.
int cpu_matmul_reserve(struct cpu_matmul_scratch *scratch, uint32_t threads, size_t workspace_bytes,
                       const struct lode_limits *limits, struct lode_error *error);
void cpu_matmul_release(struct cpu_matmul_scratch *scratch);
size_t cpu_matmul_scratch_bytes(const struct cpu_matmul_scratch *scratch);

#endif
