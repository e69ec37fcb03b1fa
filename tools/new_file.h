// A file that is there wholly or not at all: it is written under a temporary name beside its own.
#ifndef LODE_TOOLS_NEW_FILE_H
#define LODE_TOOLS_NEW_FILE_H

#include "core/lode.h"

#include <limits.h>
#include <stdio.h>

struct new_file {
    FILE *stream;
    char path[PATH_MAX],
        temporary[PATH_MAX]; // temporary is empty for what is no regular file, as /dev/stdout
};

// A link is followed. After a failure there is nothing to close.
int new_file_open(struct new_file *out, const char *path, struct lode_error *error);

// Closes the stream and gives the file its name, or removes it when not all could be written, which fails
// with LODE_ERR_IO.
int new_file_close(struct new_file *file, struct lode_error *error);

void new_file_discard(struct new_file *file); // closes and removes it

#endif
