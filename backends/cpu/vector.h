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

    // out[i] = sum over r < k, ascending, of weights[r] * rows[r * stride + i].
    void (*weighted_sum)(float *out, const float *rows, size_t stride, const float *weights, size_t k,
                         size_t n);

    // (a, b) = (a cos - b sin, b cos + a sin), a = x[0 .. half-1], b = x[half ..].
    void (*rotate)(float *x, const float *cosine, const float *sine, size_t half);

    // One row of a KV cache of each format, from and to floats. n is a multiple of 32. Unpack: n_rows rows
    // that lie one behind the other in the cache, `stride` floats apart in out.
    void (*kv_pack[CPU_KV_FORMATS])(void *row, const float *x, size_t n);
    void (*kv_unpack[CPU_KV_FORMATS])(float *out, size_t stride, const void *rows, size_t n_rows, size_t n);

    // scores[i * score_stride + j] = q row i . k row j; n_k is a multiple of 4, n of 32.
    void (*dot_tile)(float *scores, size_t score_stride, const float *q, size_t q_stride, size_t n_q,
                     const float *k, size_t k_stride, size_t n_k, size_t n);
    // out row i = out row i * decay[i] + sum over j < n_k of p[i * p_stride + j] * v row j; n is a multiple
    // of 32.
    void (*sum_tile)(float *out, size_t out_stride, const float *decay, const float *p, size_t p_stride,
                     size_t n_q, const float *v, size_t v_stride, size_t n_k, size_t n);
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
