// The device interface: memory and the operations that a Gemma layer is made of, on one device.
//
// The layer is written once against this table; a backend fills it in. Backends know matrices and rows, not
// layers, experts' owners or files.
//
// Order and errors: operations run in the order of their calls, as if on one stream; they may return before
// they are done. An operation cannot fail by its arguments (the caller has checked shapes at load); a device
// fault is sticky: later operations do nothing and the next sync or download reports it.
//
// Determinism: the same call gives the same bits whatever the number of threads, and a row of the result
// depends on its own row of the input only to rounding (batch sizes may choose other kernels).
#ifndef LODE_BACKEND_H
#define LODE_BACKEND_H

#include "base/lode_error.h"
#include "base/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lode_timeline;

// How the bytes of a matrix lie in memory: as in the file, row behind row, or as a device has arranged them
// for itself (the same bytes in the same place in another order).
enum lode_layout { LODE_LAYOUT_FILE, LODE_LAYOUT_ROWS8 };

// Weights: `rows` rows of `cols` elements of a type, `row_bytes` apart; y = W x has `rows` values. The device
// may read LODE_DEVICE_SLACK bytes beyond the last row; whoever makes the memory provides them.
struct lode_matrix {
    const void *data;
    enum lode_type type;
    uint32_t rows, cols;
    size_t row_bytes;
    enum lode_layout layout;
};

#define LODE_DEVICE_SLACK 64
#define LODE_DEVICE_ALIGN 64 // of what alloc returns

// Activations: n rows of cols floats, `stride` floats apart.
struct lode_rows {
    float *data;
    uint32_t n, cols;
    size_t stride;
};

enum lode_kv_format { LODE_CACHE_F16, LODE_CACHE_Q8_0, LODE_CACHE_F32 };

// The K and V cache of a layer: [n_heads][capacity][head_size] elements each. The token at position p lies in
// slot p % capacity. head_size is a multiple of 32.
struct lode_kv {
    void *k, *v;
    enum lode_kv_format format;
    uint32_t n_heads, head_size, capacity;
};

// Bytes of one head of one token, in K or in V.
size_t lode_kv_row_bytes(enum lode_kv_format format, uint32_t head_size);

// The tokens that chose one expert: row tokens[i] of x goes through it to row slots[i] of out.
struct lode_expert_job {
    struct lode_matrix gate, up, down;
    const int32_t *tokens, *slots; // host memory
    uint32_t n;
};

// The matrices of one expert among others of the same types and shapes; device memory.
struct lode_expert_entry {
    const void *gate, *up, *down;
};

// What the largest call will need; scratch is made once for it.
struct lode_limits {
    uint32_t rows;      // of activations
    uint32_t cols;      // widest input of a matmul
    uint32_t ffn_width; // widest gate/up output of matmul_geglu and of an expert
    uint32_t n_heads, head_size;
    uint32_t expert_rows; // rows * experts used
};

struct lode_device;

// Time that the calling thread has spent in operations: products with matrices of weights (matmul,
// matmul_geglu, experts), and attention. What else it did is the rest.
struct lode_device_times {
    uint64_t kernels_ns, attention_ns;
};

struct lode_device_ops {
    void (*close)(struct lode_device *device);

    // Memory of the device, LODE_DEVICE_ALIGN aligned, with LODE_DEVICE_SLACK readable bytes beyond,
    // zero-filled. The pages of an untouched allocation cost nothing where the device can do so.
    int (*alloc)(struct lode_device *device, void **out, size_t bytes, struct lode_error *error);
    void (*free)(struct lode_device *device, void *memory, size_t bytes);
    // The source may be reused when upload returns.
    int (*upload)(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
                  struct lode_error *error);
    int (*download)(struct lode_device *device, void *to_host, const void *from_device, size_t bytes,
                    struct lode_error *error); // waits for the operations before it
    int (*sync)(struct lode_device *device, struct lode_error *error);

    // Makes scratch memory for calls up to these limits; called again with larger ones it grows. No operation
    // allocates.
    int (*reserve)(struct lode_device *device, const struct lode_limits *limits, struct lode_error *error);
    size_t (*scratch_bytes)(const struct lode_device *device);

    // Runs body(user) in the calling thread with the device's threads kept at hand between its operations.
    // Operations work outside of a pass, too, but each of them gathers the threads anew.
    void (*pass)(struct lode_device *device, void (*body)(void *user), void *user);

    // Puts a matrix that will stay in the memory of the device into the order that the device multiplies
    // fastest, and says which in matrix->layout; leaves it alone where that gains nothing.
    void (*arrange)(struct lode_device *device, struct lode_matrix *matrix);
    // Writes a matrix as it is in the file, whatever its layout, to `to`, at about the speed of a copy. NULL
    // where arrange leaves everything alone.
    void (*restore)(struct lode_device *device, void *to, const struct lode_matrix *matrix);

    // out[i] = scale * row ids[i] of table. ids: host memory, checked by the caller.
    void (*embed)(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
                  const int32_t *ids, float scale);

    // outs[j] = x weights[j]^T for each of n weights: x is prepared (quantised) once. outs[j].cols =
    // weights[j].rows.
    void (*matmul)(struct lode_device *device, const struct lode_rows *outs,
                   const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x);

    // out = gelu_tanh(x gate^T) * (x up^T); gate and up have the same type and shape.
    void (*matmul_geglu)(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                         const struct lode_matrix *up, struct lode_rows x);

    // For each job: out[slots[i]] = down (gelu_tanh(gate x[tokens[i]]) * (up x[tokens[i]])). A slot is
    // written by one job only, so jobs may come in any order and in several calls with the same result.
    void (*experts)(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                    const struct lode_expert_job *jobs, uint32_t n_jobs);

