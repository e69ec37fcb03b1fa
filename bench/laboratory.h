// What the laboratories' programs share: the options that choose cells, what ends a program early, and its
// words on standard error.
#ifndef LODE_BENCH_LABORATORY_H
#define LODE_BENCH_LABORATORY_H

#include <getopt.h>
#include <stdbool.h>

struct lab_options {
    const char *filter, *json_path; // of the command line; NULL where they were not given
    double cell_seconds;            // above 0
    bool list;
};

// The end of a program's table of options; the letters are taken.
#define LAB_OPTIONS                                                                                          \
    {"filter", required_argument, NULL, 'f'}, {"seconds", required_argument, NULL, 's'},                     \
        {"json", required_argument, NULL, 'j'}, {"list", no_argument, NULL, 'l'},                            \
        {"help", no_argument, NULL, 'h'},                                                                    \
    {                                                                                                        \
        0                                                                                                    \
    }

struct lab_program {
    const char *name;             // in what it says
    const char *usage;            // the whole text
    const struct option *options; // its own, then LAB_OPTIONS
    // Takes one of its own; user is that of lab_parse.
    void (*take)(const struct lab_program *program, void *user, int letter, const char *value);
};

// Ends the program where it is asked for help (0) or the command line is wrong (2). cell_seconds: unless
// told.
struct lab_options lab_parse(const struct lab_program *program, int n_args, char **args, double cell_seconds,
                             void *user);
// Ends the program: the value of --option must be a number above 0.
void lab_refuse(const struct lab_program *program, const char *option, const char *value)
    __attribute__((noreturn));
// Ends the program with 1.
void lab_die(const struct lab_program *program, const char *text) __attribute__((noreturn));

// What goes wrong without ending the program, in words: no cell is wanted; errno tells why a file was not
// written.
void lab_say_no_cell(const struct lab_program *program);
void lab_say_unwritten(const struct lab_program *program, const char *path);

// From the first call on SIGINT and SIGTERM only stop the measuring: what has been measured is printed, the
// rest left out.
void lab_catch_signals(void);
bool lab_stopped(void);

// Whether a cell with this line is to be measured: it has the filter's words, and nobody has stopped it.
bool lab_wants(const struct lab_options *options, const char *line);

#endif
