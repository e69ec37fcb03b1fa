// The kernels' launchers, one file of implementation a concept. All take memory of the device and return
// before the work is done; what cannot be launched becomes the device's fault. Arguments have been checked.
//
// Determinism: the same call gives the same bits. A row of a result depends on its own row of activations
// only to rounding. No atomic additions of floats.
#ifndef LODE_GPU_KERNELS_H
#define LODE_GPU_KERNELS_H

#include "backends/backend.h"
#include "backends/gpu/gpu.h"

// Where kernels go, and what the device is.
struct gpu_queue {
    gpu_stream stream;
    uint32_t features; // GPU_HAS_*
    uint32_t multiprocessors;
};

// ---- quantize.cc: activations as products with quantised weights take them

// int8 in blocks of 32, each with its own scale, as backends/cpu/quantize.h has them and bit for bit the
// same: x ~ scale * code. Three arrays, so that each is read in whole lines.
struct gpu_activations {
    int8_t *codes; // [n][cols], cols rounded up to 32, zeros behind
    float *scales; // [n][blocks]
    int32_t *sums; // [n][blocks] sums of codes 0..15 (low 16 bits, signed) and 16..31 (high)
    uint32_t n, cols, blocks;
};
size_t gpu_activations_bytes(uint32_t n, uint32_t cols);
struct gpu_activations gpu_activations_in(void *memory, uint32_t n, uint32_t cols);
void gpu_quantize(const struct gpu_queue *queue, struct gpu_activations out, struct lode_rows x);

// ---- matvec.cc: products with few rows

#define GPU_MATVEC_ROWS 8

// outs[j] = x weights[j]^T, n <= GPU_MATVEC_ROWS rows. `quantized` is of x; float weights take x itself.
void gpu_matvec(const struct gpu_queue *queue, const struct lode_rows *outs,
                const struct lode_matrix *weights, uint32_t n_weights, struct gpu_activations quantized,
                struct lode_rows x);
// out = gelu_tanh(x gate^T) * (x up^T).
void gpu_matvec_geglu(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct gpu_activations quantized, struct lode_rows x);

// ---- matmul.cc: products with many rows, in tiles

void gpu_matmul(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *weight,
                struct gpu_activations quantized, struct lode_rows x);
void gpu_matmul_geglu(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct gpu_activations quantized, struct lode_rows x);

// ---- dequantize.cc

// out [n][cols] floats of rows ids[i] of a table times scale; ids NULL: 0, 1, ... ids: memory of the device.
void gpu_dequantize(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *table,
                    const int32_t *ids, float scale);
// Rows first..first+n of a matrix to halves, for products by the vendor's library.
void gpu_dequantize_half(const struct gpu_queue *queue, uint16_t *out, const struct lode_matrix *matrix,
                         uint32_t first, uint32_t n);

// ---- experts_few.cc and experts_many.cc: grouped products of experts

struct gpu_expert {
    const void *gate, *up, *down;
};

// What all experts of a call share.
struct gpu_expert_shape {
    enum lode_type gate_type, up_type, down_type;
    uint32_t hidden, width;
    size_t gate_row_bytes, up_row_bytes, down_row_bytes;
};

// Choice c sends row tokens[c] of x through expert experts[which[c]] to row slots[c] of out; NULL tokens: c /
// k; NULL slots: c. A `which` that is negative is passed over, its slot is not written. All memory of the
// device.
struct gpu_expert_choices {
    const struct gpu_expert *experts;
    const int32_t *which, *tokens, *slots;
    uint32_t n, k;
};

// One choice after another with no regard to choices that share an expert: decode, and few rows. `middle`:
// scratch for choices->n rows of shape->width floats and their quantised form.
struct gpu_expert_scratch {
    struct lode_rows middle;
    struct gpu_activations quantized;
};
void gpu_experts_few(const struct gpu_queue *queue, struct lode_rows out, struct gpu_activations quantized,
                     struct lode_rows x, const struct gpu_expert_shape *shape,
                     const struct gpu_expert_choices *choices, const struct gpu_expert_scratch *scratch);

// Choices sorted by expert: job j has choices begin[j] .. begin[j + 1] - 1 of expert experts[j], n_jobs jobs,
// of which the largest has `most` choices (both known to the host). which is not looked at.
struct gpu_expert_jobs {
    const uint32_t *begin; // [n_jobs + 1], memory of the device
    uint32_t n_jobs, most;
};
void gpu_experts_many(const struct gpu_queue *queue, struct lode_rows out, struct gpu_activations quantized,
                      struct lode_rows x, const struct gpu_expert_shape *shape,
                      const struct gpu_expert_choices *choices, const struct gpu_expert_jobs *jobs,
                      const struct gpu_expert_scratch *scratch);

// ---- router.cc

void gpu_router(const struct gpu_queue *queue, int32_t *ids, float *weights, struct lode_rows logits,
                uint32_t k, const float *expert_scale);
// As lode_device_ops.experts_combine: a slot whose weight is 0 is not read.
void gpu_experts_combine(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows slots,
                         const float *weights, uint32_t k);

// ---- norm.cc, elementwise.cc, rope.cc: as the operations of the same names in backend.h

void gpu_rms_norm(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows x,
                  const float *weight, float eps, float scale);
void gpu_add_rms_norm(const struct gpu_queue *queue, struct lode_rows residual, struct lode_rows x,
                      const float *weight, float eps, float scale);
void gpu_add(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows a, struct lode_rows b,
             float scale);
void gpu_geglu(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows a, struct lode_rows b);
void gpu_scale(const struct gpu_queue *queue, struct lode_rows x, float scale);
void gpu_softcap(const struct gpu_queue *queue, struct lode_rows x, float cap);
void gpu_rope(const struct gpu_queue *queue, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
              uint32_t first_position, const float *inverse_frequency);

// ---- kv_store.cc, attention.cc: K and V begin at multiples of 16 bytes

void gpu_kv_store(const struct gpu_queue *queue, const struct lode_kv *kv, struct lode_rows k,
                  struct lode_rows v, uint32_t first_position);

// Scratch of attention: few rows are cut along the positions, and the parts are put together in a fixed
// order.
size_t gpu_attention_scratch_bytes(uint32_t rows, uint32_t n_heads, uint32_t head_size);
void gpu_attention(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                   const struct lode_kv *kv, uint32_t first_position, uint32_t window, void *scratch);

#endif
