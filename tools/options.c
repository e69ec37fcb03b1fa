// The parser over the tables of options.h. Values come from strangers: every number is checked to its last
// character and against its range before it is stored.
#include "tools/options.h"

#include "tools/message.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_WORD = 32, MAX_OPTIONS = 64 };
enum { LIST_PRINTED = -1 }; // in place of an exit code: all is well, but the command shall not run

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

// Levenshtein's distance, one row at a time. Longer words are no misspelling of ours.
static size_t edit_distance(const char *a, const char *b)
{
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a > LONGEST_WORD || n_b > LONGEST_WORD)
        return SIZE_MAX;
    size_t row[LONGEST_WORD + 1];
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t above = row[j];
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[n_b];
}

const char *options_closest(const char *word, const char *const *names, size_t count)
{
    const char *closest = NULL;
    size_t least = strlen(word) / 3 + 1; // a third of the letters may be wrong, and one more
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(word, names[i]);
        if (distance <= least && distance < strlen(names[i])) {
            closest = names[i];
            least = distance ? distance - 1 : 0;
        }
    }
    return closest;
}

// ---- values
// --------------------------------------------------------------------------------------------------

static bool value_wrong(char *reason, size_t capacity, const struct option *option)
{
    if (option->kind == OPTION_NUMBER)
        snprintf(reason, capacity, "must be a number between %g and %g", option->min, option->max);
    else
        snprintf(reason, capacity, "must be a whole number between %.0f and %.0f", option->min, option->max);
    return false;
}

// strtoull would take "-1" for 2^64 - 1.
static bool parse_digits(unsigned long long *out, const char *text, const char **end)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    *out = strtoull(text, (char **)end, 10);
    return errno == 0;
}

bool options_read_count(uint32_t *out, const char *text)
{
    unsigned long long value;
    const char *end;
    if (!parse_digits(&value, text, &end))
        return false;
    unsigned shift = 0;
    if (*end == 'K' || *end == 'k')
        shift = 10;
    else if (*end == 'M')
        shift = 20;
    end += shift > 0;
    if (*end || value > UINT32_MAX >> shift)
        return false;
    *out = (uint32_t)value << shift;
    return true;
}

static bool parse_count(const struct option *option, const char *text, char *reason, size_t capacity)
{
    uint32_t value;
    if (!options_read_count(&value, text) || (double)value < option->min || (double)value > option->max)
        return value_wrong(reason, capacity, option);
    *(uint32_t *)option->target = value;
    return true;
}

static bool parse_seed(const struct option *option, const char *text, char *reason, size_t capacity)
{
    unsigned long long value;
    const char *end;
    if (!parse_digits(&value, text, &end) || *end || value > INT64_MAX) {
        snprintf(reason, capacity, "must be a whole number between 0 and %lld", (long long)INT64_MAX);
        return false;
    }
    *(uint64_t *)option->target = value;
    return true;
}

static bool parse_number(const struct option *option, const char *text, char *reason, size_t capacity)
{
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end || !isfinite(value) || value < (float)option->min || value > (float)option->max)
        return value_wrong(reason, capacity, option);
    *(float *)option->target = value;
    return true;
}

// The power of two that a unit stands for; *text moves behind it. No GB: whether that is 10^9 or 2^30 would
// be a guess about a hard limit.
static unsigned unit_shift(const char **text)
{
    static const char letters[] = "KMGT";
    const char *letter = **text ? strchr(letters, toupper((unsigned char)**text)) : NULL;
    if (!letter)
        return 0;
    ++*text;
    if (strcmp(*text, "i") == 0 || strcmp(*text, "iB") == 0)
        *text += strlen(*text);
    return 10 * (unsigned)(letter - letters + 1);
}

static bool parse_fraction(double *out, const char **text)
{
    double place = 0.1;
    *out = 0;
    if (**text != '.')
        return true;
    const char *first = ++*text;
    for (; **text >= '0' && **text <= '9'; ++*text, place /= 10)
        *out += place * (**text - '0');
    return *text > first;
}

