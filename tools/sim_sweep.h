// Simulates every policy with every predictor at every budget on every trace, many at a time.
#ifndef LODE_TOOLS_SIM_SWEEP_H
#define LODE_TOOLS_SIM_SWEEP_H

#include "tools/sim.h"
#include "tools/sim_traces.h"

#include "placement/slot_sim.h"

struct sim_request {
    const struct sim_traces *traces;
    const struct policy_ops *const *policies; // [n_policies]
    uint32_t n_policies;
    const struct predictor_ops *const *predictors; // [n_predictors] NULL: none; not with slots
    uint32_t n_predictors;
    bool bounds;   // a row of what no policy beats, at the end
    uint32_t jobs; // simulations at once; 0: one for each processor

    // Slots for each layer, or else memory.
    bool slots_mode;
    struct slot_sim slots; // all but slots and heat
    const struct simulation_model *model;
    // Settings of all runs; weights_bytes, policy, predictor, heat and fit are filled in.
    struct simulation_question question;

    lode_progress_fn
        on_progress; // false ends the sweep with LODE_ERR_CANCELLED; called by one thread at a time
    bool (*keep_going)(void *user); // called by any thread, also in the middle of a simulation
    void *user;                     // of both
};

// Fills rows, cells, and what of the budgets is not known yet: of `inout`, budgets and traces are set. A
// budget that is too small is told in its `why`; anything else that fails ends the sweep. What comes out does
// not depend on the number of jobs. Rows and cells are released by sim_sweep_free.
int sim_sweep_run(struct sim_sweep *inout, const struct sim_request *request, struct lode_error *error);
void sim_sweep_free(struct sim_sweep *sweep);

#endif
