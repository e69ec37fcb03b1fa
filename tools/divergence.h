// How far logits are from reference logits: KL divergence, largest difference, agreement of the first choice.
#ifndef LODE_TOOLS_DIVERGENCE_H
#define LODE_TOOLS_DIVERGENCE_H

#include "core/lode.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct divergence {
    double kl_mean, kl_p99; // KL(reference || ours), natural logarithm
    double max_difference;  // of two logits
    double top1_agreement;  // share of positions with the same largest logit
};

// Collects row after row from a file of reference logits, float32 [n_rows][vocab].
struct divergence_meter {
    FILE *file;
    const char *path;
    float *row;
    double *kl;
    size_t n_rows, n_done;
    uint32_t vocab;
    double max_difference;
    size_t n_agreeing;
};

// A file whose size is not that of n_rows rows is an error.
int divergence_begin(struct divergence_meter *meter, const char *path, size_t n_rows, uint32_t vocab,
                     struct lode_error *error);
int divergence_add(struct divergence_meter *meter, const float *ours, struct lode_error *error);
struct divergence divergence_result(struct divergence_meter *meter);
void divergence_end(struct divergence_meter *meter);

#endif
