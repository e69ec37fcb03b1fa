#include "tools/xdg_dir.h"

#include <stdio.h>
#include <stdlib.h>

static bool place(char *buffer, size_t capacity, const char *root, const char *below, const char *name)
{
    if (!root || root[0] != '/')
        return false;
    const int len = snprintf(buffer, capacity, "%s%s/lode/%s", root, below, name);
    return len > 0 && (size_t)len < capacity;
}

bool xdg_dir_path(char *buffer, size_t capacity, const char *variable, const char *below_home,
                  const char *name)
{
    char below[64];
    snprintf(below, sizeof below, "/%s", below_home);
    return place(buffer, capacity, getenv(variable), "", name) ||
           place(buffer, capacity, getenv("HOME"), below, name);
}
