// The work of a pass of a Gemma 4 model, in placement's words.
#ifndef LODE_CORE_WORKLOAD_H
#define LODE_CORE_WORKLOAD_H

#include "core/gemma4.h"
#include "placement/workload.h"

// What forward.c and layer.c compute with the model. The model must outlive it; released by workload_close.
int gemma_workload(struct workload *out, const struct gemma_model *model, struct lode_error *error);

#endif
