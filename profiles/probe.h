// Measures a machine with the program's own kernels and reads, into a machine profile.
//
// Order: what the machine is; the drive under a path; memory by threads; then the kernels of the CPU on one
// block of memory that is larger than the caches; the CPU and the drive at the same time; at last one GPU
// after the other, with the same shapes: copies within its memory, kernels, the link. Of a GPU many calls are
// made before it is waited for once: what counts is its time, not that of the first answer. Every
// figure is the median of repeats, with its spread; kernels are measured in two rounds (three in the thorough
// mode, one in the quick one), whose mean counts, or the faster one where they are far apart: what disturbs a
// measurement only slows it. Where time runs out, curves end early; nothing is guessed.
#ifndef LODE_PROBE_H
#define LODE_PROBE_H

#include "backends/gpu/gpu_backend.h"
#include "profiles/machine_profile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum probe_mode { PROBE_QUICK, PROBE_FULL, PROBE_THOROUGH };

// A GPU to be measured: open, and used by nothing else meanwhile.
struct probe_gpu {
    struct lode_device *device; // the caller's
    struct lode_gpu about;      // as its backend describes it
    char backend[16];           // "cuda", "hip", "simt"
};

struct probe_options {
    enum probe_mode mode;
    uint32_t threads; // 0: as many as an engine takes
    const char *isa;  // NULL: the best
    // NULL: no drive is measured. A folder: a nameless file is made in it, which ends with the process. A
    // file: it is read itself if it is large enough, else a nameless file beside it; it is never written.
    const char *drive_path;
    const struct probe_gpu *gpus; // [n_gpus], the caller's; at most PROFILE_GPUS
    uint32_t n_gpus;
    // 0: by the mode (9, 54 or 280 seconds and a quarter of it for each GPU), and a quarter of the memory
    // that is available. Of a GPU it is always a quarter of what is free there.
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
// see beyond the caches, LODE_ERR_IO when the drive fails, and with what a GPU fails with. The result passes
// machine_profile_check; with a GPU that is executed on the CPU its source says so.
int probe_machine(struct machine_profile *out, const struct probe_options *options, struct lode_error *error);

// Only what the machine is: names, cores, memory, its GPUs that can be used (options->gpus is not looked at),
// fingerprint. Takes milliseconds, and where there is a GPU as long as its driver takes to answer.
int probe_discover(struct machine_profile *out, const struct probe_options *options,
                   struct lode_error *error);

// Whether a profile was measured on this machine as it is now: the same processor, cores, memory, kernels,
// drive and GPUs. If not, `why` says what differs.
int probe_recognise(bool *out_same, char *why, size_t capacity, const struct machine_profile *profile,
                    struct lode_error *error);

// Of the names and sizes in a profile: 16 hexadecimal digits.
void probe_fingerprint(char out[17], const struct machine_profile *profile);

// ---- the GPUs of this machine

struct probe_gpus;

// Opens GPUs by their names with commas between them ("cuda0,cpu"; "cpu" is none). NULL: all that can be
// used; one that executes on the CPU is opened only by its name. Fails for a name that cannot be used, and
// for more than PROFILE_GPUS.
int probe_gpus_open(struct probe_gpus **out, const char *names, struct lode_error *error);
void probe_gpus_close(struct probe_gpus *gpus); // NULL is nothing

// Valid until they are closed.
const struct probe_gpu *probe_gpus_list(const struct probe_gpus *gpus, uint32_t *out_n);

// Whether these are the GPUs of this machine, as a profile must have them that is kept as the machine's. If
// not, `why` names the one that is left out, or that is none.
bool probe_gpus_are_all(const struct probe_gpus *gpus, char *why, size_t capacity);

#endif
