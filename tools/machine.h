// This machine's profile: where it is kept, whether what is kept is of this machine and of the drive that the
// model lies on, measuring it, and what runs have taught about it.
#ifndef LODE_TOOLS_MACHINE_H
#define LODE_TOOLS_MACHINE_H

#include "profiles/learn.h"
#include "profiles/probe.h"

#include <stdbool.h>

enum { MACHINE_PATH_SIZE = 4096 };

enum machine_match {
    MACHINE_SAME,
    MACHINE_OTHER_DRIVE, // the same machine, but the drive of the model was not measured
    MACHINE_FOREIGN,     // something in it is not as it was
    MACHINE_DAMAGED,     // it cannot be read
    MACHINE_ABSENT,      // nothing is kept
};

// Starts as {0}; released by machine_close.
struct machine {
    char path[MACHINE_PATH_SIZE]; // where the profile is kept; empty: there is no place for it
    enum machine_match match;
    char why[1024]; // unless it is the same: what is not, a sentence without its end
    // Its first drive is that of the model. NULL where it is damaged or absent.
    struct machine_profile *profile;
    bool kept; // the profile is what lies at `path`
    int fd;    // of machine_file; valid where file[0]
    char file[40];
};

// Looks up what is kept at `path`, NULL: in the user's configuration, and compares it with this machine and,
// unless model_path is NULL, with the drive that the model lies on. Fails only for want of memory, or when
// the machine cannot be looked at.
int machine_open(struct machine *out, const char *path, const char *model_path, struct lode_error *error);
void machine_close(struct machine *machine);

// A file with the profile for lode_plan_options, as long as the machine is open: with the drive of the model
// alone, or without any.
int machine_file(struct machine *machine, bool with_drive, struct lode_error *error);

// The same with these of the profile's GPUs alone, in this order, each with so much memory as is free there.
int machine_file_with(struct machine *machine, bool with_drive, const uint32_t *gpus,
                      const uint64_t *free_bytes, uint32_t n_gpus, struct lode_error *error);

// Measures, with a progress bar and with notes in the name of `command`; what `options` says of listeners is
// replaced. The GPUs are those of the options.
int machine_measure(struct machine_profile *out, const char *command, const struct probe_options *options,
                    struct lode_error *error);

// The same with all GPUs that can be used, for what is not the same: of a machine whose drive alone was not
// measured, the measurement of the rest stays where it was the more thorough one, and the other drives stay
// in any case.
int machine_refresh(struct machine *machine, const char *command, const struct probe_options *options,
                    struct lode_error *error);

// Writes the profile to where it is kept.
int machine_keep(struct machine *machine, struct lode_error *error);

// Takes in what a run has taught. The file is read anew, for another run may have taught it something
// meanwhile; where it is no longer the profile that was opened, nothing happens.
int machine_learn(struct machine *machine, const struct learn_sample *sample, struct lode_error *error);

// Forgets what runs have taught the profile at a path; *out_forgotten says whether there was anything.
int machine_forget_learned(bool *out_forgotten, const char *path, struct lode_error *error);

#endif
