// Products of float weights (F32, F16, BF16) with float activations, for AVX2 and AVX-512.
//
// The includer defines FLOAT_LANES, `vector` and its operations. Each output has one vector of sums, so its
// value does not depend on the tile it is computed in; eight outputs at a time hide the latency of the
// multiply-add.
#ifndef LODE_CPU_X86_FLOAT_H
#define LODE_CPU_X86_FLOAT_H

#include "backends/cpu/matmul.h"

static ALWAYS_INLINE size_t float_bytes(enum lode_type type)
{
    return type == LODE_F32 ? 4 : 2;
}

static ALWAYS_INLINE vector load_weights(enum lode_type type, const uint8_t *bytes)
{
    if (type == LODE_F32)
        return vector_load((const float *)(const void *)bytes);
    return type == LODE_F16 ? vector_load_f16(bytes) : vector_load_bf16(bytes);
}

// The last n < FLOAT_LANES weights, zeros behind.
static ALWAYS_INLINE vector load_last_weights(enum lode_type type, const uint8_t *bytes, size_t n)
{
    uint8_t padded[FLOAT_LANES * 4] = {0};
    memcpy(padded, bytes, n * float_bytes(type));
    return load_weights(type, padded);
}

static ALWAYS_INLINE vector load_last_floats(const float *x, size_t n)
{
    float padded[FLOAT_LANES] = {0};
    memcpy(padded, x, n * sizeof *x);
    return vector_load(padded);
}

#define FLOAT_TILE_OUTPUTS 12

// sums[r * tokens + i] = weight row r . x[i]
static ALWAYS_INLINE void float_tile(enum lode_type type, unsigned rows, unsigned tokens, float *sums,
                                     const uint8_t *weights, size_t row_bytes, size_t cols,
                                     const float *const *x)
{
    vector sum[FLOAT_TILE_OUTPUTS], xs[3];
    for (unsigned o = 0; o < rows * tokens; o++)
        sum[o] = vector_zero();
    size_t c = 0, bytes = float_bytes(type);
    for (; c + FLOAT_LANES <= cols; c += FLOAT_LANES) {
        UNROLL
        for (unsigned i = 0; i < tokens; i++)
            xs[i] = vector_load(x[i] + c);
        UNROLL
        for (unsigned r = 0; r < rows; r++) {
            vector w = load_weights(type, weights + r * row_bytes + c * bytes);
            UNROLL
            for (unsigned i = 0; i < tokens; i++)
                sum[r * tokens + i] = vector_fmadd(w, xs[i], sum[r * tokens + i]);
        }
    }
    if (c < cols) {
        for (unsigned r = 0; r < rows; r++) {
            vector w = load_last_weights(type, weights + r * row_bytes + c * bytes, cols - c);
            for (unsigned i = 0; i < tokens; i++)
                sum[r * tokens + i] =
                    vector_fmadd(w, load_last_floats(x[i] + c, cols - c), sum[r * tokens + i]);
        }
    }
    for (unsigned o = 0; o < rows * tokens; o++)
        sums[o] = vector_sum(sum[o]);
}

static inline const float *x_row(const struct cpu_product *p, uint32_t i)
{
    size_t row = p->x_ids ? (size_t)p->x_ids[i] : i;
    return p->x + row * p->x_stride;
}

static ALWAYS_INLINE void float_rows(enum lode_type type, unsigned rows, unsigned tokens,
                                     const struct cpu_product *p, uint32_t row, uint32_t token)
{
    const struct lode_matrix *w = p->weight;
    const uint8_t *weights = (const uint8_t *)w->data + (p->first_row + row) * w->row_bytes;
    const float *x[3];
    float sums[FLOAT_TILE_OUTPUTS];
    for (unsigned i = 0; i < tokens; i++)
        x[i] = x_row(p, token + i);
    float_tile(type, rows, tokens, sums, weights, w->row_bytes, w->cols, x);
    for (unsigned r = 0; r < rows; r++)
        for (unsigned i = 0; i < tokens; i++)
            out_row(p, token + i)[row + r] = sums[r * tokens + i];
}

static ALWAYS_INLINE void float_tokens(enum lode_type type, unsigned tokens, const struct cpu_product *p,
                                       uint32_t token)
{
    const unsigned rows = tokens == 1 ? 8 : 4;
    uint32_t row = 0;
    for (; row + rows <= p->n_rows; row += rows)
        float_rows(type, rows, tokens, p, row, token);
    for (; row < p->n_rows; row++)
        float_rows(type, 1, tokens, p, row, token);
}

static ALWAYS_INLINE void multiply_floats(enum lode_type type, const struct cpu_product *p)
{
    uint32_t token = 0;
    for (; token + 3 <= p->n; token += 3)
        float_tokens(type, 3, p, token);
    if (token + 2 <= p->n) {
        float_tokens(type, 2, p, token);
        token += 2;
    }
    if (token < p->n)
        float_tokens(type, 1, p, token);
}

static void multiply_F32(const struct cpu_product *p)
{
    multiply_floats(LODE_F32, p);
}

static void multiply_F16(const struct cpu_product *p)
{
    multiply_floats(LODE_F16, p);
}

static void multiply_BF16(const struct cpu_product *p)
{
    multiply_floats(LODE_BF16, p);
}

#endif
