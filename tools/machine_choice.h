// The machine that --machine names: a file, a sample, a few words, or without a name this one as it was
// measured.
#ifndef LODE_TOOLS_MACHINE_CHOICE_H
#define LODE_TOOLS_MACHINE_CHOICE_H

#include "tools/machine.h"

// Starts as {0}; released by machine_choice_close.
struct machine_choice {
    struct machine_profile *profile;
    char source[64];              // "measured 2026-11-20T18:01:02Z", "a sample", "in words"
    char path[MACHINE_PATH_SIZE]; // of its file; empty where there is none
};

// `which` may be NULL. `model_path` (may be NULL) says which drive of this machine counts. What is wrong is
// told in the name of `command`; returns the exit code.
int machine_choice_open(struct machine_choice *out, const char *which, const char *model_path,
                        const char *command);
void machine_choice_close(struct machine_choice *choice);

// The file of a sample machine. What is wrong is told in the name of `command`; returns the exit code.
int machine_sample_find(char path[MACHINE_PATH_SIZE], const char *name, const char *command);

#endif
