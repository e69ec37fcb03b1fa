// Measures a machine with the program's own kernels and reads, into a machine profile.
//
// Order: what the machine is; the drive under a path; memory by threads; then the kernels of the CPU on one
// block of memory that is larger than the caches; at last the CPU and the drive at the same time. Every
// figure is the median of repeats, with its spread; kernels are measured in two rounds (three in the thorough
// mode, one in the quick one), whose mean counts, or the faster one where they are far apart: what disturbs a
// measurement only slows it. Where time runs out, curves end early; nothing is guessed.
#ifndef LODE_PROBE_H
#define LODE_PROBE_H

#include "profiles/machine_profile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum probe_mode { PROBE_QUICK, PROBE_FULL, PROBE_THOROUGH };

struct probe_options {
    enum probe_mode mode;
    uint32_t threads; // 0: as many as an engine takes
    const char *isa;  // NULL: the best
    // NULL: no drive is measured. A folder: a nameless file is made in it, which ends with the process. A
    // file: it is read itself if it is large enough, else a nameless file beside it; it is never written.
    const char *drive_path;
    // 0: by the mode, and a quarter of the memory that is available.
    double seconds;
    uint64_t memory_bytes, file_bytes;
    // Called a few times a second with the milliseconds that have passed and that it shall take; false: stop.
    // May be NULL.
    bool (*on_progress)(void *user, const char *what, uint64_t done, uint64_t total);
    // Told of what could not be measured, and why. May be NULL.
    void (*on_note)(void *user, const char *text);
    void *user;
};

// Fails with LODE_ERR_CANCELLED when on_progress says so, LODE_ERR_MEMORY where there is too little memory to
// see beyond the caches, LODE_ERR_IO when the drive fails. The result passes machine_profile_check.
int probe_machine(struct machine_profile *out, const struct probe_options *options, struct lode_error *error);

// Only what the machine is: names, cores, memory, fingerprint. Takes milliseconds.
int probe_discover(struct machine_profile *out, const struct probe_options *options,
                   struct lode_error *error);

// Whether a profile was measured on this machine as it is now: the same processor, cores, memory, kernels and
// drive. If not, `why` says what differs.
int probe_recognise(bool *out_same, char *why, size_t capacity, const struct machine_profile *profile,
                    struct lode_error *error);

// Of the names and sizes in a profile: 16 hexadecimal digits.
void probe_fingerprint(char out[17], const struct machine_profile *profile);

#endif
