// What a pass has to do, part by part and each alone on its device: it stays the same while passes are
// followed again and again, with other hit rates and other interference.
#include "placement/cost_internal.h"

#include <stdlib.h>

double cost_rows_of(const struct pass *pass, enum work_rows when)
{
    return when == WORK_WANTED_ROWS ? pass->wanted : pass->rows;
}

static void add(struct product *sum, struct product product)
{
    sum->seconds += product.seconds;
    sum->spread_s += product.spread_s;
}

// Runs have taught what the CPU takes.
static struct product learned(const struct cost_model *model, uint32_t device, enum profile_part part,
                              struct product product)
{
    const double factor = device == COST_CPU ? model->learned[part] : 1;
    return (struct product){product.seconds * factor, product.spread_s * factor};
}

static struct product unit_product(const struct cost_model *model, uint32_t device, uint32_t unit,
                                   const struct pass *pass, double expert_rows)
{
    const struct work_unit *u = &model->workload->units[unit];
    struct product sum = {0};
    for (uint32_t i = 0; i < u->n; i++) {
        const struct work_matrix *matrix = &model->workload->matrices[u->first + i];
        const double rows = expert_rows > 0 ? expert_rows : cost_rows_of(pass, matrix->when);
        add(&sum, cost_multiply(model, device, matrix, rows, expert_rows > 0));
    }
    const enum profile_part part =
        pass->rows > 1 ? PROFILE_PART_KERNELS_PREFILL : PROFILE_PART_KERNELS_DECODE;
    return learned(model, device, part, sum);
}

static void set_experts(struct work *work, uint32_t l)
{
    const struct cost_model *model = work->model;
    const struct work_layer *layer = &model->workload->layers[l];
    const struct cost_layer *where = &model->layers[l];
    struct layer_work *out = &work->layers[l];
    const double rows = cost_rows_of(&work->pass, layer->rest_when);
    cost_touched(out->n, model, l, rows);
    for (uint32_t d = 0; d < COST_DEVICES; d++) {
        out->one[d] = (struct product){0};
        if (!(out->n[d] > 0))
            continue;
        // At least one row, so that what is hardly ever chosen is no cheaper than its bytes.
        double rows_each = rows > 1 ? rows * layer->n_used * where->share[d] / out->n[d] : 1;
        rows_each = rows_each > 1 ? rows_each : 1;
        out->one[d] = unit_product(model, d, layer->first_expert, &work->pass, rows_each);
        if (d == COST_CPU && where->helper != COST_CPU && rows > 1)
            out->helped = unit_product(model, where->helper, layer->first_expert, &work->pass, rows_each);
    }
}

void work_set(struct work *work, const struct pass *pass)
{
    const struct cost_model *model = work->model;
    const struct workload *w = model->workload;
    const bool same_rows = work->pass.rows == pass->rows && work->pass.wanted == pass->wanted;
    if (same_rows && work->pass.context == pass->context)
        return;
    work->pass = *pass;
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint32_t s = model->layers[l].first_step;
             s < model->layers[l].first_step + model->layers[l].n_steps; s++) {
            const uint32_t device = model->steps[s].device;
            if (!model->steps[s].attends)
                continue;
            const double rows = cost_rows_of(pass, w->layers[l].attention_when);
            const double first = pass->context + pass->rows - rows;
            work->attention[l] =
                learned(model, device,
                        pass->rows > 1 ? PROFILE_PART_ATTENTION_PREFILL : PROFILE_PART_ATTENTION_DECODE,
                        cost_attend(model, device, &w->layers[l], first, rows));
        }
    if (same_rows)
        return;
    for (uint32_t s = 0; s < model->n_steps; s++)
        work->kernels[s] = unit_product(model, model->steps[s].device, model->steps[s].unit, pass, 0);
    for (uint32_t l = 0; l < w->n_layers; l++)
        if (w->layers[l].n_experts)
            set_experts(work, l);
}

static int work_open(struct work *out, const struct cost_model *model, struct lode_error *error)
{
    *out = (struct work){.model = model};
    out->kernels = calloc((size_t)model->n_steps + 1, sizeof *out->kernels);
    out->attention = calloc((size_t)model->workload->n_layers + 1, sizeof *out->attention);
    out->layers = calloc((size_t)model->workload->n_layers + 1, sizeof *out->layers);
    if (!out->kernels || !out->attention || !out->layers)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the work of %u units", model->n_steps);
    return 0;
}

static void work_close(struct work *work)
{
    free(work->kernels);
    free(work->attention);
    free(work->layers);
    *work = (struct work){0};
}

int works_open(struct works *out, const struct cost_model *model, struct lode_error *error)
{
    *out = (struct works){0};
    int rc = 0;
    for (int i = 0; i < 2 && !rc; i++)
        rc = work_open(&out->of[i], model, error);
    return rc;
}

void works_close(struct works *works)
{
    for (int i = 0; i < 2; i++)
        work_close(&works->of[i]);
}
