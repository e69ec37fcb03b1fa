// A timeline's memory, and the pass from tokens through the layers to logits. The layer itself is in layer.c.
#include "core/forward.h"

#include "base/clock.h"
#include "core/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t row_bytes(const struct gemma_weight *weight)
{
    const struct lode_type_traits *traits = lode_type_find(weight->type);
    return (uint64_t)weight->cols / traits->block_elems * traits->block_bytes;
}

// Of the tables that may stay in the files.
static uint64_t widest_row_bytes(const struct gemma_model *model)
{
    uint64_t widest = 0;
    const struct gemma_weight *tables[] = {&model->embedding, &model->ple_table};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (tables[i]->cols && model->units.units[tables[i]->unit].class == UNIT_ROWS &&
            row_bytes(tables[i]) > widest)
            widest = row_bytes(tables[i]);
    return widest;
}

uint64_t forward_scratch_needed_bytes(const struct gemma_model *model, uint32_t batch, bool with_gpus)
{
    return executor_needed_bytes(model, batch, true, with_gpus) +
           batch * (widest_row_bytes(model) + sizeof(int32_t));
}

static int open_fetched(struct forward *f, struct lode_error *error)
{
    const uint64_t bytes = widest_row_bytes(f->weights->model) * f->batch;
    if (!bytes)
        return 0;
    f->fetched = malloc(bytes + LODE_DEVICE_SLACK);
    f->row_order = malloc(f->batch * sizeof *f->row_order);
    if (!f->fetched || !f->row_order)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for embedding rows of %u tokens", f->batch);
    for (uint32_t i = 0; i < f->batch; i++)
        f->row_order[i] = (int32_t)i;
    f->scratch_bytes += bytes + f->batch * sizeof *f->row_order;
    return 0;
}

// The CPU, and the GPUs that units or experts are on: a timeline has its buffers on all of them.
static int open_executors(struct forward *f, struct lode_error *error)
{
    const struct forward_weights *weights = f->weights;
    const bool many = weights->n_gpus > 0;
    f->n_executors = 1 + weights->n_gpus;
    for (uint32_t i = 0; i < f->n_executors; i++) {
        struct lode_device *device = i ? weights->gpus[i - 1] : weights->device;
        const int rc = executor_open(&f->executors[i], device, i, weights->model, f->batch, many, error);
        if (rc && i)
            lode_fail_in(error, "%s", device->name);
        if (rc)
            return rc;
    }
    f->scratch_bytes += f->executors[0].scratch_bytes;
    return 0;
}

static int open_kv(struct forward *f, const struct forward_options *options, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    struct lode_device **devices = calloc(model->hparams.n_layers, sizeof *devices);
    if (!devices)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the index of the KV cache");
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        devices[l] = forward_layer_executor(f, l)->device;
    const int rc = kv_cache_open(&f->kv, model, devices, options->context, f->batch, options->format, error);
    free(devices);
    return rc;
}

