// The table of matrices, filled from the model's layers.
#include "core/weight_matrices.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void describe(struct weight_matrices *out, const struct unit_table *table, uint32_t unit,
                     uint32_t part, enum lode_type type, uint32_t rows, uint32_t cols)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    out->parts[table->units[unit].first_part + part] =
        (struct lode_matrix){.type = type,
                             .rows = rows,
                             .cols = cols,
                             .row_bytes = (size_t)cols / traits->block_elems * traits->block_bytes};
}

static void describe_weight(struct weight_matrices *out, const struct unit_table *table,
                            const struct gemma_weight *weight)
{
    if (weight->cols)
        describe(out, table, weight->unit, weight->part, weight->type, weight->rows, weight->cols);
}

static void describe_experts(struct weight_matrices *out, const struct gemma_model *model,
                             const struct gemma_layer *layer)
{
    const struct unit_table *table = &model->units;
    const struct gemma_hparams *h = &model->hparams;
    const uint32_t end = layer->first_expert_unit + h->n_experts, width = h->expert_width;
    for (uint32_t unit = layer->first_expert_unit; unit < end; unit++) {
        uint32_t part = 0;
        out->is_fused[table->units[unit].first_part] = layer->fused_gate_up;
        describe(out, table, unit, part++, layer->expert_gate_type, layer->fused_gate_up ? 2 * width : width,
                 h->hidden);
        if (!layer->fused_gate_up)
            describe(out, table, unit, part++, layer->expert_up_type, width, h->hidden);
        describe(out, table, unit, part, layer->expert_down_type, h->hidden, width);
    }
}

int weight_matrices_open(struct weight_matrices *out, const struct gemma_model *model,
                         struct lode_device *device, struct lode_error *error)
{
    const struct unit_table *table = &model->units;
    *out = (struct weight_matrices){.device = device,
                                    .parts = calloc(table->n_parts + 1, sizeof *out->parts),
                                    .is_fused = calloc(table->n_parts + 1, sizeof *out->is_fused)};
    if (!out->parts || !out->is_fused) {
        weight_matrices_close(out);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the shapes of %u weights", table->n_parts);
    }
    const struct gemma_weight *common[] = {&model->embedding, &model->head, &model->ple_table,
                                           &model->ple_model_proj};
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        describe_weight(out, table, common[i]);
    for (uint32_t l = 0; l < model->hparams.n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        const struct gemma_weight *weights[] = {
            &layer->q,  &layer->k,    &layer->v,        &layer->output,   &layer->gate,
            &layer->up, &layer->down, &layer->ple_gate, &layer->ple_proj, &layer->router};
        for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
            describe_weight(out, table, weights[i]);
        if (layer->moe)
            describe_experts(out, model, layer);
    }
    return 0;
}

void weight_matrices_close(struct weight_matrices *matrices)
{
    free(matrices->parts);
    free(matrices->is_fused);
    memset(matrices, 0, sizeof *matrices);
}

void weight_matrices_arrange(void *opaque, uint32_t part, void *memory)
{
    const struct weight_matrices *matrices = opaque;
    struct lode_matrix *matrix = &matrices->parts[part];
    if (matrix->rows < 2)
        return;
    const uint32_t n = matrices->is_fused[part] ? 2 : 1; // no group of rows may be of both
    struct lode_matrix own = *matrix;
    own.rows /= n;
    for (uint32_t i = 0; i < n; i++) {
        own.layout = LODE_LAYOUT_FILE;
        own.data = (char *)memory + i * own.rows * own.row_bytes;
        matrices->device->ops->arrange(matrices->device, &own);
    }
    matrix->layout = own.layout; // alike, for they are of one shape
}

void weight_matrices_restore(void *opaque, uint32_t part, void *to, const void *memory)
{
    const struct weight_matrices *matrices = opaque;
    const struct lode_device_ops *ops = matrices->device->ops;
    struct lode_matrix matrix = matrices->parts[part];
    matrix.data = memory;
    assert(matrix.rows > 0);
    if (ops->restore)
        ops->restore(matrices->device, to, &matrix);
    else
        memcpy(to, memory, matrix.rows * matrix.row_bytes);
}