    // out[i] = sum over r < k, ascending, of weights[i*k + r] * slots[i*k + r]. weights: device memory. A
    // slot whose weight is 0 is not read: it may never have been written.
    void (*experts_combine)(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                            const float *weights, uint32_t k);

    // p = softmax(logits); the k largest, larger first, lower id on ties: ids[i*k + r], and
    // weights[i*k + r] = p / sum of the k p's * expert_scale[id]. expert_scale may be NULL. All in device
    // memory.
    void (*router)(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits,
                   uint32_t k, const float *expert_scale);

    // out = x / sqrt(mean(x^2) + eps) * weight * scale; weight (cols floats, device memory) NULL means ones.
    // out may be x.
    void (*rms_norm)(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                     const float *weight, float eps, float scale);

    // residual = (residual + x / sqrt(mean(x^2) + eps) * weight) * scale.
    void (*add_rms_norm)(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                         const float *weight, float eps, float scale);

    // out = (a + b) * scale, and out = gelu_tanh(a) * b; out may be a or b.
    void (*add)(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
                float scale);
    void (*geglu)(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b);

    // x = x * scale, and x = cap * tanh(x / cap).
    void (*scale)(struct lode_device *device, struct lode_rows x, float scale);
    void (*softcap)(struct lode_device *device, struct lode_rows x, float cap);

    // Rotates n_heads heads of head_size in each row, row i at position first_position + i: element j of the
    // first half pairs with j + head_size/2, angle position * inverse_frequency[j] (head_size/2 floats,
    // device memory).
    void (*rope)(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
                 uint32_t first_position, const float *inverse_frequency);

    // Puts rows of K and V ([n_heads * head_size] each) at first_position + i.
    void (*kv_store)(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                     struct lode_rows v, uint32_t first_position);

    // Attention of n rows of queries at first_position + i over the cache, causal, scale 1: query head h
    // reads KV head h / (n_heads / kv->n_heads) at positions max(0, p - window + 1) .. p; window 0 means all.
    void (*attention)(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                      const struct lode_kv *kv, uint32_t first_position, uint32_t window);

    // ---- of devices without host memory; NULL on others

    // Bytes that can be allocated now, and of the device. Others may take them at any time.
    int (*memory)(struct lode_device *device, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
                  struct lode_error *error);

    // Memory of the host that copies go fastest from and to.
    int (*alloc_pinned)(struct lode_device *device, void **out, size_t bytes, struct lode_error *error);
    void (*free_pinned)(struct lode_device *device, void *memory);

    // Within the device, in the order of the operations.
    int (*copy)(struct lode_device *device, void *to, const void *from, size_t bytes,
                struct lode_error *error);

    // Copies beside the operations, on a stream of their own, in the order of these calls. A copy begins when
    // the operations before the fence `after` are done (0: at once); `from` is pinned memory that stays as it
    // is until copy_done. Operations that are called after copy_await wait for the copy on the device, not in
    // the caller. Tickets count up from 1 and are asked for a few thousand calls at most.
    uint64_t (*fence)(struct lode_device *device);
    int (*copy_in)(struct lode_device *device, void *to, const void *from, size_t bytes, uint64_t after,
                   uint64_t *out_ticket, struct lode_error *error);
    bool (*copy_done)(struct lode_device *device, uint64_t ticket);
    void (*copy_await)(struct lode_device *device, uint64_t ticket);

    // As experts, of experts that are all on the device and were chosen there: choice i, of row i / k, goes
    // through entries[ids[i]] to row i of out. entries and ids: device memory. kind: types and shapes; its
    // pointers and its n are not looked at.
    void (*experts_routed)(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                           const struct lode_expert_job *kind, const struct lode_expert_entry *entries,
                           const int32_t *ids, uint32_t k);

    // Products with matrices of this type (matmul, matmul_geglu) of at least `rows` rows go through the
    // vendor's library from the next reserve on, which makes scratch for it; 0: none go there. The first call
    // opens the library, whose own memory then counts as scratch. LODE_ERR_UNSUPPORTED: there is none, or it
    // does not work, with the reason; the device's own kernels are not touched by that.
    int (*use_library)(struct lode_device *device, enum lode_type type, uint32_t rows,
                       struct lode_error *error);
    // "cuBLAS 13.1.0"; NULL: not open.
    const char *(*library_name)(const struct lode_device *device);
};

// A backend embeds this as its first member.
struct lode_device {
    const struct lode_device_ops *ops;
    char name[32];            // "cpu"
    bool host_memory;         // its memory can be read and written by the host directly
    uint64_t allocated_bytes; // of GPUs: by alloc and not freed, its scratch, and what a library took
    // Where the operations add their time; NULL: nowhere, and no clock is read. Set by the caller between two
    // operations. A device whose operations return before they are done adds nothing.
    struct lode_device_times *times;
    // Where spans of operations and copies are told, on lanes of the device's own that timeline_open made;
    // NULL: nowhere. `layer` is what the caller works at. A device whose operations return before they are
    // done tells them at the next sync.
    struct lode_timeline *timeline;
    uint32_t operations_lane, copies_lane, layer;
    // What the user should know: the device goes on in another way than it was told to. NULL: nothing. Who
    // tells it sets it to NULL; it stays readable while the device is open.
    const char *notice;
};

// Makes lanes in a timeline and tells spans there from now on; NULL: no more.
void lode_device_timeline(struct lode_device *device, struct lode_timeline *timeline);

#ifdef __cplusplus
}
#endif

#endif
