// What tells one model from another, whatever its files are called and wherever they lie.
#ifndef LODE_FINGERPRINT_H
#define LODE_FINGERPRINT_H

#include "base/lode_error.h"
#include "core/gguf.h"

#include <stdint.h>

// A 64-bit hash of the hyperparameters, of the names, types, shapes and sizes of all tensors, and of 4 KiB at
// each of 64 places spread over their data. It is the same for a model in one file and in several parts. Two
// models that differ only in bytes between those places get the same: an edit of one expert may go unseen, a
// fine-tune or another quantisation does not. Reads 256 KiB; fails where the files cannot be read.
int fingerprint_model(uint64_t *out, const struct gguf *gguf, struct lode_error *error);

#endif
