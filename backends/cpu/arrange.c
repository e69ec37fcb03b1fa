// Interleaving the rows of matrices that stay in memory, and writing them elsewhere as they were; see
// rows8.h.
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows8.h"

#include <stdlib.h>
#include <string.h>

struct arrange_call {
    const struct lode_matrix *matrix;
    char *spare; // eight rows for each thread
};

static void arrange_group(const struct cpu_device *device, const void *opaque, size_t group, uint32_t thread)
{
    (void)device;
    const struct arrange_call *call = opaque;
    const size_t bytes = CPU_ROWS8 * call->matrix->row_bytes;
    cpu_rows8_interleave((char *)(uintptr_t)call->matrix->data + group * bytes, call->matrix->type,
                         call->matrix->row_bytes, call->spare + thread * bytes);
}

void cpu_arrange(struct lode_device *device, struct lode_matrix *matrix)
{
    struct cpu_device *cpu = cpu_device_of(device);
    if (!cpu->matmul->takes_rows8 || !cpu_rows8_format(matrix->type) || matrix->rows % CPU_ROWS8)
        return;
    struct arrange_call call = {.matrix = matrix,
                                .spare = malloc((size_t)cpu->threads * CPU_ROWS8 * matrix->row_bytes)};
    if (!call.spare)
        return; // then it stays as it is, and is multiplied so
    cpu_for_items(cpu, matrix->rows / CPU_ROWS8, (size_t)matrix->rows * matrix->cols, arrange_group, &call);
    free(call.spare);
    matrix->layout = LODE_LAYOUT_ROWS8;
}

struct restore_call {
    const struct lode_matrix *matrix;
    char *to;
    cpu_rows8_restore_fn restore;
};

static cpu_rows8_restore_fn restore_of(const struct cpu_device *cpu)
{
#if defined(__x86_64__)
    if (cpu->matmul->takes_rows8) // for which all kernels need AVX2
        return cpu_rows8_restore_avx2;
#endif
    (void)cpu;
    return cpu_rows8_restore;
}

// Eight rows, or the last ones of a matrix that is not interleaved.
static void restore_group(const struct cpu_device *device, const void *opaque, size_t group, uint32_t thread)
{
    (void)device;
    (void)thread;
    const struct restore_call *call = opaque;
    const struct lode_matrix *matrix = call->matrix;
    const size_t first = group * CPU_ROWS8, left = matrix->rows - first,
                 n = left < CPU_ROWS8 ? left : CPU_ROWS8;
    const char *from = (const char *)matrix->data + first * matrix->row_bytes;
    char *to = call->to + first * matrix->row_bytes;
    if (matrix->layout == LODE_LAYOUT_ROWS8)
        call->restore(to, matrix->type, matrix->row_bytes, from);
    else
        memcpy(to, from, n * matrix->row_bytes);
}

void cpu_restore(struct lode_device *device, void *to, const struct lode_matrix *matrix)
{
    const struct cpu_device *cpu = cpu_device_of(device);
    const struct restore_call call = {.matrix = matrix, .to = to, .restore = restore_of(cpu)};
    const size_t n_groups = ((size_t)matrix->rows + CPU_ROWS8 - 1) / CPU_ROWS8;
    cpu_for_items(cpu, n_groups, (size_t)matrix->rows * matrix->cols, restore_group, &call);
}
