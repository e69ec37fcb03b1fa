// One line a figure.
#include "tools/sim_fields.h"

#include <string.h>

#define DECODE(name, type, member)                                                                           \
    {                                                                                                        \
        name, type, offsetof(struct simulation_result, decode.member)                                        \
    }
#define PREFILL(name, type, member)                                                                          \
    {                                                                                                        \
        "prefill_" name, type, offsetof(struct simulation_result, prefill.member)                            \
    }
#define RUN(name, type, member)                                                                              \
    {                                                                                                        \
        name, type, offsetof(struct simulation_result, member)                                               \
    }

// Of both phases.
#define PHASE(OF)                                                                                            \
    OF("passes", SIM_FIELD_U32, passes), OF("tokens", SIM_FIELD_U64, tokens),                                \
        OF("seconds", SIM_FIELD_REAL, seconds), OF("kernels_s", SIM_FIELD_REAL, kernels_s),                  \
        OF("attention_s", SIM_FIELD_REAL, attention_s), OF("drive_busy_s", SIM_FIELD_REAL, drive_busy_s),    \
        OF("stall_demand_s", SIM_FIELD_REAL, stall_s[SIMULATION_STALL_DEMAND]),                              \
        OF("stall_late_s", SIM_FIELD_REAL, stall_s[SIMULATION_STALL_LATE]),                                  \
        OF("stall_stream_s", SIM_FIELD_REAL, stall_s[SIMULATION_STALL_STREAM]),                              \
        OF("stall_rows_s", SIM_FIELD_REAL, stall_s[SIMULATION_STALL_ROWS]),                                  \
        OF("choices", SIM_FIELD_U64, choices), OF("hits", SIM_FIELD_U64, hits),                              \
        OF("choice_bytes", SIM_FIELD_U64, choice_bytes), OF("hit_bytes", SIM_FIELD_U64, hit_bytes),          \
        OF("dense_bytes", SIM_FIELD_U64, dense_bytes), OF("streamed_bytes", SIM_FIELD_U64, streamed_bytes),  \
        OF("row_bytes", SIM_FIELD_U64, row_bytes), OF("demand_bytes", SIM_FIELD_U64, demand_bytes),          \
        OF("prefetch_bytes", SIM_FIELD_U64, prefetch_bytes),                                                 \
        OF("useful_bytes", SIM_FIELD_U64, useful_bytes), OF("late_bytes", SIM_FIELD_U64, late_bytes),        \
        OF("wasted_bytes", SIM_FIELD_U64, wasted_bytes)

const struct sim_field sim_fields[] = {
    PHASE(DECODE),
    DECODE("p50_ms", SIM_FIELD_REAL, p50_ms),
    DECODE("p95_ms", SIM_FIELD_REAL, p95_ms),
    DECODE("p99_ms", SIM_FIELD_REAL, p99_ms),
    PHASE(PREFILL),
    RUN("pinned_bytes", SIM_FIELD_U64, pinned_bytes),
    RUN("pool_bytes", SIM_FIELD_U64, pool_bytes),
    RUN("pool_slots", SIM_FIELD_U32, pool_slots),
    RUN("ring_bytes", SIM_FIELD_U64, ring_bytes),
    RUN("load_bytes", SIM_FIELD_U64, load_bytes),
    RUN("load_s", SIM_FIELD_REAL, load_s),
    RUN("prefetch_on", SIM_FIELD_BOOL, prefetch_on),
};
const uint32_t n_sim_fields = sizeof sim_fields / sizeof *sim_fields;

double sim_field_real(const struct sim_field *field, const struct simulation_result *result)
{
    double value;
    memcpy(&value, (const char *)result + field->offset, sizeof value);
    return value;
}

uint64_t sim_field_count(const struct sim_field *field, const struct simulation_result *result)
{
    const char *at = (const char *)result + field->offset;
    uint64_t large;
    uint32_t small;
    bool flag;
    switch (field->type) {
    case SIM_FIELD_U64:
        memcpy(&large, at, sizeof large);
        return large;
    case SIM_FIELD_U32:
        memcpy(&small, at, sizeof small);
        return small;
    case SIM_FIELD_BOOL:
        memcpy(&flag, at, sizeof flag);
        return flag;
    case SIM_FIELD_REAL:
        break;
    }
    return 0;
}
