// An executor: a device with the buffers that one timeline has there. Executor 0 is the CPU, which every
// timeline has; executor 1 + g is GPU g.
//
// Rows that go from one executor to another pass through the host's memory; what the steering thread waits
// for meanwhile is counted.
#ifndef LODE_EXECUTOR_H
#define LODE_EXECUTOR_H

#include "backends/backend.h"
#include "core/gemma4.h"
#include "placement/homes.h"

#define EXECUTORS (1 + HOME_GPUS)

// Rows whose experts may be chosen on a GPU without the host's knowing before the pass ends.
#define EXECUTOR_ROUTED_ROWS 8

enum buffer {
    BUFFER_X,      // the residual stream
    BUFFER_NORMED, // normed input of a branch
    BUFFER_BRANCH, // output of a branch before it joins the stream
    BUFFER_Q,
    BUFFER_K,
    BUFFER_V,
    BUFFER_ATTENDED,
    BUFFER_FFN, // gated activations
    BUFFER_PLE, // per-layer inputs of all layers
    BUFFER_PLE_CONTEXT,
    BUFFER_EXPERT_INPUT,
    BUFFER_EXPERT_SUM,
    BUFFER_ROUTER,
    BUFFER_CHOSEN, // int32
    BUFFER_CHOSEN_WEIGHT,
    BUFFER_GUESSED, // int32; as many ranks as are wanted, with room for all experts of one row
    BUFFER_GUESSED_WEIGHT,
    BUFFER_EXPERT_SLOTS, // one row for each choice
    // Only where there are GPUs:
    BUFFER_SHARE_WEIGHT, // of the choices that this executor computes; 0 of others
    BUFFER_OTHERS_SUM,   // of the experts that another executor computed
    BUFFER_ROUTED,       // int32; choices that only the GPU knows, of all layers; of GPUs
    BUFFER_LOGITS,       // of GPUs
    N_BUFFERS,
};

struct executor {
    struct lode_device *device;
    uint32_t index;
    float *buffers[N_BUFFERS];
    size_t buffer_bytes[N_BUFFERS];
    uint64_t scratch_bytes;
};

// Rows of logits that are made at once on a device whose memory the host cannot see.
#define EXECUTOR_HEAD_ROWS 16

// Memory for the buffers of steps of `batch` tokens; many: there are several executors.
uint64_t executor_needed_bytes(const struct gemma_model *model, uint32_t batch, bool host_memory, bool many);

// What the device will be asked to make scratch for beside.
struct lode_limits executor_limits(const struct gemma_model *model, uint32_t batch);

int executor_open(struct executor *out, struct lode_device *device, uint32_t index,
                  const struct gemma_model *model, uint32_t batch, bool many, struct lode_error *error);
void executor_close(struct executor *executor);

static inline struct lode_rows executor_rows(const struct executor *e, enum buffer buffer, uint32_t n,
                                             uint32_t cols)
{
    return (struct lode_rows){e->buffers[buffer], n, cols, cols};
}

// Copies rows without gaps to the start of a buffer of another executor, by way of the same buffer of `host`
// where neither is the host. *wait_ns grows by what was waited for.
int executor_copy(struct lode_rows *out, const struct executor *to, enum buffer buffer,
                  const struct executor *from, struct lode_rows rows, const struct executor *host,
                  uint64_t *wait_ns, struct lode_error *error);

// Waits for the device's operations.
int executor_download(const struct executor *e, void *out, const void *from, size_t bytes, uint64_t *wait_ns,
                      struct lode_error *error);

#endif
