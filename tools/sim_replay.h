// Recorded runs again, as they were set: whether the simulator does what the engine did.
#ifndef LODE_TOOLS_SIM_REPLAY_H
#define LODE_TOOLS_SIM_REPLAY_H

#include "tools/sim_traces.h"

#include <stdio.h>

// Replays every trace that is measured and tells of each what is equal and what is not, as lines or as one
// JSON object. *out_equal is false where a run differs that had no prefetch and an empty start: those are
// equal to the byte. LODE_ERR_IO where the result could not be written.
int sim_replay(bool *out_equal, FILE *stream, bool json, const struct sim_traces *traces,
               const struct simulation_model *model, const struct machine_profile *profile,
               const char *machine_source, struct lode_error *error);

#endif
