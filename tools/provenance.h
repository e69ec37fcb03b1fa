// Where a result comes from: the program, the model, the machine, the drive and how it was measured. What a
// result needs to be made again, or to be doubted.
#ifndef LODE_TOOLS_PROVENANCE_H
#define LODE_TOOLS_PROVENANCE_H

#include "core/lode.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// The read-ahead that kernels set for an ordinary drive; what maps its weights lives by it.
#define PROVENANCE_USUAL_READ_AHEAD_KB 128

struct provenance_drive {
    char device[64], name[96]; // "nvme0n1"; empty where it is not known
    bool has_temperature, has_read_ahead;
    double temperature_c; // as it says itself
    uint32_t read_ahead_kb;
};

struct provenance {
    char date[32];                   // ISO 8601, UTC
    char model[256];                 // the file's name, without its folder
    uint64_t fingerprint, plan_hash; // plan_hash 0: not known
    char machine[96];                // of the profile that is kept; empty: none
    char machine_source[160];        // where that is from, or why there is none
    char cpu[96], kernel[256];
    struct provenance_drive drive;
    uint32_t repeats;
    char order[64];     // how the runs took turns
    char settings[512]; // words key=value
};

// What can be looked up about this machine and the model at `path`. Reads 256 KiB of the model. What cannot
// be found out stays empty; fails only where the model cannot be read or for want of memory.
int provenance_open(struct provenance *out, const char *path, struct lode_error *error);

// Temperature and read-ahead of a block device, from the tree at `sys` ("/sys").
void provenance_drive_read(struct provenance_drive *drive, const char *sys);

const char *provenance_commit(void); // "51f4970", "51f4970-dirty"

// Six lines, for people.
void provenance_print(FILE *stream, const struct provenance *provenance);

// An object with all of it; NULL only for want of memory.
json_t *provenance_json(const struct provenance *provenance);

#endif
