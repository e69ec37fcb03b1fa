// The memories of a sweep, as the command line names them.
#ifndef LODE_TOOLS_SIM_BUDGETS_H
#define LODE_TOOLS_SIM_BUDGETS_H

#include "tools/sim.h"
#include "tools/word_list.h"

// Of the three lists at most one has words. *out is for the caller to free. What is wrong is told in the name
// of `command`; returns the exit code.
int sim_budgets_make(struct sim_budget **out, uint32_t *out_n, const struct word_list *ram,
                     const struct word_list *share, const struct word_list *slots, const char *command);

#endif
