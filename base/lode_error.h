// How a failure is told: a code for the program, a sentence for the person.
//
// Every function of Lode that can fail returns 0 or one of the negative codes below and fills the caller's
// struct lode_error: what failed, on which file, unit or device, and what to do about it. Only tools print
// it.
#ifndef LODE_ERROR_H
#define LODE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

enum lode_code {
    LODE_OK = 0,
    LODE_ERR_ARGUMENT = -1,    // the caller asked for something that makes no sense, or that does not exist
    LODE_ERR_IO = -2,          // a file could not be opened, read or written
    LODE_ERR_FORMAT = -3,      // a file's content is broken or not what it claims to be
    LODE_ERR_UNSUPPORTED = -4, // well-formed, but not something this program can run
    LODE_ERR_MEMORY = -5,      // an allocation failed, or would exceed what the machine or the budget has
    LODE_ERR_CONTEXT = -6,     // the context is full, or asked for beyond the model's limit
    LODE_ERR_CANCELLED = -7,   // the caller's callback asked to stop
};

struct lode_error {
    int code;
    char text[1024];
};

// Fills *error (which may be NULL) with a code and a formatted text; returns the code, so that a failing
// function can end in `return lode_fail(error, LODE_ERR_IO, "…")`. The first text of a chain is kept by not
// calling it twice.
int lode_fail(struct lode_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "context: " in front of a text that a callee has already filled; returns the error's code.
int lode_fail_in(struct lode_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
