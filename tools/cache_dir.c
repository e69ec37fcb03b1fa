// The only place that reads XDG_CACHE_HOME. The XDG specification wants relative paths to be ignored.
#include "tools/cache_dir.h"

#include "tools/message.h"

#include <stdio.h>
#include <stdlib.h>

static bool place(char *buffer, size_t capacity, const char *root, const char *below)
{
    if (!root || root[0] != '/')
        return false;
    int len = snprintf(buffer, capacity, "%s%s/lode/heat", root, below);
    return len > 0 && (size_t)len < capacity;
}

bool cache_dir_heat(char *buffer, size_t capacity)
{
    static bool told;
    if (place(buffer, capacity, getenv("XDG_CACHE_HOME"), "") ||
        place(buffer, capacity, getenv("HOME"), "/.cache"))
        return true;
    if (!told)
        message_note("lode", "the use of experts is not remembered: neither XDG_CACHE_HOME nor HOME is an "
                             "absolute path");
    told = true;
    return false;
}
