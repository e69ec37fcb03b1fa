// Operands and exact results for the families of the laboratory; see cell.h.
#include "bench/cell.h"

#include "backends/cpu/dequantize.h"
#include "backends/cpu/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED_BLOCKS 4096

static void end_without_memory(size_t bytes)
{
    fprintf(stderr, "kernels: no memory for %zu bytes; leave large shapes out with --filter\n", bytes);
    exit(1);
}

void *cell_memory(struct cell *cell, size_t bytes)
{
    if (cell->n_blocks == CELL_MAX_BLOCKS ||
        cpu_memory_alloc(&cell->blocks[cell->n_blocks].memory, bytes, NULL) != LODE_OK)
        end_without_memory(bytes);
    cell->blocks[cell->n_blocks].bytes = bytes;
    return cell->blocks[cell->n_blocks++].memory;
}

struct lode_rows cell_rows(struct cell *cell, uint32_t n, uint32_t cols, float size)
{
    const size_t floats = (size_t)n * cols;
    struct lode_rows rows = {NULL, n, cols, cols};
    rows.data = cell_memory(cell, floats * cell->n_copies * sizeof(float));
    for (size_t i = 0; i < floats; i++)
        rows.data[i] = size * test_random_float(&cell->random);
    for (uint32_t c = 1; c < cell->n_copies; c++)
        memcpy(rows.data + c * floats, rows.data, floats * sizeof(float));
    return rows;
}

struct lode_rows rows_of_copy(struct lode_rows rows, uint32_t copy)
{
    rows.data += (size_t)copy * rows.n * rows.stride;
    return rows;
}

size_t matrix_bytes(const struct lode_matrix *matrix)
{
    return matrix->row_bytes * matrix->rows;
}

struct lode_matrix matrix_at(const struct lode_matrix *matrix, uint32_t index)
{
    struct lode_matrix at = *matrix;
    at.data = (const uint8_t *)matrix->data + index * matrix_bytes(matrix);
    return at;
}

// Random blocks, repeated out of order: making every block anew would take longer than timing them.
static void fill_blocks(struct test_random *random, enum lode_type type, uint8_t *data, size_t n_blocks)
{
    const size_t block_bytes = lode_type_find(type)->block_bytes;
    for (size_t b = 0; b < n_blocks; b++) {
        if (b < SEED_BLOCKS)
            test_random_block(random, type, data + b * block_bytes);
        else
            memcpy(data + b * block_bytes, data + (b * 31 % SEED_BLOCKS) * block_bytes, block_bytes);
    }
}

struct lode_matrix cell_matrix(struct cell *cell, enum lode_type type, uint32_t rows, uint32_t cols,
                               uint32_t n)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    struct lode_matrix matrix = {.type = type,
                                 .rows = rows,
                                 .cols = cols,
                                 .row_bytes = (size_t)cols / traits->block_elems * traits->block_bytes};
    const size_t bytes = matrix_bytes(&matrix);
    uint8_t *data = cell_memory(cell, bytes * (n + 1));
    fill_blocks(&cell->random, type, data, bytes / traits->block_bytes);
    for (uint32_t i = 1; i <= n; i++)
        memcpy(data + i * bytes, data, bytes);
    matrix.data = data;
    for (uint32_t i = 0; i < n && !cell->file_layout; i++) {
        struct lode_matrix at = matrix_at(&matrix, i);
        at.layout = LODE_LAYOUT_FILE;
        cell->device->ops->arrange(cell->device, &at);
        matrix.layout = at.layout;
    }
    return matrix;
}

struct lode_matrix matrix_as_filed(const struct lode_matrix *matrix, uint32_t n)
{
    struct lode_matrix filed = matrix_at(matrix, n);
    filed.layout = LODE_LAYOUT_FILE;
    return filed;
}

uint32_t ring_copies(double bytes)
{
    return bytes < (double)RING_BYTES ? (uint32_t)((double)RING_BYTES / bytes) + 1 : 1;
}

// Codes of 8 bits, among them the values of the IQ4 tables, fill the 16 bits of a pair of products.
static bool is_narrow(enum lode_type type)
{
    return type != LODE_Q8_0 && type != LODE_IQ4_NL && type != LODE_IQ4_XS;
}

void cost_matmul(struct cost *cost, enum lode_type type, double multiply_adds)
{
    if (type == LODE_BF16)
        cost->bf16_ops += 2 * multiply_adds;
    else if (lode_type_find(type)->block_elems == 1)
        cost->float_ops += 2 * multiply_adds;
    else if (is_narrow(type))
        cost->narrow_ops += 2 * multiply_adds;
    else
        cost->int8_ops += 2 * multiply_adds;
}

struct exact exact_dot(const struct lode_matrix *matrix, uint32_t row, const float *x, float *decoded)
{
    cpu_dequantize(decoded, matrix->type, (const uint8_t *)matrix->data + row * matrix->row_bytes,
                   matrix->cols);
    struct exact dot = {0};
    for (uint32_t c = 0; c < matrix->cols; c++) {
        dot.value += (double)decoded[c] * (double)x[c];
        dot.magnitude += fabs((double)decoded[c] * (double)x[c]);
    }
    return dot;
}

double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

double error_of(double got, struct exact want)
{
    double difference = fabs(got - want.value);
    if (!(difference < INFINITY))
        return INFINITY;
    return difference == 0 ? 0 : difference / want.magnitude;
}
