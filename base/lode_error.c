#include "base/lode_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int lode_fail(struct lode_error *error, int code, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
        error->code = code;
    }
    return code;
}

int lode_fail_in(struct lode_error *error, const char *format, ...)
{
    if (!error)
        return LODE_ERR_ARGUMENT;
    char callee[sizeof error->text];
    memcpy(callee, error->text, sizeof callee);
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    size_t used = strlen(error->text);
    snprintf(error->text + used, sizeof error->text - used, ": %s", callee);
    return error->code;
}