static bool parse_size(uint64_t *out, const char *text)
{
    unsigned long long whole;
    double fraction;
    const char *end;
    if (!parse_digits(&whole, text, &end) || !parse_fraction(&fraction, &end))
        return false;
    const bool has_fraction = strchr(text, '.') != NULL;
    const unsigned shift = unit_shift(&end);
    if (*end || (has_fraction && !shift) || whole >= (uint64_t)INT64_MAX >> shift)
        return false;
    *out = (whole << shift) + (uint64_t)ldexp(fraction, (int)shift);
    return true;
}

static bool parse_bytes(const struct option *option, const char *text, char *reason, size_t capacity)
{
    uint64_t *target = option->target, value;
    if (strcmp(text, "auto") == 0) {
        *target = 0;
        return true;
    }
    if (!parse_size(&value, text)) {
        snprintf(reason, capacity, "must be auto or a size in binary units, as 8G, 8.5GiB, 800M, or bytes");
        return false;
    }
    if ((double)value < option->min) {
        snprintf(reason, capacity, "must be at least %.0fM", ldexp(option->min, -20));
        return false;
    }
    *target = value;
    return true;
}

static bool parse_choice(const struct option *option, const char *text, char *reason, size_t capacity)
{
    size_t used = (size_t)snprintf(reason, capacity, "must be one of");
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *(int *)option->target = i;
            return true;
        }
        used += (size_t)snprintf(reason + used, capacity - used, "%s %s", i ? "," : "", option->choices[i]);
        if (used >= capacity)
            break;
    }
    return false;
}

static bool is_path(const char *text, const char *path_end)
{
    const size_t length = strlen(text), end = strlen(path_end);
    return strchr(text, '/') || (length > end && strcmp(text + length - end, path_end) == 0);
}

static bool parse_name(const struct option *option, const char *text, char *reason, size_t capacity)
{
    if (option->path_end && is_path(text, option->path_end)) {
        *(const char **)option->target = text;
        return true;
    }
    size_t used = (size_t)snprintf(reason, capacity, "must be one of");
    const char *name, *summary;
    for (size_t i = 0; (name = option->name_at(i, &summary)) && used < capacity; i++) {
        if (strcmp(name, text) == 0) {
            *(const char **)option->target = name;
            return true;
        }
        used += (size_t)snprintf(reason + used, capacity - used, "%s %s", i ? "," : "", name);
    }
    if (option->path_end && used < capacity)
        snprintf(reason + used, capacity - used, ", or a file ending in %s", option->path_end);
    return false;
}

static int print_names(const struct option *option)
{
    const char *name, *summary;
    int width = 0;
    for (size_t i = 0; (name = option->name_at(i, &summary)); i++)
        width = (int)strlen(name) > width ? (int)strlen(name) : width;
    for (size_t i = 0; (name = option->name_at(i, &summary)); i++)
        printf("%-*s  %s\n", width, name, summary);
    return LIST_PRINTED;
}

static bool store_value(const struct option *option, const char *value, char *reason, size_t capacity)
{
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)option->target = true;
        return true;
    case OPTION_TEXT:
        *(const char **)option->target = value;
        return true;
    case OPTION_COUNT:
        return parse_count(option, value, reason, capacity);
    case OPTION_SEED:
        return parse_seed(option, value, reason, capacity);
    case OPTION_NUMBER:
        return parse_number(option, value, reason, capacity);
    case OPTION_BYTES:
        return parse_bytes(option, value, reason, capacity);
    case OPTION_NAME:
        return parse_name(option, value, reason, capacity);
    case OPTION_CHOICE:
        return parse_choice(option, value, reason, capacity);
    case OPTION_CALL:
        return option->parse(option->target, value, reason, capacity);
    }
    return false;
}

// ---- the command line
// ----------------------------------------------------------------------------------------

static const struct option *find_long(const struct option_parser *parser, const char *name, size_t len)
{
    for (size_t i = 0; i < parser->n_options; i++)
        if (strlen(parser->options[i].name) == len && memcmp(parser->options[i].name, name, len) == 0)
            return &parser->options[i];
    return NULL;
}

