// Rows of the embedding tables, decoded to floats.
#include "backends/cpu/dequantize.h"
#include "backends/cpu/parallel.h"

struct embed_call {
    struct lode_rows out;
    const struct lode_matrix *table;
    const int32_t *ids;
    float scale;
};

static void embed_row(const struct cpu_device *device, const void *opaque, size_t row, uint32_t thread)
{
    (void)device;
    (void)thread;
    const struct embed_call *call = opaque;
    float *out = call->out.data + row * call->out.stride;
    const struct lode_matrix *table = call->table;
    cpu_dequantize(out, table->type, (const char *)table->data + (size_t)call->ids[row] * table->row_bytes,
                   table->cols);
    for (uint32_t i = 0; i < table->cols; i++)
        out[i] *= call->scale;
}

void cpu_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
               const int32_t *ids, float scale)
{
    struct embed_call call = {.out = out, .table = table, .ids = ids, .scale = scale};
    cpu_for_items(cpu_device_of(device), out.n, (size_t)out.n * table->cols, embed_row, &call);
}
