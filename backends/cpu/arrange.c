// Interleaving the rows of matrices that stay in memory; see rows8.h.
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows8.h"

#include <stdlib.h>

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
