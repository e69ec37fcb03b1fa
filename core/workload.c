// Says of every weight when it is multiplied and by what; the counterpart of layer.c, experts.c and
// forward.c, which do it.
#include "core/workload.h"

#include <string.h>

// Small operations of a row, as layer.c calls them.
enum {
    OPS_ATTENTION = 4, // attn_norm, q_norm, rope, add_rms_norm
    OPS_KV = 4,        // v norm, k norm, rope, kv_store
    OPS_FFN = 2,       // ffn_norm, add_rms_norm
    OPS_EXPERTS = 7,   // router norm, router, expert norm, combine, two norms, addition
    OPS_GUESS = 2,     // router norm, router
    OPS_PLE = 2,       // geglu, add_rms_norm
    OPS_EMBED = 1,
    OPS_PLE_INPUT = 4, // embed, scale, rms_norm, add
    OPS_HEAD = 1,      // output_norm; the soft cap comes on top
};

static void describe(struct workload *out, const struct gemma_weight *weight, enum work_rows when)
{
    if (!weight->cols)
        return;
    const uint32_t part = out->table->units[weight->unit].first_part + weight->part;
    out->matrices[part] = (struct work_matrix){.type = weight->type,
                                               .rows = weight->rows,
                                               .cols = weight->cols,
                                               .bytes = out->table->parts[part].bytes,
                                               .when = when};
}

static void describe_experts(struct workload *out, const struct gemma_model *model,
                             const struct gemma_layer *layer, enum work_rows when)
{
    const struct gemma_hparams *h = &model->hparams;
    const uint32_t width = h->expert_width;
    for (uint32_t e = 0; e < h->n_experts; e++) {
        struct gemma_weight weight = {.unit = layer->first_expert_unit + e,
                                      .type = layer->expert_gate_type,
                                      .rows = layer->fused_gate_up ? 2 * width : width,
                                      .cols = h->hidden};
        describe(out, &weight, when);
        if (!layer->fused_gate_up) {
            weight.part++;
            weight.type = layer->expert_up_type;
            describe(out, &weight, when);
        }
        weight.part++;
        weight.type = layer->expert_down_type;
        weight.rows = h->hidden;
        weight.cols = width;
        describe(out, &weight, when);
    }
}

static void describe_weights(struct workload *out, const struct gemma_model *model, uint32_t l,
                             enum work_rows first, enum work_rows rest)
{
    const struct gemma_layer *layer = &model->layers[l];
    const struct gemma_weight *before[] = {&layer->attn_norm, &layer->k_norm, &layer->k, &layer->v};
    const struct gemma_weight *behind[] = {&layer->q,
                                           &layer->output,
                                           &layer->gate,
                                           &layer->up,
                                           &layer->down,
                                           &layer->ple_gate,
                                           &layer->ple_proj,
                                           &layer->q_norm,
                                           &layer->ffn_norm,
                                           &layer->post_attention_norm,
                                           &layer->post_ffw_norm,
                                           &layer->output_scale,
                                           &layer->ple_post_norm,
                                           &layer->router,
                                           &layer->router_scale,
                                           &layer->expert_scale,
                                           &layer->post_ffw_norm_1,
                                           &layer->pre_ffw_norm_2,
                                           &layer->post_ffw_norm_2};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        describe(out, before[i], first);
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++)
        describe(out, behind[i], rest);
    if (layer->moe)
        describe_experts(out, model, layer, rest);
}

// A layer's units stand in a row, from its small tensors to the last that names the layer.
static void find_units(struct work_layer *work, const struct unit_table *table, uint32_t first, uint32_t l)
{
    work->first_unit = first;
    while (first + work->n_units < table->n_units && table->units[first + work->n_units].layer == l)
        work->n_units++;
}

static void describe_layer(struct workload *out, const struct gemma_model *model, uint32_t l)
{
    const struct gemma_hparams *h = &model->hparams;
    const struct gemma_layer *layer = &model->layers[l];
    const enum work_rows first = l <= model->last_kv_layer ? WORK_ALL_ROWS : WORK_WANTED_ROWS;
    const enum work_rows rest = l < model->last_kv_layer ? WORK_ALL_ROWS : WORK_WANTED_ROWS;
    struct work_layer *work = &out->layers[l];
    *work = (struct work_layer){
        .q_heads = h->n_heads,
        .kv_heads = layer->n_kv_heads,
        .head_size = layer->head_size,
        .window = layer->global ? 0 : h->window,
        .kv_layer = layer->kv_layer,
        .attention_when = rest,
        .rest_when = rest,
        .operations = OPS_ATTENTION + OPS_FFN + (layer->own_kv ? OPS_KV : 0) +
                      (layer->moe ? OPS_EXPERTS : 0) + (layer->ple_gate.cols ? OPS_PLE : 0),
    };
    find_units(work, out->table, layer->attn_norm.unit, l);
    out->units[layer->q.unit].attends = true;
    describe_weights(out, model, l, first, rest);
    if (!layer->moe)
        return;
    work->n_experts = h->n_experts;
    work->n_used = h->n_experts_used;
    work->first_expert = layer->first_expert_unit;
    work->guess_operations = OPS_GUESS;
    out->units[layer->gate.unit].hides_reads = true;
    out->units[layer->router.unit].guesses = true;
}

static void add_table(struct workload *out, const struct gemma_weight *weight)
{
    if (!weight->cols || out->table->units[weight->unit].class != UNIT_ROWS)
        return;
    struct work_rows_table *table = &out->tables[out->n_tables++];
    table->unit = weight->unit;
    lode_type_row_bytes(&table->row_bytes, weight->type, weight->cols); // checked when the file was read
}

int gemma_workload(struct workload *out, const struct gemma_model *model, struct lode_error *error)
{
    const struct gemma_hparams *h = &model->hparams;
    int rc = workload_open(out, &model->units, h->n_layers, error);
    if (rc)
        return rc;
    out->hidden = h->hidden;
    out->vocab = h->vocab;
    out->context_limit = h->context_limit;
    out->operations = OPS_EMBED + (h->ple_width ? OPS_PLE_INPUT : 0);
    out->head_operations = OPS_HEAD + (h->final_softcap > 0 ? h->vocab / h->hidden : 0);
    // An embedding of its own is read by the row; tied, it is multiplied with as the head.
    describe(out, &model->embedding, WORK_WANTED_ROWS);
    describe(out, &model->head, WORK_WANTED_ROWS);
    describe(out, &model->output_norm, WORK_WANTED_ROWS);
    describe(out, &model->ple_table, WORK_ALL_ROWS);
    describe(out, &model->ple_model_proj, WORK_ALL_ROWS);
    describe(out, &model->ple_proj_norm, WORK_ALL_ROWS);
    describe(out, &model->rope_factors, WORK_ALL_ROWS);
    add_table(out, &model->embedding);
    add_table(out, &model->ple_table);
    for (uint32_t l = 0; l < h->n_layers; l++)
        describe_layer(out, model, l);
    return 0;
}
