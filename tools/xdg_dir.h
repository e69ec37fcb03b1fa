// Where the XDG base directory specification has programs keep their files.
#ifndef LODE_TOOLS_XDG_DIR_H
#define LODE_TOOLS_XDG_DIR_H

#include <stdbool.h>
#include <stddef.h>

// Writes $VARIABLE/lode/NAME, or ~/BELOW_HOME/lode/NAME where the variable is unset or relative, which the
// specification wants to be ignored. False when there is neither, or no room. Nothing is made.
bool xdg_dir_path(char *buffer, size_t capacity, const char *variable, const char *below_home,
                  const char *name);

#endif
