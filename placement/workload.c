// The workload's memory and sums; see workload.h.
#include "placement/workload.h"

#include <stdlib.h>
#include <string.h>

int workload_open(struct workload *out, const struct unit_table *table, uint32_t n_layers,
                  struct lode_error *error)
{
    *out = (struct workload){.table = table, .n_layers = n_layers};
    out->matrices = calloc((size_t)table->n_parts + 1, sizeof *out->matrices);
    out->units = calloc((size_t)table->n_units + 1, sizeof *out->units);
    out->layers = calloc((size_t)n_layers + 1, sizeof *out->layers);
    if (!out->matrices || !out->units || !out->layers) {
        workload_close(out);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to describe the work of %u units",
                         table->n_units);
    }
    for (uint32_t u = 0; u < table->n_units; u++)
        out->units[u] = (struct work_unit){.first = table->units[u].first_part, .n = table->units[u].n_parts};
    return 0;
}

void workload_close(struct workload *workload)
{
    free(workload->matrices);
    free(workload->units);
    free(workload->layers);
    memset(workload, 0, sizeof *workload);
}

static uint64_t unit_bytes(const struct workload *workload, uint32_t unit)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < workload->units[unit].n; i++)
        bytes += workload->matrices[workload->units[unit].first + i].bytes;
    return bytes;
}

uint64_t workload_weight_bytes(const struct workload *workload)
{
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < workload->table->n_units; u++)
        bytes += unit_bytes(workload, u);
    return bytes;
}

uint64_t workload_expert_bytes(const struct workload *workload, const struct work_layer *layer)
{
    return layer->n_experts ? unit_bytes(workload, layer->first_expert) : 0;
}

uint64_t workload_bytes_per_token(const struct workload *workload)
{
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < workload->table->n_units; u++) {
        const enum unit_class class = workload->table->units[u].class;
        if (class == UNIT_FIXED || class == UNIT_DENSE)
            bytes += unit_bytes(workload, u);
    }
    for (uint32_t l = 0; l < workload->n_layers; l++)
        bytes += workload->layers[l].n_used * workload_expert_bytes(workload, &workload->layers[l]);
    return bytes;
}

uint32_t workload_choices(const struct workload *workload)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < workload->n_layers; l++)
        n += workload->layers[l].n_used;
    return n;
}

uint32_t workload_experts(const struct workload *workload)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < workload->n_layers; l++)
        n += workload->layers[l].n_experts;
    return n;
}