static const struct option *find_short(const struct option_parser *parser, char letter)
{
    for (size_t i = 0; i < parser->n_options; i++)
        if (parser->options[i].letter == letter)
            return &parser->options[i];
    return NULL;
}

static int unknown_long(const struct option_parser *parser, const char *argument)
{
    const char *names[MAX_OPTIONS];
    size_t count = parser->n_options < MAX_OPTIONS ? parser->n_options : MAX_OPTIONS;
    for (size_t i = 0; i < count; i++)
        names[i] = parser->options[i].name;
    char word[LONGEST_WORD + 1];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
    const char *closest = options_closest(word, names, count);
    if (closest)
        return message_usage(parser->command, "unknown option '--%s'; did you mean '--%s'?", word, closest);
    return message_usage(parser->command, "unknown option '%s'", argument);
}

// How the person wrote the option is how the messages call it.
static int take_value(const struct option_parser *parser, const struct option *option, const char *spelling,
                      int spelling_len, const char *value)
{
    char reason[256] = "";
    if (option->kind == OPTION_NAME && strcmp(value, "help") == 0)
        return print_names(option);
    if (!store_value(option, value, reason, sizeof reason))
        return message_usage(parser->command, "%.*s '%s': %s", spelling_len, spelling, value, reason);
    if (option->given)
        *option->given = true;
    return EXIT_OK;
}

static int parse_long(const struct option_parser *parser, char **argv, int argc, int *index)
{
    const char *argument = argv[*index];
    size_t len = strcspn(argument + 2, "=");
    const char *value = argument[2 + len] ? argument + 3 + len : NULL;
    const struct option *option = find_long(parser, argument + 2, len);
    if (!option)
        return unknown_long(parser, argument);
    if (option->kind == OPTION_FLAG) {
        if (value)
            return message_usage(parser->command, "--%s takes no value", option->name);
    } else if (!value) {
        if (*index + 1 >= argc)
            return message_usage(parser->command, "--%s needs a value", option->name);
        value = argv[++*index];
    }
    return take_value(parser, option, argument, (int)len + 2, value);
}

// A cluster: "-xyz" are three flags, "-n5" is an option and its value.
static int parse_short(const struct option_parser *parser, char **argv, int argc, int *index)
{
    const char *cluster = argv[*index];
    for (const char *at = cluster + 1; *at; at++) {
        char spelling[3] = {'-', *at, 0};
        const struct option *option = find_short(parser, *at);
        if (!option)
            return message_usage(parser->command, "unknown option '%s' in '%s'", spelling, cluster);
        if (option->kind == OPTION_FLAG) {
            take_value(parser, option, spelling, 2, NULL);
            continue;
        }
        const char *value = at[1] ? at + 1 : NULL;
        if (!value && *index + 1 >= argc)
            return message_usage(parser->command, "%s needs a value", spelling);
        return take_value(parser, option, spelling, 2, value ? value : argv[++*index]);
    }
    return EXIT_OK;
}

static int take_operand(struct option_parser *parser, const char *operand)
{
    if (parser->n_operands == parser->max_operands)
        return message_usage(parser->command, "'%s' is one argument too many", operand);
    parser->operands[parser->n_operands++] = operand;
    return EXIT_OK;
}

bool options_parse(struct option_parser *parser, int argc, char **argv, int *exit_code)
{
    *exit_code = EXIT_OK;
    bool only_operands = false;
    for (int i = 1; i < argc && *exit_code == EXIT_OK; i++) {
        const char *argument = argv[i];
        if (only_operands || argument[0] != '-' || !argument[1])
            *exit_code = take_operand(parser, argument);
        else if (strcmp(argument, "--") == 0)
            only_operands = true;
        else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            fputs(parser->usage, stdout);
            return false;
        } else if (argument[1] == '-')
            *exit_code = parse_long(parser, argv, argc, &i);
        else
            *exit_code = parse_short(parser, argv, argc, &i);
    }
    if (*exit_code == LIST_PRINTED) {
        *exit_code = EXIT_OK;
        return false;
    }
    return *exit_code == EXIT_OK;
}
