// A GPU as struct lode_device: what its files share. Each file owns one part of it:
//
//   gpu_device.cc    opening, faults, waiting, scratch
//   gpu_memory.cc    memory, and copies through a ring of pinned pieces
//   gpu_copies.cc    copies beside the operations, fences and tickets
//   gpu_products.cc  embed, matmul, matmul_geglu
//   gpu_library.cc   which products go through the vendor's library
//   gpu_experts.cc   experts of jobs and of choices
//   gpu_small.cc     the other operations
//   gpu_timeline.cc  spans of time by events
//
// Everything is allocated by open and reserve (and, for a timeline, by the first operation that is timed), so
// that operations only launch. One thread calls a device at a time.
#ifndef LODE_GPU_DEVICE_H
#define LODE_GPU_DEVICE_H

#include "backends/gpu/blas.h"
#include "backends/gpu/kernels.h"
#include "backends/gpu/runtime.h"

// Pinned memory that small and large copies of the host go through, in segments that are used in turn: a
// segment is used again when the stream has passed the event behind its last use. 1 MiB is 40 us of PCIe 4.0
// x16, long against the microseconds that a copy costs to start.
#define GPU_STAGING_SEGMENTS 4
#define GPU_STAGING_SEGMENT_BYTES ((size_t)1 << 20)

struct gpu_staging {
    char *memory;
    gpu_event passed[GPU_STAGING_SEGMENTS];
    bool in_use[GPU_STAGING_SEGMENTS]; // its event has been recorded and not been waited for
    uint32_t current;
    size_t used; // bytes of the current segment
};

// Events of copies and fences, by number modulo the ring's size. Numbers count up from 1.
#define GPU_COPY_RING 1024

struct gpu_copies {
    gpu_stream stream;
    gpu_event done[GPU_COPY_RING], fences[GPU_COPY_RING];
    uint64_t n_copies, n_fences;
    uint64_t known_done; // this copy and those before it are known to be done
    uint64_t ordered;    // the copies' stream waits for this fence already
};

// Spans whose events have been recorded and not been told yet.
#define GPU_TIMED_SPANS 2048

struct gpu_timed_span {
    gpu_event begin, end;
    const char *what;
    uint32_t lane, layer;
    uint64_t bytes;
};

struct gpu_timed {
    struct gpu_timed_span *spans; // [GPU_TIMED_SPANS], NULL until something is timed
    uint64_t n_begun, n_told;
    gpu_event base; // an event whose time by the host's clock is known
    uint64_t base_ns;
};

struct gpu_device {
    struct lode_device base;
    struct gpu_context *context;
    struct gpu_queue queue;
    struct lode_error fault; // sticky; its code is LODE_OK while there is none
    struct gpu_staging staging;
    struct gpu_copies copies;
    struct gpu_timed operations_timed, copies_timed;

    // Scratch for calls up to the limits.
    struct lode_limits limits;
    void *scratch;
    size_t scratch_bytes;
    void *activations; // quantised input rows
    size_t activations_bytes;
    float *middle;          // [expert_rows][ffn_width]
    void *middle_quantized; // the same, as the next product takes them
    void *attention;
    size_t attention_bytes;
    int32_t *ids;        // [rows] of embed
    char *tables;        // of experts
    char *host_tables;   // the same, as they are put together
    int32_t *host_ids;   // of experts_routed: pinned
    size_t tables_bytes; // of both

    // Products by the vendor's library.
    struct gpu_blas *library;             // NULL: not open
    size_t library_own_bytes;             // that it has taken for itself
    uint32_t library_rows[LODE_TYPE_END]; // from how many rows on; 0: never
    void *library_scratch;
    size_t library_scratch_bytes;
    char library_notice[96];
};

// Beyond it experts that were chosen on the device are not sorted by expert.
#define GPU_EXPERTS_MAX 1024

static inline struct gpu_device *gpu_device_of(struct lode_device *device)
{
    return reinterpret_cast<struct gpu_device *>(device);
}

// ---- gpu_device.cc

// As lode_gpu_backend.open.
int gpu_device_open(struct lode_device **out, uint32_t index, const struct lode_gpu_options *options,
                    struct lode_error *error);

static inline bool gpu_has_fault(const struct gpu_device *gpu)
{
    return gpu->fault.code != LODE_OK;
}
// Notes the device's fault, if it has one; returns its code and copies it.
int gpu_tell_fault(struct gpu_device *gpu, struct lode_error *error);
// Makes the error of a failed call, which names the device, its fault, unless it has one already.
void gpu_set_fault(struct gpu_device *gpu, const struct lode_error *error);
// A call needs more scratch than reserve was asked for.
void gpu_set_fault_of_limits(struct gpu_device *gpu, const char *what, uint64_t needed, uint64_t reserved);

// ---- gpu_memory.cc

int gpu_staging_open(struct gpu_device *gpu, struct lode_error *error);
void gpu_staging_close(struct gpu_device *gpu);
// Copies in the order of the operations; the source may be reused on return.
int gpu_send(struct gpu_device *gpu, void *to_device, const void *from_host, size_t bytes,
             struct lode_error *error);

int gpu_alloc(struct lode_device *device, void **out, size_t bytes, struct lode_error *error);
void gpu_free(struct lode_device *device, void *memory, size_t bytes);
int gpu_upload(struct lode_device *device, void *to_device, const void *from_host, size_t bytes,
               struct lode_error *error);
