// Running a whole model on golden data, and the distance of its logits from a reference.
#ifndef LODE_TEST_GOLDEN_H
#define LODE_TEST_GOLDEN_H

#include "core/lode.h"

struct distance {
    double max_difference, mean_kl, p99_kl, same_top1; // same_top1: share of the rows
};

// The quantised golden models, and how far another engine with 8-bit activations is from the exact logits:
// its mean KL. Ours may be a quarter larger, no more.
struct golden_model {
    const char *name;
    double llama_cpp_kl;
};
extern const struct golden_model golden_quantised[];
extern const size_t golden_n_quantised;

// The files of a golden model; false where one is not here. The caller frees ids.
struct golden {
    char model[512], exact[512];
    int32_t *ids;
    size_t count;
};
bool golden_find(struct golden *out, const char *name);

// Reads comma-separated ids; the caller frees. Fails the test where the file cannot be read.
int32_t *golden_read_ids(const char *path, size_t *out_count);

// Reads n floats; the caller frees.
float *golden_read_floats(const char *path, size_t n);

struct golden_run {
    uint32_t threads, batch; // batch 0: all at once
    const char *isa;
    enum lode_kv_type kv;
};

// Logits of every position, [count][vocab]; the caller frees. Fails the test on any error.
float *golden_logits(const char *model_path, const int32_t *ids, size_t count, const struct golden_run *run,
                     size_t *out_vocab);

// KL(reference || ours) of the softmax, in double precision, row by row.
struct distance golden_distance(const float *reference, const float *ours, size_t rows, size_t vocab);

#endif
