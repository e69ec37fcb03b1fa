// Inside of the CPU device: what its operations share.
#ifndef LODE_CPU_DEVICE_H
#define LODE_CPU_DEVICE_H

#include "backends/backend.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/matmul.h"
#include "backends/cpu/team.h"
#include "backends/cpu/threads.h"
#include "backends/cpu/vector.h"

struct cpu_device {
    struct lode_device base;
    uint32_t threads;
    struct cpu_places places;
    struct cpu_team *team;
    struct cpu_worker *workers; // one a thread
    uint64_t phases_run;        // gives phases their numbers
    enum cpu_isa isa;
    const struct cpu_matmul_kernels *matmul; // of the chosen ISA
    const struct cpu_vector_kernels *vector;
    struct cpu_matmul_scratch matmul_scratch;
    struct cpu_vector_scratch vector_scratch;
    struct lode_limits limits; // what the scratch was made for
};

static inline struct cpu_device *cpu_device_of(struct lode_device *device)
{
    return (struct cpu_device *)device;
}

// Operations, one file a concept; the table is in cpu_device.c.
void cpu_arrange(struct lode_device *device, struct lode_matrix *matrix);
void cpu_restore(struct lode_device *device, void *to, const struct lode_matrix *matrix);
void cpu_embed(struct lode_device *device, struct lode_rows out, const struct lode_matrix *table,
               const int32_t *ids, float scale);
void cpu_matmul(struct lode_device *device, const struct lode_rows *outs, const struct lode_matrix *weights,
                uint32_t n_weights, struct lode_rows x);
void cpu_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct lode_rows x);
void cpu_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                 const struct lode_expert_job *jobs, uint32_t n_jobs);
void cpu_experts_combine(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                         const float *weights, uint32_t k);
void cpu_router(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits, uint32_t k,
                const float *expert_scale);
void cpu_rms_norm(struct lode_device *device, struct lode_rows out, struct lode_rows x, const float *weight,
                  float eps, float scale);
void cpu_add_rms_norm(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                      const float *weight, float eps, float scale);
void cpu_add(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b,
             float scale);
void cpu_geglu(struct lode_device *device, struct lode_rows out, struct lode_rows a, struct lode_rows b);
void cpu_scale(struct lode_device *device, struct lode_rows x, float scale);
void cpu_softcap(struct lode_device *device, struct lode_rows x, float cap);
void cpu_rope(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
              uint32_t first_position, const float *inverse_frequency);
void cpu_kv_store(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                  struct lode_rows v, uint32_t first_position);
void cpu_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q, uint32_t n_heads,
                   const struct lode_kv *kv, uint32_t first_position, uint32_t window);

// The same with their time counted, timed.c.
void cpu_timed_matmul(struct lode_device *device, const struct lode_rows *outs,
                      const struct lode_matrix *weights, uint32_t n_weights, struct lode_rows x);
void cpu_timed_matmul_geglu(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                            const struct lode_matrix *up, struct lode_rows x);
void cpu_timed_experts(struct lode_device *device, struct lode_rows out, struct lode_rows x,
                       const struct lode_expert_job *jobs, uint32_t n_jobs);
void cpu_timed_attention(struct lode_device *device, struct lode_rows out, struct lode_rows q,
                         uint32_t n_heads, const struct lode_kv *kv, uint32_t first_position,
                         uint32_t window);

#endif