int gpu_download(struct lode_device *device, void *to_host, const void *from_device, size_t bytes,
                 struct lode_error *error);
int gpu_memory(struct lode_device *device, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
               struct lode_error *error);
int gpu_alloc_pinned(struct lode_device *device, void **out, size_t bytes, struct lode_error *error);
void gpu_free_pinned(struct lode_device *device, void *memory);
int gpu_copy(struct lode_device *device, void *to, const void *from, size_t bytes, struct lode_error *error);

// ---- gpu_copies.cc

int gpu_copies_open(struct gpu_device *gpu, struct lode_error *error);
void gpu_copies_close(struct gpu_device *gpu);

uint64_t gpu_fence(struct lode_device *device);
int gpu_copy_in(struct lode_device *device, void *to, const void *from, size_t bytes, uint64_t after,
                uint64_t *out_ticket, struct lode_error *error);
bool gpu_copy_done(struct lode_device *device, uint64_t ticket);
void gpu_copy_await(struct lode_device *device, uint64_t ticket);

// ---- gpu_timeline.cc

// Around what a stream is given; nothing where no timeline is set. begin returns the span, for end.
struct gpu_timed_span *gpu_timed_begin(struct gpu_device *gpu, struct gpu_timed *timed, gpu_stream stream,
                                       uint32_t lane, const char *what, uint64_t bytes);
void gpu_timed_end(struct gpu_device *gpu, struct gpu_timed_span *span, gpu_stream stream);
// Tells the spans that are done.
void gpu_timed_tell(struct gpu_device *gpu);
void gpu_timed_close(struct gpu_device *gpu, struct gpu_timed *timed);

// An operation from its first launch to its last: it does nothing on a device with a fault, makes the device
// the thread's own, and is timed where that is wanted. Use: `struct gpu_operation op(device, "norm"); if
// (!op.gpu) return;`.
struct gpu_operation {
    struct gpu_device *gpu; // NULL: nothing is to be done
    struct gpu_timed_span *span;

    gpu_operation(struct lode_device *device, const char *what, uint64_t bytes = 0)
        : gpu(gpu_device_of(device)), span(nullptr)
    {
        if (gpu_has_fault(gpu)) {
            gpu = nullptr;
            return;
        }
        gpu_context_select(gpu->context);
        if (device->timeline)
            span = gpu_timed_begin(gpu, &gpu->operations_timed, gpu->queue.stream, device->operations_lane,
                                   what, bytes);
    }
    ~gpu_operation()
    {
        if (span)
            gpu_timed_end(gpu, span, gpu->queue.stream);
    }
    gpu_operation(const gpu_operation &) = delete;
    gpu_operation &operator=(const gpu_operation &) = delete;
};

// ---- gpu_products.cc

void gpu_op_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
                  const int32_t *ids, float scale);
void gpu_op_matmul(struct lode_device *device, const struct lode_rows *outs,
                   const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x);
void gpu_op_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                         const struct lode_matrix *up, struct lode_rows x);
// The rows quantised into scratch where `wanted`; false with a fault where there is not enough of it.
bool gpu_quantize_rows(struct gpu_device *gpu, struct gpu_activations *out, struct lode_rows x, bool wanted);

static inline bool gpu_is_quantized(enum lode_type type)
{
    return type != LODE_F32 && type != LODE_F16 && type != LODE_BF16;
}

// ---- gpu_library.cc

int gpu_use_library(struct lode_device *device, enum lode_type type, uint32_t rows, struct lode_error *error);
const char *gpu_library_name(const struct lode_device *device);
void gpu_library_close(struct gpu_device *gpu);
// Of its part of the scratch; 0 where no product of so many rows goes there.
size_t gpu_library_scratch_bytes(const struct gpu_device *gpu, const struct lode_limits *limits);

// False where the product does not go through the library, or it refuses: then it is to be done otherwise.
bool gpu_library_matmul(struct gpu_device *gpu, struct lode_rows out, const struct lode_matrix *weight,
                        struct lode_rows x);
bool gpu_library_matmul_geglu(struct gpu_device *gpu, struct lode_rows out, const struct lode_matrix *gate,
                              const struct lode_matrix *up, struct lode_rows x);

// ---- gpu_experts.cc

// Bytes of the tables of so many choices.
size_t gpu_expert_tables_bytes(uint32_t n_choices);

void gpu_op_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                    const struct lode_expert_job *jobs, uint32_t n_jobs);
void gpu_op_experts_routed(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                           const struct lode_expert_job *kind, const struct lode_expert_entry *entries,
                           const int32_t *ids, uint32_t k);

// ---- gpu_small.cc

void gpu_op_experts_combine(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                            const float *weights, uint32_t k);
void gpu_op_router(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits,
                   uint32_t k, const float *expert_scale);
void gpu_op_rms_norm(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                     const float *weight, float eps, float scale);
void gpu_op_add_rms_norm(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                         const float *weight, float eps, float scale);
void gpu_op_add(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
                float scale);
void gpu_op_geglu(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b);
void gpu_op_scale(struct lode_device *device, struct lode_rows x, float scale);
void gpu_op_softcap(struct lode_device *device, struct lode_rows x, float cap);
void gpu_op_rope(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
                 uint32_t first_position, const float *inverse_frequency);
void gpu_op_kv_store(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                     struct lode_rows v, uint32_t first_position);
void gpu_op_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                      const struct lode_kv *kv, uint32_t first_position, uint32_t window);

#endif