int forward_open(struct forward **out, struct forward_weights *weights, const struct forward_options *options,
                 struct lode_error *error)
{
    *out = NULL;
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a session");
    f->weights = weights;
    f->batch = options->batch;
    f->keep_going = options->keep_going;
    f->user = options->user;
    int rc = open_executors(f, error);
    if (!rc)
        rc = open_kv(f, options, error);
    if (!rc)
        rc = open_fetched(f, error);
    if (!rc)
        rc = expert_batch_open(&f->experts, &weights->model->hparams, f->batch, weights->n_gpus > 0, error);
    if (rc) {
        forward_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    if (f->weights->last == f)
        f->weights->last = NULL;
    expert_batch_close(&f->experts);
    kv_cache_close(&f->kv);
    for (uint32_t i = 0; i < f->n_executors; i++)
        if (f->executors[i].device)
            executor_close(&f->executors[i]);
    free(f->fetched);
    free(f->row_order);
    free(f);
}

static uint64_t device_scratch_bytes(const struct forward *f, uint32_t executor)
{
    const struct lode_device *device = f->executors[executor].device;
    return device->ops->scratch_bytes(device);
}

uint64_t forward_scratch_bytes(const struct forward *f)
{
    return f->scratch_bytes + device_scratch_bytes(f, 0);
}

uint64_t forward_gpu_scratch_bytes(const struct forward *f, uint32_t g)
{
    return g + 1 < f->n_executors ? f->executors[g + 1].scratch_bytes + device_scratch_bytes(f, g + 1) : 0;
}

uint64_t forward_kv_bytes(const struct forward *f)
{
    return kv_cache_bytes_on(&f->kv, f->executors[0].device);
}

uint64_t forward_gpu_kv_bytes(const struct forward *f, uint32_t g)
{
    return g + 1 < f->n_executors ? kv_cache_bytes_on(&f->kv, f->executors[g + 1].device) : 0;
}

uint64_t forward_gpu_wait_ns(const struct forward *f)
{
    return f->gpu_wait_ns;
}

uint32_t forward_position(const struct forward *f)
{
    return f->kv.position;
}

uint32_t forward_rewind(struct forward *f, uint32_t keep)
{
    return kv_cache_rewind(&f->kv, keep);
}

int pass_move(struct forward *f, struct pass *pass, const struct executor *to, struct lode_error *error)
{
    if (pass->at == to)
        return 0;
    const int rc =
        executor_copy(&pass->x, to, BUFFER_X, pass->at, pass->x, forward_host(f), &f->gpu_wait_ns, error);
    pass->at = to;
    return rc;
}

int pass_bring_ple(struct forward *f, struct pass *pass, struct lode_error *error)
{
    struct lode_rows *here = &pass->ple[pass->at->index];
    if (here->data)
        return 0;
    return executor_copy(here, pass->at, BUFFER_PLE, pass->ple_at, pass->ple[pass->ple_at->index],
                         forward_host(f), &f->gpu_wait_ns, error);
}

// What a table's rows are made into floats on: rows that stay in the files come to the host.
static const struct executor *table_executor(const struct forward *f, const struct gemma_weight *weight)
{
    return residency_has_rows(f->weights->residency, weight->unit) ? forward_host(f)
                                                                   : forward_executor(f, weight->unit);
}

// out = scale * the rows `ids` of a table, which is in memory or stays in the files.
static int embed(struct forward *f, struct lode_rows out, const struct gemma_weight *weight,
                 const int32_t *ids, float scale, struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    struct lode_device *device = table_executor(f, weight)->device;
    if (!residency_has_rows(residency, weight->unit)) {
        const struct lode_matrix table = forward_matrix(f, weight);
        device->ops->embed(device, out, &table, ids, scale);
        return 0;
    }
    const struct lode_matrix rows = {.data = f->fetched,
                                     .type = weight->type,
                                     .rows = out.n,
                                     .cols = weight->cols,
                                     .row_bytes = row_bytes(weight)};
    int rc = residency_fetch_rows(residency, weight->unit, weight->part, rows.row_bytes, ids, out.n,
                                  f->fetched, error);
    if (!rc)
        device->ops->embed(device, out, &rows, f->row_order, scale);
    return rc;
}

// The per-layer inputs of all layers: what the table holds for the token, plus a projection of its embedding.
//   ple[l] = (RMS(W x * hidden^-1/2)[l] * w + sqrt(width) * table[token][l]) / sqrt(2)
static int load_ple(struct forward *f, struct pass *pass, const int32_t *ids, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct executor *table_at = table_executor(f, &model->ple_table);
    const struct executor *e = forward_executor(f, model->ple_model_proj.unit);
    const struct lode_device_ops *ops = e->device->ops;
    const struct lode_matrix projection = forward_matrix(f, &model->ple_model_proj);
    struct lode_rows ple = executor_rows(table_at, BUFFER_PLE, pass->x.n, model->ple_table.cols);
    int rc = embed(f, ple, &model->ple_table, ids, sqrtf((float)h->ple_width), error);
    if (!rc && table_at != e)
        rc = executor_copy(&ple, e, BUFFER_PLE, table_at, ple, forward_host(f), &f->gpu_wait_ns, error);
    if (!rc)
        rc = pass_move(f, pass, e, error);
    if (rc)
        return rc;
    struct lode_rows context = executor_rows(e, BUFFER_PLE_CONTEXT, pass->x.n, projection.rows);
    ops->matmul(e->device, &context, &projection, 1, pass->x);
    ops->scale(e->device, context, 1.0f / sqrtf((float)h->hidden));
    struct lode_rows by_layer = split_rows(context, h->ple_width);
    ops->rms_norm(e->device, by_layer, by_layer, forward_vector(f, &model->ple_proj_norm), h->rms_eps, 1.0f);
    ops->add(e->device, ple, ple, context, (float)M_SQRT1_2);
    pass->ple[e->index] = ple;
    pass->ple_at = e;
    return 0;
}

static int write_logits(struct forward *f, struct pass *pass, float *out_logits, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct executor *e = forward_executor(f, model->head.unit);
    int rc = pass_move(f, pass, e, error);
    if (rc)
        return rc;
    const struct lode_device_ops *ops = e->device->ops;
    const bool host_memory = e->device->host_memory;
    const struct lode_matrix head = forward_matrix(f, &model->head);
    const struct lode_rows x = pass->x;
    struct lode_rows normed = executor_rows(e, BUFFER_NORMED, x.n, h->hidden);
    ops->rms_norm(e->device, normed, x, forward_vector(f, &model->output_norm), h->rms_eps, 1.0f);
    const uint32_t step = host_memory ? x.n : EXECUTOR_HEAD_ROWS;
    for (uint32_t first = 0; first < x.n; first += step) {
        const uint32_t n = x.n - first < step ? x.n - first : step;
        float *to = out_logits + (size_t)first * h->vocab;
        struct lode_rows logits = {host_memory ? to : e->buffers[BUFFER_LOGITS], n, h->vocab, h->vocab};
        struct lode_rows part = {normed.data + first * normed.stride, n, normed.cols, normed.stride};
        ops->matmul(e->device, &logits, &head, 1, part);
        if (h->final_softcap > 0)
            ops->softcap(e->device, logits, h->final_softcap);
        if (host_memory)
            continue;
        rc = executor_download(e, to, logits.data, (size_t)n * h->vocab * sizeof(float), &f->gpu_wait_ns,
                               error);
        if (rc)
            return rc;
    }
    return 0;
}

static int run(struct forward *f, const int32_t *ids, uint32_t n, uint32_t want, float *out_logits,
               struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct executor *first = table_executor(f, &model->embedding);
    struct pass pass = {.at = first,
                        .x = executor_rows(first, BUFFER_X, n, h->hidden),
                        .n_tokens = n,
                        .first_position = f->kv.position,
                        .want = want};
    int rc = embed(f, pass.x, &model->embedding, ids, sqrtf((float)h->hidden), error);
    if (!rc && h->ple_width)
        rc = load_ple(f, &pass, ids, error);
    if (!rc)
        rc = pass_move(f, &pass, forward_layer_executor(f, 0), error);
    if (!rc)
        rc = experts_guess(f, &pass, pass.x, 0, error);
    for (uint32_t l = 0; l < h->n_layers && pass.x.n && !rc; l++) {
        if (f->keep_going && !f->keep_going(f->user))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped before layer %u of %u", l, h->n_layers);
        rc = layer_run(f, &pass, l, error);
    }
    return !rc && pass.x.n ? write_logits(f, &pass, out_logits, error) : rc;
}

// Units that every pass uses, and that are not rows.
static uint32_t common_units(const struct forward *f, uint32_t units[5])
{
    const struct gemma_model *model = f->weights->model;
    const uint32_t all[] = {model->embedding.unit, model->output_norm.unit, model->head.unit,
                            model->ple_model_proj.unit};
    const uint32_t n_all = model->hparams.ple_width ? 4 : 3;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_all; i++) {
        const bool again = i == 2 && all[i] == all[0];
        if (!again && !residency_has_rows(f->weights->residency, all[i]))
            units[n++] = all[i];
    }
    return n;
}

