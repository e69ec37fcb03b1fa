// What the command says to the person, all of it on stderr, and the exit codes that go with it.
//
// Every line begins with the command ("lode run: …"), so that it can be told apart in a pipeline of several
// programs.
#ifndef LODE_TOOLS_MESSAGE_H
#define LODE_TOOLS_MESSAGE_H

#include "core/lode.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,        // something went wrong at run time
    EXIT_USAGE = 2,         // the command line makes no sense
    EXIT_INTERRUPTED = 130, // as a shell reports SIGINT
    EXIT_TERMINATED = 143,  // as a shell reports SIGTERM
};

void message_note(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Prints the error and returns the exit code that belongs to it.
int message_failed(const char *command, const struct lode_error *error);

// Prints what is wrong with the command line and where the help is; returns EXIT_USAGE.
int message_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
