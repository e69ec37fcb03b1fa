// Primitives on vectors of floats, one table an instruction set, and the scratch memory of the operations
// that use them. The operations (norm.c, attention.c, …) are written once over the table: they cut the work
// and choose the order; the kernels behind it only run over contiguous floats.
//
// The kernels are written once as well, in vector_body.h, over a small layer of vector operations that each
// vector_<isa>.c provides.
#ifndef LODE_CPU_VECTOR_H
#define LODE_CPU_VECTOR_H

#include "backends/backend.h"
#include "backends/cpu/isa.h"

#define CPU_KV_FORMATS 3 // enum lode_kv_format

// Error bounds against exact arithmetic on the same inputs, of the kernels and of the operations on top, in
// units of u = 2^-24, the rounding of a float of magnitude 1. Every instruction set keeps them on random data
// (tests/test_cpu_bounds.c, over a thousand shapes); what sums can lose at worst is far more.
//
//   sum_squares      4 u
//   rms_norm         5 u
//   add_rms_norm     5 u of the term that is added, 2 u of the sum
//   add, scale       2 u, u
//   exp_sum          4 u of each power, and |x - max| u for the difference; 0 instead of less than e^-87;
//                    12 u of the sum of thousands
//   geglu            5 u, and u |up| where the gate closes
//   softcap          5 u
//   rope             3 u of |a cos| + |b sin|, and 1e-10 (|a| + |b|) for the angle, at any position
//   router           8 u, and u for each unit between an expert's logit and the largest
//   weighted_sum     k u of the sum of the terms' magnitudes
//   kv_pack          F32 exact; F16 to the nearest, ties to even; Q8_0 half a code (1/254 of the largest of a
//                    block) and 2^-11 of the largest for the rounding of the scale
//   attention        (4 + sqrt(keys) / 4 + s) u of the sum of p |v|, s being the largest of the keys' sums of
//                    |q k|: an error of a score is one of its power of e

// Keys of a block of attention: its scores are softened at once. A multiple of three, the keys of a register
// tile, and of all vectors. Sums of values are loaded and stored once a block: 32 keys were 7% slower.
#define CPU_KEY_BLOCK 96
#define CPU_SCORE_STRIDE (CPU_KEY_BLOCK + 16) // floats, between the queries

// Where sums of values go: rows of sums, or joined to other rows, which may be the last thing done to them:
// totals = totals * keep[i] + sums * gain[i], and the sums are not stored.
struct cpu_sums {
    float *sums;
    size_t stride; // floats, of sums and totals
    bool fresh;    // the sums are 0 whatever the rows hold
    float *totals; // or NULL
    const float *keep, *gain;
};

struct cpu_vector_kernels {
    double (*sum_squares)(const float *x, size_t n);
    float (*max)(const float *x, size_t n); // n >= 1

    // out = exp(x - max), and their sum; x - max <= 0. out may be x.
    double (*exp_sum)(float *out, const float *x, float max, size_t n);

    // out = x * factor * weight; weight may be NULL, out may be x.
    void (*scale_weighted)(float *out, const float *x, float factor, const float *weight, size_t n);
    // residual = (residual + x * factor * weight) * scale; weight may be NULL.
    void (*add_weighted)(float *residual, const float *x, float factor, const float *weight, float scale,
                         size_t n);

    void (*add)(float *out, const float *a, const float *b, float scale, size_t n); // (a + b) * scale
    void (*geglu)(float *out, const float *gate, const float *up,
                  size_t n);                        // gelu_tanh(gate) * up; out may be either
    void (*softcap)(float *x, float cap, size_t n); // cap * tanh(x / cap)

    // out[i] = sum over r < k, ascending, of weights[r] * rows[r * stride + i]; a row whose weight is 0 is
    // not read.
    void (*weighted_sum)(float *out, const float *rows, size_t stride, const float *weights, size_t k,
                         size_t n);

    // (a, b) = (a cos - b sin, b cos + a sin), a = x[0 .. half-1], b = x[half ..].
    void (*rotate)(float *x, const float *cosine, const float *sine, size_t half);

    // Floats to one row of a KV cache of each format. n is a multiple of 32.
    void (*kv_pack[CPU_KV_FORMATS])(void *row, const float *x, size_t n);

    // Tiles of attention, over n_k rows that lie one behind the other in a cache of each format; n is a
    // multiple of 32. They ask for the bytes from `ahead` on, as many as they read; 0: for none.
    //
    // scores[i * CPU_SCORE_STRIDE + j] = q row i . key j. Up to three floats behind the last are overwritten.
    void (*dot_tile[CPU_KV_FORMATS])(float *scores, const float *q, size_t q_stride, size_t n_q,
                                     const void *keys, size_t n_k, size_t n, uintptr_t ahead);
    // Adds the sum over j < n_k of p[i * CPU_SCORE_STRIDE + j] * value j to row i of the sums.
    void (*sum_tile[CPU_KV_FORMATS])(struct cpu_sums out, const float *p, size_t n_q, const void *values,
                                     size_t n_k, size_t n, uintptr_t ahead);

    // Turns the scores begin .. end - 1 of a block (begin < end <= CPU_KEY_BLOCK) into weights relative to
    // the new maximum, and the others of the block into 0. Adds the weights to *weight; the return value is
    // what the old ones were multiplied with.
    float (*soften)(float *scores, size_t begin, size_t end, float *max, double *weight);

    // total = total * keep + part * gain; n is a multiple of 32.
    void (*join)(float *total, float keep, const float *part, float gain, size_t n);
};

// NULL if it is not built in. In isa.c, whose table it looks up.
const struct cpu_vector_kernels *cpu_vector_kernels_for(enum cpu_isa isa);

// The tables themselves, each in its own file; those of other architectures do not exist.
extern const struct cpu_vector_kernels cpu_vector_portable, cpu_vector_avx2, cpu_vector_avx512;

// Scratch of attention: a part for each thread, and the partial results of its key chunks (see attention.c).
struct cpu_vector_scratch {
    float *memory;
    size_t bytes;
    size_t thread_floats;  // of each thread's part
    size_t partial_floats; // behind the threads' parts
    uint32_t threads, max_head_size;
};

// Grows the scratch for calls up to the limits; on failure the old one stays as it was.
int cpu_vector_reserve(struct cpu_vector_scratch *scratch, uint32_t threads, const struct lode_limits *limits,
                       struct lode_error *error);
void cpu_vector_release(struct cpu_vector_scratch *scratch);
size_t cpu_vector_scratch_bytes(const struct cpu_vector_scratch *scratch);

#endif
