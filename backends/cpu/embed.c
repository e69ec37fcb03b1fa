// Rows of the embedding tables, decoded to floats.
#include "backends/cpu/dequantize.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/rows8.h"

#define MAX_BLOCK_BYTES 256

struct embed_call {
    struct lode_rows out;
    const struct lode_matrix *table;
    const int32_t *ids;
    float scale;
};

// A row of an interleaved table, block by block.
static void decode_interleaved(float *out, const struct lode_matrix *table, uint32_t row)
{
    const struct lode_type_traits *traits = lode_type_find(table->type);
    uint8_t block[MAX_BLOCK_BYTES];
    for (uint32_t b = 0; b < table->cols / traits->block_elems; b++) {
        cpu_rows8_extract(block, table, row, b);
        cpu_dequantize(out + (size_t)b * traits->block_elems, table->type, block, traits->block_elems);
    }
}

static void embed_row(const struct cpu_device *device, const void *opaque, size_t row, uint32_t thread)
{
    (void)device;
    (void)thread;
    const struct embed_call *call = opaque;
    float *out = call->out.data + row * call->out.stride;
    const struct lode_matrix *table = call->table;
    const uint32_t id = (uint32_t)call->ids[row];
    if (table->layout == LODE_LAYOUT_ROWS8)
        decode_interleaved(out, table, id);
    else
        cpu_dequantize(out, table->type, (const char *)table->data + id * table->row_bytes, table->cols);
    for (uint32_t i = 0; i < table->cols; i++)
        out[i] *= call->scale;
}

void cpu_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
               const int32_t *ids, float scale)
{
    struct embed_call call = {.out = out, .table = table, .ids = ids, .scale = scale};
    cpu_for_items(cpu_device_of(device), out.n, (size_t)out.n * table->cols, embed_row, &call);
}
