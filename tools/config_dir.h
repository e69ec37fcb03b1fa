// Where lode keeps what it knows of this machine: $XDG_CONFIG_HOME/lode, or ~/.config/lode.
#ifndef LODE_TOOLS_CONFIG_DIR_H
#define LODE_TOOLS_CONFIG_DIR_H

#include <stdbool.h>
#include <stddef.h>

// Writes the path of the machine profile. False when there is none, neither variable being an absolute path.
// Nothing is made and nothing is said.
bool config_dir_profile(char *buffer, size_t capacity);

#endif
