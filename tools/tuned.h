// Settings that `lode tune` found to be the best for a model on this machine, kept from run to run.
//
// They are kept for one model, one machine and one ceiling of memory: any of these different, and they say
// nothing.
#ifndef LODE_TOOLS_TUNED_H
#define LODE_TOOLS_TUNED_H

#include "core/lode.h"

#include <stdbool.h>
#include <stdint.h>

struct model_options;

// 0, or an empty text: left as it is by default.
struct tuned {
    uint64_t ram_bytes; // the ceiling that was tuned under, as --ram told it
    uint32_t threads, batch, queue_depth, prefetch_ranks;
    uint64_t ring_bytes;
    bool no_prefetch;
    char policy[32];
    double decode_gain, prefill_gain; // over the defaults, 1.08: 8% faster
    char made[32];                    // ISO 8601, UTC
};

// The stored settings of a model file. *out_found is false where there are none, or none for this machine and
// ceiling. A file that is damaged is an error that names it and the field.
int tuned_read(struct tuned *out, bool *out_found, const char *model_path, uint64_t ram_bytes,
               struct lode_error *error);
int tuned_write(const struct tuned *tuned, const char *model_path, struct lode_error *error);
int tuned_remove(bool *out_removed, const char *model_path, uint64_t ram_bytes, struct lode_error *error);

enum { TUNED_PATH_SIZE = 4096 };

// Where they are kept: $XDG_CONFIG_HOME/lode/tuned/MACHINE-MODEL-CEILING.json. With another suffix, what else
// is kept of the same. Reads samples of the model.
int tuned_path(char out[TUNED_PATH_SIZE], const char *model_path, uint64_t ram_bytes, const char *suffix,
               struct lode_error *error);

// Fills in what the command line left open, and tells so in a note. Damaged settings are told and left out.
// With --cold, or where the command line names devices, nothing is looked for. options->path is set already.
void tuned_apply(struct model_options *options, const char *command);

#endif
