// Settings that `lode tune` found to be the best for a model on this machine, kept from run to run.
//
// They are kept for one model, one machine, one ceiling of memory, and the GPUs, their ceiling and the
// placement: any of these different, and they say nothing.
#ifndef LODE_TOOLS_TUNED_H
#define LODE_TOOLS_TUNED_H

#include "core/lode.h"

#include <stdbool.h>
#include <stdint.h>

struct model_options;

enum { TUNED_PATH_SIZE = 4096, TUNED_DEVICES_SIZE = 512 };

// 0, or an empty text: left as it is by default.
struct tuned {
    uint64_t ram_bytes; // the ceiling that was tuned under, as --ram told it
    // The GPUs that were tuned with (model_gpus_describe), empty: none; their ceiling as --vram told it; and
    // whether with --placement by-layer.
    char devices[TUNED_DEVICES_SIZE];
    uint64_t vram_bytes;
    bool by_layer;
    uint32_t threads, batch, queue_depth, prefetch_ranks;
    uint64_t ring_bytes;
    bool no_prefetch;
    char policy[32];
    double decode_gain, prefill_gain; // over the defaults, 1.08: 8% faster
    char made[32];                    // ISO 8601, UTC
};

// The stored settings of a model file. Of `options` path, ram_bytes and the GPUs count, which have been found
// (model_gpus_find). *out_found is false where there are none, or none for these. A file that is damaged is
// an error that names it and the field.
int tuned_read(struct tuned *out, bool *out_found, const struct model_options *options,
               struct lode_error *error);
// Writes the settings of `tuned`; what they are of is as the options have it.
int tuned_write(const struct tuned *tuned, const struct model_options *options, struct lode_error *error);
int tuned_remove(bool *out_removed, const struct model_options *options, struct lode_error *error);

// Where they are kept: $XDG_CONFIG_HOME/lode/tuned/MACHINE-MODEL-CEILING.json, with GPUs
// MACHINE-MODEL-CEILING-GPUS.json. With another suffix, what else is kept of the same. Reads samples of the
// model.
int tuned_path(char out[TUNED_PATH_SIZE], const struct model_options *options, const char *suffix,
               struct lode_error *error);

// Fills in what the command line left open, and tells so in a note. Damaged settings are told and left out.
// With --cold nothing is looked for. options->path is set already; finds the GPUs.
void tuned_apply(struct model_options *options, const char *command);

#endif
