// Buffers of executors, and rows that move between them.
#include "core/executor.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

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
static void buffer_floats(const struct gemma_model *model, bool many, size_t floats[N_BUFFERS])
{
    const struct gemma_hparams *h = &model->hparams;
    const struct widths w = widest(model);
    memset(floats, 0, N_BUFFERS * sizeof *floats);
    floats[BUFFER_X] = floats[BUFFER_NORMED] = floats[BUFFER_BRANCH] = h->hidden;
    floats[BUFFER_Q] = floats[BUFFER_ATTENDED] = w.q;
    floats[BUFFER_K] = floats[BUFFER_V] = w.kv;
    floats[BUFFER_FFN] = max_u32(w.ffn, h->ple_width);
    floats[BUFFER_PLE] = floats[BUFFER_PLE_CONTEXT] = w.all_ple;
    if (!w.experts_used)
        return;
    floats[BUFFER_EXPERT_INPUT] = floats[BUFFER_EXPERT_SUM] = h->hidden;
    floats[BUFFER_ROUTER] = h->n_experts;
    floats[BUFFER_CHOSEN] = floats[BUFFER_CHOSEN_WEIGHT] = w.experts_used;
    floats[BUFFER_GUESSED] = floats[BUFFER_GUESSED_WEIGHT] = w.experts_used;
    floats[BUFFER_EXPERT_SLOTS] = (size_t)w.experts_used * h->hidden;
    floats[BUFFER_SHARE_WEIGHT] = many ? w.experts_used : 0;
    floats[BUFFER_OTHERS_SUM] = many ? h->hidden : 0;
}

static size_t buffer_bytes(const struct gemma_model *model, const size_t floats[N_BUFFERS], int buffer,
                           uint32_t batch, bool host_memory)
{
    const struct gemma_hparams *h = &model->hparams;
    size_t n = floats[buffer] * batch;
    const bool guesses = buffer == BUFFER_GUESSED || buffer == BUFFER_GUESSED_WEIGHT;
    if (guesses && n && n < h->n_experts)
        n = h->n_experts;
    if (buffer == BUFFER_LOGITS && !host_memory)
        n = (size_t)EXECUTOR_HEAD_ROWS * h->vocab;
    if (buffer == BUFFER_ROUTED && !host_memory)
        n = (size_t)h->n_layers * EXECUTOR_ROUTED_ROWS * h->n_experts_used;
    return n * sizeof(float);
}

uint64_t executor_needed_bytes(const struct gemma_model *model, uint32_t batch, bool host_memory, bool many)
{
    size_t floats[N_BUFFERS];
    uint64_t bytes = 0;
    buffer_floats(model, many, floats);
    for (int b = 0; b < N_BUFFERS; b++)
        bytes += buffer_bytes(model, floats, b, batch, host_memory);
    return bytes;
}

struct lode_limits executor_limits(const struct gemma_model *model, uint32_t batch)
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

int executor_open(struct executor *out, struct lode_device *device, uint32_t index,
                  const struct gemma_model *model, uint32_t batch, bool many, struct lode_error *error)
{
    size_t floats[N_BUFFERS];
    const struct lode_limits limits = executor_limits(model, batch);
    *out = (struct executor){.device = device, .index = index};
    buffer_floats(model, many, floats);
    for (int b = 0; b < N_BUFFERS; b++) {
        const size_t bytes = buffer_bytes(model, floats, b, batch, device->host_memory);
        if (!bytes)
            continue;
        int rc = device->ops->alloc(device, (void **)&out->buffers[b], bytes, error);
        if (rc) {
            lode_fail_in(error, "scratch for steps of %u tokens", batch);
            executor_close(out);
            return rc;
        }
        out->buffer_bytes[b] = bytes;
        out->scratch_bytes += bytes;
    }
    const int rc = device->ops->reserve(device, &limits, error);
    if (rc)
        executor_close(out);
    return rc;
}

void executor_close(struct executor *e)
{
    for (int b = 0; b < N_BUFFERS; b++)
        if (e->buffer_bytes[b])
            e->device->ops->free(e->device, e->buffers[b], e->buffer_bytes[b]);
    memset(e, 0, sizeof *e);
}

int executor_download(const struct executor *e, void *out, const void *from, size_t bytes, uint64_t *wait_ns,
                      struct lode_error *error)
{
    struct lode_device *device = e->device;
    if (device->host_memory)
        return device->ops->download(device, out, from, bytes, error);
    const uint64_t start_ns = clock_now_ns();
    const int rc = device->ops->download(device, out, from, bytes, error);
    *wait_ns += clock_now_ns() - start_ns;
    return rc;
}

int executor_copy(struct lode_rows *out, const struct executor *to, enum buffer buffer,
                  const struct executor *from, struct lode_rows rows, const struct executor *host,
                  uint64_t *wait_ns, struct lode_error *error)
{
    const size_t bytes = (size_t)rows.n * rows.cols * sizeof *rows.data;
    const float *at_host = rows.data;
    int rc = 0;
    *out = executor_rows(to, buffer, rows.n, rows.cols);
    if (from != host) {
        at_host = host->buffers[buffer];
        rc = executor_download(from, host->buffers[buffer], rows.data, bytes, wait_ns, error);
    }
    if (!rc && to != host)
        rc = to->device->ops->upload(to->device, out->data, at_host, bytes, error);
    else if (!rc && at_host != out->data)
        memcpy(out->data, at_host, bytes);
    return rc;
}