struct step {
    struct forward *f;
    const int32_t *ids;
    uint32_t n, want;
    float *out_logits;
    struct lode_error *error;
    int rc;
};

static void run_step(void *user)
{
    struct step *step = user;
    step->rc = run(step->f, step->ids, step->n, step->want, step->out_logits, step->error);
}

// Tells predictor and trace that a pass begins, and where its text is not that of the pass before.
static void tell_begin(struct forward *f, uint32_t n)
{
    struct forward_weights *weights = f->weights;
    const bool other = weights->last != f;
    struct predictor *predictor = weights->predictor;
    if (predictor && predictor->ops->restart && (other || f->kv.position == 0))
        predictor->ops->restart(predictor);
    weights->last = f;
    if (!weights->trace)
        return;
    if (other && f->kv.position > 0) // at position 0 one begins anyway
        trace_conversation(weights->trace, "", TRACE_PART_NONE);
    trace_pass_begin(weights->trace, n == 1 ? TRACE_DECODE : TRACE_PREFILL, f->kv.position, n,
                     residency_now_ns(weights->residency));
}

static void tell_end(struct forward *f, uint32_t n, bool complete, uint64_t start_ns)
{
    struct forward_weights *weights = f->weights;
    struct predictor *predictor = weights->predictor;
    if (predictor && complete && predictor->ops->pass_end)
        predictor->ops->pass_end(predictor, n);
    else if (predictor && !complete && predictor->ops->restart)
        predictor->ops->restart(predictor); // it has been told of a part of the layers
    if (weights->trace && complete)
        trace_pass_end(weights->trace, residency_now_ns(weights->residency) - start_ns,
                       residency_last_stall(weights->residency).total_ns);
}

