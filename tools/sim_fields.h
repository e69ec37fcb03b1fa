// The plain figures of a simulation by their names, for CSV and JSON.
#ifndef LODE_TOOLS_SIM_FIELDS_H
#define LODE_TOOLS_SIM_FIELDS_H

#include "tools/sim.h"

#include <stddef.h>

enum sim_field_type { SIM_FIELD_U32, SIM_FIELD_U64, SIM_FIELD_REAL, SIM_FIELD_BOOL };

struct sim_field {
    const char *name; // with its unit: "demand_bytes"; of prefill: "prefill_demand_bytes"
    enum sim_field_type type;
    size_t offset; // in struct simulation_result
};

// Counts, bytes and seconds of decode, those of prefill, those of the whole run.
extern const struct sim_field sim_fields[];
extern const uint32_t n_sim_fields;

double sim_field_real(const struct sim_field *field, const struct simulation_result *result);
uint64_t sim_field_count(const struct sim_field *field, const struct simulation_result *result);

#endif
