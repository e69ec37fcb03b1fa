// Matrix products in plain C, for processors without kernels of their own and as a second opinion in the
// tests.
//
// A weight row is unpacked once to signed codes and scales and multiplied with every activation row; the
// loops are left to the compiler's vectoriser.
#include "backends/cpu/dequantize.h"
#include "backends/cpu/matmul.h"
#include "backends/cpu/unpack.h"

#define CHUNK_PARTS 64

struct workspace {
    struct cpu_unpacked parts[CHUNK_PARTS];
    float weights[CHUNK_PARTS * 32];
};

static int dot_16(const int8_t *a, const int8_t *b)
{
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum += a[i] * b[i];
    return sum;
}

static float add_parts(float sum, const struct cpu_unpacked *parts, const struct cpu_block *x, uint32_t n)
{
    for (uint32_t p = 0; p < n; p++) {
        const struct cpu_unpacked *w = &parts[p];
        float dot = (float)dot_16(w->codes, x[p].q) * w->scale[0];
        dot += (float)dot_16(w->codes + 16, x[p].q + 16) * w->scale[1];
        dot += (float)x[p].sums[0] * w->minimum[0] + (float)x[p].sums[1] * w->minimum[1];
        sum += dot * x[p].scale;
    }
    return sum;
}

static void unpack_parts(struct cpu_unpacked *out, const struct lode_matrix *w, const uint8_t *row,
                         uint32_t first, uint32_t n)
{
    const struct lode_type_traits *traits = lode_type_find(w->type);
    uint32_t block_parts = traits->block_elems / 32;
    for (uint32_t p = 0; p < n; p++) {
        uint32_t part = first + p;
        cpu_unpack(&out[p], w->type, row + (size_t)(part / block_parts) * traits->block_bytes,
                   part % block_parts);
    }
}

static size_t row_index(const int32_t *ids, uint32_t i)
{
    return ids ? (size_t)ids[i] : i;
}

static float *out_value(const struct cpu_product *p, uint32_t token, uint32_t row)
{
    return p->out + row_index(p->out_ids, token) * p->out_stride + row;
}

static void clear_outputs(const struct cpu_product *p, uint32_t row)
{
    for (uint32_t i = 0; i < p->n; i++)
        *out_value(p, i, row) = 0;
}

static void multiply_quantised(const struct cpu_product *p)
{
    struct workspace *space = p->workspace;
    const struct lode_matrix *w = p->weight;
    for (uint32_t r = 0; r < p->n_rows; r++) {
        const uint8_t *row = (const uint8_t *)w->data + (size_t)(p->first_row + r) * w->row_bytes;
        clear_outputs(p, r);
        for (uint32_t first = 0; first < w->cols / 32; first += CHUNK_PARTS) {
            uint32_t n_parts = w->cols / 32 - first < CHUNK_PARTS ? w->cols / 32 - first : CHUNK_PARTS;
            unpack_parts(space->parts, w, row, first, n_parts);
            for (uint32_t i = 0; i < p->n; i++) {
                const struct cpu_block *x = p->blocks + row_index(p->x_ids, i) * p->block_stride + first;
                float *out = out_value(p, i, r);
                *out = add_parts(*out, space->parts, x, n_parts);
            }
        }
    }
}

// Eight sums, lane i for the elements i modulo 8.
static float dot_floats(const float *a, const float *b, uint32_t n)
{
    float sums[8] = {0}, sum = 0;
    uint32_t c = 0;
    for (; c + 8 <= n; c += 8)
        for (int lane = 0; lane < 8; lane++)
            sums[lane] += a[c + lane] * b[c + lane];
    for (; c < n; c++)
        sums[c % 8] += a[c] * b[c];
    for (int lane = 0; lane < 8; lane++)
        sum += sums[lane];
    return sum;
}

static void multiply_floats(const struct cpu_product *p)
{
    struct workspace *space = p->workspace;
    const struct lode_matrix *w = p->weight;
    const uint32_t chunk = CHUNK_PARTS * 32;
    for (uint32_t r = 0; r < p->n_rows; r++) {
        const uint8_t *row = (const uint8_t *)w->data + (size_t)(p->first_row + r) * w->row_bytes;
        clear_outputs(p, r);
        for (uint32_t first = 0; first < w->cols; first += chunk) {
            uint32_t n = w->cols - first < chunk ? w->cols - first : chunk;
            cpu_dequantize(space->weights, w->type,
                           row + (size_t)first * lode_type_find(w->type)->block_bytes, n);
            for (uint32_t i = 0; i < p->n; i++)
                *out_value(p, i, r) +=
                    dot_floats(space->weights, p->x + row_index(p->x_ids, i) * p->x_stride + first, n);
        }
    }
}

const struct cpu_matmul_kernels cpu_matmul_portable = {
    .quantize = cpu_quantize_portable,
    .workspace_bytes = sizeof(struct workspace),
    .multiply =
        {
            [LODE_F32] = multiply_floats,
            [LODE_F16] = multiply_floats,
            [LODE_BF16] = multiply_floats,
            [LODE_Q8_0] = multiply_quantised,
            [LODE_Q4_0] = multiply_quantised,
            [LODE_Q4_1] = multiply_quantised,
            [LODE_Q5_0] = multiply_quantised,
            [LODE_Q5_1] = multiply_quantised,
            [LODE_Q2_K] = multiply_quantised,
            [LODE_Q3_K] = multiply_quantised,
            [LODE_Q4_K] = multiply_quantised,
            [LODE_Q5_K] = multiply_quantised,
            [LODE_Q6_K] = multiply_quantised,
            [LODE_IQ4_NL] = multiply_quantised,
            [LODE_IQ4_XS] = multiply_quantised,
            [LODE_MXFP4] = multiply_quantised,
        },
};
