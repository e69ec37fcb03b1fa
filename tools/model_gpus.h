// The GPUs of a run: --devices, --vram, --placement, --timeline, what they mean on this machine, and which of
// the GPUs that a profile knows they are.
#ifndef LODE_TOOLS_MODEL_GPUS_H
#define LODE_TOOLS_MODEL_GPUS_H

#include "core/lode.h"
#include "tools/options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine_profile;
struct model_options;

enum model_placement { MODEL_PLACEMENT_AUTO, MODEL_PLACEMENT_BY_LAYER };

extern const char *const model_placement_choices[]; // in the order of the enum

// Less is a slip of the hand: eight bytes instead of eight gigabytes.
#define MODEL_LEAST_VRAM_BYTES (1 << 20)

// Part of struct model_options; starts as {0}.
struct model_gpus {
    const char *devices, *timeline; // NULL: not given
    uint64_t vram_bytes;            // 0: not given
    int placement;

    // Set by model_gpus_find, in the order of the engine.
    bool found;
    size_t n;
    struct lode_device_info info[LODE_PLAN_GPUS];
};

// Entries of an option table, and their line in the help; `g` is a struct model_gpus. The first for commands
// that have no one run to draw a timeline of.
#define MODEL_DEVICE_OPTIONS(g)                                                                              \
    {.name = "devices", .kind = OPTION_CALL, .target = &(g), .parse = model_gpus_parse},                     \
        OPTION_IS_BYTES("vram", &(g).vram_bytes, MODEL_LEAST_VRAM_BYTES),                                    \
        OPTION_IS_CHOICE("placement", &(g).placement, model_placement_choices)
#define MODEL_GPU_OPTIONS(g) MODEL_DEVICE_OPTIONS(g), OPTION_IS_TEXT("timeline", 0, &(g).timeline)
#define MODEL_DEVICE_USAGE "  --devices cuda0,cpu|…  (lode devices)  --vram SIZE  --placement auto|by-layer\n"
#define MODEL_GPU_USAGE                                                                                      \
    "  --devices cuda0,cpu|…  (lode devices)  --vram SIZE  --placement auto|by-layer  --timeline FILE\n"

// An option table's parse function, into a struct model_gpus: refuses what is no list of devices. One that
// cannot be used is told by model_gpus_check.
bool model_gpus_parse(void *target, const char *value, char *reason, size_t capacity);

// Whether the command line says anything about GPUs.
bool model_gpus_are_given(const struct model_gpus *gpus);

// Finds out which GPUs the run has, once. Fails where the list is wrong or a device cannot be used.
int model_gpus_find(struct model_gpus *gpus, struct lode_error *error);

// Before anything long begins: finds what was named, and refuses what could not act, as a ceiling for GPUs
// that are not there, or a timeline that cannot be written.
int model_gpus_check(struct model_gpus *gpus, struct lode_error *error);

// Whether a list of devices was given that names GPUs but not the CPU, which computes too.
bool model_gpus_omit_cpu(const struct model_gpus *gpus);

// The GPUs of the run, once they are found, by name and card: "cuda0 NVIDIA GeForce RTX 4060, hip0 …" in
// plain characters; empty without GPUs. What does not fit is left out.
void model_gpus_describe(char *out, size_t capacity, const struct model_gpus *gpus);

// The GPUs of the run in a profile, [gpus->n] indices of its list. A card is known by its name and the kind
// of its kernels; of equal ones each is another. LODE_ERR_ARGUMENT names one that the profile does not know.
int model_gpus_match(uint32_t *out_index, const struct model_gpus *gpus,
                     const struct machine_profile *profile, struct lode_error *error);

#endif
