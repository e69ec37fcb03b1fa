// A timeline's memory, and the pass from tokens through the layers to logits. The layer itself is in layer.c.
#include "core/forward.h"

#include "core/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Rows of logits that are made at once on a device whose memory the host cannot see.
#define HEAD_ROWS 16

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

// The widest rows that any layer makes.
struct widths {
    uint32_t q, kv, ffn, head_size, experts_used, all_ple;
};

static struct widths widest(const struct gemma_model *model)
{
    const struct gemma_hparams *h = &model->hparams;
    struct widths w = {0};
    w.head_size = max_u32(h->head_size_local, h->head_size_global);
    w.q = h->n_heads * w.head_size;
    for (uint32_t l = 0; l < h->n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        w.kv = max_u32(w.kv, layer->n_kv_heads * layer->head_size);
        w.ffn = max_u32(w.ffn, layer->ffn_width);
        w.experts_used = layer->moe ? h->n_experts_used : w.experts_used;
    }
    w.all_ple = h->ple_width * h->n_layers;
    return w;
}

// The buffers of a pass, in floats for each row of the batch.
static void buffer_floats(const struct gemma_model *model, size_t floats[N_BUFFERS])
{
    const struct gemma_hparams *h = &model->hparams;
    const struct widths w = widest(model);
    memset(floats, 0, N_BUFFERS * sizeof *floats);
    floats[BUFFER_X] = floats[BUFFER_NORMED] = floats[BUFFER_BRANCH] = h->hidden;
    floats[BUFFER_Q] = floats[BUFFER_ATTENDED] = w.q;
    floats[BUFFER_K] = floats[BUFFER_V] = w.kv;
    floats[BUFFER_FFN] = max_u32(w.ffn, h->ple_width);
    floats[BUFFER_PLE] = floats[BUFFER_PLE_CONTEXT] = w.all_ple;
    if (w.experts_used) {
        floats[BUFFER_EXPERT_INPUT] = floats[BUFFER_EXPERT_SUM] = h->hidden;
        floats[BUFFER_ROUTER] = h->n_experts;
        floats[BUFFER_CHOSEN] = floats[BUFFER_CHOSEN_WEIGHT] = w.experts_used;
        floats[BUFFER_GUESSED] = floats[BUFFER_GUESSED_WEIGHT] = w.experts_used;
        floats[BUFFER_EXPERT_SLOTS] = (size_t)w.experts_used * h->hidden;
    }
}

static size_t buffer_bytes(const struct gemma_model *model, const size_t floats[N_BUFFERS], int buffer,
                           uint32_t batch)
{
    size_t n = floats[buffer] * batch;
    const bool guesses = buffer == BUFFER_GUESSED || buffer == BUFFER_GUESSED_WEIGHT;
    if (guesses && n && n < model->hparams.n_experts)
        n = model->hparams.n_experts;
    return n * sizeof(float);
}

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

uint64_t forward_scratch_needed_bytes(const struct gemma_model *model, uint32_t batch)
{
    size_t floats[N_BUFFERS];
    buffer_floats(model, floats);
    uint64_t bytes = 0;
    for (int b = 0; b < N_BUFFERS; b++)
        bytes += buffer_bytes(model, floats, b, batch);
    return bytes + batch * (widest_row_bytes(model) + sizeof(int32_t));
}

static int open_buffers(struct forward *f, struct lode_error *error)
{
    size_t floats[N_BUFFERS];
    buffer_floats(f->weights->model, floats);
    for (int b = 0; b < N_BUFFERS; b++) {
        f->buffer_bytes[b] = buffer_bytes(f->weights->model, floats, b, f->batch);
        if (b == BUFFER_LOGITS && !f->device->host_memory)
            f->buffer_bytes[b] = (size_t)HEAD_ROWS * f->weights->model->hparams.vocab * sizeof(float);
        if (!f->buffer_bytes[b])
            continue;
        int rc = f->device->ops->alloc(f->device, (void **)&f->buffers[b], f->buffer_bytes[b], error);
        if (rc) {
            lode_fail_in(error, "scratch for steps of %u tokens", f->batch);
            return rc;
        }
        f->scratch_bytes += f->buffer_bytes[b];
    }
    return 0;
}

