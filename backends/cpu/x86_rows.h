// Where the rows of a product are: activations, results, and weights by groups of eight.
#ifndef LODE_CPU_X86_ROWS_H
#define LODE_CPU_X86_ROWS_H

#include "backends/cpu/matmul.h"

static inline const struct cpu_block *block_row(const struct cpu_product *p, uint32_t i)
{
    size_t row = p->x_ids ? (size_t)p->x_ids[i] : i;
    return p->blocks + row * p->block_stride;
}

static inline float *out_row(const struct cpu_product *p, uint32_t i)
{
    size_t row = p->out_ids ? (size_t)p->out_ids[i] : i;
    return p->out + row * p->out_stride;
}

// Eight rows of a matrix, `stride` bytes apart, of which n from `skip` on are wanted: near the end of the
// matrix the eight begin earlier. Of a matrix with less than eight rows, one row eight times.
struct row_group {
    const uint8_t *first;
    size_t stride;
    uint32_t skip, n;
};

static inline struct row_group row_group(const struct cpu_product *p, uint32_t row)
{
    const struct lode_matrix *w = p->weight;
    uint32_t end = p->first_row + p->n_rows, begin = p->first_row + row;
    if (w->rows < 8)
        return (struct row_group){(const uint8_t *)w->data + begin * w->row_bytes, 0, 0, 1};
    uint32_t start = begin + 8 <= w->rows ? begin : w->rows - 8;
    uint32_t n = end - begin < 8 ? end - begin : 8;
    return (struct row_group){(const uint8_t *)w->data + start * w->row_bytes, w->row_bytes, begin - start,
                              n};
}

#endif
