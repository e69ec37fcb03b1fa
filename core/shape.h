// The public description of a model's shape, made from its hyperparameters and tensors.
#ifndef LODE_SHAPE_H
#define LODE_SHAPE_H

#include "core/gemma4.h"
#include "core/lode.h"

void shape_describe(struct lode_shape *out, const struct gemma_model *model, const struct gguf *gguf);

#endif