// Also after a failure: what was called may still write into the timeline's buffers.
int forward_sync(struct forward *f, int rc, struct lode_error *error)
{
    for (uint32_t i = 0; i < f->n_executors; i++) {
        struct lode_device *device = f->executors[i].device;
        const uint64_t start_ns = i ? clock_now_ns() : 0;
        const int synced = device->ops->sync(device, rc ? NULL : error);
        f->gpu_wait_ns += i ? clock_now_ns() - start_ns : 0;
        rc = rc ? rc : synced;
    }
    return rc;
}

int forward_grow(struct forward *f, uint32_t end, struct lode_error *error)
{
    const struct forward_weights *weights = f->weights;
    return weights->n_gpus ? kv_cache_grow(&f->kv, end, weights->make_room, weights->owner, error) : 0;
}

static void forget_routed(struct forward *f)
{
    if (f->any_routed)
        memset(f->experts.routed_rows, 0,
               f->weights->model->hparams.n_layers * sizeof *f->experts.routed_rows);
    f->any_routed = false;
}

int forward_step(struct forward *f, const int32_t *ids, uint32_t n, uint32_t want, float *out_logits,
                 struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    uint32_t common[5];
    const uint32_t n_common = common_units(f, common);
    const uint64_t start_ns = residency_now_ns(residency);
    int rc = forward_grow(f, f->kv.position + n, error);
    if (rc)
        return rc;
    tell_begin(f, n);
    residency_pass_begin(residency, n, f->keep_going, f->user);
    forget_routed(f);
    rc = experts_prepare_routed(f->weights, error);
    if (!rc)
        rc = residency_acquire(residency, common, n_common, error);
    if (!rc) {
        struct step step = {f, ids, n, want, out_logits, error, 0};
        struct lode_device *host = forward_host(f)->device;
        host->ops->pass(host, run_step, &step);
        rc = forward_sync(f, step.rc, error);
        if (!rc && f->any_routed)
            rc = experts_note_routed(f, error);
        residency_release(residency, common, n_common);
    }
    residency_pass_end(residency, rc == 0);
    tell_end(f, n, rc == 0, start_ns);
    if (rc)
        return rc;
    f->kv.position += n;
    if (f->kv.high < f->kv.position)
        f->kv.high = f->kv.position;
    return 0;
}
