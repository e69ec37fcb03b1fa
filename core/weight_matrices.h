// The model's weights as the device sees them: for each part of the unit table the matrix that it is, and in
// which order its bytes lie in memory.
#ifndef LODE_WEIGHT_MATRICES_H
#define LODE_WEIGHT_MATRICES_H

#include "backends/backend.h"
#include "core/gemma4.h"

struct weight_matrices {
    struct lode_device *device;
    struct lode_matrix *parts; // by index in the unit table; data NULL; rows 0 for what is not used
    bool *is_fused;            // likewise: gate rows, then as many up rows, each a matrix in use
};

int weight_matrices_open(struct weight_matrices *out, const struct gemma_model *model,
                         struct lode_device *device, struct lode_error *error);
void weight_matrices_close(struct weight_matrices *matrices);

// For a part that will stay in memory: lets the device put it into the order that it likes best. `matrices`
// is a struct weight_matrices.
void weight_matrices_arrange(void *matrices, uint32_t part, void *memory);

// Writes a part that is in memory, arranged or not, as it is in the file to `to`. Not for parts that the
// model does not use as a matrix.
void weight_matrices_restore(void *matrices, uint32_t part, void *to, const void *memory);

#endif
