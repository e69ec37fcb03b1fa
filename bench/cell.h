// A cell of the laboratory: one operation with operands of one shape, what it must read and compute at least,
// and how far its result lies from double precision. A family (matmul, attention, …) lists its cells and
// makes their operands; the laboratory chooses, times and prints them.
#ifndef LODE_BENCH_CELL_H
#define LODE_BENCH_CELL_H

#include "backends/backend.h"
#include "tests/weights.h"

// Operands that a decoder reads once a token come from a ring of copies larger than any cache.
#define RING_BYTES ((size_t)192 << 20)
// A call that touches no more than this has its operands from the caches, in a model as well as here.
#define CACHED_LIMIT_BYTES ((size_t)256 << 10)

#define CELL_MAX_BLOCKS 16

// The least that a call must move and compute.
struct cost {
    double memory_bytes, cached_bytes;
    bool writes;                                      // some of the bytes from memory are written
    double float_ops, bf16_ops, int8_ops, narrow_ops; // a multiply-add is two; see roofline.h
};

struct cell_ops;

struct cell {
    struct lode_device *device;
    bool file_layout; // weights stay as a file has them, as those do that come and go
    const void *spec; // the family's description of the shape
    void *state;      // the family's operands
    uint32_t n_copies;
    struct cost cost;
    struct test_random random;
    struct {
        void *memory;
        size_t bytes;
    } blocks[CELL_MAX_BLOCKS];
    uint32_t n_blocks;
};

struct cell_ops {
    void (*make)(struct cell *cell); // operands, copies and cost; ends the program when memory runs out
    void (*run)(struct cell *cell, uint32_t copy);
    double (*worst_error)(struct cell *cell); // runs the operation anew where it works in place
};

// What a family offers. The line names the cell: operation, type and shape; words of it can be filtered for.
struct bench;
void bench_offer(struct bench *bench, const char *op, const char *type, const char *shape,
                 const struct cell_ops *ops, const void *spec);

struct family {
    const char *name;
    struct lode_limits limits;
    void (*list)(struct bench *bench);
};

extern const struct family matmul_family, geglu_family, expert_family, attention_family, vector_family,
    rows_family;

// ---- for families

// Zeroed memory like the engine's, released with the cell.
void *cell_memory(struct cell *cell, size_t bytes);
// n rows of random floats within -size .. size, n_copies times one behind the other.
struct lode_rows cell_rows(struct cell *cell, uint32_t n, uint32_t cols, float size);
struct lode_rows rows_of_copy(struct lode_rows rows, uint32_t copy);
// n matrices of the same random weights, one behind the other, arranged as the device likes those that stay
// in memory. One more follows them in the file's layout, for exact results.
struct lode_matrix cell_matrix(struct cell *cell, enum lode_type type, uint32_t rows, uint32_t cols,
                               uint32_t n);
struct lode_matrix matrix_at(const struct lode_matrix *matrix, uint32_t index);
struct lode_matrix matrix_as_filed(const struct lode_matrix *matrix, uint32_t n);
size_t matrix_bytes(const struct lode_matrix *matrix);
uint32_t ring_copies(double bytes); // of operands of one call, so that all together are larger than caches

void cost_matmul(struct cost *cost, enum lode_type type, double multiply_adds);

// A sum in double and the sum of its terms' magnitudes.
struct exact {
    double value, magnitude;
};

// Row `row` of a matrix times x; `decoded` holds a row.
struct exact exact_dot(const struct lode_matrix *matrix, uint32_t row, const float *x, float *decoded);
double gelu_tanh(double x);
double error_of(double got, struct exact want); // in parts of the magnitude; infinite for a NaN

#endif
