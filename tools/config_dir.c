// The only place that reads XDG_CONFIG_HOME. The XDG specification wants relative paths to be ignored.
#include "tools/config_dir.h"

#include <stdio.h>
#include <stdlib.h>

static bool place(char *buffer, size_t capacity, const char *root, const char *below)
{
    if (!root || root[0] != '/')
        return false;
    int len = snprintf(buffer, capacity, "%s%s/lode/machine.json", root, below);
    return len > 0 && (size_t)len < capacity;
}

bool config_dir_profile(char *buffer, size_t capacity)
{
    return place(buffer, capacity, getenv("XDG_CONFIG_HOME"), "") ||
           place(buffer, capacity, getenv("HOME"), "/.config");
}
