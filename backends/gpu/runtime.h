// What kernels' launchers and the GPU device need of a vendor's runtime. Implemented once for each:
// backends/cuda, backends/hip, backends/simt; a shared object holds one of them. C++ without exceptions.
//
// Every function that can fail returns 0 or a negative code and fills the error with what the runtime says.
#ifndef LODE_GPU_RUNTIME_H
#define LODE_GPU_RUNTIME_H

#include "backends/gpu/gpu.h"
#include "backends/gpu/gpu_backend.h"

int gpu_runtime_count(uint32_t *out, struct lode_error *error);
int gpu_runtime_describe(struct lode_gpu *out, uint32_t index, struct lode_error *error);

// A GPU that is in use. Functions below act on it whatever device the calling thread has selected.
struct gpu_context;
int gpu_context_open(struct gpu_context **out, uint32_t index, const struct lode_gpu_options *options,
                     struct lode_error *error);
void gpu_context_close(struct gpu_context *context);

// Makes it the device of the calling thread, so that kernels are launched there. Cheap when it is.
void gpu_context_select(struct gpu_context *context);

// What the device can do beside the minimum; see gpu.h.
uint32_t gpu_context_features(const struct gpu_context *context);
uint32_t gpu_context_multiprocessors(const struct gpu_context *context);

int gpu_memory_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error);
void gpu_memory_free(struct gpu_context *context, void *memory);
int gpu_memory_count(struct gpu_context *context, uint64_t *out_free_bytes, uint64_t *out_total_bytes,
                     struct lode_error *error);

// Memory of the host that copies go fastest from and to.
int gpu_pinned_alloc(struct gpu_context *context, void **out, size_t bytes, struct lode_error *error);
void gpu_pinned_free(struct gpu_context *context, void *memory);

int gpu_stream_open(struct gpu_context *context, gpu_stream *out, struct lode_error *error);
void gpu_stream_close(struct gpu_context *context, gpu_stream stream);
int gpu_stream_wait(struct gpu_context *context, gpu_stream stream, struct lode_error *error); // by the host

// In the order of the stream. A copy from or to memory of the host that is not pinned may wait.
enum gpu_copy_kind { GPU_COPY_IN, GPU_COPY_OUT, GPU_COPY_WITHIN };
int gpu_stream_copy(struct gpu_context *context, gpu_stream stream, void *to, const void *from, size_t bytes,
                    enum gpu_copy_kind kind, struct lode_error *error);
int gpu_stream_zero(struct gpu_context *context, gpu_stream stream, void *memory, size_t bytes,
                    struct lode_error *error);

// An event is recorded at the end of what a stream has been given so far. timed: its time can be asked for.
int gpu_event_open(struct gpu_context *context, gpu_event *out, bool timed, struct lode_error *error);
void gpu_event_close(struct gpu_context *context, gpu_event event);
int gpu_event_record(struct gpu_context *context, gpu_event event, gpu_stream stream,
                     struct lode_error *error);
// What the stream is given from now on waits for the event.
int gpu_event_order(struct gpu_context *context, gpu_stream stream, gpu_event event,
                    struct lode_error *error);
int gpu_event_wait(struct gpu_context *context, gpu_event event, struct lode_error *error); // by the host
bool gpu_event_done(struct gpu_context *context, gpu_event event);
// Milliseconds from one to the other, both done and timed.
float gpu_event_between_ms(struct gpu_context *context, gpu_event first, gpu_event second);

// The sticky fault of the device, of kernels that could not be launched too; 0 where there is none.
int gpu_context_fault(struct gpu_context *context, struct lode_error *error);

// For the table of the backend.
extern const char gpu_runtime_name[], gpu_runtime_toolkit[], gpu_runtime_architectures[];

#endif
