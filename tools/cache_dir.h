// Where lode keeps what it could make again: $XDG_CACHE_HOME/lode, or ~/.cache/lode.
#ifndef LODE_TOOLS_CACHE_DIR_H
#define LODE_TOOLS_CACHE_DIR_H

#include <stdbool.h>
#include <stddef.h>

// Writes the folder of the heat files. False when there is none, neither variable being an absolute path,
// which a note on stderr tells the first time. Nothing is made.
bool cache_dir_heat(char *buffer, size_t capacity);

#endif
