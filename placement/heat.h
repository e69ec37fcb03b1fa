// Heat: how often each unit of a pool was chosen, kept from run to run in a file of its own per model.
//
// In memory it is the mean over the tokens seen, and from HEAT_TOKENS on a decayed one: after each pass of n
// tokens a unit's heat moves by the share n / HEAT_TOKENS towards the choices a token of that pass. On the
// disk it is a small binary file that is written to a temporary name and renamed, so that a reader sees the
// old or the new one. A writer that is killed leaves the temporary file, which the next write to the same
// model takes over.
#ifndef LODE_HEAT_H
#define LODE_HEAT_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The memory of the mean: several conversations. In a replay, the heat of six conversations on different
// topics served a seventh better by half a point of hits than that of one as long as the six.
#define HEAT_TOKENS 16384

struct heat {
    uint32_t n_layers, n_units; // n_units / n_layers units a layer
    uint64_t fingerprint;       // of the model
    uint64_t n_tokens;          // seen in all runs
    uint64_t *layer_tokens;     // [n_layers] of these, at most n_tokens
    float *mean;                // [n_units] choices a token that reached the layer, 0..1
    uint32_t *counted;          // [n_units] choices in the pass that runs
};

// All means are 0. n_units must be a multiple of n_layers, both above 0.
int heat_open(struct heat *out, uint32_t n_layers, uint32_t n_units, uint64_t fingerprint,
              struct lode_error *error);
void heat_close(struct heat *heat);

// The unit was chosen for n_tokens of the pass that runs.
void heat_count(struct heat *heat, uint32_t unit, uint32_t n_tokens);

// A layer without choices, or with fewer than another, has seen fewer of the n tokens.
void heat_pass_end(struct heat *heat, uint32_t n_tokens);

// Writes "DIR/<fingerprint>.heat" to the buffer; false when it is too small.
bool heat_file_path(char *buffer, size_t capacity, const char *dir, uint64_t fingerprint);

// Takes over the means of a file. One that is not there is no error: *heat stays as it is. A broken file
// (LODE_ERR_FORMAT), or one of another model or shape (LODE_ERR_ARGUMENT), fails with a text that says what
// is wrong, and leaves *heat as it was.
int heat_read(struct heat *heat, const char *path, struct lode_error *error);

// Makes the directory when it is missing. When another process writes this file at the same moment, that one
// wins.
int heat_write(const struct heat *heat, const char *path, struct lode_error *error);

// For `lode heat`: reads a file without knowing the model; heat_close frees it. Of a file that is not there
// *out is all zero.
int heat_inspect(struct heat *out, const char *path, struct lode_error *error);

// Removes the file and what a killed writer left of it. *out_removed: there was one.
int heat_remove(bool *out_removed, const char *path, struct lode_error *error);

#endif