struct lode_limits forward_limits(const struct gemma_model *model, uint32_t batch)
{
    const struct gemma_hparams *h = &model->hparams;
    const struct widths w = widest(model);
    return (struct lode_limits){
        .rows = batch,
        .cols = max_u32(max_u32(h->hidden, w.q), max_u32(w.ffn, max_u32(h->expert_width, h->ple_width))),
        .ffn_width = max_u32(w.ffn, h->expert_width),
        .n_heads = h->n_heads,
        .head_size = w.head_size,
        .expert_rows = batch * w.experts_used,
    };
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

int forward_open(struct forward **out, struct forward_weights *weights, const struct forward_options *options,
                 struct lode_error *error)
{
    *out = NULL;
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a session");
    f->weights = weights;
    f->device = weights->device;
    f->batch = options->batch;
    f->keep_going = options->keep_going;
    f->user = options->user;
    const struct lode_limits limits = forward_limits(weights->model, f->batch);
    int rc =
        kv_cache_open(&f->kv, weights->model, f->device, options->context, f->batch, options->format, error);
    if (!rc)
        rc = open_buffers(f, error);
    if (!rc)
        rc = open_fetched(f, error);
    if (!rc)
        rc = f->device->ops->reserve(f->device, &limits, error);
    if (!rc)
        rc = expert_batch_open(&f->experts, &weights->model->hparams, f->batch, error);
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
    for (int b = 0; b < N_BUFFERS; b++)
        if (f->buffers[b])
            f->device->ops->free(f->device, f->buffers[b], f->buffer_bytes[b]);
    expert_batch_close(&f->experts);
    kv_cache_close(&f->kv);
    free(f->fetched);
    free(f->row_order);
    free(f);
}

uint64_t forward_scratch_bytes(const struct forward *f)
{
    return f->scratch_bytes + f->device->ops->scratch_bytes(f->device);
}

uint64_t forward_kv_bytes(const struct forward *f)
{
    return f->kv.bytes;
}

uint32_t forward_position(const struct forward *f)
{
    return f->kv.position;
}

uint32_t forward_rewind(struct forward *f, uint32_t keep)
{
    return kv_cache_rewind(&f->kv, keep);
}

// out = scale * the rows `ids` of a table, which is in memory or stays in the files.
static int embed(struct forward *f, struct lode_rows out, const struct gemma_weight *weight,
                 const int32_t *ids, float scale, struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    if (!residency_has_rows(residency, weight->unit)) {
        const struct lode_matrix table = forward_matrix(f, weight);
        f->device->ops->embed(f->device, out, &table, ids, scale);
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
        f->device->ops->embed(f->device, out, &rows, f->row_order, scale);
    return rc;
}

// The per-layer inputs of all layers: what the table holds for the token, plus a projection of its embedding.
//   ple[l] = (RMS(W x * hidden^-1/2)[l] * w + sqrt(width) * table[token][l]) / sqrt(2)
static int load_ple(struct forward *f, struct pass *pass, const int32_t *ids, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct lode_device_ops *ops = f->device->ops;
    const struct lode_matrix projection = forward_matrix(f, &model->ple_model_proj);
    pass->ple = forward_rows(f, BUFFER_PLE, pass->x.n, model->ple_table.cols);
    struct lode_rows context = forward_rows(f, BUFFER_PLE_CONTEXT, pass->x.n, projection.rows);
    int rc = embed(f, pass->ple, &model->ple_table, ids, sqrtf((float)h->ple_width), error);
    if (rc)
        return rc;
    ops->matmul(f->device, &context, &projection, 1, pass->x);
    ops->scale(f->device, context, 1.0f / sqrtf((float)h->hidden));
    struct lode_rows by_layer = split_rows(context, h->ple_width);
    ops->rms_norm(f->device, by_layer, by_layer, forward_vector(f, &model->ple_proj_norm), h->rms_eps, 1.0f);
    ops->add(f->device, pass->ple, pass->ple, context, (float)M_SQRT1_2);
    return 0;
}

static int write_logits(struct forward *f, struct lode_rows x, float *out_logits, struct lode_error *error)
{
    const struct gemma_model *model = f->weights->model;
    const struct gemma_hparams *h = &model->hparams;
    const struct lode_device_ops *ops = f->device->ops;
    const struct lode_matrix head = forward_matrix(f, &model->head);
    struct lode_rows normed = forward_rows(f, BUFFER_NORMED, x.n, h->hidden);
    ops->rms_norm(f->device, normed, x, forward_vector(f, &model->output_norm), h->rms_eps, 1.0f);
    const uint32_t step = f->device->host_memory ? x.n : HEAD_ROWS;
    for (uint32_t first = 0; first < x.n; first += step) {
        const uint32_t n = x.n - first < step ? x.n - first : step;
        float *to = out_logits + (size_t)first * h->vocab;
        struct lode_rows logits = {f->device->host_memory ? to : f->buffers[BUFFER_LOGITS], n, h->vocab,
                                   h->vocab};
        struct lode_rows part = {normed.data + first * normed.stride, n, normed.cols, normed.stride};
        ops->matmul(f->device, &logits, &head, 1, part);
        if (h->final_softcap > 0)
            ops->softcap(f->device, logits, h->final_softcap);
        if (f->device->host_memory)
            continue;
        int rc = ops->download(f->device, to, logits.data, (size_t)n * h->vocab * sizeof(float), error);
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
    struct pass pass = {.x = forward_rows(f, BUFFER_X, n, h->hidden),
                        .n_tokens = n,
                        .first_position = f->kv.position,
                        .want = want};
    int rc = embed(f, pass.x, &model->embedding, ids, sqrtf((float)h->hidden), error);
    if (!rc && h->ple_width)
        rc = load_ple(f, &pass, ids, error);
    if (!rc)
        rc = experts_guess(f, &pass, pass.x, 0, error);
    for (uint32_t l = 0; l < h->n_layers && pass.x.n && !rc; l++) {
        if (f->keep_going && !f->keep_going(f->user))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped before layer %u of %u", l, h->n_layers);
        rc = layer_run(f, &pass, l, error);
    }
    return !rc && pass.x.n ? write_logits(f, pass.x, out_logits, error) : rc;
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

int forward_step(struct forward *f, const int32_t *ids, uint32_t n, uint32_t want, float *out_logits,
                 struct lode_error *error)
{
    struct residency *residency = f->weights->residency;
    uint32_t common[5];
    const uint32_t n_common = common_units(f, common);
    const uint64_t start_ns = residency_now_ns(residency);
    tell_begin(f, n);
    residency_pass_begin(residency, n, f->keep_going, f->user);
    int rc = residency_acquire(residency, common, n_common, error);
    if (!rc) {
        struct step step = {f, ids, n, want, out_logits, error, 0};
        f->device->ops->pass(f->device, run_step, &step);
        const int synced = f->device->ops->sync(f->device, step.rc ? NULL : error);
        rc = step.rc ? step.rc : synced;
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
