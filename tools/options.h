// One parser for the options of all subcommands: a table says what there is, the parser checks and stores it.
//
// Long options take `--name=value` or `--name value`, short ones `-nvalue` or `-n value`; `--` ends the
// options. Options and operands may be mixed. The last of several equal options wins, but for those that
// collect.
#ifndef LODE_TOOLS_OPTIONS_H
#define LODE_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,   // target: bool
    OPTION_TEXT,   // target: const char *
    OPTION_COUNT,  // target: uint32_t, in [min, max]; a suffix K or M multiplies by 2^10 or 2^20
    OPTION_SEED,   // target: uint64_t, in [0, 2^63)
    OPTION_NUMBER, // target: float, in [min, max]
    OPTION_BYTES, // target: uint64_t, at least `min`: 8G, 8.5GiB, 800M, plain bytes (K to T, binary); auto is
                  // 0
    OPTION_CHOICE, // target: int, the index in `choices`
    OPTION_NAME,   // target: const char *, one of `name_at`, or a path; help lists them and ends the program
    OPTION_CALL,   // `parse` stores the value where it wants
};

struct option {
    const char *name; // without the dashes
    char letter;      // 0: there is only the long form
    enum option_kind kind;
    void *target;
    double min, max;
    const char *const *choices;                                     // ends with NULL
    const char *(*name_at)(size_t index, const char **out_summary); // NULL beyond the last
    const char *path_end; // OPTION_NAME: what has a '/' in it, or ends like this, is a path; NULL: no paths
    // Returns false and writes the reason, which follows "--name VALUE: ".
    bool (*parse)(void *target, const char *value, char *reason, size_t capacity);
    bool *given; // set when the option occurs; may be NULL
};

#define OPTION_IS_FLAG(long_name, short_name, pointer)                                                       \
    {                                                                                                        \
        .name = (long_name), .letter = (short_name), .kind = OPTION_FLAG, .target = (pointer)                \
    }
#define OPTION_IS_TEXT(long_name, short_name, pointer)                                                       \
    {                                                                                                        \
        .name = (long_name), .letter = (short_name), .kind = OPTION_TEXT, .target = (pointer)                \
    }
#define OPTION_IS_COUNT(long_name, short_name, pointer, low, high)                                           \
    {                                                                                                        \
        .name = (long_name), .letter = (short_name), .kind = OPTION_COUNT, .target = (pointer),              \
        .min = (low), .max = (high)                                                                          \
    }
#define OPTION_IS_NUMBER(long_name, pointer, low, high)                                                      \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_NUMBER, .target = (pointer), .min = (low), .max = (high)         \
    }
#define OPTION_IS_CHOICE(long_name, pointer, list)                                                           \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_CHOICE, .target = (pointer), .choices = (list)                   \
    }

#define OPTION_IS_BYTES(long_name, pointer, least)                                                           \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_BYTES, .target = (pointer), .min = (least)                       \
    }
#define OPTION_IS_NAME(long_name, pointer, names)                                                            \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_NAME, .target = (pointer), .name_at = (names)                    \
    }
#define OPTION_IS_PLUGIN(long_name, pointer, names, end)                                                     \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_NAME, .target = (pointer), .name_at = (names), .path_end = (end) \
    }

struct option_parser {
    const char *command; // "lode run", for messages
    const char *usage;   // what --help prints
    const struct option *options;
    size_t n_options;
    const char **operands; // filled in; more than max_operands is an error
    size_t max_operands, n_operands;
};

// Returns true when the command shall go on. False: help or a list was printed, or the command line is wrong,
// and *exit_code says with what to exit.
bool options_parse(struct option_parser *parser, int argc, char **argv, int *exit_code);

// A count with its suffix, as OPTION_COUNT takes it; false when it is none, or beyond 32 bits.
bool options_read_count(uint32_t *out, const char *text);

// The name that a misspelt word most likely meant, or NULL when none is near.
const char *options_closest(const char *word, const char *const *names, size_t count);

#endif
