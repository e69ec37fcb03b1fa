// Notes, errors and usage errors of all subcommands, in one form.
#include "tools/message.h"

#include "tools/interrupt.h"

#include <stdarg.h>
#include <stdio.h>

static void message_print(const char *command, const char *format, va_list args)
{
    fprintf(stderr, "%s: ", command);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void message_note(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message_print(command, format, args);
    va_end(args);
}

int message_failed(const char *command, const struct lode_error *error)
{
    if (error->code == LODE_ERR_CANCELLED) {
        message_note(command, "interrupted");
        return interrupt_exit_code();
    }
    message_note(command, "%s", error->text);
    return EXIT_FAILED;
}

int message_usage(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    message_print(command, format, args);
    va_end(args);
    fprintf(stderr, "Try '%s --help'.\n", command);
    return EXIT_USAGE;
}
