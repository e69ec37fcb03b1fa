// The operations whose time is counted, around those that do the work. An operation returns when its tasks
// are done, so the clock of the calling thread is exact.
//
// A pass of 30 layers reads the clock some 500 times, which takes 16 us where one takes 32 ns;
// core/session_parts.c leaves out most of the passes to which that would matter.
#include "backends/cpu/cpu_device.h"

#include "base/clock.h"
#include "base/timeline.h"

static uint64_t begin(const struct lode_device *device)
{
    return device->times || device->timeline ? clock_now_ns() : 0;
}

static void end(const struct lode_device *device, uint64_t *counter, const char *what, uint64_t start_ns)
{
    if (!start_ns)
        return;
    const uint64_t now_ns = clock_now_ns();
    if (counter)
        *counter += now_ns - start_ns;
    if (device->timeline)
        lode_timeline_span(device->timeline, device->operations_lane, what, device->layer, 0, start_ns,
                           now_ns);
}

static void end_kernels(const struct lode_device *device, const char *what, uint64_t start_ns)
{
    end(device, device->times ? &device->times->kernels_ns : NULL, what, start_ns);
}

void cpu_timed_matmul(struct lode_device *device, const struct lode_rows *outs,
                      const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x)
{
    const uint64_t start_ns = begin(device);
    cpu_matmul(device, outs, weights, n_weights, x);
    end_kernels(device, "matmul", start_ns);
}

void cpu_timed_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                            const struct lode_matrix *up, struct lode_rows x)
{
    const uint64_t start_ns = begin(device);
    cpu_matmul_geglu(device, out, gate, up, x);
    end_kernels(device, "matmul geglu", start_ns);
}

void cpu_timed_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                       const struct lode_expert_job *jobs, uint32_t n_jobs)
{
    const uint64_t start_ns = begin(device);
    cpu_experts(device, out, x, jobs, n_jobs);
    end_kernels(device, "experts", start_ns);
}

void cpu_timed_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q,
                         uint32_t n_heads, const struct lode_kv *kv, uint32_t first_position, uint32_t window)
{
    const uint64_t start_ns = begin(device);
    cpu_attention(device, out, q, n_heads, kv, first_position, window);
    end(device, device->times ? &device->times->attention_ns : NULL, "attention", start_ns);
}
