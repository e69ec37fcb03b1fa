// See laboratory.h.
#include "bench/laboratory.h"
#include "bench/words.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Set by a signal.
static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

void lab_catch_signals(void)
{
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
}

bool lab_stopped(void)
{
    return stopped;
}

bool lab_wants(const struct lab_options *options, const char *line)
{
    return !stopped && (!options->filter || words_match(line, options->filter));
}

void lab_die(const struct lab_program *program, const char *text)
{
    fprintf(stderr, "%s: %s\n", program->name, text);
    exit(1);
}

void lab_refuse(const struct lab_program *program, const char *option, const char *value)
{
    fprintf(stderr, "%s: --%s %s: must be a number above 0\n", program->name, option, value);
    exit(2);
}

void lab_say_no_cell(const struct lab_program *program)
{
    fprintf(stderr, "%s: no cell has all the words of the filter; --list says what there is\n",
            program->name);
}

void lab_say_unwritten(const struct lab_program *program, const char *path)
{
    fprintf(stderr, "%s: cannot write %s: %s\n", program->name, path, strerror(errno));
}

static double parse_seconds(const struct lab_program *program, const char *text)
{
    char *rest;
    const double seconds = strtod(text, &rest);
    if (*rest || !(seconds > 0))
        lab_refuse(program, "seconds", text);
    return seconds;
}

struct lab_options lab_parse(const struct lab_program *program, int n_args, char **args, double cell_seconds,
                             void *user)
{
    struct lab_options options = {.cell_seconds = cell_seconds};
    for (int c; (c = getopt_long(n_args, args, "", program->options, NULL)) != -1;)
        switch (c) {
        case 'f':
            options.filter = optarg;
            break;
        case 's':
            options.cell_seconds = parse_seconds(program, optarg);
            break;
        case 'j':
            options.json_path = optarg;
            break;
        case 'l':
            options.list = true;
            break;
        case 'h':
            fputs(program->usage, stdout);
            exit(0);
        case '?':
            fputs(program->usage, stderr);
            exit(2);
        default:
            program->take(program, user, c, optarg);
        }
    if (optind < n_args) {
        fputs(program->usage, stderr);
        exit(2);
    }
    return options;
}
